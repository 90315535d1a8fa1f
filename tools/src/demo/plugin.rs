//! The CNI plugin's part of the demo: it attached the pods of the Millrace nodes, looks at each of them once more, and
//! takes them all away at the end, as a container runtime has it do.

use crate::lab::runtime::Runtime;
use crate::lab::{Lab, LabError, Node};

/// Says that the pods were attached through the plugin, where they were.
pub(crate) fn describe(lab: &Lab) -> Option<String> {
    let (_, runtime) = with_runtime(lab).next()?;
    Some(format!(
        "Pods of nodes that run millrace: attached by its CNI plugin (ADD, version {}), as a runtime calls it.",
        runtime.version
    ))
}

/// Has every pod checked and deleted, and tells what came of it; nothing where the plugin has no part.
pub(crate) fn show(lab: &mut Lab) -> Result<Option<String>, LabError> {
    let mut names = Vec::new();
    for (node, runtime) in with_runtime(lab) {
        runtime.status()?;
        for pod in node.pods() {
            runtime.check(pod.container())?;
        }
        names.extend(node.pods().iter().map(|pod| pod.name().to_owned()));
    }
    if names.is_empty() {
        return Ok(None);
    }
    for name in &names {
        lab.remove_pod(name)?;
    }
    for (node, runtime) in with_runtime(lab) {
        let left = ports(node)?;
        let stored = runtime.stored();
        if left + stored > 0 {
            return Err(LabError::LeftBehind(vec![format!(
                "on {} {left} ports of pods and {stored} reservations of addresses, after DEL of every pod",
                node.name(),
            )]));
        }
    }
    Ok(Some(format!(
        "CNI plugin: STATUS, and CHECK and DEL of {} pods, passed; no port and no address of theirs is left.",
        names.len()
    )))
}

fn with_runtime(lab: &Lab) -> impl Iterator<Item = (&Node, &Runtime)> {
    let nodes = lab.nodes().iter();
    nodes.filter_map(|node| Some((node, node.runtime()?)))
}

/// How many ports of pods a node has.
fn ports(node: &Node) -> Result<usize, LabError> {
    let Some(daemon) = node.daemon() else { return Ok(0) };
    let rows = daemon.json(&["show", "ports"])?;
    let rows = rows.as_array().into_iter().flatten();
    Ok(rows.filter(|row| row["role"] == "pod").count())
}
