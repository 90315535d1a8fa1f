//! The host port.

use millrace::kernel::sysctl::{Family, Setting};
use millrace::kernel::{Channels, HostPortOrigin, HostPortSpec, Kernel, KernelError};

use super::namespaces::Namespace;

fn spec() -> HostPortSpec {
    HostPortSpec {
        name: "millrace0".to_owned(),
        switch_name: "millrace0p".to_owned(),
        queues: 2,
        mtu: 1450,
        mac: Some([2, 0, 0, 0, 1, 1]),
        switch_mac: Some([2, 0, 0, 0, 1, 2]),
        addresses: vec!["10.244.1.0".parse().unwrap()],
        neighbours: Vec::new(),
    }
}

fn ipv6_disabled(interface: &str) -> String {
    Setting::of_interface(Family::V6, interface, "disable_ipv6")
        .unwrap()
        .read()
        .unwrap()
        .unwrap()
}

/// The transmit features that are on, of those that matter.
pub(crate) fn offloads_on(namespace: &Namespace, interface: &str) -> Vec<String> {
    let parts = ["checksum", "segmentation", "scatter-gather", "tx-gso", "tx-vlan"];
    let features = namespace.sh(&format!("ethtool -k {interface}"));
    let on = features
        .lines()
        .filter(|line| line.contains(": on") && !line.contains("[fixed]"));
    let transmit = on.filter(|line| !line.trim_start().starts_with("rx-") && !line.contains("receive"));
    transmit
        .filter(|line| parts.iter().any(|part| line.contains(part)))
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn it_is_made_and_then_adopted() {
    let node = Namespace::new();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let made = kernel.ensure_host_port(&spec()).await.unwrap();
        assert_eq!(made.origin, HostPortOrigin::Created);
        for (end, mac) in [
            (&made.kernel_end, [2, 0, 0, 0, 1, 1]),
            (&made.switch_end, [2, 0, 0, 0, 1, 2]),
        ] {
            assert!(
                end.up && end.running && end.mtu == 1450 && end.mac == Some(mac),
                "{end:?}"
            );
            assert_eq!((end.rx_queues, end.tx_queues), (2, 2));
            let channels = kernel.channel_count(&end.name).await.unwrap();
            assert_eq!(
                channels,
                Channels {
                    rx: 2,
                    tx: 2,
                    combined: 0
                }
            );
            assert_eq!((channels.receiving(), channels.transmitting()), (2, 2));
        }
        assert_eq!(
            kernel.peer_of(&made.kernel_end).await.unwrap().as_ref(),
            Some(&made.switch_end)
        );
        assert_eq!(offloads_on(&node, "millrace0"), Vec::<String>::new());
        assert_eq!(ipv6_disabled("millrace0p"), "1");
        assert_eq!(ipv6_disabled("millrace0"), "1");
        assert!(
            node.ip("-o addr show dev millrace0")
                .contains("inet 10.244.1.0/32 scope global millrace0")
        );
        let rp_filter = Setting::of_interface(Family::V4, "millrace0", "rp_filter").unwrap();
        assert_eq!(rp_filter.read().unwrap().as_deref(), Some("2"));

        // Someone meddled; the next start puts it right, on the same pair.
        node.ip("link set millrace0 down mtu 1300");
        node.ip("addr add 10.244.9.0/32 dev millrace0");
        node.sh("ethtool -K millrace0 tx on");
        let mut other = spec();
        other.addresses = vec!["10.244.2.0".parse().unwrap(), "fd00:244:2::".parse().unwrap()];
        other.switch_mac = Some([2, 0, 0, 0, 1, 9]);
        other.neighbours = vec!["fd00:244:2::1".parse().unwrap()];
        let adopted = kernel.ensure_host_port(&other).await.unwrap();
        assert_eq!(adopted.origin, HostPortOrigin::Adopted);
        assert_eq!(adopted.kernel_end.ifindex, made.kernel_end.ifindex);
        assert_eq!((adopted.kernel_end.mtu, adopted.kernel_end.up), (1450, true));
        assert_eq!(adopted.switch_end.mac, other.switch_mac);
        assert_eq!(offloads_on(&node, "millrace0"), Vec::<String>::new());
        assert_eq!(ipv6_disabled("millrace0"), "0");
        let addresses = node.ip("-o addr show dev millrace0 scope global");
        assert_eq!(addresses.lines().count(), 2, "{addresses}");
        assert!(
            addresses.contains("10.244.2.0/32") && addresses.contains("fd00:244:2::/128"),
            "{addresses}"
        );

        let known = "fd00:244:2::1 lladdr 02:00:00:00:01:09 PERMANENT";
        assert!(node.ip("neigh show dev millrace0").contains(known));

        assert!(kernel.remove_host_port("millrace0").await.unwrap());
        assert!(!kernel.remove_host_port("millrace0").await.unwrap());
        assert_eq!(node.interfaces(), ["lo"]);
    });
}

