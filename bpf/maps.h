/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * maps.h: the memory that the gate shares with the guard and the worker.
 *
 * Who writes: the guard `control` and `own_macs`; the kernel `conflicts`,
 * `counters`, `events`; the worker the rest (the guard before it starts one).
 * netfence mirrors these layouts; a change of any makes netfence replace the
 * pinned maps of an older binary instead of adopting them.
 */
#ifndef HOLDFAST_MAPS_H
#define HOLDFAST_MAPS_H

#include "uapi.h"

#define MAX_GROUPS 1024
/* Entries are added before others go, so tables hold two full lists. */
#define MAX_VIPS (2 * 1024)
#define MAX_MACS (2 * 512)
#define MAX_BLOCKED_ADDRS (2 * 512)
#define MAX_BLOCKED_MACS 64
#define MAX_FORWARDING 64
#define MAX_PORTS 8
#define FILTER_BITS 12 /* 4096 bits */
#define FILTER_WORDS (1 << (FILTER_BITS - 6))

enum active {
	ACTIVE_VIP4 = 1,
	ACTIVE_VIP6 = 2,
	ACTIVE_BLOCKED = 4,
	ACTIVE_FORWARDING = 8,
};

enum reason {
	REASON_IP_IN,
	REASON_IP_OUT,
	REASON_IP6_IN,
	REASON_IP6_OUT,
	REASON_ARP_IN,
	REASON_ARP_OUT,
	REASON_ND_IN,
	REASON_ND_OUT,
	REASON_FORWARD,
	REASON_BLOCKED,
	REASON_CONFLICT,   /* not a drop: a member's claim was recorded */
	REASON_FOREIGN,    /* not a drop: a stranger's claim was seen */
	REASON_EVENT_LOST, /* not a drop: the ring buffer was full */
	REASON_COUNT,
};

enum event_kind {
	EVENT_CONFLICT = 1,
	EVENT_FOREIGN = 2,
};

/* An address in network byte order; IPv4 as ::ffff:a.b.c.d. */
struct address {
	__u32 w[4];
};

/* One group's gate. All zero is closed. */
struct gate_value {
	__u64 deadline;    /* CLOCK_BOOTTIME ns; open only before it */
	__u64 incarnation; /* of the worker that wrote it */
	__u64 sent;        /* CLOCK_BOOTTIME ns of the request behind it */
};

struct conflict {
	__u64 last;       /* CLOCK_BOOTTIME ns of the last member's claim */
	__u64 told;       /* when the last EVENT_CONFLICT was sent */
	__u64 told_other; /* when the last EVENT_FOREIGN was sent */
};

struct blocked_addr {
	__u64 node;
	__u32 peer; /* 1: ports below pass, and ARP/ND for this address */
	__u32 pad;
	__be16 ports[MAX_PORTS]; /* network byte order, 0 = unused */
};

struct blocked_mac {
	__u64 mac; /* 0 = unused slot */
	__u64 node;
};

struct event {
	__u64 time; /* CLOCK_BOOTTIME ns */
	__u64 node; /* member that claimed, 0 for a stranger */
	__u32 ifindex;
	enum event_kind kind;
	__u16 group;
	__u8 mac[6];
	__u64 open; /* 1: the gate was open just before */
};

struct control_data {
	__u64 incarnation; /* the guard's number; 0 closes everything */
};

/*
 * The fast filter. A bit is set for the hash of every entry of `vips` at every
 * instant (netfence sets it before the entry and clears it after), so a clear
 * bit proves that the address is no VIP without a map lookup. The same holds
 * for blocked_bits with `blocked` and blocked_macs.
 */
struct filter_data {
	enum active active;
	__u32 pad;
	__u64 forward_bits; /* bit ifindex % 64 */
	__u64 vip_bits[FILTER_WORDS];
	__u64 blocked_bits[FILTER_WORDS];
	__u64 forward[MAX_FORWARDING]; /* ifindex << 32 | group << 1 | 1; 0 = unused */
	struct blocked_mac blocked_macs[MAX_BLOCKED_MACS];
};

volatile struct control_data control SEC(".data.control");
volatile struct filter_data filter SEC(".data.filter");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_GROUPS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct gate_value);
} gates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_GROUPS);
	__type(key, __u32);
	__type(value, struct conflict);
} conflicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIPS);
	__type(key, struct address);
	__type(value, __u32); /* group */
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_MACS);
	__type(key, __u64);
	__type(value, __u64); /* node */
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_MACS);
	__type(key, __u64);
	__type(value, __u64); /* 1 */
} own_macs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_BLOCKED_ADDRS);
	__type(key, struct address);
	__type(value, struct blocked_addr);
} blocked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_COUNT);
	__type(key, enum reason);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
	__type(value, struct event); /* for the bindings only */
} events SEC(".maps");

#endif
