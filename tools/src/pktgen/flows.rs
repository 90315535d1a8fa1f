//! Which flows a generator sends: every combination of some addresses and ports, up to a number.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use millrace_dataplane::wire::Ports;

/// An inclusive range of IPv4 addresses: `10.0.0.1` or `10.0.0.1-10.0.0.9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: u32,
    last: u32,
}

/// An inclusive range of UDP ports: `9` or `1024-65535`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A range that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no range: {wanted}")]
pub struct InvalidRange {
    /// What was given.
    pub text: String,
    /// What would be right.
    pub wanted: &'static str,
}

/// Reads `FIRST` or `FIRST-LAST`.
fn parse_range<T: FromStr + PartialOrd + Copy>(
    text: &str,
    wanted: &'static str,
) -> Result<(T, T), InvalidRange> {
    let invalid = || InvalidRange {
        text: text.to_owned(),
        wanted,
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: T = first.parse().map_err(|_| invalid())?;
    let last: T = last.parse().map_err(|_| invalid())?;
    if first <= last {
        Ok((first, last))
    } else {
        Err(invalid())
    }
}

impl AddressRange {
    /// The range of this one address.
    #[must_use]
    pub fn one(address: Ipv4Addr) -> Self {
        Self {
            first: address.to_bits(),
            last: address.to_bits(),
        }
    }

    /// The range from `first` on, of `count` addresses, as far as there are so many.
    #[must_use]
    pub fn starting_at(first: Ipv4Addr, count: u32) -> Self {
        let first = first.to_bits();
        Self {
            first,
            last: first.saturating_add(count.saturating_sub(1)),
        }
    }

    /// The first address.
    #[must_use]
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first)
    }

    fn len(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }
}

impl FromStr for AddressRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let (first, last): (Ipv4Addr, Ipv4Addr) = parse_range(
            text,
            "an IPv4 address, or two with a dash between, the lower first",
        )?;
        Ok(Self {
            first: first.to_bits(),
            last: last.to_bits(),
        })
    }
}

impl PortRange {
    /// The range of this one port.
    #[must_use]
    pub fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// The range of these two ports and all between them; none if `last` is below `first`.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    fn len(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }
}

impl FromStr for PortRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let (first, last) = parse_range(text, "a port number, or two with a dash between, the lower first")?;
        Ok(Self { first, last })
    }
}

/// One flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// UDP ports.
    pub ports: Ports,
}

/// What flows are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowSpace {
    /// Source addresses.
    pub sources: AddressRange,
    /// Destination addresses.
    pub destinations: AddressRange,
    /// Source ports.
    pub source_ports: PortRange,
    /// Destination ports.
    pub destination_ports: PortRange,
}

/// The flows a generator sends.
#[derive(Debug, Clone, Copy)]
pub struct Flows {
    space: FlowSpace,
    count: u32,
}

/// There are not so many flows in the ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct TooFewFlows {
    /// Flows asked for.
    pub wanted: u32,
    /// Flows there are.
    pub there: u64,
}

impl fmt::Display for TooFewFlows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, there } = self;
        write!(
            f,
            "{wanted} flows are wanted, but the address and port ranges make {there}: at least one flow, and ranges \
             wide enough for all of them, would be right"
        )
    }
}

impl Flows {
    /// The first `count` combinations: destinations vary fastest, then sources, source ports, destination ports.
    ///
    /// # Errors
    /// [`TooFewFlows`] if there are fewer combinations, or none is wanted.
    pub fn new(space: FlowSpace, count: u32) -> Result<Self, TooFewFlows> {
        let addresses = space.destinations.len() * space.sources.len().min(u64::from(u32::MAX));
        let ports = space.source_ports.len() * space.destination_ports.len();
        let there = addresses.saturating_mul(ports);
        if count == 0 || u64::from(count) > there {
            return Err(TooFewFlows { wanted: count, there });
        }
        Ok(Self { space, count })
    }

    /// How many flows there are; at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Flow `number`, counted from 0; numbers from [`Self::count`] on start over.
    #[inline]
    #[must_use]
    pub fn flow(&self, number: u32) -> Flow {
        let mut rest = u64::from(number % self.count);
        // INVARIANT: a remainder by a range's length added to its first stays within the range, and so in its type.
        #[allow(clippy::cast_possible_truncation)]
        let mut pick = |len: u64| {
            let place = rest % len;
            rest /= len;
            place as u32
        };
        let FlowSpace {
            sources,
            destinations,
            source_ports,
            destination_ports,
        } = self.space;
        let destination = Ipv4Addr::from_bits(destinations.first + pick(destinations.len()));
        let source = Ipv4Addr::from_bits(sources.first + pick(sources.len()));
        #[allow(clippy::cast_possible_truncation)]
        let ports = Ports {
            source: source_ports.first + pick(source_ports.len()) as u16,
            destination: destination_ports.first + pick(destination_ports.len()) as u16,
        };
        Flow {
            source,
            destination,
            ports,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn space(sources: &str, destinations: &str, source_ports: &str, destination_ports: &str) -> FlowSpace {
        FlowSpace {
            sources: sources.parse().unwrap(),
            destinations: destinations.parse().unwrap(),
            source_ports: source_ports.parse().unwrap(),
            destination_ports: destination_ports.parse().unwrap(),
        }
    }

    #[test]
    fn every_combination_comes_once_and_then_they_start_over() {
        let ranges = space("10.0.0.1-10.0.0.2", "10.1.0.255-10.1.1.1", "5-8", "9-10");
        let flows = Flows::new(ranges, 48).unwrap();
        let all: HashSet<Flow> = (0..48).map(|number| flows.flow(number)).collect();
        assert_eq!(all.len(), 48);
        assert_eq!(flows.flow(48), flows.flow(0));
        assert_eq!(
            flows.flow(1).destination,
            Ipv4Addr::new(10, 1, 1, 0),
            "destinations vary fastest"
        );
        assert_eq!(flows.flow(1).source, flows.flow(0).source);
    }

    #[test]
    fn more_flows_than_there_are_and_none_at_all_are_refused() {
        let ranges = space("10.0.0.1", "10.1.0.1", "5-8", "9");
        assert!(Flows::new(ranges, 4).is_ok());
        assert_eq!(
            Flows::new(ranges, 5).unwrap_err(),
            TooFewFlows { wanted: 5, there: 4 }
        );
        assert!(Flows::new(ranges, 0).is_err());
        let everything = space(
            "0.0.0.0-255.255.255.255",
            "0.0.0.0-255.255.255.255",
            "0-65535",
            "0-65535",
        );
        assert!(Flows::new(everything, u32::MAX).is_ok());
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        for text in [
            "",
            "10.0.0.2-10.0.0.1",
            "10.0.0",
            "10.0.0.1-",
            "10.0.0.1-10.0.0.2-10.0.0.3",
            "::1",
        ] {
            assert!(text.parse::<AddressRange>().is_err(), "{text:?}");
        }
        for text in ["", "2-1", "65536", "-", "1-2-3", "a"] {
            assert!(text.parse::<PortRange>().is_err(), "{text:?}");
        }
        assert_eq!(PortRange::new(2, 1), None);
    }
}
