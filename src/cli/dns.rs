//! `millrace show dns` for people.

use super::output::Table;
use super::show::list;
use crate::admin::protocol::DnsRow;

/// The resolver, or that there is none.
pub(super) fn page(row: Option<&DnsRow>) -> String {
    let Some(row) = row else {
        return "no resolver: [dns] addresses in the node file is empty\n".to_owned();
    };
    let mut page = format!(
        "domain {}, {} Services\naddresses {}, answered at {}\n",
        row.domain,
        row.services,
        list(&row.addresses),
        list(&row.listens_at)
    );
    let mut upstreams = Table::new(&["UPSTREAM", ">ANSWERED", ">FAILED", "STATE"]);
    for upstream in &row.upstreams {
        let state = if upstream.is_loop {
            "loop: asks this resolver"
        } else {
            "used"
        };
        upstreams.row([
            upstream.address.clone(),
            upstream.answered.to_string(),
            upstream.failed.to_string(),
            state.to_owned(),
        ]);
    }
    if upstreams.is_empty() {
        page.push_str("\nno upstreams: names outside of the domain are refused\n");
    } else {
        page.push('\n');
        page.push_str(&upstreams.render(""));
    }
    let mut counters = Table::new(&["COUNTER", ">COUNT"]);
    for (name, count) in &row.counters {
        counters.row([name.clone(), count.to_string()]);
    }
    page.push('\n');
    page.push_str(&counters.render(""));
    page
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::admin::protocol::DnsUpstreamRow;

    #[test]
    fn a_person_sees_what_there_is() {
        assert!(page(None).contains("[dns] addresses"));
        let mut row = DnsRow {
            addresses: vec!["10.96.0.10".parse().unwrap(), "fd96::a".parse().unwrap()],
            listens_at: vec!["10.244.1.0:10053".to_owned()],
            domain: "cluster.local".to_owned(),
            services: 3,
            upstreams: vec![DnsUpstreamRow {
                address: "192.0.2.53".to_owned(),
                answered: 7,
                failed: 1,
                is_loop: true,
            }],
            counters: [("answered".to_owned(), 12)].into(),
        };
        let text = page(Some(&row));
        for words in [
            "domain cluster.local, 3 Services",
            "10.96.0.10,fd96::a",
            "loop: asks this",
            "answered",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        row.upstreams.clear();
        assert!(page(Some(&row)).contains("no upstreams"));
    }
}
