//! One node file for many nodes: the name comes from elsewhere.

use std::path::Path;

use super::{Config, ConfigError};
use crate::objects::NodeName;

impl Config {
    /// As [`Config::load`], for this node, whatever name the file has: it may be the same for many.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_for(path: &Path, name: Option<&NodeName>) -> Result<Self, ConfigError> {
        let mut config = Self::load(path)?;
        if let Some(name) = name {
            config.node.name.clone_from(name);
        }
        Ok(config)
    }
}
