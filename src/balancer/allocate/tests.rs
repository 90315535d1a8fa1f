//! Rows, and properties over random Services.

use proptest::prelude::*;

use super::*;
use crate::objects::{Labels, Protocol};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Hosts outside of the cluster that have these addresses.
fn hosts(addresses: &[&str]) -> BTreeMap<IpAddr, MacAddr> {
    let host = MacAddr([2, 0, 0, 0, 0, 9]);
    addresses.iter().map(|address| (ip(address), host)).collect()
}

/// What the random Services find to be somebody's; those that have it were just given it.
const ASIDE: [&str; 2] = ["192.0.2.2", "2001:db8::1"];

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name).unwrap()
}

fn pool(name: &str, addresses: &[&str]) -> Pool {
    Pool {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        auto_assign: true,
        skip_0_and_255: false,
        namespaces: Vec::new(),
        namespace_labels: BTreeMap::new(),
        service_labels: BTreeMap::new(),
    }
}

fn service(name: &str) -> Claimant {
    Claimant {
        service: key(name),
        created_s: None,
        families: vec![Family::V4],
        needs_all: false,
        is_unreadable: false,
        wanted: Vec::new(),
        pool: None,
        sharing: None,
        ports: BTreeSet::from([(Protocol::Tcp, 80)]),
        admitted: vec![0, 1],
        held: Vec::new(),
        declined: Vec::new(),
    }
}

fn dual(name: &str) -> Claimant {
    Claimant {
        families: vec![Family::V4, Family::V6],
        ..service(name)
    }
}

fn shared(name: &str, port: u16, local: Option<&str>) -> Claimant {
    let local_pods = local.map(|pods| Labels::from([("app".to_owned(), pods.to_owned())]));
    Claimant {
        sharing: Some(Sharing {
            key: "k".to_owned(),
            local_pods,
        }),
        ports: BTreeSet::from([(Protocol::Tcp, port)]),
        ..service(name)
    }
}

/// What each Service got, as `name=address,address`, and what was refused, as `name: reason`.
fn outcome_with(
    claimants: &[Claimant],
    pools: &[Pool],
    refused: &[usize],
    taken: &[(&str, Taken)],
) -> (String, Vec<String>) {
    outcome_beside(claimants, pools, (refused, taken), &[])
}

/// The same beside hosts that have addresses.
fn outcome_beside(
    claimants: &[Claimant],
    pools: &[Pool],
    (refused, taken): (&[usize], &[(&str, Taken)]),
    aside: &[&str],
) -> (String, Vec<String>) {
    let aside = hosts(aside);
    let refused = refused.iter().copied().collect();
    let taken = taken
        .iter()
        .map(|(address, holder)| (ip(address), vec![holder.clone()]))
        .collect();
    let pools = Pools {
        pools,
        refused: &refused,
        taken: &taken,
        aside: &aside,
    };
    let allocation = allocate(claimants, pools);
    let given = allocation.given.iter().map(|(service, given)| {
        let addresses: Vec<String> = given.iter().map(|given| given.address.to_string()).collect();
        format!("{}={}", service.name(), addresses.join(","))
    });
    let refusals = allocation.refusals.iter();
    let refusals = refusals.map(|refusal| format!("{}: {}", refusal.service.name(), refusal.reason));
    (given.collect::<Vec<_>>().join(" "), refusals.collect())
}

fn outcome(claimants: &[Claimant], pools: &[Pool]) -> (String, Vec<String>) {
    outcome_with(claimants, pools, &[], &[])
}

#[test]
fn the_lowest_free_address_of_the_first_pool_with_one() {
    let pools = [
        pool("small", &["192.0.2.1", "192.0.2.9-192.0.2.10"]),
        pool("large", &["198.51.100.0/24", "2001:db8::/120"]),
    ];
    let services: Vec<_> = ["a", "b", "c", "d"].map(service).to_vec();
    let (given, refusals) = outcome(&services, &pools);
    assert_eq!(given, "a=192.0.2.1 b=192.0.2.9 c=192.0.2.10 d=198.51.100.0");
    assert_eq!(refusals, [""; 0]);
    assert_eq!(outcome(&[dual("a")], &pools).0, "a=192.0.2.1,2001:db8::");
}

