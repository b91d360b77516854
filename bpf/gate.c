//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * gate.c: the kernel's side of the fence.
 *
 * Four programs, one pair for links with an Ethernet header and one for links
 * without. Each first runs the fast filter, which may only say "surely not
 * ours"; whatever it cannot prove goes to inspect(), which reads through
 * helpers and decides. A program either drops or has no opinion, so programs
 * of others behind it still run.
 */
#include "maps.h"

char gate_license[] SEC("license") = "Dual BSD/GPL";

enum { IN = 0, OUT = 1 };
enum { PASS = TC_ACT_UNSPEC, DROP = TC_ACT_SHOT };

enum { NEXT_HOP_BY_HOP = 0, NEXT_TCP = 6, NEXT_UDP = 17, NEXT_ROUTING = 43, NEXT_FRAGMENT = 44,
       NEXT_AUTH = 51, NEXT_ICMPV6 = 58, NEXT_DEST_OPTIONS = 60 };
enum { ND_NONE = 0, ND_SOLICIT = 135, ND_ADVERT = 136, ND_UNREADABLE = -1 };
enum { ARP_REQUEST = 1 };
enum { ARP_MAX_HW_LEN = 32, MAX_EXTENSIONS = 8, MAX_TAGS = 2 };

#define EVENT_INTERVAL_NS 100000000ULL
#define V4_MAPPED 0xffff0000U /* third word of ::ffff:0:0/96 */

/* A frame being inspected. `net` is the offset of the network header. */
struct frame {
	struct __sk_buff *skb;
	__u64 mac; /* Ethernet source, first byte lowest; 0 on links without */
	__u32 net;
	__u32 active;
	__be16 proto;
	__u8 tagged; /* belongs to a VLAN interface above this one */
};

/* ---- leaves ---- */

static __always_inline void count(enum reason reason)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &reason);
	if (n)
		(*n)++;
}

static __always_inline int drop(enum reason reason)
{
	count(reason);
	return DROP;
}

static __always_inline __u32 hash32(__u32 x)
{
	return (x * 0x9e3779b1U) >> (32 - FILTER_BITS);
}

static __always_inline __u32 hash_addr(const struct address *a)
{
	return hash32(a->w[0] ^ a->w[1] ^ a->w[2] ^ a->w[3]);
}

static __always_inline __u32 hash_v4(__be32 a)
{
	return hash32(a ^ V4_MAPPED);
}

static __always_inline int maybe_vip(__u32 hash)
{
	return (filter.vip_bits[hash >> 6] >> (hash & 63)) & 1;
}

static __always_inline int maybe_blocked(__u32 hash)
{
	return (filter.blocked_bits[hash >> 6] >> (hash & 63)) & 1;
}

static __always_inline __u64 pack_mac(const __u8 *m)
{
	return (__u64)m[0] | (__u64)m[1] << 8 | (__u64)m[2] << 16 | (__u64)m[3] << 24 | (__u64)m[4] << 32 |
	       (__u64)m[5] << 40;
}

static __always_inline struct address mapped(__be32 a)
{
	struct address r = {.w = {0, 0, V4_MAPPED, a}};
	return r;
}

