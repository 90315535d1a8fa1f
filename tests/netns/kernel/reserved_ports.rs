//! Ports kept free for source NAT.

use std::net::{TcpListener, UdpSocket};

use millrace::kernel::sysctl::Setting;
use millrace::kernel::{KernelError, PortSet, check_ports, release_ports, reserve_ports};

use super::namespaces::Namespace;

fn setting(name: &str) -> Setting {
    Setting::new(&format!("net/ipv4/{name}")).unwrap()
}

fn reserved() -> String {
    setting("ip_local_reserved_ports").read().unwrap().unwrap()
}

#[test]
fn ports_are_kept_back_and_given_back() {
    let node = Namespace::new();
    node.run(|| async {
        // Each row: what was kept back before, what was added, and what is kept back then.
        let rows = [
            ("", "61000-65535", "61000-65535"),
            ("8080,62000-62010", "61000-61999,62011-65535", "8080,61000-65535"),
            ("60000-65535", "", "60000-65535"),
        ];
        for (before, added, during) in rows {
            let _ = setting("ip_local_reserved_ports")
                .write(&format!("{before}\n"))
                .unwrap();
            let ours = reserve_ports(61_000..=65_535).unwrap();
            assert_eq!((ours.to_string().as_str(), reserved().as_str()), (added, during));
            assert_eq!(reserve_ports(61_000..=65_535).unwrap(), PortSet::new(), "again");
            // Somebody else adds one while we are there, and keeps it.
            let _ = setting("ip_local_reserved_ports")
                .write(&format!("{during},9"))
                .unwrap();
            assert_eq!(release_ports(&ours).unwrap(), !added.is_empty(), "{before:?}");
            let mut expected = PortSet::parse(before).unwrap();
            expected.insert(9..=9);
            assert_eq!(reserved(), expected.to_string());
            assert!(!release_ports(&ours).unwrap(), "again");
        }
        // The last port goes too.
        let _ = setting("ip_local_reserved_ports").write("\n").unwrap();
        let ours = reserve_ports(65_535..=65_535).unwrap();
        assert!(release_ports(&ours).unwrap());
        assert_eq!(reserved(), "");
    });
}

#[test]
fn ports_that_the_kernel_gives_out_are_refused() {
    let node = Namespace::new();
    node.run(|| async {
        for (given_out, is_refused) in [
            ("32768\t60999", false),
            ("32768\t61000", true),
            ("65535\t65535", true),
            ("1024\t65535", true),
            ("62000\t62001", true),
        ] {
            let _ = setting("ip_local_port_range").write(given_out).unwrap();
            let result = reserve_ports(61_000..=65_535);
            assert_eq!(result.is_err(), is_refused, "{given_out}");
            if let Err(error) = result {
                assert!(matches!(error, KernelError::PortsGivenOut { .. }), "{error}");
                let said = error.to_string();
                let given_out = given_out.replace('\t', "-");
                assert!(
                    said.contains(&given_out) && said.contains("61000-65535"),
                    "{said}"
                );
                assert!(
                    said.contains("ip_local_port_range") && said.contains("snat-ports"),
                    "{said}"
                );
                assert_eq!(reserved(), "", "nothing has changed");
            } else {
                release_ports(&result.unwrap()).unwrap();
            }
        }
    });
}

/// Where the two ranges were let overlap after the start, the ports kept back are still given to nobody.
#[test]
fn the_kernel_gives_out_no_port_that_is_kept_back() {
    let node = Namespace::new();
    node.run(|| async {
        reserve_ports(61_000..=65_535).unwrap();
        let _ = setting("ip_local_port_range").write("60990\t65535").unwrap();
        assert!(check_ports(&(61_000..=65_535)).is_err());
        let mut held = Vec::new();
        while let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            assert!(socket.local_addr().unwrap().port() < 61_000);
            held.push(socket);
        }
        assert_eq!(held.len(), 10, "60990 to 60999");
        for _ in 0..10 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            assert!(listener.local_addr().unwrap().port() < 61_000);
        }
        // Who asks by number gets it.
        assert!(UdpSocket::bind("127.0.0.1:61000").is_ok());
    });
}
