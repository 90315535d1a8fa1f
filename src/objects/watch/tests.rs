use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// Longest wait for a condition: several turns of the periodic look, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn node(name: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n")
}

fn names(store: &Store) -> String {
    store
        .nodes()
        .map(|node| node.name.as_str().to_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Waits until a store fulfils a condition, and tells how long that took.
fn wait_until(
    stores: &mut watch::Receiver<Arc<Store>>,
    what: &str,
    condition: impl Fn(&Store) -> bool,
) -> Duration {
    let begin = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let waited = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, stores.wait_for(|store| condition(store)))
            .await
            .map(|found| found.is_ok())
    });
    assert_eq!(
        waited,
        Ok(true),
        "{what}: {} {:?}",
        names(&stores.borrow()),
        stores.borrow().notices()
    );
    begin.elapsed()
}

fn wait_for_nodes(stores: &mut watch::Receiver<Arc<Store>>, what: &str, expected: &str) -> Duration {
    wait_until(stores, what, |store| names(store) == expected)
}

fn start(path: &Path) -> FolderSource {
    FolderSource::start(path, "node-a".parse().unwrap()).unwrap()
}

/// Puts a file in its place as editors and careful programs do.
fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text).unwrap();
    fs::rename(fresh, path).unwrap();
}

#[test]
fn there_is_a_store_from_the_first_moment() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.yaml"), node("node-a")).unwrap();
    let source = start(dir.path());
    assert_eq!(names(&source.subscribe().borrow()), "node-a");
    assert_eq!(source.subscribe().borrow().own_name().as_str(), "node-a");
}

#[test]
fn a_missing_folder_is_an_error_at_the_start() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("none");
    let error = FolderSource::start(&path, "node-a".parse().unwrap())
        .unwrap_err()
        .to_string();
    let expected = format!(
        "cannot read the folder of manifests {}: No such file or directory (os error 2); create it, or name another in [node] manifests",
        path.display()
    );
    assert_eq!(error, expected);
}

#[test]
fn files_that_come_change_and_go() {
    let dir = TempDir::new().unwrap();
    let source = start(dir.path());
    let mut stores = source.subscribe();
    let path = dir.path().join("b.yaml");
    fs::write(&path, node("node-b")).unwrap();
    wait_for_nodes(&mut stores, "written", "node-b");
    fs::write(&path, node("node-c")).unwrap();
    wait_for_nodes(&mut stores, "written over", "node-c");
    replace(&path, &node("node-d"));
    wait_for_nodes(&mut stores, "replaced by a rename", "node-d");
    fs::rename(&path, dir.path().join("b.yaml~")).unwrap();
    fs::write(&path, node("node-e")).unwrap();
    wait_for_nodes(&mut stores, "moved aside and written anew", "node-e");
    fs::write(&path, "nonsense: [").unwrap();
    wait_until(&mut stores, "broken", |store| {
        store.refusals().count() == 1 && names(store) == "node-e"
    });
    fs::remove_file(&path).unwrap();
    wait_for_nodes(&mut stores, "removed", "");
    assert_eq!(stores.borrow().notices(), []);
}

/// The events must do it: with the periodic look alone, ten changes would take ten of its turns.
#[test]
fn changes_are_seen_by_their_events() {
    let dir = TempDir::new().unwrap();
    let source = start(dir.path());
    let mut stores = source.subscribe();
    let mut fastest = PATIENCE;
    for turn in 0..10 {
        replace(&dir.path().join("b.yaml"), &node(&format!("node-{turn}")));
        fastest = fastest.min(wait_for_nodes(&mut stores, "replaced", &format!("node-{turn}")));
    }
    assert!(fastest < RESCAN_EVERY / 3, "{fastest:?}");
}

#[test]
fn a_mounted_config_map_is_followed() {
    let dir = TempDir::new().unwrap();
    let volume = |name: &str, node_name: &str| {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("b.yaml"), node(node_name)).unwrap();
    };
    volume("..2026_1", "node-b");
    symlink("..2026_1", dir.path().join("..data")).unwrap();
    symlink("..data/b.yaml", dir.path().join("b.yaml")).unwrap();
    let source = start(dir.path());
    let mut stores = source.subscribe();
    assert_eq!(names(&stores.borrow()), "node-b");
    // As the kubelet does: the new version beside the old, then one rename.
    volume("..2026_2", "node-c");
    symlink("..2026_2", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    fs::remove_dir_all(dir.path().join("..2026_1")).unwrap();
    wait_for_nodes(&mut stores, "swapped", "node-c");
    assert_eq!(stores.borrow().refusals().count(), 0);
}

