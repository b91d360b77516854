package netfence

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/holdfast-ha/holdfast/bpf"
	"github.com/holdfast-ha/holdfast/internal/clock"
)

const (
	verdictPass = 0xffffffff // TC_ACT_UNSPEC, TCX_NEXT
	verdictDrop = 2          // TC_ACT_SHOT, TCX_DROP
	testNumber  = 7
)

// bench is a loaded gate whose programs are run on frames by hand. Nothing is
// attached.
type bench struct {
	*Fence
	g *Gate
}

func newBench(t testing.TB) *bench {
	t.Helper()
	inNewNamespace(t)
	f := loadFence(t, "", ModeClsact)
	t.Cleanup(func() { check(t, f.Close()) })
	check(t, f.SetVIPs([]VIP{{vip4, vipGroup}, {vip6, vipGroup}}))
	check(t, f.t.setOwnMACs(map[uint64]struct{}{packMAC(ownMAC): {}}))
	g := openGate(t, f, testNumber)
	check(t, g.SetMembers(map[[6]byte]uint64{memberMAC: memberNode}))
	return &bench{f, g}
}

func (b *bench) program(d direction, l3 bool) *ebpf.Program {
	name := map[direction]string{ingress: bpf.GateProgHoldfastIn, egress: bpf.GateProgHoldfastOut}[d]
	if l3 {
		name += "_l3"
	}
	return b.progs[name]
}

// skb is the head of struct __sk_buff up to ifindex, as a test run takes it.
type skb struct {
	_       [10]uint32
	Ifindex uint32
	_       [37]uint32
}

// verdict runs a program once on a frame, on the interface ifindex if not 0.
func (b *bench) verdict(t testing.TB, d direction, l3 bool, frame []byte, ifindex int) uint32 {
	t.Helper()
	opts := &ebpf.RunOptions{Data: frame}
	if ifindex != 0 {
		opts.Context = skb{Ifindex: uint32(ifindex)}
	}
	v, err := b.program(d, l3).Run(opts)
	if err != nil {
		t.Fatalf("run program: %v", err)
	}
	return v
}

// drops runs a frame and returns the reason for which it was dropped, empty
// when it passed.
func (b *bench) drops(t testing.TB, d direction, l3 bool, frame []byte) string {
	t.Helper()
	before, err := b.g.Counters()
	check(t, err)
	v := b.verdict(t, d, l3, frame, 0)
	after, err := b.g.Counters()
	check(t, err)
	reason := ""
	for name := range after {
		if name != "conflict" && name != "foreign" && name != "event_lost" && after[name] != before[name] {
			reason += name
		}
	}
	if (reason != "") != (v == verdictDrop) || (v != verdictDrop && v != verdictPass) {
		t.Fatalf("verdict %#x with counted reason %q", v, reason)
	}
	return reason
}

// set writes a gate value and the guard's number past all checks.
func (b *bench) set(t testing.TB, number, incarnation uint64, deadline, sent, conflict int64) {
	t.Helper()
	check(t, b.t.setNumber(number))
	base := uintptr(vipGroup) * gateSize
	b.t.gates.store(base+gateDeadline, uint64(deadline))
	b.t.gates.store(base+gateIncarnation, incarnation)
	b.t.gates.store(base+gateSent, uint64(sent))
	check(t, b.t.maps["conflicts"].Put(uint32(vipGroup), bpf.GateConflict{Last: uint64(conflict)}))
}

