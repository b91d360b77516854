package netfence

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

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
