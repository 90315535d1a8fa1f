//! Who there is, and who selects whom: pods by what policies can tell them apart by, and the selectors in use.
//!
//! Every selector in use is matched once against every identity, and the answer is kept as a bit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use millrace_dataplane::table::policy::Identity;

use crate::objects::{Labels, NamedPort, NamespaceRecord, NamespaceScope, PodRecord, PodSelector};

/// What policies can tell pods apart by.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Traits {
    pub(super) namespace: String,
    labels: Labels,
    pub(super) ports: Vec<NamedPort>,
}

impl Traits {
    fn of(record: &PodRecord) -> Self {
        Self {
            namespace: record.key.namespace().to_owned(),
            labels: record.labels.clone(),
            ports: record.named_ports.clone(),
        }
    }

    /// Whether no policy can tell two records of one pod apart.
    pub(super) fn are_same(a: &PodRecord, b: &PodRecord) -> bool {
        a.labels == b.labels && a.named_ports == b.named_ports
    }
}

/// The number of a selector in use.
pub(super) type SelectorId = usize;

/// Pods that no policy can tell apart.
#[derive(Debug)]
struct Group {
    traits: Arc<Traits>,
    pods: usize,
    /// A bit for each selector that selects them.
    selected: Vec<u64>,
}

/// A selector and how many use it.
#[derive(Debug)]
struct InUse {
    selector: Arc<PodSelector>,
    users: usize,
}

/// Pods and selectors.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    namespaces: BTreeMap<String, Arc<NamespaceRecord>>,
    /// By the identity's number.
    groups: Vec<Option<Group>>,
    by_traits: HashMap<Arc<Traits>, Identity>,
    by_namespace: BTreeMap<String, BTreeSet<Identity>>,
    free_groups: BTreeSet<u32>,
    /// By the selector's number.
    selectors: Vec<Option<InUse>>,
    by_selector: HashMap<Arc<PodSelector>, SelectorId>,
    free_selectors: BTreeSet<SelectorId>,
}

impl Crowd {
    /// Takes the Namespaces that there are; answers the identities in those that changed, `None` if none did.
    pub(super) fn take_namespaces(
        &mut self,
        namespaces: &BTreeMap<String, Arc<NamespaceRecord>>,
    ) -> Option<BTreeSet<Identity>> {
        let differs =
            |old: Option<&Arc<NamespaceRecord>>, new: Option<&Arc<NamespaceRecord>>| match (old, new) {
                (Some(old), Some(new)) => !Arc::ptr_eq(old, new) && old != new,
                (None, None) => false,
                _ => true,
            };
        let names: BTreeSet<&String> = self.namespaces.keys().chain(namespaces.keys()).collect();
        let changed: Vec<String> = names
            .into_iter()
            .filter(|name| differs(self.namespaces.get(*name), namespaces.get(*name)))
            .cloned()
            .collect();
        self.namespaces = namespaces.clone();
        if changed.is_empty() {
            return None;
        }
        let mut touched = BTreeSet::new();
        for name in &changed {
            let identities = self.by_namespace.get(name).cloned().unwrap_or_default();
            for identity in &identities {
                self.match_all(*identity);
            }
            touched.extend(identities);
        }
        Some(touched)
    }

    /// Takes in a pod; answers whom it is told apart as, and whether it is the first such.
    pub(super) fn enter(&mut self, record: &PodRecord) -> (Identity, bool) {
        let traits = Arc::new(Traits::of(record));
        if let Some(identity) = self.by_traits.get(&traits).copied() {
            if let Some(group) = self.group_mut(identity) {
                group.pods += 1;
            }
            return (identity, false);
        }
        let number = self.free_groups.pop_first().unwrap_or_else(|| {
            self.groups.push(None);
            // INVARIANT: pods are bounded by the manifests, far below 2^32.
            #[allow(clippy::cast_possible_truncation)]
            let last = (self.groups.len() - 1) as u32;
            last
        });
        let identity = Identity::new(number);
        if let Some(slot) = self.groups.get_mut(number as usize) {
            *slot = Some(Group {
                traits: Arc::clone(&traits),
                pods: 1,
                selected: Vec::new(),
            });
        }
        let namespace = traits.namespace.clone();
        self.by_namespace.entry(namespace).or_default().insert(identity);
        self.by_traits.insert(traits, identity);
        self.match_all(identity);
        (identity, true)
    }

    /// Lets a pod go; answers whether it was the last such.
    pub(super) fn leave(&mut self, identity: Identity) -> bool {
        let Some(group) = self.group_mut(identity) else {
            return false;
        };
        group.pods -= 1;
        if group.pods > 0 {
            return false;
        }
        let traits = Arc::clone(&group.traits);
        self.by_traits.remove(&traits);
        if let Some(there) = self.by_namespace.get_mut(&traits.namespace) {
            there.remove(&identity);
            if there.is_empty() {
                self.by_namespace.remove(&traits.namespace);
            }
        }
        if let Some(slot) = self.groups.get_mut(identity.get() as usize) {
            *slot = None;
        }
        self.free_groups.insert(identity.get());
        true
    }

