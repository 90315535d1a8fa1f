#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use super::disk::Folder;
use super::*;

const BOOT: &str = "this-boot";

pub(super) fn owner(container: &str) -> Owner {
    Owner {
        network: "pods".to_owned(),
        container: container.to_owned(),
        interface: "eth0".to_owned(),
    }
}

pub(super) fn blank(container: &str) -> Record {
    Record {
        owner: owner(container),
        pod: format!("default/{container}"),
        netns: format!("/run/netns/{container}"),
        addresses: Vec::new(),
        boot: String::new(),
    }
}

pub(super) fn pools(prefixes: &[&str], reserved: &[&str]) -> Pools {
    let prefixes: Vec<_> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
    let reserved: Vec<_> = reserved.iter().map(|text| text.parse().unwrap()).collect();
    Pools::new(&prefixes, &reserved)
}

fn store(folder: &Path) -> Store<Folder> {
    Store::new(Folder::lock(folder).unwrap(), BOOT)
}

/// The addresses that a container is given, or why not.
fn give(store: &mut Store<Folder>, container: &str, pools: &Pools, asked: &[&str]) -> Result<String, String> {
    let asked: Vec<IpAddr> = asked.iter().map(|text| text.parse().unwrap()).collect();
    let wish = Wish {
        pools,
        addresses: &asked,
    };
    let given = store.reserve(blank(container), wish);
    let texts = |record: Record| {
        record
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    given
        .map(|(record, _)| texts(record))
        .map_err(|error| error.to_string())
}

#[test]
fn addresses_of_both_families_go_round() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    let pools = pools(
        &["10.244.1.0/29", "fd00:1::/126"],
        &["10.244.1.0", "10.244.1.1", "10.244.1.7", "fd00:1::", "fd00:1::1"],
    );
    let mut give = |container: &str| give(&mut store, container, &pools, &[]);
    assert_eq!(give("a").unwrap(), "10.244.1.2 fd00:1::2");
    assert_eq!(give("b").unwrap(), "10.244.1.3 fd00:1::3");
    // Again the same, and nothing more is taken for it.
    assert_eq!(give("a").unwrap(), "10.244.1.2 fd00:1::2");
    let full = give("c").unwrap_err();
    assert_eq!(full, "no IPv6 address is left in fd00:1::/126: 2 are taken");
}

#[test]
fn what_is_freed_is_the_last_to_be_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    let pools = pools(&["10.0.0.0/30"], &["10.0.0.0"]);
    assert_eq!(give(&mut store, "a", &pools, &[]).unwrap(), "10.0.0.1");
    assert!(store.release(&owner("a")).unwrap());
    assert!(!store.release(&owner("a")).unwrap());
    for (container, address) in [("b", "10.0.0.2"), ("c", "10.0.0.3"), ("d", "10.0.0.1")] {
        assert_eq!(give(&mut store, container, &pools, &[]).unwrap(), address);
    }
    assert!(store.has_room(&pools).is_err());
    assert!(store.release(&owner("c")).unwrap());
    store.has_room(&pools).unwrap();
    assert_eq!(give(&mut store, "e", &pools, &[]).unwrap(), "10.0.0.3");
}

#[test]
fn several_prefixes_of_a_family_are_used_up_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    // The second is within the first; the third may be any node's borrowed address.
    let pools = pools(
        &["10.0.0.0/31", "10.0.0.1/32", "10.9.9.9/32", "255.255.255.255/32"],
        &[],
    );
    for (container, address) in [
        ("a", "10.0.0.0"),
        ("b", "10.0.0.1"),
        ("c", "10.9.9.9"),
        ("d", "255.255.255.255"),
    ] {
        assert_eq!(give(&mut store, container, &pools, &[]).unwrap(), address);
    }
    assert!(give(&mut store, "e", &pools, &[]).is_err());
    assert!(store.release(&owner("b")).unwrap());
    assert_eq!(give(&mut store, "e", &pools, &[]).unwrap(), "10.0.0.1");
}

