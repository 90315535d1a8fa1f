//! Labels and what selects by them.
//!
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde::{Serialize, Serializer};

use super::policy::PolicyFault;

/// `metadata.labels`.
pub type Labels = BTreeMap<String, String>;

/// A label selector, read. All its requirements must hold; without any it selects everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Requirement {
    /// The label is there with one of these values.
    In(String, Vec<String>),
    /// The label is absent, or has none of these values.
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is absent.
    DoesNotExist(String),
}

impl Selector {
    /// Reads a selector that stands in `field`.
    ///
    /// # Errors
    /// [`PolicyFault::Selector`] for an operator that there is not, or one with values that it cannot have.
    pub(super) fn read(field: &str, selector: &LabelSelector) -> Result<Self, PolicyFault> {
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<_> = labels
            .map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()]))
            .collect();
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let requirement = Requirement::read(expression).map_err(|reason| PolicyFault::Selector {
                field: format!("{field}.matchExpressions[{index}]"),
                value: expression.operator.clone(),
                reason,
            })?;
            requirements.push(requirement);
        }
        // In one order, so that selectors that say the same are the same.
        requirements.sort_unstable();
        requirements.dedup();
        Ok(Self { requirements })
    }

    /// Whether it selects what has these labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.holds(labels))
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Requirement {
    fn read(expression: &LabelSelectorRequirement) -> Result<Self, &'static str> {
        let key = expression.key.clone();
        if key.is_empty() {
            return Err("needs a key");
        }
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort_unstable();
        values.dedup();
        match (expression.operator.as_str(), values.is_empty()) {
            ("In", false) => Ok(Self::In(key, values)),
            ("NotIn", false) => Ok(Self::NotIn(key, values)),
            ("In" | "NotIn", true) => Err("needs at least one value"),
            ("Exists", true) => Ok(Self::Exists(key)),
            ("DoesNotExist", true) => Ok(Self::DoesNotExist(key)),
            ("Exists" | "DoesNotExist", false) => Err("can have no values"),
            _ => Err("is none of In, NotIn, Exists, DoesNotExist"),
        }
    }

    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

impl fmt::Display for Selector {
    /// As `kubectl` writes selectors; nothing for one that selects everything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, requirement) in self.requirements.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values.concat())?,
                Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(","))?,
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(","))?,
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::DoesNotExist(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Selector, PolicyFault> {
        Selector::read("s", &serde_json::from_str(json).unwrap())
    }

    fn labels(text: &str) -> Labels {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn what_each_operator_selects() {
        let expression = |operator: &str, values: &str| {
            format!(r#"{{"matchExpressions":[{{"key":"a","operator":"{operator}","values":[{values}]}}]}}"#)
        };
        type Row<'r> = (String, &'r str, &'r [(&'r str, bool)]);
        let rows: &[Row<'_>] = &[
            ("{}".into(), "", &[("", true), ("a=1", true)]),
            (
                r#"{"matchLabels":{"a":"1","b":""}}"#.into(),
                "a=1,b=",
                &[
                    ("a=1,b=", true),
                    ("a=1", false),
                    ("a=2,b=", false),
                    ("a=1,b=,c=3", true),
                ],
            ),
            (
                expression("In", r#""2","1""#),
                "a in (1,2)",
                &[("a=1", true), ("a=2", true), ("a=3", false), ("", false)],
            ),
            (
                expression("NotIn", r#""1""#),
                "a notin (1)",
                &[("a=1", false), ("a=3", true), ("", true)],
            ),
            (expression("Exists", ""), "a", &[("a=", true), ("b=1", false)]),
            (
                expression("DoesNotExist", ""),
                "!a",
                &[("a=", false), ("b=1", true)],
            ),
        ];
        for (json, text, cases) in rows {
            let selector = read(json).unwrap();
            assert_eq!(selector.to_string(), *text);
            for (of, expected) in *cases {
                assert_eq!(selector.matches(&labels(of)), *expected, "{text} of {of}");
            }
        }
    }

    #[test]
    fn what_no_operator_can_have() {
        for (operator, values, reason) in [
            ("In", "", "needs at least one value"),
            ("NotIn", "", "needs at least one value"),
            ("Exists", r#""x""#, "can have no values"),
            ("DoesNotExist", r#""x""#, "can have no values"),
            ("Equals", r#""x""#, "is none of In, NotIn"),
            ("", "", "is none of"),
        ] {
            let json = format!(
                r#"{{"matchExpressions":[{{"key":"a","operator":"Exists"}},{{"key":"a","operator":"{operator}","values":[{values}]}}]}}"#
            );
            let fault = read(&json).unwrap_err().to_string();
            assert!(
                fault.starts_with("s.matchExpressions[1]: ") && fault.contains(reason),
                "{fault}"
            );
        }
        let no_key = read(r#"{"matchExpressions":[{"key":"","operator":"Exists"}]}"#);
        assert!(no_key.is_err());
    }
}
