//! NetworkPolicies, read; and the spec that MultiNetworkPolicies share with them.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::read::{all_ports, cidr, port_name, port_number};
use super::{
    NamespaceScope, PodSelector, PolicyFault, PolicyKey, PolicyKind, PolicyPeer, PolicyPort, PolicyRecord,
    PolicyRule, PolicyTier, RuleAction,
};
use crate::objects::fault::Fault;
use crate::objects::name::{check_label, check_subdomain};
use crate::objects::object::namespace_of;
use crate::objects::selector::Selector;
use crate::objects::service::Protocol;

/// What follows from a peer that cannot be read.
const MATCHES_NO_ONE: &str = "it matches no one";

/// One direction's rules, as both directions have them.
type Rules<'a> = Vec<(&'a [NetworkPolicyPeer], &'a [NetworkPolicyPort])>;

impl PolicyRecord {
    /// Reads a NetworkPolicy object, with what is wrong about parts of it.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be told which pods it is about.
    pub fn read_network_policy(policy: &NetworkPolicy) -> Result<(Self, Vec<Fault>), Fault> {
        let spec = policy.spec.as_ref();
        Self::read_spec(PolicyKind::NetworkPolicy, &policy.metadata, spec)
    }

    /// Reads a policy of a kind that has the spec of a NetworkPolicy.
    pub(super) fn read_spec(
        kind: PolicyKind,
        metadata: &ObjectMeta,
        spec: Option<&NetworkPolicySpec>,
    ) -> Result<(Self, Vec<Fault>), Fault> {
        let name = metadata.name.clone().unwrap_or_default();
        let namespace = namespace_of(metadata).to_owned();
        let named = |field| move |error| Fault::Name { field, error };
        check_subdomain(&name).map_err(named("metadata.name"))?;
        check_label(&namespace).map_err(named("metadata.namespace"))?;
        let spec = spec.cloned().unwrap_or_default();
        let pods = Selector::read("spec.podSelector", &spec.pod_selector.unwrap_or_default())?;
        let ingress: Option<Rules<'_>> = spec.ingress.as_ref().map(|rules| {
            let rules = rules.iter();
            rules
                .map(|rule| {
                    (
                        rule.from.as_deref().unwrap_or_default(),
                        rule.ports.as_deref().unwrap_or_default(),
                    )
                })
                .collect()
        });
        let egress: Option<Rules<'_>> = spec.egress.as_ref().map(|rules| {
            let rules = rules.iter();
            rules
                .map(|rule| {
                    (
                        rule.to.as_deref().unwrap_or_default(),
                        rule.ports.as_deref().unwrap_or_default(),
                    )
                })
                .collect()
        });
        let mut faults = Vec::new();
        let has_egress_rules = egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let (is_ingress, is_egress) = directions(
            spec.policy_types.as_deref().unwrap_or_default(),
            has_egress_rules,
            &mut faults,
        );
        let mut reader = Reader {
            namespace: &namespace,
            faults,
        };
        let ingress = is_ingress.then(|| reader.rules("ingress", "from", &ingress.unwrap_or_default()));
        let egress = is_egress.then(|| reader.rules("egress", "to", &egress.unwrap_or_default()));
        let faults = reader.faults.into_iter().map(Fault::from).collect();
        let record = Self {
            subject: PodSelector {
                namespaces: NamespaceScope::Own(namespace.clone()),
                pods,
            },
            key: PolicyKey {
                kind,
                namespace,
                name,
            },
            networks: Vec::new(),
            tier: PolicyTier::NetworkPolicy,
            ingress,
            egress,
        };
        Ok((record, faults))
    }
}

/// The directions in which the policy isolates: ingress and egress. A word that there is not may have meant either.
fn directions(types: &[String], has_egress_rules: bool, faults: &mut Vec<PolicyFault>) -> (bool, bool) {
    if types.is_empty() {
        return (true, has_egress_rules);
    }
    let (mut ingress, mut egress) = (false, false);
    for (index, word) in types.iter().enumerate() {
        match word.as_str() {
            "Ingress" => ingress = true,
            "Egress" => egress = true,
            _ => {
                (ingress, egress) = (true, true);
                faults.push(PolicyFault::Word {
                    field: format!("spec.policyTypes[{index}]"),
                    value: word.clone(),
                    wanted: "Ingress, Egress; both count",
                });
            }
        }
    }
    (ingress, egress)
}

