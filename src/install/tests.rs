#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

const FLANNEL: &str = "10-flannel.conflist";
const LATER: &str = "99-bridge.conf";

/// A node with a network of its own, and a program to install.
struct Node {
    folder: tempfile::TempDir,
    folders: Folders,
    wanted: Wanted,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let folders = Folders {
            bin: at("opt/cni/bin"),
            conf: at("etc/cni/net.d"),
        };
        fs::create_dir_all(&folders.conf).unwrap();
        fs::write(folders.conf.join(FLANNEL), "flannel's").unwrap();
        fs::write(folders.conf.join(LATER), "a bridge's").unwrap();
        fs::write(at("plugin"), "a program").unwrap();
        let mut wanted = Wanted::new(at("plugin"), None, Path::new("/run/millrace/millrace.sock")).unwrap();
        // Nothing of this machine's own store counts.
        wanted.network = wanted
            .network
            .replace(DATA_DIR, &at("ipam").display().to_string());
        Self {
            folder,
            folders,
            wanted,
        }
    }

    fn conf(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folders.conf.join(name)).ok()
    }

    fn plugin(&self) -> Option<String> {
        fs::read_to_string(self.folders.bin.join(PLUGIN)).ok()
    }

    /// What the runtime would take: a whole network, and ours only with its plugin.
    fn first_network(&self) -> String {
        let first = networks(&self.folders.conf).unwrap().remove(0);
        let text = self.conf(&first).unwrap();
        match first.as_str() {
            CONFLIST => {
                assert_eq!(text, self.wanted.network, "whole");
                assert_eq!(self.plugin().as_deref(), Some("a program"), "with its plugin");
                let mode = fs::metadata(self.folders.bin.join(PLUGIN))
                    .unwrap()
                    .permissions()
                    .mode();
                assert_eq!(mode & 0o777, 0o755);
            }
            FLANNEL => assert_eq!(text, "flannel's"),
            other => panic!("{other} was never to be taken"),
        }
        first
    }

    fn is_installed(&self) {
        assert_eq!(self.first_network(), CONFLIST);
        assert_eq!(
            self.conf(&format!("{FLANNEL}{SAVED_SUFFIX}")).as_deref(),
            Some("flannel's")
        );
        assert_eq!(
            self.conf(LATER).as_deref(),
            Some("a bridge's"),
            "what comes later stays"
        );
        let names: Vec<_> = fs::read_dir(&self.folders.conf)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 3, "nothing else is left: {names:?}");
    }

    fn is_as_before(&self) {
        assert_eq!(self.first_network(), FLANNEL);
        assert_eq!((self.conf(CONFLIST), self.plugin()), (None, None));
        assert_eq!(networks(&self.folders.conf).unwrap(), [FLANNEL, LATER]);
        assert_eq!(fs::read_dir(&self.folders.conf).unwrap().count(), 2);
        assert_eq!(fs::read_dir(&self.folders.bin).unwrap().count(), 0);
    }

    /// Writes down an interface of a pod's, as the plugin does.
    fn attach(&self, boot: &str) {
        let store = self.folder.path().join("ipam");
        fs::create_dir_all(&store).unwrap();
        fs::write(store.join("pods@abc@eth0"), format!("{{\"boot\": \"{boot}\"}}")).unwrap();
        fs::write(store.join(".last"), "{\"v4\": null}").unwrap();
    }
}

#[test]
fn there_and_back_and_each_of_them_twice() {
    let node = Node::new();
    assert_eq!(install(&node.folders, &node.wanted).unwrap().len(), 3);
    node.is_installed();
    assert!(install(&node.folders, &node.wanted).unwrap().is_empty(), "again");
    node.is_installed();
    assert_eq!(uninstall(&node.folders).unwrap().len(), 3);
    node.is_as_before();
    assert!(uninstall(&node.folders).unwrap().is_empty(), "again");
    node.is_as_before();
}

