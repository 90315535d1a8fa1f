#![allow(clippy::unwrap_used)]

use super::*;

fn spec(number: u32, action: Action) -> RuleSpec {
    RuleSpec {
        id: RuleId::new(number),
        tier: Tier::Middle,
        action,
        addresses: Some(Vec::new()),
        ports: None,
    }
}

fn range(first: &str, last: &str) -> AddressRange {
    AddressRange {
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
    }
}

fn ports(protocol: IpProtocol, first: u16, last: u16) -> PortRange {
    PortRange {
        protocol,
        first,
        last,
    }
}

fn address(text: &str) -> Peer {
    Peer {
        identity: None,
        address: text.parse().unwrap(),
    }
}

fn pod(identity: u32) -> Peer {
    Peer {
        identity: Some(Identity::new(identity)),
        ..address("10.1.2.3")
    }
}

/// A change by which these rules of `rules` match an identity.
fn change(identity: u32, rules: usize, places: &[usize]) -> PeerChange {
    let mut bits = RuleBits::none(rules);
    places.iter().for_each(|place| bits.insert(*place));
    PeerChange {
        identity: Identity::new(identity),
        rules: bits,
        ports: Vec::new(),
    }
}

fn accept(number: u32) -> Ruling {
    Ruling::Accept(RuleId::new(number))
}

fn deny(number: u32) -> Ruling {
    Ruling::Deny(RuleId::new(number))
}

#[test]
fn addresses_and_ports_are_cut_at_their_ends() {
    let set = RuleSet::build(&[
        RuleSpec {
            addresses: Some(vec![
                range("10.0.0.0", "10.0.0.9"),
                range("10.0.0.5", "10.0.0.20"),
                range("fd00::5", "fd00::ffff"),
            ]),
            ports: Some(vec![
                ports(IpProtocol::TCP, 80, 90),
                ports(IpProtocol::UDP, 65_535, 65_535),
            ]),
            ..spec(1, Action::Accept)
        },
        RuleSpec {
            addresses: Some(vec![range("0.0.0.0", "255.255.255.255")]),
            ports: Some(vec![ports(IpProtocol::SCTP, 0, 65_535)]),
            ..spec(2, Action::Accept)
        },
        RuleSpec {
            addresses: None,
            ..spec(3, Action::Deny)
        },
    ])
    .unwrap();
    for (peer, protocol, port, expected) in [
        ("9.255.255.255", IpProtocol::TCP, 80, deny(3)),
        ("10.0.0.0", IpProtocol::TCP, 80, accept(1)),
        ("10.0.0.9", IpProtocol::TCP, 90, accept(1)),
        ("10.0.0.10", IpProtocol::TCP, 90, accept(1)),
        ("10.0.0.20", IpProtocol::TCP, 85, accept(1)),
        ("10.0.0.21", IpProtocol::TCP, 85, deny(3)),
        ("10.0.0.5", IpProtocol::TCP, 79, deny(3)),
        ("10.0.0.5", IpProtocol::TCP, 91, deny(3)),
        ("10.0.0.5", IpProtocol::UDP, 65_535, accept(1)),
        ("10.0.0.5", IpProtocol::UDP, 65_534, deny(3)),
        ("10.0.0.5", IpProtocol::ICMP, 0, deny(3)),
        ("0.0.0.0", IpProtocol::SCTP, 0, accept(2)),
        ("255.255.255.255", IpProtocol::SCTP, 65_535, accept(2)),
        ("fd00::4", IpProtocol::TCP, 80, deny(3)),
        ("fd00::5", IpProtocol::TCP, 80, accept(1)),
        ("fd00::ffff", IpProtocol::TCP, 80, accept(1)),
        ("fd00::1:0", IpProtocol::TCP, 80, deny(3)),
        ("fd00::5", IpProtocol::SCTP, 5, deny(3)),
    ] {
        assert_eq!(
            set.decide(address(peer), protocol, port),
            expected,
            "{peer} {protocol} {port}"
        );
    }
}

