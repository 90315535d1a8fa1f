//! Open vSwitch's userspace datapath, on AF_XDP ports, with whatever OpenFlow rules it is given.
//!
//! Its daemons run by hand in the node's namespace, with a database and sockets in the lab's own folder: nothing of them is
//! installed, and nothing remains. A thread of it polls the ports on the core under test, whether there are packets or not;
//! so its process is stopped while others are measured.
//!
//! There are two bridges, as its documentation wants it for tunnels in userspace (`Documentation/howto/userspace-tunneling.rst`):
//! one with the pod's port, the tunnel and the rules, one with the uplink, that has the node's address.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_dataplane::wire::MacAddr;
use millrace_tools::lab::plan::{PREFIX_LENGTH, UPLINK, VXLAN_PORT};
use millrace_tools::lab::{Lab, Namespace, Process, Signal, wait_until};
use serde_json::{Value, json};

use super::processor::process_time;
use super::setting::{core_mask, pod_mac, pod_port};
use super::{Cores, NODE, PEER, Subject, Work};
use crate::statistics::rounded;

/// The bridge with the pods, and the one with the uplink.
const PODS: &str = "br-int";
const UNDERLAY: &str = "br-phy";
/// The tunnel's port.
const TUNNEL: &str = "tunnel";
/// Numbers of the ports in OpenFlow: the pod's, the tunnel, the uplink on its own bridge.
pub(crate) const POD_NUMBER: u32 = 1;
pub(crate) const TUNNEL_NUMBER: u32 = 2;
const UPLINK_NUMBER: u32 = 1;
/// The connection tracker's zone that the rules use.
pub(crate) const ZONE: u32 = 1;
/// Where Debian's package has the database's schema.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// What the switch says goes there, in the folder.
const SWITCH_LOG: &str = "switch.log";
/// How long something may take to come about.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long rules may take to load.
const LOADING: Duration = Duration::from_secs(120);
/// Connections live on while other arms are measured, in seconds, and cached decisions, in milliseconds.
const LIFE_S: u32 = 3600;
const IDLE_MS: &str = "3600000";
/// States of connections in its tracker that end by time (ovs-vswitchd.conf.db(5)).
const TIMEOUTS: [&str; 5] = [
    "udp_first",
    "udp_single",
    "udp_multiple",
    "tcp_syn_sent",
    "tcp_syn_recv",
];

/// Rules for `ovs-ofctl add-flows`, and what is to be known of them.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// What `ovs-ofctl` reads.
    pub(crate) text: String,
    /// How much of what there is.
    pub(crate) counts: Value,
}

/// What makes rules for a pod with this link address.
type Make = Box<dyn FnOnce(MacAddr) -> Rules>;

/// Open vSwitch.
pub(crate) struct OpenVSwitch {
    name: String,
    /// Until they are loaded.
    rules: Option<Make>,
    counts: Value,
    loaded: Duration,
    /// What it said of its ports.
    ports: Value,
    // The switch ends before its database.
    switch: Option<Process>,
    database: Option<Process>,
}

/// Where its files are, and the namespace it runs in.
struct Home<'a> {
    namespace: &'a Namespace,
    folder: PathBuf,
}

impl Home<'_> {
    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.path(name))
    }

    /// A program of it, inside: `prefix` is what stands before it on the line.
    fn start(&self, program: &[&str], log: &str) -> anyhow::Result<Process> {
        let (first, rest) = program.split_first().context("an empty command line")?;
        let mut line = self.namespace.command(first);
        line.args(rest);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            line.env(variable, &self.folder);
        }
        let started = Process::spawn(line, &self.folder.join(log));
        started.context("`tools/install-deps.sh bench` installs Open vSwitch")
    }

    fn run(&self, program: &str, arguments: &[&str], timeout: Duration) -> anyhow::Result<String> {
        Ok(self.namespace.complete(program, arguments, timeout)?.success()?)
    }

    /// `ovs-vsctl`, which waits until the switch has done what it says.
    fn configure(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let database = format!("--db={}", self.socket("db.sock"));
        let line = [&[database.as_str(), "--timeout=20"], arguments].concat();
        self.run("ovs-vsctl", &line, PATIENCE * 2)
    }

    /// `ovs-appctl`.
    fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let control = self.path("switch.ctl");
        let line = [&["-t", control.as_str()], arguments].concat();
        self.run("ovs-appctl", &line, PATIENCE)
    }

    /// Puts rules in the place of those a bridge has.
    fn load(&self, bridge: &str, text: &str) -> anyhow::Result<()> {
        let (file, socket) = (self.path("rules"), self.socket(&format!("{bridge}.mgmt")));
        fs::write(&file, text).with_context(|| format!("cannot write {file}"))?;
        self.run(
            "ovs-ofctl",
            &["-O", "OpenFlow15", "--bundle", "replace-flows", &socket, &file],
            LOADING,
        )?;
        Ok(())
    }
}

