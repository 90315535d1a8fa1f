//! A container runtime, as far as CNI is concerned, after libcni: plugins of a list one after the other, each with the
//! result of the one before, backwards for DEL, and what ADD answered kept until then.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::find;
use super::{Daemon, LabError, Namespace, command};

/// The environment variable that names the CNI plugin.
pub const PLUGIN_VARIABLE: &str = "MILLRACE_CNI_BIN";
/// The plugin of Millrace's.
pub const PLUGIN: &str = "millrace-cni";
/// Where Debian's reference plugins are.
pub const REFERENCE: &str = "/usr/lib/cni";
/// The name of the network.
const NETWORK: &str = "pods";
/// The newest version of the specification that the plugin speaks.
const VERSION: &str = "1.1.0";
/// How long a plugin may take; it gives up by itself before.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a plugin says when it refuses (CNI 1.1, section 5, "Error").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its code.
    pub code: u64,
    /// What is wrong.
    pub msg: String,
}

/// A container, as a runtime calls a plugin for it.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// Its network namespace.
    pub namespace: &'a Namespace,
    /// What the runtime calls it.
    pub id: &'a str,
    /// The Kubernetes namespace and the name of its pod.
    pub pod: (&'a str, &'a str),
    /// What its interface is to be called.
    pub interface: &'a str,
}

/// A runtime on a node, with a network.
#[derive(Debug)]
pub struct Runtime {
    /// The node's namespace.
    node: String,
    /// The plugin of Millrace's, if another than the one that is found.
    plugin: Option<PathBuf>,
    /// The folder of the plugin's store.
    pub data: PathBuf,
    /// `name`.
    pub network: String,
    /// `cniVersion`.
    pub version: String,
    /// The configurations of the plugins, in order.
    pub plugins: Vec<Value>,
    /// What ADD answered, by container.
    cache: Mutex<BTreeMap<String, Value>>,
}

impl Runtime {
    /// A runtime on a Millrace node whose network is Millrace's plugin alone: the one named by [`PLUGIN_VARIABLE`], else
    /// the one built beside this program, unless `plugin` says which. It is looked for when it is called.
    #[must_use]
    pub fn new(node: &Namespace, daemon: &Daemon, data: PathBuf, plugin: Option<PathBuf>) -> Self {
        let own = json!({
            "type": PLUGIN, "socket": daemon.socket(), "dataDir": data,
            "capabilities": {"portMappings": true, "ips": true, "bandwidth": true},
        });
        Self {
            node: node.name().to_owned(),
            plugin,
            data,
            network: NETWORK.to_owned(),
            version: VERSION.to_owned(),
            plugins: vec![own],
            cache: Mutex::default(),
        }
    }

