/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steering program of the uplink. It decides first whether a packet is ours; what is not goes to the kernel before the
 * socket map is asked, so the node keeps its own traffic whatever becomes of the switch (the host fails open). What is
 * ours goes to the switch or is dropped, never up: the kernel would answer with RSTs and ICMP unreachables.
 *
 * A further kind of packet that is ours is a further case in `claim`, `claim_port` or `claim_icmp`, with a table of its
 * own in uplink_tables.bpf.h.
 */
#include "packet.bpf.h"
#include "uplink_tables.bpf.h"

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;

/*
 * How long later fragments may trail the first. Far longer than a network reorders, and short, because the identifier is
 * soon used again, perhaps for a packet of the node's own.
 */
#define FRAGMENT_LIFE_NS (5ULL * 1000 * 1000 * 1000)

/* ICMP's numbers (RFC 792); those of ICMPv6 (RFC 4443), where errors are the lower half. */
#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_LAST_ERROR 4
/* Neighbour discovery's (RFC 4861). */
#define ICMPV6_NEIGHBOUR_SOLICITATION 135
#define ICMPV6_NEIGHBOUR_ADVERTISEMENT 136

/* Whether packets counted in a slot are the switch's. No default: a new slot has to say where its packets go. */
ALWAYS_INLINE bool is_ours(enum counter_slot slot)
{
	switch (slot) {
	case SLOT_TO_SWITCH_TUNNEL:
	case SLOT_TO_SWITCH_POD:
	case SLOT_TO_SWITCH_FRAGMENT:
	case SLOT_TO_SWITCH_SERVICE:
	case SLOT_TO_SWITCH_NODE_PORT:
	case SLOT_TO_SWITCH_SNAT_REPLY:
	case SLOT_TO_SWITCH_ECHO_REPLY:
	case SLOT_TO_SWITCH_ICMP_ERROR:
		return true;
	case SLOT_PASSED:
	case SLOT_FAILSAFE_PASSED:
	case SLOT_MALFORMED_PASSED:
	case SLOT_OTHER_VLAN_PASSED:
	case SLOT_DROPPED_NO_SOCKET:
	case SLOT_PORT_TO_SWITCH:
	case SLOT_PORT_DROPPED_NO_SOCKET:
	case SLOT_COUNT:
		break;
	}
	return false;
}

ALWAYS_INLINE __u32 setting(enum setting setting)
{
	__u32 key = setting;
	__u32 *value = bpf_map_lookup_elem(&settings, &key);

	return value ? *value : 0;
}

ALWAYS_INLINE bool is_ipip(const struct packet *packet)
{
	/* RFC 2003: IPv4 in IPv4. A 4-in-6 tunnel is the node's own. */
	return packet->ipv4 && packet->protocol == IPPROTO_IPIP && setting(SETTING_IPIP);
}

