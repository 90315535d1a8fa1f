//! What changed between two snapshots, as far as stored answers rest on it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use millrace_dataplane::table::{Prefix, RouteTable, SubjectId, Target};

/// The subjects whose routes differ between two tables: for each prefix that was added, removed or leads elsewhere,
/// where it led and leads now, and where the longest prefix around it did and does, since that is where its packets
/// went before, or go now.
#[must_use]
pub fn changed_subjects(old: &RouteTable, new: &RouteTable) -> HashSet<SubjectId> {
    let (old_routes, new_routes) = (by_prefix(old), by_prefix(new));
    let prefixes: BTreeSet<&Prefix> = old_routes.keys().chain(new_routes.keys()).collect();
    let mut subjects = HashSet::new();
    let mut around = Around::default();
    // A prefix comes right before those that lie in it.
    for prefix in prefixes {
        around.leave(prefix);
        let (was, is) = (old_routes.get(prefix).copied(), new_routes.get(prefix).copied());
        if !is_same((old, was), (new, is)) {
            for (table, own, wider) in [(old, was, around.led()), (new, is, around.leads())] {
                let targets = own.into_iter().chain(wider);
                subjects.extend(targets.flat_map(|target| table.ends(target)).map(Target::subject));
            }
        }
        around.enclosing.push((*prefix, was, is));
    }
    subjects
}

/// Of two routes for one prefix the later one counts.
fn by_prefix(table: &RouteTable) -> BTreeMap<Prefix, Target> {
    table.routes().iter().copied().collect()
}

/// Whether two routes lead the same way. Numbers of several ways are a table's own.
fn is_same((old, was): (&RouteTable, Option<Target>), (new, is): (&RouteTable, Option<Target>)) -> bool {
    match (was, is) {
        (Some(Target::Spread(was)), Some(Target::Spread(is))) => old.spread(was) == new.spread(is),
        (was, is) => was == is,
    }
}

/// The prefixes around the one that is looked at, the widest first, and where each led and leads.
#[derive(Default)]
struct Around {
    enclosing: Vec<(Prefix, Option<Target>, Option<Target>)>,
}

impl Around {
    /// Goes on to a prefix: those that do not lie around it are left.
    fn leave(&mut self, prefix: &Prefix) {
        while let Some((last, ..)) = self.enclosing.last()
            && !(last.len() < prefix.len() && last.contains(prefix.address()))
        {
            self.enclosing.pop();
        }
    }

    /// Where the nearest of them led that led anywhere.
    fn led(&self) -> Option<Target> {
        self.enclosing.iter().rev().find_map(|(_, was, _)| *was)
    }

    /// Where the nearest of them leads that leads anywhere.
    fn leads(&self) -> Option<Target> {
        self.enclosing.iter().rev().find_map(|(_, _, is)| *is)
    }
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
