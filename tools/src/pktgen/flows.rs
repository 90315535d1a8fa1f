//! Which flows a generator sends: every combination of some addresses and ports, up to a number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use millrace_dataplane::wire::Ports;

/// An inclusive range of addresses of one family: `10.0.0.1`, `10.0.0.1-10.0.0.9` or `2001:db8::1-2001:db8::ff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    /// How many addresses there are; what does not fit stands for as many as fit.
    len: u64,
}

/// An inclusive range of ports: `9` or `1024-65535`.
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
    pub fn one(address: impl Into<IpAddr>) -> Self {
        Self {
            first: address.into(),
            len: 1,
        }
    }

    /// The range from `first` on, of `count` addresses, as far as there are so many.
    #[must_use]
    pub fn starting_at(first: impl Into<IpAddr>, count: u32) -> Self {
        let first = first.into();
        let after = match first {
            IpAddr::V4(first) => u64::from(u32::MAX - first.to_bits()),
            IpAddr::V6(first) => u64::try_from(u128::MAX - first.to_bits()).unwrap_or(u64::MAX),
        };
        Self {
            first,
            len: u64::from(count.max(1)).min(after.saturating_add(1)),
        }
    }

    /// The first address.
    #[must_use]
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// Address `place` of the range, counted from 0.
    #[inline]
    fn at(self, place: u64) -> IpAddr {
        match self.first {
            // INVARIANT: a place within the range, so that the sum is an address of its family.
            #[allow(clippy::cast_possible_truncation)]
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().wrapping_add(place as u32))),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(
                first.to_bits().wrapping_add(u128::from(place)),
            )),
        }
    }
}

impl FromStr for AddressRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let wanted = "an IP address, or two of one family with a dash between, the lower first";
        let (first, last): (IpAddr, IpAddr) = parse_range(text, wanted)?;
        let beyond = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some(u64::from(last.to_bits() - first.to_bits())),
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                Some(u64::try_from(last.to_bits() - first.to_bits()).unwrap_or(u64::MAX))
            }
            _ => None,
        };
        let beyond = beyond.ok_or_else(|| InvalidRange {
            text: text.to_owned(),
            wanted,
        })?;
        Ok(Self {
            first,
            len: beyond.saturating_add(1),
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
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Ports; of an ICMP echo, its identifier and sequence number.
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

impl FlowSpace {
    /// How many combinations there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        let addresses = self.destinations.len.saturating_mul(self.sources.len);
        let ports = self.source_ports.len() * self.destination_ports.len();
        addresses.saturating_mul(ports)
    }

    /// Never: every range has something in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The flows a generator sends.
#[derive(Debug, Clone, Copy)]
pub struct Flows {
    space: FlowSpace,
    count: u32,
}

/// Flows that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFlows {
    /// There are not so many in the ranges.
    #[error(
        "{wanted} flows are wanted, but the address and port ranges make {there}: at least one flow, and ranges wide \
         enough for all of them, would be right"
    )]
    TooFew {
        /// Flows asked for.
        wanted: u32,
        /// Flows there are.
        there: u64,
    },
    /// One end is IPv4 and the other IPv6.
    #[error(
        "sources from {source_address} on and destinations from {destination} on: two ranges of one family would be right"
    )]
    Families {
        /// The first source address.
        source_address: IpAddr,
        /// The first destination address.
        destination: IpAddr,
    },
}

impl Flows {
    /// The first `count` combinations: destinations vary fastest, then sources, source ports, destination ports.
    ///
    /// # Errors
    /// [`InvalidFlows`] if there are fewer combinations, none is wanted, or addresses are of two families.
    pub fn new(space: FlowSpace, count: u32) -> Result<Self, InvalidFlows> {
        let there = space.len();
        if space.sources.first.is_ipv4() != space.destinations.first.is_ipv4() {
            return Err(InvalidFlows::Families {
                source_address: space.sources.first,
                destination: space.destinations.first,
            });
        }
        if count == 0 || u64::from(count) > there {
            return Err(InvalidFlows::TooFew { wanted: count, there });
        }
        Ok(Self { space, count })
    }

    /// Every combination, as far as they can be numbered.
    ///
    /// # Errors
    /// [`InvalidFlows::Families`].
    pub fn all(space: FlowSpace) -> Result<Self, InvalidFlows> {
        Self::new(space, u32::try_from(space.len()).unwrap_or(u32::MAX))
    }

    /// How many flows there are; at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether their addresses are IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.space.sources.first.is_ipv4()
    }

    /// Flow `number`, counted from 0; numbers from [`Self::count`] on start over.
    #[inline]
    #[must_use]
    pub fn flow(&self, number: u32) -> Flow {
        let mut rest = u64::from(number % self.count);
        let mut pick = |len: u64| {
            let place = rest % len;
            rest /= len;
            place
        };
        let FlowSpace {
            sources,
            destinations,
            source_ports,
            destination_ports,
        } = self.space;
        let destination = destinations.at(pick(destinations.len));
        let source = sources.at(pick(sources.len));
        // INVARIANT: a remainder by a range's length added to its first stays within the range, and so in its type.
        #[allow(clippy::cast_possible_truncation)]
        let mut port = |range: PortRange| range.first + pick(range.len()) as u16;
        let ports = Ports {
            source: port(source_ports),
            destination: port(destination_ports),
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
            IpAddr::from([10, 1, 1, 0]),
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
            InvalidFlows::TooFew { wanted: 5, there: 4 }
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
    fn flows_of_ipv6_are_numbered_the_same_way() {
        let flows = Flows::new(
            space("2001:db8::ffff-2001:db8::1:1", "2001:db8:1::1", "7", "9"),
            3,
        )
        .unwrap();
        assert!(!flows.is_ipv4());
        let sources: Vec<_> = (0..3)
            .map(|number| flows.flow(number).source.to_string())
            .collect();
        assert_eq!(sources, ["2001:db8::ffff", "2001:db8::1:0", "2001:db8::1:1"]);
        let everything = space("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::-::ff", "1", "1");
        assert_eq!(Flows::all(everything).unwrap().count(), u32::MAX);
        let two = space("2001:db8::1", "10.0.0.1", "1", "1");
        assert!(matches!(Flows::new(two, 1), Err(InvalidFlows::Families { .. })));
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        for text in [
            "",
            "10.0.0.2-10.0.0.1",
            "10.0.0",
            "10.0.0.1-",
            "10.0.0.1-10.0.0.2-10.0.0.3",
            "::2-::1",
            "10.0.0.1-::1",
        ] {
            assert!(text.parse::<AddressRange>().is_err(), "{text:?}");
        }
        for text in ["", "2-1", "65536", "-", "1-2-3", "a"] {
            assert!(text.parse::<PortRange>().is_err(), "{text:?}");
        }
        assert_eq!(PortRange::new(2, 1), None);
    }
}
