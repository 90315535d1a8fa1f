//! Who listens to which group, as hosts tell routers on their link: IGMP for IPv4 (RFC 1112, RFC 2236, RFC 3376), MLD for IPv6
//! (RFC 2710, RFC 3810). What a switch needs that overhears it (RFC 4541): sources that a listener chooses are not told.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Icmp, IcmpFamily, IpProtocol, Ipv4, Ipv6, Malformed, checksum};

/// TTL and hop limit of every message: none has been forwarded.
const HOPS: u8 = 1;

/// IGMP's types.
const IGMP_QUERY: u8 = 0x11;
const IGMP_V1_REPORT: u8 = 0x12;
const IGMP_V2_REPORT: u8 = 0x16;
const IGMP_LEAVE: u8 = 0x17;
const IGMP_V3_REPORT: u8 = 0x22;
/// MLD's, which are ICMPv6's.
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD_V2_REPORT: u8 = 143;

/// A report's record: how the filter on sources is, or changes (RFC 3376 section 4.2.12, RFC 3810 section 5.2.12).
const IS_INCLUDE: u8 = 1;
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;
const ALLOW_SOURCES: u8 = 5;

/// Bytes before the group of a record, and before the first record of a message.
const RECORD_HEAD: usize = 4;
const MESSAGE_HEAD: usize = 8;

/// What a message says.
#[derive(Debug, Clone, Copy)]
pub enum Membership<'a> {
    /// A router asks who listens.
    Query,
    /// A host says what it listens to.
    Report(Records<'a>),
}

/// What a host says of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// The group.
    pub group: IpAddr,
    /// Whether it listens, to any source or to some; else it no longer does.
    pub listens: bool,
}

/// What a host says of groups, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    said: Said<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Said<'a> {
    /// Of one group, or of none any more.
    One(Option<Listening>),
    /// Of as many as there are whole records.
    Many {
        left: u16,
        rest: &'a [u8],
        is_ipv4: bool,
    },
}

impl<'a> Membership<'a> {
    /// Reads an IPv4 packet; `None` if it is no such message.
    ///
    /// # Errors
    /// [`Malformed::IcmpMembership`] if it is cut short, has been forwarded, or its checksum is wrong.
    pub fn parse_v4(ip: &Ipv4<'a>) -> Result<Option<Self>, Malformed> {
        if ip.protocol() != IpProtocol::IGMP || ip.is_fragment() {
            return Ok(None);
        }
        let message = ip.payload();
        if ip.ttl() != HOPS || checksum::checksum(message) != 0 {
            return Err(Malformed::IcmpMembership);
        }
        let head = message.first_chunk::<MESSAGE_HEAD>();
        let head = head.ok_or(Malformed::IcmpMembership)?;
        let group = IpAddr::V4(Ipv4Addr::new(head[4], head[5], head[6], head[7]));
        Ok(match head[0] {
            IGMP_QUERY => Some(Self::Query),
            IGMP_V1_REPORT | IGMP_V2_REPORT => Some(Self::one(group, true)),
            IGMP_LEAVE => Some(Self::one(group, false)),
            IGMP_V3_REPORT => Some(Self::many(*head, message, true)?),
            _ => None,
        })
    }

    /// Reads an IPv6 packet; `None` if it is no such message.
    ///
    /// # Errors
    /// As [`Self::parse_v4`], and those of [`Ipv6::upper`].
    pub fn parse_v6(ip: &Ipv6<'a>) -> Result<Option<Self>, Malformed> {
        let upper = ip.upper()?;
        if upper.protocol != IpProtocol::ICMPV6 || upper.is_fragment() {
            return Ok(None);
        }
        let message = upper.payload;
        let kind = message.first().copied().unwrap_or_default();
        if !matches!(kind, MLD_QUERY | MLD_REPORT | MLD_DONE | MLD_V2_REPORT) {
            return Ok(None);
        }
        if ip.hop_limit() != HOPS {
            return Err(Malformed::IcmpMembership);
        }
        Icmp::parse(IcmpFamily::V6, message)?.verify_checksum(ip.address_sum())?;
        let head = message.first_chunk::<MESSAGE_HEAD>();
        let head = head.ok_or(Malformed::IcmpMembership)?;
        if kind == MLD_V2_REPORT {
            return Self::many(*head, message, false).map(Some);
        }
        let group = message
            .get(MESSAGE_HEAD..)
            .and_then(|rest| rest.first_chunk::<16>());
        let group = IpAddr::V6(Ipv6Addr::from(*group.ok_or(Malformed::IcmpMembership)?));
        Ok(Some(match kind {
            MLD_QUERY => Self::Query,
            _ => Self::one(group, kind == MLD_REPORT),
        }))
    }