#[test]
fn an_address_that_is_asked_for_is_given_if_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    let pools = pools(&["10.0.0.0/29", "fd00::/120"], &["10.0.0.1", "fd00::"]);
    assert_eq!(
        give(&mut store, "a", &pools, &["10.0.0.5"]).unwrap(),
        "10.0.0.5 fd00::1"
    );
    for (address, words) in [
        ("10.0.0.5", "another container has it"),
        ("10.0.0.1", "no pod may have it"),
        ("10.1.0.1", "not in 10.0.0.0/29, fd00::/120"),
    ] {
        let error = give(&mut store, "b", &pools, &[address]).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    // One that has another gets the one that it asks for.
    assert_eq!(
        give(&mut store, "a", &pools, &["10.0.0.6"]).unwrap(),
        "10.0.0.6 fd00::2"
    );
    assert_eq!(
        give(&mut store, "b", &pools, &["10.0.0.5"]).unwrap(),
        "10.0.0.5 fd00::3"
    );
}

#[test]
fn a_node_with_other_pod_cidrs_gives_what_is_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    assert_eq!(
        give(&mut store, "a", &pools(&["10.0.0.0/29"], &[]), &[]).unwrap(),
        "10.0.0.0"
    );
    let wider = pools(&["10.1.0.0/29", "fd00::/64"], &[]);
    assert_eq!(give(&mut store, "a", &wider, &[]).unwrap(), "10.1.0.0 fd00::");
    assert_eq!(store.records().unwrap().len(), 1);
}

#[test]
fn what_an_earlier_boot_wrote_is_void() {
    let folder = tempfile::tempdir().unwrap();
    let pools = pools(&["10.0.0.0/31"], &[]);
    let mut before = Store::new(Folder::lock(folder.path()).unwrap(), "an-earlier-boot");
    assert_eq!(give(&mut before, "a", &pools, &[]).unwrap(), "10.0.0.0");
    assert_eq!(give(&mut before, "b", &pools, &[]).unwrap(), "10.0.0.1");
    drop(before);
    let mut store = store(folder.path());
    assert_eq!(store.records().unwrap(), []);
    assert_eq!(store.find(&owner("a")).unwrap(), None);
    store.has_room(&pools).unwrap();
    // Not soon again, even so.
    assert_eq!(give(&mut store, "c", &pools, &[]).unwrap(), "10.0.0.0");
    assert_eq!(give(&mut store, "b", &pools, &[]).unwrap(), "10.0.0.1");
    // The runtime may still say that the old ones are gone.
    store.release(&owner("a")).unwrap();
    assert_eq!(store.records().unwrap().len(), 2);
}

#[test]
fn a_file_that_does_not_read_is_named_and_nothing_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    let pools = pools(&["10.0.0.0/24"], &[]);
    std::fs::write(folder.path().join("pods@a@eth0"), b"").unwrap();
    let error = give(&mut store, "b", &pools, &[]).unwrap_err();
    assert!(
        error.contains("pods@a@eth0") && error.contains("remove it"),
        "{error}"
    );
    // A kill leaves this, and it bothers nobody; nor does a hint that does not read.
    std::fs::write(folder.path().join(NEW), b"{").unwrap();
    std::fs::write(folder.path().join(LAST), b"{").unwrap();
    assert!(store.release(&owner("a")).unwrap());
    assert_eq!(give(&mut store, "b", &pools, &[]).unwrap(), "10.0.0.0");
}

#[test]
fn whoever_has_the_folder_has_it_alone() {
    const EACH: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let pools = pools(&["10.0.0.0/24", "fd00::/64"], &[]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (path, pools) = (folder.path(), &pools);
            scope.spawn(move || {
                for round in 0..EACH {
                    let container = format!("{thread}-{round}");
                    give(&mut store(path), &container, pools, &[]).unwrap();
                    if round % 2 == 1 {
                        assert!(store(path).release(&owner(&container)).unwrap());
                    }
                }
            });
        }
    });
    let records = store(folder.path()).records().unwrap();
    let addresses: BTreeSet<IpAddr> = records
        .iter()
        .flat_map(|record| &record.addresses)
        .copied()
        .collect();
    assert_eq!((records.len(), addresses.len()), (4 * EACH / 2, 4 * EACH));
}