static __always_inline int same_addr(const struct address *a, const struct address *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline int is_vlan(__be16 proto)
{
	return proto == BE16(ETH_P_8021Q) || proto == BE16(ETH_P_8021AD);
}

/* Reads len bytes at off behind the network header; nonzero when the frame is shorter. */
static __always_inline long load(const struct frame *f, const int l3, __u32 off, void *to, __u32 len)
{
	if (l3) /* tunnels differ in what lies before the network header */
		return bpf_skb_load_bytes_relative(f->skb, off, to, len, BPF_HDR_START_NET);
	return bpf_skb_load_bytes(f->skb, f->net + off, to, len);
}

/* ---- the gate ---- */

/* The group of a VIP, or NULL when the address is none. */
static __always_inline __u32 *vip_group(const struct address *a)
{
	if (!maybe_vip(hash_addr(a)))
		return 0;
	return bpf_map_lookup_elem(&vips, a);
}

/*
 * The gate opens only while now < deadline, the value's incarnation is the
 * guard's number, and `sent` is later than the last conflict seen. Anything
 * missing or zero is closed.
 */
static __always_inline int is_open(__u32 group)
{
	const volatile struct gate_value *v = bpf_map_lookup_elem(&gates, &group);
	const volatile struct conflict *c = bpf_map_lookup_elem(&conflicts, &group);
	__u64 number = control.incarnation;

	if (!v || !c)
		return 0;
	if (number == 0)
		return 0;
	if (v->incarnation != number)
		return 0;
	if (v->sent <= c->last)
		return 0;
	return bpf_ktime_get_boot_ns() < v->deadline;
}

/* Whether the address is a VIP whose gate is closed. */
static __always_inline int is_closed_vip(const struct address *a)
{
	__u32 *group = vip_group(a);
	return group && !is_open(*group);
}

static __always_inline void tell(const struct frame *f, __u32 group, enum event_kind kind, __u64 node,
				 __u64 mac, __u64 now, int open)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(REASON_EVENT_LOST);
		return;
	}
	e->time = now;
	e->node = node;
	e->ifindex = f->skb->ifindex;
	e->group = group;
	e->kind = kind;
	e->open = open;
	e->mac[0] = mac;
	e->mac[1] = mac >> 8;
	e->mac[2] = mac >> 16;
	e->mac[3] = mac >> 24;
	e->mac[4] = mac >> 32;
	e->mac[5] = mac >> 40;
	bpf_ringbuf_submit(e, 0);
}

/* The member that a MAC belongs to; NULL for strangers and for ourselves. */
static __always_inline __u64 *member_of(const __u64 *mac)
{
	if (bpf_map_lookup_elem(&own_macs, mac))
		return 0;
	return bpf_map_lookup_elem(&members, mac);
}

/*
 * Somebody says on the wire that a VIP is theirs. link is the hardware address
 * inside the message (0 = none), which may differ from the frame's source. A
 * member's claim closes the gate in this instant: the comparison in is_open
 * sees it at once, and an older `sent` never passes again.
 */
static __always_inline void claim(const struct frame *f, __u32 group, __u64 link)
{
	volatile struct conflict *c = bpf_map_lookup_elem(&conflicts, &group);
	__u64 mac = f->mac, *node, now;
	int open;

	if (!c || !mac)
		return;
	node = member_of(&mac);
	if (!node && link) {
		node = member_of(&link);
		if (node || bpf_map_lookup_elem(&own_macs, &mac))
			mac = link;
	}
	if (!node && bpf_map_lookup_elem(&own_macs, &mac))
		return; /* our own announcement, heard on another interface */

	open = is_open(group);
	now = bpf_ktime_get_boot_ns();
	if (node) {
		if (now > c->last)
			c->last = now;
		count(REASON_CONFLICT);
		if (now - c->told < EVENT_INTERVAL_NS)
			return;
		c->told = now;
		tell(f, group, EVENT_CONFLICT, *node, mac, now, open);
		return;
	}
	count(REASON_FOREIGN);
	if (now - c->told_other < EVENT_INTERVAL_NS)
		return;
	c->told_other = now;
	tell(f, group, EVENT_FOREIGN, 0, mac, now, open);
}

static __always_inline void claim_if_vip(const struct frame *f, const struct address *a, __u64 link)
{
	__u32 *group = vip_group(a);
	if (group)
		claim(f, *group, link);
}

/* ---- fencing of members ---- */

/* The blocked node whose MAC sent this frame, 0 when none. */
static __always_inline __u64 blocked_sender(const struct frame *f)
{
	if (!f->mac || !maybe_blocked(hash32((__u32)f->mac ^ (__u32)(f->mac >> 32))))
		return 0;
	for (int i = 0; i < MAX_BLOCKED_MACS; i++)
		if (filter.blocked_macs[i].mac == f->mac)
			return filter.blocked_macs[i].node;
	return 0;
}

static __always_inline struct blocked_addr *blocked_address(const struct address *a)
{
	if (!maybe_blocked(hash_addr(a)))
		return 0;
	return bpf_map_lookup_elem(&blocked, a);
}

/* Whether b is a peer address of node, or of whichever node when no MAC named one. */
static __always_inline int is_peer(const struct blocked_addr *b, __u64 node)
{
	return b && b->peer && (!node || b->node == node);
}

