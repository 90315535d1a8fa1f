//! The files a Millrace node reads: its node file, and the folder of Kubernetes objects.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use super::plan::{Network, NodePlan, PlanV6, UPLINK, VNI, VXLAN_PORT};
use super::pod::POD_NAMESPACE;
use super::{Api, LabError, calico};

/// How the Millrace nodes of a lab are set up.
#[derive(Clone, Debug)]
pub struct MillraceOptions {
    /// The cores its workers are pinned to.
    pub cores: Vec<usize>,
    /// `idle` of its workers: `sleep` or `poll`.
    pub idle: String,
    /// `xdp-mode` of the uplink: `auto`, `native` or `generic`.
    pub xdp_mode: String,
    /// Lines appended to the node file, for what a test wants otherwise.
    pub extra: String,
    /// The API server that objects are of, in the place of a folder of manifests.
    pub api: Option<Arc<Api>>,
}

/// The file by which a node's daemon finds the API server, beside the node file.
pub(crate) const KUBECONFIG: &str = "kubeconfig";

impl Default for MillraceOptions {
    /// Two workers on the first two cores, or one on a machine that has only one.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cores: (0..cores.min(2)).collect(),
            idle: "sleep".to_owned(),
            xdp_mode: "auto".to_owned(),
            extra: String::new(),
            api: None,
        }
    }
}

/// The node file of a node.
pub(crate) fn node_file(plan: NodePlan, manifests: &Path, state: &Path, options: &MillraceOptions) -> String {
    let MillraceOptions {
        cores,
        idle,
        xdp_mode,
        extra,
        api,
    } = options;
    let (folder, server) = match api {
        None => (format!("manifests = {manifests:?}\n"), String::new()),
        Some(_) => (
            String::new(),
            // A relative path begins at the node file's folder.
            format!("[kubernetes]\nkubeconfig = {KUBECONFIG:?}\nsubnet-env = \"subnet.env\"\n\n"),
        ),
    };
    let overlay = match plan.network() {
        Network::Flannel => format!("kind = \"vxlan\"\nvni = {VNI}\nport = {VXLAN_PORT}"),
        Network::Calico => "network = \"calico\"".to_owned(),
    };
    format!(
        "[node]\nname = {name:?}\n{folder}state-dir = {state:?}\n\n{server}\
         [uplink]\ninterface = {UPLINK:?}\nxdp-mode = {xdp_mode:?}\n\n\
         [workers]\ncores = {cores:?}\nidle = {idle:?}\n\n\
         [overlay]\n{overlay}\n{extra}",
        name = plan.name(),
    )
}

/// The objects that describe a node, as the lab's network has them.
pub(crate) fn node_objects(plan: NodePlan) -> String {
    match plan.network() {
        Network::Flannel => node_object(plan),
        Network::Calico => calico::objects(plan),
    }
}

/// The Node object of a node, with the annotations flannel puts on it.
fn node_object(plan: NodePlan) -> String {
    let (lease, more_cidrs, more_addresses) = plan.v6().map_or_else(Default::default, of_v6);
    format!(
        "apiVersion: v1\n\
         kind: Node\n\
         metadata:\n\
         \x20 name: {name}\n\
         \x20 annotations:\n\
         \x20   flannel.alpha.coreos.com/kube-subnet-manager: \"true\"\n\
         \x20   flannel.alpha.coreos.com/backend-type: vxlan\n\
         \x20   flannel.alpha.coreos.com/public-ip: {underlay}\n\
         \x20   flannel.alpha.coreos.com/backend-data: '{{\"VNI\":{VNI},\"VtepMAC\":\"{mac}\"}}'\n{lease}\
         spec:\n\
         \x20 podCIDR: {cidr}\n\
         \x20 podCIDRs: [{cidr}{more_cidrs}]\n\
         status:\n\
         \x20 addresses:\n\
         \x20 - type: InternalIP\n\
         \x20   address: {underlay}\n{more_addresses}",
        name = plan.name(),
        underlay = plan.underlay_address(),
        mac = plan.vtep_mac(),
        cidr = plan.pod_cidr(),
    )
}

/// What stands in the Node object of a node with IPv6 besides: in its annotations, among its pod CIDRs, among its
/// addresses.
fn of_v6(v6: PlanV6) -> (String, String, String) {
    let (underlay, mac, cidr) = (v6.underlay_address(), v6.vtep_mac(), v6.pod_cidr());
    let lease = format!(
        "    flannel.alpha.coreos.com/public-ipv6: {underlay}\n\
         \x20   flannel.alpha.coreos.com/backend-v6-data: '{{\"VNI\":{VNI},\"VtepMAC\":\"{mac}\"}}'\n"
    );
    let address = format!("  - type: InternalIP\n    address: {underlay}\n");
    (lease, format!(", {cidr:?}"), address)
}

/// The Pod object of a pod.
pub(crate) fn pod_object(
    plan: NodePlan,
    pod: &str,
    (address, address_v6): (Ipv4Addr, Option<Ipv6Addr>),
) -> String {
    let more = address_v6.map_or_else(String::new, |v6| format!("  - ip: {v6}\n"));
    format!(
        "apiVersion: v1\n\
         kind: Pod\n\
         metadata:\n\
         \x20 namespace: {POD_NAMESPACE}\n\
         \x20 name: {pod}\n\
         spec:\n\
         \x20 nodeName: {node}\n\
         \x20 containers: [{{name: main, image: none}}]\n\
         status:\n\
         \x20 podIP: {address}\n\
         \x20 podIPs:\n\
         \x20 - ip: {address}\n{more}",
        node = plan.name(),
    )
}

/// Writes a file whole or not at all: whoever watches the folder never reads half an object.
pub(crate) fn write_whole(folder: &Path, name: &str, text: &str) -> Result<(), LabError> {
    // The name's end keeps it from being taken for a manifest.
    let draft = folder.join(format!(".{name}.draft"));
    let file = folder.join(name);
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, &file))
        .map_err(LabError::io(format!("write {}", file.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_node_object_has_flannels_byte_exact_backend_data() {
        let text = node_object(NodePlan::of(0).unwrap());
        let expected =
            r#"    flannel.alpha.coreos.com/backend-data: '{"VNI":1,"VtepMAC":"02:00:00:00:01:01"}'"#;
        assert!(text.lines().any(|line| line == expected), "{text}");
        assert!(
            text.contains("\n    flannel.alpha.coreos.com/public-ip: 192.0.2.1\n"),
            "{text}"
        );
        assert!(text.contains("\n  podCIDR: 10.244.1.0/24\n"), "{text}");
    }

    #[test]
    fn the_node_file_says_what_the_lab_decided() {
        let options = MillraceOptions {
            cores: vec![0, 1],
            idle: "poll".into(),
            xdp_mode: "native".into(),
            extra: "\n[slow-path]\nqueue = 8\n".into(),
            api: None,
        };
        let text = node_file(
            NodePlan::of(1).unwrap(),
            Path::new("/m"),
            Path::new("/s"),
            &options,
        );
        for line in [
            "name = \"node-b\"",
            "manifests = \"/m\"",
            "state-dir = \"/s\"",
            "interface = \"eth1\"",
            "xdp-mode = \"native\"",
            "cores = [0, 1]",
            "idle = \"poll\"",
            "port = 8472",
            "queue = 8",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_written_file_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        write_whole(folder.path(), "a.yaml", "one").unwrap();
        write_whole(folder.path(), "a.yaml", "two").unwrap();
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["a.yaml"]);
        assert_eq!(fs::read_to_string(folder.path().join("a.yaml")).unwrap(), "two");
    }
}
