//! Endpoints that change while connections are held.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::objects::{NODE_PORTS, PORTS};
use super::{DOWNLOAD_TIMEOUT, Services, millrace, underlay_addresses};
use crate::demo::checks::{Outcome, Protocol};
use crate::demo::flows::{Family, Row};
use crate::lab::traffic::{Download, download};
use crate::lab::{LabError, Namespace};

/// Bytes of a download that is held, and how many of them it takes a second: it lasts through all changes.
const HELD_SIZE: u32 = 16 << 20;
const HELD_RATE: u32 = 4 << 20;
/// How often the endpoints change, and the pause between: less in all than a held download lasts.
const CHANGES: usize = 15;
const PAUSE: Duration = Duration::from_millis(200);
/// How long the last change may take to be in force, with every node.
const IN_FORCE: Duration = Duration::from_millis(500);
/// How many calls show that only the endpoint that is left is called any more.
const LAST_CALLS: usize = 5;
/// Bytes of a call that is made meanwhile.
const SMALL: u32 = 1000;

/// What is said of a caller whose thread panicked.
const BROKEN: &str = "its thread broke down";

/// Who calls what.
struct Caller<'lab> {
    label: String,
    from: &'lab Namespace,
    to: SocketAddr,
}

/// Changes the endpoints while downloads run, and new calls are made all the time. Each download has to end whole, and each
/// new call to be answered; after the last change only the one endpoint that is left answers new calls.
pub(super) fn try_held(services: &Services<'_>) -> Result<Vec<Outcome>, LabError> {
    let callers = callers(services);
    let done = AtomicBool::new(false);
    let (changed, results) = thread::scope(|scope| {
        let held: Vec<_> = callers
            .iter()
            .map(|caller| scope.spawn(|| services.fetch(caller, HELD_SIZE, Some(HELD_RATE))))
            .collect();
        let fresh: Vec<_> = callers
            .iter()
            .map(|caller| scope.spawn(|| keep_calling(services, caller, &done)))
            .collect();
        let changed = change(services);
        done.store(true, Ordering::Relaxed);
        let left = callers.iter().map(|caller| only_the_last(services, caller));
        let left: Vec<_> = left.collect();
        let mut results = Vec::new();
        for ((held, fresh), left) in held.into_iter().zip(fresh).zip(left) {
            let held = held.join().unwrap_or_else(|_| Err(BROKEN.to_owned()));
            let fresh = fresh.join().unwrap_or_else(|_| Err(BROKEN.to_owned()));
            results.push(held.and_then(|rate| fresh.and(left).map(|()| rate)));
        }
        (changed, results)
    });
    changed?;
    let outcomes = callers.into_iter().zip(results).map(|(caller, result)| Outcome {
        row: Row::Held,
        family: Family::of(caller.to.ip()),
        protocol: Protocol::Tcp,
        label: caller.label,
        result,
    });
    Ok(outcomes.collect())
}

/// A pod and the node by ClusterIP, and the client by both kinds of address from outside; each by every family.
fn callers<'lab>(services: &Services<'lab>) -> Vec<Caller<'lab>> {
    let Some((node, _)) = millrace(services.lab).next() else {
        return Vec::new();
    };
    let caller = |name: &str, from: &'lab Namespace, address: IpAddr, port: u16| {
        let to = SocketAddr::new(address, port);
        let label = format!("{name} -> {to}");
        Caller { label, from, to }
    };
    let ([http, _], client) = (PORTS, services.client.namespace());
    let mut callers = Vec::new();
    for (addresses, own) in services.addresses.iter().zip(underlay_addresses(node)) {
        let cluster_ip = addresses.cluster_ip;
        callers.extend([
            caller(&node.name(), node.namespace(), cluster_ip, http),
            caller("outside", client, own, NODE_PORTS[0]),
            caller("outside", client, addresses.load_balancer_ip, http),
        ]);
        if let Some(pod) = node.pods().last() {
            callers.push(caller(pod.name(), pod.namespace(), cluster_ip, http));
        }
    }
    callers
}

/// Takes one endpoint after the other away and puts it back, and leaves only the last.
fn change(services: &Services<'_>) -> Result<(), LabError> {
    let count = services.pods().len();
    for number in 0..CHANGES {
        thread::sleep(PAUSE);
        services.publish(|place| count == 1 || place != number % count)?;
    }
    services.publish(|place| place + 1 == count)?;
    thread::sleep(IN_FORCE);
    Ok(())
}

/// Calls one after the other until it is over.
fn keep_calling(services: &Services<'_>, caller: &Caller<'_>, done: &AtomicBool) -> Result<(), String> {
    let started = Instant::now();
    while !done.load(Ordering::Relaxed) {
        services
            .fetch(caller, SMALL, None)
            .map_err(|reason| format!("a new call after {:?}: {reason}", started.elapsed()))?;
        thread::sleep(PAUSE / 4);
    }
    Ok(())
}

/// New calls are answered by the one endpoint that is left.
fn only_the_last(services: &Services<'_>, caller: &Caller<'_>) -> Result<(), String> {
    let last = services.pods().last().copied();
    for _ in 0..LAST_CALLS {
        let served_by = services.served(caller, SMALL, None)?.0;
        if Some(served_by.as_str()) != last {
            return Err(format!(
                "a new call was served by {served_by}, which is no endpoint any more"
            ));
        }
    }
    Ok(())
}

impl Services<'_> {
    /// Fetches so many bytes, and returns the rate in Mbit/s.
    fn fetch(&self, caller: &Caller<'_>, size: u32, rate: Option<u32>) -> Result<f64, String> {
        self.served(caller, size, rate).map(|(_, rate)| rate)
    }

    /// Fetches so many bytes, and returns who served them, and the rate in Mbit/s.
    fn served(&self, caller: &Caller<'_>, size: u32, rate: Option<u32>) -> Result<(String, f64), String> {
        let what = Download {
            from: caller.to,
            size,
            rate,
            timeout: DOWNLOAD_TIMEOUT,
        };
        let report = download(caller.from, &what).map_err(|error| error.to_string())?;
        self.is_ours(&report.served_by)?;
        Ok((report.served_by, report.bits_per_second / 1e6))
    }
}