static __always_inline int peer_port(const struct frame *f, const int l3, const struct blocked_addr *b, __u8 proto,
				     __u32 off)
{
	__be16 ports[2];

	if (proto != NEXT_TCP && proto != NEXT_UDP)
		return 0;
	if (load(f, l3, off, ports, sizeof(ports)))
		return 0;
	for (int i = 0; i < MAX_PORTS; i++)
		if (b->ports[i] && (b->ports[i] == ports[0] || b->ports[i] == ports[1]))
			return 1;
	return 0;
}

/*
 * Whether an IP packet is to or from a blocked member. off is that of the
 * transport header, 0 when this packet holds none (a later fragment).
 */
static __always_inline int is_blocked_ip(const struct frame *f, const int dir, const int l3,
					 const struct address *remote, __u8 proto, __u32 off)
{
	__u64 node = dir == IN ? blocked_sender(f) : 0;
	struct blocked_addr *b = blocked_address(remote);

	if (!node && !b)
		return 0;
	if (is_peer(b, node) && off && peer_port(f, l3, b, proto, off))
		return 0;
	return 1;
}

/* ---- forwarding scope ---- */

/* Whether this interface stands behind a gate that is closed. */
static __always_inline int forwarding_closed(const struct frame *f)
{
	__u32 ifindex = f->skb->ifindex;

	if (f->tagged || f->skb->pkt_type != PACKET_HOST)
		return 0;
	if (!((filter.forward_bits >> (ifindex & 63)) & 1))
		return 0;
	for (int i = 0; i < MAX_FORWARDING; i++) {
		__u64 e = filter.forward[i];
		if (e && e >> 32 == ifindex)
			return !is_open((e >> 1) & 0xffff);
	}
	return 0;
}

/* Whether the host would send the packet on; an answer that is no answer counts as yes. */
static __always_inline int would_forward(const struct frame *f, struct bpf_fib_lookup *fib)
{
	long r;

	fib->ifindex = f->skb->ifindex;
	r = bpf_fib_lookup(f->skb, fib, sizeof(*fib), 0);
	switch (r) {
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
	case BPF_FIB_LKUP_RET_NOT_FWDED:
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return 0;
	}
	return 1;
}

/* ---- protocols ---- */

static __always_inline int inspect_ipv4(const struct frame *f, const int dir, const int l3)
{
	struct address src, dst;
	struct iphdr ip;

	if (load(f, l3, 0, &ip, sizeof(ip)))
		return PASS; /* no header, no address */
	src = mapped(ip.src);
	dst = mapped(ip.dst);

	if (dir == IN && is_closed_vip(&dst))
		return drop(REASON_IP_IN);
	if (dir == OUT && is_closed_vip(&src))
		return drop(REASON_IP_OUT);

	if (f->active & ACTIVE_BLOCKED) {
		__u32 off = (ip.frag & BE16(0x1fff)) ? 0 : (ip.ver_ihl & 0xf) * 4;
		if (is_blocked_ip(f, dir, l3, dir == IN ? &src : &dst, ip.proto, off))
			return drop(REASON_BLOCKED);
	}

	if (dir == IN && (f->active & ACTIVE_FORWARDING) && forwarding_closed(f)) {
		struct bpf_fib_lookup fib = {.family = AF_INET, .l4_protocol = ip.proto, .tos_or_flowinfo = ip.tos};
		if ((ip.dst & 0xff) >= 224)
			return PASS; /* multicast, limited broadcast */
		fib.src[0] = ip.src;
		fib.dst[0] = ip.dst;
		if (would_forward(f, &fib))
			return drop(REASON_FORWARD);
	}
	return PASS;
}

/* Who a neighbour discovery message speaks of, and its link-layer address option. */
struct nd {
	struct address target;
	__u64 link;
};

/*
 * Follows the extension headers to a solicitation or advertisement. A later
 * fragment cannot be one: receivers drop fragmented discovery (RFC 6980).
 */
