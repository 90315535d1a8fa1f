use super::*;
use crate::objects::{Network, NetworkChoice};

/// The shortest node file.
const SHORTEST: &str = "\
[node]
name = \"node-a\"
manifests = \"/m\"
[uplink]
interface = \"eth1\"
[workers]
cores = [0]
";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/millrace/millrace.toml"))
}

/// The documented example.
fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/millrace.toml");
    fs::read_to_string(path).unwrap()
}

/// Every key with its table, and its value, of a node file as it would be written.
fn keys(config: &Config) -> Vec<(String, String, toml::Value)> {
    let toml::Value::Table(tables) = toml::Value::try_from(config).unwrap() else {
        panic!("no table")
    };
    let mut keys = Vec::new();
    for (table, values) in tables {
        let toml::Value::Table(values) = values else {
            panic!("[{table}] is no table")
        };
        keys.extend(values.into_iter().map(|(key, value)| (table.clone(), key, value)));
    }
    keys
}

#[test]
fn the_shortest_file_has_all_defaults() {
    let config = parse(SHORTEST).unwrap();
    assert_eq!(config.node.name.as_str(), "node-a");
    assert_eq!(config.objects(), ObjectSource::Folder(Path::new("/m")));
    assert_eq!(config.node.state_dir, Path::new("/run/millrace"));
    assert_eq!(
        (config.uplink.interface.as_str(), config.uplink.xdp_mode),
        ("eth1", XdpMode::Auto)
    );
    assert_eq!(config.workers.cores.as_slice(), [0]);
    assert_eq!(
        (
            config.workers.frames.get(),
            config.workers.batch.get(),
            config.workers.idle
        ),
        (16_384, 64, Idle::Sleep)
    );
    assert_eq!(config.host_port.name.kernel_side().as_str(), "millrace0");
    assert_eq!(config.host_port.name.switch_side().as_str(), "millrace0p");
    assert_eq!(
        (
            config.overlay.kind,
            config.overlay.vni_in(Network::Flannel).get(),
            config.overlay.port_in(Network::Flannel).get()
        ),
        (OverlayKind::Vxlan, 1, 8472)
    );
    assert_eq!(
        (
            config.overlay.network,
            config.overlay.vni_in(Network::Calico).get(),
            config.overlay.port_in(Network::Calico).get(),
            config.overlay.direct_routing
        ),
        (NetworkChoice::Auto, 4096, 4789, false)
    );
    assert_eq!(
        (
            config.slow_path.queue.get(),
            config.slow_path.icmp_errors_per_second.get()
        ),
        (1024, 1000)
    );
    // A table that is there but empty is as good as one that is not.
    assert_eq!(
        parse(&format!(
            "{SHORTEST}[host-port]\n[overlay]\n[flows]\n[slow-path]\n"
        ))
        .unwrap(),
        config
    );
}