// gateStates are all the ways a gate can stand.
func gateStates() map[string]struct {
	open bool
	set  func(testing.TB, *bench, int64)
} {
	type state = struct {
		open bool
		set  func(testing.TB, *bench, int64)
	}
	return map[string]state{
		"open":                   {true, func(t testing.TB, b *bench, now int64) { b.set(t, 7, 7, now+60e9, now, 0) }},
		"open after a conflict":  {true, func(t testing.TB, b *bench, now int64) { b.set(t, 7, 7, now+60e9, now, now-1) }},
		"all zero":               {false, func(t testing.TB, b *bench, now int64) { b.set(t, 7, 0, 0, 0, 0) }},
		"expired":                {false, func(t testing.TB, b *bench, now int64) { b.set(t, 7, 7, now, now, 0) }},
		"no deadline":            {false, func(t testing.TB, b *bench, now int64) { b.set(t, 7, 7, 0, now, 0) }},
		"old incarnation":        {false, func(t testing.TB, b *bench, now int64) { b.set(t, 8, 7, now+60e9, now, 0) }},
		"number zero":            {false, func(t testing.TB, b *bench, now int64) { b.set(t, 0, 7, now+60e9, now, 0) }},
		"number and value zero":  {false, func(t testing.TB, b *bench, now int64) { b.set(t, 0, 0, now+60e9, now, 0) }},
		"conflict after request": {false, func(t testing.TB, b *bench, now int64) { b.set(t, 7, 7, now+60e9, now, now+1) }},
		"conflict with request":  {false, func(t testing.TB, b *bench, now int64) { b.set(t, 7, 7, now+60e9, now, now) }},
		"never sent":             {false, func(t testing.TB, b *bench, now int64) { b.set(t, 7, 7, now+60e9, 0, 0) }},
		"no such group": {false, func(t testing.TB, b *bench, now int64) {
			b.set(t, 7, 7, now+60e9, now, 0)
			for _, a := range []netip.Addr{vip4, vip6} {
				check(t, b.t.maps["vips"].Put(address(a), uint32(MaxGroups+1)))
			}
		}},
	}
}

// TestPackets is the gate's rule (PROTOCOL section 2, after G8): every kind of
// packet, in every state, on links with and without an Ethernet header.
func TestPackets(t *testing.T) {
	b := newBench(t)
	for name, state := range gateStates() {
		t.Run(name, func(t *testing.T) {
			state.set(t, b, clock.Boottime())
			for _, c := range packetCases() {
				for _, l3 := range []bool{false, true} {
					if l3 && c.l2only || c.frame == nil {
						continue
					}
					want := c.reason
					if state.open {
						want = ""
					}
					if c.name == "hop limit 255, too many headers" {
						want = "nd_in" // whatever the gate says: it cannot tell
					}
					state.set(t, b, clock.Boottime()) // claims among the frames close it
					if got := b.drops(t, c.d, l3, c.frame); got != want {
						t.Errorf("%s %s, l3 %v: dropped for %q, want %q", c.d, c.name, l3, got, want)
					}
				}
			}
			check(t, b.SetVIPs([]VIP{{vip4, vipGroup}, {vip6, vipGroup}}))
		})
	}
}

// TestNothingWithoutVIPs proves that an idle gate passes everything.
func TestNothingWithoutVIPs(t *testing.T) {
	b := newBench(t)
	check(t, b.SetVIPs(nil))
	for _, c := range packetCases() {
		if got := b.drops(t, c.d, false, c.frame); got != "" {
			t.Errorf("%s %s: dropped for %q without any VIP", c.d, c.name, got)
		}
	}
}

// TestGroupsAreApart opens one of two groups.
func TestGroupsAreApart(t *testing.T) {
	b := newBench(t)
	second := mustAddr("10.9.0.101")
	check(t, b.SetVIPs([]VIP{{vip4, vipGroup}, {second, 6}}))
	open(t, b.g, 6)
	to := func(a netip.Addr) []byte { return ether(strangerMAC, 0x0800, ip4(other4, a, protoUDP, udp(1, 2))) }
	if got := b.drops(t, ingress, false, to(second)); got != "" {
		t.Errorf("open group: dropped for %q", got)
	}
	if got := b.drops(t, ingress, false, to(vip4)); got != "ip_in" {
		t.Errorf("closed group: dropped for %q", got)
	}
}