    fn one(group: IpAddr, listens: bool) -> Self {
        let listening = Listening { group, listens };
        let said = Said::One(group.is_multicast().then_some(listening));
        Self::Report(Records { said })
    }

    /// A report of several records, all of which have to be whole.
    fn many(head: [u8; MESSAGE_HEAD], message: &'a [u8], is_ipv4: bool) -> Result<Self, Malformed> {
        let left = u16::from_be_bytes([head[6], head[7]]);
        let mut rest = message.get(MESSAGE_HEAD..).unwrap_or_default();
        let records = Records {
            said: Said::Many { left, rest, is_ipv4 },
        };
        for _ in 0..left {
            (_, rest) = record(rest, is_ipv4).ok_or(Malformed::IcmpMembership)?;
        }
        Ok(Self::Report(records))
    }
}

/// A record, unless it says nothing about who listens, and what comes after it.
fn record(bytes: &[u8], is_ipv4: bool) -> Option<(Option<Listening>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_HEAD>()?;
    let sources = u16::from_be_bytes([head[2], head[3]]);
    let (group, rest) = if is_ipv4 {
        let (group, rest) = rest.split_first_chunk::<4>()?;
        (IpAddr::V4(Ipv4Addr::from(*group)), rest)
    } else {
        let (group, rest) = rest.split_first_chunk::<16>()?;
        (IpAddr::V6(Ipv6Addr::from(*group)), rest)
    };
    let source_len = if is_ipv4 { 4 } else { 16 };
    let after = usize::from(sources) * source_len + usize::from(head[1]) * 4;
    let rest = rest.get(after..)?;
    let listens = match head[0] {
        IS_EXCLUDE | TO_EXCLUDE => Some(true),
        IS_INCLUDE | TO_INCLUDE => Some(sources > 0),
        ALLOW_SOURCES if sources > 0 => Some(true),
        // Fewer sources are still some, as far as can be told.
        _ => None,
    };
    let listening = listens.filter(|_| group.is_multicast());
    Some((listening.map(|listens| Listening { group, listens }), rest))
}

