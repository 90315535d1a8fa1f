//! Whether the switch is well.

use serde::{Deserialize, Serialize};

/// The answer to [`Request::Health`](super::Request::Health).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// What only a restart would mend: workers that do not answer.
    pub dead: Vec<String>,
    /// What keeps packets from their ways, and may pass by itself.
    pub unready: Vec<String>,
}

impl HealthReport {
    /// What is wrong: what is dead, and of a switch that is to be ready, the rest too.
    #[must_use]
    pub fn complaints(&self, is_to_be_ready: bool) -> Vec<String> {
        let unready = self.unready.iter().filter(|_| is_to_be_ready);
        self.dead.iter().chain(unready).cloned().collect()
    }
}
