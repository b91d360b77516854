package netfence

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

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
			for range 15 {
				base = min(base, perRun(t, empty, fr.data))
				cost = min(cost, perRun(t, b.program(fr.d, fr.l3), fr.data))
			}
			t.Logf("%-30s %-17s %6.1f ns, empty %5.1f ns, ratio %.2f", fr.name, with, cost, base, cost/base)
		}
	}
}

// TestCallCost reports what the calls of guard and worker take.
func TestCallCost(t *testing.T) {
	p := newPair(t)
	f := loadFence(t, pinRoot(t), ModeTCX)
	check(t, f.SetVIPs(bothVIPs))
	check(t, f.AttachAll())
	g := openGate(t, f, testNumber)
	for name, call := range map[string]func() error{
		"Open":           func() error { now := clock.Boottime(); return g.Open(vipGroup, now+1e9, now) },
		"CloseGroup":     func() error { return g.CloseGroup(vipGroup) },
		"SetIncarnation": func() error { return f.SetIncarnation(testNumber) },
		"Verify":         f.Verify,
	} {
		logCall(t, name, call)
	}
	logCall(t, "CloseAll", f.CloseAll)
	p.expectVIP(t, "at the end", false)
	check(t, f.Detach())
}

func logCall(t testing.TB, name string, call func() error) {
	t.Helper()
	const times = 50
	start := time.Now()
	for range times {
		check(t, call())
	}
	t.Logf("%-14s %v", name, time.Since(start)/times)
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
	const repeat = 50_000
	start := time.Now()
	if _, err := p.Run(&ebpf.RunOptions{Data: frame, Repeat: repeat}); err != nil {
		t.Fatalf("run program: %v", err)
	}
	return float64(time.Since(start).Nanoseconds()) / repeat
}