// TestFilterNamesEveryVIP proves that the hash of Go and of C agree: of many
// VIPs each is gated, and after removal none is.
func TestFilterNamesEveryVIP(t *testing.T) {
	b := newBench(t)
	var vips []VIP
	for i := range 400 {
		vips = append(vips,
			VIP{netip.AddrFrom4([4]byte{10, byte(i * 7), byte(i >> 3), byte(i)}), uint16(i)},
			VIP{netip.AddrFrom16([16]byte{0xfd, byte(i), 0, byte(i * 3), 4, 0, 0, byte(i >> 1), 8: byte(i * 11), 15: byte(i)}), uint16(i)})
	}
	frame := func(v VIP) []byte {
		if v.Addr.Is4() {
			return ether(strangerMAC, 0x0800, ip4(other4, v.Addr, protoUDP, udp(1, 2)))
		}
		return ether(strangerMAC, 0x86dd, ip6(other6, v.Addr, protoUDP, 64, udp(1, 2)))
	}
	check(t, b.SetVIPs(vips))
	for _, v := range vips {
		if b.verdict(t, ingress, false, frame(v), 0) != verdictDrop {
			t.Errorf("%v passes", v.Addr)
		}
	}
	check(t, b.SetVIPs(vips[:1]))
	for i, v := range vips {
		if got := b.verdict(t, ingress, false, frame(v), 0) == verdictDrop; got != (i == 0) {
			t.Errorf("after removal: %v dropped is %v", v.Addr, got)
		}
	}
}

// claims are announcements of the VIPs from a MAC.
func claims(mac [6]byte) map[string][]byte {
	return map[string][]byte{
		"gratuitous request":      etherARP(mac, arpRequest, vip4, vip4),
		"gratuitous reply":        etherARP(mac, arpReply, vip4, vip4),
		"request as the VIP":      etherARP(mac, arpRequest, vip4, other4),
		"tagged request":          ether(mac, 0x0806, arp(arpRequest, mac, vip4, vip4), 7),
		"NA":                      etherND(mac, 136, vip6, all6, vip6),
		"NA from another address": etherND(mac, 136, link6, all6, vip6),
		"NA to the VIP":           etherND(mac, 136, link6, vip6, vip6),
		"NA behind hop-by-hop":    etherND(mac, 136, link6, all6, vip6, 0),
		"NS as the VIP":           etherND(mac, 135, vip6, all6, other6),
		"ARP, MAC inside":         ether(strangerMAC, 0x0806, arp(arpReply, mac, vip4, vip4)),
		"NA, MAC inside":          ether(strangerMAC, 0x86dd, ip6(link6, all6, protoICMP6, 255, nd(136, vip6, mac))),
	}
}

// TestMemberConflictCloses covers the third condition of the gate: a member's
// claim closes in that instant, an older request cannot reopen, a newer can.
func TestMemberConflictCloses(t *testing.T) {
	b := newBench(t)
	probe := ether(strangerMAC, 0x0800, ip4(other4, vip4, protoUDP, udp(1, 2)))
	for name, frame := range claims(memberMAC) {
		t.Run(name, func(t *testing.T) {
			open(t, b.g, vipGroup)
			if got := b.drops(t, ingress, false, probe); got != "" {
				t.Fatalf("open gate drops for %q", got)
			}
			sent := clock.Boottime()
			b.verdict(t, ingress, false, frame, 0)
			if got := b.drops(t, ingress, false, probe); got != "ip_in" {
				t.Fatalf("after the claim: dropped for %q, want ip_in", got)
			}
			v, err := b.g.Read(vipGroup)
			check(t, err)
			if v.Open || v.Conflict < sent {
				t.Fatalf("after the claim at or after %d: %+v", sent, v)
			}
			check(t, b.g.Open(vipGroup, clock.Boottime()+30e9, sent))
			if got := b.drops(t, ingress, false, probe); got != "ip_in" {
				t.Fatalf("a request of before the conflict reopened the gate")
			}
			open(t, b.g, vipGroup)
			if got := b.drops(t, ingress, false, probe); got != "" {
				t.Fatalf("a request of after the conflict: dropped for %q", got)
			}
		})
	}
}

