//! A container runtime, as far as CNI is concerned, after libcni: plugins of a list one after the other, each with the
//! result of the one before, backwards for DEL.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use millrace_tools::lab::plan::Families;
use millrace_tools::lab::traffic::{Ping, ping};
use millrace_tools::lab::{Daemon, Lab, MillraceOptions, Namespace, NodeKind, Topology, wait_until};
use serde_json::{Value, json};

/// Where Debian's reference plugins are.
pub(crate) const REFERENCE: &str = "/usr/lib/cni";
/// The plugin under test.
pub(crate) const PLUGIN: &str = env!("CARGO_BIN_EXE_millrace-cni");
/// Longer than anything takes that is to come about at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Nodes with Millrace, of both families, without pods.
pub(crate) fn lab(name: &str, nodes: usize) -> Lab {
    assert!(
        rustix::process::geteuid().is_root(),
        "the tests of the CNI plugin make network namespaces and load XDP programs: run them as root"
    );
    let topology = Topology {
        pods_per_node: 0,
        millrace: MillraceOptions::default(),
        families: Families::Dual,
        ..Topology::of(&vec![NodeKind::Millrace; nodes])
    };
    Lab::bring_up(name, &topology).unwrap_or_else(|error| panic!("lab {name}: {error}"))
}

/// The daemon of a node.
pub(crate) fn daemon<'a>(lab: &'a Lab, node: &str) -> &'a Daemon {
    lab.node(node).unwrap().daemon().unwrap()
}

/// The daemon of a node, to be stopped and started.
pub(crate) fn daemon_mut<'a>(lab: &'a mut Lab, node: &str) -> &'a mut Daemon {
    lab.node_mut(node).unwrap().daemon_mut().unwrap()
}

/// The ports of a node's pods.
pub(crate) fn pod_ports(lab: &Lab, node: &str) -> Vec<Value> {
    let rows = daemon(lab, node).json(&["show", "ports"]).unwrap();
    let rows = rows.as_array().unwrap().iter().filter(|row| row["role"] == "pod");
    rows.cloned().collect()
}

/// A container: its network namespace, and what the runtime calls it.
pub(crate) struct Sandbox {
    pub(crate) namespace: Namespace,
    pub(crate) id: String,
    pub(crate) pod: String,
    pub(crate) interface: String,
}

impl Sandbox {
    /// A pod's first container, in a namespace of its own.
    pub(crate) fn new(lab: &Lab, pod: &str) -> Self {
        Self::again(lab, pod, 1)
    }

    /// A later container of a pod.
    pub(crate) fn again(lab: &Lab, pod: &str, count: usize) -> Self {
        Self {
            namespace: lab.namespace(&format!("{pod}-{count}")).unwrap(),
            id: format!("{pod}.{count}"),
            pod: pod.to_owned(),
            interface: "eth0".to_owned(),
        }
    }

    /// The names of its interfaces, `lo` left out.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let links = self.namespace.ip(&["-j", "link", "show"]).unwrap();
        let links: Value = serde_json::from_str(&links).unwrap();
        let names = links
            .as_array()
            .unwrap()
            .iter()
            .map(|link| link["ifname"].as_str().unwrap().to_owned());
        names.filter(|name| name != "lo").collect()
    }
}

/// An error as a plugin tells it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    pub(crate) code: u64,
    pub(crate) msg: String,
}

/// A runtime on a node, with a network.
pub(crate) struct Runtime {
    namespace: String,
    /// The folder of the plugin's store.
    pub(crate) data: PathBuf,
    pub(crate) version: String,
    /// The configurations of the plugins, in order.
    pub(crate) plugins: Vec<Value>,
    /// What ADD answered, by container.
    cache: Mutex<BTreeMap<String, Value>>,
}

impl Runtime {
    /// A runtime on a node whose network is the plugin under test alone.
    pub(crate) fn new(lab: &Lab, node: &str) -> Self {
        let data = lab.folder().join(format!("{node}-ipam"));
        let own = json!({
            "type": "millrace-cni", "socket": daemon(lab, node).socket(), "dataDir": data,
            "capabilities": {"portMappings": true, "ips": true},
        });
        Self {
            namespace: lab.node(node).unwrap().namespace().name().to_owned(),
            data,
            version: "1.1.0".to_owned(),
            plugins: vec![own],
            cache: Mutex::default(),
        }
    }

