/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of a packet the uplink's program decides by, read from its bytes. A reader answers false for headers that are
 * truncated or lie; it never reads past the frame's end.
 */
#ifndef MILLRACE_PACKET_BPF_H
#define MILLRACE_PACKET_BPF_H

#include "steering.bpf.h"

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

/* Extension headers stepped over on the way to a port (RFC 8200 section 4.1). A packet with more is not ours. */
#define MAX_EXTENSION_HEADERS 4
/* The same in a quoted packet. Each more multiplies what the verifier has to walk through. */
#define MAX_QUOTED_EXTENSION_HEADERS 1

#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV6_FRAGMENT_OFFSET 0xfff8
#define IPV6_MORE_FRAGMENTS 0x0001

/* An IPv6 address, or an IPv4 address in its mapped form (RFC 4291 section 2.5.5.2); network byte order. */
struct address {
	__u32 words[4];
};

/* Bytes 8 to 11 of a mapped address, 00 00 ff ff, as one word of this machine. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define MAPPED_WORD 0xffff0000
#else
#define MAPPED_WORD 0x0000ffff
#endif

/* What follows the EtherType of a tagged frame (IEEE 802.1Q clause 9.6). */
struct vlan_tag {
	__be16 control; /* priority, and the VLAN in the lower 12 bits */
	__be16 ether_type;
};

#define VLAN_ID 0x0fff

/* What all fragments of one packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5). */
struct fragment_key {
	struct address source;
	struct address destination;
	__u32 identification;
	__u32 protocol; /* the field's own 8 bits, widened so that the key has no padding */
};

/* IPv6's fragment extension header; the kernel exports no definition of it. */
struct fragment_header {
	__u8 next_header;
	__u8 reserved;
	__be16 offset_and_flags;
	__be32 identification;
};

/* The first bytes of TCP, UDP, SCTP and UDP-Lite. */
struct ports {
	__be16 source;
	__be16 destination;
	__u32 rest;
};

/* The first bytes of an ICMP message: of an echo, with its identifier; of an error, before the quoted packet. */
struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id;
	__be16 sequence;
};

/* What of a packet the decision needs. */
struct packet {
	struct fragment_key id;	   /* addresses always; the rest of a fragment only */
	const void *payload;	   /* first byte after the IP headers; may lie outside the frame */
	__u32 payload_len;	   /* as the IP header has it */
	__u8 protocol;		   /* of the payload */
	bool ipv4;
	bool first_fragment;	   /* offset zero and more to come */
	bool later_fragment;	   /* offset not zero: the payload starts with no header */
};

/* Whether all of the packet is there, or only the beginning of it, quoted by an ICMP error (RFC 1812 section 4.3.2.3). */
enum extent { WHOLE, QUOTED };

ALWAYS_INLINE void map_address(struct address *address, __be32 ipv4)
{
	address->words[0] = 0;
	address->words[1] = 0;
	address->words[2] = MAPPED_WORD;
	address->words[3] = ipv4;
}

ALWAYS_INLINE void copy_address(struct address *address, const struct in6_addr *ipv6)
{
	for (int i = 0; i < 4; i++)
		address->words[i] = ipv6->in6_u.u6_addr32[i];
}

ALWAYS_INLINE bool is_mapped(const struct address *address)
{
	return !address->words[0] && !address->words[1] && address->words[2] == MAPPED_WORD;
}

ALWAYS_INLINE bool read_ipv4(const void *data, const void *end, __u32 room, enum extent extent, struct packet *packet)
{
	const struct iphdr *ip = data;

	if ((const void *)(ip + 1) > end || ip->version != 4)
		return false;
	__u32 header_len = ip->ihl * 4;
	__u32 total_len = NTOHS(ip->tot_len);

	if (header_len < sizeof(*ip) || total_len < header_len)
		return false;
	if (extent == WHOLE && total_len > room)
		return false;
	__u16 fragment = NTOHS(ip->frag_off);

	map_address(&packet->id.source, ip->saddr);
	map_address(&packet->id.destination, ip->daddr);
	packet->id.identification = ip->id;
	packet->id.protocol = ip->protocol;
	packet->protocol = ip->protocol;
	packet->payload = data + header_len;
	packet->payload_len = total_len - header_len;
	packet->ipv4 = true;
	packet->later_fragment = fragment & IPV4_FRAGMENT_OFFSET;
	packet->first_fragment = !packet->later_fragment && fragment & IPV4_MORE_FRAGMENTS;
	return true;
}

ALWAYS_INLINE bool read_ipv6(const void *data, const void *end, __u32 room, enum extent extent, struct packet *packet)
{
	const struct ipv6hdr *ip = data;

	if ((const void *)(ip + 1) > end || ip->version != 6)
		return false;
	const void *at = ip + 1;
	__u32 left = NTOHS(ip->payload_len);
	__u8 next = ip->nexthdr;

	if (extent == WHOLE && sizeof(*ip) + left > room)
		return false;
	copy_address(&packet->id.source, &ip->saddr);
	copy_address(&packet->id.destination, &ip->daddr);
	/* Never on a wire (RFC 4291 section 2.5.5.2), and here it would stand for the IPv4 address. */
	if (is_mapped(&packet->id.destination))
		return false;
	const int most = extent == WHOLE ? MAX_EXTENSION_HEADERS : MAX_QUOTED_EXTENSION_HEADERS;

	for (int i = 0; i < most; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			break;
		const struct fragment_header *extension = at;
		__u32 extension_len = sizeof(*extension);

		if ((const void *)(extension + 1) > end)
			return false;
		if (next == IPPROTO_FRAGMENT) {
			__u16 fragment = NTOHS(extension->offset_and_flags);

			packet->id.identification = extension->identification;
			packet->id.protocol = extension->next_header;
			packet->later_fragment = fragment & IPV6_FRAGMENT_OFFSET;
			packet->first_fragment = !packet->later_fragment && fragment & IPV6_MORE_FRAGMENTS;
		} else {
			/* The second byte of an options header: its length in 8 bytes, without the first 8. */
			extension_len += extension->reserved * 8;
		}
		if (extension_len > left)
			return false;
		next = extension->next_header;
		at += extension_len;
		left -= extension_len;
		if (packet->later_fragment)
			break;
	}
	packet->protocol = next;
	packet->payload = at;
	packet->payload_len = left;
	return true;
}

/*
 * The headers before the payload, of either family. `end` is that of what can be read; of a whole packet there are `room` bytes,
 * more of them where it lies in pieces.
 */
ALWAYS_INLINE bool read_packet(const void *data, const void *end, __u32 room, bool ipv4, enum extent extent,
			       struct packet *packet)
{
	return ipv4 ? read_ipv4(data, end, room, extent, packet) : read_ipv6(data, end, room, extent, packet);
}

/* Whether the payload is an ICMP message of the packet's own family. */
ALWAYS_INLINE bool is_icmp(const struct packet *packet)
{
	return packet->protocol == (packet->ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* Whether the payload begins with ports that somebody may own. */
ALWAYS_INLINE bool has_ports(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ||
	       packet->protocol == IPPROTO_SCTP || packet->protocol == IPPROTO_UDPLITE;
}

#endif