// TestStrangersCannotClose covers the rule that only members do.
func TestStrangersCannotClose(t *testing.T) {
	b := newBench(t)
	probe := ether(strangerMAC, 0x0800, ip4(other4, vip4, protoUDP, udp(1, 2)))
	for who, mac := range map[string][6]byte{"stranger": strangerMAC, "ourselves": ownMAC} {
		for name, frame := range claims(mac) {
			open(t, b.g, vipGroup)
			before, err := b.g.Counters()
			check(t, err)
			b.verdict(t, ingress, false, frame, 0)
			if got := b.drops(t, ingress, false, probe); got != "" {
				t.Errorf("%s of %s closed the gate", name, who)
			}
			after, err := b.g.Counters()
			check(t, err)
			heard := after["foreign"] > before["foreign"]
			if want := mac == strangerMAC || frame[11] == strangerMAC[5]; heard != want || after["conflict"] != before["conflict"] {
				t.Errorf("%s of %s: counted as foreign %v, want %v", name, who, heard, want)
			}
		}
	}
	// No claims: a question for the VIP, a packet from it, a claim of another address.
	for name, frame := range map[string][]byte{
		"request for the VIP": etherARP(memberMAC, arpRequest, other4, vip4),
		"probe for the VIP":   etherARP(memberMAC, arpRequest, zero4, vip4),
		"packet to the VIP":   ether(memberMAC, 0x0800, ip4(other4, vip4, protoUDP, udp(1, 2))),
		"NS for the VIP":      etherND(memberMAC, 135, other6, all6, vip6),
		"other announcement":  etherARP(memberMAC, arpReply, other4, other4),
		"NA of another":       etherND(memberMAC, 136, other6, all6, other6),
	} {
		open(t, b.g, vipGroup)
		b.verdict(t, ingress, false, frame, 0)
		if got := b.drops(t, ingress, false, probe); got != "" {
			t.Errorf("%s closed the gate", name)
		}
	}
	// Our own announcements leave through the egress program.
	open(t, b.g, vipGroup)
	for name, frame := range claims(memberMAC) {
		b.verdict(t, egress, false, frame, 0)
		if got := b.drops(t, ingress, false, probe); got != "" {
			t.Errorf("%s at egress closed the gate", name)
		}
	}
	// A MAC that is ours and a member's is ours.
	check(t, b.g.SetMembers(map[[6]byte]uint64{ownMAC: memberNode}))
	b.verdict(t, ingress, false, claims(ownMAC)["gratuitous reply"], 0)
	if got := b.drops(t, ingress, false, probe); got != "" {
		t.Error("our own announcement closed the gate")
	}
}

// TestEvents covers what the worker hears, and the limit on how often.
func TestEvents(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan Event, 16)
	ended := make(chan error, 1)
	go func() { ended <- b.g.Events(ctx, func(e Event) { events <- e }) }()
	next := func() Event {
		t.Helper()
		select {
		case e := <-events:
			return e
		case err := <-ended:
			t.Fatalf("events ended: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("no event")
		}
		return Event{}
	}

	open(t, b.g, vipGroup)
	before := clock.Boottime()
	for range 20 { // the strangers' flood must not hide the member's claim
		b.verdict(t, ingress, false, claims(strangerMAC)["NA"], 0)
	}
	b.verdict(t, ingress, false, claims(memberMAC)["NA"], 0)
	took := clock.Boottime() - before

	foreign := next()
	if foreign.Kind != Foreign || foreign.Group != vipGroup || foreign.MAC != strangerMAC || foreign.Node != 0 ||
		foreign.Time < before || !foreign.WasOpen || foreign.Ifindex == 0 {
		t.Errorf("stranger's claim: %+v", foreign)
	}
	member := next()
	for member.Kind == Foreign && took > 100e6 { // a slow machine may see a second one
		member = next()
	}
	if member.Kind != Conflict || member.MAC != memberMAC || member.Node != memberNode || !member.WasOpen {
		t.Errorf("member's claim: %+v", member)
	}

	// The next claim by a member after the interval is told, and that the gate was closed.
	told := member.Time
	for clock.Boottime() < told+100e6 {
		b.verdict(t, ingress, false, claims(memberMAC)["NA"], 0)
	}
	b.verdict(t, ingress, false, claims(memberMAC)["NA"], 0)
	again := next()
	if again.Kind != Conflict || again.WasOpen || again.Time < told+100e6 {
		t.Errorf("claim after the interval, %d ns later: %+v", again.Time-told, again)
	}
	cancel()
	check(t, <-ended)
	counters, err := b.g.Counters()
	check(t, err)
	if counters["foreign"] != 20 || counters["conflict"] < 3 {
		t.Errorf("counters: %v", counters)
	}
}

