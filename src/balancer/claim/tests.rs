//! From manifests to claims.

use super::super::elect::tests::{balancer, store};
use super::*;
use crate::objects::{Family, ServiceKey};

fn config(text: &str) -> LoadBalancer {
    toml::from_str(text).unwrap()
}

const POOL: &str = "[[pools]]\nname = \"p\"\naddresses = [\"192.0.2.0/24\", \"2001:db8::/120\"]\n";

fn claims(config: &LoadBalancer, store: &Store, assigned: Option<&Assigned>) -> Claims {
    Claims::of(Inputs {
        config,
        store,
        assigned: assigned.unwrap_or(&Assigned::new()),
        is_status_ours: assigned.is_none(),
        own_addresses: &[],
        aside: &Aside::default(),
    })
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name).unwrap()
}

#[test]
fn classes_decide_whose_services_are_ours() {
    let store = store(
        &[
            balancer("none", "", "", ""),
            balancer("ours", "loadBalancerClass: millrace.io/l2", "", ""),
            balancer("theirs", "loadBalancerClass: example.com/lb", "", ""),
            balancer("proxied", "", "", "").replace(
                "{name: proxied}",
                "{name: proxied, labels: {service.kubernetes.io/service-proxy-name: other}}",
            ),
            balancer("plain", "", "", "").replace("type: LoadBalancer", "type: ClusterIP"),
        ]
        .concat(),
    );
    let names = |text: &str| {
        let claims = claims(&config(text), &store, None);
        let names = claims
            .claimants
            .iter()
            .map(|claimant| claimant.service.name().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(POOL), ["none", "ours"]);
    assert_eq!(names(&format!("default-class = false\n{POOL}")), ["ours"]);
    assert_eq!(names(""), [""; 0]);
}

#[test]
fn what_a_service_asks_for_is_read() {
    let annotated = |annotations: &str, spec: &str| {
        let text = balancer("web", spec, "", "");
        text.replacen(
            "{name: web}",
            &format!(
                "{{name: web, creationTimestamp: '2026-01-02T03:04:05Z', annotations: {{{annotations}}}}}"
            ),
            1,
        )
    };
    let one = |annotations: &str, spec: &str| {
        let claims = claims(&config(POOL), &store(&annotated(annotations, spec)), None);
        claims.claimants.into_iter().next().unwrap()
    };
    let claimant = one("", "loadBalancerIP: 192.0.2.7");
    assert_eq!(claimant.wanted, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(claimant.created_s, Some(1_767_323_045));
    assert_eq!((claimant.families, claimant.needs_all), (vec![Family::V4], false));
    let claimant = one(
        "millrace.io/load-balancer-ips: ' 192.0.2.8 , 2001:db8::8 ', millrace.io/address-pool: p, millrace.io/allow-shared-ip: k",
        "loadBalancerIP: 192.0.2.7, externalTrafficPolicy: Local, selector: {app: web}, ipFamilies: [IPv4, IPv6], \
         ipFamilyPolicy: RequireDualStack",
    );
    let wanted: Vec<String> = claimant.wanted.iter().map(ToString::to_string).collect();
    assert_eq!(wanted, ["192.0.2.8", "2001:db8::8"], "the annotation counts");
    assert_eq!(claimant.pool.as_deref(), Some("p"));
    assert_eq!(
        (claimant.families, claimant.needs_all),
        (vec![Family::V4, Family::V6], true)
    );
    let sharing = claimant.sharing.unwrap();
    assert_eq!(
        (sharing.key.as_str(), sharing.local_pods.unwrap()["app"].as_str()),
        ("k", "web")
    );
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    for (annotation, reason) in [
        ("web", "`web` is no IP address"),
        (
            "'192.0.2.1,192.0.2.2'",
            "192.0.2.1 and 192.0.2.2 are of one family",
        ),
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
    ] {
        let text = balancer("web", "", "", "");
        let text = text.replacen(
            "{name: web}",
            &format!("{{name: web, annotations: {{millrace.io/load-balancer-ips: {annotation}}}}}"),
            1,
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("web.yaml"), text).unwrap();
        let mut folder = crate::objects::Folder::new(folder.path());
        folder.scan();
        let store = folder.store(&crate::objects::NodeName::new("node-a").unwrap(), &[]);
        let said: Vec<String> = store.refusals().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains(reason) && said[0].contains("millrace.io/load-balancer-ips"),
            "{said:?}"
        );
        let claims = claims(&config(POOL), &store, None);
        assert!(
            claims.claimants[0].is_unreadable,
            "the Service is in force, and gets nothing"
        );
    }
}

#[test]
fn pools_are_for_whom_they_say() {
    let text = "[[pools]]\nname = \"any\"\naddresses = [\"192.0.2.1\"]\n\
        [[pools]]\nname = \"by-name\"\naddresses = [\"192.0.2.2\"]\nnamespaces = [\"web\"]\n\
        [[pools]]\nname = \"by-label\"\naddresses = [\"192.0.2.3\"]\nnamespace-labels = { team = \"a\" }\n\
        [[pools]]\nname = \"either\"\naddresses = [\"192.0.2.4\"]\nnamespaces = [\"db\"]\nnamespace-labels = { team = \"a\" }\n\
        [[pools]]\nname = \"front\"\naddresses = [\"192.0.2.5\"]\nservice-labels = { tier = \"front\" }\n";
    let service = |namespace: &str, labels: &str| {
        balancer("s", "", "", "").replacen(
            "{name: s}",
            &format!("{{name: s, namespace: {namespace}, labels: {{{labels}}}}}"),
            1,
        )
    };
    let namespace = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: ops, labels: {team: a}}}\n";
    for (namespace_of, labels, expected) in [
        ("other", "", &[0][..]),
        ("web", "", &[0, 1]),
        ("db", "", &[0, 3]),
        ("ops", "", &[0, 2, 3]),
        ("ops", "tier: front", &[0, 2, 3, 4]),
        ("other", "tier: back", &[0]),
    ] {
        // Its slice stays in another namespace, which makes no difference here.
        let store = store(&format!("{namespace}{}", service(namespace_of, labels)));
        let claims = claims(&config(text), &store, None);
        assert_eq!(claims.claimants[0].admitted, expected, "{namespace_of} {labels}");
    }
}

