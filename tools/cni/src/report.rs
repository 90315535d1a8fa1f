//! What ADD answers, in each version's words (CNI 1.1, section 5, "Success").

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::call::Call;
use crate::config::{Config, Version};
use crate::daemon::{Attached, Joined, Resolver};

/// Names with fewer dots are looked for in the search path first: as many as there are in front of the domain in the longest
/// name of a Service's port, as kubelet has it.
const NDOTS: &str = "ndots:5";

/// The result of ADD: what was made, behind what plugins before this one made. Of how names are resolved the configuration
/// has the first word, then the plugins before this one, then the daemon.
pub(crate) fn result(call: &Call, config: &Config, made: &Attached, resolver: Option<&Resolver>) -> Value {
    let list = |key| previous(config, key);
    let (interfaces, place) = ends(
        call,
        config,
        (&made.interface, &made.host_mac),
        Some(&made.mac),
        made.mtu,
    );
    let (mut ips, mut routes) = (list("ips"), list("routes"));
    for address in &made.addresses {
        let gateway = made
            .gateways
            .iter()
            .find(|gateway| gateway.is_ipv4() == address.is_ipv4());
        ips.push(ip(*address, gateway, place, config.version));
        routes.extend(gateway.map(|gateway| route(*gateway, made.mtu, config.version)));
    }
    let previous = config
        .previous
        .as_ref()
        .and_then(|previous| previous.get("dns").cloned());
    let is_said = |dns: &Value| dns.as_object().is_some_and(|dns| !dns.is_empty());
    let said = [config.dns.clone(), previous].into_iter().flatten().find(is_said);
    let own = || resolver.map(|resolver| dns(call, resolver));
    json!({
        "cniVersion": config.version.text(), "interfaces": interfaces, "ips": ips, "routes": routes,
        "dns": said.or_else(own).unwrap_or_else(|| json!({})),
    })
}

/// As [`result`], of an interface in a network beside the cluster's own: no routes but those to its subnets, which the kernel
/// makes of the addresses, and to networks that it is routed to.
pub(crate) fn result_in_network(call: &Call, config: &Config, made: &Joined) -> Value {
    let list = |key| previous(config, key);
    let (interfaces, place) = ends(
        call,
        config,
        (&made.interface, &made.host_mac),
        made.mac.as_deref(),
        made.mtu,
    );
    let mut ips = list("ips");
    for address in &made.addresses {
        let mut ip = json!({"address": address, "interface": place});
        if let Some(gateway) = made.gateways.iter().find(|gateway| address.contains(*gateway)) {
            ip["gateway"] = json!(gateway);
        }
        if config.version < Version::V1_0_0 {
            ip["version"] = json!(if address.addr().is_ipv4() { "4" } else { "6" });
        }
        ips.push(ip);
    }
    let mut routes = list("routes");
    routes.extend(made.routes.iter().map(|to| {
        let mut route = json!({"dst": to.destination, "gw": to.gateway});
        if config.version >= Version::V1_1_0 {
            route["mtu"] = json!(made.mtu);
        }
        route
    }));
    json!({
        "cniVersion": config.version.text(), "interfaces": interfaces, "ips": ips, "routes": routes,
        "dns": config.dns.clone().unwrap_or_else(|| json!({})),
    })
}

/// Both ends of what was made, behind the interfaces of plugins before this one, and the place of the container's end.
fn ends(
    call: &Call,
    config: &Config,
    (name, host_mac): (&str, &str),
    own_mac: Option<&str>,
    mtu: u32,
) -> (Vec<Value>, usize) {
    let mut interfaces = previous(config, "interfaces");
    let (mut host, mut own) = (
        json!({"name": name, "mac": host_mac}),
        json!({"name": call.interface, "mac": own_mac, "sandbox": call.netns}),
    );
    if config.version >= Version::V1_1_0 {
        host["mtu"] = json!(mtu);
        own["mtu"] = json!(mtu);
    }
    interfaces.extend([host, own]);
    let place = interfaces.len() - 1;
    (interfaces, place)
}

/// What plugins before this one made, of a kind.
fn previous(config: &Config, key: &str) -> Vec<Value> {
    let previous = config.previous.as_ref();
    let list = previous.and_then(|previous| previous.get(key)?.as_array().cloned());
    list.unwrap_or_default()
}

/// How a container of a pod resolves names with the node's own resolver: as kubelet has it with CoreDNS
/// (`dnsPolicy: ClusterFirst`).
fn dns(call: &Call, resolver: &Resolver) -> Value {
    let domain = &resolver.domain;
    let namespace = call.pod.split('/').next().unwrap_or_default();
    json!({
        "nameservers": resolver.nameservers,
        "search": [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain],
        "options": [NDOTS],
    })
}

fn ip(address: IpAddr, gateway: Option<&IpAddr>, place: usize, version: Version) -> Value {
    let (length, family) = if address.is_ipv4() { (32, "4") } else { (128, "6") };
    let mut ip = json!({"address": format!("{address}/{length}"), "interface": place});
    if let Some(gateway) = gateway {
        ip["gateway"] = json!(gateway);
    }
    if version < Version::V1_0_0 {
        ip["version"] = json!(family);
    }
    ip
}

/// The default route of a family.
fn route(gateway: IpAddr, mtu: u32, version: Version) -> Value {
    let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let mut route = json!({"dst": everywhere, "gw": gateway});
    if version >= Version::V1_1_0 {
        route["mtu"] = json!(mtu);
    }
    route
}