#[test]
fn the_older_comes_first_and_what_is_had_is_kept() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.3"])];
    let (mut a, mut b, mut c) = (service("a"), service("b"), service("c"));
    (b.created_s, c.created_s) = (Some(20), Some(10));
    let (given, _) = outcome(&[a.clone(), b.clone(), c.clone()], &pools);
    assert_eq!(given, "a=192.0.2.3 b=192.0.2.2 c=192.0.2.1");
    // Whoever has an address keeps it against whoever is older, and against whoever asks for it.
    a.held = vec![ip("192.0.2.1")];
    b.held = vec![ip("192.0.2.3")];
    c.wanted = vec![ip("192.0.2.1")];
    let (given, refusals) = outcome(&[a, b, c], &pools);
    assert_eq!(given, "a=192.0.2.1 b=192.0.2.3");
    assert_eq!(
        refusals,
        [
            "a: 192.0.2.1 is asked for by Service default/c too, which does not get it: \
             they do not have the same millrace.io/allow-shared-ip",
            "c: 192.0.2.1 belongs to Service default/a: they do not have the same millrace.io/allow-shared-ip",
        ]
    );
}

#[test]
fn what_is_asked_for_comes_before_what_is_not() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.2"]), pool("q", &["198.51.100.7"])];
    let mut wants = service("z");
    wants.wanted = vec![ip("192.0.2.1")];
    assert_eq!(
        outcome(&[service("a"), wants.clone()], &pools).0,
        "a=192.0.2.2 z=192.0.2.1"
    );
    // A changed wish moves the Service.
    wants.held = vec![ip("192.0.2.2")];
    assert_eq!(outcome(&[wants.clone()], &pools).0, "z=192.0.2.1");
    // So does a pool; and a pool that is not given out by itself is there for whoever asks.
    let mut by_hand = pools.clone();
    by_hand[1].auto_assign = false;
    let mut of_pool = service("y");
    of_pool.pool = Some("q".to_owned());
    of_pool.held = vec![ip("192.0.2.2")];
    assert_eq!(
        outcome(&[of_pool, service("x")], &by_hand).0,
        "x=192.0.2.1 y=198.51.100.7"
    );
    // In the other family it gets any.
    let six = [pools[0].clone(), pool("six", &["2001:db8::1"])];
    let mut both = dual("d");
    both.wanted = vec![ip("192.0.2.2")];
    assert_eq!(outcome(&[both], &six).0, "d=192.0.2.2,2001:db8::1");
}

#[test]
fn what_cannot_be_had_is_said() {
    let mut skipping = pool("p", &["192.0.2.255"]);
    skipping.skip_0_and_255 = true;
    let pools = [skipping, pool("q", &["198.51.100.7"])];
    let wanting = |address: &str| Claimant {
        wanted: vec![ip(address)],
        ..service("a")
    };
    let of_pool = |name: &str| Claimant {
        pool: Some(name.to_owned()),
        ..service("a")
    };
    let elsewhere = |mut claimant: Claimant| {
        claimant.admitted = vec![0];
        claimant
    };
    let rows: [(Claimant, &str); 9] = [
        (
            wanting("203.0.113.1"),
            "203.0.113.1 is in no pool of [load-balancer]",
        ),
        (
            wanting("192.0.2.255"),
            "192.0.2.255 is in no pool of [load-balancer]",
        ),
        (
            elsewhere(wanting("198.51.100.7")),
            "198.51.100.7 is in pool `q`, which this Service may not use",
        ),
        (of_pool("r"), "there is no pool `r` in [load-balancer]"),
        (
            elsewhere(of_pool("q")),
            "pool `q` is asked for, which this Service may not use",
        ),
        (
            Claimant {
                pool: Some("p".to_owned()),
                ..wanting("198.51.100.7")
            },
            "198.51.100.7 is in pool `q`, and pool `p` is asked for",
        ),
        (
            Claimant {
                families: vec![Family::V6],
                ..service("a")
            },
            "no pool that this Service may use has IPv6 addresses",
        ),
        (
            elsewhere(service("a")),
            "every IPv4 address that this Service may have is given out, of pool `p`",
        ),
        (
            Claimant {
                is_unreadable: true,
                ..service("a")
            },
            "what it asks for is no address, so it gets none",
        ),
    ];
    for (claimant, reason) in rows {
        let (given, refusals) = outcome(&[claimant], &pools);
        assert_eq!((given.as_str(), refusals), ("", vec![format!("a: {reason}")]));
    }
    // A wish in a family that it does not have is no wish in the other.
    let (given, refusals) = outcome(&[wanting("2001:db8::1")], &pools);
    assert_eq!(given, "a=198.51.100.7");
    assert_eq!(
        refusals,
        ["a: 2001:db8::1 is of a family that this Service does not have"]
    );
}

