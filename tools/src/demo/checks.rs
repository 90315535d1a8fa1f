//! The demo's traffic: each flow tried, each result kept.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::flows::{Family, Flow, Row};
use crate::lab::traffic::{
    Amount, Ping, PingReport, TcpTransfer, UdpEcho, UdpExchange, ping, tcp_transfer, udp_exchange,
};
use crate::lab::{LabError, interrupt};

/// How many flows are tried side by side where rates do not matter.
const SIDE_BY_SIDE: usize = 4;
/// How long one TCP transfer may take.
const TCP_TIMEOUT: Duration = Duration::from_secs(15);

/// What a flow is tried with: one pair of columns in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Ping,
    Udp,
    Tcp,
}

impl Protocol {
    /// Every protocol, in the table's order.
    pub(crate) const ALL: [Self; 3] = [Self::Ping, Self::Udp, Self::Tcp];

    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }

    /// The unit of its measure.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Ping => "ms",
            Self::Udp | Self::Tcp => "Mbit/s",
        }
    }
}

/// One flow tried with one protocol.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) row: Row,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    /// The two ends, for people.
    pub(crate) label: String,
    /// The measure in the protocol's unit, or why it failed.
    pub(crate) result: Result<f64, String>,
}

/// Tries all flows with one protocol.
///
/// # Errors
/// Only [`LabError::Interrupted`]; everything else is a result.
pub(crate) fn try_all(protocol: Protocol, flows: &[Flow<'_>]) -> Result<Vec<Outcome>, LabError> {
    match protocol {
        Protocol::Ping => try_each(protocol, flows, SIDE_BY_SIDE, try_ping),
        Protocol::Udp => try_each(protocol, flows, SIDE_BY_SIDE, try_udp),
        Protocol::Tcp => {
            let flows: Vec<Flow<'_>> = flows.iter().filter(|flow| flow.tcp.is_some()).cloned().collect();
            // One at a time: side by side they would measure each other.
            try_each(protocol, &flows, 1, try_tcp)
        }
    }
}

/// Calls `attempt` on every flow, on so many threads.
fn try_each(
    protocol: Protocol,
    flows: &[Flow<'_>],
    threads: usize,
    attempt: fn(&Flow<'_>) -> Result<f64, String>,
) -> Result<Vec<Outcome>, LabError> {
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((place, flow)) = {
            let place = next.fetch_add(1, Ordering::Relaxed);
            flows.get(place).map(|flow| (place, flow))
        } {
            if interrupt::raised() {
                break;
            }
            let Flow {
                row, label, address, ..
            } = flow.clone();
            let outcome = Outcome {
                row,
                family: Family::of(address),
                protocol,
                label,
                result: attempt(flow),
            };
            outcomes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((place, outcome));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    interrupt::check()?;
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(place, _)| *place);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// A few small requests, whose round trip is the measure, and one that fills the MTU.
fn try_ping(flow: &Flow<'_>) -> Result<f64, String> {
    let send = |what: &Ping| ping(flow.from, flow.address, what).map_err(|error| error.to_string());
    let small = send(&Ping::default())?;
    answered(&small, "small")?;
    let full = send(&Ping {
        count: 1,
        ..Ping::full_size_to(flow.address, flow.mtu)
    })?;
    answered(&full, &format!("{}-byte", flow.mtu))?;
    median(small.round_trips_ms).ok_or_else(|| "no round-trip time".to_owned())
}

/// Says what is missing of the answers.
fn answered(report: &PingReport, size: &str) -> Result<(), String> {
    let PingReport {
        sent,
        received,
        complaints,
        ..
    } = report;
    if sent == received && complaints.is_empty() {
        return Ok(());
    }
    let mut reason = format!("{received} answers to {sent} {size} requests");
    if let Some(complaint) = complaints.first() {
        reason.push_str(&format!("; {complaint}"));
    }
    Err(reason)
}

/// Datagrams of all sizes, each echoed and compared.
fn try_udp(flow: &Flow<'_>) -> Result<f64, String> {
    let exchange = || {
        let server = UdpEcho::start(flow.to, flow.address)?;
        udp_exchange(
            flow.from,
            server.address(),
            &UdpExchange::up_to_at(flow.address, flow.mtu),
        )
    };
    let report = exchange().map_err(|error| error.to_string())?;
    if report.is_whole() {
        return Ok(report.bits_per_second / 1e6);
    }
    let reason = format!(
        "of {} datagrams {} came back whole, {} damaged, {} twice",
        report.sent, report.intact, report.damaged, report.repeated
    );
    Err(reason)
}

/// One bulk transfer by iperf3.
fn try_tcp(flow: &Flow<'_>) -> Result<f64, String> {
    let amount = flow.tcp.unwrap_or(Amount::Seconds(1));
    let Flow {
        from, to, address, ..
    } = *flow;
    let transfer = TcpTransfer {
        from,
        to,
        address,
        amount,
        timeout: TCP_TIMEOUT,
    };
    let report = tcp_transfer(&transfer).map_err(|error| error.to_string())?;
    if report.received_bytes == 0 {
        return Err(format!(
            "connected, but nothing arrived; {} segments sent again",
            report.retransmits
        ));
    }
    Ok(report.bits_per_second / 1e6)
}

/// The middle value; of an even number, the upper of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
