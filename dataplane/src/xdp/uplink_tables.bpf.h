/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of the uplink's program, written by tables.rs. All are sets: the value of an entry says nothing.
 */
#ifndef MILLRACE_UPLINK_TABLES_BPF_H
#define MILLRACE_UPLINK_TABLES_BPF_H

#include "packet.bpf.h"

/* Capacities; the loader reports a table that is full. The large ones take memory for the entries they have. */
#define MAX_LOCAL_ADDRESSES 1024
#define MAX_POD_PREFIXES 1024
#define MAX_PORTS 256
#define MAX_SERVICE_PREFIXES 65536
#define MAX_SERVICE_PORTS 65536
#define MAX_NODE_PORTS 16384
#define MAX_AWAITED 65536
#define MAX_FRAGMENTED_PACKETS 8192

struct address_prefix {
	__u32 length; /* of the 128-bit form: an IPv4 /24 is 120 */
	struct address address;
};

/* A port of a protocol; host byte order, protocol widened so that the key has no padding. */
struct protocol_port {
	__u16 port;
	__u16 protocol;
};

/* A port of a protocol at one address. */
struct service_port {
	struct address address;
	struct protocol_port at;
};

/*
 * Answers that come to no port of ours: from whom, and the identifier of an echo in host byte order, or
 * AWAITED_PROTOCOL and a protocol without ports. Shared with set.rs.
 */
struct awaited {
	struct address remote;
	__u32 what;
};

#define AWAITED_PROTOCOL 0x10000

/* Index into `settings`. Shared with tables.rs. */
enum setting {
	SETTING_IPIP = 0, /* non-zero: IP-in-IP to this node is ours */
	SETTING_SNAT_PORTS = 1, /* source NAT's ports, the last in the upper half and the first in the lower; 0: none */
	SETTING_VLAN = 2, /* the VLAN that the underlay is in; 0: none, frames are untagged */
	SETTING_COUNT = 3,
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

/* Prefixes of virtual addresses of Services, none of them this node's own: whole addresses are ours. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LPM_TRIE);
	MAP_NUMBER(max_entries, MAX_SERVICE_PREFIXES);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct address_prefix);
	MAP_TYPE(value, __u8);
} service_prefixes SECTION(".maps");

/* UDP destination ports of tunnels, host byte order. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, MAX_PORTS);
	MAP_TYPE(key, __u16);
	MAP_TYPE(value, __u8);
} tunnel_ports SECTION(".maps");

/* Ports of this node, of any protocol, that are never taken, whatever else says so; host byte order. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, MAX_PORTS);
	MAP_TYPE(key, __u16);
	MAP_TYPE(value, __u8);
} failsafe_ports SECTION(".maps");

/* Services' ports at addresses that are this node's own: all else at those addresses is the kernel's. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, MAX_SERVICE_PORTS);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct service_port);
	MAP_TYPE(value, __u8);
} service_ports SECTION(".maps");

/* Services' ports at every address of this node. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, MAX_NODE_PORTS);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct protocol_port);
	MAP_TYPE(value, __u8);
} node_ports SECTION(".maps");

/* Answers to what source NAT sent from an address of this node: to echo requests, and in protocols without ports. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, MAX_AWAITED);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct awaited);
	MAP_TYPE(value, __u8);
} awaited SECTION(".maps");

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

#endif
