#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use millrace_dataplane::xdp::{AttachedMode, AttachedProgram};

use super::facts::{Cni, Facts, Filters, Machine, Ports, Uplink};
use super::*;
use crate::install::CONFLIST;
use crate::kernel::{ChainName, InterfaceAddress, KernelState, Link, Listening, PortSet, Scope, XdpFeatures};

fn link(ifindex: u32, name: &str) -> Link {
    Link {
        ifindex,
        name: name.to_owned(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        up: true,
        running: true,
        loopback: false,
        kind: None,
        rx_queues: 2,
        tx_queues: 2,
        peer_ifindex: None,
        peer_elsewhere: false,
        controller: None,
        vlan: None,
    }
}

fn address(ifindex: u32, text: &str) -> InterfaceAddress {
    InterfaceAddress {
        ifindex,
        address: text.parse().unwrap(),
        scope: Scope::Universe,
    }
}

fn network(links: &[&str], addresses: &[(u32, &str)]) -> KernelState {
    let links = links.iter().zip(2..).map(|(name, ifindex)| link(ifindex, name));
    let addresses = addresses.iter().map(|(ifindex, text)| address(*ifindex, text));
    KernelState::made_up(links, addresses, [], [])
}

/// A host on which everything is as it should be.
fn good() -> (Facts, Config) {
    let config = defaults("eth1", 0).unwrap();
    let eth1 = link(2, "eth1");
    let facts = Facts {
        machine: Machine {
            release: "6.12.9-amd64".to_owned(),
            af_xdp: Ok(true),
            program: Ok(Ok(())),
            program_in_pieces: Ok(Ok(())),
            missing_capabilities: Ok(Vec::new()),
            locked_memory: Some(8 << 20),
            memory: Ok(16 << 30),
            huge_memory: Ok(0),
            taps: Ok(()),
            cores: vec![0, 1, 2, 3],
            core_nodes: BTreeMap::new(),
            settings: BTreeMap::from([(gather::NEXT_HOP_COMPAT, "1".to_owned())]),
        },
        uplink: Ok(Some(Uplink {
            link: eth1.clone(),
            device: Ok(eth1),
            driver: "ice".to_owned(),
            queues: Ok((2, 8)),
            program: Ok(None),
            features: Ok(XdpFeatures {
                basic: true,
                redirect: true,
                zero_copy: true,
                pieces: true,
            }),
            merging: Ok(Vec::new()),
            sysfs: Ok(()),
            numa_node: None,
            zero_copy_fault: None,
        })),
        network: network(&["eth1"], &[(2, "192.0.2.1/24")]),
        ports: Ports {
            given_out: Ok((32_768, 60_999)),
            reserved: Ok(PortSet::new()),
            listening: Ok(Listening::default()),
        },
        pod_cidrs: Ok(vec!["10.244.0.0/16".parse().unwrap()]),
        flannel_mtu: None,
        filters: Filters {
            chains: Ok(Vec::new()),
            has_nftables: Ok(true),
            legacy: Ok(Vec::new()),
            conntrack: None,
        },
        cni: Cni {
            bin_dir: PathBuf::from("/opt/cni/bin"),
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            plugin: Ok(true),
            networks: Ok(vec![CONFLIST.to_owned()]),
            socket: Some(PathBuf::from("/run/millrace/millrace.sock")),
        },
        daemon_runs: false,
    };
    (facts, config)
}

fn uplink(facts: &mut Facts) -> &mut Uplink {
    facts.uplink.as_mut().unwrap().as_mut().unwrap()
}

type Plant = fn(&mut Facts, &mut Config);

/// A fault, the check that must find it, how bad it is, and words that must be said of it.
type Row = (&'static str, Plant, &'static str, Level, &'static [&'static str]);

fn set(config: &mut Config, toml: &str) {
    let text = format!("[node]\nname = \"n\"\nmanifests = \"/m\"\n{toml}");
    *config = Config::parse(&text, Path::new("/etc/millrace/millrace.toml")).unwrap();
}