#[test]
fn a_folder_that_goes_and_comes_back_is_followed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("b.yaml"), node("node-b")).unwrap();
    let source = start(&path);
    let mut stores = source.subscribe();
    fs::rename(&path, dir.path().join("away")).unwrap();
    source.rescan();
    wait_until(&mut stores, "gone", |store| {
        store.refusals().count() == 1 && names(store) == "node-b"
    });
    fs::create_dir(&path).unwrap();
    fs::write(path.join("c.yaml"), node("node-c")).unwrap();
    wait_until(&mut stores, "back", |store| {
        names(store) == "node-c" && store.refusals().count() == 0
    });
    // The new folder is watched, not the old one.
    let mut fastest = PATIENCE;
    for turn in 0..5 {
        replace(&path.join("c.yaml"), &node(&format!("node-{turn}")));
        fastest = fastest.min(wait_for_nodes(
            &mut stores,
            "in the new folder",
            &format!("node-{turn}"),
        ));
    }
    assert!(fastest < RESCAN_EVERY / 3, "{fastest:?}");
}

/// A folder reached over a link: when the link is turned there is no event in the folder, so the periodic
/// look must see it.
#[test]
fn a_link_to_the_folder_that_is_turned_is_followed() {
    let dir = TempDir::new().unwrap();
    for name in ["one", "two"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(
            dir.path().join(name).join("x.yaml"),
            node(&format!("node-{name}")),
        )
        .unwrap();
    }
    let link = dir.path().join("manifests");
    symlink("one", &link).unwrap();
    let source = start(&link);
    let mut stores = source.subscribe();
    symlink("two", dir.path().join("turned")).unwrap();
    fs::rename(dir.path().join("turned"), &link).unwrap();
    wait_for_nodes(&mut stores, "turned", "node-two");
    // From then on it is the other folder whose events count.
    let mut fastest = PATIENCE;
    for turn in 0..5 {
        replace(&dir.path().join("two/x.yaml"), &node(&format!("node-{turn}")));
        let wait = wait_for_nodes(&mut stores, "in the other folder", &format!("node-{turn}"));
        fastest = fastest.min(wait);
    }
    assert!(fastest < RESCAN_EVERY / 3, "{fastest:?}");
}

#[test]
fn many_changes_at_once_are_few_stores() {
    let dir = TempDir::new().unwrap();
    let source = start(dir.path());
    let mut stores = source.subscribe();
    let counter = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut counted = source.subscribe();
    let count = Arc::clone(&counter);
    let watcher = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            while counted.changed().await.is_ok() {
                counted.borrow_and_update();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    for index in 0..300 {
        fs::write(
            dir.path().join(format!("{index:03}.yaml")),
            node(&format!("node-{index:03}")),
        )
        .unwrap();
    }
    wait_until(&mut stores, "all of them", |store| store.nodes().count() == 300);
    drop((source, stores));
    watcher.join().unwrap();
    let made = counter.load(Ordering::Relaxed);
    assert!((1..=20).contains(&made), "{made} stores for 300 files");
}

#[test]
fn dropping_the_source_ends_its_thread() {
    let dir = TempDir::new().unwrap();
    let source = start(dir.path());
    let mut stores = source.subscribe();
    let begin = Instant::now();
    drop(source);
    assert!(
        begin.elapsed() < RESCAN_EVERY,
        "it does not wait for the next turn"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(
        runtime.block_on(stores.changed()).is_err(),
        "the sender is gone with the thread"
    );
}

/// Our own reading must not wake us: that would be a loop that never rests.
#[test]
fn only_what_may_change_a_file_wakes() {
    use notify::event::{CreateKind, ModifyKind, RemoveKind, RenameMode};
    let rows = [
        (EventKind::Access(AccessKind::Open(AccessMode::Any)), false),
        (EventKind::Access(AccessKind::Read), false),
        (EventKind::Access(AccessKind::Close(AccessMode::Read)), false),
        (EventKind::Access(AccessKind::Close(AccessMode::Write)), true),
        (EventKind::Create(CreateKind::File), true),
        (EventKind::Modify(ModifyKind::Name(RenameMode::To)), true),
        (EventKind::Modify(ModifyKind::Any), true),
        (EventKind::Remove(RemoveKind::File), true),
        (EventKind::Other, true),
    ];
    for (kind, wakes) in rows {
        assert_eq!(may_change(kind), wakes, "{kind:?}");
    }
}