    /// The command that runs a plugin, for a container where the verb is about one; its standard input is the configuration.
    ///
    /// # Errors
    /// [`LabError::NoProgram`] if it is Millrace's and not there.
    pub fn command(
        &self,
        verb: &str,
        container: Option<Container<'_>>,
        kind: &str,
    ) -> Result<Command, LabError> {
        let program = match (kind, &self.plugin) {
            (PLUGIN, Some(plugin)) => plugin.clone(),
            (PLUGIN, None) => find(PLUGIN, PLUGIN_VARIABLE)?,
            (other, _) => Path::new(REFERENCE).join(other),
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.node]).arg(program);
        self.environment(&mut command, verb, container);
        Ok(command)
    }

    /// Tells a plugin, by its environment, what it is called for.
    pub fn environment(&self, command: &mut Command, verb: &str, container: Option<Container<'_>>) {
        command.env("CNI_COMMAND", verb).env("CNI_PATH", REFERENCE);
        if let Some(container) = container {
            let (namespace, name) = container.pod;
            let words = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
            command
                .env("CNI_CONTAINERID", container.id)
                .env("CNI_NETNS", container.namespace.path())
                .env("CNI_IFNAME", container.interface)
                .env("CNI_ARGS", words);
        }
    }

    /// A plugin's configuration as libcni writes it, with `more` in it.
    #[must_use]
    pub fn config(&self, plugin: &Value, more: &Value, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["cniVersion"] = json!(self.version);
        config["name"] = json!(self.network);
        for (key, value) in more.as_object().into_iter().flatten() {
            // A runtime passes on what a plugin says that it can do.
            let is_wanted = key != "runtimeConfig" || plugin.get("capabilities").is_some();
            if is_wanted {
                config[key] = value.clone();
            }
        }
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        config
    }

    /// Adds a container, with `more` in the configuration, and returns the last plugin's result.
    ///
    /// # Errors
    /// [`LabError::Refused`] with what a plugin said; else what kept it from being called or understood.
    pub fn add(&self, container: Container<'_>, more: &Value) -> Result<Value, LabError> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            let previous = Some(&result).filter(|result| !result.is_null());
            let config = self.config(plugin, more, previous);
            result = self.call("ADD", Some(container), plugin, &config)?;
        }
        self.cached().insert(container.id.to_owned(), result.clone());
        Ok(result)
    }

    /// Deletes a container; what ADD answered is passed on if it is known.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn del(&self, container: Container<'_>) -> Result<(), LabError> {
        let previous = self.cached().remove(container.id);
        for plugin in self.plugins.iter().rev() {
            let config = self.config(plugin, &json!({}), previous.as_ref());
            self.call("DEL", Some(container), plugin, &config)?;
        }
        Ok(())
    }

    /// Checks a container that was added. The reference plugin for bandwidth falls over itself where no rate is wanted,
    /// up to its version 1.1.1 at least, and is left out.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn check(&self, container: Container<'_>) -> Result<(), LabError> {
        let previous = self.cached().get(container.id).cloned();
        for plugin in self.plugins.iter().filter(|plugin| plugin["type"] != "bandwidth") {
            let config = self.config(plugin, &json!({}), previous.as_ref());
            self.call("CHECK", Some(container), plugin, &config)?;
        }
        Ok(())
    }

    /// Has everything taken away but these, each by its id and its interface.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn gc(&self, valid: &[(&str, &str)]) -> Result<(), LabError> {
        let attachments = valid
            .iter()
            .map(|(id, interface)| json!({"containerID": id, "ifname": interface}));
        let more = json!({"cni.dev/valid-attachments": attachments.collect::<Vec<_>>()});
        self.ask("GC", &more)
    }

    /// Asks whether ADD would go well.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn status(&self) -> Result<(), LabError> {
        self.ask("STATUS", &json!({}))
    }

    fn ask(&self, verb: &str, more: &Value) -> Result<(), LabError> {
        self.plugins
            .iter()
            .filter(|plugin| plugin["type"] == PLUGIN)
            .try_for_each(|plugin| {
                let config = self.config(plugin, more, None);
                self.call(verb, None, plugin, &config).map(drop)
            })
    }

    fn call(
        &self,
        verb: &str,
        container: Option<Container<'_>>,
        plugin: &Value,
        config: &Value,
    ) -> Result<Value, LabError> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        run(self.command(verb, container, kind)?, config)?.map_err(|refused| LabError::Refused {
            plugin: kind.to_owned(),
            verb: verb.to_owned(),
            refused,
        })
    }

    /// How many containers have addresses.
    #[must_use]
    pub fn stored(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(&self.data) else {
            return 0;
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter(|name| !name.to_string_lossy().starts_with('.'))
            .count()
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Value>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a plugin; what it prints is null or its result, or why it refuses.
///
/// # Errors
/// It cannot be run, or what it prints is neither.
pub fn run(command: Command, config: &Value) -> Result<Result<Value, Refused>, LabError> {
    let finished = command::fed(command, config.to_string().as_bytes(), TIMEOUT)?;
    let unexpected = |problem: String| LabError::Output {
        command: finished.command.clone(),
        problem: format!("{problem}: {} {}", finished.stdout.trim(), finished.stderr.trim()),
    };
    let said = match finished.stdout.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).map_err(|error| unexpected(error.to_string()))?,
    };
    if finished.status.success() {
        return Ok(Ok(said));
    }
    let (Some(code), Some(msg)) = (said["code"].as_u64(), said["msg"].as_str()) else {
        return Err(unexpected(format!("no error of CNI's ({})", finished.status)));
    };
    Ok(Err(Refused {
        code,
        msg: msg.to_owned(),
    }))
}

/// The addresses of a result without their prefix lengths, those of the loopback interface left out.
#[must_use]
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .filter(|ip: &IpAddr| !ip.is_loopback())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_plugin_prints_is_its_result_or_its_refusal() {
        let config = json!({"name": "pods"});
        // It is given the configuration, whole.
        assert_eq!(run(shell("cat"), &config).unwrap(), Ok(config.clone()));
        assert_eq!(run(shell("true"), &config).unwrap(), Ok(Value::Null));
        let refusal = r#"echo '{"code": 11, "msg": "later"}'; exit 1"#;
        let refused = run(shell(refusal), &config).unwrap().unwrap_err();
        assert_eq!((refused.code, refused.msg.as_str()), (11, "later"));
        for broken in ["echo nonsense", "exit 1", "echo '{}'; exit 1"] {
            assert!(
                matches!(run(shell(broken), &config), Err(LabError::Output { .. })),
                "{broken}"
            );
        }
    }

    #[test]
    fn addresses_are_those_of_the_pod() {
        let result = json!({"ips": [
            {"address": "127.0.0.1/8"}, {"address": "10.244.1.2/32"}, {"address": "fd00:1::2/128"},
        ]});
        let expected: [IpAddr; 2] = ["10.244.1.2".parse().unwrap(), "fd00:1::2".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
        assert_eq!(addresses(&Value::Null), Vec::<IpAddr>::new());
    }
}
