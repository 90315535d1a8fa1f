//! Device features and queue counts, over ethtool's generic-netlink family
//! ([kernel documentation](https://docs.kernel.org/networking/ethtool-netlink.html)).

use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_GENERIC};
use tokio::sync::OnceCell;

use super::error::KernelError;
use super::names::check_interface_name;
use super::request::{Kernel, closed, collect};

/// Numbers of `linux/genetlink.h`: the controller, its one request used here, and that one's attributes.
mod control {
    pub(super) const FAMILY: u16 = 0x10;
    pub(super) const VERSION: u8 = 2;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const ATTR_FAMILY_ID: u16 = 1;
    pub(super) const ATTR_FAMILY_NAME: u16 = 2;
}

/// Numbers of `linux/ethtool_netlink_generated.h`.
mod number {
    pub(super) const VERSION: u8 = 1;
    pub(super) const FEATURES_GET: u8 = 11;
    pub(super) const FEATURES_SET: u8 = 12;
    pub(super) const CHANNELS_GET: u8 = 17;
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
    pub(super) const CHANNELS_RX_COUNT: u16 = 6;
    pub(super) const CHANNELS_TX_COUNT: u16 = 7;
    pub(super) const CHANNELS_COMBINED_COUNT: u16 = 9;
}

/// Bytes of a generic-netlink header (`struct genlmsghdr`).
const GENERIC_HEADER_BYTES: usize = 4;

/// The feature that merges received packets into large ones, by its `ethtool -k` name.
const GENERIC_RECEIVE_OFFLOAD: &str = "rx-gro";

/// The queues of a device that are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

/// A generic-netlink message with its attributes.
#[derive(Debug, Clone)]
pub(super) struct GenericMessage {
    family: u16,
    command: u8,
    version: u8,
    attributes: Vec<DefaultNla>,
}

impl NetlinkSerializable for GenericMessage {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        GENERIC_HEADER_BYTES + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // INVARIANT: the caller hands a buffer of `buffer_len()` bytes (`NetlinkMessage::serialize`).
        if let Some((header, attributes)) = buffer.split_first_chunk_mut::<GENERIC_HEADER_BYTES>() {
            *header = [self.command, self.version, 0, 0];
            self.attributes.as_slice().emit(attributes);
        }
    }
}

impl NetlinkDeserializable for GenericMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        let Some(([command, version, _, _], attributes)) =
            payload.split_first_chunk::<GENERIC_HEADER_BYTES>()
        else {
            return Err(DecodeError::buffer_too_small(payload.len(), GENERIC_HEADER_BYTES));
        };
        Ok(Self {
            family: header.message_type,
            command: *command,
            version: *version,
            attributes: nested(attributes).collect(),
        })
    }
}

/// The attributes in a piece of a message; what cannot be read ends them.
fn nested(bytes: &[u8]) -> impl Iterator<Item = DefaultNla> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|nla| DefaultNla::new(nla.kind(), nla.value().to_vec()))
}

fn value_of(nla: &DefaultNla) -> Vec<u8> {
    use rtnetlink::packet_core::Nla;
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);
    value
}

fn kind_of(nla: &DefaultNla) -> u16 {
    use rtnetlink::packet_core::Nla;
    nla.kind()
}

fn nest(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

fn text(kind: u16, text: &str) -> DefaultNla {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    DefaultNla::new(kind, value)
}

fn read_text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn read_u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// The device features of an interface, by their `ethtool -k` names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// Those that can be changed.
    pub(super) changeable: Vec<String>,
    /// Those that are on.
    pub(super) active: Vec<String>,
}

/// The connection to the generic-netlink families.
#[derive(Debug, Clone)]
pub(super) struct Ethtool {
    connection: ConnectionHandle<GenericMessage>,
    family: OnceCell<u16>,
}

