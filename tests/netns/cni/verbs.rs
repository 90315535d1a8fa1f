//! Every verb, well and badly.

use millrace_tools::lab::traffic::{Ping, ping};
use serde_json::{Value, json};

use crate::runtime::{
    Refused, Runtime, Sandbox, addresses, assert_reaches, daemon, daemon_mut, finish, lab, pod_ports, run,
};

/// The code and a part of what is said.
fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, Refused>, code: u64, words: &str) {
    let refused = outcome.unwrap_err();
    assert_eq!(refused.code, code, "{refused:?}");
    assert!(refused.msg.contains(words), "{words} in {refused:?}");
}

#[test]
fn pods_of_both_families_reach_each_other_and_come_and_go() {
    let lab = lab("cni-verbs", 2);
    let (here, there) = (Runtime::new(&lab, "node-a"), Runtime::new(&lab, "node-b"));
    let (a, b, c) = (
        Sandbox::new(&lab, "web"),
        Sandbox::new(&lab, "db"),
        Sandbox::new(&lab, "far"),
    );
    here.status().unwrap();
    let (at_a, at_b, at_c) = (
        here.add(&a).unwrap(),
        here.add(&b).unwrap(),
        there.add(&c).unwrap(),
    );
    assert_result(&lab, &a, &at_a);
    assert_ne!(addresses(&at_a), addresses(&at_b));
    for (from, to) in [(&a, &at_b), (&b, &at_a), (&a, &at_c), (&c, &at_b)] {
        assert_reaches(from, to);
    }
    // As long as what is said, and no longer.
    let mtu = at_a["interfaces"][1]["mtu"].as_u64().unwrap() as u32;
    let full = ping(&a.namespace, addresses(&at_c).0.into(), &Ping::full_size(mtu)).unwrap();
    assert_eq!(full.received, full.sent);
    here.check(&a).unwrap();
    there.check(&c).unwrap();
    // Again: the same, and nothing was touched.
    let before = a.namespace.ip(&["-j", "link", "show", "eth0"]).unwrap();
    assert_eq!(here.add(&a).unwrap(), at_a);
    assert_eq!(a.namespace.ip(&["-j", "link", "show", "eth0"]).unwrap(), before);
    // Without a namespace, twice, and for a container that never was.
    here.del(&a).unwrap();
    here.del(&a).unwrap();
    let never = Sandbox::new(&lab, "never");
    here.del(&never).unwrap();
    assert_eq!((a.interfaces(), here.stored()), (vec![], 1));
    assert_refused(here.check(&a), 7, "prevResult");
    // An address just freed is not given again at once.
    let next = here.add(&a).unwrap();
    assert_ne!(addresses(&next), addresses(&at_a));
    let mut bare = here.command("DEL", Some(&a), "millrace-cni");
    bare.env_remove("CNI_NETNS").env_remove("CNI_ARGS");
    run(bare, &here.config(&here.plugins[0], &json!({}), None)).unwrap();
    here.del(&b).unwrap();
    there.del(&c).unwrap();
    finish(lab, &[&here, &there], vec![a, b, c, never]);
}

/// What ADD says is so.
fn assert_result(lab: &millrace_tools::lab::Lab, sandbox: &Sandbox, result: &Value) {
    let (v4, v6) = addresses(result);
    let port = &pod_ports(lab, "node-a")[0];
    assert_eq!(port["pod"], format!("lab/{}", sandbox.pod));
    assert_eq!(port["addresses"], json!([v4, v6]));
    let mtu = lab.node("node-a").unwrap().pod_mtu();
    assert_eq!(
        result["interfaces"],
        json!([
            {"name": port["interface"], "mac": port["mac"], "mtu": mtu},
            {"name": "eth0", "mac": port["peer_mac"], "mtu": mtu, "sandbox": sandbox.namespace.path()},
        ])
    );
    let inside =
        |what: &[&str]| -> Value { serde_json::from_str(&sandbox.namespace.ip(what).unwrap()).unwrap() };
    let link = &inside(&["-j", "-d", "link", "show", "eth0"])[0];
    assert_eq!((&link["address"], &link["mtu"]), (&port["peer_mac"], &json!(mtu)));
    assert_eq!(
        (&link["num_rx_queues"], &link["num_tx_queues"]),
        (&port["queues"], &port["queues"])
    );
    for (family, number) in [("-4", 0), ("-6", 1)] {
        let routes = inside(&["-j", family, "route", "show", "default"]);
        assert_eq!(routes[0]["gateway"], result["routes"][number]["gw"], "{routes}");
        assert_eq!(result["ips"][number]["gateway"], result["routes"][number]["gw"]);
    }
    let features = sandbox.namespace.run("ethtool", &["-k", "eth0"]).unwrap();
    for offload in ["tx-checksumming", "tcp-segmentation-offload"] {
        assert!(features.contains(&format!("{offload}: off")), "{features}");
    }
}

