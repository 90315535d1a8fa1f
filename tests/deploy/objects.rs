//! Strict reading of Kubernetes objects: by their types, which know every field, and by what no type says.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody here knows the kind.
    NoSuchKind(String),
    /// It is not what its kind is; why.
    NotOfKind(String),
    /// A field that its kind does not have.
    Unknown(String),
    /// A container mounts a volume that the pod has not.
    NoSuchVolume(String),
    /// The selector does not choose the pods of the template.
    SelectorMisses,
    /// It has no name.
    NoName,
}

/// Everything that is wrong with an object.
pub(crate) fn check(object: &Value) -> Vec<Fault> {
    let kind = format!(
        "{}/{}",
        object["apiVersion"].as_str().unwrap_or("?"),
        object["kind"].as_str().unwrap_or("?")
    );
    let read: fn(&Value) -> Result<Value, String> = match kind.as_str() {
        "v1/Namespace" => through::<Namespace>,
        "v1/ServiceAccount" => through::<ServiceAccount>,
        "v1/ConfigMap" => through::<ConfigMap>,
        "v1/Service" => through::<Service>,
        "apps/v1/DaemonSet" => through::<DaemonSet>,
        "apps/v1/Deployment" => through::<Deployment>,
        "rbac.authorization.k8s.io/v1/ClusterRole" => through::<ClusterRole>,
        "rbac.authorization.k8s.io/v1/ClusterRoleBinding" => through::<ClusterRoleBinding>,
        "rbac.authorization.k8s.io/v1/Role" => through::<Role>,
        "rbac.authorization.k8s.io/v1/RoleBinding" => through::<RoleBinding>,
        _ => return vec![Fault::NoSuchKind(kind)],
    };
    let known = match read(object) {
        Ok(known) => known,
        Err(reason) => return vec![Fault::NotOfKind(reason)],
    };
    let mut faults = Vec::new();
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        faults.push(Fault::NoName);
    }
    lost(object, &known, "", &mut faults);
    let pod = &object["spec"]["template"];
    if pod.is_object() {
        volumes(&pod["spec"], &mut faults);
        let labels = &pod["metadata"]["labels"];
        let wanted = object["spec"]["selector"]["matchLabels"].as_object();
        if wanted
            .is_none_or(|wanted| wanted.is_empty() || wanted.iter().any(|(key, value)| labels[key] != *value))
        {
            faults.push(Fault::SelectorMisses);
        }
    }
    faults
}

/// What is left of an object after it was read by its type and written again: a field that the type does not have is lost.
fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, String> {
    let read: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(read).map_err(|error| error.to_string())
}

/// Fields that are in `object` and not in `known`. An empty list or map may be left out by whoever writes.
fn lost(object: &Value, known: &Value, path: &str, faults: &mut Vec<Fault>) {
    match (object, known) {
        (Value::Object(fields), _) => {
            for (key, value) in fields {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match known.get(key) {
                    Some(known) => lost(value, known, &path, faults),
                    None => faults.push(Fault::Unknown(path)),
                }
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (index, (item, known)) in items.iter().zip(known).enumerate() {
                lost(item, known, &format!("{path}[{index}]"), faults);
            }
        }
        _ => {}
    }
}

fn volumes(pod: &Value, faults: &mut Vec<Fault>) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let names = |values: Vec<Value>| -> BTreeSet<String> {
        values
            .iter()
            .filter_map(|value| value["name"].as_str().map(str::to_owned))
            .collect()
    };
    let there = names(list(&pod["volumes"]));
    for container in [list(&pod["containers"]), list(&pod["initContainers"])].concat() {
        let mounted = names(list(&container["volumeMounts"]));
        faults.extend(mounted.difference(&there).cloned().map(Fault::NoSuchVolume));
    }
}
