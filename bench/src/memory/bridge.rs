//! A bridged network of two ports, whose stations are known.

use std::sync::Arc;

use anyhow::Context;
use millrace_dataplane::clock;
use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Fdb, Guard, HashKey, Location, Member, NetworkId, Networks, Segment, SharedFdb,
};
use millrace_dataplane::wire::{EthernetMut, MacAddr};

use super::scene::{POD_A, POD_B};

const NETWORK: NetworkId = NetworkId::new(1);
/// Room for twice as many stations as are measured, so that each finds a place. A node's daemon has room for half of it, and
/// so a table of half the size: what misses the caches here, does there too.
const STATIONS: u32 = 131_072;
/// An odd number, so that every station calls another one, and neighbours' are not beside each other.
const STRIDE: u32 = 40_503;

/// Stations behind each of the two ports.
fn behind_each(flows: u32) -> u32 {
    (flows / 2).max(1)
}

fn station(port: u16, number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    let [_, port] = port.to_be_bytes();
    MacAddr([0x02, port, a, b, c, d])
}

/// The network.
pub(super) fn networks() -> anyhow::Result<Networks> {
    let members = [POD_A, POD_B].map(|number| {
        let guard = Guard::default();
        let network = NETWORK;
        Some((PortId::new(number)?, Member::Access { network, guard }))
    });
    let segment = Segment {
        tunnel: None,
        remotes: Box::default(),
        learns_from_ports: true,
        learns_from_remotes: true,
        suppresses: true,
        snoops: false,
        storm: None,
        mtu: u16::MAX,
    };
    let members: Option<Vec<_>> = members.into_iter().collect();
    let members = members.context("there is no such port number")?;
    Ok(Networks::build(members, [(NETWORK, segment)], [], []))
}

/// A database that knows the stations of so many flows.
pub(super) fn fdb(flows: u32) -> anyhow::Result<SharedFdb> {
    let fdb = Fdb::new(STATIONS, HashKey::random());
    let mut writer = fdb.write();
    for port in [POD_A, POD_B] {
        let location = Location::Port(PortId::new(port).context("there is no such port number")?);
        for number in 0..behind_each(flows) {
            writer
                .set_static(NETWORK, station(port, number), location, clock::now())
                .with_context(|| format!("station {number} behind port {port}"))?;
        }
    }
    drop(writer);
    Ok(Arc::new(fdb))
}

/// Writes the link addresses of flow `flow`'s stations into a frame.
pub(super) fn address(frame: &mut Frame, flow: u32, flows: u32) -> anyhow::Result<()> {
    let count = behind_each(flows);
    let mut ethernet = EthernetMut::parse(frame.bytes_mut()).context("a frame without a header")?;
    ethernet.set_source(station(POD_A, flow % count));
    ethernet.set_destination(station(POD_B, flow.wrapping_mul(STRIDE) % count));
    Ok(())
}
