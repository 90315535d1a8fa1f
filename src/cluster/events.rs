//! Events: what this node has to say of an object, told on the object itself, where `kubectl describe` shows it.
//!
//! Every node of a cluster refuses the same things. An Event's name follows from what it says of which object, so the server
//! has each once, whoever comes first; the others hear that it is there already. A node says the same again only after a
//! while, as long as it is so, since Events are forgotten after an hour. What there is no time or room for is left out and
//! counted: the log and `millrace stats` have it all the same.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::contact::{Contact, Count};
use super::pace::Pace;
use super::request::{Trouble, late};
use crate::objects::{Mirror, NodeName, Notice, ObjectId, ServiceKey, ServiceRecord, Severity};

/// Reports that may wait.
const QUEUE: usize = 256;
/// Reports that are remembered, so as not to be made again.
const REMEMBERED_MAX: usize = 4096;
/// Longest `note`, in bytes, and longest `reportingInstance` (`ValidateEventCreate` of Kubernetes).
const NOTE_MAX_BYTES: usize = 1024;
const INSTANCE_MAX_BYTES: usize = 128;
/// How much of an object's name begins the Event's, so that it is no longer than a name may be.
const NAME_MAX_BYTES: usize = 200;
/// Where Events are of objects that live in no Namespace, as client-go has it. (Kubernetes 1.20 takes them in `kube-system` only;
/// nothing of ours runs there, for it has no EndpointSlices v1.)
const NAMESPACE: &str = "default";
/// Who says it.
const CONTROLLER: &str = "millrace";
/// What the server answers where the same Event is there already.
const CONFLICT: u16 = 409;
/// What requests about Events are called.
const SUBJECT: &str = "telling of refusals by Events";

/// Something to be said of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The object.
    pub object: ObjectId,
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its `metadata.uid`, by which whoever looks for its Events finds them.
    pub uid: String,
    /// Whether something is wrong.
    pub is_warning: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// What was done, in one word.
    pub action: &'static str,
    /// In words.
    pub note: String,
}

impl Report {
    /// What is said of a notice; nothing where nothing is wrong, or nobody can be told.
    #[must_use]
    pub fn of_notice(notice: &Notice, mirror: &Mirror) -> Option<Self> {
        let (reason, action) = match notice.severity {
            Severity::Refused => ("Refused", "Refuse"),
            Severity::Warning => ("Questionable", "Use"),
            Severity::Skipped => return None,
        };
        let object = notice.object.clone()?;
        let kept = if notice.last_good_kept {
            "; the last good version stays in force"
        } else {
            ""
        };
        let reference = mirror.reference(&object)?;
        Some(Self {
            uid: reference.uid().to_owned(),
            api_version: reference.api_version,
            object,
            is_warning: true,
            reason,
            action,
            note: format!("{}{kept}", notice.reason),
        })
    }

    /// What is said of a Service about its addresses; nothing of one that nobody could find by it.
    #[must_use]
    pub fn of_addresses(
        service: &ServiceRecord,
        is_warning: bool,
        reason: &'static str,
        note: String,
    ) -> Option<Self> {
        let uid = service.wish.as_ref()?.uid.clone();
        let key: &ServiceKey = &service.key;
        Some(Self {
            object: ObjectId {
                kind: "Service".to_owned(),
                namespace: key.namespace().to_owned(),
                name: key.name().to_owned(),
            },
            api_version: "v1".to_owned(),
            uid,
            is_warning,
            reason,
            action: if is_warning { "Refuse" } else { "Give" },
            note,
        })
    }

    /// A name that the same words of the same object have on every node.
    fn name(&self) -> String {
        let mut hash = Sha256::new();
        for part in [self.uid.as_str(), self.reason, &self.note] {
            hash.update(part);
            hash.update([0]);
        }
        let digest: String = hash
            .finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name = cut(&self.object.name, NAME_MAX_BYTES).trim_end_matches(['.', '-']);
        format!("{name}.{digest}")
    }

    fn namespace(&self) -> &str {
        match self.object.namespace.as_str() {
            "" => NAMESPACE,
            namespace => namespace,
        }
    }

