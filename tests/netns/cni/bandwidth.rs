//! Bandwidth: `bandwidth` of a runtime, as it has it from the annotations `kubernetes.io/ingress-bandwidth` and
//! `egress-bandwidth`.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use millrace_tools::lab::traffic::tcp_connect;
use serde_json::{Value, json};

use crate::runtime::{
    PATIENCE, Runtime, Sandbox, addresses, assert_reaches, daemon_mut, finish, lab, pod_ports, run,
};

/// In bits per second; so low that any machine sends faster.
pub(crate) const RATE: u64 = 20_000_000;
/// What a bucket of that rate holds where no burst is asked for, in bits.
const BURST: u64 = RATE / 4;
/// What is sent, in bytes: several times what the bucket holds.
const AMOUNT: usize = 4_000_000;

/// Sends so many bytes from one container to another over TCP; how long it took.
fn transfer(from: &Sandbox, (to, address): (&Sandbox, IpAddr), amount: usize) -> Duration {
    let listener = to
        .namespace
        .within(|| TcpListener::bind((address, 0)))
        .unwrap()
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return total,
                count => total += count,
            }
        }
    });
    let mut stream = tcp_connect(&from.namespace, SocketAddr::new(address, port), PATIENCE).unwrap();
    let start = Instant::now();
    stream.write_all(&vec![7; amount]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(received.join().unwrap(), amount);
    start.elapsed()
}

/// What a container gets of its rate, the burst left out.
pub(crate) fn assert_at_rate(from: &Sandbox, to: (&Sandbox, IpAddr), what: &str) {
    let elapsed = transfer(from, to, AMOUNT);
    let bits = (AMOUNT * 8) as f64 - BURST as f64;
    let ratio = bits / elapsed.as_secs_f64() / RATE as f64;
    assert!(
        (0.5..1.15).contains(&ratio),
        "{what}: {ratio} of the rate in {elapsed:?}"
    );
    println!("{what}: {ratio:.3} of the rate in {elapsed:?}");
}

/// The limits of a pod's port as rows of direction, rate and burst, and how many packets each has dropped.
fn limits(row: &Value) -> (Vec<(&str, u64, u64)>, Vec<u64>) {
    let limits: Vec<&Value> = row["limits"].as_array().into_iter().flatten().collect();
    let number = |limit: &Value, key: &str| limit[key].as_u64().unwrap();
    let rows = limits.iter().map(|limit| {
        let direction = limit["direction"].as_str().unwrap();
        (direction, number(limit, "rate"), number(limit, "burst"))
    });
    let dropped = limits.iter().map(|limit| number(limit, "dropped"));
    (rows.collect(), dropped.collect())
}

fn port_of(ports: &[Value], pod: &str) -> Value {
    let port = ports.iter().find(|row| row["pod"] == format!("lab/{pod}"));
    port.unwrap_or_else(|| panic!("no port of {pod}: {ports:?}"))
        .clone()
}

/// As containerd passes it on.
fn asked(rate: u64) -> Value {
    json!({"runtimeConfig": {"bandwidth": {
        "ingressRate": rate, "ingressBurst": u32::MAX, "egressRate": rate, "egressBurst": u32::MAX,
    }}})
}