#[test]
fn check_tells_whatever_is_not_as_it_was_made_and_add_makes_it_anew() {
    let lab = lab("cni-check", 1);
    let runtime = Runtime::new(&lab, "node-a");
    let pod = Sandbox::new(&lab, "web");
    let added = runtime.add(&pod).unwrap();
    let (v4, _) = addresses(&added);
    let host = added["interfaces"][0]["name"].as_str().unwrap();
    let node = lab.node("node-a").unwrap().namespace();
    let address = format!("{v4}/32");
    let inside = |what: &[&str]| drop(pod.namespace.ip(what).unwrap());
    let breaks: [(&dyn Fn(), &str); 6] = [
        (
            &|| inside(&["address", "del", &address, "dev", "eth0"]),
            "lacks the address",
        ),
        (&|| inside(&["-6", "route", "del", "default"]), "no default route"),
        (
            &|| inside(&["link", "set", "eth0", "address", "02:00:00:00:99:99"]),
            "another MAC address",
        ),
        (&|| inside(&["link", "set", "eth0", "down"]), "is down"),
        (
            &|| drop(node.ip(&["link", "set", host, "down"]).unwrap()),
            "is down",
        ),
        (&|| inside(&["link", "del", "eth0"]), ""),
    ];
    for (break_it, words) in breaks {
        runtime.check(&pod).unwrap();
        break_it();
        assert_refused(runtime.check(&pod), 101, words);
        // A runtime that asks again has it whole, under the addresses that it was told.
        assert_eq!(addresses(&runtime.add(&pod).unwrap()), addresses(&added));
    }
    runtime.check(&pod).unwrap();
    let file = runtime.data.join(format!("pods@{}@eth0", pod.id));
    std::fs::rename(&file, runtime.data.join(".away")).unwrap();
    assert_refused(runtime.check(&pod), 101, "nothing is written down");
    std::fs::rename(runtime.data.join(".away"), &file).unwrap();
    runtime.del(&pod).unwrap();
    finish(lab, &[&runtime], vec![pod]);
}

#[test]
fn a_new_container_of_a_pod_takes_the_place_of_the_old_one() {
    let lab = lab("cni-again", 1);
    let runtime = Runtime::new(&lab, "node-a");
    let (old, new) = (Sandbox::new(&lab, "web"), Sandbox::again(&lab, "web", 2));
    runtime.add(&old).unwrap();
    let added = runtime.add(&new).unwrap();
    assert_eq!(old.interfaces(), Vec::<String>::new());
    // The old one's end comes late, and is nothing to the new one.
    runtime.del(&old).unwrap();
    runtime.check(&new).unwrap();
    assert_eq!(
        pod_ports(&lab, "node-a")[0]["addresses"][0],
        json!(addresses(&added).0)
    );
    let second = Sandbox {
        interface: "net1".to_owned(),
        namespace: lab.namespace("web-net1").unwrap(),
        ..Sandbox::again(&lab, "web", 3)
    };
    let second = Sandbox {
        id: new.id.clone(),
        ..second
    };
    assert_refused(runtime.add(&second), 100, "a pod has one");
    assert_eq!(runtime.stored(), 1);
    runtime.del(&new).unwrap();
    finish(lab, &[&runtime], vec![old, new, second]);
}

#[test]
fn what_is_not_named_goes_and_the_rest_stays() {
    let lab = lab("cni-gc", 1);
    let runtime = Runtime::new(&lab, "node-a");
    let pods: Vec<Sandbox> = (0..4)
        .map(|number| Sandbox::new(&lab, &format!("p{number}")))
        .collect();
    for pod in &pods {
        runtime.add(pod).unwrap();
    }
    // One that is made by hand is nobody's to take away.
    let own = lab.namespace("by-hand").unwrap();
    let path = own.path();
    let words = [
        "attach",
        "lab/hand",
        "--netns",
        path.to_str().unwrap(),
        "--address",
        "10.244.1.200",
    ];
    daemon(&lab, "node-a").client_output(&words).unwrap();
    // One of which the store knows nothing, one of which the daemon knows nothing.
    std::fs::remove_file(runtime.data.join(format!("pods@{}@eth0", pods[1].id))).unwrap();
    daemon(&lab, "node-a")
        .client_output(&["detach", "lab/p2"])
        .unwrap();
    runtime.gc(&[&pods[0]]).unwrap();
    runtime.check(&pods[0]).unwrap();
    assert_eq!(runtime.stored(), 1);
    let left: Vec<Value> = pod_ports(&lab, "node-a")
        .iter()
        .map(|port| port["pod"].clone())
        .collect();
    assert_eq!(left, ["lab/p0", "lab/hand"]);
    daemon(&lab, "node-a")
        .client_output(&["detach", "lab/hand"])
        .unwrap();
    runtime.gc(&[]).unwrap();
    drop(own);
    finish(lab, &[&runtime], pods);
}