    /// The Event.
    fn event(&self, node: &NodeName, now: Timestamp) -> Event {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Event {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: some(self.namespace()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: some(CONTROLLER),
            reporting_instance: some(cut(node.as_str(), INSTANCE_MAX_BYTES)),
            action: some(self.action),
            reason: some(self.reason),
            regarding: Some(ObjectReference {
                api_version: some(&self.api_version),
                kind: some(&self.object.kind),
                namespace: some(&self.object.namespace),
                name: some(&self.object.name),
                uid: some(&self.uid),
                ..ObjectReference::default()
            }),
            note: some(cut(&self.note, NOTE_MAX_BYTES)),
            type_: some(if self.is_warning { "Warning" } else { "Normal" }),
            ..Event::default()
        }
    }
}

/// The beginning of a text, of so many bytes at most.
fn cut(text: &str, max_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(max_bytes)).unwrap_or(text)
}

/// Takes reports, and never waits.
#[derive(Debug, Clone)]
pub struct Reporter {
    reports: mpsc::Sender<Report>,
    contact: Arc<Contact>,
}

impl Reporter {
    /// Has something said; if too much waits to be said already it is left out.
    pub fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            self.contact.count(Count::EventsLeftOut);
        }
    }
}

/// Sends reports, each once in a while, and not too many at a time.
pub(super) struct EventSender {
    client: kube::Client,
    node: NodeName,
    contact: Arc<Contact>,
    pace: Pace,
    reports: mpsc::Receiver<Report>,
    /// When what was said, and the order of it.
    said: HashMap<String, Instant>,
    order: VecDeque<(Instant, String)>,
    /// How many may be sent at once, as of when.
    credit: u32,
    credited: Instant,
}

/// A sender, and the way to it.
pub(super) fn events(
    client: kube::Client,
    node: NodeName,
    (contact, pace): (Arc<Contact>, Pace),
) -> (Reporter, EventSender) {
    let (sender, reports) = mpsc::channel(QUEUE);
    let reporter = Reporter {
        reports: sender,
        contact: Arc::clone(&contact),
    };
    let sender = EventSender {
        client,
        node,
        contact,
        pace,
        reports,
        said: HashMap::new(),
        order: VecDeque::new(),
        credit: pace.events_at_once,
        credited: Instant::now(),
    };
    (reporter, sender)
}

impl EventSender {
    /// Sends until nobody reports any more.
    pub(super) async fn run(mut self) {
        while let Some(report) = self.reports.recv().await {
            if self.is_new(&report) {
                self.wait_for_credit().await;
                self.send(&report).await;
            } else {
                self.contact.count(Count::EventsLeftOut);
            }
        }
    }

    fn is_new(&mut self, report: &Report) -> bool {
        let (now, key) = (
            Instant::now(),
            format!("{}/{}", report.namespace(), report.name()),
        );
        let is_old = |at: Instant| now.duration_since(at) >= self.pace.event_again;
        while let Some((at, key)) = self
            .order
            .pop_front_if(|(at, _)| is_old(*at) || self.said.len() > REMEMBERED_MAX)
        {
            if self.said.get(&key) == Some(&at) {
                self.said.remove(&key);
            }
        }
        if self.said.contains_key(&key) {
            return false;
        }
        self.said.insert(key.clone(), now);
        self.order.push_back((now, key));
        true
    }