#[test]
fn a_pod_has_its_bandwidth_each_way_also_after_a_restart_and_others_are_not_touched() {
    let mut lab = lab("cni-bandwidth", 1);
    let runtime = Runtime::new(&lab, "node-a");
    let [pod, plain, third] = ["slow", "plain", "third"].map(|name| Sandbox::new(&lab, name));
    let added = runtime.add_with(&pod, &asked(RATE)).unwrap();
    let others = [&plain, &third].map(|other| runtime.add(other).unwrap());
    let address = IpAddr::from(addresses(&added).0);
    let plain_at = (&plain, IpAddr::from(addresses(&others[0]).0));
    let third_at = (&third, IpAddr::from(addresses(&others[1]).0));
    assert_reaches(&plain, &added);
    let both = vec![("ingress", RATE, BURST), ("egress", RATE, BURST)];
    let port = port_of(&pod_ports(&lab, "node-a"), "slow");
    assert_eq!(limits(&port), (both.clone(), vec![0, 0]));

    assert_at_rate(&plain, (&pod, address), "to the pod");
    let port = port_of(&pod_ports(&lab, "node-a"), "slow");
    let (_, dropped) = limits(&port);
    assert!(dropped[0] > 0 && dropped[1] == 0, "{dropped:?}");
    assert_at_rate(&pod, plain_at, "from the pod");
    let port = port_of(&pod_ports(&lab, "node-a"), "slow");
    let (_, after) = limits(&port);
    assert!(after[0] == dropped[0] && after[1] > 0, "{after:?}");

    // Beside it: no limit, and none of what is counted is theirs.
    transfer(&plain, third_at, AMOUNT);
    let ports = pod_ports(&lab, "node-a");
    assert_eq!(limits(&port_of(&ports, "slow")).1, after);
    assert_eq!(limits(&port_of(&ports, "plain")), (vec![], vec![]));

    daemon_mut(&mut lab, "node-a").kill().unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    assert_reaches(&plain, &added);
    let port = port_of(&pod_ports(&lab, "node-a"), "slow");
    assert_eq!(limits(&port).0, both);
    assert_at_rate(&pod, plain_at, "from the pod, after a restart");
    let port = port_of(&pod_ports(&lab, "node-a"), "slow");
    assert!(limits(&port).1[1] > 0, "{port}");
    runtime.del(&pod).unwrap();
    runtime.del(&plain).unwrap();
    runtime.del(&third).unwrap();
    finish(lab, &[&runtime], vec![pod, plain, third]);
}

#[test]
fn who_asks_again_gets_other_rates_and_check_sees_whether_they_are_there() {
    let lab = lab("cni-rates", 1);
    let mut runtime = Runtime::new(&lab, "node-a");
    let pod = Sandbox::new(&lab, "slow");
    for (more, words) in [
        (json!({"egressRate": 999}), "egress rate 999: 1000 to"),
        (
            json!({"ingressRate": 1000, "ingressBurst": 34_359_738_361_u64}),
            "ingress burst",
        ),
    ] {
        let refused = runtime
            .add_with(&pod, &json!({"runtimeConfig": {"bandwidth": more}}))
            .unwrap_err();
        assert!(refused.code == 100 && refused.msg.contains(words), "{refused:?}");
    }
    assert_eq!(runtime.stored(), 0);
    let check = |runtime: &Runtime, more: &Value, added: &Value| {
        let config = runtime.config(&runtime.plugins[0], more, Some(added));
        run(runtime.command("CHECK", Some(&pod), "millrace-cni"), &config)
    };
    let burst = json!({"runtimeConfig": {"bandwidth": {"egressRate": 8_000_000, "egressBurst": 80_000_000}}});
    let steps = [
        (json!({}), vec![]),
        (
            asked(RATE),
            vec![("ingress", RATE, BURST), ("egress", RATE, BURST)],
        ),
        (burst, vec![("egress", 8_000_000, 80_000_000)]),
        (json!({}), vec![]),
    ];
    let mut interfaces = Vec::new();
    for (more, wanted) in &steps {
        let added = runtime.add_with(&pod, more).unwrap();
        let port = port_of(&pod_ports(&lab, "node-a"), "slow");
        assert_eq!(limits(&port).0, *wanted);
        assert_eq!(check(&runtime, more, &added), Ok(Value::Null));
        let other = json!({"runtimeConfig": {"bandwidth": {"ingressRate": 7_000_000}}});
        let refused = check(&runtime, &other, &added).unwrap_err();
        assert!(
            refused.code == 101 && refused.msg.contains("should be ingress 7 Mbit/s"),
            "{refused:?}"
        );
        interfaces.push((port["id"].clone(), added["interfaces"].clone()));
    }
    assert!(
        interfaces.windows(2).all(|pair| pair[0] == pair[1]),
        "the port stays: {interfaces:?}"
    );
    // The network's own rate, whatever the annotation says.
    runtime.plugins[0]["egressRate"] = json!(5_000_000);
    runtime.add_with(&pod, &asked(RATE)).unwrap();
    let port = port_of(&pod_ports(&lab, "node-a"), "slow");
    let both = vec![("ingress", RATE, BURST), ("egress", 5_000_000, 1_250_000)];
    assert_eq!(limits(&port).0, both);
    runtime.del(&pod).unwrap();
    finish(lab, &[&runtime], vec![pod]);
}