#[test]
fn pools_that_collide_are_named() {
    let nodes = "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-b}\nspec: {podCIDRs: [10.244.2.0/24]}\n\
                 status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}\n";
    for (pool, said) in [
        (
            "10.244.2.128-10.244.3.9",
            "collides with pod CIDR 10.244.2.0/24 of Node node-b",
        ),
        (
            "192.0.2.0/30",
            "collides with 192.0.2.2, an address of Node node-b",
        ),
        (
            "192.0.2.9-192.0.2.12",
            "collides with 192.0.2.10, an address of Node node-a",
        ),
    ] {
        let config = config(&format!("[[pools]]\nname = \"p\"\naddresses = [\"{pool}\"]\n"));
        let store = store(nodes);
        let claims = Claims::of(Inputs {
            config: &config,
            store: &store,
            assigned: &Assigned::new(),
            is_status_ours: true,
            own_addresses: &["192.0.2.10".parse().unwrap()],
            aside: &Aside::default(),
        });
        assert_eq!(claims.faults.len(), 1, "{:?}", claims.faults);
        assert!(claims.faults[0].contains(said), "{:?}", claims.faults);
        assert_eq!(claims.refused, BTreeSet::from([0]));
    }
}

#[test]
fn a_status_that_is_the_operators_stays() {
    let store = store(
        &[
            balancer("written", "", "{ip: 192.0.2.7}", ""),
            balancer("outer", "externalIPs: [192.0.2.8]", "", ""),
        ]
        .concat(),
    );
    let config = config(POOL);
    // In a cluster it is what the Service was given.
    let in_cluster = claims(&config, &store, None);
    let written = in_cluster
        .claimants
        .iter()
        .find(|claimant| claimant.service == key("written"))
        .unwrap();
    assert_eq!(written.held, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        in_cluster
            .taken
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["192.0.2.8"]
    );
    // In a folder nobody writes there but the operator.
    let none = Assigned::new();
    let in_folder = claims(&config, &store, Some(&none));
    let written = in_folder
        .claimants
        .iter()
        .find(|claimant| claimant.service == key("written"))
        .unwrap();
    assert_eq!(
        (written.held.as_slice(), written.families.as_slice()),
        (&[][..], &[][..])
    );
    assert_eq!(
        in_folder.taken[&"192.0.2.7".parse().unwrap()],
        [Taken::Service(key("written"))]
    );
}