/// Killed before any step: the runtime has a whole network all the while, and the next run finishes.
#[test]
fn whoever_is_killed_at_any_step_leaves_a_network_and_is_taken_up() {
    let (mut installed, mut removed) = (0, 0);
    for steps in 0.. {
        let node = Node::new();
        let result = install_by(&Hand::that_dies_after(steps), &node.folders, &node.wanted);
        node.first_network();
        if result.is_ok() {
            installed = steps;
            node.is_installed();
            break;
        }
        install(&node.folders, &node.wanted).unwrap();
        node.is_installed();
        // Or somebody thinks better of it.
        let node = Node::new();
        install_by(&Hand::that_dies_after(steps), &node.folders, &node.wanted).unwrap_err();
        uninstall(&node.folders).unwrap();
        assert_eq!(node.first_network(), FLANNEL);
        assert_eq!(networks(&node.folders.conf).unwrap(), [FLANNEL, LATER]);
    }
    for steps in 0.. {
        let node = Node::new();
        install(&node.folders, &node.wanted).unwrap();
        let result = uninstall_by(&Hand::that_dies_after(steps), &node.folders);
        node.first_network();
        if result.is_ok() {
            removed = steps;
            node.is_as_before();
            break;
        }
        uninstall(&node.folders).unwrap();
        node.is_as_before();
    }
    assert!(
        installed > 15 && removed > 5,
        "each step was tried: {installed}, {removed}"
    );
}

#[test]
fn a_network_that_its_owner_writes_anew_is_set_aside_anew_and_wins_on_the_way_back() {
    let node = Node::new();
    install(&node.folders, &node.wanted).unwrap();
    fs::write(node.folders.conf.join(FLANNEL), "flannel's newer one").unwrap();
    install(&node.folders, &node.wanted).unwrap();
    let saved = format!("{FLANNEL}{SAVED_SUFFIX}");
    assert_eq!(node.conf(&saved).as_deref(), Some("flannel's newer one"));
    fs::write(node.folders.conf.join(FLANNEL), "the newest").unwrap();
    uninstall(&node.folders).unwrap();
    assert_eq!(node.conf(FLANNEL).as_deref(), Some("the newest"));
    assert_eq!((node.conf(&saved), node.conf(CONFLIST)), (None, None));
}

#[test]
fn the_plugin_stays_while_pods_need_it_to_be_taken_down() {
    let node = Node::new();
    install(&node.folders, &node.wanted).unwrap();
    node.attach(fs::read_to_string(BOOT).unwrap().trim());
    let done = uninstall(&node.folders).unwrap();
    assert!(
        done.iter()
            .any(|line| line.starts_with("left: ") && line.contains("1 interface")),
        "{done:?}"
    );
    assert_eq!(node.first_network(), FLANNEL, "new pods go the old way");
    assert!(node.plugin().is_some());
    // What an earlier boot wrote is void.
    let node = Node::new();
    install(&node.folders, &node.wanted).unwrap();
    node.attach("another boot");
    uninstall(&node.folders).unwrap();
    node.is_as_before();
}

#[test]
fn the_network_names_the_daemons_socket_and_an_operators_own_is_taken_as_it_is() {
    let usual = usual_network(Path::new("/run/other/millrace.sock"));
    let network: Value = serde_json::from_str(&usual).unwrap();
    assert_eq!(network["plugins"][0]["socket"], "/run/other/millrace.sock");
    assert_eq!(network["plugins"][0]["type"], PLUGIN);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.conflist");
    for (text, expected) in [
        ("{", "EOF"),
        (
            "{\"name\": \"pods\", \"plugins\": []}",
            "one of type millrace-cni",
        ),
        ("{\"plugins\": [{\"type\": \"millrace-cni\"}]}", "`name`"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Wanted::new(PathBuf::new(), Some(&path), Path::new("/s"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected) && error.contains("own.conflist"),
            "{error}"
        );
    }
    let own = "{\"name\": \"pods\", \"plugins\": [{\"type\": \"millrace-cni\"}, {\"type\": \"tuning\"}]}";
    fs::write(&path, own).unwrap();
    assert_eq!(
        Wanted::new(PathBuf::new(), Some(&path), Path::new("/s"))
            .unwrap()
            .network,
        own
    );
    assert_eq!(socket_of(&path), None);
}