static __always_inline int find_nd(const struct frame *f, const int l3, __u8 next, struct nd *nd)
{
	__u32 off = sizeof(struct ip6hdr);

	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		__u8 h[8];

		switch (next) {
		case NEXT_ICMPV6:
			if (load(f, l3, off, h, 1))
				return ND_UNREADABLE;
			if (h[0] != ND_SOLICIT && h[0] != ND_ADVERT)
				return ND_NONE;
			next = h[0];
			if (load(f, l3, off + 8, &nd->target, sizeof(nd->target)))
				return ND_UNREADABLE;
			if (!load(f, l3, off + 24, h, sizeof(h)) && (h[0] == 1 || h[0] == 2) && h[1] == 1)
				nd->link = pack_mac(h + 2);
			return next;
		case NEXT_HOP_BY_HOP:
		case NEXT_ROUTING:
		case NEXT_DEST_OPTIONS:
		case NEXT_AUTH:
			if (load(f, l3, off, h, 2))
				return ND_UNREADABLE;
			off += next == NEXT_AUTH ? (h[1] + 2) * 4 : (h[1] + 1) * 8;
			next = h[0];
			continue;
		case NEXT_FRAGMENT:
			if (load(f, l3, off, h, 8))
				return ND_UNREADABLE;
			if (h[2] || (h[3] & 0xf8))
				return ND_NONE;
			off += 8;
			next = h[0];
			continue;
		default:
			return ND_NONE;
		}
	}
	return ND_UNREADABLE;
}

/* Neighbour discovery that a blocked member may exchange for its peer address. */
static __always_inline int is_peer_nd(const struct frame *f, const int dir, int kind, const struct nd *nd,
				      const struct address *remote)
{
	__u64 node = dir == IN ? blocked_sender(f) : 0;

	if (kind == ND_SOLICIT || (kind == ND_ADVERT && dir == OUT))
		return is_peer(blocked_address(remote), node);
	return kind == ND_ADVERT && is_peer(blocked_address(&nd->target), node);
}

static __always_inline int inspect_ipv6(const struct frame *f, const int dir, const int l3)
{
	struct nd nd = {};
	struct ip6hdr ip;
	struct address src, dst;
	int kind;

	if (load(f, l3, 0, &ip, sizeof(ip)))
		return PASS;
	__builtin_memcpy(&src, ip.src, sizeof(src));
	__builtin_memcpy(&dst, ip.dst, sizeof(dst));
	kind = find_nd(f, l3, ip.next, &nd);

	if (dir == IN && kind == ND_ADVERT)
		claim_if_vip(f, &nd.target, nd.link);
	if (dir == IN && kind == ND_SOLICIT)
		claim_if_vip(f, &src, nd.link);

	if (dir == IN && is_closed_vip(&dst))
		return drop(REASON_IP6_IN);
	if (dir == OUT && is_closed_vip(&src))
		return drop(REASON_IP6_OUT);
	if (dir == IN && kind == ND_SOLICIT && is_closed_vip(&nd.target))
		return drop(REASON_ND_IN);
	if (dir == OUT && kind == ND_ADVERT && is_closed_vip(&nd.target))
		return drop(REASON_ND_OUT);
	/* Discovery has hop limit 255; what hides behind a chain like that may name any VIP. */
	if (kind == ND_UNREADABLE && ip.hop_limit == 255 && (f->active & ACTIVE_VIP6))
		return drop(dir == IN ? REASON_ND_IN : REASON_ND_OUT);

	if (f->active & ACTIVE_BLOCKED) {
		const struct address *remote = dir == IN ? &src : &dst;
		if (!is_peer_nd(f, dir, kind, &nd, remote) &&
		    is_blocked_ip(f, dir, l3, remote, ip.next, sizeof(ip)))
			return drop(REASON_BLOCKED);
	}

	if (dir == IN && (f->active & ACTIVE_FORWARDING) && forwarding_closed(f)) {
		struct bpf_fib_lookup fib = {.family = AF_INET6, .l4_protocol = ip.next};
		/* bpf_fib_lookup itself says that multicast and link-local are not forwarded. */
		__builtin_memcpy(fib.src, ip.src, sizeof(fib.src));
		__builtin_memcpy(fib.dst, ip.dst, sizeof(fib.dst));
		if (would_forward(f, &fib))
			return drop(REASON_FORWARD);
	}
	return PASS;
}

