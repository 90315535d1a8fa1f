//! Values of the node file that are checked when they are made.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::text::by_text;

/// Longest name of a network interface, in bytes: the kernel's `IFNAMSIZ` less the terminator.
pub const INTERFACE_NAME_MAX_BYTES: usize = 15;
/// What the switch's side of the host port has after the name of the kernel's side.
pub const HOST_PORT_PEER_SUFFIX: &str = "p";
/// Largest number of a core: the kernel's `CPU_SETSIZE` less one.
pub const CORE_MAX: usize = 1023;
/// Fewest frames of a worker.
pub const FRAMES_MIN: usize = 1024;
/// Most frames of a worker.
pub const FRAMES_MAX: usize = 262_144;

/// Fewest entries of a socket's ring.
pub(super) const SOCKET_RING_MIN: usize = 64;
/// Most entries of a socket's ring.
pub(super) const SOCKET_RING_MAX: usize = 16_384;
/// Largest number of a queue.
pub(super) const QUEUE_MAX: usize = 1023;

/// A value that makes no sense, with what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

impl ValueError {
    /// With these words.
    pub(super) fn because(words: String) -> Self {
        Self(words)
    }
}

/// Name of a network interface as the kernel accepts it: 1 to 15 bytes, no `/`, `:` or white space, neither
/// `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Takes a name that the kernel would accept.
    ///
    /// # Errors
    /// [`ValueError`] with the rule that `name` breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, ValueError> {
        let name = name.into();
        check_interface(&name, INTERFACE_NAME_MAX_BYTES)?;
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The rule of the kernel's `dev_valid_name`, with a bound on the length.
fn check_interface(name: &str, max_bytes: usize) -> Result<(), ValueError> {
    let wrong =
        |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace() || byte.is_ascii_control();
    if name.is_empty() || name == "." || name == ".." || name.bytes().any(wrong) {
        return Err(ValueError(format!(
            "`{}` is no interface name, use 1 to {max_bytes} characters without space, `/` and `:`",
            name.escape_debug()
        )));
    }
    if name.len() > max_bytes {
        return Err(ValueError(format!(
            "`{name}` has {} characters, at most {max_bytes} are allowed",
            name.len()
        )));
    }
    Ok(())
}

/// Name of the kernel's side of the host port: an interface name that leaves room for
/// [`HOST_PORT_PEER_SUFFIX`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPortName(String);

impl HostPortName {
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = INTERFACE_NAME_MAX_BYTES - HOST_PORT_PEER_SUFFIX.len();

    /// Takes a name whose other side also has one that the kernel would accept.
    ///
    /// # Errors
    /// [`ValueError`] with the rule that `name` breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, ValueError> {
        let name = name.into();
        check_interface(&name, Self::MAX_BYTES)?;
        Ok(Self(name))
    }

    /// Name of the kernel's side.
    #[must_use]
    pub fn kernel_side(&self) -> InterfaceName {
        InterfaceName(self.0.clone())
    }

    /// Name of the switch's side.
    #[must_use]
    pub fn switch_side(&self) -> InterfaceName {
        InterfaceName(format!("{}{HOST_PORT_PEER_SUFFIX}", self.0))
    }
}

/// `by_text` for one that is made by its `new`.
macro_rules! text_value {
    ($name:ty) => {
        by_text!($name, 0);

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                Self::new(text)
            }
        }
    };
}

text_value!(InterfaceName);
text_value!(HostPortName);

/// A whole number within `MIN..=MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "usize")]
pub struct Ranged<const MIN: usize, const MAX: usize>(usize);

impl<const MIN: usize, const MAX: usize> Ranged<MIN, MAX> {
    /// Takes a number within the range.
    ///
    /// # Errors
    /// [`ValueError`] with the range.
    pub fn new(number: usize) -> Result<Self, ValueError> {
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Self::out_of_range(number))
        }
    }

    /// A number that is known when the program is compiled, and checked then.
    #[must_use]
    pub const fn of<const NUMBER: usize>() -> Self {
        const { assert!(MIN <= NUMBER && NUMBER <= MAX) };
        Self(NUMBER)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }

    fn out_of_range(number: impl fmt::Display) -> ValueError {
        ValueError(format!(
            "{number} is out of range, it must be within {MIN}..={MAX}"
        ))
    }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Ranged<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(RangedVisitor)
    }
}

/// Reads a [`Ranged`], so that errors name the range.
struct RangedVisitor<const MIN: usize, const MAX: usize>;

impl<const MIN: usize, const MAX: usize> Visitor<'_> for RangedVisitor<MIN, MAX> {
    type Value = Ranged<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number within {MIN}..={MAX}")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        let in_range = usize::try_from(number).map_err(|_| Ranged::<MIN, MAX>::out_of_range(number));
        in_range.and_then(Ranged::new).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        let in_range = usize::try_from(number).map_err(|_| Ranged::<MIN, MAX>::out_of_range(number));
        in_range.and_then(Ranged::new).map_err(E::custom)
    }
}

impl<const MIN: usize, const MAX: usize> From<Ranged<MIN, MAX>> for usize {
    fn from(number: Ranged<MIN, MAX>) -> Self {
        number.0
    }
}

/// A power of two within `MIN..=MAX`: the rings of a socket, and what refers to them, have such sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ranged<MIN, MAX>", into = "usize")]
pub struct PowerOfTwo<const MIN: usize, const MAX: usize>(Ranged<MIN, MAX>);