// TestBlocked covers the fencing of members: frames of their MACs and
// addresses drop, but the members still reach each other's peer port.
func TestBlocked(t *testing.T) {
	b := newBench(t)
	peer4, peer6, data4 := mustAddr("10.9.1.2"), mustAddr("fd09:1::2"), mustAddr("10.9.0.22")
	thirdMAC, thirdPeer := [6]byte{2, 0, 0, 0, 0, 9}, mustAddr("10.9.1.3")
	const peerPort = 4647
	frame4 := func(mac [6]byte, src, dst netip.Addr, proto uint8, p []byte) []byte {
		return ether(mac, 0x0800, ip4(src, dst, proto, p))
	}
	frame6 := func(mac [6]byte, src, dst netip.Addr, proto uint8, p []byte) []byte {
		return ether(mac, 0x86dd, ip6(src, dst, proto, 64, p))
	}
	fragment := ether(memberMAC, 0x0800, ip4Options(peer4, own4, protoUDP, 185, nil, udp(peerPort, peerPort)))
	cases := []struct {
		name  string
		d     direction
		frame []byte
		drop  bool
	}{
		{"its data address", ingress, frame4(strangerMAC, data4, own4, protoUDP, udp(1, 2)), true},
		{"its MAC, forwarding for others", ingress, frame4(memberMAC, other4, own4, protoUDP, udp(1, 2)), true},
		{"its MAC, IPv6", ingress, frame6(memberMAC, other6, own6, protoUDP, udp(1, 2)), true},
		{"its MAC, another protocol", ingress, ether(memberMAC, 0x88cc, make([]byte, 50)), true},
		{"its MAC, tagged", ingress, ether(memberMAC, 0x0800, ip4(other4, own4, protoUDP, udp(1, 2)), 7), true},
		{"peer port, from", ingress, frame4(memberMAC, peer4, own4, protoUDP, udp(peerPort, 9)), false},
		{"peer port, to", ingress, frame4(memberMAC, peer4, own4, protoTCP, udp(9, peerPort)), false},
		{"peer port, IPv6", ingress, frame6(memberMAC, peer6, own6, protoTCP, udp(9, peerPort)), false},
		{"peer port of a data address", ingress, frame4(memberMAC, data4, own4, protoUDP, udp(peerPort, 9)), true},
		{"peer address, another port", ingress, frame4(memberMAC, peer4, own4, protoUDP, udp(1, 2)), true},
		{"peer address, ICMP", ingress, frame4(memberMAC, peer4, own4, protoICMP, udp(peerPort, 9)), true},
		{"peer address, later fragment", ingress, fragment, true},
		{"peer address of another node", ingress, frame4(memberMAC, thirdPeer, own4, protoUDP, udp(peerPort, 9)), true},
		{"peer address, ICMPv6", ingress, frame6(memberMAC, peer6, own6, protoICMP6, []byte{128, 0, 0, 0}), true},
		{"ARP of its peer address", ingress, etherARP(memberMAC, arpReply, peer4, own4), false},
		{"ARP question of its peer address", ingress, etherARP(memberMAC, arpRequest, peer4, own4), false},
		{"ARP of its data address", ingress, etherARP(memberMAC, arpReply, data4, own4), true},
		{"ARP as the VIP", ingress, etherARP(memberMAC, arpReply, vip4, vip4), true},
		{"NS from its peer address", ingress, etherND(memberMAC, 135, peer6, all6, own6), false},
		{"NA of its peer address", ingress, etherND(memberMAC, 136, peer6, own6, peer6), false},
		{"NA of the VIP from its peer address", ingress, etherND(memberMAC, 136, peer6, own6, vip6), true},
		{"NA of the VIP from elsewhere", ingress, etherND(memberMAC, 136, link6, all6, vip6), true},

		{"to its data address", egress, frame4(ownMAC, own4, data4, protoUDP, udp(1, 2)), true},
		{"to its peer port", egress, frame4(ownMAC, own4, peer4, protoUDP, udp(9, peerPort)), false},
		{"to its peer port, IPv6", egress, frame6(ownMAC, own6, peer6, protoUDP, udp(9, peerPort)), false},
		{"from our peer port", egress, frame4(ownMAC, own4, peer4, protoTCP, udp(peerPort, 9)), false},
		{"to another port of it", egress, frame4(ownMAC, own4, peer4, protoUDP, udp(9, 22)), true},
		{"ARP question for its peer address", egress, etherARP(ownMAC, arpRequest, own4, peer4), false},
		{"ARP question for its data address", egress, etherARP(ownMAC, arpRequest, own4, data4), true},
		{"NA to its peer address", egress, etherND(ownMAC, 136, own6, peer6, own6), false},
		{"NS for its peer address", egress, etherND(ownMAC, 135, own6, all6, peer6), false},
		{"NS probe to its peer address", egress, etherND(ownMAC, 135, own6, peer6, peer6), false},
		{"to others", egress, frame4(ownMAC, own4, other4, protoUDP, udp(1, 2)), false},
		{"from others", ingress, frame4(strangerMAC, other4, own4, protoUDP, udp(1, 2)), false},
		{"ARP of others", ingress, etherARP(strangerMAC, arpReply, other4, own4), false},
		{"IPv6 of others", ingress, frame6(strangerMAC, other6, own6, protoUDP, udp(1, 2)), false},
	}
	list := []Blocked{
		{Node: memberNode, MACs: [][6]byte{memberMAC}, Addrs: []netip.Addr{data4, peer4}, Ports: []uint16{4000, peerPort}, Peer: []netip.Addr{peer4, peer6}},
		{Node: 0x33, MACs: [][6]byte{thirdMAC}, Ports: []uint16{peerPort}, Peer: []netip.Addr{thirdPeer}},
	}
	check(t, b.g.Block(list))
	for _, c := range cases {
		want := ""
		if c.drop {
			want = "blocked"
		}
		if got := b.drops(t, c.d, false, c.frame); got != want {
			t.Errorf("%s %s: dropped for %q, want %q", c.d, c.name, got, want)
		}
	}

	// A fenced member's claim still closes: our list may be older than its lease.
	open(t, b.g, vipGroup)
	b.verdict(t, ingress, false, claims(memberMAC)["gratuitous reply"], 0)
	if v, err := b.g.Read(vipGroup); err != nil || v.Open {
		t.Errorf("claim by a fenced member left the gate open: %+v, %v", v, err)
	}

	check(t, b.g.Block(list[1:]))
	if got := b.drops(t, ingress, false, frame4(memberMAC, data4, own4, protoUDP, udp(1, 2))); got != "" {
		t.Errorf("after unfencing: dropped for %q", got)
	}
	if got := b.drops(t, ingress, false, frame4(thirdMAC, other4, own4, protoUDP, udp(1, 2))); got != "blocked" {
		t.Errorf("member that stays fenced: dropped for %q", got)
	}
	check(t, b.g.Block(nil))
	if got := b.drops(t, ingress, false, frame4(thirdMAC, other4, own4, protoUDP, udp(1, 2))); got != "" {
		t.Errorf("after unfencing all: dropped for %q", got)
	}
}

