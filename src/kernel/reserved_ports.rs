//! Ports that the kernel gives to nobody by itself, so that source NAT may use them on the node's own address.
//!
//! `ip_local_reserved_ports` keeps them from being chosen as the source of a connection or by a bind to port 0;
//! `ip_local_port_range` says which the kernel chooses from at all
//! ([kernel documentation](https://docs.kernel.org/networking/ip-sysctl.html)). Both are of one network namespace, for
//! both families. A program that asks for such a port by its number still gets it.

use std::fmt;
use std::ops::RangeInclusive;

use super::error::KernelError;
use super::sysctl::Setting;

/// The ports kept free.
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
/// The ports given out.
const GIVEN_OUT: &str = "net/ipv4/ip_local_port_range";
/// Bits in a word of a set.
const WORD_BITS: usize = u64::BITS as usize;
/// Words of a set of all ports.
const WORDS: usize = (1 << 16) / WORD_BITS;

/// A set of ports, read and written as the kernel does: `22,61000-65535`.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64; WORDS]>);

impl PortSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self(Box::new([0; WORDS]))
    }

    /// Reads ports and ranges of ports between commas; `None` if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut set = Self::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            if first > last {
                return None;
            }
            set.insert(first..=last);
        }
        Some(set)
    }

    /// Adds ports.
    pub fn insert(&mut self, ports: RangeInclusive<u16>) {
        for port in ports {
            let (word, bit) = place(port);
            if let Some(word) = self.0.get_mut(word) {
                *word |= bit;
            }
        }
    }

    /// Takes a port out.
    pub fn remove(&mut self, port: u16) {
        let (word, bit) = place(port);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Whether a port is in it.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The longest runs of ports in it.
    #[must_use]
    pub fn runs(&self) -> Vec<RangeInclusive<u16>> {
        let mut runs: Vec<RangeInclusive<u16>> = Vec::new();
        for port in (0..=u16::MAX).filter(|port| self.contains(*port)) {
            match runs.last_mut() {
                Some(run) if run.end().checked_add(1) == Some(port) => *run = *run.start()..=port,
                _ => runs.push(port..=port),
            }
        }
        runs
    }
}

fn place(port: u16) -> (usize, u64) {
    let port = usize::from(port);
    (port / WORD_BITS, 1 << (port % WORD_BITS))
}

impl Default for PortSet {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.runs().iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match (run.start(), run.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

/// Sees that the kernel gives none of `ports` to anybody by itself, beside those it keeps back already. Answers those
/// of them that it did not keep back before: what [`release_ports`] is to be given one day. Acts in the calling
/// thread's network namespace.
///
/// # Errors
/// [`KernelError::PortsGivenOut`] if some of them are among those that the kernel gives out; [`KernelError::Sysctl`].
/// Nothing has changed then.
pub fn reserve_ports(ports: RangeInclusive<u16>) -> Result<PortSet, KernelError> {
    check_ports(&ports)?;
    let (setting, mut reserved) = reserved()?;
    let mut added = PortSet::new();
    for port in ports.clone().filter(|port| !reserved.contains(*port)) {
        added.insert(port..=port);
    }
    if added != PortSet::new() {
        reserved.insert(ports);
        let _ = setting.write(&reserved.to_string())?;
    }
    Ok(added)
}

/// Lets the kernel give out ports again. Those that somebody else has had kept back meanwhile cannot be told from ours.
/// Says whether any was kept back.
///
/// # Errors
/// [`KernelError::Sysctl`].
pub fn release_ports(ports: &PortSet) -> Result<bool, KernelError> {
    let (setting, mut reserved) = reserved()?;
    let before = reserved.clone();
    for run in ports.runs() {
        run.for_each(|port| reserved.remove(port));
    }
    if reserved == before {
        return Ok(false);
    }
    // The kernel takes an empty line for the empty set, and ignores a write of nothing.
    let _ = setting.write(&format!("{reserved}\n"))?;
    Ok(true)
}

/// Checks that the kernel does not give out any of `ports` to whoever asks for no port in particular.
///
/// # Errors
/// [`KernelError::PortsGivenOut`] with both ranges; [`KernelError::Sysctl`].
pub fn check_ports(ports: &RangeInclusive<u16>) -> Result<(), KernelError> {
    let setting = Setting::new(GIVEN_OUT)?;
    let text = setting.read()?.unwrap_or_default();
    let mut ends = text.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return Err(unreadable(GIVEN_OUT, &text));
    };
    if first > *ports.end() || last < *ports.start() {
        return Ok(());
    }
    Err(KernelError::PortsGivenOut {
        wanted: ports.clone(),
        given_out: first..=last,
    })
}

fn reserved() -> Result<(Setting, PortSet), KernelError> {
    let setting = Setting::new(RESERVED)?;
    let text = setting.read()?.unwrap_or_default();
    let set = PortSet::parse(&text).ok_or_else(|| unreadable(RESERVED, &text))?;
    Ok((setting, set))
}

fn unreadable(setting: &str, text: &str) -> KernelError {
    KernelError::Protocol {
        action: format!("reading kernel setting {setting}"),
        detail: format!("{text:?} is not what it should hold"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn sets_read_and_write_as_the_kernel_does() {
        for (text, written) in [
            ("", ""),
            ("0", "0"),
            ("65535", "65535"),
            ("0-65535", "0-65535"),
            ("8080,61000-65535", "8080,61000-65535"),
            ("3,1,2, 9-10,10-12\n", "1-3,9-12"),
            ("63-64,127-128", "63-64,127-128"),
        ] {
            assert_eq!(PortSet::parse(text).unwrap().to_string(), written, "{text:?}");
        }
        for bad in ["x", "1-", "-1", "2-1", "65536", "1-2-3", "1;2"] {
            assert_eq!(PortSet::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ports_come_and_go_one_by_one() {
        let mut set = PortSet::parse("10-20").unwrap();
        set.remove(15);
        set.remove(9);
        assert_eq!(set.to_string(), "10-14,16-20");
        set.insert(15..=15);
        set.insert(RangeInclusive::new(5, 4));
        assert_eq!(set.to_string(), "10-20");
        assert!(set.contains(10) && set.contains(20) && !set.contains(9) && !set.contains(21));
    }
}
