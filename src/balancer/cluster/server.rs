//! The API server as the [`Board`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use millrace_dataplane::wire::MacAddr;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tracing::error;

use super::{Board, BoardError, Held, NodeLease, Options, Order, Said, run};
use crate::balancer::{Members, aside};
use crate::cluster::connect;
use crate::config::Kubernetes;
use crate::objects::{NodeName, ServiceKey, UnicastMac};

/// The thread's name, as the system shows it.
const NAME: &str = "leases";
/// What the nodes' Leases are called, before the node's name, and the label that they are found by.
const NODE_LEASE: &str = "millrace-node-";
/// As [`NODE_LEASE`].
const LABEL: &str = "millrace.io/lease";
/// The label's value.
const OF_NODE: &str = "node";
/// The Lease of whoever gives out addresses.
const LEADER: &str = "millrace-load-balancer";
/// Where a node's Lease has the link address of its uplink.
const MAC: &str = "millrace.io/uplink-mac";
/// Where it has what the node has heard of hosts outside of the cluster.
const CLAIMS: &str = "millrace.io/addresses-of-others";

/// The API server, by a client of its own: renewals do not wait behind lists.
pub struct Server {
    client: kube::Client,
    namespace: String,
}

/// Starts a thread that talks with the API server for as long as somebody may give it orders. Leases are in a namespace.
///
/// # Errors
/// When the system has no thread left.
pub fn spawn(
    (kubernetes, namespace): (Kubernetes, String),
    options: Options,
    orders: mpsc::Receiver<Order>,
    members: watch::Sender<Arc<Members>>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new().name(NAME.to_owned()).spawn(move || {
        crate::privileges::drop_all();
        runtime.block_on(async move {
            match connect(&kubernetes).await {
                Ok((client, _)) => {
                    let server = Server { client, namespace };
                    run(Arc::new(server), options, orders, members).await;
                }
                // The source of objects has said the same, and kept the switch from starting.
                Err(failure) => error!("load balancers' addresses are not given out: {failure}"),
            }
        });
    })?;
    Ok(())
}

/// What kube-rs reports, as far as it makes a difference.
fn trouble(error: &kube::Error) -> BoardError {
    match error {
        kube::Error::Api(status) if status.code == 404 => BoardError::Gone,
        kube::Error::Api(status) if status.code == 409 => BoardError::Conflict,
        kube::Error::Api(status) => BoardError::Other(format!("{} {}", status.code, status.message)),
        other => BoardError::Other(other.to_string()),
    }
}

fn seconds(lease: Duration) -> i32 {
    i32::try_from(lease.as_millis().div_ceil(1000))
        .unwrap_or(i32::MAX)
        .max(1)
}

fn node_lease(lease: &Lease) -> Option<NodeLease> {
    let metadata = &lease.metadata;
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.clone()?;
    if metadata.name.as_deref()?.strip_prefix(NODE_LEASE) != Some(&holder) {
        return None;
    }
    let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).map(String::as_str);
    Some(NodeLease {
        node: NodeName::new(holder).ok()?,
        version: metadata.resource_version.clone()?,
        renewed_s: spec.renew_time.as_ref().map_or(0, |time| time.0.as_second()),
        said: Said {
            mac: annotation(MAC)
                .and_then(|text| text.parse::<UnicastMac>().ok())
                .map(|mac| mac.octets()),
            claims: annotation(CLAIMS).map(aside::read).unwrap_or_default(),
        },
    })
}

/// What a node says of itself as its Lease's annotations; a name without a value is taken out.
fn annotations(said: &Said) -> BTreeMap<&'static str, Option<String>> {
    let claims = Some(&said.claims).filter(|claims| !claims.is_empty());
    BTreeMap::from([
        (MAC, said.mac.map(|mac| MacAddr(mac).to_string())),
        (CLAIMS, claims.map(aside::write)),
    ])
}

impl Server {
    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

impl Board for Server {
    async fn leases(&self) -> Result<Vec<NodeLease>, BoardError> {
        // From the server's cache: this is asked often, by every node.
        let wanted = ListParams::default()
            .labels(&format!("{LABEL}={OF_NODE}"))
            .match_any();
        let leases = self.api().list(&wanted).await.map_err(|error| trouble(&error))?;
        Ok(leases.items.iter().filter_map(node_lease).collect())
    }

    async fn renew(&self, own: &NodeName, said: &Said, lease: Duration) -> Result<(), BoardError> {
        let name = format!("{NODE_LEASE}{own}");
        let annotations = annotations(said);
        let spec = json!({
            "holderIdentity": own.as_str(),
            "leaseDurationSeconds": seconds(lease),
            "renewTime": MicroTime(Timestamp::now()),
        });
        let patch = json!({"metadata": {"annotations": annotations}, "spec": spec});
        let renewed = self
            .api()
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        match renewed.map_err(|error| trouble(&error)) {
            Err(BoardError::Gone) => {
                let annotations = annotations.into_iter();
                let annotations = annotations.filter_map(|(name, value)| Some((name.to_owned(), value?)));
                let made = Lease {
                    metadata: ObjectMeta {
                        name: Some(name),
                        labels: Some(BTreeMap::from([(LABEL.to_owned(), OF_NODE.to_owned())])),
                        annotations: Some(annotations.collect()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(LeaseSpec {
                        holder_identity: Some(own.to_string()),
                        lease_duration_seconds: Some(seconds(lease)),
                        renew_time: Some(MicroTime(Timestamp::now())),
                        ..LeaseSpec::default()
                    }),
                };
                let made = self.api().create(&PostParams::default(), &made).await;
                made.map(drop).map_err(|error| trouble(&error))
            }
            renewed => renewed.map(drop),
        }
    }

    async fn leader(&self) -> Result<Option<Held>, BoardError> {
        let lease = self
            .api()
            .get_opt(LEADER)
            .await
            .map_err(|error| trouble(&error))?;
        Ok(lease.map(|lease| Held {
            holder: lease
                .spec
                .and_then(|spec| spec.holder_identity)
                .unwrap_or_default(),
            version: lease.metadata.resource_version.unwrap_or_default(),
        }))
    }

    async fn lead(&self, own: &NodeName, seen: Option<&Held>) -> Result<(), BoardError> {
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEADER.to_owned()),
                // With the version, the server refuses what somebody else has written meanwhile.
                resource_version: seen.map(|seen| seen.version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(own.to_string()),
                lease_duration_seconds: Some(seconds(super::lead::LEASE)),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        let written = match seen {
            Some(_) => self.api().replace(LEADER, &PostParams::default(), &lease).await,
            None => self.api().create(&PostParams::default(), &lease).await,
        };
        written.map(drop).map_err(|error| trouble(&error))
    }

    async fn set_ingress(&self, service: &ServiceKey, addresses: &[IpAddr]) -> Result<(), BoardError> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), service.namespace());
        let ingress: Vec<_> = addresses
            .iter()
            .map(|ip| json!({"ip": ip, "ipMode": "VIP"}))
            .collect();
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let patched = services.patch_status(service.name(), &params, &patch).await;
        patched.map(drop).map_err(|error| trouble(&error))
    }
}