const CORES: &str = "[workers]\ncores = [0]\n";
const ETH1: &str = "[uplink]\ninterface = \"eth1\"\n";

const MACHINE: &[Row] = &[
    (
        "an old kernel",
        |f, _| f.machine.release = "5.4.0-200-generic".into(),
        "kernel",
        Level::Fail,
        &["5.4.0", "5.7"],
    ),
    (
        "an untried kernel",
        |f, _| f.machine.release = "5.15.0-1".into(),
        "kernel",
        Level::Warn,
        &["not tried", "6.1"],
    ),
    (
        "jumbo frames before 6.6",
        |f, _| {
            f.machine.release = "6.1.0".into();
            uplink(f).link.mtu = 9000;
        },
        "kernel",
        Level::Fail,
        &["several buffers", "6.6", "jumbo"],
    ),
    (
        "a nameless kernel",
        |f, _| f.machine.release = "mine".into(),
        "kernel",
        Level::Unseen,
        &["mine"],
    ),
    (
        "no AF_XDP",
        |f, _| f.machine.af_xdp = Ok(false),
        "af-xdp",
        Level::Fail,
        &["CONFIG_XDP_SOCKETS"],
    ),
    (
        "a refused program",
        |f, _| f.machine.program = Ok(Err("verifier".into())),
        "bpf",
        Level::Fail,
        &["verifier"],
    ),
    (
        "nobody to ask",
        |f, _| f.machine.program = Err("not known without CAP_BPF".into()),
        "bpf",
        Level::Unseen,
        &["CAP_BPF"],
    ),
    (
        "no rights",
        |f, _| f.machine.missing_capabilities = Ok(vec!["CAP_NET_ADMIN".into(), "CAP_BPF".into()]),
        "capabilities",
        Level::Warn,
        &["CAP_NET_ADMIN, CAP_BPF", "root"],
    ),
    (
        "little locked memory",
        |f, _| f.machine.missing_capabilities = Ok(vec!["CAP_IPC_LOCK".into()]),
        "locked-memory",
        Level::Warn,
        &["8 MiB", "32 MiB", "LimitMEMLOCK"],
    ),
    (
        "little memory",
        |f, _| f.machine.memory = Ok(64 << 20),
        "memory",
        Level::Warn,
        &["64 MiB", "frames"],
    ),
    (
        "an absent core",
        |f, _| f.machine.cores = vec![2, 3],
        "cores",
        Level::Fail,
        &["names 0", "2, 3"],
    ),
    (
        "a machine full of polling workers",
        |f, c| {
            f.machine.cores = vec![0];
            set(c, &format!("{ETH1}{CORES}idle = \"poll\"\n"));
        },
        "cores",
        Level::Warn,
        &["every core", "sleep"],
    ),
    (
        "huge pages that are not there",
        |_, c| set(c, &format!("{ETH1}{CORES}hugepages = \"always\"\n")),
        "huge-pages",
        Level::Fail,
        &["32 MiB", "vm.nr_hugepages", "not needed"],
    ),
    (
        "a core far from the NIC",
        |f, _| {
            uplink(f).numa_node = Some(1);
            f.machine.core_nodes = BTreeMap::from([(0, 0)]);
        },
        "numa",
        Level::Warn,
        &["core 0 is of NUMA node 0", "node 1"],
    ),
    (
        "next-hop objects",
        |f, _| {
            f.machine.settings.insert(gather::NEXT_HOP_COMPAT, "0".into());
        },
        "sysctl",
        Level::Warn,
        &["nexthop_compat_mode"],
    ),
];