// TestOpenRules covers what Open refuses and what it panics at.
func TestOpenRules(t *testing.T) {
	b := newBench(t)
	now := clock.Boottime()
	if err := b.g.Open(vipGroup, now+int64(2*MaxAhead), now); err == nil {
		t.Error("a deadline two minutes away was accepted")
	}
	if err := b.g.Open(MaxGroups, now+1, now); !errors.Is(err, ErrLimit) {
		t.Errorf("group out of range: %v", err)
	}
	panics := func(name string, deadline, sent int64) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s did not panic", name)
			}
		}()
		_ = b.g.Open(vipGroup, deadline, sent)
	}
	check(t, b.g.Open(vipGroup, now+10e9, now))
	check(t, b.g.Open(vipGroup, now+10e9, now)) // the same again is no step back
	panics("an earlier deadline", now+9e9, now)
	panics("an earlier request", now+11e9, now-1)
	panics("a request from the future", now+11e9, clock.Boottime()+10e9)
	panics("no request", now+11e9, 0)
	check(t, b.g.CloseGroup(vipGroup))
	panics("an earlier deadline after closing", now+9e9, now)

	check(t, b.SetIncarnation(testNumber+1))
	if err := b.g.Open(vipGroup, now+11e9, now+1); !errors.Is(err, ErrClosedByGuard) {
		t.Errorf("after the guard's close: %v", err)
	}
	v, err := b.g.Read(vipGroup)
	check(t, err)
	if v != (Value{}) {
		t.Errorf("a refused Open wrote %+v", v)
	}
}