#[test]
fn another_number_of_queues_makes_it_anew() {
    let node = Namespace::new();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let made = kernel.ensure_host_port(&spec()).await.unwrap();
        let mut wider = spec();
        wider.queues = 4;
        let remade = kernel.ensure_host_port(&wider).await.unwrap();
        assert_eq!(remade.origin, HostPortOrigin::Recreated { former_queues: 2 });
        assert_ne!(remade.kernel_end.ifindex, made.kernel_end.ifindex);
        assert_eq!(kernel.channel_count("millrace0p").await.unwrap().receiving(), 4);
        assert_eq!(node.interfaces().len(), 3);
    });
}

#[test]
fn what_is_something_else_is_left_and_named() {
    // Each row: how the names are taken, and what the error has to say.
    let rows = [
        (vec!["link add millrace0 type bridge"], ["millrace0", "bridge"]),
        (
            vec!["link add millrace0 type veth peer name other0"],
            ["millrace0", "other0"],
        ),
        (vec!["link add millrace0p type bridge"], ["millrace0p", "exists"]),
    ];
    for (setup, words) in rows {
        let node = Namespace::new();
        for line in setup {
            node.ip(line);
        }
        node.run(|| async {
            let before = node.interfaces();
            let kernel = Kernel::open().unwrap();
            let error = kernel.ensure_host_port(&spec()).await.unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{error:?} does not say {word:?}");
            }
            assert_eq!(node.interfaces(), before);
        });
    }
}

#[test]
fn a_failure_removes_what_was_made_and_leaves_what_was_found() {
    let node = Namespace::new();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let mut bad = spec();
        bad.addresses = vec!["224.0.0.1".parse().unwrap()];
        let error = kernel.ensure_host_port(&bad).await.unwrap_err().to_string();
        assert!(
            error.contains("millrace0") && error.contains("224.0.0.1"),
            "{error}"
        );
        assert_eq!(node.interfaces(), ["lo"]);

        let good = kernel.ensure_host_port(&spec()).await.unwrap();
        assert!(kernel.ensure_host_port(&bad).await.is_err());
        assert_eq!(
            kernel.link_by_name("millrace0").await.unwrap().ifindex,
            good.kernel_end.ifindex
        );

        for bad in [
            HostPortSpec { queues: 0, ..spec() },
            HostPortSpec {
                addresses: vec!["224.0.0.1".parse().unwrap()],
                ..spec()
            },
            HostPortSpec {
                name: "much-too-long-a-name".to_owned(),
                ..spec()
            },
            HostPortSpec {
                switch_name: "a/b".to_owned(),
                ..spec()
            },
        ] {
            assert!(kernel.ensure_host_port(&bad).await.is_err(), "{bad:?}");
        }
        let error = kernel.remove_host_port("lo").await.unwrap_err();
        assert!(matches!(error, KernelError::WrongInterface { .. }), "{error}");
    });
}

#[test]
fn receive_merging_is_turned_off_and_put_back() {
    let node = Namespace::new();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        kernel.ensure_host_port(&spec()).await.unwrap();
        for before in [true, false] {
            node.sh(&format!(
                "ethtool -K millrace0p gro {}",
                if before { "on" } else { "off" }
            ));
            assert_eq!(kernel.set_gro("millrace0p", false).await.unwrap(), before);
            let off = "generic-receive-offload: off";
            assert!(node.sh("ethtool -k millrace0p").contains(off));
            assert!(!kernel.set_gro("millrace0p", before).await.unwrap());
            assert_eq!(node.sh("ethtool -k millrace0p").contains(off), !before);
        }
        let error = kernel
            .set_feature("millrace0p", "no-such-feature", true)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no-such-feature") && error.contains("millrace0p"),
            "{error}"
        );
        let error = kernel.set_gro("nothere0", false).await.unwrap_err().to_string();
        assert!(error.contains("nothere0"), "{error}");
        let error = kernel.channel_count("nothere0").await.unwrap_err().to_string();
        assert!(error.contains("nothere0"), "{error}");
    });
}

#[test]
fn without_ethtool_channels_the_queues_count() {
    let node = Namespace::new();
    node.ip("link add br0 type bridge");
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        assert_eq!(
            kernel.channel_count("br0").await.unwrap(),
            Channels {
                rx: 1,
                tx: 1,
                combined: 0
            }
        );
    });
}
