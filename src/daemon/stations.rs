//! Stations of bridged networks, for a person: what numbers in the forwarding database stand for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::clock;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::fdb::{Entry, Fdb, STATIONS_PER_NETWORK};
use millrace_dataplane::table::{Location, NetworkId, RemoteId, Tick};
use millrace_dataplane::wire::MacAddr;
use tokio::sync::oneshot;

use super::Daemon;
use super::answers::to_value;
use crate::admin::protocol::{Failure, Response, ShowFilter, StationRow, Stations};
use crate::admin::server::Answer;

/// Rows that can be shown at once: all that are learned in a network. So many fit an answer with the longest names there are.
const ROWS_MAX: usize = STATIONS_PER_NETWORK as usize;

/// What numbers stand for.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) networks: BTreeMap<NetworkId, String>,
    /// Interface, and the pod behind it.
    pub(super) ports: BTreeMap<PortId, (String, Option<String>)>,
    /// Underlay address, and its node.
    pub(super) remotes: BTreeMap<RemoteId, (IpAddr, Option<String>)>,
}

impl Daemon {
    /// What numbers in bridged networks stand for now.
    pub(super) fn places(&self) -> Places {
        let served = &self.networks.networks;
        let members = self.members.served();
        let remotes = served.iter().flat_map(|network| &network.remotes);
        Places {
            networks: served
                .iter()
                .filter_map(|network| Some((network.id?, network.record.key.to_string())))
                .collect(),
            ports: members
                .map(|(port, row)| (port, (row.interface.clone(), row.pod().cloned())))
                .collect(),
            remotes: remotes
                .map(|remote| {
                    let node = remote.node.as_ref().map(ToString::to_string);
                    (remote.id, (remote.address, node))
                })
                .collect(),
        }
    }

    /// Shows stations, on a thread of its own: there may be tens of thousands to put in order.
    pub(super) fn show_stations(&self, filter: ShowFilter, answer: oneshot::Sender<Answer>) {
        let (fdb, places) = (Arc::clone(&self.bridging.fdb), self.places());
        let look = move || {
            let shown = show(&fdb, &places, &filter, clock::now());
            let _ = answer.send(Answer::Once(match shown.and_then(to_value) {
                Ok(value) => Response::Ok(value),
                Err(failure) => Response::Error(failure),
            }));
        };
        // Without a thread the answer's other end is dropped, and the client told so.
        let _ = std::thread::Builder::new().name("show-fdb".into()).spawn(look);
    }
}

fn show(fdb: &Fdb, places: &Places, filter: &ShowFilter, now: Tick) -> Result<Stations, Failure> {
    if let Some(name) = &filter.network
        && !places.networks.values().any(|known| known == name)
    {
        return Err(Failure::wrong(format!(
            "no network {name} is served here; `millrace show networks` has all of them"
        )));
    }
    let named = fdb.iter().filter_map(|(network, mac, entry)| {
        let name = places.networks.get(&network)?;
        Some((name, mac, entry))
    });
    let mut matching: Vec<(&String, MacAddr, Entry)> = named
        .filter(|(name, ..)| filter.network.as_ref().is_none_or(|wanted| wanted == *name))
        .collect();
    matching.sort_by_key(|(name, mac, _)| (*name, mac.octets()));
    let limit = filter.limit.unwrap_or(ROWS_MAX).min(ROWS_MAX);
    Ok(Stations {
        matching: matching.len() as u64,
        capacity: fdb.capacity().into(),
        stations: matching
            .iter()
            .take(limit)
            .map(|(name, mac, entry)| places.station(name, *mac, entry, now))
            .collect(),
    })
}

impl Places {
    /// What a person calls a place.
    pub(super) fn words(&self, location: Location) -> String {
        self.at("", MacAddr::ZERO, location).place()
    }

    /// A station that is known.
    pub(super) fn station(&self, network: &str, mac: MacAddr, entry: &Entry, now: Tick) -> StationRow {
        StationRow {
            is_static: entry.is_static(),
            seen_seconds: entry.age(now),
            ..self.at(network, mac, entry.location())
        }
    }

