//! The one error of every parser: which lie the bytes told.

/// Declares [`Malformed`] from one list, so that the variant, its counter's name and its message cannot
/// drift apart.
macro_rules! malformed {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $message:literal;)+) => {
        /// Why bytes are not the header they claim to be: one variant per distinct lie.
        ///
        /// A parser that answers with this has looked at the bytes only; nothing has been changed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Malformed {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Malformed {
            /// Every variant, in the order of [`Malformed::index`].
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// The variant's name as a counter shows it, in `snake_case`; unique.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What is wrong, as a phrase without a full stop.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self {
                    $(Self::$variant => $message,)+
                }
            }
        }
    };
}

malformed! {
    /// Fewer bytes than an Ethernet header.
    EthernetTruncated = "ethernet_truncated", "frame is shorter than an Ethernet header";
    /// The EtherType announces a VLAN tag and the bytes end inside it.
    VlanTruncated = "vlan_truncated", "frame ends inside a VLAN tag";
    /// More VLAN tags in a row than the caller accepts.
    VlanTooDeep = "vlan_too_deep", "more nested VLAN tags than accepted";
    /// Fewer bytes than an ARP packet for IPv4 over Ethernet.
    ArpTruncated = "arp_truncated", "ARP packet is truncated";
    /// An ARP packet for something other than IPv4 over Ethernet, by type or by address length.
    ArpUnsupported = "arp_unsupported", "ARP packet is not for IPv4 over Ethernet";
    /// Fewer bytes than an IPv4 header without options.
    Ipv4Truncated = "ipv4_truncated", "packet is shorter than an IPv4 header";
    /// The version field of an IPv4 header is not 4.
    Ipv4Version = "ipv4_version", "IPv4 header has another version";
    /// The IHL field says less than the fixed header, or more than the packet is long.
    Ipv4HeaderLength = "ipv4_header_length", "IPv4 header length is below the minimum or beyond the packet";
    /// The total length says less than the header, or more than the bytes that are there.
    Ipv4TotalLength = "ipv4_total_length", "IPv4 total length is below the header or beyond the packet";
    /// The IPv4 header checksum is wrong.
    Ipv4Checksum = "ipv4_checksum", "IPv4 header checksum is wrong";
    /// The payload of an IP-in-IP packet is longer than the one IPv4 packet that it must be.
    IpipInnerLength = "ipip_inner_length", "IP-in-IP payload is longer than the IPv4 packet in it";
    /// Fewer bytes than an IPv6 fixed header.
    Ipv6Truncated = "ipv6_truncated", "packet is shorter than an IPv6 header";
    /// The version field of an IPv6 header is not 6.
    Ipv6Version = "ipv6_version", "IPv6 header has another version";
    /// The payload length says more than the bytes that are there, or is the zero of a jumbogram (RFC
    /// 2675), which no link here can carry.
    Ipv6PayloadLength = "ipv6_payload_length", "IPv6 payload length is beyond the packet or a jumbogram's";
    /// The packet ends inside an extension header that the chain announces.
    Ipv6ExtensionTruncated = "ipv6_extension_truncated", "IPv6 packet ends inside its extension headers";
    /// A hop-by-hop header that is not the first, or a second fragment header (RFC 8200 section 4.1).
    Ipv6ExtensionOrder = "ipv6_extension_order", "IPv6 extension header where none of its kind may stand";
    /// More extension headers than [`MAX_EXTENSION_HEADERS`](super::ipv6::MAX_EXTENSION_HEADERS).
    Ipv6ExtensionChain = "ipv6_extension_chain", "IPv6 extension header chain is longer than accepted";
    /// Fewer bytes than the two ports with which TCP, UDP and SCTP begin.
    PortsTruncated = "ports_truncated", "packet ends before its transport ports";
    /// Fewer bytes than a UDP header.
    UdpTruncated = "udp_truncated", "datagram is shorter than a UDP header";
    /// The UDP length says less than the header, or more than the bytes that are there.
    UdpLength = "udp_length", "UDP length is below the header or beyond the received bytes";
    /// Fewer bytes than a TCP header without options.
    TcpTruncated = "tcp_truncated", "segment is shorter than a TCP header";
    /// The TCP data offset says less than the fixed header, or more than the bytes that are there.
    TcpDataOffset = "tcp_data_offset", "TCP data offset is below the minimum or beyond the received bytes";
    /// Fewer bytes than an ICMP header.
    IcmpTruncated = "icmp_truncated", "message is shorter than an ICMP header";
    /// The ICMP or ICMPv6 checksum is wrong.
    IcmpChecksum = "icmp_checksum", "ICMP checksum is wrong";
    /// A neighbour solicitation or advertisement cut short, of another code, or with an option that is not whole.
    IcmpNeighbour = "icmp_neighbour", "neighbour discovery message is truncated or has a bad option";
    /// A message about who listens to which group, IGMP or MLD, that is cut short, was forwarded or has a wrong checksum.
    IcmpMembership = "icmp_membership", "IGMP or MLD message is truncated, from another link or corrupted";
    /// Fewer bytes than a VXLAN header.
    VxlanTruncated = "vxlan_truncated", "datagram is shorter than a VXLAN header";
    /// A VXLAN header without the I flag, so its VNI means nothing (RFC 7348 section 5).
    VxlanFlags = "vxlan_flags", "VXLAN header does not have the I flag";
}

impl Malformed {
    /// The variant's place in [`Malformed::ALL`], to count into an array of that length.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.message())
    }
}

impl core::error::Error for Malformed {}