#[test]
fn both_families_or_none() {
    let pools = [pool("p", &["192.0.2.1"]), pool("six", &["2001:db8::1"])];
    let needs = |name: &str| Claimant {
        needs_all: true,
        ..dual(name)
    };
    let (given, refusals) = outcome(&[needs("a"), needs("b")], &pools);
    assert_eq!(given, "a=192.0.2.1,2001:db8::1");
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    // What one does not get for want of the other is another's.
    let (given, _) = outcome(&[needs("a"), service("b")], &pools[..1]);
    assert_eq!(given, "b=192.0.2.1");
    // One that would like both takes what there is.
    let (given, refusals) = outcome(&[dual("a")], &pools[..1]);
    assert_eq!(given, "a=192.0.2.1");
    assert_eq!(
        refusals,
        ["a: no pool that this Service may use has IPv6 addresses"]
    );
    // With a wish for one of them that cannot be, neither.
    let mut wanting = needs("c");
    wanting.wanted = vec![ip("192.0.2.9")];
    let (given, refusals) = outcome(&[wanting], &pools);
    assert_eq!(given, "");
    assert!(
        refusals
            .iter()
            .any(|said| said.contains("requires addresses of both")),
        "{refusals:?}"
    );
}

#[test]
fn an_address_is_shared_where_nothing_can_go_astray() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.2"])];
    let together = [
        (shared("a", 80, None), shared("b", 443, None)),
        (shared("a", 80, Some("web")), shared("b", 443, Some("web"))),
    ];
    for (a, b) in together {
        assert_eq!(outcome(&[a, b], &pools).0, "a=192.0.2.1 b=192.0.2.1");
    }
    let apart = [
        (shared("a", 80, None), shared("b", 80, None), "both have TCP 80"),
        (
            shared("a", 80, None),
            shared("b", 443, Some("web")),
            "externalTrafficPolicy",
        ),
        (
            shared("a", 80, Some("web")),
            shared("b", 443, Some("db")),
            "externalTrafficPolicy",
        ),
        (
            shared("a", 80, None),
            service("b"),
            "the same millrace.io/allow-shared-ip",
        ),
    ];
    for (a, mut b, why) in apart {
        assert_eq!(
            outcome(&[a.clone(), b.clone()], &pools).0,
            "a=192.0.2.1 b=192.0.2.2"
        );
        b.wanted = vec![ip("192.0.2.1")];
        let (mut holder, mut wanting) = (a, b);
        holder.held = vec![ip("192.0.2.1")];
        wanting.ports.insert((Protocol::Udp, 53));
        let (given, refusals) = outcome(&[holder, wanting], &pools);
        assert_eq!(given, "a=192.0.2.1");
        assert_eq!(refusals.len(), 2, "it is said on both: {refusals:?}");
        assert!(
            refusals.iter().all(|said| said.contains(why)),
            "{why}: {refusals:?}"
        );
    }
    // Without a selector nobody knows whose pods they are.
    let mut nameless = [shared("a", 80, Some("web")), shared("b", 443, Some("web"))];
    for service in &mut nameless {
        service.sharing.as_mut().unwrap().local_pods = Some(Labels::new());
    }
    assert_eq!(outcome(&nameless, &pools).0, "a=192.0.2.1 b=192.0.2.2");
}

