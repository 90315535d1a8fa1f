//! What of the protocol is ours: heads, EDNS, lengths, and bytes that are no query.

use std::sync::LazyLock;

use hickory_proto::op::{Edns, MessageType, OpCode};
use hickory_proto::rr::DNSClass;
use proptest::prelude::*;

use super::*;

/// One for all of the many queries.
static ZONE: LazyLock<Zone> = LazyLock::new(zone);

const WEB: &str = "A web.default.svc.cluster.local";

fn with_edns(asked: &str, max_payload: u16) -> Message {
    let mut message = query(asked);
    let mut edns = Edns::new();
    edns.set_max_payload(max_payload).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

#[test]
fn an_answer_has_the_head_that_belongs_to_its_query() {
    let asked = query("A wEb.default.svc.Cluster.local");
    let (message, _) = ask(&zone(), &asked, Transport::Udp).unwrap();
    let head = message.metadata;
    assert_eq!(
        (head.id, head.message_type),
        (asked.metadata.id, MessageType::Response)
    );
    assert!(head.authoritative && head.recursion_desired && !head.truncation);
    // Written as it was asked, in the question and in front of the records: some clients look at that.
    assert!(message.queries[0].name().eq_case(asked.queries[0].name()));
    assert!(message.answers[0].name.eq_case(asked.queries[0].name()));
    assert_eq!(message.edns, None);
}

#[test]
fn edns_is_answered_with_edns() {
    let (message, _) = ask(&zone(), &with_edns(WEB, 4096), Transport::Udp).unwrap();
    let edns = message.edns.unwrap();
    assert_eq!(
        (edns.version(), edns.max_payload(), edns.flags().dnssec_ok),
        (0, 1232, true)
    );
    let mut later = query(WEB);
    let mut edns = Edns::new();
    edns.set_version(1);
    later.set_edns(edns);
    let (message, _) = ask(&zone(), &later, Transport::Udp).unwrap();
    // The number is another error's too where it stands elsewhere (RFC 6895, section 2.3).
    assert_eq!(
        u16::from(message.metadata.response_code),
        u16::from(ResponseCode::BADVERS)
    );
    assert!(message.answers.is_empty() && message.edns.is_some());
}

#[test]
fn what_cannot_be_answered_is_told_so() {
    let mut notify = query(WEB);
    notify.metadata.op_code = OpCode::Notify;
    let mut none = query(WEB);
    none.queries.clear();
    let mut two = query(WEB);
    two.add_query(two.queries[0].clone());
    let mut chaos = query(WEB);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut transfer = query(WEB);
    transfer.queries[0].set_query_type(RecordType::IXFR);
    for (message, code) in [
        (notify, ResponseCode::NotImp),
        (none, ResponseCode::FormErr),
        (two, ResponseCode::FormErr),
        (chaos, ResponseCode::Refused),
        (query("AXFR cluster.local"), ResponseCode::Refused),
        (transfer, ResponseCode::Refused),
    ] {
        let (answer, _) = ask(&zone(), &message, Transport::Tcp).unwrap();
        assert_eq!(answer.metadata.response_code, code, "{message:?}");
        assert_eq!(answer.metadata.id, message.metadata.id);
    }
    let stats = DnsStats::default();
    let mut answer = query(WEB);
    answer.metadata.message_type = MessageType::Response;
    // Answering answers would have two of us talk for ever.
    for bytes in [answer.to_vec().unwrap(), Vec::new(), vec![0; 11]] {
        assert!(matches!(
            take(&bytes, Transport::Udp, &zone(), &stats),
            Taken::Ignored
        ));
    }
    assert_eq!((stats.read()["ignored"], stats.read()["queries_udp"]), (3, 3));
}

/// A headless Service with so many endpoints.
fn large(endpoints: usize) -> Zone {
    let mut objects =
        "apiVersion: v1\nkind: Service\nmetadata: {name: large}\nspec: {clusterIP: None}\n---\n\
        apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
        metadata: {name: large, labels: {kubernetes.io/service-name: large}}\naddressType: IPv4\n\
        ports: [{name: p, port: 1}]\nendpoints:\n"
            .to_owned();
    for number in 0..endpoints {
        objects.push_str(&format!(
            "- {{addresses: [10.244.{}.{}]}}\n",
            number / 250,
            number % 250 + 1
        ));
    }
    Zone::new(&config(), &service_cidrs(), &store(&objects))
}

#[test]
fn an_answer_is_no_longer_than_the_client_takes() {
    let asked = "A large.default.svc.cluster.local";
    // So many fit 512 bytes, one more does not: 47 of head and question, 16 for each record.
    for (count, message, limit, fits) in [
        (28, query(asked), 512, true),
        (30, query(asked), 512, false),
        (70, with_edns(asked, 4096), 1232, true),
        (80, with_edns(asked, 4096), 1232, false),
        (30, with_edns(asked, 100), 512, false),
    ] {
        let (answer, length) = ask(&large(count), &message, Transport::Udp).unwrap();
        assert_eq!(answer.metadata.truncation, !fits, "{count}");
        assert_eq!(answer.answers.len(), if fits { count } else { 0 }, "{count}");
        assert!(length <= limit, "{count}: {length}");
        assert_eq!(answer.edns.is_some(), message.edns.is_some());
    }
    let (whole, _) = ask(&large(1000), &query(asked), Transport::Tcp).unwrap();
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (1000, false));
    // More than any message has room for: as many as there is room for.
    let (cut, length) = ask(&large(3000), &query(asked), Transport::Tcp).unwrap();
    assert!(cut.metadata.truncation && cut.answers.len() > 1000 && length <= 65_535);
}