impl Iterator for Records<'_> {
    type Item = Listening;

    fn next(&mut self) -> Option<Listening> {
        match &mut self.said {
            Said::One(said) => said.take(),
            Said::Many { left, rest, is_ipv4 } => {
                while *left > 0 {
                    *left -= 1;
                    let (listening, after) = record(rest, *is_ipv4)?;
                    *rest = after;
                    if listening.is_some() {
                        return listening;
                    }
                }
                None
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::icmp;

    fn igmp(body: &[u8], ttl: u8) -> Vec<u8> {
        let mut message = body.to_vec();
        let sum = checksum::checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut header = etherparse::Ipv4Header::new(
            message.len().try_into().unwrap(),
            ttl,
            2.into(),
            [10, 0, 0, 1],
            [224, 0, 0, 22],
        )
        .unwrap();
        header.header_checksum = header.calc_header_checksum();
        [header.to_bytes().to_vec(), message].concat()
    }

    /// Behind a hop-by-hop header with the router alert that every one has.
    fn mld(body: &[u8], hop_limit: u8) -> Vec<u8> {
        let (source, destination) = (
            "fe80::1".parse::<Ipv6Addr>().unwrap(),
            "ff02::16".parse().unwrap(),
        );
        let mut message = body.to_vec();
        icmp::fill_checksum(
            IcmpFamily::V6,
            checksum::addresses_v6(source, destination),
            &mut message,
        );
        let alert = [58, 0, 5, 2, 0, 0, 1, 0];
        let header = etherparse::Ipv6Header {
            payload_length: (alert.len() + message.len()).try_into().unwrap(),
            next_header: 0.into(),
            hop_limit,
            source: source.octets(),
            destination: destination.octets(),
            ..Default::default()
        };
        [&header.to_bytes()[..], &alert, &message].concat()
    }

    fn said(packet: &[u8]) -> Result<Option<Vec<(IpAddr, bool)>>, Malformed> {
        let membership = if packet[0] >> 4 == 4 {
            Membership::parse_v4(&Ipv4::parse(packet).unwrap())
        } else {
            Membership::parse_v6(&Ipv6::parse(packet).unwrap())
        };
        let records = |records: Records<'_>| records.map(|r| (r.group, r.listens)).collect();
        Ok(membership?.map(|membership| match membership {
            Membership::Query => vec![],
            Membership::Report(said) => records(said),
        }))
    }

    fn v4_record(kind: u8, sources: u8, group: u8) -> Vec<u8> {
        let listed = vec![9; usize::from(sources) * 4];
        [&[kind, 0, 0, sources, 239, 1, 1, group][..], &listed].concat()
    }

    #[test]
    fn what_hosts_and_routers_say_is_told() {
        let group: IpAddr = "239.1.1.7".parse().unwrap();
        let one = |kind| igmp(&[kind, 0, 0, 0, 239, 1, 1, 7], 1);
        assert_eq!(said(&one(0x11)), Ok(Some(vec![])));
        assert_eq!(said(&one(0x12)), Ok(Some(vec![(group, true)])));
        assert_eq!(said(&one(0x16)), Ok(Some(vec![(group, true)])));
        assert_eq!(said(&one(0x17)), Ok(Some(vec![(group, false)])));
        assert_eq!(said(&one(0x30)), Ok(None), "another type");
        let v6: IpAddr = "ff15::7".parse().unwrap();
        let Ipv6Octets(octets) = Ipv6Octets::of(v6);
        let one = |kind| mld(&[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &octets].concat(), 1);
        assert_eq!(said(&one(130)), Ok(Some(vec![])));
        assert_eq!(said(&one(131)), Ok(Some(vec![(v6, true)])));
        assert_eq!(said(&one(132)), Ok(Some(vec![(v6, false)])));
        assert_eq!(said(&one(135)), Ok(None), "neighbour discovery");
    }

    struct Ipv6Octets([u8; 16]);
    impl Ipv6Octets {
        fn of(address: IpAddr) -> Self {
            match address {
                IpAddr::V6(v6) => Self(v6.octets()),
                IpAddr::V4(_) => Self([0; 16]),
            }
        }
    }

    #[test]
    fn of_several_records_each_counts_by_what_it_leaves() {
        let records = [
            v4_record(IS_INCLUDE, 0, 1),
            v4_record(IS_INCLUDE, 2, 2),
            v4_record(IS_EXCLUDE, 0, 3),
            v4_record(TO_INCLUDE, 0, 4),
            v4_record(TO_EXCLUDE, 1, 5),
            v4_record(ALLOW_SOURCES, 1, 6),
            v4_record(6, 3, 7),
            // Of no group.
            vec![IS_EXCLUDE, 0, 0, 0, 10, 0, 0, 1],
            v4_record(IS_EXCLUDE, 0, 9),
        ];
        let head = [0x22, 0, 0, 0, 0, 0, 0, 9];
        let report = igmp(&[&head[..], &records.concat()].concat(), 1);
        let expected = [
            (1, false),
            (2, true),
            (3, true),
            (4, false),
            (5, true),
            (6, true),
            (9, true),
        ];
        let expected = expected.map(|(last, listens)| (IpAddr::from([239, 1, 1, last]), listens));
        assert_eq!(said(&report), Ok(Some(expected.to_vec())));

        let group = Ipv6Octets::of("ff15::7".parse().unwrap()).0;
        let record = [&[TO_EXCLUDE, 1, 0, 1][..], &group, &[1; 16], &[0; 4]].concat();
        let head = [143, 0, 0, 0, 0, 0, 0, 2];
        let report = mld(&[&head[..], &record, &record].concat(), 1);
        assert_eq!(said(&report), Ok(Some(vec![(IpAddr::from(group), true); 2])));
    }

    #[test]
    fn what_is_not_whole_or_came_from_afar_says_nothing() {
        let head = [0x22, 0, 0, 0, 0, 0, 0, 1];
        let whole = [&head[..], &v4_record(IS_EXCLUDE, 1, 1)].concat();
        for len in 0..whole.len() {
            assert_eq!(
                said(&igmp(&whole[..len.max(4)], 1)),
                Err(Malformed::IcmpMembership),
                "{len}"
            );
        }
        assert_eq!(said(&igmp(&whole, 2)), Err(Malformed::IcmpMembership));
        let mut wrong = igmp(&whole, 1);
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(said(&wrong), Err(Malformed::IcmpMembership));
        let group = [0xff, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let done = [&[132, 0, 0, 0, 0, 0, 0, 0][..], &group].concat();
        assert_eq!(said(&mld(&done, 64)), Err(Malformed::IcmpMembership));
        for len in 8..done.len() {
            assert_eq!(
                said(&mld(&done[..len], 1)),
                Err(Malformed::IcmpMembership),
                "{len}"
            );
        }
        let mut wrong = mld(&done, 1);
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(said(&wrong), Err(Malformed::IcmpChecksum));
    }
}
