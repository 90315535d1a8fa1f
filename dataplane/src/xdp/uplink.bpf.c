/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steering program of the uplink. It decides first whether a packet is ours; what is not goes to the kernel before the
 * socket map is asked, so the node keeps its own traffic whatever becomes of the switch (the host fails open). What is
 * ours goes to the switch or is dropped, never up: the kernel would answer with RSTs and ICMP unreachables.
 *
 * A further kind of packet that is ours (virtual addresses, ports, source NAT) is a further case in `claim_local` or
 * `claim`, with a map of its own.
 */
#include "steering.bpf.h"

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;

/* Capacities; the loader reports a table that is full. */
#define MAX_LOCAL_ADDRESSES 1024
#define MAX_POD_PREFIXES 1024
#define MAX_PORTS 256
#define MAX_FRAGMENTED_PACKETS 8192

/*
 * How long later fragments may trail the first. Far longer than a network reorders, and short, because the identifier is
 * soon used again, perhaps for a packet of the node's own.
 */
#define FRAGMENT_LIFE_NS (5ULL * 1000 * 1000 * 1000)

/* Extension headers stepped over on the way to UDP or TCP (RFC 8200 section 4.1). One with more is not ours. */
#define MAX_EXTENSION_HEADERS 4

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

struct address_prefix {
	__u32 length; /* of the 128-bit form: an IPv4 /24 is 120 */
	struct address address;
};

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

/* The first bytes of both TCP and UDP. */
struct ports {
	__be16 source;
	__be16 destination;
	__u32 rest;
};

/* Index into `settings`. Shared with tables.rs. */
enum setting {
	SETTING_IPIP = 0, /* non-zero: IP-in-IP to this node is ours */
	SETTING_COUNT,
};