ALWAYS_INLINE bool is_snat_port(__u16 port)
{
	__u32 range = setting(SETTING_SNAT_PORTS);

	return range && port >= (__u16)range && port <= range >> 16;
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

ALWAYS_INLINE bool is_failsafe(__u16 port)
{
	return bpf_map_lookup_elem(&failsafe_ports, &port);
}

ALWAYS_INLINE bool is_tunnel_port(const struct packet *packet, __u16 port)
{
	return packet->protocol == IPPROTO_UDP && bpf_map_lookup_elem(&tunnel_ports, &port);
}

/* Whose a port at an address of this node is that is neither fail-safe nor a tunnel's. */
ALWAYS_INLINE enum counter_slot claim_port(const struct address *local, __u8 protocol, __u16 port)
{
	struct service_port service = { .address = *local, .at = { .port = port, .protocol = protocol } };

	if (bpf_map_lookup_elem(&service_ports, &service))
		return SLOT_TO_SWITCH_SERVICE;
	if (bpf_map_lookup_elem(&node_ports, &service.at))
		return SLOT_TO_SWITCH_NODE_PORT;
	if (is_snat_port(port))
		return SLOT_TO_SWITCH_SNAT_REPLY;
	return SLOT_PASSED;
}

/* A whole packet or first fragment to one of this node's own addresses, with a port. */
ALWAYS_INLINE enum counter_slot claim_by_port(const struct packet *packet, const void *end)
{
	const struct ports *ports = packet->payload;

	if (packet->payload_len < sizeof(*ports) || (const void *)(ports + 1) > end)
		return SLOT_MALFORMED_PASSED;
	__u16 port = NTOHS(ports->destination);

	if (is_failsafe(port))
		return SLOT_FAILSAFE_PASSED;
	if (is_tunnel_port(packet, port))
		return SLOT_TO_SWITCH_TUNNEL;
	return claim_port(&packet->id.destination, packet->protocol, port);
}

ALWAYS_INLINE bool is_awaited(const struct address *remote, __u32 what)
{
	struct awaited answer = { .remote = *remote, .what = what };

	return bpf_map_lookup_elem(&awaited, &answer);
}

ALWAYS_INLINE bool is_our_echo(const struct address *remote, __be16 id)
{
	return is_awaited(remote, NTOHS(id));
}

/* Whether a pod talks with this remote in a protocol without ports: one in which the node itself does not, as its file says. */
ALWAYS_INLINE bool is_our_protocol(const struct address *remote, __u8 protocol)
{
	return is_awaited(remote, AWAITED_PROTOCOL | protocol);
}

/* Whether an ICMP error is about a packet that left this node by our doing: it is quoted from its first byte on. */
ALWAYS_INLINE enum counter_slot claim_error(const struct packet *packet, const struct icmp *icmp, const void *end)
{
	struct packet quoted = {};

	if (!read_packet(icmp + 1, end, 0, packet->ipv4, QUOTED, &quoted))
		return SLOT_PASSED;
	/* Errors go to the sender of what they quote. */
	for (int i = 0; i < 4; i++)
		if (quoted.id.source.words[i] != packet->id.destination.words[i])
			return SLOT_PASSED;
	if (quoted.later_fragment)
		return SLOT_PASSED;
	if (is_ipip(&quoted))
		return SLOT_TO_SWITCH_ICMP_ERROR;
	const struct ports *ports = quoted.payload;

	/* What a short frame is padded with is not quoted. */
	if ((const void *)(ports + 1) > end || (const void *)(ports + 1) > packet->payload + packet->payload_len)
		return SLOT_PASSED;
	if (is_icmp(&quoted)) {
		const struct icmp *request = quoted.payload;

		return is_our_echo(&quoted.id.destination, request->id) ? SLOT_TO_SWITCH_ICMP_ERROR : SLOT_PASSED;
	}
	if (!has_ports(&quoted))
		return is_our_protocol(&quoted.id.destination, quoted.protocol) ? SLOT_TO_SWITCH_ICMP_ERROR : SLOT_PASSED;
	__u16 port = NTOHS(ports->source);

	if (is_failsafe(port))
		return SLOT_FAILSAFE_PASSED;
	if (is_tunnel_port(&quoted, NTOHS(ports->destination)))
		return SLOT_TO_SWITCH_ICMP_ERROR;
	if (claim_port(&quoted.id.source, quoted.protocol, port) != SLOT_PASSED)
		return SLOT_TO_SWITCH_ICMP_ERROR;
	return SLOT_PASSED;
}

ALWAYS_INLINE bool is_icmp_error(const struct packet *packet, __u8 type)
{
	/* Neither a redirect nor source quench is about a flow: they are for the kernel to ignore. */
	if (packet->ipv4)
		return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
	return type && type <= ICMPV6_LAST_ERROR;
}

/* An ICMP message to one of this node's own addresses. */
ALWAYS_INLINE enum counter_slot claim_icmp(const struct packet *packet, const void *end)
{
	const struct icmp *icmp = packet->payload;

	if (packet->payload_len < sizeof(*icmp) || (const void *)(icmp + 1) > end)
		return SLOT_PASSED;
	if (icmp->type == (packet->ipv4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY))
		return is_our_echo(&packet->id.source, icmp->id) ? SLOT_TO_SWITCH_ECHO_REPLY : SLOT_PASSED;
	if (is_icmp_error(packet, icmp->type))
		return claim_error(packet, icmp, end);
	return SLOT_PASSED;
}

/* A packet to one of this node's own addresses. A prefix that holds such an address does not take it. */
ALWAYS_INLINE enum counter_slot claim_local(const struct packet *packet, const void *end)
{
	enum counter_slot slot;

	if (is_ipip(packet))
		return SLOT_TO_SWITCH_TUNNEL;
	if (packet->later_fragment)
		return SLOT_PASSED;
	if (has_ports(packet))
		slot = claim_by_port(packet, end);
	else if (is_icmp(packet))
		slot = claim_icmp(packet, end);
	else
		slot = is_our_protocol(&packet->id.source, packet->protocol) ? SLOT_TO_SWITCH_SNAT_REPLY : SLOT_PASSED;
	if (packet->first_fragment)
		note_first_fragment(packet, is_ours(slot));
	return slot;
}

/*
 * Neighbour discovery about a Service's address: whoever announces that on the link hears it by a packet socket, which sees
 * what is passed. A neighbour that knows the address already asks at it, not at its group.
 */
ALWAYS_INLINE bool is_neighbour_discovery(const struct packet *packet, const void *end)
{
	const struct icmp *icmp = packet->payload;

	if (packet->ipv4 || packet->protocol != IPPROTO_ICMPV6 || packet->later_fragment)
		return false;
	if (packet->payload_len < sizeof(*icmp) || (const void *)(icmp + 1) > end)
		return false;
	return icmp->type == ICMPV6_NEIGHBOUR_SOLICITATION || icmp->type == ICMPV6_NEIGHBOUR_ADVERTISEMENT;
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
	if (bpf_map_lookup_elem(&service_prefixes, &destination))
		return is_neighbour_discovery(packet, end) ? SLOT_PASSED : SLOT_TO_SWITCH_SERVICE;
	return SLOT_PASSED;
}

ALWAYS_INLINE enum counter_slot judge(struct xdp_md *ctx)
{
	/* First: the kernel's helpers take pointers into the packet away. */
	__u32 length = whole_length(ctx);
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *ethernet = data;
	struct packet packet = {};
	__u32 vlan = setting(SETTING_VLAN);

	if ((const void *)(ethernet + 1) > end)
		return SLOT_MALFORMED_PASSED;
	__be16 ether_type = ethernet->h_proto;
	/* One of two constants, and no branch: the verifier then walks through the rest once. */
	__u32 link_len = sizeof(*ethernet) + (vlan ? sizeof(struct vlan_tag) : 0);
	const void *ip = data + link_len;

	if (vlan) {
		const struct vlan_tag *tag = (const void *)(ethernet + 1);

		if (ether_type != HTONS(ETH_P_8021Q))
			return SLOT_OTHER_VLAN_PASSED;
		if ((const void *)(tag + 1) > end)
			return SLOT_MALFORMED_PASSED;
		if ((NTOHS(tag->control) & VLAN_ID) != vlan)
			return SLOT_OTHER_VLAN_PASSED;
		ether_type = tag->ether_type;
	}
	/* Any other tag is another EtherType: such frames are for the kernel's VLAN devices. */
	if (ether_type != HTONS(ETH_P_IP) && ether_type != HTONS(ETH_P_IPV6))
		return SLOT_PASSED;
	if (!read_packet(ip, end, length - link_len, ether_type == HTONS(ETH_P_IP), WHOLE, &packet))
		return SLOT_MALFORMED_PASSED;
	return claim(&packet, end);
}

SECTION(XDP_SECTION) int millrace_uplink(struct xdp_md *ctx)
{
	enum counter_slot slot = judge(ctx);

	if (is_ours(slot))
		return to_switch(ctx, slot, SLOT_DROPPED_NO_SOCKET);
	count(slot);
	return XDP_PASS;
}

const char program_license[] SECTION("license") = "Apache-2.0";