    /// A station as if it were just learned there.
    fn at(&self, network: &str, mac: MacAddr, location: Location) -> StationRow {
        let mut row = StationRow {
            network: network.to_owned(),
            mac: mac.to_string(),
            interface: None,
            pod: None,
            remote: None,
            node: None,
            is_static: false,
            seen_seconds: 0,
        };
        match location {
            Location::Switch => {}
            Location::Port(port) => {
                let known = self.ports.get(&port).cloned();
                let (interface, pod) = known.unwrap_or_else(|| (format!("port {port}"), None));
                (row.interface, row.pod) = (Some(interface), pod);
            }
            Location::Remote(remote) => {
                let known = self.remotes.get(&remote).cloned();
                (row.remote, row.node) = known.map_or_else(
                    || (None, Some(format!("remote {remote}"))),
                    |(address, node)| (Some(address), node),
                );
            }
        }
        row
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use millrace_dataplane::table::HashKey;

    use super::*;

    fn mac(number: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, number])
    }

    #[test]
    fn stations_are_told_by_network_in_order_and_no_more_than_asked_for() {
        let [red, blue, gone] = [1, 2, 3].map(NetworkId::new);
        let [port, remote] = [7, 9];
        let (port, remote) = (PortId::new(port).unwrap(), RemoteId::new(remote).unwrap());
        let places = Places {
            networks: [(red, "shop/red".to_owned()), (blue, "shop/blue".to_owned())].into(),
            ports: [(port, ("mr1".to_owned(), Some("shop/db-0".to_owned())))].into(),
            remotes: [(remote, ("192.0.2.2".parse().unwrap(), Some("node-b".to_owned())))].into(),
        };
        let fdb = Fdb::new(64, HashKey::random());
        let second = Tick::from_seconds;
        fdb.write()
            .set_static(blue, mac(1), Location::Port(port), second(10))
            .unwrap();
        for (network, mac) in [(blue, mac(3)), (blue, mac(2)), (red, mac(1)), (gone, mac(4))] {
            fdb.write()
                .learn(network, mac, Location::Remote(remote), second(40));
        }
        let ask = |network: Option<&str>, limit| {
            let filter = ShowFilter {
                network: network.map(str::to_owned),
                limit,
                ..ShowFilter::default()
            };
            show(&fdb, &places, &filter, second(52))
        };
        let words = |stations: &Stations| -> Vec<String> {
            let rows = stations.stations.iter();
            rows.map(|row| {
                let kind = if row.is_static { "static" } else { "learned" };
                format!(
                    "{} {} {} {kind} {}",
                    row.network,
                    row.mac,
                    row.place(),
                    row.seen_seconds
                )
            })
            .collect()
        };
        let all = ask(None, None).unwrap();
        assert_eq!((all.matching, all.capacity), (4, 64));
        assert_eq!(
            words(&all),
            [
                "shop/blue 02:00:00:00:00:01 mr1 (shop/db-0) static 42",
                "shop/blue 02:00:00:00:00:02 node-b (192.0.2.2) learned 12",
                "shop/blue 02:00:00:00:00:03 node-b (192.0.2.2) learned 12",
                "shop/red 02:00:00:00:00:01 node-b (192.0.2.2) learned 12",
            ]
        );
        let one = ask(Some("shop/blue"), Some(1)).unwrap();
        assert_eq!((one.matching, words(&one).len()), (3, 1));
        assert_eq!(ask(Some("shop/green"), None).unwrap_err().status, 2);
    }

    #[test]
    fn as_many_rows_as_can_be_shown_fit_an_answer() {
        let name = format!("{}/{}", "n".repeat(63), "m".repeat(253));
        let longest = StationRow {
            network: name.clone(),
            mac: mac(1).to_string(),
            interface: Some("fifteen-letters".to_owned()),
            pod: Some(name),
            remote: None,
            node: None,
            is_static: false,
            seen_seconds: u32::MAX,
        };
        let bytes = serde_json::to_string(&longest).unwrap().len() + 1;
        assert!(
            bytes * ROWS_MAX + 1024 < crate::admin::protocol::LINE_MAX_BYTES,
            "{bytes}"
        );
    }
}