#[test]
fn without_a_daemon_nothing_is_added_and_everything_can_go() {
    let mut lab = lab("cni-away", 1);
    let runtime = Runtime::new(&lab, "node-a");
    let (a, b, c) = (
        Sandbox::new(&lab, "a"),
        Sandbox::new(&lab, "b"),
        Sandbox::new(&lab, "c"),
    );
    let at_a = runtime.add(&a).unwrap();
    runtime.add(&b).unwrap();
    let indexes = || a.namespace.ip(&["-j", "link", "show", "eth0"]).unwrap();
    let before = indexes();
    daemon_mut(&mut lab, "node-a").kill().unwrap();
    assert_refused(runtime.add(&c), 11, "does not answer at");
    assert_refused(runtime.check(&a), 11, "does not answer at");
    assert_refused(runtime.status(), 51, "does not answer at");
    assert_eq!(runtime.stored(), 2);
    runtime.del(&b).unwrap();
    runtime.del(&b).unwrap();
    runtime.del(&c).unwrap();
    assert_eq!((runtime.stored(), b.interfaces()), (1, vec![]));
    daemon_mut(&mut lab, "node-a").start().unwrap();
    // Its port was taken up again, and its interface is the one that it was.
    assert_eq!(pod_ports(&lab, "node-a").len(), 1);
    runtime.check(&a).unwrap();
    assert_eq!(indexes(), before);
    runtime.status().unwrap();
    runtime.add(&c).unwrap();
    assert_reaches(&c, &at_a);
    // It all can go with nobody there.
    daemon_mut(&mut lab, "node-a").stop().unwrap();
    runtime.gc(&[&c]).unwrap();
    runtime.del(&c).unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    finish(lab, &[&runtime], vec![a, b, c]);
}

#[test]
fn whatever_cannot_be_is_refused_in_the_specifications_words() {
    let lab = lab("cni-refused", 1);
    let mut runtime = Runtime::new(&lab, "node-a");
    let pod = Sandbox::new(&lab, "web");
    let config = runtime.config(&runtime.plugins[0], &json!({}), None);
    let version = run(
        runtime.command("VERSION", None, "millrace-cni"),
        &json!({"cniVersion": "1.0.0"}),
    )
    .unwrap();
    assert_eq!(
        version,
        json!({"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
    );
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        run(runtime.command("ADD", Some(&pod), "millrace-cni"), &config)
    };
    assert_refused(with("cniVersion", json!("0.2.0")), 1, "0.2.0");
    assert_refused(with("sockt", json!("x")), 2, "sockt");
    assert_refused(with("name", json!("a b")), 7, "name");
    assert_refused(
        with("runtimeConfig", json!({"bandwidth": {"egressBurst": 9}})),
        2,
        "runtimeConfig.bandwidth.egressBurst",
    );
    assert_refused(
        with("runtimeConfig", json!({"bandwidth": {"egressRate": 9}})),
        100,
        "egress rate 9",
    );
    assert_refused(
        with("runtimeConfig", json!({"ips": ["10.9.9.9"]})),
        100,
        "not in 10.244.1.0/24",
    );
    assert_refused(with("dataDir", json!("/proc/nowhere")), 5, "/proc/nowhere");
    assert_refused(
        run(runtime.command("ADD", Some(&pod), "millrace-cni"), &json!([])),
        6,
        "does not read",
    );
    let asked = with("runtimeConfig", json!({"ips": ["10.244.1.77"]})).unwrap();
    assert_eq!(addresses(&asked).0.to_string(), "10.244.1.77");
    runtime.del(&pod).unwrap();
    let mut command = runtime.command("ADD", Some(&pod), "millrace-cni");
    command.env("CNI_IFNAME", "a/b");
    assert_refused(run(command, &config), 4, "CNI_IFNAME");
    let mut command = runtime.command("ADD", Some(&pod), "millrace-cni");
    command.env("CNI_NETNS", "/run/netns/nowhere");
    assert_refused(run(command, &config), 4, "CNI_NETNS");
    let mut command = runtime.command("ADD", Some(&pod), "millrace-cni");
    command.env("CNI_NETNS", lab.node("node-a").unwrap().namespace().path());
    assert_refused(run(command, &config), 11, "the node's own network namespace");
    // An interface of that name is somebody else's, and stays that.
    pod.namespace
        .ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "spare"])
        .unwrap();
    assert_refused(runtime.add(&pod), 11, "eth0");
    runtime.del(&pod).unwrap();
    assert_eq!(pod.interfaces(), ["spare", "eth0"]);
    pod.namespace.ip(&["link", "del", "eth0"]).unwrap();
    runtime.version = "1.0.0".to_owned();
    assert_refused(runtime.status(), 1, "STATUS");
    finish(lab, &[&runtime], vec![pod]);
}