    /// So many at once, and then one at a time.
    async fn wait_for_credit(&mut self) {
        let earned = self.credited.elapsed().as_micros() / self.pace.event_every.as_micros().max(1);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.credit = self.credit.saturating_add(earned).min(self.pace.events_at_once);
            self.credited = Instant::now();
        }
        if self.credit == 0 {
            tokio::time::sleep_until(self.credited + self.pace.event_every).await;
            self.credited = Instant::now();
        } else {
            self.credit -= 1;
        }
    }

    async fn send(&self, report: &Report) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), report.namespace());
        let event = report.event(&self.node, Timestamp::now());
        let params = PostParams::default();
        let sent = tokio::time::timeout(self.pace.answer_max, events.create(&params, &event)).await;
        let trouble = match sent {
            Ok(Ok(_)) => {
                self.contact.count(Count::Events);
                return self.contact.went_well(SUBJECT);
            }
            Ok(Err(error)) => Trouble::of(&error),
            Err(_) => late(self.pace.answer_max),
        };
        if trouble.code() == Some(CONFLICT) {
            return self.contact.count(Count::EventsLeftOut);
        }
        self.contact.count(Count::EventFailures);
        self.contact.failed(SUBJECT, &trouble);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Fault, Origin, Sighting, WATCHED};

    fn mirror(name: &str) -> (Mirror, ObjectId) {
        let watched = WATCHED.iter().find(|watched| watched.kind == "Service").unwrap();
        let tree = serde_json::json!({"metadata": {"name": name, "namespace": "shop", "uid": "u-1"}});
        let sighting = Sighting::new(watched, &watched.served[0], tree).unwrap();
        let id = sighting.id.clone();
        let mut mirror = Mirror::default();
        mirror.apply(sighting);
        (mirror, id)
    }

    fn report(name: &str, reason: &str) -> Report {
        let (mirror, id) = mirror(name);
        let fault = Fault::Field {
            field: "spec".to_owned(),
            reason: reason.to_owned(),
        };
        Report::of_notice(&Notice::new(Origin::Api, Some(id), fault), &mirror).unwrap()
    }

    #[test]
    fn an_event_is_the_same_on_every_node_and_of_bounded_size() {
        let now = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        let event = |node: &str| report("web", "no").event(&node.parse().unwrap(), now);
        let (a, b) = (event("node-a"), event("node-b"));
        assert_eq!(a.metadata, b.metadata);
        assert_ne!(a.reporting_instance, b.reporting_instance);
        let text = serde_json::to_string(&a).unwrap();
        let name = a.metadata.name.unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"apiVersion":"events.k8s.io/v1","kind":"Event","action":"Refuse","eventTime":"2026-01-02T03:04:05.678901Z","metadata":{{"name":"{name}","namespace":"shop"}},"note":"spec: no","reason":"Refused","regarding":{{"apiVersion":"v1","kind":"Service","name":"web","namespace":"shop","uid":"u-1"}},"reportingController":"millrace","reportingInstance":"node-a","type":"Warning"}}"#
            )
        );
        let long = report(&format!("{}.x", "a".repeat(251)), &"\u{fc}".repeat(5_000));
        let node = format!("{}.b", "a".repeat(250)).parse().unwrap();
        let event = long.event(&node, now);
        assert!(event.metadata.name.as_ref().unwrap().len() <= 253);
        crate::objects::check_subdomain(event.metadata.name.as_ref().unwrap()).unwrap();
        assert!(event.note.unwrap().len() <= NOTE_MAX_BYTES);
        assert!(event.reporting_instance.unwrap().len() <= INSTANCE_MAX_BYTES);
        // Other words are another Event.
        assert_ne!(report("web", "no").name(), report("web", "yes").name());
    }

    #[test]
    fn a_services_addresses_are_told_of_on_the_service_itself() {
        let told = |kind: &str, is_warning: bool| {
            let service = serde_json::json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
                "spec": {"type": kind, "clusterIP": "10.96.0.10", "ports": [{"port": 80}]}});
            let (record, _) = ServiceRecord::read(&serde_json::from_value(service).unwrap()).unwrap();
            let report = Report::of_addresses(&record, is_warning, "AddressesGiven", "192.0.2.7".to_owned())?;
            Some(report.event(&"node-a".parse().unwrap(), Timestamp::UNIX_EPOCH))
        };
        let event = told("LoadBalancer", false).unwrap();
        let text = serde_json::to_value(&event).unwrap();
        assert_eq!(
            text["regarding"],
            serde_json::json!({"apiVersion": "v1", "kind": "Service", "name": "web", "namespace": "shop", "uid": "u-1"})
        );
        assert_eq!(
            (&text["type"], &text["action"]),
            (&"Normal".into(), &"Give".into())
        );
        assert_eq!(
            (&text["reason"], &text["note"]),
            (&"AddressesGiven".into(), &"192.0.2.7".into())
        );
        assert_eq!(
            told("LoadBalancer", true).unwrap().type_.as_deref(),
            Some("Warning")
        );
        assert_eq!(told("ClusterIP", true), None, "it has no such addresses");
    }

    #[test]
    fn what_is_rightly_not_used_and_what_is_nobodys_is_not_told() {
        let (mirror, id) = mirror("web");
        let skipped = Notice::new(Origin::Api, Some(id.clone()), Fault::NotManaged);
        assert_eq!(Report::of_notice(&skipped, &mirror), None);
        let fault = || Fault::Syntax("x".to_owned());
        assert_eq!(
            Report::of_notice(&Notice::new(Origin::Api, None, fault()), &mirror),
            None
        );
        let other = ObjectId {
            name: "other".to_owned(),
            ..id
        };
        assert_eq!(
            Report::of_notice(&Notice::new(Origin::Api, Some(other), fault()), &mirror),
            None
        );
    }
}
