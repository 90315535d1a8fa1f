//! What changed between two snapshots, as far as stored answers rest on it.

use std::collections::{BTreeMap, HashSet};

use millrace_dataplane::table::{Prefix, RouteTable, SubjectId, Target};

/// The subjects whose routes differ between two tables: for each prefix that was added, removed or leads elsewhere,
/// where it led and leads now, and where the longest prefix around it did and does, since that is where its packets
/// went before, or go now.
#[must_use]
pub fn changed_subjects(old: &RouteTable, new: &RouteTable) -> HashSet<SubjectId> {
    let (old, new) = (by_prefix(old), by_prefix(new));
    let differing = |(prefix, target): &(&Prefix, &Target)| new.get(prefix) != Some(target);
    let gone_or_moved = old.iter().filter(differing).map(|(prefix, _)| prefix);
    let added = new.keys().filter(|prefix| !old.contains_key(prefix));
    let mut subjects = HashSet::new();
    for prefix in gone_or_moved.chain(added) {
        for table in [&old, &new] {
            let own = table.get(prefix).copied();
            subjects.extend(own.into_iter().chain(around(table, prefix)).map(Target::subject));
        }
    }
    subjects
}

/// Of two routes for one prefix the later one counts.
fn by_prefix(table: &RouteTable) -> BTreeMap<Prefix, Target> {
    table.routes().iter().copied().collect()
}

/// Where the longest prefix leads that lies around this one.
fn around(table: &BTreeMap<Prefix, Target>, prefix: &Prefix) -> Option<Target> {
    let shorter = (0..prefix.len()).rev();
    let mut around = shorter.filter_map(|len| Prefix::containing(prefix.address(), len).ok());
    around.find_map(|wider| table.get(&wider).copied())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use millrace_dataplane::port::PortId;
    use millrace_dataplane::table::PeerId;

    fn port(number: u16) -> Target {
        Target::Port(PortId::new(number).unwrap())
    }

    fn changed(old: &[(&str, Target)], new: &[(&str, Target)]) -> HashSet<SubjectId> {
        let table = |routes: &[(&str, Target)]| {
            RouteTable::build(
                routes
                    .iter()
                    .map(|(prefix, target)| (prefix.parse().unwrap(), *target)),
            )
        };
        changed_subjects(&table(old), &table(new))
    }

    #[test]
    fn only_what_packets_went_or_go_by_has_changed() {
        let uplink = Target::OnLink {
            port: PortId::new(0).unwrap(),
        };
        let peer = Target::Tunnel(PeerId::new(4));
        let base = [
            ("0.0.0.0/0", uplink),
            ("10.244.2.0/24", peer),
            ("10.244.1.2/32", port(2)),
        ];
        assert_eq!(changed(&base, &base), HashSet::new());
        let set = |targets: &[Target]| targets.iter().map(|target| target.subject()).collect();
        let with = |entry| [&base[..], &[entry]].concat();
        let pod = with(("10.244.1.3/32", port(3)));
        assert_eq!(changed(&base, &pod), set(&[port(3), uplink]), "added");
        assert_eq!(changed(&pod, &base), set(&[port(3), uplink]), "removed");
        let moved = with(("10.244.1.3/32", port(5)));
        assert_eq!(changed(&pod, &moved), set(&[port(3), port(5), uplink]), "moved");
        let borrowed = with(("10.244.2.64/26", port(2)));
        assert_eq!(
            changed(&base, &borrowed),
            set(&[port(2), peer]),
            "a part of a peer's"
        );
        let twice = with(("10.244.1.2/32", port(2)));
        assert_eq!(changed(&base, &twice), HashSet::new(), "said twice");
        let hole = with(("198.51.100.0/24", Target::Blackhole));
        assert_eq!(changed(&base, &hole), set(&[Target::Blackhole, uplink]));
        assert_eq!(Target::Blackhole.subject(), SubjectId::ROUTES);
    }
}