const UPLINK: &[Row] = &[
    (
        "no such interface",
        |f, _| f.uplink = Ok(None),
        "uplink",
        Level::Fail,
        &["no interface eth1", "there are eth1"],
    ),
    (
        "a bond",
        |f, _| uplink(f).device = Err("bond0 is a bond: AF_XDP sockets receive nothing on one".into()),
        "uplink",
        Level::Fail,
        &["is a bond"],
    ),
    (
        "no MAC address",
        |f, _| uplink(f).link.mac = None,
        "uplink",
        Level::Fail,
        &["no MAC address"],
    ),
    (
        "a bridge",
        |f, _| {
            uplink(f).device = Ok(Link {
                kind: Some("bridge".into()),
                ..link(2, "eth1")
            })
        },
        "uplink",
        Level::Warn,
        &["is a bridge"],
    ),
    (
        "set down",
        |f, _| uplink(f).link.up = false,
        "link",
        Level::Fail,
        &["ip link set dev eth1 up"],
    ),
    (
        "no carrier",
        |f, _| uplink(f).link.running = false,
        "link",
        Level::Warn,
        &["carrier"],
    ),
    (
        "no address",
        |f, _| f.network = network(&["eth1"], &[]),
        "link",
        Level::Fail,
        &["eth1 has no address"],
    ),
    (
        "too many queues asked for",
        |_, c| set(c, &format!("{ETH1}queues = 16\n{CORES}")),
        "queues",
        Level::Fail,
        &["16", "at most 8"],
    ),
    (
        "more workers than queues",
        |f, c| {
            uplink(f).queues = Ok((1, 8));
            set(c, &format!("{ETH1}[workers]\ncores = [0, 1]\n"));
        },
        "queues",
        Level::Warn,
        &["1 for 2 workers"],
    ),
    (
        "every queue left to the kernel",
        |_, c| set(c, &format!("{ETH1}kernel-queues = [0, 1]\n{CORES}")),
        "queues",
        Level::Fail,
        &["ethtool -L eth1"],
    ),
    (
        "somebody else's program",
        |f, _| {
            uplink(f).program = Ok(Some(AttachedProgram {
                id: 77,
                name: "cil_xdp_entry".into(),
                tag: [0; 8],
                mode: AttachedMode::Native,
            }));
        },
        "xdp-program",
        Level::Fail,
        &["id 77", "cil_xdp_entry", "ip link set dev eth1 xdp off"],
    ),
    (
        "a hidden program",
        |f, _| uplink(f).program = Err("needs CAP_SYS_ADMIN".into()),
        "xdp-program",
        Level::Unseen,
        &["CAP_SYS_ADMIN"],
    ),
    (
        "no native XDP",
        |f, _| uplink(f).features = Ok(XdpFeatures::default()),
        "xdp-mode",
        Level::Warn,
        &["ice", "generic", "slower"],
    ),
    (
        "no native XDP where it is asked for",
        |f, c| {
            uplink(f).features = Ok(XdpFeatures::default());
            set(c, &format!("{ETH1}xdp-mode = \"native\"\n{CORES}"));
        },
        "xdp-mode",
        Level::Fail,
        &["xdp-mode = \"auto\""],
    ),
    (
        "a kernel that does not tell",
        |f, _| uplink(f).features = Err("no family netdev".into()),
        "xdp-mode",
        Level::Unseen,
        &["netdev"],
    ),
    (
        "no zero-copy where it is asked for",
        |f, c| {
            uplink(f).features.as_mut().unwrap().zero_copy = false;
            set(c, &format!("{ETH1}mode = \"zero-copy\"\n{CORES}"));
        },
        "zero-copy",
        Level::Fail,
        &["ice does not offer it"],
    ),
    (
        "a merging NIC",
        |f, _| uplink(f).merging = Ok(vec!["rx-lro".into()]),
        "offloads",
        Level::Warn,
        &["rx-lro", "ethtool -K eth1 rx-lro off"],
    ),
    (
        "a small MTU",
        |f, _| uplink(f).link.mtu = 1300,
        "mtu",
        Level::Fail,
        &["leaves pods 1230", "1280"],
    ),
    (
        "a large MTU and no jumbo",
        |f, c| {
            uplink(f).link.mtu = 9000;
            set(c, &format!("{ETH1}{CORES}jumbo = \"off\"\n"));
        },
        "mtu",
        Level::Warn,
        &["9000", "1778", "jumbo"],
    ),
    (
        "pods that believe in more",
        |f, _| f.flannel_mtu = Some(1500),
        "pod-mtu",
        Level::Warn,
        &["1500", "1450"],
    ),
];

