//! Interface names: what the kernel takes, and the stable name of a pod's host-side interface.

use sha2::{Digest, Sha256};

use super::error::KernelError;

/// The longest interface name in bytes (`IFNAMSIZ` less the closing zero, `linux/if.h`).
pub(super) const INTERFACE_NAME_MAX_BYTES: usize = 15;

/// What every host-side interface of a pod starts with.
const POD_PREFIX: &str = "mr";

/// The name of a pod's host-side interface: `mr` and hexadecimal digits, as long as a name may be.
///
/// The digits are the start of SHA-256 of `namespace/pod`, so the name is the same after a restart and on
/// every machine, and a pod's owner cannot choose a pod name that takes another pod's interface (a `/` is in
/// neither part).
#[must_use]
pub fn pod_interface_name(namespace: &str, pod: &str) -> String {
    name_of(&format!("{namespace}/{pod}"))
}

/// As [`pod_interface_name`], for an interface of a pod beside its first, by its name inside the pod.
#[must_use]
pub fn member_interface_name(pod: &str, interface: &str) -> String {
    // A second slash is in no name of a first one.
    name_of(&format!("{pod}/{interface}"))
}

fn name_of(text: &str) -> String {
    use std::fmt::Write;
    let mut hash = Sha256::new();
    hash.update(text.as_bytes());
    let mut name = String::from(POD_PREFIX);
    for byte in hash.finalize() {
        // INVARIANT: writing to a String never fails.
        let _ = write!(name, "{byte:02x}");
    }
    name.truncate(INTERFACE_NAME_MAX_BYTES);
    name
}

/// Checks that the kernel would take this as an interface's name (`dev_valid_name` in `net/core/dev.c`), and
/// that it can be part of a `/proc/sys` path.
///
/// # Errors
/// [`KernelError::InvalidName`] with the reason.
pub fn check_interface_name(name: &str) -> Result<(), KernelError> {
    let invalid = |reason| {
        Err(KernelError::InvalidName {
            name: name.to_owned(),
            reason,
        })
    };
    if name.is_empty() {
        return invalid("it is empty");
    }
    if name.len() > INTERFACE_NAME_MAX_BYTES {
        return invalid("it is longer than the kernel takes (IFNAMSIZ)");
    }
    if name == "." || name == ".." {
        return invalid("it is a folder's name for itself or its parent");
    }
    if name
        .chars()
        .any(|c| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control())
    {
        return invalid("it has a '/', ':', '%', space or control character");
    }
    if name == "all" || name == "default" {
        return invalid("the kernel's settings use it for every interface");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn pod_names_are_stable_distinct_and_short() {
        assert_eq!(
            pod_interface_name("default", "web-0"),
            pod_interface_name("default", "web-0")
        );
        let names = [
            pod_interface_name("default", "web-0"),
            pod_interface_name("default", "web-1"),
            pod_interface_name("defaul", "tweb-0"),
            pod_interface_name("", "default/web-0"),
        ];
        for (index, name) in names.iter().enumerate() {
            assert_eq!(name.len(), INTERFACE_NAME_MAX_BYTES, "{name}");
            assert!(
                name.starts_with("mr") && name[2..].chars().all(|c| c.is_ascii_hexdigit()),
                "{name}"
            );
            assert!(check_interface_name(name).is_ok());
            assert!(!names[..index].contains(name), "{name} twice");
        }
        // The first digits of `printf default/web-0 | sha256sum`: a later version must find what this one
        // made.
        assert_eq!(pod_interface_name("default", "web-0"), "mr53842afe623a6");
    }

    #[test]
    fn names_the_kernel_would_refuse_are_refused() {
        for name in [
            "",
            "sixteen-letters-",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "eth%d",
            "a\tb",
            "all",
            "default",
        ] {
            assert!(check_interface_name(name).is_err(), "{name:?}");
        }
        for name in ["eth0", "fifteen-letters", "eth0.100", "mr0"] {
            assert!(check_interface_name(name).is_ok(), "{name:?}");
        }
    }
}