    /// Takes a selector into use.
    pub(super) fn hold(&mut self, selector: &PodSelector) -> SelectorId {
        if let Some(id) = self.by_selector.get(selector).copied() {
            if let Some(Some(in_use)) = self.selectors.get_mut(id) {
                in_use.users += 1;
            }
            return id;
        }
        let id = self.free_selectors.pop_first().unwrap_or_else(|| {
            self.selectors.push(None);
            self.selectors.len() - 1
        });
        let selector = Arc::new(selector.clone());
        if let Some(slot) = self.selectors.get_mut(id) {
            *slot = Some(InUse {
                selector: Arc::clone(&selector),
                users: 1,
            });
        }
        self.by_selector.insert(Arc::clone(&selector), id);
        self.match_everyone(id, &selector);
        id
    }

    /// Gives a selector back.
    pub(super) fn release(&mut self, id: SelectorId) {
        let Some(slot) = self.selectors.get_mut(id) else {
            return;
        };
        let Some(in_use) = slot else { return };
        in_use.users -= 1;
        if in_use.users == 0 {
            self.by_selector.remove(&in_use.selector);
            *slot = None;
            self.free_selectors.insert(id);
        }
    }

    /// Whether a selector in use selects the pods of an identity.
    pub(super) fn selects(&self, selector: SelectorId, identity: Identity) -> bool {
        let word = self
            .group(identity)
            .and_then(|group| group.selected.get(selector / 64));
        word.is_some_and(|word| word & 1 << (selector % 64) != 0)
    }

    /// Whether any selector, in use or not, selects a pod with these labels.
    pub(super) fn is_selected(&self, selector: &PodSelector, namespace: &str, labels: &Labels) -> bool {
        self.is_in_scope(&selector.namespaces, namespace) && selector.pods.matches(labels)
    }

    /// What policies know of the pods of an identity; `None` if there are none any more.
    pub(super) fn traits(&self, identity: Identity) -> Option<&Traits> {
        self.group(identity).map(|group| &*group.traits)
    }

    /// Everyone there is.
    pub(super) fn identities(&self) -> impl Iterator<Item = Identity> + '_ {
        self.by_traits.values().copied()
    }

    /// How many selectors are in use.
    pub(super) fn selectors(&self) -> usize {
        self.by_selector.len()
    }

    fn group(&self, identity: Identity) -> Option<&Group> {
        self.groups.get(identity.get() as usize)?.as_ref()
    }

    fn group_mut(&mut self, identity: Identity) -> Option<&mut Group> {
        self.groups.get_mut(identity.get() as usize)?.as_mut()
    }

    fn is_in_scope(&self, scope: &NamespaceScope, namespace: &str) -> bool {
        match scope {
            NamespaceScope::Own(name) => name == namespace,
            NamespaceScope::Selected(selector) if selector.is_everything() => true,
            NamespaceScope::Selected(selector) => match self.namespaces.get(namespace) {
                Some(record) => selector.matches(&record.labels),
                None => selector.matches(&NamespaceRecord::unlabelled(namespace).labels),
            },
        }
    }

    /// Matches all selectors against one identity.
    fn match_all(&mut self, identity: Identity) {
        let Some(group) = self.group(identity) else { return };
        let traits = Arc::clone(&group.traits);
        let mut selected = vec![0_u64; self.selectors.len().div_ceil(64)];
        for (id, slot) in self.selectors.iter().enumerate() {
            let Some(in_use) = slot else { continue };
            if self.is_selected(&in_use.selector, &traits.namespace, &traits.labels) {
                selected[id / 64] |= 1 << (id % 64);
            }
        }
        if let Some(group) = self.group_mut(identity) {
            group.selected = selected;
        }
    }

    /// Matches one selector against all identities, Namespace by Namespace.
    fn match_everyone(&mut self, id: SelectorId, selector: &PodSelector) {
        let (word, bit) = (id / 64, 1 << (id % 64));
        for (namespace, identities) in &self.by_namespace {
            let is_in_scope = self.is_in_scope(&selector.namespaces, namespace);
            for identity in identities {
                let Some(Some(group)) = self.groups.get_mut(identity.get() as usize) else {
                    continue;
                };
                if group.selected.len() <= word {
                    group.selected.resize(word + 1, 0);
                }
                // The number may have been another's.
                group.selected[word] &= !bit;
                if is_in_scope && selector.pods.matches(&group.traits.labels) {
                    group.selected[word] |= bit;
                }
            }
        }
    }

    /// About how much memory all of it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        let groups = self.groups.iter().flatten().map(|group| {
            let traits = &group.traits;
            let text = |labels: &Labels| {
                labels
                    .iter()
                    .map(|(key, value)| key.len() + value.len() + 64)
                    .sum::<usize>()
            };
            size_of::<Group>()
                + size_of::<Traits>()
                + text(&traits.labels)
                + traits.namespace.len()
                + group.selected.len() * 8
        });
        groups.sum::<usize>() + self.selectors.len() * (size_of::<InUse>() + size_of::<PodSelector>() + 128)
    }
}