const REST: &[Row] = &[
    (
        "ports given out",
        |f, _| f.ports.given_out = Ok((33_000, 65_535)),
        "snat-ports",
        Level::Fail,
        &["61000-65535", "33000-65535", "33000 60999"],
    ),
    (
        "node ports among the kernel's",
        |f, _| f.ports.given_out = Ok((20_000, 60_999)),
        "node-ports",
        Level::Warn,
        &["30000-32767", "ip_local_reserved_ports"],
    ),
    (
        "node ports among source NAT's",
        |_, c| {
            set(
                c,
                &format!("{ETH1}{CORES}[services]\nnode-port-range = \"60000-62000\"\n"),
            )
        },
        "node-ports",
        Level::Fail,
        &["60000-62000", "61000-65535"],
    ),
    (
        "a subnet among the Services",
        |f, _| f.network = network(&["eth1", "eth2"], &[(2, "192.0.2.1/24"), (3, "10.97.1.5/24")]),
        "service-cidrs",
        Level::Fail,
        &["10.96.0.0/12", "10.97.1.0/24", "eth2"],
    ),
    (
        "a subnet around the pods",
        |f, _| f.network = network(&["eth1"], &[(2, "10.244.2.3/14")]),
        "pod-cidrs",
        Level::Fail,
        &["10.244.0.0/16", "10.244.0.0/14", "eth1"],
    ),
    (
        "pods among the Services",
        |f, _| f.pod_cidrs = Ok(vec!["10.96.3.0/24".parse::<IpNet>().unwrap()]),
        "pod-cidrs",
        Level::Fail,
        &["10.96.3.0/24", "10.96.0.0/12"],
    ),
    (
        "unknown pods",
        |f, _| f.pod_cidrs = Err("no folder".into()),
        "pod-cidrs",
        Level::Unseen,
        &["no folder"],
    ),
    (
        "flannel's devices",
        |f, _| {
            f.network = network(
                &["eth1", "flannel.1", "cni0"],
                &[(2, "192.0.2.1/24"), (4, "10.244.1.1/24")],
            )
        },
        "interfaces",
        Level::Warn,
        &["flannel has left flannel.1, cni0", "migrate.md"],
    ),
    (
        "kube-proxy's chains",
        |f, _| {
            let chain = |table: &str, chain: &str| ChainName {
                table: table.into(),
                chain: chain.into(),
            };
            f.filters.chains = Ok(vec![
                chain("nat", "KUBE-SERVICES"),
                chain("filter", "KUBE-FIREWALL"),
                chain("nat", "OUTPUT"),
            ]);
        },
        "packet-filter",
        Level::Warn,
        &["nat KUBE-SERVICES ->"],
    ),
    (
        "kube-proxy's table",
        |f, _| {
            f.filters.chains = Ok(vec![ChainName {
                table: "kube-proxy".into(),
                chain: "services".into(),
            }])
        },
        "packet-filter",
        Level::Warn,
        &["kube-proxy services"],
    ),
    (
        "the older iptables",
        |f, _| f.filters.legacy = Ok(vec!["nat".into()]),
        "packet-filter",
        Level::Warn,
        &["iptables-legacy-save"],
    ),
    (
        "no nf_tables",
        |f, _| f.filters.has_nftables = Ok(false),
        "nftables",
        Level::Warn,
        &["CONFIG_NF_TABLES"],
    ),
    (
        "full conntrack",
        |f, _| f.filters.conntrack = Some((95, 100)),
        "conntrack",
        Level::Warn,
        &["95", "100"],
    ),
    (
        "no plugin",
        |f, _| f.cni.plugin = Ok(false),
        "cni-plugin",
        Level::Warn,
        &["/opt/cni/bin/millrace-cni", "millrace install"],
    ),
    (
        "no network",
        |f, _| f.cni.networks = Ok(Vec::new()),
        "cni-network",
        Level::Warn,
        &["no network configuration"],
    ),
    (
        "another network first",
        |f, _| f.cni.networks = Ok(vec!["10-flannel.conflist".into(), CONFLIST.into()]),
        "cni-network",
        Level::Warn,
        &["10-flannel.conflist", "sets it aside"],
    ),
    (
        "another socket",
        |f, _| f.cni.socket = Some("/run/other.sock".into()),
        "cni-network",
        Level::Warn,
        &["/run/other.sock", "/run/millrace/millrace.sock"],
    ),
];

