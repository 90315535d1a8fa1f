//! A picture of everything about a namespace that Millrace could change, to be compared with a later one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use millrace_tools::lab::Namespace;
use millrace_tools::lab::plan::UPLINK;

use crate::rig::await_that;

/// Lines by what they are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture(BTreeMap<String, String>);

impl Picture {
    /// The namespace as it is: interfaces with their XDP programs, addresses, routes of all tables, rules, tables of
    /// nftables, device features of the uplink, and every readable setting.
    pub(crate) fn of(namespace: &Namespace) -> Self {
        await_that("an address that is nobody else's", || {
            !namespace.ip(&["address", "show"]).unwrap().contains("tentative")
        });
        let mut lines = BTreeMap::new();
        for words in [
            &["-d", "-o", "link", "show"][..],
            &["-o", "address", "show"],
            &["-o", "-4", "route", "show", "table", "all"],
            &["-o", "-6", "route", "show", "table", "all"],
            &["-o", "rule", "show"],
        ] {
            for line in namespace.ip(words).unwrap().lines() {
                lines.insert(format!("ip {}: {line}", words.join(" ")), String::new());
            }
        }
        for line in namespace.run("ethtool", &["-k", UPLINK]).unwrap().lines() {
            lines.insert(format!("ethtool: {line}"), String::new());
        }
        for line in namespace.run("ethtool", &["-l", UPLINK]).unwrap().lines() {
            // Maxima and what is set have lines of the same words.
            let count = lines.len();
            lines.insert(format!("ethtool -l {count}: {line}"), String::new());
        }
        for name in ["napi_defer_hard_irqs", "gro_flush_timeout"] {
            let path = format!("/sys/class/net/{UPLINK}/{name}");
            lines.insert(path.clone(), namespace.run("cat", &[&path]).unwrap());
        }
        for line in namespace.run("nft", &["list", "ruleset"]).unwrap().lines() {
            lines.insert(format!("nft: {line}"), String::new());
        }
        let settings = namespace.within(|| {
            let mut settings = BTreeMap::new();
            read_settings(Path::new("/proc/sys/net"), &mut settings);
            settings
        });
        lines.extend(settings.unwrap());
        Self(lines)
    }

    /// A pod's namespace as it is, its settings left out.
    pub(crate) fn of_pod(namespace: &Namespace) -> Self {
        let words = ["-d", "-o", "link", "show"];
        let lines = namespace.ip(&words).unwrap();
        Self(
            lines
                .lines()
                .map(|line| (line.to_owned(), String::new()))
                .collect(),
        )
    }

    /// What is different in `later`, line by line.
    pub(crate) fn changes(&self, later: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (name, value) in &self.0 {
            match later.0.get(name) {
                None => changes.push(format!("- {name} {value}")),
                Some(now) if now != value => changes.push(format!("! {name}: {value} -> {now}")),
                Some(_) => {}
            }
        }
        let new = later.0.iter().filter(|(name, _)| !self.0.contains_key(*name));
        changes.extend(new.map(|(name, value)| format!("+ {name} {value}")));
        changes
    }
}

/// Every setting below a folder that can be read as text.
fn read_settings(folder: &Path, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            read_settings(&path, into);
        } else if let Ok(text) = fs::read_to_string(&path) {
            into.insert(path.display().to_string(), text.trim_end().to_owned());
        }
    }
}