static __always_inline int inspect_arp(const struct frame *f, const int dir, const int l3)
{
	struct address sender, target;
	struct blocked_addr *b;
	struct arphdr arp;
	__be32 sip, tip;
	__u64 node, link = 0;

	if (load(f, l3, 0, &arp, sizeof(arp)) || arp.proto != BE16(ETH_P_IP) || arp.proto_len != 4 ||
	    arp.hw_len > ARP_MAX_HW_LEN)
		return PASS; /* not about IPv4 addresses */
	if (load(f, l3, sizeof(arp) + arp.hw_len, &sip, sizeof(sip)) ||
	    load(f, l3, sizeof(arp) + 2 * arp.hw_len + 4, &tip, sizeof(tip)))
		return PASS;
	if (arp.hw_len == 6) {
		__u8 m[6];
		if (!load(f, l3, sizeof(arp), m, sizeof(m)))
			link = pack_mac(m);
	}
	sender = mapped(sip);
	target = mapped(tip);

	if (dir == IN)
		claim_if_vip(f, &sender, link);
	/* A gratuitous request asks nothing; it refreshes the cache of a standby that is a client. */
	if (dir == IN && arp.op == BE16(ARP_REQUEST) && !same_addr(&sender, &target) && is_closed_vip(&target))
		return drop(REASON_ARP_IN);
	if (dir == OUT && is_closed_vip(&sender))
		return drop(REASON_ARP_OUT);

	if (!(f->active & ACTIVE_BLOCKED))
		return PASS;
	node = dir == IN ? blocked_sender(f) : 0;
	b = blocked_address(dir == IN ? &sender : &target);
	if ((node || b) && !is_peer(b, node))
		return drop(REASON_BLOCKED);
	return PASS;
}

/* Decides on a frame that the fast filter could not clear. */
static __always_inline int inspect(struct __sk_buff *skb, const int dir, const int l3, __u32 active)
{
	struct frame f = {.skb = skb, .active = active, .proto = skb->protocol};

	if (!l3) {
		struct ethhdr eth;
		if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
			return PASS;
		f.mac = pack_mac(eth.src);
		f.proto = eth.proto;
		f.net = sizeof(eth);
		f.tagged = skb->vlan_present && (skb->vlan_tci & 0xfff);
		/* Deeper tags belong to VLAN interfaces above, which have gates of their own. */
		for (int i = 0; i < MAX_TAGS && is_vlan(f.proto); i++) {
			__be16 tag[2];
			if (bpf_skb_load_bytes(skb, f.net, tag, sizeof(tag)))
				return PASS;
			f.tagged |= (tag[0] & BE16(0xfff)) != 0;
			f.proto = tag[1];
			f.net += sizeof(tag);
		}
	}

	if (f.proto == BE16(ETH_P_IP))
		return inspect_ipv4(&f, dir, l3);
	if (f.proto == BE16(ETH_P_IPV6))
		return inspect_ipv6(&f, dir, l3);
	if (f.proto == BE16(ETH_P_ARP))
		return inspect_arp(&f, dir, l3);
	if (dir == IN && (active & ACTIVE_BLOCKED) && blocked_sender(&f))
		return drop(REASON_BLOCKED);
	return PASS;
}

/* ---- the fast filter: only a proof says yes ---- */

/* Whether this interface's traffic may be in the forwarding scope. */
static __always_inline int maybe_forwarding(struct __sk_buff *skb, const int dir, __u32 active)
{
	return dir == IN && (active & ACTIVE_FORWARDING) && ((filter.forward_bits >> (skb->ifindex & 63)) & 1);
}

/* Whether a packet between these two surely meets no VIP here and no blocked address. */
static __always_inline int clear_hashes(__u32 local, __u32 remote, __u32 active)
{
	if (maybe_vip(local))
		return 0;
	return !(active & ACTIVE_BLOCKED) || !maybe_blocked(remote);
}