#[test]
fn every_key_can_be_set() {
    let text = "\
[node]
name = \"n.example\"
manifests = \"m\"
state-dir = \"s\"
[uplink]
interface = \"ens3f0np0.1\"
xdp-mode = \"generic\"
mode = \"copy\"
queues = 8
kernel-queues = [0, 7]
rx-ring = 4096
tx-ring = 512
socket-ring = 16384
busy-poll = true
busy-poll-budget = 1
busy-poll-usecs = 1000000
defer-hard-irqs = 0
[workers]
cores = [3, 1]
frames = 1024
batch = 1
idle = \"poll\"
hugepages = \"always\"
jumbo = \"off\"
spread = \"auto\"
[host-port]
name = \"fourteen-chars\"
[overlay]
network = \"calico\"
kind = \"ipip\"
direct-routing = true
vni = 4096
port = 65535
masquerade = false
masquerade-protocols = [\"gre\", \"253\"]
clamp-mss = false
[services]
cidrs = [\"10.43.0.0/16\", \"fd00:43::/112\"]
node-port-range = \"20000-20999\"
snat-ports = \"40000-49999\"
backend-choice = \"random\"
hash-seed = 4294967295
reset-removed-endpoints = true
health-port = 0
[flows]
ipv4 = 1
ipv6 = 16777216
per-pod = 0
loose = false
tcp-established-seconds = 2592000
tcp-half-open-seconds = 1
tcp-half-closed-seconds = 2
udp-seconds = 3
udp-replied-seconds = 4
icmp-seconds = 5
[load-balancer]
default-class = false
announce = \"route\"
lease-ms = 500
lease-namespace = \"millrace\"
route-table = 252
state-dir = \"l\"
[[load-balancer.pools]]
name = \"p\"
addresses = [\"198.51.100.0/28\", \"198.51.100.20-198.51.100.29\", \"2001:db8::7\"]
auto-assign = false
skip-0-and-255 = true
namespaces = [\"web\"]
namespace-labels = { team = \"a\" }
service-labels = { tier = \"front\" }
[dns]
addresses = [\"10.43.0.10\", \"fd00:43::a\"]
domain = \"k8s.example\"
port = 5353
ttl-seconds = 30
upstreams = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]
resolv-conf = \"/etc/other.conf\"
queries-per-second = 0
[metrics]
listen = \"[2001:db8::1]:9631\"
[slow-path]
queue = 65536
icmp-errors-per-second = 0
";
    let config = parse(text).unwrap();
    // A relative path begins at the node file.
    assert_eq!(
        config.objects(),
        ObjectSource::Folder(Path::new("/etc/millrace/m"))
    );
    assert_eq!(config.node.state_dir, Path::new("/etc/millrace/s"));
    assert_eq!(config.workers.cores.as_slice(), [3, 1]);
    assert_eq!(
        (config.uplink.xdp_mode, config.workers.idle, config.overlay.kind),
        (XdpMode::Generic, Idle::Poll, OverlayKind::Ipip)
    );
    assert_eq!(config.host_port.name.switch_side().as_str(), "fourteen-charsp");
    assert_eq!(config.workers.spread, Spread::Auto);
    let services = &config.services;
    assert_eq!(
        (services.node_port_range.first(), services.node_port_range.last()),
        (20_000, 20_999)
    );
    assert!(services.snat_ports.contains(49_999) && !services.snat_ports.contains(50_000));
    // What is written is what was read, for every key: so none is left out of the file above either.
    let written = toml::Value::try_from(&config).unwrap();
    let absolute = text
        .replace("\"m\"", "\"/etc/millrace/m\"")
        .replace("\"s\"", "\"/etc/millrace/s\"")
        .replace("\"l\"", "\"/etc/millrace/l\"");
    assert_eq!(written, toml::Value::Table(absolute.parse().unwrap()));
}

/// Nodes of different versions of this program must choose alike: the values are part of the contract.
#[test]
fn a_hash_seed_always_makes_the_same_key() {
    let hash = |seed: &str| {
        let config = parse(&format!("{SHORTEST}[services]\nhash-seed = {seed}\n")).unwrap();
        config.services.hash_seed.key().hash([1, 2, 3])
    };
    assert_eq!(hash("0"), HASH_OF_SEED_0);
    assert_ne!(hash("1"), hash("0"));
}

const HASH_OF_SEED_0: u64 = 15_851_535_793_851_468_859;

/// A line of the shortest file, what to put in its place, and the error.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "name = \"node-a\"",
        "name = \"Node\"",
        ":2: node.name: `Node` is no DNS-1123 subdomain: at most 253 characters of a-z",
    ),
    (
        "name = \"node-a\"",
        "name = 7",
        ":2: node.name: invalid type: integer `7`, expected a string",
    ),
    ("name = \"node-a\"", "", ":1: node: missing field `name`"),
    (
        "manifests = \"/m\"",
        "",
        ": node.manifests: it is missing; name a folder of manifests, or add [kubernetes]",
    ),
    (
        "[uplink]",
        "[kubernetes]\n[uplink]",
        ":3: node.manifests: there is a [kubernetes] too; leave out the one",
    ),
    (
        "manifests = \"/m\"\n",
        "[kubernetes]\nserver = \"http://192.0.2.1\"\n",
        ":4: kubernetes.server: `http://192.0.2.1` would have the token travel in the clear",
    ),
    (
        "manifests = \"/m\"\n",
        "[kubernetes]\nserver = \"https://192.0.2.1\"\nkubeconfig = \"k\"\n",
        ":4: kubernetes.server: kubeconfig says it already",
    ),
    (
        "manifests = \"/m\"\n",
        "[kubernetes]\npod-network = [\"10.0.0.0/8\", \"10.244.0.0/16\"]\n",
        ":4: kubernetes.pod-network: both are of one family",
    ),
    (
        "manifests = \"/m\"\n",
        "[kubernetes]\ntoken = \"x\"\n",
        ":4: kubernetes.token: unknown field `token`, expected one of `server`",
    ),
    ("[uplink]\ninterface = \"eth1\"", "", ":1: missing field `uplink`"),
    (
        "interface = \"eth1\"",
        "interface = \"sixteen-chars-xx\"",
        ":5: uplink.interface: `sixteen-chars-xx` has 16 characters, at most 15 are allowed",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"\"",
        ":5: uplink.interface: `` is no interface name",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"a/b\"",
        ":5: uplink.interface: `a/b` is no interface name, use 1 to 15 characters without space, `/` and `:`",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"..\"",
        ":5: uplink.interface: `..` is no interface name",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"a\\nb\"",
        ":5: uplink.interface: `a\\nb` is no interface name",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nmtu = 1500",
        ":6: uplink.mtu: unknown field `mtu`, expected one of `interface`, `xdp-mode`, `mode`",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nxdp-mode = \"fast\"",
        ":6: uplink.xdp-mode: invalid value: string \"fast\", expected \"auto\" or \"native\" or \"generic\"",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nmode = \"fast\"",
        ":6: uplink.mode: invalid value: string \"fast\", expected \"auto\" or \"zero-copy\" or \"copy\"",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nxdp-mode = \"generic\"\nmode = \"zero-copy\"",
        ":7: uplink.mode: `zero-copy` needs the steering program in the driver; xdp-mode \"native\"",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nqueues = 2\nkernel-queues = [2]",
        ":7: uplink.kernel-queues: there is no queue 2 among 2: they count from 0",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nqueues = 2\nkernel-queues = [1, 0]",
        ":7: uplink.kernel-queues: all 2 queues are left to the kernel",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nkernel-queues = [1, 1]",
        ":6: uplink.kernel-queues: queue 1 is there twice",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nqueues = 0",
        ":6: uplink.queues: 0 is out of range, it must be within 1..=1024",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nsocket-ring = 1000",
        ":6: uplink.socket-ring: 1000 is no power of two, the nearest are 512 and 1024",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nsocket-ring = 32",
        ":6: uplink.socket-ring: 32 is out of range, it must be within 64..=16384",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\nbusy-poll-usecs = 0",
        ":6: uplink.busy-poll-usecs: 0 is out of range, it must be within 1..=1000000",
    ),
    (
        "cores = [0]",
        "cores = [0]\nhugepages = true",
        ":8: workers.hugepages: invalid type: boolean `true`, expected \"auto\" or \"always\" or \"never\"",
    ),
    (
        "interface = \"eth1\"",
        "interface = \"eth1\"\ninterface = \"eth2\"",
        ":6: duplicate key",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[load-balancer]\nannounce = \"bgp\"",
        ":9: load-balancer.announce: invalid value: string \"bgp\", expected \"local\" or \"route\" or \"none\"",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[load-balancer]\nlease-ms = 100",
        ":9: load-balancer.lease-ms: 100 is out of range, it must be within 500..=60000",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[load-balancer]\nroute-table = 254",
        ":9: load-balancer.route-table: 254 is out of range, it must be within 1..=252",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[[load-balancer.pools]]\naddresses = [\"192.0.2.0/24\"]",
        ":8: load-balancer.pools[0]: missing field `name`",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[[load-balancer.pools]]\nname = \"p\"\naddresses = []",
        ":8: load-balancer.pools[0].addresses: a pool needs at least one address",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[[load-balancer.pools]]\nname = \"P\"\naddresses = [\"192.0.2.1\"]",
        ":8: load-balancer.pools[0].name: `P` is no DNS-1123 label",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[[load-balancer.pools]]\nname = \"p\"\naddresses = [\"192.0.2.1/24\"]",
        ":10: load-balancer.pools[0].addresses[0]: `192.0.2.1/24` has bits after its prefix, write 192.0.2.0/24",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[[load-balancer.pools]]\nname = \"p\"\naddresses = [\"192.0.2.1-192.0.2.9\", \"192.0.2.8/30\"]",
        ":8: load-balancer.pools[0].addresses: `192.0.2.8/30` overlaps `192.0.2.1-192.0.2.9` of pool `p`",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[[load-balancer.pools]]\nname = \"p\"\naddresses = [\"192.0.2.1\"]\n[[load-balancer.pools]]\nname = \"p\"\naddresses = [\"192.0.2.2\"]",
        ":8: load-balancer.pools[1].name: another pool is `p` too",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[[load-balancer.pools]]\nname = \"p\"\naddresses = [\"10.0.0.0/8\"]",
        ":8: load-balancer.pools[0].addresses: `10.0.0.0/8` overlaps 10.96.0.0/12 of services.cidrs",
    ),
    ("cores = [0]", "", ":6: workers: missing field `cores`"),
    (
        "cores = [0]",
        "cores = []",
        ":7: workers.cores: it is empty, name at least one core",
    ),
    (
        "cores = [0]",
        "cores = [0, 2, 0]",
        ":7: workers.cores: core 0 is there twice",
    ),
    (
        "cores = [0]",
        "cores = [-1]",
        ":7: workers.cores[0]: -1 is out of range, it must be within 0..=1023",
    ),
    (
        "cores = [0]",
        "cores = [1024]",
        ":7: workers.cores[0]: 1024 is out of range",
    ),
    (
        "cores = [0]",
        "cores = 0",
        ":7: workers.cores: invalid type: integer `0`, expected a sequence",
    ),
    (
        "cores = [0]",
        "cores = [0]\nframes = 1000",
        ":8: workers.frames: 1000 is out of range, it must be within 1024..=262144",
    ),
    (
        "cores = [0]",
        "cores = [0]\nframes = 524288",
        ":8: workers.frames: 524288 is out of range",
    ),
    (
        "cores = [0]",
        "cores = [0]\nframes = 3000",
        ":8: workers.frames: 3000 is no power of two, the nearest are 2048 and 4096",
    ),
    (
        "cores = [0]",
        "cores = [0]\nbatch = 0",
        ":8: workers.batch: 0 is out of range, it must be within 1..=64",
    ),
    (
        "cores = [0]",
        "cores = [0]\nbatch = 65",
        ":8: workers.batch: 65 is out of range",
    ),
    (
        "cores = [0]",
        "cores = [0]\nbatch = -9223372036854775808",
        ":8: workers.batch: -9223372036854775808 is out of range",
    ),
    (
        "cores = [0]",
        "cores = [0]\nbatch = 1.5",
        ":8: workers.batch: invalid type: floating point `1.5`",
    ),
    (
        "cores = [0]",
        "cores = [0]\nidle = true",
        ":8: workers.idle: invalid type: boolean `true`, expected \"sleep\" or \"poll\"",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[host-port]\nname = \"fifteen-chars-x\"",
        ":9: host-port.name: `fifteen-chars-x` has 15 characters, at most 14 are allowed",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[host-port]\nname = \"eth1\"",
        ":9: host-port.name: `eth1` makes the interfaces eth1 and eth1p, one of which is the uplink",
    ),
    (
        "\"eth1\"",
        "\"upp\"\n[host-port]\nname = \"up\"",
        ":7: host-port.name: `up` makes the interfaces up and upp, one of which is the uplink",
    ),
    (
        "\"eth1\"",
        "\"millrace0p\"",
        ":5: uplink.interface: `millrace0p` is an interface that host-port.name `millrace0` makes",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nkind = \"geneve\"",
        ":9: overlay.kind: invalid value: string \"geneve\", expected \"vxlan\" or \"ipip\"",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nnetwork = \"weave\"",
        ":9: overlay.network: invalid value: string \"weave\", expected \"auto\"",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nvni = 0",
        ":9: overlay.vni: 0 is out of range, it must be within 1..=16777215",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nvni = 16777216",
        ":9: overlay.vni: 16777216 is out of range",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nmasquerade-protocols = [\"esp\", \"tls\"]",
        ":9: overlay.masquerade-protocols[1]: `tls` is no protocol, write one of gre, esp, ipv6, l2tp or a number",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nmasquerade-protocols = [\"17\"]",
        ":9: overlay.masquerade-protocols[0]: `17` has ports and needs no leave; leave it out",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nmasquerade-protocols = [\"51\"]",
        ":9: overlay.masquerade-protocols[0]: `51` is AH, which authenticates addresses",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nmasquerade-protocols = [\"89\"]",
        ":9: overlay.masquerade-protocols[0]: `89` is what routers speak: IGMP, EIGRP, OSPF, PIM and VRRP are the node's",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nport = 0",
        ":9: overlay.port: 0 is out of range, it must be within 1..=65535",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[overlay]\nport = 65536",
        ":9: overlay.port: 65536 is out of range",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[slow-path]\nqueue = 0",
        ":9: slow-path.queue: 0 is out of range, it must be within 1..=65536",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[slow-path]\nicmp-errors-per-second = 1000001",
        ":9: slow-path.icmp-errors-per-second: 1000001 is out of range",
    ),
    (
        "cores = [0]",
        "cores = [0]\n[slow_path]\nqueue = 1",
        ":8: slow_path: unknown field `slow_path`, expected one of `node`, `kubernetes`",
    ),
    ("cores = [0]", "cores = [0", ":7: unclosed array"),
    ("cores = [0]", "cores", ":7: key with no value"),
    (
        "[node]",
        "node = 1\n[x]",
        ":1: node: invalid type: integer `1`, expected a table",
    ),
];

#[test]
fn what_is_wrong_is_said_on_one_line() {
    for (line, instead, expected) in WRONG {
        assert!(SHORTEST.contains(line), "{line}");
        let error = parse(&SHORTEST.replace(line, instead)).unwrap_err().to_string();
        let expected = format!("/etc/millrace/millrace.toml{expected}");
        assert!(
            error.starts_with(&expected),
            "{instead:?}:\n found    {error}\n expected {expected}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_file_that_is_not_there() {
    let error = Config::load(Path::new("/nowhere/millrace.toml"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "cannot read the node file /nowhere/millrace.toml: No such file or directory (os error 2)"
    );
}

/// The example shows each key, with its default where there is one, under a comment of its own.
#[test]
fn the_example_is_complete() {
    let text = example();
    let config = parse(&text).unwrap();
    let shortest = keys(&parse(SHORTEST).unwrap());
    let required = ["name", "manifests", "interface", "cores"];
    let parsed: toml::Table = text.parse().unwrap();
    for ((table, key, value), (_, _, default)) in keys(&config).into_iter().zip(shortest) {
        assert_eq!(
            parsed[&table].get(&key),
            Some(&value),
            "[{table}] {key} is not in the example"
        );
        let is_required = required.contains(&key.as_str()) && table != "host-port";
        assert!(
            is_required || value == default,
            "[{table}] {key}: {value} in the example, {default} by default"
        );
        let lines: Vec<&str> = text.lines().collect();
        let begin = lines
            .iter()
            .position(|line| *line == format!("[{table}]"))
            .unwrap();
        let at = begin
            + lines[begin..]
                .iter()
                .position(|line| line.starts_with(&format!("{key} = ")))
                .unwrap();
        assert!(lines[at - 1].starts_with("# "), "[{table}] {key} has no comment");
    }
}

#[test]
fn objects_from_an_api_server() {
    let text = SHORTEST.replace("manifests = \"/m\"\n", "[kubernetes]\n");
    let config = parse(&text).unwrap();
    let ObjectSource::Api(kubernetes) = config.objects() else {
        panic!("{config:?}")
    };
    assert_eq!(*kubernetes, Kubernetes::default());
    assert_eq!(
        kubernetes.token_file(),
        Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token")
    );
    // The example's commented table holds every key, with its default where there is one.
    let commented: String = example()
        .lines()
        .skip_while(|line| *line != "# [kubernetes]")
        .take_while(|line| *line != "[uplink]")
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .filter(|line| line.starts_with("[kubernetes]") || line.contains(" = "))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut shown: toml::Table = commented.parse().unwrap();
    let shown = shown.remove("kubernetes").unwrap();
    for key in [
        "server",
        "token-file",
        "ca-file",
        "kubeconfig",
        "events",
        "flannel-lease",
        "subnet-env",
        "pod-network",
    ] {
        assert!(shown.get(key).is_some(), "{key} is not in the example");
    }
    let toml::Value::Table(defaults) = toml::Value::try_from(Kubernetes::default()).unwrap() else {
        panic!("no table")
    };
    for (key, default) in defaults {
        assert_eq!(shown.get(&key), Some(&default), "{key}");
    }
}

proptest::proptest! {
    #[test]
    fn damaged_files_never_panic(
        at: proptest::sample::Index,
        byte: u8,
        insert: bool,
    ) {
        let mut bytes = example().into_bytes();
        let at = at.index(bytes.len());
        if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
        if let Err(error) = parse(&String::from_utf8_lossy(&bytes)) {
            proptest::prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}
