//! Which records there are.

use std::net::IpAddr;

use hickory_proto::rr::RData;

use super::*;

/// Queries with their answers.
const ROWS: &[(&str, &str)] = &[
    // 2.2, the schema's version.
    ("TXT dns-version.cluster.local", "TXT 1.1.0"),
    ("A dns-version.cluster.local", "NODATA"),
    // 2.3.1, Services with a cluster IP, whatever their type.
    ("A web.default.svc.cluster.local", "A 10.96.0.20"),
    ("AAAA web.default.svc.cluster.local", "AAAA fd96::20"),
    ("A WEB.Default.sVc.CLUSTER.local", "A 10.96.0.20"),
    ("A only-v4.default.svc.cluster.local", "A 10.96.0.21"),
    ("AAAA only-v4.default.svc.cluster.local", "NODATA"),
    ("A node-port.default.svc.cluster.local", "A 10.96.0.22"),
    ("A balanced.default.svc.cluster.local", "A 10.96.0.23"),
    ("MX web.default.svc.cluster.local", "NODATA"),
    ("CNAME web.default.svc.cluster.local", "NODATA"),
    ("ANY web.default.svc.cluster.local", "HINFO RFC8482 "),
    // 2.3.2, their ports.
    (
        "SRV _http._tcp.web.default.svc.cluster.local",
        "SRV 0 100 80 web.default.svc.cluster.local. / A 10.96.0.20, AAAA fd96::20",
    ),
    (
        "SRV _quic._udp.web.default.svc.cluster.local",
        "SRV 0 100 443 web.default.svc.cluster.local. / A 10.96.0.20, AAAA fd96::20",
    ),
    ("SRV _http._udp.web.default.svc.cluster.local", "NXDOMAIN"),
    ("SRV _ftp._tcp.web.default.svc.cluster.local", "NXDOMAIN"),
    ("A _http._tcp.web.default.svc.cluster.local", "NODATA"),
    ("A _tcp.web.default.svc.cluster.local", "NODATA"),
    ("A _sctp.web.default.svc.cluster.local", "NXDOMAIN"),
    ("SRV _tcp.only-v4.default.svc.cluster.local", "NXDOMAIN"),
    ("SRV _._tcp.only-v4.default.svc.cluster.local", "NXDOMAIN"),
    ("A pod.web.default.svc.cluster.local", "NXDOMAIN"),
    // 2.3.3, their addresses.
    (
        "PTR 20.0.96.10.in-addr.arpa",
        "PTR web.default.svc.cluster.local.",
    ),
    (
        "PTR 0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.d.f.ip6.arpa",
        "PTR web.default.svc.cluster.local.",
    ),
    ("A 20.0.96.10.in-addr.arpa", "NODATA"),
    ("PTR 99.0.96.10.in-addr.arpa", "NXDOMAIN"),
    // 2.4.1, headless Services: ready endpoints, and their hostnames.
    ("A db.shop.svc.cluster.local", "A 10.244.1.5, A 10.244.2.7"),
    ("AAAA db.shop.svc.cluster.local", "AAAA fd00:1::5"),
    ("A db-0.db.shop.svc.cluster.local", "A 10.244.1.5"),
    ("AAAA db-0.db.shop.svc.cluster.local", "AAAA fd00:1::5"),
    ("A db-1.db.shop.svc.cluster.local", "NXDOMAIN"),
    ("A 10-244-2-7.db.shop.svc.cluster.local", "A 10.244.2.7"),
    ("AAAA 10-244-2-7.db.shop.svc.cluster.local", "NODATA"),
    ("A 10-244-1-5.db.shop.svc.cluster.local", "NXDOMAIN"),
    ("A unready.shop.svc.cluster.local", "NXDOMAIN"),
    ("A _tcp.unready.shop.svc.cluster.local", "NXDOMAIN"),
    ("A peers.shop.svc.cluster.local", "A 10.244.2.6"),
    ("A db-1.peers.shop.svc.cluster.local", "A 10.244.2.6"),
    // 2.4.2, their ports.
    (
        "SRV _sql._tcp.db.shop.svc.cluster.local",
        "SRV 0 100 5432 10-244-2-7.db.shop.svc.cluster.local., SRV 0 100 5432 db-0.db.shop.svc.cluster.local. \
         / A 10.244.2.7, A 10.244.1.5, AAAA fd00:1::5",
    ),
    (
        "SRV _gossip._udp.peers.shop.svc.cluster.local",
        "SRV 0 100 7946 db-1.peers.shop.svc.cluster.local. / A 10.244.2.6",
    ),
    ("SRV _udp.peers.shop.svc.cluster.local", "NODATA"),
    ("SRV _x._tcp.unready.shop.svc.cluster.local", "NXDOMAIN"),
    // 2.4.3, their endpoints' addresses.
    (
        "PTR 5.1.244.10.in-addr.arpa",
        "PTR db-0.db.shop.svc.cluster.local.",
    ),
    (
        "PTR 7.2.244.10.in-addr.arpa",
        "PTR 10-244-2-7.db.shop.svc.cluster.local.",
    ),
    (
        "PTR 6.2.244.10.in-addr.arpa",
        "PTR db-1.peers.shop.svc.cluster.local.",
    ),
    ("PTR 9.1.244.10.in-addr.arpa", "NXDOMAIN"),
    // 2.5, names of others.
    (
        "A inside.default.svc.cluster.local",
        "A 10.96.0.20, CNAME web.default.svc.cluster.local.",
    ),
    (
        "CNAME outside.default.svc.cluster.local",
        "CNAME www.example.com.",
    ),
    (
        "MX inside.default.svc.cluster.local",
        "CNAME web.default.svc.cluster.local.",
    ),
    (
        "A nowhere.default.svc.cluster.local",
        "CNAME none.default.svc.cluster.local. NXDOMAIN",
    ),
    ("A _tcp.outside.default.svc.cluster.local", "NXDOMAIN"),
    // 2.6, pods by their addresses.
    ("A 172-16-1-2.shop.pod.cluster.local", "A 172.16.1.2"),
    ("AAAA fd00-1--5.shop.pod.cluster.local", "AAAA fd00:1::5"),
    ("AAAA 172-16-1-2.shop.pod.cluster.local", "NODATA"),
    ("A web.shop.pod.cluster.local", "NXDOMAIN"),
    ("A 172-16-1-2.none.pod.cluster.local", "NXDOMAIN"),
    // What a search path makes of names, and what lies between the names above.
    ("A www.example.com.shop.svc.cluster.local", "NXDOMAIN"),
    ("A www.example.com.cluster.local", "NXDOMAIN"),
    ("A shop.svc.cluster.local", "NODATA"),
    ("A empty.svc.cluster.local", "NODATA"),
    ("A pods.pod.cluster.local", "NODATA"),
    ("A none.svc.cluster.local", "NXDOMAIN"),
    ("A svc.cluster.local", "NODATA"),
    (
        "NS cluster.local",
        "NS ns.dns.cluster.local. / A 10.96.0.10, AAAA fd96::a",
    ),
    ("A ns.dns.cluster.local", "A 10.96.0.10"),
    ("A kube-dns.kube-system.svc.cluster.local", "A 10.96.0.10"),
];

