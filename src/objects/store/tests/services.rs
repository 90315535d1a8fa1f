//! A registry that has seen every change and one that is filled from nothing come to the same.

use proptest::prelude::*;

use super::*;
use crate::objects::Folder;

/// A Service or a slice of one of a few, so that they collide often.
#[derive(Debug, Clone)]
enum Part {
    Service {
        name: u8,
        created: Option<u8>,
        cluster: u8,
        external: Option<u8>,
        kind: u8,
    },
    Slice {
        name: u8,
        service: u8,
        endpoint: u8,
    },
    Node {
        cidr: u8,
    },
    Broken,
}

impl Part {
    fn text(&self) -> String {
        match self {
            Self::Service {
                name,
                created,
                cluster,
                external,
                kind,
            } => {
                let created = created.map(|day| format!(", creationTimestamp: '2026-01-0{day}T00:00:00Z'"));
                let external = external
                    .map(|last| format!("externalIPs: [198.51.100.{last}], "))
                    .unwrap_or_default();
                let kind = ["ClusterIP", "NodePort", "Wrong"][usize::from(*kind)];
                format!(
                    "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{name}{}}}\nspec: {{type: {kind}, \
                     clusterIP: 10.96.0.{cluster}, {external}ports: [{{port: 80, nodePort: 30080}}]}}\n",
                    created.unwrap_or_default()
                )
            }
            Self::Slice {
                name,
                service,
                endpoint,
            } => format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: e{name}, labels: \
                 {{kubernetes.io/service-name: s{service}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\n\
                 endpoints: [{{addresses: [10.244.1.{endpoint}]}}]\n"
            ),
            Self::Node { cidr } => format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: n{cidr}}}\nspec: {{podCIDRs: [198.51.100.{}/31]}}\n",
                cidr & !1
            ),
            Self::Broken => "---\nkind: [\n".to_owned(),
        }
    }
}

fn part() -> impl Strategy<Value = Part> {
    let service = (
        0..4_u8,
        proptest::option::of(1..4_u8),
        1..4_u8,
        proptest::option::of(1..4_u8),
        0..3_u8,
    );
    prop_oneof![
        6 => service.prop_map(|(name, created, cluster, external, kind)| Part::Service {
            name, created, cluster, external, kind
        }),
        3 => (0..3_u8, 0..4_u8, 1..4_u8).prop_map(|(name, service, endpoint)| Part::Slice { name, service, endpoint }),
        1 => (0..4_u8).prop_map(|cidr| Part::Node { cidr }),
        1 => Just(Part::Broken),
    ]
}

/// What a file is to hold from now on; nothing for one that is removed.
fn step() -> impl Strategy<Value = (u8, Option<Vec<Part>>)> {
    let parts = proptest::collection::vec(part(), 0..4);
    (0..3_u8, prop_oneof![1 => Just(None), 5 => parts.prop_map(Some)])
}

/// All that a store says of Services, and its notices in any order.
fn shown(store: &Store) -> (Vec<String>, Vec<String>) {
    let services = store.services().iter().map(|entry| format!("{entry:?}"));
    let mut notices: Vec<String> = store.notices().iter().map(ToString::to_string).collect();
    notices.sort();
    (services.collect(), notices)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn step_by_step_is_as_good_as_at_once(steps in proptest::collection::vec(step(), 1..12)) {
        let dir = tempfile::tempdir().unwrap();
        let own: NodeName = "node-a".parse().unwrap();
        let mut folder = Folder::new(dir.path());
        for (file, parts) in steps {
            let path = dir.path().join(format!("{file}.yaml"));
            match parts {
                Some(parts) => {
                    let text: String = parts.iter().map(Part::text).collect();
                    std::fs::write(&path, text).unwrap();
                }
                None => {
                    let _ = std::fs::remove_file(&path);
                }
            }
            let before = folder.store(&own, &[]);
            folder.scan();
            let store = folder.store(&own, &[]);
            // What is in force now, last good versions included, from nothing.
            let fresh = Store::build(&own, folder.entries(), folder.own_notices());
            prop_assert_eq!(shown(&store), shown(&fresh));
            let known: Vec<_> = before.services().iter().collect();
            for entry in store.services().iter() {
                let same = known.iter().find(|other| ***other == *entry);
                prop_assert!(same.is_none_or(|same| Arc::ptr_eq(same, entry)), "made anew without need");
            }
        }
    }
}
