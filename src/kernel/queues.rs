//! How many queues a device has, and how many descriptors each: read and set over ethtool's generic-netlink family.

use nix::errno::Errno;
use rtnetlink::packet_core::DefaultNla;
use serde::{Deserialize, Serialize};

use super::error::KernelError;
use super::generic::{kind_of, read_u32, value_of};
use super::request::Kernel;

/// Numbers of `linux/ethtool_netlink_generated.h`.
mod number {
    pub(super) const RINGS_GET: u8 = 15;
    pub(super) const RINGS_SET: u8 = 16;
    pub(super) const RINGS_RX_MAX: u16 = 2;
    pub(super) const RINGS_TX_MAX: u16 = 5;
    pub(super) const RINGS_RX: u16 = 6;
    pub(super) const RINGS_TX: u16 = 9;
    pub(super) const CHANNELS_GET: u8 = 17;
    pub(super) const CHANNELS_SET: u8 = 18;
    pub(super) const CHANNELS_RX_MAX: u16 = 2;
    pub(super) const CHANNELS_TX_MAX: u16 = 3;
    pub(super) const CHANNELS_COMBINED_MAX: u16 = 5;
    pub(super) const CHANNELS_RX_COUNT: u16 = 6;
    pub(super) const CHANNELS_TX_COUNT: u16 = 7;
    pub(super) const CHANNELS_COMBINED_COUNT: u16 = 9;
}

/// The queues of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// Queues that only receive.
    pub rx: u32,
    /// Queues that only transmit.
    pub tx: u32,
    /// Queues that do both.
    pub combined: u32,
}

impl Channels {
    /// Queues that receive. An `AF_XDP` socket can be bound to each.
    #[must_use]
    pub fn receiving(&self) -> u32 {
        self.rx.saturating_add(self.combined)
    }

    /// Queues that transmit.
    #[must_use]
    pub fn transmitting(&self) -> u32 {
        self.tx.saturating_add(self.combined)
    }

    /// So many queues that both receive and transmit, of a device that can have at most `self`; `None` if that is more
    /// than it can have. A device counts them either in pairs or apart.
    #[must_use]
    pub fn pairs_of(&self, count: u32) -> Option<Self> {
        if count <= self.combined {
            let (rx, tx) = (0, 0);
            return Some(Self {
                rx,
                tx,
                combined: count,
            });
        }
        (self.combined == 0 && count <= self.rx.min(self.tx)).then_some(Self {
            rx: count,
            tx: count,
            combined: 0,
        })
    }
}

/// The descriptors of each of a device's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// To receive into.
    pub rx: u32,
    /// To transmit from.
    pub tx: u32,
}

impl Kernel {
    /// How many queues of an interface are in use. A device that does not tell counts by its queues.
    ///
    /// # Errors
    /// [`KernelError`] if there is no such interface or the request is refused.
    pub async fn channel_count(&self, interface: &str) -> Result<Channels, KernelError> {
        Ok(self.channels(interface).await?.0)
    }

    /// How many queues of an interface are in use, and how many there could be.
    ///
    /// # Errors
    /// As [`Self::channel_count`].
    pub async fn channels(&self, interface: &str) -> Result<(Channels, Channels), KernelError> {
        let action = format!("reading the queue counts of interface {interface}");
        let answer = match self
            .ethtool
            .about(&action, interface, number::CHANNELS_GET, Vec::new())
            .await
        {
            Ok(answer) => answer,
            Err(error) if error.is(Errno::EOPNOTSUPP) => {
                let link = self.link_by_name(interface).await?;
                let fixed = Channels {
                    rx: link.rx_queues,
                    tx: link.tx_queues,
                    combined: 0,
                };
                return Ok((fixed, fixed));
            }
            Err(error) => return Err(error),
        };
        let counts = [
            number::CHANNELS_RX_COUNT,
            number::CHANNELS_TX_COUNT,
            number::CHANNELS_COMBINED_COUNT,
        ];
        let most = [
            number::CHANNELS_RX_MAX,
            number::CHANNELS_TX_MAX,
            number::CHANNELS_COMBINED_MAX,
        ];
        let [now, most] = [counts, most].map(|kinds| {
            let [rx, tx, combined] = kinds.map(|kind| found(&answer, kind));
            Channels { rx, tx, combined }
        });
        Ok((now, most))
    }

