//! Device features, over ethtool's generic-netlink family
//! ([kernel documentation](https://docs.kernel.org/networking/ethtool-netlink.html)).

use rtnetlink::packet_core::DefaultNla;
use tokio::sync::OnceCell;

use super::error::KernelError;
use super::generic::{GenericConnection, GenericMessage, kind_of, nest, nested, read_text, text, value_of};
use super::names::check_interface_name;
use super::request::Kernel;

/// The family's name.
const FAMILY_NAME: &str = "ethtool";

/// Numbers of `linux/ethtool_netlink_generated.h`.
mod number {
    pub(super) const VERSION: u8 = 1;
    pub(super) const FEATURES_GET: u8 = 11;
    pub(super) const FEATURES_SET: u8 = 12;
    /// The same in every request.
    pub(super) const HEADER: u16 = 1;
    pub(super) const HEADER_DEV_NAME: u16 = 2;
    pub(super) const HEADER_FLAGS: u16 = 3;
    pub(super) const FLAG_OMIT_REPLY: u32 = 2;
    pub(super) const FEATURES_HW: u16 = 2;
    pub(super) const FEATURES_WANTED: u16 = 3;
    pub(super) const FEATURES_ACTIVE: u16 = 4;
    pub(super) const BITSET_BITS: u16 = 3;
    pub(super) const BITSET_BIT: u16 = 1;
    pub(super) const BIT_NAME: u16 = 2;
    pub(super) const BIT_VALUE: u16 = 3;
}

/// The feature that merges received packets into large ones, by its `ethtool -k` name.
const GENERIC_RECEIVE_OFFLOAD: &str = "rx-gro";

/// Features by which the device itself merges what it received. The kernel turns them off when a program is attached in
/// generic mode (`dev_disable_lro` and `dev_disable_gro_hw` in `net/core/dev.c`), and never on again.
const MERGING_BY_DEVICE: [&str; 2] = ["rx-gro-hw", "rx-lro"];

/// The feature by which a device takes the VLAN tag off what it received and tells it beside the frame, where no XDP program
/// sees it.
const TAKES_TAGS_OFF: &str = "rx-vlan-hw-parse";

/// The device features of an interface, by their `ethtool -k` names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// Those that can be changed.
    pub(super) changeable: Vec<String>,
    /// Those that are on.
    pub(super) active: Vec<String>,
}

/// The connection to the kernel's ethtool family.
#[derive(Debug, Clone)]
pub(super) struct Ethtool {
    connection: GenericConnection,
    family: OnceCell<u16>,
}

impl Ethtool {
    /// Opens the connection in the calling thread's network namespace; its work is done on `runtime`.
    pub(super) fn open(runtime: &tokio::runtime::Handle) -> Result<Self, KernelError> {
        Ok(Self {
            connection: GenericConnection::open(runtime)?,
            family: OnceCell::new(),
        })
    }

    /// The connection, for the kernel's other families about devices.
    pub(super) fn connection(&self) -> &GenericConnection {
        &self.connection
    }

    /// Sends a request about an interface and returns the attributes of the answer.
    pub(super) async fn about(
        &self,
        action: &str,
        interface: &str,
        command: u8,
        mut more: Vec<DefaultNla>,
    ) -> Result<Vec<DefaultNla>, KernelError> {
        check_interface_name(interface)?;
        let header = [
            text(number::HEADER_DEV_NAME, interface),
            DefaultNla::new(number::HEADER_FLAGS, omit_reply(command).to_ne_bytes().to_vec()),
        ];
        let mut attributes = vec![nest(number::HEADER, &header)];
        attributes.append(&mut more);
        let family = *self
            .family
            .get_or_try_init(|| self.connection.family_number(FAMILY_NAME))
            .await?;
        let request = GenericMessage {
            family,
            command,
            version: number::VERSION,
            attributes,
        };
        let answers = self.connection.request(action, request).await?;
        Ok(answers.into_iter().flat_map(|answer| answer.attributes).collect())
    }

    /// The device features of an interface.
    pub(super) async fn features(&self, interface: &str) -> Result<Features, KernelError> {
        let action = format!("reading the device features of interface {interface}");
        let answer = self
            .about(&action, interface, number::FEATURES_GET, Vec::new())
            .await?;
        let mut features = Features::default();
        for attribute in &answer {
            match kind_of(attribute) {
                // Comes with a mask: a listed bit is changeable if it has a value.
                number::FEATURES_HW => features.changeable = bit_names(&value_of(attribute), true),
                // Comes without one: a listed bit is on.
                number::FEATURES_ACTIVE => features.active = bit_names(&value_of(attribute), false),
                _ => {}
            }
        }
        Ok(features)
    }

    /// Asks for features to be turned on or off; the driver may decide otherwise.
    async fn ask_features(&self, interface: &str, names: &[String], on: bool) -> Result<(), KernelError> {
        let bits: Vec<DefaultNla> = names
            .iter()
            .map(|name| {
                let mut bit = vec![text(number::BIT_NAME, name)];
                if on {
                    bit.push(DefaultNla::new(number::BIT_VALUE, Vec::new()));
                }
                nest(number::BITSET_BIT, &bit)
            })
            .collect();
        let wanted = nest(number::FEATURES_WANTED, &[nest(number::BITSET_BITS, &bits)]);
        let action = format!("changing the device features of interface {interface}");
        self.about(&action, interface, number::FEATURES_SET, vec![wanted])
            .await
            .map(|_| ())
    }

