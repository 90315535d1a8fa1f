//! Where a connection would go, from the words of whoever asks.

use std::net::{IpAddr, SocketAddr};

use crate::admin::protocol::Failure;
use crate::objects::{PodKey, PodRecord, Store};

/// One to whom a connection would go, with what is known of that end.
pub(super) struct Towards {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// The pod's address of the family of another.
pub(super) fn address_for(pod: &PodRecord, other: IpAddr) -> Result<IpAddr, Failure> {
    let mut same = pod
        .ips
        .iter()
        .filter(|address| address.is_ipv4() == other.is_ipv4());
    same.next()
        .copied()
        .ok_or_else(|| Failure::wrong(format!("Pod {} has no address of the family of {other}", pod.key)))
}

/// Reads where a connection is to go.
pub(super) fn destination(store: &Store, text: &str, from: &PodRecord) -> Result<(Towards, String), Failure> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        let towards = Towards {
            address: socket.ip(),
            port: socket.port(),
        };
        return Ok((towards, text.to_owned()));
    }
    let wrong = || {
        Failure::wrong(format!(
            "{text} is no destination; NAMESPACE/POD:PORT, NAMESPACE/SERVICE:PORT or IP:PORT would be right"
        ))
    };
    let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let key: PodKey = name.parse().map_err(|_| wrong())?;
    let to_pod = store.pod(&key).filter(|pod| !pod.ips.is_empty());
    let service = store
        .services()
        .iter()
        .map(|entry| &entry.record)
        .find(|record| record.key.namespace() == key.namespace() && record.key.name() == key.name());
    let family = |addresses: &[IpAddr]| {
        let preferred = addresses
            .iter()
            .find(|address| from.ips.iter().any(|own| own.is_ipv4() == address.is_ipv4()));
        preferred.copied().ok_or_else(wrong)
    };
    match (to_pod, service) {
        (Some(_), Some(_)) => Err(Failure::wrong(format!(
            "{name} is a Pod and a Service; give the address of the one that is meant"
        ))),
        (Some(pod), None) => Ok((
            Towards {
                address: family(&pod.ips)?,
                port,
            },
            format!("Pod {text}"),
        )),
        (None, Some(service)) => Ok((
            Towards {
                address: family(&service.cluster_ips)?,
                port,
            },
            format!("Service {text}"),
        )),
        (None, None) => Err(Failure::wrong(format!(
            "there is no Pod and no Service {name} among the objects"
        ))),
    }
}
