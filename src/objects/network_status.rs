//! What a Pod says of its addresses in networks beside the cluster's own.
//!
//! Whoever attaches Pods to networks (Multus, say) writes it into an annotation, as JSON: a list with an entry for each
//! interface (<https://github.com/k8snetworkplumbingwg/multi-net-spec>). Of its many fields the network's name and the addresses
//! are read, and of the entries those alone that are of a network with a definition, which is named `namespace/name`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::attachment::NetworkKey;
use super::fault::Fault;
use super::policy::PolicyFault;

/// The annotation.
pub(super) const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// Interfaces of a Pod that are read; far more than any has.
const INTERFACES_MAX: usize = 64;
/// Addresses of an interface that are read.
const ADDRESSES_MAX: usize = 64;

/// A Pod's addresses in a network beside the cluster's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkAddresses {
    /// The network, whether there is such a one or not.
    pub network: NetworkKey,
    /// The addresses, each once, on whichever interface.
    pub ips: Vec<IpAddr>,
}

/// An entry of the annotation, as far as it is read.
#[derive(Debug, Deserialize, Serialize)]
struct Interface {
    #[serde(default)]
    name: String,
    #[serde(default)]
    ips: Option<Vec<String>>,
    /// Whether it is that of the cluster's own network.
    #[serde(default, skip_serializing)]
    default: bool,
}

impl Interface {
    /// The network, if it is one with a definition, and not the cluster's own.
    fn network(&self) -> Option<NetworkKey> {
        let is_second = !self.default && self.ips.as_ref().is_some_and(|ips| !ips.is_empty());
        self.name.parse().ok().filter(|_| is_second)
    }
}

/// Reads the annotation, with what is wrong about parts of it: those are left out.
pub(super) fn read(text: &str) -> (Vec<NetworkAddresses>, Vec<Fault>) {
    let wrong = |reason: String, unknown| Fault::from(PolicyFault::NetworkStatus { reason, unknown });
    let interfaces: Vec<Interface> = match serde_json::from_str(text) {
        Ok(interfaces) => interfaces,
        Err(error) => return (Vec::new(), vec![wrong(error.to_string(), "this Pod's addresses")]),
    };
    let mut faults = Vec::new();
    let (mut all, mut left): (Vec<NetworkAddresses>, usize) = (Vec::new(), 0);
    for interface in &interfaces {
        let Some(network) = interface.network() else {
            continue;
        };
        let ips = interface.ips.as_deref().unwrap_or_default();
        if all.len() == INTERFACES_MAX || ips.len() > ADDRESSES_MAX {
            left += 1;
            continue;
        }
        let place = all.iter().position(|known| known.network == network);
        let place = place.unwrap_or_else(|| {
            let ips = Vec::new();
            all.push(NetworkAddresses { network, ips });
            all.len() - 1
        });
        for ip in ips {
            match ip.parse::<IpAddr>() {
                Ok(address) if all[place].ips.contains(&address) => {}
                Ok(address) => all[place].ips.push(address),
                Err(_) => faults.push(wrong(
                    format!("`{ip}` of network {} is no IP address", interface.name),
                    "that one",
                )),
            }
        }
    }
    if left > 0 {
        faults.push(wrong(
            format!("at most {INTERFACES_MAX} networks with {ADDRESSES_MAX} addresses each are read"),
            "the others",
        ));
    }
    all.retain(|known| !known.ips.is_empty());
    all.shrink_to_fit();
    all.iter_mut().for_each(|known| known.ips.shrink_to_fit());
    (all, faults)
}

/// What of the annotation says anything to [`read`]; `None` if nothing does.
pub(super) fn essence(text: String) -> Option<String> {
    let Ok(interfaces) = serde_json::from_str::<Vec<Interface>>(&text) else {
        // It is kept to be reported.
        return Some(text);
    };
    let is_second = |interface: &Interface| interface.network().is_some();
    let interfaces: Vec<Interface> = interfaces.into_iter().filter(is_second).collect();
    if interfaces.is_empty() {
        return None;
    }
    serde_json::to_string(&interfaces).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> (Vec<String>, Vec<String>) {
        let (read, faults) = read(text);
        let words = read.iter().map(|known| {
            let ips: Vec<String> = known.ips.iter().map(ToString::to_string).collect();
            format!("{} {}", known.network, ips.join(" "))
        });
        (words.collect(), faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_of_second_networks_are_read() {
        let text = r#"[
            {"name": "cbr0", "interface": "eth0", "ips": ["10.244.1.5"], "default": true, "dns": {}},
            {"name": "kube-system/main", "ips": ["10.244.1.5"], "default": true},
            {"name": "shop/blue", "interface": "net1", "ips": ["10.9.1.5", "fd09::5"], "mac": "02:00:00:00:00:05", "dns": {}},
            {"name": "shop/dhcp", "interface": "net2", "mac": "02:00:00:00:00:06", "dns": {}},
            {"name": "shop/none", "ips": null},
            {"name": "Shop/none", "ips": ["10.9.1.9"]},
            {"name": "shop/blue", "interface": "net3", "ips": ["10.9.1.6", "10.9.1.5"]}
        ]"#;
        let wanted = vec!["shop/blue 10.9.1.5 fd09::5 10.9.1.6".to_owned()];
        assert_eq!(words(text), (wanted.clone(), Vec::new()));
        let essence = essence(text.to_owned()).unwrap();
        assert_eq!(
            essence,
            r#"[{"name":"shop/blue","ips":["10.9.1.5","fd09::5"]},{"name":"shop/blue","ips":["10.9.1.6","10.9.1.5"]}]"#
        );
        assert_eq!(words(&essence), (wanted, Vec::new()));
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_said() {
        for text in [
            "[]",
            r#"[{"name": "cbr0", "ips": ["10.244.1.5"], "default": true}]"#,
        ] {
            assert_eq!(essence(text.to_owned()), None);
            assert_eq!(words(text), (Vec::new(), Vec::new()));
        }
    }

    #[test]
    fn what_is_wrong_is_left_out_and_named() {
        for (text, read, fault) in [
            (
                "{}",
                &[][..],
                "annotation k8s.v1.cni.cncf.io/network-status: invalid type: map",
            ),
            (
                r#"[{"name": "shop/blue", "ips": ["10.9.1", "10.9.1.5"]}]"#,
                &["shop/blue 10.9.1.5"],
                "annotation k8s.v1.cni.cncf.io/network-status: `10.9.1` of network shop/blue is no IP address; policies of networks beside the cluster's own do not know that one",
            ),
        ] {
            let (got, faults) = words(text);
            assert_eq!(got, read);
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{faults:?}");
            assert_eq!(words(&essence(text.to_owned()).unwrap()), (got, faults));
        }
        let many: Vec<String> = (0..70)
            .map(|number| format!(r#"{{"name": "shop/n{number}", "ips": ["10.9.1.5"]}}"#))
            .collect();
        let (read, faults) = words(&format!("[{}]", many.join(",")));
        assert_eq!((read.len(), faults.len()), (64, 1));
        assert!(faults[0].contains("at most 64 networks"), "{faults:?}");
    }
}