    /// Turns features on or off, and sees that they are.
    pub(super) async fn set_features(
        &self,
        interface: &str,
        names: &[String],
        on: bool,
    ) -> Result<(), KernelError> {
        if names.is_empty() {
            return Ok(());
        }
        self.ask_features(interface, names, on).await?;
        let now = self.features(interface).await?;
        let stuck: Vec<String> = names
            .iter()
            .filter(|name| now.active.contains(name) != on)
            .cloned()
            .collect();
        if stuck.is_empty() {
            return Ok(());
        }
        Err(KernelError::FeaturesStuck {
            interface: interface.to_owned(),
            features: stuck,
            on,
        })
    }
}

/// Header flags of a request: a change is answered by its acknowledgement alone.
fn omit_reply(command: u8) -> u32 {
    if command == number::FEATURES_SET {
        number::FLAG_OMIT_REPLY
    } else {
        0
    }
}

/// The names of the bits in a bitset that are listed, or (`with_value`) that are listed with a value.
fn bit_names(bitset: &[u8], with_value: bool) -> Vec<String> {
    let bits = nested(bitset)
        .find(|nla| kind_of(nla) == number::BITSET_BITS)
        .map(|nla| value_of(&nla));
    let mut names = Vec::new();
    for bit in nested(&bits.unwrap_or_default()) {
        let attributes: Vec<DefaultNla> = nested(&value_of(&bit)).collect();
        let has_value = attributes.iter().any(|nla| kind_of(nla) == number::BIT_VALUE);
        let name = attributes.iter().find(|nla| kind_of(nla) == number::BIT_NAME);
        if let Some(name) = name.filter(|_| has_value || !with_value) {
            names.push(read_text(&value_of(name)));
        }
    }
    names
}

/// Whether a feature leaves work on a transmitted frame to a device that a veth is not: checksums,
/// segmentation, VLAN tags beside the frame, frames in pieces.
fn is_transmit_offload(feature: &str) -> bool {
    feature.starts_with("tx-")
        && ["checksum", "segmentation", "scatter-gather", "tx-gso", "tx-vlan"]
            .iter()
            .any(|part| feature.contains(part))
}

impl Kernel {
    /// Turns a device feature (by its `ethtool -k` name) on or off, and returns what it was, to be put back.
    ///
    /// # Errors
    /// [`KernelError::NoFeature`], [`KernelError::FeaturesStuck`], or a refused request.
    pub async fn set_feature(&self, interface: &str, feature: &str, on: bool) -> Result<bool, KernelError> {
        let features = self.ethtool.features(interface).await?;
        let was_on = features.active.iter().any(|name| name == feature);
        if was_on == on {
            return Ok(was_on);
        }
        if !features.changeable.iter().any(|name| name == feature) {
            return Err(KernelError::NoFeature {
                interface: interface.to_owned(),
                feature: feature.to_owned(),
            });
        }
        self.ethtool
            .set_features(interface, &[feature.to_owned()], on)
            .await?;
        Ok(was_on)
    }

    /// Turns the merging of received packets (GRO) on or off, and returns what it was, to be put back.
    ///
    /// # Errors
    /// As [`Self::set_feature`].
    pub async fn set_gro(&self, interface: &str, on: bool) -> Result<bool, KernelError> {
        self.set_feature(interface, GENERIC_RECEIVE_OFFLOAD, on).await
    }

    /// By which features the device merges what it received: those that are on and could be turned on again.
    ///
    /// # Errors
    /// A refused request.
    pub async fn merging_by_device(&self, interface: &str) -> Result<Vec<String>, KernelError> {
        let features = self.ethtool.features(interface).await?;
        let names = MERGING_BY_DEVICE.map(str::to_owned).into_iter();
        let on = names.filter(|name| features.active.contains(name) && features.changeable.contains(name));
        Ok(on.collect())
    }

    /// Whether the device takes VLAN tags off what it receives.
    ///
    /// # Errors
    /// A refused request.
    pub async fn takes_tags_off(&self, interface: &str) -> Result<bool, KernelError> {
        let features = self.ethtool.features(interface).await?;
        Ok(features.active.iter().any(|name| name == TAKES_TAGS_OFF))
    }

    /// Has the device take VLAN tags off what it receives, or leave them where they are.
    ///
    /// # Errors
    /// As [`Self::set_feature`].
    pub async fn take_tags_off(&self, interface: &str, on: bool) -> Result<(), KernelError> {
        self.set_feature(interface, TAKES_TAGS_OFF, on).await.map(|_| ())
    }

    /// Turns features on that [`merging_by_device`](Self::merging_by_device) found on.
    ///
    /// # Errors
    /// [`KernelError::FeaturesStuck`] if one stays off, or a refused request.
    pub async fn enable_features(&self, interface: &str, names: &[String]) -> Result<(), KernelError> {
        self.ethtool.set_features(interface, names, true).await
    }

    /// Turns off everything that leaves work on a transmitted frame to a device: checksums, segmentation
    /// (TSO, GSO, USO), frames in pieces, VLAN tags beside the frame. What then leaves this end of a veth is
    /// as on a wire.
    ///
    /// Returns the features that were on.
    ///
    /// # Errors
    /// [`KernelError::FeaturesStuck`] if one stays on, or a refused request.
    pub async fn disable_transmit_offloads(&self, interface: &str) -> Result<Vec<String>, KernelError> {
        let features = self.ethtool.features(interface).await?;
        let on: Vec<String> = features
            .changeable
            .into_iter()
            .filter(|name| is_transmit_offload(name) && features.active.contains(name))
            .collect();
        self.ethtool.set_features(interface, &on, false).await?;
        Ok(on)
    }
}
