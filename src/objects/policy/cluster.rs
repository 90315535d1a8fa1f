//! ClusterNetworkPolicies: the object as its API has it, and its reading.
//!
//! <https://github.com/kubernetes-sigs/network-policy-api>, `apis/v1alpha2`. Where the object says what this version does not
//! know, the API asks implementations to fail closed: an Accept rule then matches nothing, any other denies everything.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use super::read::{cidr, port_name, port_number};
use super::{
    NamespaceScope, PodSelector, PolicyFault, PolicyKey, PolicyKind, PolicyPeer, PolicyPort, PolicyRecord,
    PolicyRule, PolicyTier, RuleAction,
};
use crate::objects::fault::Fault;
use crate::objects::name::check_subdomain;
use crate::objects::selector::Selector;
use crate::objects::service::Protocol;

/// What follows from a rule that cannot be read as a whole.
const RULE_IS_CLOSED: &str = "the rule allows nobody if it is to Accept, else it denies everybody";
/// Largest `priority`.
const PRIORITY_MAX: u16 = 1000;

/// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    spec: Spec,
}

impl ClusterNetworkPolicy {
    /// `apiVersion`.
    pub const API_VERSION: &'static str = "policy.networking.k8s.io/v1alpha2";
    /// `kind`.
    pub const KIND: &'static str = "ClusterNetworkPolicy";
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Spec {
    tier: String,
    priority: i64,
    #[serde(default)]
    subject: Pods,
    #[serde(default)]
    ingress: Option<Vec<Rule>>,
    #[serde(default)]
    egress: Option<Vec<Rule>>,
}

/// What stands beside what is known: fields of a later version, or mistakes.
type Unknown = BTreeMap<String, Value>;

/// `subject`, and the part of a peer that is like it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct Pods {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPods>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamespacedPods {
    #[serde(default)]
    namespace_selector: LabelSelector,
    #[serde(default)]
    pod_selector: LabelSelector,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Rule {
    name: Option<String>,
    action: String,
    from: Option<Vec<Peer>>,
    to: Option<Vec<Peer>>,
    protocols: Option<Vec<ProtocolMatch>>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Peer {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPods>,
    nodes: Option<LabelSelector>,
    networks: Option<Vec<String>>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProtocolMatch {
    tcp: Option<Transport>,
    udp: Option<Transport>,
    sctp: Option<Transport>,
    destination_named_port: Option<String>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Transport {
    destination_port: Option<Port>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Port {
    number: Option<i64>,
    range: Option<Range>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Range {
    start: i64,
    end: i64,
}

impl PolicyRecord {
    /// Reads a ClusterNetworkPolicy object, with what is wrong about parts of it.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be told which pods it is about, or when it counts.
    pub fn read_cluster(policy: &ClusterNetworkPolicy) -> Result<(Self, Vec<Fault>), Fault> {
        let name = policy.metadata.name.clone().unwrap_or_default();
        check_subdomain(&name).map_err(|error| Fault::Name {
            field: "metadata.name",
            error,
        })?;
        let spec = &policy.spec;
        let value = spec.priority;
        let priority = u16::try_from(value)
            .ok()
            .filter(|priority| *priority <= PRIORITY_MAX);
        let priority = priority.ok_or(PolicyFault::Priority { value })?;
        let tier = match spec.tier.as_str() {
            "Admin" => PolicyTier::Admin(priority),
            "Baseline" => PolicyTier::Baseline(priority),
            other => {
                return Err(PolicyFault::Word {
                    field: "spec.tier".to_owned(),
                    value: other.to_owned(),
                    wanted: "Admin, Baseline",
                }
                .into());
            }
        };
        let subject = match (&spec.subject.namespaces, &spec.subject.pods) {
            (Some(namespaces), None) => of_namespaces("spec.subject", namespaces)?,
            (None, Some(pods)) => of_pods("spec.subject", pods)?,
            _ => return Err(PolicyFault::Subject.into()),
        };
        let mut faults = Vec::new();
        let mut rules = |direction, rules: &Option<Vec<Rule>>| {
            let rules = rules.iter().flatten().enumerate();
            rules
                .map(|(index, rule)| {
                    read_rule(
                        &format!("spec.{direction}[{index}]"),
                        direction == "ingress",
                        rule,
                        &mut faults,
                    )
                })
                .collect::<Vec<_>>()
        };
        let (ingress, egress) = (rules("ingress", &spec.ingress), rules("egress", &spec.egress));
        let record = Self {
            key: PolicyKey {
                kind: PolicyKind::ClusterNetworkPolicy,
                namespace: String::new(),
                name,
            },
            networks: Vec::new(),
            tier,
            subject,
            ingress: Some(ingress).filter(|rules| !rules.is_empty()),
            egress: Some(egress).filter(|rules| !rules.is_empty()),
        };
        Ok((record, faults.into_iter().map(Fault::from).collect()))
    }
}

fn of_namespaces(field: &str, namespaces: &LabelSelector) -> Result<PodSelector, PolicyFault> {
    Ok(PodSelector {
        namespaces: NamespaceScope::Selected(Selector::read(&format!("{field}.namespaces"), namespaces)?),
        pods: Selector::default(),
    })
}

fn of_pods(field: &str, pods: &NamespacedPods) -> Result<PodSelector, PolicyFault> {
    let namespaces = Selector::read(
        &format!("{field}.pods.namespaceSelector"),
        &pods.namespace_selector,
    )?;
    Ok(PodSelector {
        namespaces: NamespaceScope::Selected(namespaces),
        pods: Selector::read(&format!("{field}.pods.podSelector"), &pods.pod_selector)?,
    })
}

/// Reads a rule; one that cannot be read is closed.
fn read_rule(field: &str, is_ingress: bool, rule: &Rule, faults: &mut Vec<PolicyFault>) -> PolicyRule {
    let read = read_action(field, rule).and_then(|action| {
        let (peers, ports) = (read_peers(field, is_ingress, rule)?, read_protocols(field, rule)?);
        Ok((action, Some(peers), ports))
    });
    let (action, peers, ports) = read.unwrap_or_else(|fault| {
        faults.push(fault);
        if rule.action == "Accept" {
            (RuleAction::Accept, Some(Vec::new()), None)
        } else {
            (RuleAction::Deny, None, None)
        }
    });
    PolicyRule {
        name: rule.name.clone().filter(|name| !name.is_empty()),
        action,
        peers,
        ports,
    }
}

fn read_action(field: &str, rule: &Rule) -> Result<RuleAction, PolicyFault> {
    known(field, &rule.unknown)?;
    match rule.action.as_str() {
        "Accept" => Ok(RuleAction::Accept),
        "Deny" => Ok(RuleAction::Deny),
        "Pass" => Ok(RuleAction::Pass),
        other => Err(PolicyFault::Word {
            field: format!("{field}.action"),
            value: other.to_owned(),
            wanted: "Accept, Deny, Pass; the rule denies everybody",
        }),
    }
}

fn known(field: &str, unknown: &Unknown) -> Result<(), PolicyFault> {
    match unknown.keys().next() {
        Some(name) => Err(PolicyFault::Unsupported {
            field: format!("{field}.{name}"),
            consequence: RULE_IS_CLOSED,
        }),
        None => Ok(()),
    }
}

fn missing(field: String, wanted: &'static str) -> PolicyFault {
    PolicyFault::Missing {
        field,
        wanted,
        consequence: RULE_IS_CLOSED,
    }
}

fn read_peers(field: &str, is_ingress: bool, rule: &Rule) -> Result<Vec<PolicyPeer>, PolicyFault> {
    let (word, peers, other) = if is_ingress {
        ("from", &rule.from, &rule.to)
    } else {
        ("to", &rule.to, &rule.from)
    };
    let peers = peers.as_deref().unwrap_or_default();
    if peers.is_empty() || other.is_some() {
        return Err(missing(
            format!("{field}.{word}"),
            "at least one peer, and no other list of peers beside it",
        ));
    }
    let mut read = Vec::new();
    for (place, peer) in peers.iter().enumerate() {
        read_peer(&format!("{field}.{word}[{place}]"), is_ingress, peer, &mut read)?;
    }
    Ok(read)
}

fn read_peer(
    field: &str,
    is_ingress: bool,
    peer: &Peer,
    read: &mut Vec<PolicyPeer>,
) -> Result<(), PolicyFault> {
    known(field, &peer.unknown)?;
    match (&peer.namespaces, &peer.pods, &peer.nodes, &peer.networks) {
        (Some(namespaces), None, None, None) => {
            read.push(PolicyPeer::Pods(of_namespaces(field, namespaces)?))
        }
        (None, Some(pods), None, None) => read.push(PolicyPeer::Pods(of_pods(field, pods)?)),
        (None, None, Some(nodes), None) if !is_ingress => {
            read.push(PolicyPeer::Nodes(Selector::read(
                &format!("{field}.nodes"),
                nodes,
            )?));
        }
        (None, None, None, Some(networks)) if !is_ingress && !networks.is_empty() => {
            for (index, text) in networks.iter().enumerate() {
                let field = format!("{field}.networks[{index}]");
                read.push(PolicyPeer::Block {
                    cidr: cidr(&field, text, RULE_IS_CLOSED)?,
                    except: Vec::new(),
                });
            }
        }
        _ => {
            return Err(PolicyFault::Peer {
                field: field.to_owned(),
                wanted: if is_ingress {
                    "exactly one of namespaces, pods"
                } else {
                    "exactly one of namespaces, pods, nodes, networks"
                },
                consequence: RULE_IS_CLOSED,
            });
        }
    }
    Ok(())
}

fn read_protocols(field: &str, rule: &Rule) -> Result<Option<Vec<PolicyPort>>, PolicyFault> {
    let Some(protocols) = &rule.protocols else {
        return Ok(None);
    };
    if protocols.is_empty() {
        return Err(missing(
            format!("{field}.protocols"),
            "at least one entry where it is there",
        ));
    }
    let entries = protocols.iter().enumerate();
    let read = entries.map(|(index, entry)| read_protocol(&format!("{field}.protocols[{index}]"), entry));
    read.collect::<Result<_, _>>().map(Some)
}

fn read_protocol(field: &str, entry: &ProtocolMatch) -> Result<PolicyPort, PolicyFault> {
    known(field, &entry.unknown)?;
    match (&entry.tcp, &entry.udp, &entry.sctp, &entry.destination_named_port) {
        (Some(tcp), None, None, None) => read_transport(&format!("{field}.tcp"), Protocol::Tcp, tcp),
        (None, Some(udp), None, None) => read_transport(&format!("{field}.udp"), Protocol::Udp, udp),
        (None, None, Some(sctp), None) => read_transport(&format!("{field}.sctp"), Protocol::Sctp, sctp),
        (None, None, None, Some(name)) => Ok(PolicyPort::Name {
            protocol: None,
            name: port_name(&format!("{field}.destinationNamedPort"), name)?,
        }),
        _ => Err(missing(
            field.to_owned(),
            "exactly one of tcp, udp, sctp, destinationNamedPort",
        )),
    }
}

fn read_transport(field: &str, protocol: Protocol, transport: &Transport) -> Result<PolicyPort, PolicyFault> {
    known(field, &transport.unknown)?;
    let Some(port) = &transport.destination_port else {
        // The API asks for one attribute at least, so what was there is one that its server did not know.
        return Err(missing(field.to_owned(), "destinationPort"));
    };
    let field = format!("{field}.destinationPort");
    known(&field, &port.unknown)?;
    match (port.number, &port.range) {
        (Some(number), None) => {
            let number = port_number(&format!("{field}.number"), number, 1)?;
            Ok(PolicyPort::Range {
                protocol,
                first: number,
                last: number,
            })
        }
        (None, Some(range)) => {
            let first = port_number(&format!("{field}.range.start"), range.start, 1)?;
            Ok(PolicyPort::Range {
                protocol,
                first,
                last: port_number(&format!("{field}.range.end"), range.end, first)?,
            })
        }
        _ => Err(missing(field, "exactly one of number, range")),
    }
}