/// The addresses of the container's interface in a result of ADD; `None` if it has no such interface.
pub(crate) fn addresses_in(result: &Value, call: &Call) -> Option<Vec<IpAddr>> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let netns = call.netns.as_ref().map(|path| path.display().to_string());
    let is_ours = |interface: &Value| {
        text(interface, "name").as_ref() == Some(&call.interface) && text(interface, "sandbox") == netns
    };
    let place = result.get("interfaces")?.as_array()?.iter().position(is_ours)?;
    let ips = result
        .get("ips")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let ours = ips.iter().filter(|ip| {
        ip.get("interface")
            .and_then(Value::as_u64)
            .and_then(|at| usize::try_from(at).ok())
            == Some(place)
    });
    let address = |ip: &Value| text(ip, "address")?.split('/').next()?.parse().ok();
    Some(ours.filter_map(address).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::call::Command;

    fn call() -> Call {
        Call {
            command: Command::Add,
            container: "c0ffee".to_owned(),
            interface: "eth0".to_owned(),
            netns: Some("/run/netns/x".into()),
            pod: "default/a".to_owned(),
        }
    }

    fn made() -> Attached {
        Attached {
            interface: "mr1".to_owned(),
            host_mac: "02:00:00:00:00:01".to_owned(),
            addresses: vec!["10.244.1.2".parse().unwrap(), "fd00:1::2".parse().unwrap()],
            gateways: vec!["10.244.1.1".parse().unwrap(), "fd00:1::1".parse().unwrap()],
            mac: "02:00:00:00:00:02".to_owned(),
            mtu: 1450,
        }
    }

    fn config(version: &str, more: &str) -> Config {
        let text = format!("{{\"cniVersion\": \"{version}\", \"name\": \"pods\"{more}}}");
        Config::read(text.as_bytes(), Command::Add).unwrap()
    }

    #[test]
    fn each_version_has_the_words_that_it_knows() {
        let newest = result(&call(), &config("1.1.0", ""), &made(), None);
        assert_eq!(
            newest,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": "mr1", "mac": "02:00:00:00:00:01", "mtu": 1450},
                    {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1450, "sandbox": "/run/netns/x"},
                ],
                "ips": [
                    {"address": "10.244.1.2/32", "gateway": "10.244.1.1", "interface": 1},
                    {"address": "fd00:1::2/128", "gateway": "fd00:1::1", "interface": 1},
                ],
                "routes": [
                    {"dst": "0.0.0.0/0", "gw": "10.244.1.1", "mtu": 1450},
                    {"dst": "::/0", "gw": "fd00:1::1", "mtu": 1450},
                ],
                "dns": {},
            })
        );
        let oldest = result(&call(), &config("0.3.1", ""), &made(), None);
        assert_eq!(oldest["ips"][1]["version"], "6");
        assert_eq!(
            (oldest["interfaces"][1].get("mtu"), oldest["routes"][0].get("mtu")),
            (None, None)
        );
        assert_eq!(
            result(&call(), &config("1.0.0", ""), &made(), None)["ips"][0].get("version"),
            None
        );
    }

    #[test]
    fn containers_are_told_of_the_resolver_unless_they_are_told_of_another() {
        let resolver = Resolver {
            nameservers: vec!["10.96.0.10".parse().unwrap(), "fd96::a".parse().unwrap()],
            domain: "cluster.local".to_owned(),
        };
        let dns = |more: &str| {
            let call = Call {
                pod: "shop/web".to_owned(),
                ..call()
            };
            result(&call, &config("1.1.0", more), &made(), Some(&resolver))["dns"].clone()
        };
        let own = json!({
            "nameservers": ["10.96.0.10", "fd96::a"],
            "search": ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"],
            "options": ["ndots:5"],
        });
        let before = r#", "prevResult": {"cniVersion": "1.1.0", "dns": {"nameservers": ["192.0.2.1"]}}"#;
        let nothing_before = r#", "prevResult": {"cniVersion": "1.1.0", "dns": {}}"#;
        for (more, expected) in [
            ("", own.clone()),
            (r#", "dns": {}"#, own.clone()),
            (nothing_before, own),
            (
                r#", "dns": {"nameservers": ["192.0.2.2"]}"#,
                json!({"nameservers": ["192.0.2.2"]}),
            ),
            (before, json!({"nameservers": ["192.0.2.1"]})),
        ] {
            assert_eq!(dns(more), expected, "{more}");
        }
    }

    #[test]
    fn what_plugins_before_made_stays_in_front() {
        let before = r#", "dns": {"nameservers": ["10.96.0.10"]}, "prevResult": {"cniVersion": "1.0.0",
            "interfaces": [{"name": "lo", "sandbox": "/run/netns/x"}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0}], "dns": {"domain": "x"}}"#;
        let result = result(&call(), &config("1.0.0", before), &made(), None);
        let places: Vec<_> = result["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| ip["interface"].clone())
            .collect();
        assert_eq!(places, [0, 2, 2]);
        assert_eq!(result["dns"], json!({"nameservers": ["10.96.0.10"]}));
        assert_eq!(addresses_in(&result, &call()), Some(made().addresses));
        let other = Call {
            interface: "net1".to_owned(),
            ..call()
        };
        assert_eq!(addresses_in(&result, &other), None);
    }
}
