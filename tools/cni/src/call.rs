//! What a runtime asks for in environment variables (CNI 1.1, section 2, "Parameters").

use std::path::PathBuf;

use crate::error::{CniError, INVALID_ENVIRONMENT};

/// Longest name of an interface, in bytes (`IFNAMSIZ` less the closing zero).
const INTERFACE_MAX_BYTES: usize = 15;
/// Longest container id, in bytes: what still fits a file's name together with network and interface.
const CONTAINER_MAX_BYTES: usize = 120;
/// The namespace under which a container goes that is no pod's.
const NO_PODS_NAMESPACE: &str = "cni";

/// The verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Give a container its interface.
    Add,
    /// Take it away.
    Del,
    /// See whether it is as it was made.
    Check,
    /// Take away what belongs to no container any more.
    Gc,
    /// Tell whether ADD would go well.
    Status,
    /// Tell which versions are spoken.
    Version,
}

impl Command {
    /// Its name in `CNI_COMMAND`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    const ALL: [Self; 6] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Gc,
        Self::Status,
        Self::Version,
    ];
}

/// A verb with what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The verb.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for verbs that are about no container.
    pub container: String,
    /// `CNI_IFNAME`; as above.
    pub interface: String,
    /// `CNI_NETNS`, where it is given.
    pub netns: Option<PathBuf>,
    /// The pod, `NAMESPACE/NAME`; as above.
    pub pod: String,
}

/// Gives the value of an environment variable.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Call {
    /// Reads the variables.
    ///
    /// # Errors
    /// [`INVALID_ENVIRONMENT`], naming every variable that is missing or wrong.
    pub fn read(variable: Variable<'_>) -> Result<Self, CniError> {
        let given = |name| variable(name).unwrap_or_default();
        let word = given("CNI_COMMAND");
        let Some(command) = Command::ALL.into_iter().find(|command| command.word() == word) else {
            let words = Command::ALL.map(Command::word).join(", ");
            return Err(CniError::new(
                INVALID_ENVIRONMENT,
                format!("CNI_COMMAND is {word:?}; {words} would be right"),
            ));
        };
        let mut call = Self {
            command,
            container: String::new(),
            interface: String::new(),
            netns: None,
            pod: String::new(),
        };
        if !matches!(command, Command::Add | Command::Del | Command::Check) {
            return Ok(call);
        }
        let mut wrong = Vec::new();
        call.container = given("CNI_CONTAINERID");
        if !is_name(&call.container) || call.container.len() > CONTAINER_MAX_BYTES {
            wrong.push(format!(
                "CNI_CONTAINERID is {:?}, and has to be of letters, digits, '_', '.' and '-', the first of them a letter or \
                 digit, and at most {CONTAINER_MAX_BYTES} long",
                call.container
            ));
        }
        call.interface = given("CNI_IFNAME");
        if !is_interface(&call.interface) {
            wrong.push(format!(
                "CNI_IFNAME is {:?}, which no interface can be called",
                call.interface
            ));
        }
        call.netns = Some(PathBuf::from(given("CNI_NETNS"))).filter(|path| !path.as_os_str().is_empty());
        if call.netns.is_none() && command != Command::Del {
            wrong.push("CNI_NETNS is missing".to_owned());
        }
        match pod(&given("CNI_ARGS"), &call.container) {
            Ok(pod) => call.pod = pod,
            Err(why) => wrong.push(why),
        }
        if wrong.is_empty() {
            return Ok(call);
        }
        Err(CniError::new(INVALID_ENVIRONMENT, wrong.join("; ")))
    }
}

/// Whether it is a container id, or a network's name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_inner)
}

fn is_interface(name: &str) -> bool {
    let is_bad = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    !name.is_empty()
        && name.len() <= INTERFACE_MAX_BYTES
        && name != "."
        && name != ".."
        && !name.contains(is_bad)
}