/// Two that share, until a port of one is changed to that of the other: the older keeps the address, the other gets another.
#[test]
fn who_can_share_no_longer_moves() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.2"])];
    let (mut a, mut b) = (shared("a", 80, None), shared("b", 80, None));
    (a.created_s, b.created_s) = (Some(2), Some(1));
    a.held = vec![ip("192.0.2.1")];
    b.held = vec![ip("192.0.2.1")];
    let (given, refusals) = outcome(&[a, b], &pools);
    assert_eq!(given, "a=192.0.2.2 b=192.0.2.1");
    assert_eq!(refusals.len(), 2, "{refusals:?}");
}

#[test]
fn what_others_have_is_not_given_out() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.3"])];
    let taken = [
        ("192.0.2.1", Taken::Node("node-b".to_owned())),
        ("192.0.2.2", Taken::Service(key("other"))),
    ];
    assert_eq!(
        outcome_with(&[service("a")], &pools, &[], &taken).0,
        "a=192.0.2.3"
    );
    let wanting = |name: &str, address: &str| Claimant {
        wanted: vec![ip(address)],
        ..service(name)
    };
    let (given, refusals) = outcome_with(&[wanting("a", "192.0.2.1")], &pools, &[], &taken);
    assert_eq!(
        (given.as_str(), refusals),
        ("", vec!["a: 192.0.2.1 is an address of Node node-b".to_owned()])
    );
    // Its own external address it may have as load balancer's too.
    assert_eq!(
        outcome_with(&[wanting("other", "192.0.2.2")], &pools, &[], &taken).0,
        "other=192.0.2.2"
    );
}

#[test]
fn a_pool_that_collides_gives_out_nothing_new() {
    let pools = [pool("p", &["192.0.2.0/24"])];
    let mut had = service("a");
    had.held = vec![ip("192.0.2.1")];
    let wanting = Claimant {
        wanted: vec![ip("192.0.2.5")],
        ..service("b")
    };
    let (given, refusals) = outcome_with(&[had, wanting, service("c")], &pools, &[0], &[]);
    assert_eq!(given, "a=192.0.2.1");
    assert_eq!(
        refusals,
        [
            "b: pool `p` gives out nothing new: it collides, as the log says",
            "c: no pool that this Service may use has IPv4 addresses",
        ]
    );
}

#[test]
fn a_hosts_address_is_passed_over_unless_it_is_asked_for() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.3", "2001:db8::1-2001:db8::2"])];
    let beside =
        |claimants: &[Claimant], aside: &[&str]| outcome_beside(claimants, &pools, (&[], &[]), aside);
    let (given, refusals) = beside(&[dual("a"), service("b")], &["192.0.2.1", "2001:db8::1"]);
    assert_eq!(given, "a=192.0.2.2,2001:db8::2 b=192.0.2.3");
    assert_eq!(refusals, [""; 0]);
    let (_, refusals) = beside(&[service("a")], &["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    assert_eq!(
        refusals,
        ["a: every IPv4 address that this Service may have is given out, or another host's, of pool `p`"]
    );
    // Who asks for it gets it, who has it keeps it, and who shares it follows.
    let wanting = Claimant {
        wanted: vec![ip("192.0.2.1")],
        declined: vec![ip("192.0.2.1")],
        ..service("a")
    };
    assert_eq!(beside(&[wanting], &["192.0.2.1"]).0, "a=192.0.2.1");
    let had = Claimant {
        held: vec![ip("192.0.2.1")],
        ..shared("a", 80, None)
    };
    assert_eq!(
        beside(&[had.clone(), shared("b", 81, None)], &["192.0.2.1"]).0,
        "a=192.0.2.1 b=192.0.2.1"
    );
}

#[test]
fn who_was_just_given_a_hosts_address_gets_another_one_if_there_is_one() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.2", "2001:db8::1"])];
    let beside =
        |claimants: &[Claimant], aside: &[&str]| outcome_beside(claimants, &pools, (&[], &[]), aside);
    let declining = |claimant: Claimant| Claimant {
        held: vec![ip("192.0.2.1")],
        declined: vec![ip("192.0.2.1")],
        ..claimant
    };
    let (given, refusals) = beside(&[declining(service("a"))], &["192.0.2.1"]);
    assert_eq!(given, "a=192.0.2.2");
    assert_eq!(
        refusals,
        ["a: another host (02:00:00:00:00:09) answers for 192.0.2.1, so 192.0.2.2 is given in its place"]
    );
    let none = ["192.0.2.1", "192.0.2.2"];
    assert_eq!(
        beside(&[declining(service("a"))], &none),
        ("a=192.0.2.1".to_owned(), Vec::new())
    );
    // One that takes both families or none loses nothing by it where there is none of the other.
    let both = Claimant {
        needs_all: true,
        ..dual("b")
    };
    let (given, refusals) = beside(&[declining(both)], &["192.0.2.1", "2001:db8::1"]);
    assert_eq!(given, "b=192.0.2.1");
    assert!(
        refusals.iter().all(|refusal| !refusal.contains("in its place")),
        "{refusals:?}"
    );
}