    /// The command that runs a plugin for a container; its standard input is the configuration.
    pub(crate) fn command(&self, verb: &str, sandbox: Option<&Sandbox>, kind: &str) -> Command {
        let program = match kind {
            "millrace-cni" => PathBuf::from(PLUGIN),
            other => Path::new(REFERENCE).join(other),
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        self.environment(&mut command, verb, sandbox);
        command
    }

    pub(crate) fn environment(&self, command: &mut Command, verb: &str, sandbox: Option<&Sandbox>) {
        command.env("CNI_COMMAND", verb).env("CNI_PATH", REFERENCE);
        if let Some(sandbox) = sandbox {
            command
                .env("CNI_CONTAINERID", &sandbox.id)
                .env("CNI_NETNS", sandbox.namespace.path())
                .env("CNI_IFNAME", &sandbox.interface)
                .env(
                    "CNI_ARGS",
                    format!(
                        "IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME={}",
                        sandbox.pod
                    ),
                );
        }
    }

    /// A plugin's configuration as libcni writes it.
    pub(crate) fn config(&self, plugin: &Value, more: &Value, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["cniVersion"] = json!(self.version);
        config["name"] = json!("pods");
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

    /// Adds a container.
    pub(crate) fn add(&self, sandbox: &Sandbox) -> Result<Value, Refused> {
        self.add_with(sandbox, &json!({}))
    }

    /// Adds a container, with more in the configuration.
    pub(crate) fn add_with(&self, sandbox: &Sandbox, more: &Value) -> Result<Value, Refused> {
        let mut result: Option<Value> = None;
        for plugin in &self.plugins {
            let config = self.config(plugin, more, result.as_ref());
            let kind = plugin["type"].as_str().unwrap();
            result = Some(run(self.command("ADD", Some(sandbox), kind), &config)?);
        }
        let result = result.unwrap();
        self.cache
            .lock()
            .unwrap()
            .insert(sandbox.id.clone(), result.clone());
        Ok(result)
    }

    /// Deletes a container; what ADD answered is passed on if it is known.
    pub(crate) fn del(&self, sandbox: &Sandbox) -> Result<(), Refused> {
        let previous = self.cache.lock().unwrap().remove(&sandbox.id);
        for plugin in self.plugins.iter().rev() {
            let config = self.config(plugin, &json!({}), previous.as_ref());
            run(
                self.command("DEL", Some(sandbox), plugin["type"].as_str().unwrap()),
                &config,
            )?;
        }
        Ok(())
    }

    /// Checks a container that was added. The reference plugin for bandwidth falls over itself where no rate is wanted,
    /// up to its version 1.1.1 at least, and is left out.
    pub(crate) fn check(&self, sandbox: &Sandbox) -> Result<(), Refused> {
        let previous = self.cache.lock().unwrap().get(&sandbox.id).cloned();
        for plugin in self.plugins.iter().filter(|plugin| plugin["type"] != "bandwidth") {
            let config = self.config(plugin, &json!({}), previous.as_ref());
            run(
                self.command("CHECK", Some(sandbox), plugin["type"].as_str().unwrap()),
                &config,
            )?;
        }
        Ok(())
    }

    /// Has everything taken away but these.
    pub(crate) fn gc(&self, valid: &[&Sandbox]) -> Result<(), Refused> {
        let attachments = valid
            .iter()
            .map(|sandbox| json!({"containerID": sandbox.id, "ifname": sandbox.interface}));
        let more = json!({"cni.dev/valid-attachments": attachments.collect::<Vec<_>>()});
        self.ask("GC", &more)
    }

    /// Asks whether ADD would go well.
    pub(crate) fn status(&self) -> Result<(), Refused> {
        self.ask("STATUS", &json!({}))
    }

    fn ask(&self, verb: &str, more: &Value) -> Result<(), Refused> {
        let config = self.config(&self.plugins[0], more, None);
        run(self.command(verb, None, "millrace-cni"), &config).map(drop)
    }

    /// How many containers have addresses.
    pub(crate) fn stored(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(&self.data) else {
            return 0;
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).count()
    }
}

/// Runs a plugin; what it prints is null or its result.
pub(crate) fn run(mut command: Command, config: &Value) -> Result<Value, Refused> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that fails early need not have read it.
    let _ = child
        .stdin
        .take()
        .unwrap()
        .write_all(config.to_string().as_bytes());
    let output = child.wait_with_output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let said = match out.trim() {
        "" => Value::Null,
        text => {
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{command:?}: {error} in {text}\n{err}"))
        }
    };
    if output.status.success() {
        return Ok(said);
    }
    let code = said["code"]
        .as_u64()
        .unwrap_or_else(|| panic!("{command:?}: {:?} {out}\n{err}", output.status));
    Err(Refused {
        code,
        msg: said["msg"].as_str().unwrap().to_owned(),
    })
}

/// The addresses of a result, by family.
pub(crate) fn addresses(result: &Value) -> (Ipv4Addr, Ipv6Addr) {
    let ips = result["ips"].as_array().unwrap().iter();
    let address = |ip: &Value| {
        ip["address"]
            .as_str()
            .unwrap()
            .split('/')
            .next()
            .unwrap()
            .to_owned()
    };
    let all: Vec<IpAddr> = ips
        .map(|ip| address(ip).parse().unwrap())
        .filter(|ip: &IpAddr| !ip.is_loopback())
        .collect();
    match all[..] {
        [IpAddr::V4(v4), IpAddr::V6(v6)] => (v4, v6),
        _ => panic!("{result}"),
    }
}

/// Both families of a container that was added answer to another, every request of them.
pub(crate) fn assert_reaches(from: &Sandbox, to: &Value) {
    let (v4, v6) = addresses(to);
    for target in [IpAddr::V4(v4), IpAddr::V6(v6)] {
        // The first may meet a next hop that is not resolved yet.
        let first = wait_until("an answer", PATIENCE, || {
            Ok(ping(
                &from.namespace,
                target,
                &Ping {
                    count: 1,
                    ..Ping::default()
                },
            )?
            .received
                == 1)
        });
        first.unwrap_or_else(|error| panic!("{} to {target}: {error}", from.pod));
        let report = ping(&from.namespace, target, &Ping::default()).unwrap();
        assert_eq!(report.received, report.sent, "{} to {target}", from.pod);
    }
}

/// The end of every test: nothing of any container is left, and the lab leaves nothing behind.
pub(crate) fn finish(lab: Lab, runtimes: &[&Runtime], sandboxes: Vec<Sandbox>) {
    for sandbox in &sandboxes {
        assert_eq!(sandbox.interfaces(), Vec::<String>::new(), "{}", sandbox.id);
    }
    for runtime in runtimes {
        assert_eq!(runtime.stored(), 0);
    }
    let names: Vec<String> = lab.nodes().iter().map(|node| node.name()).collect();
    for name in names {
        assert_eq!(pod_ports(&lab, &name), Vec::<Value>::new(), "{name}");
    }
    drop(sandboxes);
    lab.close().unwrap();
}