/// The reading of one policy's rules.
struct Reader<'a> {
    namespace: &'a str,
    faults: Vec<PolicyFault>,
}

impl Reader<'_> {
    fn rules(&mut self, direction: &str, peers: &str, rules: &Rules<'_>) -> Vec<PolicyRule> {
        let mut read = Vec::new();
        for (index, (from, ports)) in rules.iter().enumerate() {
            let at = format!("spec.{direction}[{index}]");
            read.push(PolicyRule {
                name: None,
                action: RuleAction::Accept,
                peers: self.each(from, |place| format!("{at}.{peers}[{place}]"), Self::peer),
                ports: self.each(ports, |place| format!("{at}.ports[{place}]"), Self::port),
            });
        }
        read
    }

    /// Reads the entries of a list; `None` if there is none to begin with. One that is faulty is left out, and the list
    /// stays a list.
    fn each<T, R>(
        &mut self,
        entries: &[T],
        field: impl Fn(usize) -> String,
        read: fn(&mut Self, &str, &T) -> Result<R, PolicyFault>,
    ) -> Option<Vec<R>> {
        if entries.is_empty() {
            return None;
        }
        let mut list = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            match read(self, &field(place), entry) {
                Ok(entry) => list.push(entry),
                Err(fault) => self.faults.push(fault),
            }
        }
        Some(list)
    }

    fn peer(&mut self, field: &str, peer: &NetworkPolicyPeer) -> Result<PolicyPeer, PolicyFault> {
        let wrong = |wanted| PolicyFault::Peer {
            field: field.to_owned(),
            wanted,
            consequence: MATCHES_NO_ONE,
        };
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (Some(block), None, None) => self.block(field, block),
            (Some(_), ..) => Err(wrong("ipBlock alone, or selectors without it")),
            (None, None, None) => Err(wrong("at least one of podSelector, namespaceSelector, ipBlock")),
            (None, namespaces, pods) => {
                let namespaces = match namespaces {
                    Some(selector) => NamespaceScope::Selected(Selector::read(
                        &format!("{field}.namespaceSelector"),
                        selector,
                    )?),
                    None => NamespaceScope::Own(self.namespace.to_owned()),
                };
                let pods = match pods {
                    Some(selector) => Selector::read(&format!("{field}.podSelector"), selector)?,
                    None => Selector::default(),
                };
                Ok(PolicyPeer::Pods(PodSelector { namespaces, pods }))
            }
        }
    }

    fn block(&mut self, field: &str, block: &IPBlock) -> Result<PolicyPeer, PolicyFault> {
        let net = cidr(&format!("{field}.ipBlock.cidr"), &block.cidr, MATCHES_NO_ONE)?;
        let mut except = Vec::new();
        for (index, text) in block.except.iter().flatten().enumerate() {
            let field = format!("{field}.ipBlock.except[{index}]");
            let hole = cidr(&field, text, "the whole ipBlock matches no one")?;
            if net.contains(&hole) {
                except.push(hole);
            } else {
                self.faults.push(PolicyFault::ExceptOutside {
                    field,
                    except: hole,
                    cidr: net,
                });
            }
        }
        Ok(PolicyPeer::Block { cidr: net, except })
    }

    fn port(&mut self, field: &str, port: &NetworkPolicyPort) -> Result<PolicyPort, PolicyFault> {
        let protocol = Protocol::read(port.protocol.as_deref()).ok_or_else(|| PolicyFault::Word {
            field: format!("{field}.protocol"),
            value: port.protocol.clone().unwrap_or_default(),
            wanted: Protocol::WORDS,
        })?;
        let at = format!("{field}.port");
        match (&port.port, port.end_port) {
            (None, None) => Ok(all_ports(protocol)),
            (Some(IntOrString::String(name)), None) => Ok(PolicyPort::Name {
                protocol: Some(protocol),
                name: port_name(&at, name)?,
            }),
            (None | Some(IntOrString::String(_)), Some(_)) => Err(PolicyFault::EndWithoutPort {
                field: field.to_owned(),
            }),
            (Some(IntOrString::Int(number)), end) => {
                let first = port_number(&at, i64::from(*number), 1)?;
                let last = match end {
                    Some(end) => port_number(&format!("{field}.endPort"), i64::from(end), first)?,
                    None => first,
                };
                Ok(PolicyPort::Range {
                    protocol,
                    first,
                    last,
                })
            }
        }
    }
}