impl OpenVSwitch {
    /// One that is called so, with these rules.
    pub(crate) fn new(name: &str, rules: impl FnOnce(MacAddr) -> Rules + 'static) -> Self {
        Self {
            name: name.to_owned(),
            rules: Some(Box::new(rules)),
            counts: Value::Null,
            loaded: Duration::ZERO,
            ports: Value::Null,
            switch: None,
            database: None,
        }
    }

    /// Starts the database and the switch.
    fn start(&mut self, home: &Home<'_>, cores: Cores) -> anyhow::Result<()> {
        let (file, socket) = (home.path("conf.db"), home.path("db.sock"));
        home.run("ovsdb-tool", &["create", &file, SCHEMA], PATIENCE)
            .context("`tools/install-deps.sh bench` installs Open vSwitch")?;
        let (remote, control) = (
            format!("--remote=p{}", home.socket("db.sock")),
            format!("--unixctl={}", home.path("db.ctl")),
        );
        let database = home.start(&["ovsdb-server", &file, &remote, &control], "database.log")?;
        let database = self.database.insert(database);
        wait_for(database, &socket)?;
        home.configure(&["--no-wait", "init"])?;
        let mask = format!(
            "other_config:pmd-cpu-mask={}",
            core_mask(&[cores.node]).replace(',', "")
        );
        let idle = format!("other_config:max-idle={IDLE_MS}");
        home.configure(&["--no-wait", "set", "Open_vSwitch", ".", &mask, &idle])?;
        let (core, remote, control) = (
            cores.node.to_string(),
            home.socket("db.sock"),
            home.path("switch.ctl"),
        );
        let with = format!("--unixctl={control}");
        let line = ["taskset", "--cpu-list", &core, "ovs-vswitchd", &remote, &with];
        let switch = self.switch.insert(home.start(&line, SWITCH_LOG)?);
        wait_for(switch, &control)
    }

    /// Makes the bridges, with their rules: before there is a port, as its thread polls from then on.
    fn make_bridges(&mut self, home: &Home<'_>, uplink_mac: &str, pod_mac: MacAddr) -> anyhow::Result<()> {
        let mac = format!("other-config:hwaddr=\"{uplink_mac}\"");
        for bridge in [PODS, UNDERLAY] {
            let secure = "fail-mode=secure";
            let mut line = vec![
                "add-br",
                bridge,
                "--",
                "set",
                "Bridge",
                bridge,
                "datapath_type=netdev",
                secure,
            ];
            if bridge == UNDERLAY {
                line.push(&mac);
            }
            home.configure(&line)?;
        }
        let underlay =
            format!("in_port=LOCAL,actions=output:{UPLINK_NUMBER}\nin_port={UPLINK_NUMBER},actions=LOCAL\n");
        home.load(UNDERLAY, &underlay)?;
        let rules = self.rules.take().context("the rules are loaded already")?(pod_mac);
        let began = Instant::now();
        home.load(PODS, &rules.text)?;
        self.loaded = began.elapsed();
        self.counts = rules.counts;
        home.configure(&[
            "--",
            "--id=@datapath",
            "create",
            "Datapath",
            "datapath_version=0",
            "--",
            "set",
            "Open_vSwitch",
            ".",
            "datapaths:netdev=@datapath",
        ])?;
        let (zone, timeouts) = (
            format!("zone={ZONE}"),
            TIMEOUTS.map(|state| format!("{state}={LIFE_S}")),
        );
        let mut line = vec!["add-zone-tp", "netdev", &zone];
        line.extend(timeouts.iter().map(String::as_str));
        home.configure(&line)?;
        Ok(())
    }

    /// Adds the pod's port, the uplink and the tunnel.
    fn add_ports(&mut self, home: &Home<'_>, pod_port: &str) -> anyhow::Result<()> {
        for (bridge, port, number) in [(PODS, pod_port, POD_NUMBER), (UNDERLAY, UPLINK, UPLINK_NUMBER)] {
            // As every arm's ports: no merged packets, no sums left to be done.
            home.run(
                "ethtool",
                &["-K", port, "gro", "off", "tx", "off", "rx", "off"],
                PATIENCE,
            )?;
            let number = format!("ofport_request={number}");
            home.configure(&[
                "add-port",
                bridge,
                port,
                "--",
                "set",
                "Interface",
                port,
                "type=afxdp",
                &number,
                "options:n_rxq=1",
            ])?;
            self.ports[port] = json!(bound(home, port)?);
        }
        let (number, port) = (
            format!("ofport_request={TUNNEL_NUMBER}"),
            format!("options:dst_port={VXLAN_PORT}"),
        );
        home.configure(&[
            "add-port",
            PODS,
            TUNNEL,
            "--",
            "set",
            "Interface",
            TUNNEL,
            "type=vxlan",
            &number,
            &port,
            "options:remote_ip=flow",
            "options:key=flow",
            "options:df_default=false",
        ])?;
        Ok(())
    }

    fn process(&mut self) -> anyhow::Result<&mut Process> {
        self.switch.as_mut().context("Open vSwitch is not up yet")
    }
}

