//! The part of `millrace stats` that is about ports: their queues, the kernel's sockets on them, their steering programs.

use millrace_dataplane::stats::DeviceStatistics;
use serde::Deserialize;

use super::{Counts, sum};
use crate::admin::protocol::{Failure, PortStats};
use crate::cli::output::{Table, grouped, understand};

/// What is shown of `dataplane::stats::QueueCounters`.
#[derive(Debug, Deserialize)]
struct Queue {
    queue: u32,
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
    dropped: Counts,
    punted: Counts,
    device: DeviceStatistics,
    tx_waiting: u64,
    tx_under_way: u64,
    stalled_ms: u64,
}

/// A port with its queues.
pub(super) struct Port {
    name: String,
    queues: Vec<Queue>,
    steering: Counts,
}

impl Port {
    pub(super) fn new(port: PortStats) -> Result<Self, Failure> {
        let queues = port
            .queues
            .into_iter()
            .map(understand)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: port.name,
            queues,
            steering: port.steering,
        })
    }
}

/// A row per queue of each port: the port's name, the queue, and what `cells` gives.
fn queue_table<const N: usize>(
    ports: &[Port],
    headings: &[&'static str],
    cells: impl Fn(&Queue) -> [u64; N],
) -> Table {
    let mut table = Table::new(&[&["PORT", ">QUEUE"], headings].concat());
    for port in ports {
        for queue in &port.queues {
            let head = [port.name.clone(), queue.queue.to_string()];
            table.row(head.into_iter().chain(cells(queue).map(grouped)));
        }
    }
    table
}

pub(super) fn port_table(ports: &[Port]) -> Table {
    let headings = [
        ">RX-PACKETS",
        ">RX-BYTES",
        ">TX-PACKETS",
        ">TX-BYTES",
        ">DROPPED",
        ">PUNTED",
        ">TX-WAITING",
        ">TX-UNDER-WAY",
        ">STALLED-MS",
    ];
    queue_table(ports, &headings, |queue| {
        let (dropped, punted) = (sum(&queue.dropped), sum(&queue.punted));
        [
            queue.rx_packets,
            queue.rx_bytes,
            queue.tx_packets,
            queue.tx_bytes,
            dropped,
            punted,
            queue.tx_waiting,
            queue.tx_under_way,
            queue.stalled_ms,
        ]
    })
}

pub(super) fn device_table(ports: &[Port]) -> Table {
    let headings = [
        ">RX-DROPPED",
        ">RX-RING-FULL",
        ">FILL-EMPTY",
        ">RX-INVALID",
        ">TX-INVALID",
        ">TX-EMPTY",
        ">TX-DROPPED",
        ">NO-RUN",
        ">TOO-LONG",
    ];
    queue_table(ports, &headings, |queue| {
        let device = queue.device;
        [
            device.rx_dropped,
            device.rx_ring_full,
            device.rx_fill_ring_empty,
            device.rx_invalid_descriptors,
            device.tx_invalid_descriptors,
            device.tx_ring_empty,
            device.tx_dropped,
            device.rx_no_run,
            device.rx_too_long,
        ]
    })
}

/// Counters that never moved are left out: a program has slots that its kind does not use.
pub(super) fn steering_table(ports: &[Port]) -> Table {
    let mut table = Table::new(&["PORT", "COUNTER", ">PACKETS"]);
    for port in ports {
        for (name, count) in port.steering.iter().filter(|(_, count)| **count > 0) {
            table.row([port.name.clone(), name.clone(), grouped(*count)]);
        }
    }
    table
}