#[test]
fn a_pass_leaves_it_to_the_next_tier() {
    let tiers = [
        (Tier::First, Action::Pass),
        (Tier::First, Action::Deny),
        (Tier::Middle, Action::Accept),
        (Tier::Middle, Action::Deny),
        (Tier::Last, Action::Pass),
        (Tier::Last, Action::Deny),
    ];
    let specs: Vec<_> = (1..)
        .zip(tiers)
        .map(|(number, (tier, action))| RuleSpec {
            tier,
            ..spec(number, action)
        })
        .collect();
    let set = RuleSet::build(&specs).unwrap().with_all_peers([
        change(1, 6, &[0, 1, 2]),
        change(2, 6, &[0, 1, 3]),
        change(3, 6, &[1, 2]),
        change(4, 6, &[0, 4, 5]),
        change(5, 6, &[5]),
        change(6, 6, &[0, 1]),
    ]);
    for (identity, expected) in [
        (1, accept(3)),
        (2, deny(4)),
        (3, deny(2)),
        (4, Ruling::NotIsolated),
        (5, deny(6)),
        (6, Ruling::NotIsolated),
        (7, Ruling::NotIsolated),
    ] {
        assert_eq!(
            set.decide(pod(identity), IpProtocol::TCP, 1),
            expected,
            "{identity}"
        );
    }
}

#[test]
fn a_changed_identity_is_as_if_all_were_made_anew() {
    let specs: Vec<_> = (0..130).map(|number| spec(number + 1, Action::Accept)).collect();
    let bare = RuleSet::build(&specs).unwrap();
    let mut places: HashMap<u32, Vec<usize>> = HashMap::new();
    let mut set = bare.clone();
    for step in 0..2_000_u32 {
        let identity = step.wrapping_mul(2_654_435_761) % 97;
        let place = (step as usize).wrapping_mul(40_503) % 130;
        let rules = if step % 5 == 0 {
            Vec::new()
        } else {
            vec![place, (place * 7) % 130]
        };
        set = set.with_peer(&change(identity, 130, &rules));
        places.insert(identity, rules);
    }
    let anew = bare.with_all_peers(
        places
            .iter()
            .map(|(identity, rules)| change(*identity, 130, rules)),
    );
    for identity in 0..100 {
        let (a, b) = (
            set.decide(pod(identity), IpProtocol::TCP, 1),
            anew.decide(pod(identity), IpProtocol::TCP, 1),
        );
        assert_eq!(a, b, "{identity}");
        let first = places.get(&identity).and_then(|rules| rules.iter().min());
        let expected = first.map_or(Ruling::NotIsolated, |place| {
            accept(u32::try_from(*place + 1).unwrap())
        });
        assert_eq!(a, expected, "{identity}");
        assert_eq!(set.knows(Identity::new(identity)), first.is_some());
    }
    assert!(set.memory() < 4 * anew.memory(), "rows of nobody pile up");
}

#[test]
fn ports_by_name_are_an_identitys_own() {
    let set = RuleSet::build(&[
        RuleSpec {
            addresses: None,
            ports: Some(vec![ports(IpProtocol::TCP, 443, 443)]),
            ..spec(1, Action::Accept)
        },
        RuleSpec {
            addresses: None,
            ..spec(2, Action::Deny)
        },
    ])
    .unwrap();
    let mut named = change(7, 2, &[]);
    let mut first = RuleBits::none(2);
    first.insert(0);
    named.ports.push((IpProtocol::TCP, 8080, first));
    let set = set.with_peer(&named);
    for (peer, protocol, port, expected) in [
        (pod(7), IpProtocol::TCP, 8080, accept(1)),
        (pod(7), IpProtocol::UDP, 8080, deny(2)),
        (pod(7), IpProtocol::TCP, 443, accept(1)),
        (pod(8), IpProtocol::TCP, 8080, deny(2)),
        (address("10.1.2.3"), IpProtocol::TCP, 8080, deny(2)),
    ] {
        assert_eq!(
            set.decide(peer, protocol, port),
            expected,
            "{peer:?} {protocol} {port}"
        );
    }
    assert!(set.knows(Identity::new(7)) && !set.knows(Identity::new(8)));
    assert!(!set.with_peer(&change(7, 2, &[])).knows(Identity::new(7)));
}

