//! What kube-proxy and other networks have left on a node, and what the container runtime will find.

use super::facts::Facts;
use super::report::Finding;
use crate::config::Config;
use crate::install::CONFLIST;

/// Interfaces of other networks, by the beginnings of their names, and whose they are.
const INTERFACES: [(&str, &str); 8] = [
    ("flannel.", "flannel"),
    ("flannel-v6.", "flannel"),
    ("cni0", "flannel"),
    ("cali", "Calico"),
    ("vxlan.calico", "Calico"),
    ("vxlan-v6.calico", "Calico"),
    ("kube-ipvs0", "kube-proxy"),
    ("cilium_", "Cilium"),
];
/// Chains of packet filters, likewise.
const CHAINS: [(&str, &str); 4] = [
    ("KUBE-", "kube-proxy or kubelet"),
    ("FLANNEL-", "flannel"),
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
];
/// The table of kube-proxy's nftables mode.
const PROXY_TABLE: &str = "kube-proxy";
/// What kubelet itself makes, and keeps.
const KUBELET_CHAINS: [&str; 3] = ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-PROXY-CANARY"];

pub(super) fn judge(facts: &Facts, config: &Config) -> Vec<Finding> {
    let mut findings = vec![interfaces(facts), chains(facts), nftables(facts)];
    findings.extend(conntrack(facts));
    findings.extend([plugin(facts), networks(facts, config), daemon(facts)]);
    findings
}

fn owner_of(name: &str, known: &[(&'static str, &'static str)]) -> Option<&'static str> {
    known
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map(|(_, owner)| *owner)
}

/// The first few of many names.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}

fn interfaces(facts: &Facts) -> Finding {
    const CHECK: &str = "interfaces";
    let found: Vec<(String, &str)> = facts
        .network
        .links()
        .filter_map(|link| Some((link.name.clone(), owner_of(&link.name, &INTERFACES)?)))
        .collect();
    let Some((_, owner)) = found.first() else {
        return Finding::ok(CHECK, "none of another network");
    };
    let names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
    Finding::warn(
        CHECK,
        format!("{owner} has left {}", some(&names)),
        "drain the node and remove them, or start it anew (docs/migrate.md): two networks must not both have routes to pods",
    )
}

fn chains(facts: &Facts) -> Finding {
    const CHECK: &str = "packet-filter";
    let chains = match &facts.filters.chains {
        Ok(chains) => chains,
        Err(why) => return Finding::unseen(CHECK, why),
    };
    let is_foreign = |name: &str| owner_of(name, &CHAINS).is_some() && !KUBELET_CHAINS.contains(&name);
    let mut found: Vec<String> = chains
        .iter()
        .filter(|chain| chain.table == PROXY_TABLE || is_foreign(&chain.chain))
        .map(|chain| format!("{} {}", chain.table, chain.chain))
        .collect();
    found.dedup();
    if !found.is_empty() {
        return Finding::warn(
            CHECK,
            format!("chains of another network are there: {}", some(&found)),
            "kube-proxy --cleanup, or start the node anew (docs/migrate.md); the switch's packets do not pass them, the node's own do",
        );
    }
    match &facts.filters.legacy {
        Ok(tables) if !tables.is_empty() => Finding::warn(
            CHECK,
            format!("the older iptables has tables here: {}", some(tables)),
            "look with iptables-legacy-save for chains KUBE-* and cali-*, and start the node anew if there are",
        ),
        Ok(_) => Finding::ok(CHECK, "no chain of another network"),
        Err(why) => Finding::unseen(CHECK, why),
    }
}

/// The node's own way to Services at its own addresses is a table of nftables.
fn nftables(facts: &Facts) -> Finding {
    const CHECK: &str = "nftables";
    match &facts.filters.has_nftables {
        Ok(true) => Finding::ok(CHECK, "the kernel has nf_tables"),
        Ok(false) => Finding::warn(
            CHECK,
            "the kernel has no nf_tables: the node itself does not reach Services at its own addresses and node ports",
            "boot one with CONFIG_NF_TABLES and CONFIG_NFT_NAT; pods and clients outside do without",
        ),
        Err(why) => Finding::unseen(CHECK, why),
    }
}

fn conntrack(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "conntrack";
    let (count, most) = facts.filters.conntrack?;
    Some(if count * 10 > most * 9 {
        Finding::warn(
            CHECK,
            format!(
                "the kernel tracks {count} connections of at most {most}: the node's own calls to Services are among them"
            ),
            "raise net.netfilter.nf_conntrack_max; pods' connections are not in it",
        )
    } else {
        Finding::ok(
            CHECK,
            format!("the kernel tracks {count} of at most {most}; pods' are the switch's own"),
        )
    })
}

fn plugin(facts: &Facts) -> Finding {
    const CHECK: &str = "cni-plugin";
    let path = facts.cni.bin_dir.join(crate::install::PLUGIN);
    let path = path.display();
    match &facts.cni.plugin {
        Ok(true) => Finding::ok(CHECK, path.to_string()),
        Ok(false) => Finding::warn(CHECK, format!("there is no program {path}"), "millrace install"),
        Err(why) => Finding::unseen(CHECK, why),
    }
}

fn networks(facts: &Facts, config: &Config) -> Finding {
    const CHECK: &str = "cni-network";
    let folder = facts.cni.conf_dir.display();
    let networks = match &facts.cni.networks {
        Ok(networks) => networks,
        Err(why) => return Finding::unseen(CHECK, why),
    };
    let Some(place) = networks.iter().position(|name| name == CONFLIST) else {
        let found = match networks.first() {
            Some(first) => format!("the runtime takes {first} of {folder}"),
            None => format!("there is no network configuration in {folder}"),
        };
        return Finding::warn(CHECK, found, "millrace install, once the node is to be moved");
    };
    if let Some(first) = networks.first().filter(|_| place > 0) {
        return Finding::warn(
            CHECK,
            format!("the runtime takes {first} of {folder}, which comes before {CONFLIST}"),
            "millrace install, which sets it aside",
        );
    }
    let ours = config.node.state_dir.join(crate::daemon::SOCKET_NAME);
    match &facts.cni.socket {
        Some(socket) if *socket != ours => Finding::warn(
            CHECK,
            format!(
                "{CONFLIST} names the socket {}, and the daemon's is {}",
                socket.display(),
                ours.display()
            ),
            format!("millrace --socket {} install", ours.display()),
        ),
        _ => Finding::ok(CHECK, format!("{CONFLIST} comes first in {folder}")),
    }
}

fn daemon(facts: &Facts) -> Finding {
    let found = if facts.daemon_runs {
        "a daemon answers here"
    } else {
        "none runs here"
    };
    Finding::ok("daemon", found)
}