/// Waits until somebody listens at a socket.
fn wait_for(process: &mut Process, socket: &str) -> anyhow::Result<()> {
    wait_until("Open vSwitch to be ready", PATIENCE, || {
        process.check_running()?;
        Ok(UnixStream::connect(socket).is_ok())
    })?;
    Ok(())
}

/// How a port is bound, as the switch's log says.
fn bound(home: &Home<'_>, port: &str) -> anyhow::Result<String> {
    let error = home.configure(&["get", "Interface", port, "error"])?;
    ensure!(
        error.trim() == "[]",
        "Open vSwitch cannot use {port}: {}",
        error.trim()
    );
    let log = fs::read_to_string(home.folder.join(SWITCH_LOG)).context("cannot read Open vSwitch's log")?;
    let mode = mode_of(&log, port);
    mode.with_context(|| format!("Open vSwitch does not say in which XDP mode it uses {port}: {log}"))
}

/// The XDP mode of a port in a log: `…|eth1: native XDP mode will be in use.`
fn mode_of(log: &str, port: &str) -> Option<String> {
    let said = format!("|{port}: ");
    let mode = log.lines().rev().find_map(|line| {
        let (_, what) = line.split_once(&said)?;
        what.strip_suffix(" XDP mode will be in use.")
    })?;
    Some(format!("AF_XDP, {mode}"))
}

/// Moves the node's address from the uplink to the bridge, so that the tunnel finds its way.
fn move_address(home: &Home<'_>, lab: &Lab) -> anyhow::Result<()> {
    let (own, peer) = (lab.node(NODE)?.plan(), lab.node(PEER)?.plan());
    let (address, next) = (own.underlay_address(), peer.underlay_address().to_string());
    home.namespace.ip(&["address", "flush", "dev", UPLINK])?;
    let prefix = format!("{address}/{PREFIX_LENGTH}");
    home.namespace.ip(&["address", "add", &prefix, "dev", UNDERLAY])?;
    home.namespace.ip(&["link", "set", UNDERLAY, "up"])?;
    wait_until("Open vSwitch to know the way to the peer", PATIENCE, || {
        Ok(home
            .ask(&["ovs/route/lookup", &next])
            .is_ok_and(|answer| answer.contains(UNDERLAY)))
    })?;
    home.ask(&["tnl/arp/set", UNDERLAY, &next, &peer.uplink_mac().to_string()])?;
    Ok(())
}

impl Subject for OpenVSwitch {
    fn name(&self) -> &str {
        &self.name
    }

    fn work(&self) -> Work {
        Work::Wrap
    }

    fn set_up(&mut self, lab: &Lab, cores: Cores) -> anyhow::Result<()> {
        let folder = lab.folder().join("ovs");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let node = lab.node(NODE)?;
        let (namespace, port) = (node.namespace(), pod_port(lab)?);
        let home = Home { namespace, folder };
        // Its ports are no longer the kernel's.
        namespace.ip(&["link", "set", &port, "nomaster"])?;
        namespace.ip(&["link", "delete", millrace_tools::lab::TUNNEL])?;
        self.start(&home, cores)?;
        self.make_bridges(&home, &node.plan().uplink_mac().to_string(), pod_mac(lab)?)?;
        self.add_ports(&home, &port)?;
        move_address(&home, lab)
    }

    fn pids(&self, _lab: &Lab) -> Vec<u32> {
        self.switch.iter().map(Process::pid).collect()
    }

    fn time(&self, _lab: &Lab, _cores: Cores) -> anyhow::Result<f64> {
        let switch = self.switch.as_ref().context("Open vSwitch is not up yet")?;
        process_time(switch.pid())
    }

    fn rest(&mut self, is_resting: bool) -> anyhow::Result<()> {
        let signal = if is_resting { Signal::STOP } else { Signal::CONT };
        Ok(self.process()?.signal(signal)?)
    }

    fn facts(&self) -> Value {
        json!({
            "rules": self.counts,
            "loaded_seconds": rounded(self.loaded.as_secs_f64(), 2),
            "ports": self.ports,
        })
    }
}

impl Drop for OpenVSwitch {
    fn drop(&mut self) {
        // A stopped process heeds nothing else; one that has ended is no error.
        if let Some(switch) = &mut self.switch {
            let _ = switch.signal(Signal::CONT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_a_port_is_read_from_the_log() {
        let log = "2026-11-26T02:07:05.315Z|00058|netdev_afxdp|INFO|v-pod: native XDP mode will be in use.\n\
            2026-11-26T02:07:06.175Z|00070|netdev_afxdp|INFO|eth1: native-with-zerocopy XDP mode will be in use.\n\
            2026-11-26T02:07:06.175Z|00071|netdev_afxdp|INFO|eth2: Setting XDP mode to best-effort.\n";
        for (port, mode) in [
            ("v-pod", Some("AF_XDP, native")),
            ("eth1", Some("AF_XDP, native-with-zerocopy")),
            ("eth2", None),
            ("pod", None),
        ] {
            assert_eq!(mode_of(log, port).as_deref(), mode, "{port}");
        }
    }
}
