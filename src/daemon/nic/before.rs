//! What the uplink's device was before it was changed, and how it becomes that again.

use millrace_dataplane::port::nic;
use serde::{Deserialize, Serialize};

use crate::kernel::{Channels, Device, InterruptDelay, Kernel, Rings};

/// What the device was before it was changed; what was not changed is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NicBefore {
    /// The interface.
    pub interface: String,
    /// Its queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
    /// What they were set to, and how many there were with the steering program on: some drivers take more for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels_became: Option<(u32, u32)>,
    /// Their descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rings: Option<Rings>,
    /// The indirection table; empty for the driver's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indirection: Option<Vec<u32>>,
    /// How interrupts were put off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<InterruptDelay>,
    /// By which features it merged what it received; generic XDP turned them off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merging: Option<Vec<String>>,
    /// It took VLAN tags off what it received; the switch has to see them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub took_tags_off: bool,
}

impl NicBefore {
    /// Takes over what `earlier` knows: what was there before counts, not what it became in between.
    pub(super) fn or(&mut self, earlier: &Self) {
        let Self {
            interface,
            channels,
            channels_became,
            rings,
            indirection,
            interrupts,
            merging,
            took_tags_off,
        } = earlier.clone();
        self.interface = interface;
        self.channels = channels.or(self.channels);
        self.channels_became = self.channels_became.or(channels_became);
        self.rings = rings.or(self.rings);
        self.indirection = indirection.or(self.indirection.take());
        self.interrupts = interrupts.or(self.interrupts);
        self.merging = merging.or(self.merging.take());
        self.took_tags_off |= took_tags_off;
    }
}

/// Puts back what was changed; answers what was done in words, and what failed.
pub(in crate::daemon) async fn restore(
    kernel: &Kernel,
    before: &NicBefore,
) -> Vec<(String, anyhow::Result<bool>)> {
    let interface = before.interface.as_str();
    let mut steps = Vec::new();
    let Ok(Some(link)) = kernel.find_link(interface).await else {
        return steps;
    };
    if let Some(table) = &before.indirection {
        let result = nic::set_indirection(interface, table);
        steps.push((format!("spreading of {interface}"), done(result)));
    }
    if let Some(channels) = before.channels {
        let result = kernel.set_channels(interface, channels).await;
        steps.push((format!("queues of {interface}"), done(result)));
    }
    if let Some(rings) = before.rings {
        let result = kernel.set_rings(interface, rings).await;
        steps.push((format!("rings of {interface}"), done(result)));
    }
    if let Some(interrupts) = before.interrupts {
        let result = Device::of(&link).and_then(|device| device.set_interrupt_delay(interrupts));
        steps.push((format!("interrupts of {interface}"), done(result)));
    }
    if let Some(merging) = &before.merging {
        let result = kernel.enable_features(interface, merging).await;
        steps.push((format!("merging by {interface} itself"), done(result)));
    }
    if before.took_tags_off {
        let result = kernel.take_tags_off(interface, true).await;
        steps.push((format!("VLAN tags taken off by {interface}"), done(result)));
    }
    steps
}

fn done<E: Into<anyhow::Error>>(result: Result<(), E>) -> anyhow::Result<bool> {
    result.map(|()| true).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_remembered_reads_as_it_was_written() {
        let before = NicBefore {
            interface: "eth1".into(),
            channels: Some(Channels {
                rx: 0,
                tx: 0,
                combined: 4,
            }),
            channels_became: Some((2, 4)),
            rings: Some(Rings { rx: 256, tx: 512 }),
            indirection: Some(Vec::new()),
            interrupts: None,
            merging: Some(vec!["rx-lro".into()]),
            took_tags_off: true,
        };
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<NicBefore>(&text).unwrap(), before);
        assert!(!text.contains("interrupts"), "{text}");
    }
}