#[test]
fn a_good_host_is_good() {
    let (facts, config) = good();
    let report = judge(&facts, &config);
    for finding in &report.findings {
        assert_eq!((finding.level, &finding.to_do), (Level::Ok, &None), "{finding:?}");
    }
    assert!(report.is_good());
}

#[test]
fn each_fault_is_found_by_its_check_alone_with_what_to_do() {
    for (name, plant, check, level, words) in [MACHINE, UPLINK, REST].concat() {
        let (mut facts, mut config) = good();
        plant(&mut facts, &mut config);
        let report = judge(&facts, &config);
        // What is wrong with rights shows in two places.
        let is_told = |finding: &&Finding| finding.check == check || finding.check != "capabilities";
        let wrong: Vec<_> = report
            .findings
            .iter()
            .filter(|finding| finding.level != Level::Ok)
            .filter(is_told)
            .collect();
        let [finding] = wrong.as_slice() else {
            panic!("{name}: {wrong:?}");
        };
        assert_eq!(
            (finding.check, finding.level),
            (check, level),
            "{name}: {finding:?}"
        );
        let line = report
            .to_string()
            .lines()
            .find(|line| line.starts_with(&format!("{level:<7} {check:<14} ")))
            .unwrap()
            .to_owned();
        for word in words {
            assert!(line.contains(word), "{name}: {word:?} is not in {line}");
        }
        assert_eq!(finding.to_do.is_some(), level != Level::Unseen, "{name}");
        assert_eq!(report.is_good(), level != Level::Fail, "{name}");
    }
}

#[test]
fn a_report_is_a_table_with_a_sum_and_its_json_says_the_same() {
    let (mut facts, config) = good();
    uplink(&mut facts).link.mtu = 1300;
    let report = judge(&facts, &config);
    let text = report.to_string();
    let line = text.lines().find(|line| line.starts_with("fail")).unwrap();
    assert!(
        line.starts_with("fail    mtu            1300 on eth1") && line.contains(" -> "),
        "{line}"
    );
    assert!(text.ends_with(" 1 to put right, 0 not looked at\n"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    let found = json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["level"] == "fail")
        .unwrap();
    assert_eq!(found["check"], "mtu");
    assert!(found["to-do"].as_str().unwrap().contains("mtu 1500"), "{found}");
}

#[test]
fn without_tap_devices_there_is_a_hint_and_no_fault() {
    let (mut facts, config) = good();
    facts.machine.taps = Err("cannot open /dev/net/tun: No such file or directory".into());
    let report = judge(&facts, &config);
    let taps = report.findings.iter().find(|finding| finding.check == "taps");
    let taps = taps.unwrap();
    assert_eq!(taps.level, Level::Ok);
    for word in ["/dev/net/tun", "--tap", "modprobe tun"] {
        assert!(taps.found.contains(word), "{taps:?}");
    }
}