static __always_inline int clear_ipv6(struct ip6hdr *ip, void *end, const int dir, __u32 active)
{
	__u32 src = hash_addr((struct address *)ip->src), dst = hash_addr((struct address *)ip->dst);
	struct {
		__u8 type, rest[7];
		struct address target;
	} *nd = (void *)(ip + 1);

	if (!clear_hashes(dir == IN ? dst : src, dir == IN ? src : dst, active))
		return 0;
	if (ip->next == NEXT_TCP || ip->next == NEXT_UDP)
		return 1;
	if (ip->next != NEXT_ICMPV6 || (void *)&nd->rest > end)
		return 0;
	if (nd->type != ND_SOLICIT && nd->type != ND_ADVERT)
		return 1;
	return (void *)(nd + 1) <= end && !maybe_vip(src) && !maybe_vip(hash_addr(&nd->target));
}

static __always_inline int clear_arp(void *net, void *end, const int dir, __u32 active)
{
	struct {
		struct arphdr h;
		__u8 sha[6];
		__be16 sip[2];
		__u8 tha[6];
		__be16 tip[2];
	} *arp = net;
	__u32 sender, target;

	if ((void *)(arp + 1) > end || arp->h.hw_len != 6)
		return 0;
	sender = hash_v4(arp->sip[0] | (__u32)arp->sip[1] << 16);
	target = hash_v4(arp->tip[0] | (__u32)arp->tip[1] << 16);
	if (dir == IN)
		return !maybe_vip(target) && clear_hashes(sender, sender, active);
	return clear_hashes(sender, target, active);
}

/* Whether a frame surely has nothing to do with VIPs and blocked members. */
static __always_inline int surely_other(struct __sk_buff *skb, const int dir, __u32 active)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end, *net;
	struct ethhdr *eth = data;
	__be16 proto, *tag;

	net = eth + 1;
	if (net + sizeof(struct iphdr) > end)
		return 0;
	proto = eth->proto;
	if (dir == IN && (active & ACTIVE_BLOCKED)) {
		__u16 *m = (void *)eth->src;
		if (maybe_blocked(hash32((m[0] | (__u32)m[1] << 16) ^ m[2])))
			return 0;
	}
	for (int i = 0; i < MAX_TAGS && unlikely(is_vlan(proto)); i++) {
		tag = net;
		net = tag + 2;
		if (net + sizeof(struct iphdr) > end)
			return 0;
		proto = tag[1];
	}
	if (proto == BE16(ETH_P_IP)) {
		struct iphdr *ip = net;
		__u32 src = hash_v4(ip->src), dst = hash_v4(ip->dst);
		return clear_hashes(dir == IN ? dst : src, dir == IN ? src : dst, active);
	}
	if (proto == BE16(ETH_P_IPV6))
		return net + sizeof(struct ip6hdr) <= end && clear_ipv6(net, end, dir, active);
	if (proto == BE16(ETH_P_ARP))
		return clear_arp(net, end, dir, active);
	return 1; /* a third tag too: see inspect */
}

/* The same for IPv4 on links without an Ethernet header; one helper instead of many. */
static __always_inline int surely_other_l3(struct __sk_buff *skb, const int dir, __u32 active)
{
	__be32 local;

	if (skb->protocol != BE16(ETH_P_IP) || (active & ACTIVE_BLOCKED))
		return 0;
	if (bpf_skb_load_bytes_relative(skb, dir == IN ? 16 : 12, &local, sizeof(local), BPF_HDR_START_NET))
		return 0;
	return !maybe_vip(hash_v4(local));
}

static __always_inline int gate(struct __sk_buff *skb, const int dir, const int l3)
{
	__u32 active = filter.active;

	if (!active)
		return PASS;
	if (likely(!maybe_forwarding(skb, dir, active)) &&
	    likely(l3 ? surely_other_l3(skb, dir, active) : surely_other(skb, dir, active)))
		return PASS;
	return inspect(skb, dir, l3, active);
}

SEC("tc")
int holdfast_in(struct __sk_buff *skb)
{
	return gate(skb, IN, 0);
}

SEC("tc")
int holdfast_out(struct __sk_buff *skb)
{
	return gate(skb, OUT, 0);
}

SEC("tc")
int holdfast_in_l3(struct __sk_buff *skb)
{
	return gate(skb, IN, 1);
}

SEC("tc")
int holdfast_out_l3(struct __sk_buff *skb)
{
	return gate(skb, OUT, 1);
}
