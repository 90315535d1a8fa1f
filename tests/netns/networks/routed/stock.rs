//! A stock node in a routed network: a kernel's VXLAN device with the MAC address of the node's router, and routes.

use millrace_tools::lab::Lab;
use millrace_tools::lab::plan::UPLINK;

use super::rig::{Net, Routed};
use crate::rig::MTU;
use crate::station::Station;

/// The device in the tunnels, and the one to the station.
const DEVICE: &str = "routed";
const PORT: &str = "far";

/// Puts a stock node into a network as its documentation says, and a station behind it, which echoes.
pub(crate) fn station(rig: &Routed, network: Net, node: u8, host: u8) -> Station {
    let (vni, mtu) = (network.vni.to_string(), MTU.to_string());
    let far = rig.with(|lab| lab.namespace("far")).unwrap();
    let path = far.path().to_string_lossy().into_owned();
    let own = |lab: &Lab, words: &[&str]| {
        let node = lab.nodes().get(usize::from(node) - 1).unwrap();
        node.namespace()
            .ip(words)
            .unwrap_or_else(|error| panic!("{error}"));
    };
    rig.with(|lab| {
        let address = underlay(lab, node);
        let kind = ["type", "vxlan", "id", &vni, "dstport", "8472", "local", &address];
        own(
            lab,
            &[
                &["link", "add", DEVICE][..],
                &kind,
                &["dev", UPLINK, "nolearning"],
            ]
            .concat(),
        );
        own(
            lab,
            &[
                "link",
                "set",
                DEVICE,
                "address",
                &router_mac(&address),
                "mtu",
                &mtu,
                "up",
            ],
        );
        for number in (1..).take(lab.nodes().len()).filter(|number| *number != node) {
            let (address, namespace) = (
                underlay(lab, number),
                lab.nodes()[usize::from(node) - 1].namespace(),
            );
            let mac = router_mac(&address);
            namespace
                .bridge(&["fdb", "append", &mac, "dev", DEVICE, "dst", &address])
                .unwrap();
            for (via, block) in network.addresses(number, 0).iter().zip(network.blocks(number)) {
                let via = via.to_string();
                own(
                    lab,
                    &[
                        "neighbour",
                        "replace",
                        &via,
                        "lladdr",
                        &mac,
                        "dev",
                        DEVICE,
                        "nud",
                        "permanent",
                    ],
                );
                own(
                    lab,
                    &["route", "add", &block, "via", &via, "dev", DEVICE, "onlink"],
                );
            }
        }
        own(
            lab,
            &[
                "link", "add", PORT, "mtu", &mtu, "type", "veth", "peer", "name", "net1", "mtu", &mtu,
                "netns", &path,
            ],
        );
        own(lab, &["link", "set", PORT, "up"]);
        for gateway in network.addresses(node, 1) {
            let address = format!("{gateway}/{}", if gateway.is_ipv4() { 32 } else { 128 });
            own(lab, &["address", "add", &address, "dev", PORT]);
        }
        far.ip(&["link", "set", "net1", "up"]).unwrap();
        for address in network.addresses(node, host) {
            let whole = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
            far.ip(&["address", "add", &whole, "dev", "net1", "nodad"])
                .unwrap();
            own(lab, &["route", "add", &whole, "dev", PORT]);
        }
        for gateway in network.addresses(node, 1) {
            let by = gateway.to_string();
            far.ip(&["route", "add", &by, "dev", "net1"]).unwrap();
            far.ip(&["route", "add", "default", "via", &by, "dev", "net1", "onlink"])
                .unwrap();
        }
        let namespace = lab.nodes()[usize::from(node) - 1].namespace();
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            namespace.set(key, "1").unwrap();
        }
    });
    let station = Station::at("far", far.path(), network.addresses(node, host));
    rig.keep(far);
    rig.echo(&station);
    station
}

fn underlay(lab: &Lab, node: u8) -> String {
    lab.nodes()[usize::from(node) - 1]
        .plan()
        .underlay_address()
        .to_string()
}

/// `02:4d:` and the bytes of the address.
fn router_mac(address: &str) -> String {
    let bytes = address
        .split('.')
        .map(|byte| format!(":{:02x}", byte.parse::<u8>().unwrap()));
    "02:4d".to_owned() + &bytes.collect::<String>()
}
