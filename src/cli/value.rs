//! Checks of what is given on the command line, so far as they need no daemon.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use millrace_dataplane::wire::MacAddr;

use crate::admin::protocol::Failure;

/// Longest name of an interface, in bytes (`IFNAMSIZ` less the terminating zero, linux/if.h).
const INTERFACE_MAX_BYTES: usize = 15;

/// A pod: `NAMESPACE/POD`. The daemon checks the two names themselves.
pub(super) fn pod(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        _ => Err("a pod is named NAMESPACE/POD, such as default/web-0".to_owned()),
    }
}

/// A network: `NAMESPACE/NAME`. The daemon knows which there are.
pub(super) fn network(text: &str) -> Result<String, String> {
    pod(text).map_err(|_| "a network is named NAMESPACE/NAME, such as shop/blue".to_owned())
}

/// A station's MAC address.
pub(super) fn mac(text: &str) -> Result<String, Failure> {
    let mac: MacAddr = text
        .parse()
        .map_err(|_| Failure::wrong(format!("{text} is no MAC address, such as 02:00:00:00:00:01")))?;
    Ok(mac.to_string())
}

/// A pod, or the MAC address or IP address of a station.
pub(super) fn pod_or_station(text: &str) -> Result<String, String> {
    if text.parse::<MacAddr>().is_ok() || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    pod(text)
        .map_err(|reason| format!("{reason}; a station of a --network is 02:00:00:00:00:01 or 10.9.0.7, say"))
}

/// An address, with or without a port.
pub(super) fn address_and_port(text: &str) -> Result<(IpAddr, Option<u16>), Failure> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    let both = text.parse::<SocketAddr>();
    let both =
        both.map_err(|_| Failure::wrong(format!("{text} is neither IP nor IP:PORT, such as 10.9.0.7:80")))?;
    Ok((both.ip(), Some(both.port())))
}

/// A network namespace, as an absolute path: the daemon is another process, with another working directory.
pub(super) fn netns(text: &str) -> Result<PathBuf, String> {
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    let own = ["/proc/self", "/proc/thread-self"];
    if own.iter().any(|prefix| path.starts_with(Path::new(prefix))) {
        return Err("to the daemon this names its own namespace; give /proc/PID/ns/net".to_owned());
    }
    Ok(path)
}

/// The name of an interface, by the kernel's rule (`dev_valid_name`).
pub(super) fn interface(text: &str) -> Result<String, String> {
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty()
        || text.len() > INTERFACE_MAX_BYTES
        || text == "."
        || text == ".."
        || text.contains(odd)
    {
        return Err(format!(
            "an interface's name has 1 to {INTERFACE_MAX_BYTES} characters without space, `/` or `:`, such as eth0"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_a_namespace_and_a_name() {
        assert_eq!(pod("default/web-0"), Ok("default/web-0".to_owned()));
        for wrong in ["", "web-0", "/web-0", "default/", "a/b/c", "/"] {
            assert!(pod(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn who_sends_and_to_where_is_a_pod_or_a_station() {
        for right in ["default/a", "02:00:00:00:00:01", "10.9.0.7", "fd09::7"] {
            assert_eq!(pod_or_station(right), Ok(right.to_owned()));
        }
        assert!(pod_or_station("10.9.0.7:80").is_err());
        for (text, address, port) in [
            ("10.9.0.7", "10.9.0.7", None),
            ("10.9.0.7:80", "10.9.0.7", Some(80)),
            ("fd09::7", "fd09::7", None),
            ("[fd09::7]:80", "fd09::7", Some(80)),
        ] {
            let expected = address.parse::<IpAddr>().map(|address| (address, port)).ok();
            assert_eq!(address_and_port(text).ok(), expected, "{text}");
        }
        for wrong in ["", "10.9.0.7:x", "a/b:80", "10.9.0.7:65536"] {
            assert_eq!(
                address_and_port(wrong).map_err(|failure| failure.status),
                Err(2),
                "{wrong}"
            );
        }
    }

    #[test]
    fn namespaces_are_told_by_absolute_path() {
        assert_eq!(netns("/run/netns/a"), Ok(PathBuf::from("/run/netns/a")));
        assert!(netns("a").is_ok_and(|path| path.is_absolute() && path.ends_with("a")));
        for wrong in ["", "/proc/self/ns/net", "/proc/thread-self/ns/net"] {
            assert!(netns(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn interfaces_are_named_as_the_kernel_allows() {
        assert_eq!(interface("eth0"), Ok("eth0".to_owned()));
        assert!(interface("fifteen-letters").is_ok());
        for wrong in ["", ".", "..", "a b", "a/b", "a:1", "sixteen-letters-", "a\n"] {
            assert!(interface(wrong).is_err(), "{wrong:?}");
        }
    }
}
