use super::*;

fn facts() -> LeaseFacts {
    LeaseFacts {
        node: "node-a".parse().unwrap(),
        backend: LeaseBackend::Vxlan {
            vni: Vni::FLANNEL,
            mac_v4: "66:07:02:c1:cc:60".parse().unwrap(),
            mac_v6: "66:d4:d5:51:3d:42".parse().unwrap(),
        },
        public_ip_v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        public_ip_v6: Some("2001:db8::1".parse().unwrap()),
        pod_cidr_v4: Some("10.244.1.0/24".parse().unwrap()),
        pod_cidr_v6: Some("fd00:244:0:1::/64".parse().unwrap()),
        mtu: 1430,
        masquerade: true,
        present: None,
    }
}

fn node(annotations: &[(&str, &str)], unavailable: Option<&str>) -> Node {
    let annotations: BTreeMap<_, _> = annotations.iter().map(|(name, value)| (name, value)).collect();
    let conditions: Vec<Value> = unavailable
        .iter()
        .map(|status| json!({"type": "NetworkUnavailable", "status": status}))
        .collect();
    serde_json::from_value(json!({"metadata": {"name": "node-a", "annotations": annotations},
        "status": {"conditions": conditions}}))
    .unwrap()
}

/// The annotations of a patch, one on each line.
fn lines(facts: &LeaseFacts, node: &Node) -> String {
    let patch = patch(facts, node, "2026-01-02T03:04:05Z".parse().unwrap()).unwrap();
    let annotations = patch["metadata"]["annotations"].as_object().unwrap();
    let lines = annotations.iter().map(|(name, value)| {
        let name = name.strip_prefix("flannel.alpha.coreos.com/").unwrap();
        format!("{name}: {}\n", value.as_str().unwrap())
    });
    lines.collect()
}

#[test]
fn both_families_are_in_one_patch_byte_by_byte() {
    assert_eq!(
        lines(&facts(), &node(&[], Some("False"))),
        "backend-data: {\"VNI\":1,\"VtepMAC\":\"66:07:02:c1:cc:60\"}\n\
         backend-type: vxlan\n\
         backend-v6-data: {\"VNI\":1,\"VtepMAC\":\"66:d4:d5:51:3d:42\"}\n\
         kube-subnet-manager: true\n\
         public-ip: 192.0.2.1\n\
         public-ipv6: 2001:db8::1\n"
    );
    // One family changes: both are written.
    let before = [
        (KUBE_SUBNET_MANAGER, "true"),
        (BACKEND_TYPE, "vxlan"),
        (BACKEND_DATA, "{\"VNI\":1,\"VtepMAC\":\"66:07:02:c1:cc:60\"}"),
        (BACKEND_V6_DATA, "{\"VNI\":1,\"VtepMAC\":\"66:d4:d5:51:3d:42\"}"),
        (PUBLIC_IP, "192.0.2.1"),
        (PUBLIC_IPV6, "2001:db8::1"),
    ];
    let now = "2026-01-02T03:04:05Z".parse().unwrap();
    assert_eq!(patch(&facts(), &node(&before, Some("False")), now), None);
    let moved = LeaseFacts {
        public_ip_v4: Some(Ipv4Addr::new(192, 0, 2, 2)),
        ..facts()
    };
    assert_eq!(lines(&moved, &node(&before, Some("False"))).lines().count(), 6);
}

#[test]
fn a_mac_that_was_published_is_kept() {
    let before = [
        (BACKEND_DATA, "{\"VNI\":7,\"VtepMAC\":\"AA:BB:CC:00:00:01\"}"),
        (BACKEND_V6_DATA, "nonsense"),
    ];
    let text = lines(&facts(), &node(&before, None));
    assert!(
        text.contains("backend-data: {\"VNI\":1,\"VtepMAC\":\"aa:bb:cc:00:00:01\"}\n"),
        "{text}"
    );
    assert!(
        text.contains("backend-v6-data: {\"VNI\":1,\"VtepMAC\":\"66:d4:d5:51:3d:42\"}\n"),
        "{text}"
    );
}