/* This node's own addresses. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, MAX_LOCAL_ADDRESSES);
	MAP_TYPE(key, struct address);
	MAP_TYPE(value, __u8);
} local_addresses SECTION(".maps");

/* Prefixes of this node's pods. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LPM_TRIE);
	MAP_NUMBER(max_entries, MAX_POD_PREFIXES);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct address_prefix);
	MAP_TYPE(value, __u8);
} pod_prefixes SECTION(".maps");

/* UDP destination ports of tunnels, host byte order. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, MAX_PORTS);
	MAP_TYPE(key, __u16);
	MAP_TYPE(value, __u8);
} tunnel_ports SECTION(".maps");

/* TCP and UDP destination ports of this node that are never taken, whatever else says so; host byte order. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, MAX_PORTS);
	MAP_TYPE(key, __u16);
	MAP_TYPE(value, __u8);
} failsafe_ports SECTION(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, SETTING_COUNT);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u32);
} settings SECTION(".maps");

/* Fragmented packets whose first fragment was ours by its port -> when that came, in ns of the monotonic clock. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_NUMBER(max_entries, MAX_FRAGMENTED_PACKETS);
	MAP_TYPE(key, struct fragment_key);
	MAP_TYPE(value, __u64);
} fragments SECTION(".maps");

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

/* False if the header is truncated or lies. */
ALWAYS_INLINE bool read_ipv4(const void *data, const void *end, struct packet *packet)
{
	const struct iphdr *ip = data;

	if ((const void *)(ip + 1) > end || ip->version != 4)
		return false;
	__u32 header_len = ip->ihl * 4;
	__u32 total_len = NTOHS(ip->tot_len);

	if (header_len < sizeof(*ip) || total_len < header_len || data + total_len > end)
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

/* False if a header is truncated or lies. */
ALWAYS_INLINE bool read_ipv6(const void *data, const void *end, struct packet *packet)
{
	const struct ipv6hdr *ip = data;

	if ((const void *)(ip + 1) > end || ip->version != 6)
		return false;
	const void *at = ip + 1;
	__u32 left = NTOHS(ip->payload_len);
	__u8 next = ip->nexthdr;

	if (at + left > end)
		return false;
	copy_address(&packet->id.source, &ip->saddr);
	copy_address(&packet->id.destination, &ip->daddr);
	/* Never on a wire (RFC 4291 section 2.5.5.2), and here it would stand for the IPv4 address. */
	if (is_mapped(&packet->id.destination))
		return false;
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
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

ALWAYS_INLINE bool is_ipip(const struct packet *packet)
{
	__u32 key = SETTING_IPIP;
	__u32 *on;

	/* RFC 2003: IPv4 in IPv4. A 4-in-6 tunnel is the node's own. */
	if (!packet->ipv4 || packet->protocol != IPPROTO_IPIP)
		return false;
	on = bpf_map_lookup_elem(&settings, &key);
	return on && *on;
}

/* Later fragments carry no port; they follow the first. A first fragment that is not ours frees its identifier. */
ALWAYS_INLINE void note_first_fragment(const struct packet *packet, bool ours)
{
	if (ours) {
		__u64 now = bpf_ktime_get_ns();

		bpf_map_update_elem(&fragments, &packet->id, &now, BPF_ANY);
	} else {
		bpf_map_delete_elem(&fragments, &packet->id);
	}
}

ALWAYS_INLINE bool follows_ours(const struct packet *packet)
{
	__u64 *since = bpf_map_lookup_elem(&fragments, &packet->id);

	return since && bpf_ktime_get_ns() - *since < FRAGMENT_LIFE_NS;
}

/* A whole packet or first fragment to one of this node's own addresses, with a port. */
ALWAYS_INLINE enum counter_slot claim_by_port(const struct packet *packet, const void *end)
{
	const struct ports *ports = packet->payload;

	if (packet->payload_len < sizeof(*ports) || (const void *)(ports + 1) > end)
		return SLOT_MALFORMED_PASSED;
	__u16 port = NTOHS(ports->destination);

	if (bpf_map_lookup_elem(&failsafe_ports, &port))
		return SLOT_FAILSAFE_PASSED;
	if (packet->protocol == IPPROTO_UDP && bpf_map_lookup_elem(&tunnel_ports, &port))
		return SLOT_TO_SWITCH_TUNNEL;
	return SLOT_PASSED;
}

/* A packet to one of this node's own addresses. A pod prefix that holds such an address does not take it. */
ALWAYS_INLINE enum counter_slot claim_local(const struct packet *packet, const void *end)
{
	enum counter_slot slot;

	if (is_ipip(packet))
		return SLOT_TO_SWITCH_TUNNEL;
	if (packet->later_fragment || (packet->protocol != IPPROTO_UDP && packet->protocol != IPPROTO_TCP))
		return SLOT_PASSED;
	slot = claim_by_port(packet, end);
	if (packet->first_fragment)
		note_first_fragment(packet, slot == SLOT_TO_SWITCH_TUNNEL);
	return slot;
}

/* Whose the packet is: the slot it is counted in if nothing goes wrong. */
ALWAYS_INLINE enum counter_slot claim(const struct packet *packet, const void *end)
{
	struct address_prefix destination = { .length = 8 * sizeof(struct address) };

	if (packet->later_fragment && follows_ours(packet))
		return SLOT_TO_SWITCH_FRAGMENT;
	if (bpf_map_lookup_elem(&local_addresses, &packet->id.destination))
		return claim_local(packet, end);
	destination.address = packet->id.destination;
	if (bpf_map_lookup_elem(&pod_prefixes, &destination))
		return SLOT_TO_SWITCH_POD;
	return SLOT_PASSED;
}

ALWAYS_INLINE enum counter_slot judge(const struct xdp_md *ctx)
{
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *ethernet = data;
	struct packet packet = {};

	if ((const void *)(ethernet + 1) > end)
		return SLOT_MALFORMED_PASSED;
	/* A VLAN tag is another EtherType: such frames are for the kernel's VLAN devices. */
	if (ethernet->h_proto == HTONS(ETH_P_IP)) {
		if (!read_ipv4(ethernet + 1, end, &packet))
			return SLOT_MALFORMED_PASSED;
	} else if (ethernet->h_proto == HTONS(ETH_P_IPV6)) {
		if (!read_ipv6(ethernet + 1, end, &packet))
			return SLOT_MALFORMED_PASSED;
	} else {
		return SLOT_PASSED;
	}
	return claim(&packet, end);
}

SECTION("xdp") int millrace_uplink(struct xdp_md *ctx)
{
	enum counter_slot slot = judge(ctx);

	/* No default: a new slot has to say where its packets go. */
	switch (slot) {
	case SLOT_TO_SWITCH_TUNNEL:
	case SLOT_TO_SWITCH_POD:
	case SLOT_TO_SWITCH_FRAGMENT:
		return to_switch(ctx, slot, SLOT_DROPPED_NO_SOCKET);
	case SLOT_PASSED:
	case SLOT_FAILSAFE_PASSED:
	case SLOT_MALFORMED_PASSED:
	case SLOT_DROPPED_NO_SOCKET:
	case SLOT_PORT_TO_SWITCH:
	case SLOT_PORT_DROPPED_NO_SOCKET:
	case SLOT_COUNT:
		break;
	}
	count(slot);
	return XDP_PASS;
}

const char program_license[] SECTION("license") = "Apache-2.0";
