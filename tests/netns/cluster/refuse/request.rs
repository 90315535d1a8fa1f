//! Requests that a running daemon refuses.

use super::{FAILED, WRONG, assert_refused};
use crate::picture::Picture;
use crate::rig::{
    address, assert_reaches, await_that, daemon, finish, node, pair, port_of, rows, side_by_side,
};
#[test]
fn a_request_that_fails_leaves_nothing_half_attached() {
    let _turn = side_by_side();
    let lab = pair("requests", 1);
    let (namespace, switch) = (node(&lab, "node-a"), daemon(&lab, "node-a"));
    let spare = lab.namespace("spare").unwrap();
    // A pod with an interface of that name already, which only the last steps meet.
    spare
        .ip(&["link", "add", "taken0", "type", "veth", "peer", "name", "takenp"])
        .unwrap();
    let inside = Picture::of_pod(&spare);
    let path = spare.path();
    let (path, own) = (
        path.to_str().unwrap(),
        namespace.path().to_str().unwrap().to_owned(),
    );
    let before = Picture::of(namespace);
    let ports = rows(switch, "ports");
    let rows_of_requests: Vec<(&str, Vec<&str>, i32, Vec<&str>)> = vec![
        (
            "no such namespace",
            vec![
                "attach",
                "lab/new",
                "--netns",
                "/run/netns/nowhere",
                "--address",
                "10.244.1.9",
            ],
            FAILED,
            vec!["/run/netns/nowhere"],
        ),
        (
            "a file that is no namespace",
            vec![
                "attach",
                "lab/new",
                "--netns",
                "/etc/hostname",
                "--address",
                "10.244.1.9",
            ],
            FAILED,
            vec!["/etc/hostname"],
        ),
        (
            "the node's own namespace",
            vec!["attach", "lab/new", "--netns", &own, "--address", "10.244.1.9"],
            FAILED,
            vec!["own network namespace"],
        ),
        (
            "outside the node's CIDR",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.2.9"],
            WRONG,
            vec!["10.244.2.9", "10.244.1.0/24"],
        ),
        (
            "the tunnel address",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1.0"],
            WRONG,
            vec!["10.244.1.0", "tunnel"],
        ),
        (
            "the gateway",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1.1"],
            WRONG,
            vec!["10.244.1.1", "gateway"],
        ),
        (
            "the broadcast address",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1.255"],
            WRONG,
            vec!["10.244.1.255"],
        ),
        (
            "another pod's address",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1.2"],
            WRONG,
            vec!["10.244.1.2", "lab/pod-a1"],
        ),
        (
            "an address twice",
            vec![
                "attach",
                "lab/new",
                "--netns",
                path,
                "--address",
                "10.244.1.9",
                "--address",
                "10.244.1.9",
            ],
            WRONG,
            vec!["10.244.1.9"],
        ),
        (
            "a pod that nobody knows",
            vec!["attach", "lab/ghost", "--netns", path],
            WRONG,
            vec!["lab/ghost", "--address"],
        ),
        (
            "a pod that is attached",
            vec!["attach", "lab/pod-a1", "--netns", path, "--address", "10.244.1.9"],
            FAILED,
            vec!["lab/pod-a1", "already"],
        ),
        (
            "an interface that is there",
            vec![
                "attach",
                "lab/new",
                "--netns",
                path,
                "--address",
                "10.244.1.9",
                "--interface",
                "taken0",
            ],
            FAILED,
            vec!["taken0"],
        ),
        (
            "a name that is none",
            vec![
                "attach",
                "lab/New_Pod",
                "--netns",
                path,
                "--address",
                "10.244.1.9",
            ],
            WRONG,
            vec!["lab/New_Pod"],
        ),
        (
            "a detached name that is none",
            vec!["detach", "lab/New_Pod"],
            WRONG,
            vec!["lab/New_Pod"],
        ),
        (
            "a capture of nothing",
            vec!["capture", "--port", "eth7", "--count", "1"],
            WRONG,
            vec!["eth7", "eth1"],
        ),
        (
            "a filter that is none",
            vec![
                "capture",
                "--port",
                "uplink",
                "--filter",
                "icmp and and",
                "--count",
                "1",
            ],
            WRONG,
            vec!["icmp and and"],
        ),
    ];
    for (name, words, status, said) in rows_of_requests {
        assert_refused(name, &switch.ask(&words).unwrap(), status, &said);
        assert_eq!(rows(switch, "ports"), ports, "{name}");
        assert_eq!(before.changes(&Picture::of(namespace)), [""; 0], "{name}");
        assert_eq!(inside.changes(&Picture::of_pod(&spare)), [""; 0], "{name}");
    }
    for (name, words) in [
        ("no slash", vec!["attach", "pod", "--netns", path]),
        ("no namespace", vec!["attach", "lab/new"]),
        (
            "an address that is none",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1"],
        ),
        ("an unknown subject", vec!["show", "queues"]),
        ("an unknown command", vec!["start"]),
    ] {
        let ended = switch.ask(&words).unwrap();
        assert_eq!(ended.status.code(), Some(WRONG), "{name}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{name}: {ended:?}");
    }

    // With a Pod object there is an address to be had.
    let known = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: lab, name: known}\n\
                 spec: {nodeName: node-a, containers: [{name: main, image: none}]}\n\
                 status: {podIP: 10.244.1.8, podIPs: [{ip: 10.244.1.8}]}\n";
    switch.write_manifest("pod-known.yaml", known).unwrap();
    await_that("the pod's object taken", || {
        let attached = switch.ask(&["attach", "lab/known", "--netns", path]).unwrap();
        attached.status.success()
    });
    assert_eq!(
        port_of(switch, "lab/known").unwrap()["addresses"],
        serde_json::json!(["10.244.1.8"])
    );
    assert_reaches(&spare, address(&lab, "pod-b1"));
    switch.client_output(&["detach", "lab/known"]).unwrap();

    // Detaching is repeatable, of a pod that was never there too, as CNI wants it; and attaching works at last.
    for pod in ["lab/ghost", "lab/ghost"] {
        assert!(switch.ask(&["detach", pod]).unwrap().status.success());
    }
    switch
        .client_output(&["attach", "lab/new", "--netns", path, "--address", "10.244.1.9"])
        .unwrap();
    assert_reaches(&spare, address(&lab, "pod-b1"));
    let again = switch
        .ask(&["attach", "lab/new", "--netns", path, "--address", "10.244.1.9"])
        .unwrap();
    assert_refused("attached twice", &again, FAILED, &["lab/new", "already"]);
    assert_reaches(&spare, address(&lab, "pod-b1"));
    for _ in 0..2 {
        switch.client_output(&["detach", "lab/new"]).unwrap();
    }
    assert_eq!(rows(switch, "ports"), ports);
    assert_eq!(before.changes(&Picture::of(namespace)), [""; 0]);
    drop(spare);
    finish(lab);
}