#[test]
fn every_name_is_answered_as_the_specification_says() {
    let zone = zone();
    for (asked, expected) in ROWS {
        let (message, _) = ask(&zone, &query(asked), Transport::Tcp).unwrap_or_else(|| panic!("{asked}"));
        assert_eq!(words(&message), expected.trim(), "{asked}");
        assert!(message.metadata.authoritative, "{asked}");
        let is_negative =
            message.metadata.response_code != ResponseCode::NoError || message.answers.is_empty();
        let soa = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some((record.ttl, soa.minimum)),
            _ => None,
        });
        // For how long it may be kept that there is nothing (RFC 2308).
        let is_data_alias = expected.starts_with("CNAME web.") && asked.starts_with("MX");
        assert_eq!(soa, (is_negative || is_data_alias).then_some((5, 5)), "{asked}");
        assert!(message.answers.iter().all(|record| record.ttl == 5), "{asked}");
    }
}

#[test]
fn names_that_lead_to_each_other_are_given_up() {
    let (message, _) = ask(
        &zone(),
        &query("A round.default.svc.cluster.local"),
        Transport::Udp,
    )
    .unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn what_is_not_the_clusters_is_not_answered_here() {
    for asked in [
        "A www.example.com",
        "A cluster.local.example.com",
        "A local",
        "SOA .",
        "A outside.default.svc.cluster.local",
        "PTR 1.2.0.192.in-addr.arpa",
        "PTR 0.192.in-addr.arpa",
        "PTR x.in-addr.arpa",
    ] {
        assert!(ask(&zone(), &query(asked), Transport::Udp).is_none(), "{asked}");
    }
}

#[test]
fn an_address_that_another_service_has_is_not_given_out() {
    let objects = "
apiVersion: v1
kind: Service
metadata: {name: a-younger, creationTimestamp: 2026-01-02T00:00:00Z}
spec: {clusterIP: 10.96.0.20, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: older, creationTimestamp: 2026-01-01T00:00:00Z}
spec: {clusterIP: 10.96.0.20, ports: [{port: 80}]}
";
    let zone = Zone::new(&config(), &service_cidrs(), &store(objects));
    for (asked, expected) in [
        ("A older.default.svc.cluster.local", "A 10.96.0.20"),
        ("A a-younger.default.svc.cluster.local", "NODATA"),
        (
            "PTR 20.0.96.10.in-addr.arpa",
            "PTR older.default.svc.cluster.local.",
        ),
    ] {
        let (message, _) = ask(&zone, &query(asked), Transport::Udp).unwrap();
        assert_eq!(words(&message), expected, "{asked}");
    }
}

/// So many Services, those in `changed` with another address and the one behind them gone.
fn many(count: usize, changed: std::ops::Range<usize>) -> String {
    let one = |number: usize| {
        let high = if changed.contains(&number) { 101 } else { 100 };
        let (c, d) = (number / 250, number % 250 + 1);
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec: {{clusterIP: 10.{high}.{c}.{d}, ports: [{{port: 80}}]}}\n"
        )
    };
    let all = (0..count).filter(|number| *number != changed.end);
    all.map(one).collect::<Vec<_>>().join("---\n")
}

