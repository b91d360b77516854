package netfence

import (
	"net/netip"
	"testing"

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
					if l3 && c.l2only {
						continue
					}
					want := c.reason
					if state.open && !c.always {
						want = ""
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

// TestNoIPv6VIP covers that odd IPv6 chains are not ours to judge then.
func TestNoIPv6VIP(t *testing.T) {
	b := newBench(t)
	check(t, b.SetVIPs([]VIP{{vip4, vipGroup}}))
	for _, c := range packetCases() {
		if got := b.drops(t, c.d, false, c.frame); c.always && got != "" {
			t.Errorf("%s %s: dropped for %q without any IPv6 VIP", c.d, c.name, got)
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