#[test]
fn what_the_operator_wants_published_is() {
    type Wishes<'a> = &'a [(&'a str, &'a str)];
    let rows: [(Wishes<'_>, &str, &str); 4] = [
        (&[], "192.0.2.1", "2001:db8::1"),
        (&[(NODE_PUBLIC_IP, "192.0.2.7")], "192.0.2.7", "2001:db8::1"),
        (
            &[
                (PUBLIC_IP_OVERWRITE, "198.51.100.1"),
                (NODE_PUBLIC_IP, "192.0.2.7"),
            ],
            "198.51.100.1",
            "2001:db8::1",
        ),
        (
            &[(PUBLIC_IPV6_OVERWRITE, "2001:db8::7"), (PUBLIC_IP_OVERWRITE, "")],
            "192.0.2.1",
            "2001:db8::7",
        ),
    ];
    for (wishes, v4, v6) in rows {
        let text = lines(&facts(), &node(wishes, None));
        assert!(text.contains(&format!("public-ip: {v4}\n")), "{wishes:?}: {text}");
        assert!(
            text.contains(&format!("public-ipv6: {v6}\n")),
            "{wishes:?}: {text}"
        );
    }
}

#[test]
fn a_family_is_published_where_there_are_pods_and_an_address_of_it() {
    for facts in [
        LeaseFacts {
            public_ip_v6: None,
            ..facts()
        },
        LeaseFacts {
            pod_cidr_v6: None,
            ..facts()
        },
    ] {
        let text = lines(&facts, &node(&[], None));
        assert_eq!(
            text,
            "backend-data: {\"VNI\":1,\"VtepMAC\":\"66:07:02:c1:cc:60\"}\nbackend-type: vxlan\nkube-subnet-manager: true\npublic-ip: 192.0.2.1\n"
        );
    }
    let ipip = LeaseFacts {
        backend: LeaseBackend::Ipip,
        ..facts()
    };
    assert_eq!(
        lines(&ipip, &node(&[], None)),
        "backend-data: null\nbackend-type: ipip\nkube-subnet-manager: true\npublic-ip: 192.0.2.1\n"
    );
}

#[test]
fn the_network_is_said_to_be_there() {
    let now = "2026-01-02T03:04:05Z".parse().unwrap();
    for (present, is_patched) in [
        (None, true),
        (Some("True"), true),
        (Some("Unknown"), true),
        (Some("False"), false),
    ] {
        let patch = patch(&facts(), &node(&[], present), now).unwrap();
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(!condition.is_null(), is_patched, "{present:?}");
        if is_patched {
            assert_eq!(
                condition.to_string(),
                r#"{"lastHeartbeatTime":"2026-01-02T03:04:05Z","lastTransitionTime":"2026-01-02T03:04:05Z","message":"Millrace is running on this node","reason":"MillraceIsUp","status":"False","type":"NetworkUnavailable"}"#
            );
        }
    }
}

#[test]
fn the_file_is_flannels_byte_by_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/flannel/subnet.env");
    let file = SubnetEnv {
        path: path.clone(),
        pod_network: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/56".parse().unwrap()],
    };
    assert!(file.keep(&facts()).unwrap());
    let whole = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:244::/56\nFLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n";
    let text = || std::fs::read_to_string(&path).unwrap();
    assert_eq!(text(), whole);
    assert!(!file.keep(&facts()).unwrap(), "it is as it should be");
    // Somebody has changed it, or taken it away.
    std::fs::write(&path, "FLANNEL_MTU=1\n").unwrap();
    assert!(file.keep(&facts()).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert!(file.keep(&facts()).unwrap());
    assert_eq!(text(), whole);
    // Where nothing else says it, the file that flannel has left does.
    let unsaid = SubnetEnv {
        pod_network: Vec::new(),
        ..file.clone()
    };
    assert!(!unsaid.keep(&facts()).unwrap());
    std::fs::write(&path, "FLANNEL_NETWORK=10.9.0.0/16\n").unwrap();
    let error = unsaid.keep(&facts()).unwrap_err().to_string();
    assert!(
        error.contains("IPv4 pod CIDR is; [kubernetes] pod-network would"),
        "{error}"
    );
    assert_eq!(
        text(),
        "FLANNEL_NETWORK=10.9.0.0/16\n",
        "another network's file is left alone"
    );
    let v4 = LeaseFacts {
        pod_cidr_v6: None,
        mtu: 1450,
        masquerade: false,
        ..facts()
    };
    assert!(file.keep(&v4).unwrap());
    assert_eq!(
        text(),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    );
}