/// The end of the numbers, and a pool too large to count.
#[test]
fn the_ends_of_pools() {
    let skipping = |text: &str| Pool {
        skip_0_and_255: true,
        ..pool("p", &[text])
    };
    let services: Vec<_> = ["a", "b", "c"].map(service).to_vec();
    let (given, _) = outcome(&services, &[skipping("223.255.255.253-223.255.255.255")]);
    assert_eq!(given, "a=223.255.255.253 b=223.255.255.254");
    assert_eq!(
        outcome(&services, &[skipping("192.0.2.255-192.0.3.1")]).0,
        "a=192.0.3.1"
    );
    let six: Vec<_> = services
        .into_iter()
        .map(|service| Claimant {
            families: vec![Family::V6],
            ..service
        })
        .collect();
    let (given, _) = outcome(&six, &[pool("p", &["2001:db8::/32"])]);
    assert_eq!(given, "a=2001:db8:: b=2001:db8::1 c=2001:db8::2");
}

/// Ten thousand Services are a matter of steps that grow with them, not with their square.
#[test]
fn many_services_are_given_addresses() {
    let services: Vec<_> = (0..10_000).map(|n| service(&format!("s{n:05}"))).collect();
    let pools = [pool("p", &["198.18.0.0/15"])];
    let (refused, taken) = (BTreeSet::new(), BTreeMap::new());
    let pools = Pools {
        pools: &pools,
        refused: &refused,
        taken: &taken,
        aside: &BTreeMap::new(),
    };
    let first = allocate(&services, pools);
    let held: Vec<_> = services
        .into_iter()
        .map(|service| Claimant {
            held: first.given[&service.service]
                .iter()
                .map(|given| given.address)
                .collect(),
            ..service
        })
        .collect();
    assert_eq!(allocate(&held, pools), first);
}

fn claimants() -> impl Strategy<Value = Vec<Claimant>> {
    let address = prop_oneof![
        (0_u8..12).prop_map(|last| IpAddr::from([192, 0, 2, last])),
        (0_u16..6).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
    ];
    let one = (
        0_usize..12,
        (proptest::option::of(0_i64..4), 0_u8..3, any::<bool>()),
        proptest::collection::vec(address.clone(), 0..2),
        proptest::option::of(0_u8..2),
        (proptest::option::of(0_u8..2), proptest::option::of(0_u8..2)),
        proptest::collection::btree_set(0_u16..4, 1..3),
        proptest::collection::vec(address, 0..3),
        any::<[bool; 2]>(),
    );
    let one = one.prop_map(
        |(name, (created_s, families, needs_all), wanted, pool, (sharing, local), ports, held, admitted)| {
            Claimant {
                service: key(&format!("s{name}")),
                created_s,
                families: [vec![Family::V4], vec![Family::V6], vec![Family::V4, Family::V6]]
                    [usize::from(families)]
                .clone(),
                needs_all,
                is_unreadable: false,
                wanted,
                pool: pool.map(|pool| ["p", "q"][usize::from(pool)].to_owned()),
                sharing: sharing.map(|sharing| Sharing {
                    key: format!("k{sharing}"),
                    local_pods: local.map(|pods| Labels::from([("app".to_owned(), pods.to_string())])),
                }),
                ports: ports.into_iter().map(|port| (Protocol::Tcp, port)).collect(),
                admitted: (0..2).filter(|place| admitted[*place]).collect(),
                declined: held
                    .iter()
                    .copied()
                    .filter(|address| ASIDE.map(ip).contains(address))
                    .collect(),
                held,
            }
        },
    );
    proptest::collection::vec(one, 0..16).prop_map(|mut all| {
        all.sort_by(|a, b| a.service.cmp(&b.service));
        all.dedup_by(|a, b| a.service == b.service);
        all
    })
}