// TestGuardCloses covers the guard's two ways to close.
func TestGuardCloses(t *testing.T) {
	b := newBench(t)
	for g := range uint16(3) {
		open(t, b.g, vipGroup+g)
	}
	check(t, b.SetIncarnation(99))
	if v, err := b.g.Read(vipGroup); err != nil || v.Open {
		t.Errorf("another number left the gate open: %+v, %v", v, err)
	}
	check(t, b.SetIncarnation(testNumber))
	if v, err := b.g.Read(vipGroup); err != nil || !v.Open {
		t.Errorf("gate is not open before CloseAll: %+v, %v", v, err)
	}
	check(t, b.CloseAll())
	for g := range uint16(3) {
		if v, err := b.g.Read(vipGroup + g); err != nil || v != (Value{}) {
			t.Errorf("after CloseAll group %d: %+v, %v", vipGroup+g, v, err)
		}
	}
	files, err := b.GateFiles()
	check(t, err)
	if _, err := OpenGate(files); !errors.Is(err, ErrClosedByGuard) {
		t.Errorf("OpenGate on a closed gate: %v", err)
	}
	if _, err := OpenGate(files[1:]); err == nil {
		t.Error("OpenGate took too few files")
	}
	files[1], files[2] = files[2], files[1]
	if _, err := OpenGate(files); err == nil {
		t.Error("OpenGate took files in the wrong order")
	}
	for _, f := range files {
		check(t, f.Close())
	}
}