impl Ethtool {
    /// Opens the connection in the calling thread's network namespace; its work is done on `runtime`.
    pub(super) fn open(runtime: &tokio::runtime::Handle) -> Result<Self, KernelError> {
        let fail = |source| KernelError::Socket {
            action: "opening an ethtool netlink socket".into(),
            source,
        };
        let (mut connection, handle, _) =
            rtnetlink::proto::new_connection::<GenericMessage>(NETLINK_GENERIC).map_err(fail)?;
        connection.set_forward_ack(true);
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true).map_err(fail)?;
        socket.set_cap_ack(true).map_err(fail)?;
        runtime.spawn(connection);
        Ok(Self {
            connection: handle,
            family: OnceCell::new(),
        })
    }

    async fn request(
        &self,
        action: &str,
        message: GenericMessage,
    ) -> Result<Vec<GenericMessage>, KernelError> {
        let mut request =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let answers = self
            .connection
            .request(request, SocketAddr::new(0, 0))
            .map_err(|_| closed(action))?;
        Ok(collect(action, answers, true).await?.messages)
    }

    /// The number that this kernel gave to the ethtool family.
    async fn family(&self) -> Result<u16, KernelError> {
        let look_up = || async {
            let action = "looking up the kernel's ethtool netlink family";
            let request = GenericMessage {
                family: control::FAMILY,
                command: control::GET_FAMILY,
                version: control::VERSION,
                attributes: vec![text(control::ATTR_FAMILY_NAME, "ethtool")],
            };
            let answers = self.request(action, request).await?;
            let id = answers
                .iter()
                .flat_map(|answer| &answer.attributes)
                .find(|nla| kind_of(nla) == control::ATTR_FAMILY_ID)
                .and_then(|nla| value_of(nla).try_into().ok().map(u16::from_ne_bytes));
            id.ok_or_else(|| KernelError::Protocol {
                action: action.to_owned(),
                detail: "the kernel's answer holds no number".to_owned(),
            })
        };
        self.family.get_or_try_init(look_up).await.copied()
    }

    /// Sends a request about an interface and returns the attributes of the answer.
    async fn about(
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
        let family = self.family().await?;
        let answers = self
            .request(
                action,
                GenericMessage {
                    family,
                    command,
                    version: number::VERSION,
                    attributes,
                },
            )
            .await?;
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

/// Whether a feature leaves work on a transmitted frame to a device that a veth is not: checksums, segmentation, VLAN
/// tags beside the frame, frames in pieces.
fn is_transmit_offload(feature: &str) -> bool {
    feature.starts_with("tx-")
        && ["checksum", "segmentation", "scatter-gather", "tx-gso", "tx-vlan"]
            .iter()
            .any(|part| feature.contains(part))
}

impl Kernel {
    /// How many queues of an interface are in use. A device that does not tell counts by its queues.
    ///
    /// # Errors
    /// [`KernelError`] if there is no such interface or the request is refused.
    pub async fn channel_count(&self, interface: &str) -> Result<Channels, KernelError> {
        let action = format!("reading the queue counts of interface {interface}");
        let answer = match self
            .ethtool
            .about(&action, interface, number::CHANNELS_GET, Vec::new())
            .await
        {
            Ok(answer) => answer,
            Err(error) if error.is(nix::errno::Errno::EOPNOTSUPP) => {
                let link = self.link_by_name(interface).await?;
                return Ok(Channels {
                    rx: link.rx_queues,
                    tx: link.tx_queues,
                    combined: 0,
                });
            }
            Err(error) => return Err(error),
        };
        let count = |kind| {
            let found = answer.iter().find(|nla| kind_of(nla) == kind);
            found.and_then(|nla| read_u32(&value_of(nla))).unwrap_or(0)
        };
        Ok(Channels {
            rx: count(number::CHANNELS_RX_COUNT),
            tx: count(number::CHANNELS_TX_COUNT),
            combined: count(number::CHANNELS_COMBINED_COUNT),
        })
    }

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

    /// Turns off everything that leaves work on a transmitted frame to a device: checksums, segmentation (TSO, GSO,
    /// USO), frames in pieces, VLAN tags beside the frame. What then leaves this end of a veth is as on a wire.
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
