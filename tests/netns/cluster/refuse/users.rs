//! Users without rights, and daemons that come second.

use std::fs;
use std::path::Path;

use millrace_tools::lab::complete;

use super::{FAILED, FAILING, assert_refused, run};
use crate::picture::Picture;
use crate::rig::{address, assert_reaches, daemon, daemon_mut, finish, node, pair, pod, side_by_side};
#[test]
fn users_without_rights_and_second_daemons_are_refused() {
    let _turn = side_by_side();
    let mut lab = pair("second", 2);
    let (namespace, switch) = (node(&lab, "node-a"), daemon(&lab, "node-a"));
    let good = fs::read_to_string(switch.config()).unwrap();
    let before = Picture::of(namespace);

    assert_refused(
        "the same state folder",
        &run(namespace, switch, &[]),
        FAILED,
        &["another millrace", "state"],
    );
    // Another state folder does not make it another node.
    let other = good.replace(
        &format!("{:?}", switch.state()),
        &format!("{:?}", lab.folder().join("other")),
    );
    assert_ne!(other, good);
    switch.write_config(&other).unwrap();
    assert_refused(
        "the same uplink",
        &run(namespace, switch, &[]),
        FAILED,
        &["another millrace", "host port millrace0", "stop it first"],
    );
    switch.write_config(&good).unwrap();
    assert_eq!(before.changes(&Picture::of(namespace)), [""; 0]);
    assert_reaches(pod(&lab, "pod-a1"), address(&lab, "pod-a2"));
    assert_reaches(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));
    assert_reaches(namespace, address(&lab, "pod-a1"));

    // An ordinary user, who may read the node file and neither start nor ask.
    let open = tempfile::tempdir().unwrap();
    let set_mode =
        |path: &Path, mode| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode));
    set_mode(open.path(), 0o777).unwrap();
    fs::create_dir(open.path().join("manifests")).unwrap();
    fs::copy(
        switch.manifests().join("node-a.yaml"),
        open.path().join("manifests/node-a.yaml"),
    )
    .unwrap();
    let config = open.path().join("millrace.toml");
    let text = good
        .replace(&format!("{:?}", switch.manifests()), "\"manifests\"")
        .replace(&format!("{:?}", switch.state()), "\"state\"");
    fs::write(&config, text).unwrap();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let program = env!("CARGO_BIN_EXE_millrace");
    let as_nobody = |words: &[&str]| {
        let mut line = namespace.command("setpriv");
        line.args(nobody).arg(program).args(words);
        complete(line, FAILING).unwrap()
    };
    assert_refused(
        "an ordinary user",
        &as_nobody(&["run", "--config", config.to_str().unwrap()]),
        FAILED,
        &["root"],
    );
    let uninstalled = as_nobody(&["uninstall", "--config", config.to_str().unwrap()]);
    assert!(!uninstalled.status.success(), "{uninstalled:?}");
    let socket = switch.socket();
    assert_refused(
        "asking",
        &as_nobody(&["--socket", socket.to_str().unwrap(), "stats"]),
        FAILED,
        &["permission", "root"],
    );
    assert_eq!(before.changes(&Picture::of(namespace)), [""; 0]);

    assert!(daemon_mut(&mut lab, "node-a").stop().unwrap().success());
    let gone = daemon(&lab, "node-a").ask(&["show", "ports"]).unwrap();
    assert_refused(
        "no daemon",
        &gone,
        FAILED,
        &["no daemon answers", "millrace.sock"],
    );
    finish(lab);
}