// TestListLimits covers that every list has a limit and says it.
func TestListLimits(t *testing.T) {
	b := newBench(t)
	bad := map[string]error{
		"group":      b.SetVIPs([]VIP{{vip4, MaxGroups}}),
		"VIPs":       b.SetVIPs(manyVIPs(MaxVIPs + 1)),
		"forwarding": b.SetForwarding(0, 1),
		"ports":      b.g.Block([]Blocked{{Node: 1, Ports: make([]uint16, 9)}}),
		"node":       b.g.Block([]Blocked{{}}),
		"MACs":       b.g.Block([]Blocked{{Node: 1, MACs: manyMACs(65)}}),
	}
	for name, err := range bad {
		if !errors.Is(err, ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, a := range []netip.Addr{{}, mustAddr("0.0.0.0"), mustAddr("224.0.0.1"), mustAddr("fe80::1%eth0")} {
		if err := b.SetVIPs([]VIP{{a, 1}}); err == nil {
			t.Errorf("%v was taken for a VIP", a)
		}
	}
	if err := b.SetVIPs([]VIP{{vip4, 1}, {vip4, 2}}); err == nil {
		t.Error("one address in two groups was accepted")
	}
	for i := range MaxForwarding {
		check(t, b.g.SetForwarding(i+1, 1))
	}
	check(t, b.g.SetForwarding(1, 2)) // a change needs no free place
	if err := b.g.SetForwarding(MaxForwarding+1, 1); !errors.Is(err, ErrLimit) {
		t.Errorf("65th forwarding interface: %v", err)
	}
	check(t, b.g.ClearForwarding(1))
	check(t, b.g.SetForwarding(MaxForwarding+1, 1))
	check(t, b.SetVIPs(manyVIPs(MaxVIPs)))
	check(t, b.g.Block([]Blocked{{Node: 1, MACs: manyMACs(64)}}))
	check(t, b.g.Block([]Blocked{{Node: 1, MACs: manyMACs(65)[1:]}})) // one moves, 63 stay
}

func manyVIPs(n int) []VIP {
	var out []VIP
	for i := range n {
		out = append(out, VIP{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1})
	}
	return out
}

func manyMACs(n int) [][6]byte {
	var out [][6]byte
	for i := range n {
		out = append(out, [6]byte{2, 1, 0, 0, byte(i >> 8), byte(i)})
	}
	return out
}

// TestCost reports what a packet that is for no VIP costs beside an empty
// program. It asserts nothing about time: other work shares the processor.
func TestCost(t *testing.T) {
	b := newBench(t)
	empty := emptyProgram(t)
	frames := []struct {
		name string
		d    direction
		l3   bool
		data []byte
	}{
		{"IPv4 in", ingress, false, ether(strangerMAC, 0x0800, ip4(other4, own4, protoUDP, udp(1, 2)))},
		{"IPv4 out", egress, false, ether(ownMAC, 0x0800, ip4(own4, other4, protoUDP, udp(1, 2)))},
		{"IPv6 in", ingress, false, ether(strangerMAC, 0x86dd, ip6(other6, own6, protoTCP, 64, udp(1, 2)))},
		{"IPv6 out", egress, false, ether(ownMAC, 0x86dd, ip6(own6, other6, protoTCP, 64, udp(1, 2)))},
		{"IPv6 echo in", ingress, false, ether(strangerMAC, 0x86dd, ip6(other6, own6, protoICMP6, 64, []byte{128, 0, 0, 0}))},
		{"ARP in", ingress, false, etherARP(strangerMAC, arpRequest, other4, own4)},
		{"ARP out", egress, false, etherARP(ownMAC, arpReply, own4, other4)},
		{"LLDP in", ingress, false, ether(strangerMAC, 0x88cc, make([]byte, 60))},
		{"IPv4 in, one tag in-band", ingress, false, ether(strangerMAC, 0x0800, ip4(other4, own4, protoUDP, udp(1, 2)), 1)},
		{"NS in", ingress, false, etherND(strangerMAC, 135, other6, all6, own6)},
		{"IPv4 in, no Ethernet header", ingress, true, ether(strangerMAC, 0x0800, ip4(other4, own4, protoUDP, udp(1, 2)))},
		{"IPv4 in, for a VIP, open", ingress, false, ether(strangerMAC, 0x0800, ip4(other4, vip4, protoUDP, udp(1, 2)))},
	}
	blocked := []Blocked{{Node: 1, MACs: [][6]byte{memberMAC}, Addrs: []netip.Addr{mustAddr("10.9.0.22")}}}
	open(t, b.g, vipGroup)
	for _, with := range []string{"nothing blocked", "a member blocked"} {
		if with != "nothing blocked" {
			check(t, b.g.Block(blocked))
		}
		for _, fr := range frames {
			base, cost := 1e9, 1e9
			for range 5 {
				base = min(base, perRun(t, empty, fr.data))
				cost = min(cost, perRun(t, b.program(fr.d, fr.l3), fr.data))
			}
			t.Log(fmt.Sprintf("%-30s %-17s %6.1f ns, empty %5.1f ns, ratio %.2f", fr.name, with, cost, base, cost/base))
		}
	}
}

func emptyProgram(t testing.TB) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: emptyInstructions()})
	check(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// perRun returns nanoseconds per run over many runs.
func perRun(t testing.TB, p *ebpf.Program, frame []byte) float64 {
	t.Helper()
	const repeat = 200_000
	start := time.Now()
	if _, err := p.Run(&ebpf.RunOptions{Data: frame, Repeat: repeat}); err != nil {
		t.Fatalf("run program: %v", err)
	}
	return float64(time.Since(start).Nanoseconds()) / repeat
}
