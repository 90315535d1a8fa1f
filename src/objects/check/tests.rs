use std::fs;

use tempfile::TempDir;

use super::*;

const NODE_FILE: &str = "[node]\nname = \"node-a\"\nmanifests = \"manifests\"\n[uplink]\ninterface = \"eth1\"\n[workers]\ncores = [0]\n";

const OWN: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nspec: {podCIDR: 10.244.1.0/24}\n";

const PEER: &str = "---
apiVersion: v1
kind: Node
metadata:
  name: node-b
  annotations:
    flannel.alpha.coreos.com/kube-subnet-manager: \"true\"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/public-ip: 192.0.2.2
    flannel.alpha.coreos.com/backend-data: '{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:01:02\"}'
spec: {podCIDR: 10.244.2.0/24}
";

const PODS: &str = "---
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: node-a}, status: {podIP: 10.244.1.5}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {nodeName: node-b}, status: {podIP: 10.244.2.5}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c}, spec: {nodeName: node-a}, status: {podIP: 10.244.1.6, phase: Failed}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: s, namespace: default}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}
";

/// Checks a node file and a manifest, if any.
fn run(node_file: &str, manifest: Option<&str>) -> (CheckReport, String) {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("millrace.toml");
    fs::write(&config, node_file).unwrap();
    if let Some(manifest) = manifest {
        fs::create_dir(dir.path().join("manifests")).unwrap();
        fs::write(dir.path().join("manifests/x.yaml"), manifest).unwrap();
    }
    let report = check(&config, None);
    let text = report
        .to_string()
        .replace(&format!("{}/", dir.path().display()), "");
    (report, text)
}

#[test]
fn a_good_node() {
    let (report, text) = run(NODE_FILE, Some(&format!("{OWN}{PEER}{PODS}")));
    assert!(report.is_good(), "{text}");
    let expected = "\
manifests/x.yaml:23 (document 6): skipped: ConfigMap default/s: v1 ConfigMap is not used by this version
manifests: 1 files, 2 nodes (1 peers), 2 pods (1 of this node, 1 ended and left out), 1 services, 0 policies
this node: node-a, pods 10.244.1.0/24, VtepMAC 66:07:02:c1:cc:60
millrace.toml: good (0 refused, 0 warnings, 1 skipped)";
    assert_eq!(text, expected);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["counts"]["own-pods"], 1);
    assert_eq!(json["own-node"]["pod-cidrs"][0], "10.244.1.0/24");
    assert_eq!(json["own-node"]["vtep-mac-v4"], "66:07:02:c1:cc:60");
    assert_eq!(json["notices"][0]["severity"], "skipped");
    assert_eq!(
        json["notices"][0]["reason"],
        "v1 ConfigMap is not used by this version"
    );
    assert_eq!(json["notices"][0]["origin"]["document"]["line"], 23);
}

#[test]
fn what_is_wrong_is_said() {
    let other_name = NODE_FILE.replace("node-a", "node-z");
    let no_cidr = OWN.replace("podCIDR: 10.244.1.0/24", "");
    let bad_cidr = OWN.replace("10.244.1.0/24", "10.244.1/24");
    let unknown_key = NODE_FILE.replace("cores", "core");
    let rows: &[(&str, &str, Option<&str>, &str)] = &[
        (
            "own node missing",
            &other_name,
            Some(OWN),
            "error: there is no good Node named node-z in manifests; add it with spec.podCIDRs, or set [node] name",
        ),
        (
            "own node without pods",
            NODE_FILE,
            Some(&no_cidr),
            "error: Node node-a in manifests has no spec.podCIDRs; give it the addresses of its pods",
        ),
        (
            "own node refused",
            NODE_FILE,
            Some(&bad_cidr),
            "error: there is no good Node named node-a in manifests",
        ),
        (
            "no folder",
            NODE_FILE,
            None,
            "error: there is no good Node named node-a in manifests",
        ),
        (
            "wrong node file",
            &unknown_key,
            Some(OWN),
            "error: millrace.toml:7: workers.core: unknown field `core`",
        ),
    ];
    for (what, node_file, manifest, expected) in rows {
        let (report, text) = run(node_file, *manifest);
        assert!(!report.is_good(), "{what}");
        assert!(text.starts_with(expected), "{what}: {text}");
    }
    let (report, text) = run(NODE_FILE, Some(&format!("{OWN}---\nkind: [\n")));
    assert!(!report.is_good(), "a refusal alone is enough");
    assert!(report.errors.is_empty());
    assert!(
        text.contains(
            "manifests/x.yaml:6 (document 2): refused: it cannot be parsed: unclosed bracket '['\n"
        ),
        "{text}"
    );
    assert!(
        text.ends_with("millrace.toml: not good (1 refused, 0 warnings, 0 skipped)"),
        "{text}"
    );
    let (_, text) = run(NODE_FILE, None);
    assert!(
        text.contains("manifests: refused: the folder of manifests cannot be read (No such file"),
        "{text}"
    );
}

#[test]
fn a_node_of_a_calico_cluster() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a, annotations: {projectcalico.org/IPv4Address: 192.0.2.1/24}}\n";
    let peer = "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-b, annotations: {projectcalico.org/IPv4Address: 192.0.2.2/24}}\n";
    let pool = "---\n{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: p}, spec: {cidr: 10.1.0.0/16, ipipMode: Always}}\n";
    let bad = "---\n{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: q}, spec: {cidr: 10.2.0.0/16, ipipMode: Often}}\n";
    let affinity = |node: &str, cidr: &str| {
        format!(
            "---\n{{apiVersion: crd.projectcalico.org/v1, kind: BlockAffinity, metadata: {{name: {node}}}, spec: {{cidr: {cidr}, node: {node}, state: confirmed}}}}\n"
        )
    };
    let (report, text) = run(NODE_FILE, Some(&format!("{node}{pool}")));
    assert!(report.is_good(), "{text}");
    let without = "pods none yet, VtepMAC 66:07:02:c1:cc:60, in calico's network with pools 10.1.0.0/16\n";
    assert!(text.contains(without), "{text}");
    let blocks = [
        affinity("node-a", "10.1.0.0/26"),
        affinity("node-b", "10.1.0.64/26"),
    ]
    .concat();
    let (report, text) = run(NODE_FILE, Some(&format!("{node}{peer}{pool}{bad}{blocks}")));
    assert_eq!((report.counts.peers, report.counts.refused), (1, 1), "{text}");
    let named = "refused: IPPool q: spec.ipipMode: `Often` is none of Never, Always and CrossSubnet";
    assert!(
        text.contains(named) && text.contains("node-a, pods 10.1.0.0/26,"),
        "{text}"
    );
}