#[test]
fn a_change_shows_in_every_direction() {
    let mut zone = Zone::new(&config(), &service_cidrs(), &store(&many(20, 0..0)));
    zone.update(&store(&many(20, 3..5)));
    let all = (0..20).map(|number| {
        let (message, _) = ask(
            &zone,
            &query(&format!("A s{number}.default.svc.cluster.local")),
            Transport::Udp,
        )
        .unwrap();
        let forward = words(&message);
        let address: IpAddr = format!(
            "10.{}.0.{}",
            if (3..5).contains(&number) { 101 } else { 100 },
            number + 1
        )
        .parse()
        .unwrap();
        let expected = if number == 5 {
            "NXDOMAIN".to_owned()
        } else {
            format!("A {address}")
        };
        assert_eq!(forward, expected);
        address
    });
    for (number, address) in all.enumerate() {
        let name = Name::from(address);
        let (message, _) = ask(&zone, &query(&format!("PTR {name}")), Transport::Udp).unwrap();
        let expected = if number == 5 {
            "NXDOMAIN".to_owned()
        } else {
            format!("PTR s{number}.default.svc.cluster.local.")
        };
        assert_eq!(words(&message), expected);
        // Where it led before, it leads no more.
        if (3..5).contains(&number) {
            let old = query(&format!("PTR {}.0.100.10.in-addr.arpa", number + 1));
            assert_eq!(words(&ask(&zone, &old, Transport::Udp).unwrap().0), "NXDOMAIN");
        }
    }
}

/// Each of 10,000 Services has its name, after a change among them too. What that costs: `cargo test -p millrace --lib
/// dns::tests::names::ten_thousand -- --nocapture`.
#[test]
fn ten_thousand_services_have_their_names() {
    use std::time::Instant;
    let (before, after) = (many(10_000, 0..0), many(10_000, 5000..5001));
    let folder = tempfile::tempdir().unwrap();
    // One folder, as a source has it: what does not change is the same by pointer.
    let mut objects = crate::objects::Folder::new(folder.path());
    let own = NodeName::new("node-a").unwrap();
    let mut store_of = |text: &str| {
        for (place, part) in text.split("---\n").collect::<Vec<_>>().chunks(100).enumerate() {
            let file = folder.path().join(format!("{place}.yaml"));
            let part = part.join("---\n");
            if std::fs::read_to_string(&file).ok().as_ref() != Some(&part) {
                std::fs::write(file, part).unwrap();
            }
        }
        objects.scan();
        Arc::new(objects.store(&own, &[]))
    };
    let (before, after) = (store_of(&before), store_of(&after));
    let begin = Instant::now();
    let mut zone = Zone::new(&config(), &service_cidrs(), &before);
    println!("10,000 Services from nothing: {:?}", begin.elapsed());
    let begin = Instant::now();
    zone.update(&after);
    println!("a change to two of them: {:?}", begin.elapsed());
    let queries: Vec<Vec<u8>> = (0..10_000)
        .map(|number| {
            query(&format!("A s{number}.default.svc.cluster.local"))
                .to_vec()
                .unwrap()
        })
        .collect();
    let (begin, stats) = (Instant::now(), DnsStats::default());
    for query in &queries {
        assert!(matches!(
            take(query, Transport::Udp, &zone, &stats),
            Taken::Answered(_)
        ));
    }
    println!("a query answered: {:?}", begin.elapsed() / 10_000);
    for number in 0..10_000 {
        let query = query(&format!("A s{number}.default.svc.cluster.local"));
        let (message, _) = ask(&zone, &query, Transport::Udp).unwrap();
        let high = if number == 5000 { 101 } else { 100 };
        let expected = match number {
            5001 => "NXDOMAIN".to_owned(),
            _ => format!("A 10.{high}.{}.{}", number / 250, number % 250 + 1),
        };
        assert_eq!(words(&message), expected);
    }
}