    /// Sets how many queues an interface has.
    ///
    /// # Errors
    /// [`KernelError`] with the driver's words.
    pub async fn set_channels(&self, interface: &str, wanted: Channels) -> Result<(), KernelError> {
        let (now, _) = self.channels(interface).await?;
        let action = format!(
            "setting the queues of interface {interface} to {}",
            wanted.receiving()
        );
        let parts = [
            (number::CHANNELS_RX_COUNT, now.rx, wanted.rx),
            (number::CHANNELS_TX_COUNT, now.tx, wanted.tx),
            (number::CHANNELS_COMBINED_COUNT, now.combined, wanted.combined),
        ];
        self.set_numbers(&action, interface, number::CHANNELS_SET, &parts)
            .await
    }

    /// How many descriptors each queue of an interface has, and how many it could have.
    ///
    /// # Errors
    /// [`KernelError`] if there is no such interface, or its driver does not tell.
    pub async fn rings(&self, interface: &str) -> Result<(Rings, Rings), KernelError> {
        let action = format!("reading the ring sizes of interface {interface}");
        let answer = self
            .ethtool
            .about(&action, interface, number::RINGS_GET, Vec::new())
            .await?;
        let now = Rings {
            rx: found(&answer, number::RINGS_RX),
            tx: found(&answer, number::RINGS_TX),
        };
        let most = Rings {
            rx: found(&answer, number::RINGS_RX_MAX),
            tx: found(&answer, number::RINGS_TX_MAX),
        };
        Ok((now, most))
    }

    /// Sets how many descriptors each queue of an interface has.
    ///
    /// # Errors
    /// [`KernelError`] with the driver's words.
    pub async fn set_rings(&self, interface: &str, wanted: Rings) -> Result<(), KernelError> {
        let (now, _) = self.rings(interface).await?;
        let action = format!(
            "setting the rings of interface {interface} to {} receive and {} transmit descriptors",
            wanted.rx, wanted.tx
        );
        let parts = [
            (number::RINGS_RX, now.rx, wanted.rx),
            (number::RINGS_TX, now.tx, wanted.tx),
        ];
        self.set_numbers(&action, interface, number::RINGS_SET, &parts)
            .await
    }

    /// Sets those numbers that differ: some drivers refuse to be told what is so already.
    async fn set_numbers(
        &self,
        action: &str,
        interface: &str,
        command: u8,
        parts: &[(u16, u32, u32)],
    ) -> Result<(), KernelError> {
        let changed: Vec<DefaultNla> = parts
            .iter()
            .filter(|(_, now, wanted)| now != wanted)
            .map(|(kind, _, wanted)| DefaultNla::new(*kind, wanted.to_ne_bytes().to_vec()))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        self.ethtool
            .about(action, interface, command, changed)
            .await
            .map(|_| ())
    }
}

fn found(answer: &[DefaultNla], kind: u16) -> u32 {
    let nla = answer.iter().find(|nla| kind_of(nla) == kind);
    nla.and_then(|nla| read_u32(&value_of(nla))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pairs_are_counted_as_the_device_does() {
        let channels = |rx, tx, combined| Channels { rx, tx, combined };
        let rows = [
            (channels(0, 0, 8), 4, Some(channels(0, 0, 4))),
            (channels(0, 0, 8), 9, None),
            (channels(4, 2, 0), 2, Some(channels(2, 2, 0))),
            (channels(4, 2, 0), 3, None),
            // Some count both ways; the pairs are what matters then.
            (channels(8, 8, 8), 8, Some(channels(0, 0, 8))),
        ];
        for (most, count, expected) in rows {
            assert_eq!(most.pairs_of(count), expected, "{count} of {most:?}");
        }
    }
}