/// The pod that `CNI_ARGS` names (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`), else one made up of the container's id. Other keys
/// are the runtime's own, if it says so (`IgnoreUnknown`).
fn pod(args: &str, container: &str) -> Result<String, String> {
    let (mut namespace, mut name, mut unknown, mut ignores) = (None, None, Vec::new(), false);
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(format!("CNI_ARGS has {pair:?} in it; KEY=VALUE would be right"));
        };
        match key {
            "K8S_POD_NAMESPACE" => namespace = Some(value),
            "K8S_POD_NAME" => name = Some(value),
            "K8S_POD_UID" | "K8S_POD_INFRA_CONTAINER_ID" => {}
            "IgnoreUnknown" => ignores = matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T"),
            other => unknown.push(other),
        }
    }
    if let (Some(key), false) = (unknown.first(), ignores) {
        return Err(format!(
            "CNI_ARGS has {key} in it, of which nothing is known; IgnoreUnknown=1 has it ignored"
        ));
    }
    match (namespace, name) {
        (Some(namespace), Some(name)) => Ok(format!("{namespace}/{name}")),
        (None, None) => Ok(format!("{NO_PODS_NAMESPACE}/{}", pod_name_of(container))),
        _ => Err("CNI_ARGS has one of K8S_POD_NAMESPACE and K8S_POD_NAME, and needs both".to_owned()),
    }
}

/// A container's id as a name that a pod may have: itself if it can be, else in hexadecimal digits, behind what no id
/// that is used as it is begins with.
fn pod_name_of(container: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if container.chars().all(is_plain) {
        return container.to_owned();
    }
    let digits = container.bytes().map(|byte| format!("{byte:02x}"));
    format!("id-{}", digits.collect::<String>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Call, CniError> {
        Call::read(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ADD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/x"),
    ];

    fn add_with(name: &'static str, value: &'static str) -> Result<Call, CniError> {
        let others = ADD.into_iter().filter(|(key, _)| *key != name);
        read(&others.chain([(name, value)]).collect::<Vec<_>>())
    }

    #[test]
    fn a_pod_is_named_by_the_arguments_or_by_its_container() {
        assert_eq!(read(&ADD).unwrap().pod, "cni/c0ffee");
        assert_eq!(add_with("CNI_CONTAINERID", "A_1").unwrap().pod, "cni/id-415f31");
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=7;OTHER=x";
        assert_eq!(add_with("CNI_ARGS", args).unwrap().pod, "default/web-0");
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        for (name, value, words) in [
            ("CNI_COMMAND", "add", "ADD, DEL, CHECK, GC, STATUS, VERSION"),
            ("CNI_CONTAINERID", "", "CNI_CONTAINERID"),
            ("CNI_CONTAINERID", "-x", "CNI_CONTAINERID"),
            ("CNI_CONTAINERID", "a/../b", "CNI_CONTAINERID"),
            ("CNI_IFNAME", "", "CNI_IFNAME"),
            ("CNI_IFNAME", "..", "CNI_IFNAME"),
            ("CNI_IFNAME", "sixteen-letters-", "CNI_IFNAME"),
            ("CNI_IFNAME", "a/b", "CNI_IFNAME"),
            ("CNI_NETNS", "", "CNI_NETNS"),
            ("CNI_ARGS", "x", "KEY=VALUE"),
            ("CNI_ARGS", "X=1", "IgnoreUnknown"),
            ("CNI_ARGS", "K8S_POD_NAME=web", "needs both"),
        ] {
            let error = add_with(name, value).unwrap_err();
            assert_eq!(error.code, INVALID_ENVIRONMENT, "{name}={value}: {error}");
            assert!(error.msg.contains(words), "{name}={value}: {error}");
        }
        let error = read(&[("CNI_COMMAND", "ADD")]).unwrap_err();
        for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
            assert!(error.msg.contains(name), "{error}");
        }
    }

    #[test]
    fn a_verb_needs_what_it_is_about_and_nothing_else() {
        for word in ["GC", "STATUS", "VERSION"] {
            assert_eq!(read(&[("CNI_COMMAND", word)]).unwrap().command.word(), word);
        }
        let del = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "x"),
            ("CNI_IFNAME", "eth0"),
        ];
        assert_eq!(read(&del).unwrap().netns, None);
        let check = [
            ("CNI_COMMAND", "CHECK"),
            ("CNI_CONTAINERID", "x"),
            ("CNI_IFNAME", "eth0"),
        ];
        assert!(read(&check).is_err());
    }
}
