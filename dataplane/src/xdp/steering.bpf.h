/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the steering programs share: the kernel's helpers they call, the socket map, and the counters.
 *
 * Map definitions follow the kernel's BTF convention: the BTF of a struct in section ".maps" carries the attributes,
 * numbers as the length of an array type and key/value types as pointer types. See Documentation/bpf/btf.rst.
 */
#ifndef MILLRACE_STEERING_BPF_H
#define MILLRACE_STEERING_BPF_H

#include <stdbool.h>

#include <linux/bpf.h>

/*
 * A program of the second kind sees packets in pieces (multi-buffer XDP): between data and data_end lies the first one, with all
 * headers. The build compiles each source twice.
 */
#ifdef MILLRACE_PIECES
#define XDP_SECTION "xdp.frags"
#else
#define XDP_SECTION "xdp"
#endif

#define SECTION(name) __attribute__((section(name), used))
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define MAP_NUMBER(attribute, value) int(*attribute)[value]
#define MAP_TYPE(attribute, type) __typeof__(type) *attribute

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NTOHS(value) __builtin_bswap16(value)
#else
#define NTOHS(value) (value)
#endif
#define HTONS(value) NTOHS(value)

/* Kernel helpers, bpf-helpers(7). Their numbers are part of the kernel's ABI. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

#ifdef MILLRACE_PIECES
static __u64 (*const bpf_xdp_get_buff_len)(struct xdp_md *ctx) = (void *)BPF_FUNC_xdp_get_buff_len;
#endif

/* The length of the whole packet. */
ALWAYS_INLINE __u32 whole_length(struct xdp_md *ctx)
{
#ifdef MILLRACE_PIECES
	return bpf_xdp_get_buff_len(ctx);
#else
	return (const void *)(long)ctx->data_end - (const void *)(long)ctx->data;
#endif
}

/*
 * Counter slots. Every packet is counted in exactly one. The order is shared with `SteeringCounter` in counters.rs;
 * append only, and keep SLOT_COUNT last.
 */
enum counter_slot {
	SLOT_PASSED = 0,		/* uplink: not ours, left to the kernel */
	SLOT_TO_SWITCH_TUNNEL = 1,	/* uplink: tunnel packet to this node, handed to a socket */
	SLOT_TO_SWITCH_POD = 2,		/* uplink: routed plainly to one of our pods, handed to a socket */
	SLOT_TO_SWITCH_FRAGMENT = 3,	/* uplink: later fragment of a packet that was ours, handed to a socket */
	SLOT_DROPPED_NO_SOCKET = 4,	/* uplink: ours, but no socket on this queue */
	SLOT_FAILSAFE_PASSED = 5,	/* uplink: to a fail-safe port of this node, left to the kernel */
	SLOT_MALFORMED_PASSED = 6,	/* uplink: headers truncated or lying, left to the kernel to judge */
	SLOT_PORT_TO_SWITCH = 7,	/* port: handed to a socket */
	SLOT_PORT_DROPPED_NO_SOCKET = 8,/* port: no socket on this queue */
	SLOT_TO_SWITCH_SERVICE = 9,	/* uplink: to a Service's address, or its port at an address of this node */
	SLOT_TO_SWITCH_NODE_PORT = 10,	/* uplink: to a Service's node port */
	SLOT_TO_SWITCH_SNAT_REPLY = 11,	/* uplink: to a port of source NAT */
	SLOT_TO_SWITCH_ECHO_REPLY = 12,	/* uplink: echo reply to a request of source NAT */
	SLOT_TO_SWITCH_ICMP_ERROR = 13,	/* uplink: ICMP error about a packet of the switch's from an address of this node */
	SLOT_OTHER_VLAN_PASSED = 14,	/* uplink in a VLAN: of another one, or untagged, left to the kernel */
	SLOT_COUNT,
};

/* Receive queue -> AF_XDP socket. The loader sets the size to the interface's number of queues. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_XSKMAP);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u32);
} sockets SECTION(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, SLOT_COUNT);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
} counters SECTION(".maps");

ALWAYS_INLINE void count(enum counter_slot slot)
{
	__u32 key = slot;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	/* One CPU owns the cell, but an interrupt-time XDP run may nest in a preemptible one: add atomically. */
	if (value)
		__sync_fetch_and_add(value, 1);
}

/*
 * Hands the packet to this queue's socket, or drops it where there is none (the low bits of the flags are the action the
 * kernel takes then), so that what is ours never reaches the kernel's stack.
 */
ALWAYS_INLINE int to_switch(const struct xdp_md *ctx, enum counter_slot taken, enum counter_slot no_socket)
{
	long action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);

	count(action == XDP_REDIRECT ? taken : no_socket);
	return action;
}

#endif