/// Frames of a worker.
pub type FrameCount = PowerOfTwo<FRAMES_MIN, FRAMES_MAX>;
/// Entries of a socket's ring.
pub type RingLength = PowerOfTwo<SOCKET_RING_MIN, SOCKET_RING_MAX>;

impl<const MIN: usize, const MAX: usize> PowerOfTwo<MIN, MAX> {
    /// Takes a power of two within the range.
    ///
    /// # Errors
    /// [`ValueError`] with the range, or with the nearest powers of two.
    pub fn new(number: usize) -> Result<Self, ValueError> {
        let number = Ranged::new(number)?;
        if !number.get().is_power_of_two() {
            let above = number.get().next_power_of_two();
            return Err(ValueError(format!(
                "{} is no power of two, the nearest are {} and {above}",
                number.get(),
                above / 2
            )));
        }
        Ok(Self(number))
    }

    /// A number that is known when the program is compiled, and checked then.
    #[must_use]
    pub const fn of<const NUMBER: usize>() -> Self {
        const { assert!(NUMBER.is_power_of_two()) };
        Self(Ranged::of::<NUMBER>())
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0.get()
    }
}

impl<const MIN: usize, const MAX: usize> TryFrom<Ranged<MIN, MAX>> for PowerOfTwo<MIN, MAX> {
    type Error = ValueError;

    fn try_from(number: Ranged<MIN, MAX>) -> Result<Self, ValueError> {
        Self::new(number.get())
    }
}

impl<const MIN: usize, const MAX: usize> From<PowerOfTwo<MIN, MAX>> for usize {
    fn from(number: PowerOfTwo<MIN, MAX>) -> Self {
        number.get()
    }
}

/// Queues of a device, none twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Ranged<0, QUEUE_MAX>>", into = "Vec<u32>")]
pub struct QueueList(Vec<u32>);

impl QueueList {
    /// The queues, in ascending order.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }
}

impl TryFrom<Vec<Ranged<0, QUEUE_MAX>>> for QueueList {
    type Error = ValueError;

    fn try_from(queues: Vec<Ranged<0, QUEUE_MAX>>) -> Result<Self, ValueError> {
        let mut seen = std::collections::BTreeSet::new();
        for queue in queues.into_iter().map(Ranged::get) {
            // INVARIANT: at most QUEUE_MAX, which fits.
            if !seen.insert(u32::try_from(queue).unwrap_or(u32::MAX)) {
                return Err(ValueError(format!(
                    "queue {queue} is there twice, name each queue once"
                )));
            }
        }
        Ok(Self(seen.into_iter().collect()))
    }
}

impl From<QueueList> for Vec<u32> {
    fn from(queues: QueueList) -> Self {
        queues.0
    }
}

/// Cores with a worker each: at least one, none twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Ranged<0, CORE_MAX>>", into = "Vec<usize>")]
pub struct CoreList(Vec<usize>);

impl CoreList {
    /// Takes the numbers of cores, as in `/sys/devices/system/cpu`.
    ///
    /// # Errors
    /// [`ValueError`] if there is none, one is there twice, or one is larger than [`CORE_MAX`].
    pub fn new(cores: Vec<usize>) -> Result<Self, ValueError> {
        if cores.is_empty() {
            return Err(ValueError(
                "it is empty, name at least one core, as in [0]".to_owned(),
            ));
        }
        let mut seen = std::collections::BTreeSet::new();
        for core in &cores {
            if *core > CORE_MAX {
                return Err(ValueError(format!(
                    "core {core} is out of range, it must be within 0..={CORE_MAX}"
                )));
            }
            if !seen.insert(*core) {
                return Err(ValueError(format!(
                    "core {core} is there twice, name each core once"
                )));
            }
        }
        Ok(Self(cores))
    }

    /// The cores in the order of the node file: worker i runs on the i-th.
    #[must_use]
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

impl TryFrom<Vec<Ranged<0, CORE_MAX>>> for CoreList {
    type Error = ValueError;

    fn try_from(cores: Vec<Ranged<0, CORE_MAX>>) -> Result<Self, ValueError> {
        Self::new(cores.into_iter().map(Ranged::get).collect())
    }
}

impl From<CoreList> for Vec<usize> {
    fn from(cores: CoreList) -> Self {
        cores.0
    }
}

/// One of a few words. Its reading names them all in the error, whatever stands in their place.
pub(super) trait Choice: Copy + 'static {
    /// Every choice with its word.
    const ALL: &'static [(Self, &'static str)];
}

/// Reads a [`Choice`].
///
/// # Errors
/// That of the deserializer, with the words that would be right.
pub(super) fn choice<'de, D: Deserializer<'de>, C: Choice>(deserializer: D) -> Result<C, D::Error> {
    deserializer.deserialize_str(ChoiceVisitor(PhantomData))
}

struct ChoiceVisitor<C>(PhantomData<C>);

impl<C: Choice> Visitor<'_> for ChoiceVisitor<C> {
    type Value = C;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (_, word)) in C::ALL.iter().enumerate() {
            write!(f, "{}\"{word}\"", if index == 0 { "" } else { " or " })?;
        }
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<C, E> {
        let found = C::ALL.iter().find(|(_, word)| *word == text);
        found
            .map(|(choice, _)| *choice)
            .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}
