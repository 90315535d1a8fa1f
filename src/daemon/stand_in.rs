//! The stand-in for an ipip device, where the node has none: routing daemons let routes lead by it, and the switch takes
//! them as what they mean. What the node itself sends along them comes out of it, and goes by the same routes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::frame::MAX_PACKET_LEN;
use millrace_dataplane::port::PortId;
use millrace_dataplane::port::tun::Tun;
use millrace_dataplane::table::{HashKey, NetworkId, Role};
use millrace_dataplane::wire::{EtherType, Ipv4, MacAddr, eth, ipip};
use millrace_dataplane::worker::{Injection, Origin, Way, WorkerHandle};
use tracing::{info, warn};

use super::Daemon;
use super::fabric::Queue;
use crate::kernel::Link;
use crate::privileges;

/// The thread's name, as the system shows it.
const NAME: &str = "stand-in";
/// How long it waits after it could not read, which it cannot while the device is down.
const DOWN_PAUSE: Duration = Duration::from_millis(100);
/// The kind of the kernel's own device.
const IPIP: &str = "ipip";

/// Packets of the node's own that came out of the stand-in.
#[derive(Debug, Default)]
pub(super) struct StandInStats {
    /// Whether they are counted at all: the stand-in was made, or taken.
    held: AtomicBool,
    /// Given to a worker.
    carried: AtomicU64,
    /// Lost: a worker's queue was full, or it was no IPv4 packet.
    lost: AtomicU64,
}

impl StandInStats {
    /// The counters by name.
    pub(super) fn read(&self) -> [(&'static str, u64); 2] {
        [
            ("stand_in_carried", self.carried.load(Ordering::Relaxed)),
            ("stand_in_lost", self.lost.load(Ordering::Relaxed)),
        ]
    }
}

impl Daemon {
    /// Makes the stand-in, or takes what the last run left, unless the node has an ipip device of that name. All but
    /// routes by it works without.
    pub(super) async fn hold_stand_in(&mut self) {
        let Some(name) = self.config.overlay.stand_in() else {
            return;
        };
        if let Err(error) = self.try_hold_stand_in(name.as_str()).await {
            warn!(
                "{} cannot be had as the stand-in for an ipip device, so no routing daemon can let routes lead by it: {error:#}",
                name.as_str()
            );
        }
    }

    /// Makes the stand-in anew if somebody has deleted it. Once: if that fails, the next start is next.
    pub(super) async fn follow_stand_in(&mut self) {
        let Some(name) = self.config.overlay.stand_in() else {
            return;
        };
        let is_it = |link: &Link| link.name == name.as_str();
        if !self.stand_in_stats.held.load(Ordering::Relaxed) || self.state.links().any(is_it) {
            return;
        }
        // It may be younger than the state that was followed; only the kernel itself knows what is gone.
        if matches!(self.kernel.find_link(name.as_str()).await, Ok(None)) {
            warn!("{} is gone, and the routes by it; it is made anew", name.as_str());
            self.stand_in_stats.held.store(false, Ordering::Relaxed);
            self.hold_stand_in().await;
        }
    }

    async fn try_hold_stand_in(&mut self, name: &str) -> anyhow::Result<()> {
        let found = self.kernel.find_link(name).await?;
        if found
            .as_ref()
            .is_some_and(|link| link.kind.as_deref() == Some(IPIP))
        {
            info!("{name} is an ipip device of the node's own: routes by it are IP in IP");
            return Ok(());
        }
        if found.is_none() {
            // Remembered first: what is made is removed by uninstall, whatever happens in between.
            self.saved.stand_in = Some(name.to_owned());
            self.saved.store(&self.config.node.state_dir)?;
        }
        let tun = Tun::hold(name).with_context(|| format!("holding the tun device {name}"))?;
        let uplink = self.ports.of_role(Role::Uplink).map(|(_, port)| port.facts.mtu);
        let overhead = u16::try_from(ipip::MTU_OVERHEAD).unwrap_or(u16::MAX);
        let mtu = uplink.context("there is no uplink")?.saturating_sub(overhead);
        let addresses: Vec<IpAddr> = self.own.tunnel_addresses().collect();
        self.kernel
            .set_up_stand_in(name, u32::from(mtu), &addresses)
            .await?;
        let (host, port) = self.ports.of_role(Role::Host).context("there is no host port")?;
        let carrier = Carrier {
            tun,
            workers: self.fabric.workers().to_vec(),
            host,
            macs: (port.facts.mac, port.facts.peer_mac),
            stats: Arc::clone(&self.stand_in_stats),
        };
        thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            privileges::drop_all();
            carrier.run();
        })?;
        self.stand_in_stats.held.store(true, Ordering::Relaxed);
        info!("routes by {name} are IP in IP to their next hop");
        Ok(())
    }
}

/// Takes to the workers what the node sends by the stand-in.
struct Carrier {
    tun: Tun,
    workers: Vec<WorkerHandle<Queue>>,
    /// The port that it would have come in at.
    host: PortId,
    /// The switch's end of it and the kernel's.
    macs: (MacAddr, MacAddr),
    stats: Arc<StandInStats>,
}

impl Carrier {
    /// Runs until the device is gone.
    fn run(self) {
        let key = HashKey::random();
        let mut frame = vec![0; MAX_PACKET_LEN];
        let (to, from) = self.macs;
        if let Some(header) = frame.first_chunk_mut() {
            eth::emit(header, to, from, EtherType::IPV4);
        }
        loop {
            let Some(room) = frame.get_mut(eth::HEADER_LEN..) else {
                return;
            };
            match self.tun.read(room) {
                Ok(Some(len)) => {
                    let len = len.min(room.len());
                    self.carry(&key, frame.get(..eth::HEADER_LEN + len).unwrap_or_default());
                }
                Ok(None) => return,
                // Down, or out of memory: both may pass.
                Err(_) => thread::sleep(DOWN_PAUSE),
            }
        }
    }

    /// Gives a packet to a worker, always the same for two addresses: so they stay in order.
    fn carry(&self, key: &HashKey, frame: &[u8]) {
        let packet = frame
            .get(eth::HEADER_LEN..)
            .and_then(|bytes| Ipv4::parse(bytes).ok());
        let sent = packet.and_then(|packet| {
            let addresses = [packet.source(), packet.destination()].map(|ip| u64::from(ip.to_bits()));
            let turn = key.hash(addresses) % self.workers.len().max(1) as u64;
            let worker = self.workers.get(usize::try_from(turn).ok()?)?;
            let injection = Injection {
                way: Way::Walk(Origin::Held {
                    port: self.host,
                    network: NetworkId::CLUSTER,
                }),
                packet: PacketCopy::new(frame),
            };
            worker.inject(injection).ok()
        });
        let counter = match sent {
            Some(()) => &self.stats.carried,
            None => &self.stats.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