#[test]
fn both_ends_are_asked() {
    let key = HashKey::from_words([1, 2, 3]);
    let port = |number| PortId::new(number).unwrap();
    let station = |identity, port| Station::Pod {
        identity: Some(Identity::new(identity)),
        port,
    };
    let mut stations = Stations::with_hasher(key);
    let at = |text: &str| -> IpAddr { text.parse().unwrap() };
    stations.insert(at("10.0.0.1"), Station::Node);
    stations.insert(at("10.0.0.2"), station(1, Some(port(2))));
    stations.insert(at("10.0.0.3"), station(2, Some(port(3))));
    stations.insert(at("10.0.0.4"), station(3, Some(port(4))));
    stations.insert(at("10.0.9.9"), station(1, None));
    let nothing = RuleSpec {
        addresses: None,
        ..spec(9, Action::Deny)
    };
    let closed = Arc::new(RuleSet::build(&[nothing]).unwrap());
    let table = PolicyTable::build(
        Arc::new(stations),
        [
            (port(2), PodPolicies::default()),
            (
                port(3),
                PodPolicies {
                    ingress: Some(closed),
                    ..PodPolicies::default()
                },
            ),
            (
                port(4),
                PodPolicies {
                    is_closed: true,
                    ..PodPolicies::default()
                },
            ),
        ],
        Arc::default(),
        Arc::default(),
    );
    let unknown = Ruling::Deny(RuleId::UNKNOWN_POD);
    for (source, destination, egress, ingress) in [
        ("10.0.0.2", "10.0.0.3", Ruling::NotIsolated, deny(9)),
        ("10.0.0.3", "10.0.0.2", Ruling::NotIsolated, Ruling::NotIsolated),
        ("10.0.0.3", "10.0.0.3", Ruling::Itself, Ruling::Itself),
        ("10.0.0.1", "10.0.0.3", Ruling::Elsewhere, Ruling::Node),
        ("10.0.0.4", "10.0.0.1", Ruling::Node, Ruling::Elsewhere),
        ("10.0.9.9", "10.0.0.3", Ruling::Elsewhere, deny(9)),
        ("192.0.2.1", "10.0.0.3", Ruling::Elsewhere, deny(9)),
        ("10.0.0.2", "192.0.2.1", Ruling::NotIsolated, Ruling::Elsewhere),
        ("10.0.0.4", "10.0.0.2", unknown, Ruling::NotIsolated),
        ("10.0.0.2", "10.0.0.4", Ruling::NotIsolated, unknown),
    ] {
        let query = Query {
            source: at(source),
            destination: at(destination),
            protocol: IpProtocol::TCP,
            port: 80,
        };
        assert_eq!(
            table.judge(&query),
            Judgement { egress, ingress },
            "{source} to {destination}"
        );
    }
    assert!(!table.is_open() && PolicyTable::default().is_open());
}

#[test]
fn what_decides_is_counted_once() {
    let mut counts = PolicyCounts::new(2);
    assert!(counts.grow(3_000) && !counts.grow(3_000));
    let judgement = |egress, ingress| Judgement { egress, ingress };
    counts.judged(0, &judgement(accept(1), accept(2_999)));
    counts.judged(1, &judgement(accept(1), deny(7)));
    counts.judged(1, &judgement(deny(7), deny(8)));
    counts.judged(9, &judgement(deny(7), deny(8)));
    let of = |rule| counts.of(RuleId::new(rule));
    assert_eq!((of(1), of(2_999), of(7), of(8)), (1, 1, 2, 0));
    assert_eq!(of(1_000_000), 0);
}

#[test]
fn what_is_denied_is_remembered_for_whoever_follows_and_keeps_up() {
    let log = DeniedLog::new(2);
    let denied = |port| Denied {
        query: Query {
            source: IpAddr::from([10, 0, 0, 1]),
            destination: IpAddr::from([10, 0, 0, 2]),
            protocol: IpProtocol::TCP,
            port,
        },
        sent_to: IpAddr::from([10, 96, 0, 1]),
        side: Side::Ingress,
        rule: RuleId::new(3),
    };
    log.note(0, &denied(1));
    assert!(log.take(10).is_empty(), "nobody follows");
    log.follow(true);
    log.note(1, &denied(2));
    log.note(7, &denied(3));
    assert_eq!(log.take(10), [denied(2)]);
    for port in 0..1_000 {
        log.note(0, &denied(port));
    }
    assert_eq!(log.take(100).len(), 100);
    assert_eq!(log.take(1_000).len() as u64 + 100 + log.lost(), 1_000);
    log.note(0, &denied(4));
    log.follow(false);
    assert!(log.take(10).is_empty(), "whoever comes next sees nothing of it");
}