#[test]
fn what_stands_beside_an_answer_makes_way_for_it() {
    let asked = with_edns("SRV _p._tcp.large.default.svc.cluster.local", 1232);
    let (answer, length) = ask(&large(15), &asked, Transport::Udp).unwrap();
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (15, false));
    assert!(answer.additionals.is_empty() && length <= 1232, "{length}");
    let (answer, _) = ask(&large(2), &asked, Transport::Udp).unwrap();
    assert_eq!((answer.answers.len(), answer.additionals.len()), (2, 2));
}

#[test]
fn several_addresses_take_turns() {
    let zone = large(4);
    let first = |_| {
        let (answer, _) = ask(&zone, &query("A large.default.svc.cluster.local"), Transport::Udp).unwrap();
        answer.answers[0].data.to_string()
    };
    let different: std::collections::BTreeSet<String> = (0..64).map(first).collect();
    assert!(different.len() > 1, "{different:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), is_tcp: bool) {
        let transport = if is_tcp { Transport::Tcp } else { Transport::Udp };
        if let Taken::Answered(answer) = take(&bytes, transport, &ZONE, &DnsStats::default()) {
            prop_assert_eq!(answer.get(..2), bytes.get(..2));
            prop_assert!(is_tcp || answer.len() <= 1232);
        }
    }

    #[test]
    fn no_damage_to_a_query_makes_it_panic(
        row in 0..6usize,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<proptest::sample::Index>(),
        is_cut: bool,
    ) {
        let asked = [
            WEB,
            "SRV _sql._tcp.db.shop.svc.cluster.local",
            "PTR 20.0.96.10.in-addr.arpa",
            "PTR 0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.d.f.ip6.arpa",
            "AAAA fd00-1--5.shop.pod.cluster.local",
            "A inside.default.svc.cluster.local",
        ][row];
        let mut bytes = with_edns(asked, 1232).to_vec().unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Taken::Answered(answer) = take(&bytes, Transport::Udp, &ZONE, &DnsStats::default()) {
            prop_assert_eq!(answer.get(..2), bytes.get(..2));
            prop_assert!(answer.len() <= 1232);
            prop_assert!(Message::from_vec(&answer).is_ok());
        }
    }
}
