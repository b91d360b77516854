package netfence

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"github.com/holdfast-ha/holdfast/bpf"
)

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

// TestFastFilterAgrees proves that the fast filter only ever saves work: for
// frames of every kind, mutilated in every way, the verdict is that of a full
// inspection. Frames change by a fixed seed that a failure prints.
func TestFastFilterAgrees(t *testing.T) {
	b := newBench(t)
	const seed = 20261124
	rng := rand.New(rand.NewPCG(seed, 0))
	cases := packetCases()
	for _, mac := range [][6]byte{memberMAC, strangerMAC} {
		for _, f := range claims(mac) {
			cases = append(cases, packetCase{d: ingress, frame: f})
		}
	}
	addresses := []netip.Addr{vip4, own4, other4, zero4, vip6, own6, other6, link6, all6}
	var all bitset
	for i := range all {
		all[i] = ^uint64(0)
	}
	run := func(d direction, frame []byte, full bool) uint32 {
		if full { // every address looks as if it might be blocked
			b.t.settle(offBlockedBits, &all)
		}
		b.t.flag(bpf.GateActiveACTIVE_BLOCKED, full)
		defer b.t.settle(offBlockedBits, &bitset{})
		return b.verdict(t, d, false, frame, 0)
	}
	dropped := 0
	for i := range 4000 {
		c := cases[rng.IntN(len(cases))]
		frame := slices.Clone(c.frame)
		for range rng.IntN(4) {
			switch at := rng.IntN(len(frame)); rng.IntN(3) {
			case 0:
				frame[at] = byte(rng.Uint32())
			case 1:
				copy(frame[min(14+rng.IntN(len(frame)), len(frame)):], addresses[rng.IntN(len(addresses))].AsSlice())
			case 2:
				frame = append(frame[:max(at, min(len(frame), 40))], make([]byte, rng.IntN(30))...)
			}
		}
		if !runnable(frame) {
			continue
		}
		d := directions[rng.IntN(2)]
		fast, full := run(d, frame, false), run(d, frame, true)
		if fast != full {
			t.Errorf("seed %d, frame %d: %s %x: fast %#x, full inspection %#x", seed, i, d, frame, fast, full)
		}
		if full == verdictDrop {
			dropped++
		}
	}
	if dropped < 400 {
		t.Errorf("only %d frames were dropped: the test does not test", dropped)
	}
}

// runnable tells whether the kernel's test run takes a frame: it refuses IP
// packets shorter than their header.
func runnable(frame []byte) bool {
	switch proto := binary.BigEndian.Uint16(frame[12:]); proto {
	case 0x0800:
		return len(frame) >= 34
	case 0x86dd:
		return len(frame) >= 54
	}
	return len(frame) >= 14
}

// TestLimitsMatchTheKernel covers that the tables hold two full lists, and that
// every reason has a name.
func TestLimitsMatchTheKernel(t *testing.T) {
	spec, err := loadSpec()
	check(t, err)
	for name, want := range map[string]int{
		"gates": MaxGroups, "conflicts": MaxGroups, "vips": 2 * MaxVIPs, "members": 2 * maxMACs, "own_macs": 2 * maxMACs,
		"blocked": 2 * maxBlockedAddrs, "counters": len(counterNames),
	} {
		if got := int(spec.Maps[name].MaxEntries); got != want {
			t.Errorf("%s has %d entries, want %d", name, got, want)
		}
	}
	var f bpf.GateFilterData
	if len(f.VipBits) != filterWords || len(f.BlockedBits) != filterWords || len(f.Forward) != MaxForwarding ||
		len(f.BlockedMacs) != maxBlockedMACs || unsafe.Sizeof(f.BlockedMacs[0]) != blockedMACSize {
		t.Errorf("filter is %d, %d, %d, %d", len(f.VipBits), len(f.BlockedBits), len(f.Forward), len(f.BlockedMacs))
	}
	if len(mapNames) != len(spec.Maps) {
		t.Errorf("%d maps in the object, %d are handed over", len(spec.Maps), len(mapNames))
	}
}