proptest! {
    #[test]
    fn nobody_gets_anothers_address(services in claimants(), seed: u64) {
        let pools = [
            pool("p", &["192.0.2.1-192.0.2.4", "2001:db8::1-2001:db8::2"]),
            pool("q", &["192.0.2.6-192.0.2.9", "2001:db8::4"]),
        ];
        let (refused, taken) = (BTreeSet::new(), BTreeMap::from([(ip("192.0.2.3"), vec![Taken::Node("n".to_owned())])]));
        let aside = hosts(&ASIDE);
        let pools = Pools { pools: &pools, refused: &refused, taken: &taken, aside: &aside };
        let allocation = allocate(&services, pools);
        // The order in which they come makes no difference.
        let mut shuffled = services.clone();
        shuffled.sort_by_key(|claimant| {
            use std::hash::{DefaultHasher, Hash as _, Hasher as _};
            let mut hasher = DefaultHasher::new();
            (seed, claimant.service.to_string()).hash(&mut hasher);
            hasher.finish()
        });
        prop_assert_eq!(&allocate(&shuffled, pools), &allocation);
        let mut holders: BTreeMap<IpAddr, Vec<&Claimant>> = BTreeMap::new();
        for claimant in &services {
            let given = allocation.given.get(&claimant.service).cloned().unwrap_or_default();
            for family in [Family::V4, Family::V6] {
                let of_family = given.iter().filter(|given| family_of(given.address) == family).count();
                prop_assert!(of_family <= usize::from(claimant.families.contains(&family)));
            }
            for given in given {
                let place = pools.pools.iter().position(|pool| pool.contains(given.address)).unwrap();
                prop_assert!(claimant.admitted.contains(&place));
                prop_assert!(!taken.contains_key(&given.address));
                // A host's address is for those that ask for it, had it, or share it with one of them.
                let comes_to_it = |one: &&Claimant| one.wanted.contains(&given.address) || one.held.contains(&given.address);
                let is_followed = services.iter().filter(comes_to_it).any(|one| {
                    one.service == claimant.service || unshared(one, claimant).is_none()
                });
                prop_assert!(!aside.contains_key(&given.address) || is_followed);
                prop_assert_eq!(&pools.pools[place].name, &given.pool);
                holders.entry(given.address).or_default().push(claimant);
            }
        }
        for (address, holders) in holders {
            for (place, one) in holders.iter().enumerate() {
                for other in &holders[place + 1..] {
                    prop_assert_eq!(unshared(one, other), None, "{}", address);
                }
            }
        }
        // Asked again with what was given, nothing moves. Somebody may share now what its holder got when nothing else was left,
        // and after that nothing changes any more; and whoever comes or goes moves nobody.
        let settle = |allocation: &Allocation| -> Vec<Claimant> {
            let settled = services.iter().map(|claimant| {
                let given = allocation.given.get(&claimant.service).into_iter().flatten();
                Claimant {
                    held: given.map(|given| given.address).collect(),
                    declined: Vec::new(),
                    ..claimant.clone()
                }
            });
            settled.collect()
        };
        let again = allocate(&settle(&allocation), pools);
        for (service, given) in &allocation.given {
            for given in given {
                prop_assert!(again.given.get(service).is_some_and(|again| again.contains(given)), "{service}: {given:?}");
            }
        }
        let mut settled = settle(&again);
        prop_assert_eq!(&allocate(&settled, pools).given, &again.given);
        settled.push(Claimant { created_s: Some(0), wanted: vec![ip("192.0.2.1")], ..service("newcomer") });
        settled.remove(0);
        let later = allocate(&settled, pools);
        for claimant in settled.iter().filter(|claimant| claimant.service != key("newcomer")) {
            prop_assert_eq!(
                later.given.get(&claimant.service).into_iter().flatten().map(|given| given.address)
                    .filter(|address| claimant.held.contains(address)).count(),
                claimant.held.len()
            );
        }
    }
}
