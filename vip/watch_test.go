package vip

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// seen waits for the first event of type E that fits.
func seen[E Event](t *testing.T, events <-chan Event, fits func(E) bool) E {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("channel closed before %T", *new(E))
			}
			if got, ok := e.(E); ok && fits(got) {
				return got
			}
		case <-deadline:
			t.Fatalf("no %T", *new(E))
		}
	}
}

func watching(t *testing.T, m *Manager) <-chan Event {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events, err := m.Watch(ctx)
	must(t, err)
	t.Cleanup(func() {
		cancel()
		for range events { // until the goroutine has ended
		}
	})
	return events
}

// What the node does when a network daemon wipes the address.
func TestDeletedAddressIsPutBack(t *testing.T) {
	a, _ := pair(t)
	a.address(t, "lan0", "192.0.2.2/24")
	m := a.manager(t)
	for _, v := range []Address{addr("192.0.2.100/24"), addr("2001:db8::100/64")} {
		must(t, m.Add(v))
		events := watching(t, m)
		p := usable(t, m, v)
		start := time.Now()
		a.removeAddress(t, "lan0", p.Prefix.String())
		gone := seen(t, events, func(e AddressGone) bool { return e.Prefix.Addr() == v.Prefix.Addr() })
		if gone.Interface != "lan0" || gone.Prefix != p.Prefix {
			t.Fatalf("event is %+v", gone)
		}
		must(t, m.Add(v))
		took := time.Since(start)
		usable(t, m, v)
		added := seen(t, events, func(e AddressAdded) bool { return e.Prefix.Addr() == v.Prefix.Addr() })
		if !added.Usable || added.Index != gone.Index {
			t.Fatalf("event is %+v", added)
		}
		t.Logf("%v put back within %v", v, took)
		if took > 2*time.Second {
			t.Fatalf("put back after %v", took)
		}
	}
}

// Setting a link down takes its IPv6 addresses away; they can be put back
// while it is down, and are there when it comes up.
func TestLinkDownAndUp(t *testing.T) {
	a, b := pair(t)
	m := a.manager(t)
	v := addr("2001:db8::100/64")
	must(t, m.Add(v))
	events := watching(t, m)

	start := time.Now()
	b.down(t, "lan0")
	down := seen(t, events, func(e LinkDown) bool { return e.Name == "lan0" })
	t.Logf("carrier loss seen within %v", time.Since(start))
	if !down.Up || down.Carrier {
		t.Fatalf("event is %+v", down)
	}
	usable(t, m, v)
	b.up(t, "lan0")
	seen(t, events, func(e LinkUp) bool { return e.Name == "lan0" && e.Carrier })

	a.down(t, "lan0")
	seen(t, events, func(e AddressGone) bool { return e.Prefix.Addr() == v.Prefix.Addr() })
	must(t, m.Add(v))
	usable(t, m, v)
	a.up(t, "lan0")
	seen(t, events, func(e LinkUp) bool { return e.Name == "lan0" })
	usable(t, m, v)
}

func TestLinkAppearsChangesDisappears(t *testing.T) {
	a, b := newSpace(t), newSpace(t)
	m := a.manager(t)
	events := watching(t, m)
	veth(t, a, "lan0", b, "lan0")
	v := addr("192.0.2.100/24")
	appeared := seen(t, events, func(e LinkAppeared) bool { return e.Name == "lan0" })
	must(t, m.Add(v))
	seen(t, events, func(e LinkUp) bool { return e.Index == appeared.Index })

	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	must(t, a.h.LinkSetHardwareAddr(a.link(t, "lan0"), mac))
	seen(t, events, func(e LinkChanged) bool { return e.MAC == MAC(mac) })

	// A bridge port that leaves its bridge is no interface that disappears.
	must(t, a.h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	must(t, a.h.LinkSetMaster(a.link(t, "lan0"), a.link(t, "br0")))
	must(t, a.h.LinkSetNoMaster(a.link(t, "lan0")))
	must(t, a.h.LinkDel(a.link(t, "br0")))
	first := seen(t, events, func(LinkDisappeared) bool { return true })
	if first.Name != "br0" {
		t.Fatalf("%s disappeared, want br0", first.Name)
	}

	must(t, a.h.LinkDel(a.link(t, "lan0")))
	seen(t, events, func(e AddressGone) bool { return e.Prefix.Addr() == v.Prefix.Addr() })
	seen(t, events, func(e LinkDisappeared) bool { return e.Index == appeared.Index })
}

func TestWatchEnds(t *testing.T) {
	m := newSpace(t).manager(t)
	ctx, cancel := context.WithCancel(context.Background())
	events, err := m.Watch(ctx)
	must(t, err)
	cancel()
	for range events {
	}
	// Close ends the rest, also one whose consumer has gone.
	_, err = m.watch(context.Background(), watchBufferBytes, 0)
	must(t, err)
}

// A consumer that sleeps loses messages, learns it, and ends with the truth.
func TestOverrunResyncs(t *testing.T) {
	a, _ := pair(t)
	m := a.manager(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events, err := m.watch(ctx, 2048, 0)
	must(t, err)
	index := a.link(t, "lan0").Attrs().Index
	last := func(i int) string { return fmt.Sprintf("10.0.%d.%d/32", i/250, i%250+1) }
	const many = 500
	for i := range many {
		a.address(t, "lan0", last(i))
		if i%2 == 0 {
			a.removeAddress(t, "lan0", last(i))
		}
	}
	known := make(map[netip.Prefix]bool)
	resyncs := 0
	settled := func() bool {
		if len(known) != many/2 {
			return false
		}
		for i := 1; i < many; i += 2 {
			if !known[netip.MustParsePrefix(last(i))] {
				return false
			}
		}
		return resyncs > 0
	}
	deadline := time.After(patience)
	for !settled() {
		select {
		case e := <-events:
			switch e := e.(type) {
			case AddressAdded:
				if e.Index == index && e.Prefix.Addr().Is4() {
					known[e.Prefix] = true
				}
			case AddressGone:
				delete(known, e.Prefix)
			case Resync:
				resyncs++
				if !isErrno(e.Cause, unix.ENOBUFS) {
					t.Fatalf("resync because of %v", e.Cause)
				}
			}
		case <-deadline:
			t.Fatalf("knows %d addresses after %d resyncs", len(known), resyncs)
		}
	}
	// And it still watches.
	a.removeAddress(t, "lan0", last(1))
	seen(t, events, func(e AddressGone) bool { return e.Prefix.String() == last(1) })
}

// table turns full readings and single messages into the same events.
func TestTable(t *testing.T) {
	tab := newTable()
	up := Interface{Name: "lan0", Index: 2, Up: true, Carrier: true, MTU: 1500}
	noCarrier := up
	noCarrier.Carrier = false
	key := addressKey{2, netip.MustParsePrefix("192.0.2.1/24")}
	for _, step := range []struct {
		name string
		do   func() []Event
		want []Event
	}{
		{"first reading", func() []Event { return tab.replace([]Interface{up}, map[addressKey]bool{key: false}) },
			[]Event{LinkAppeared{up}, LinkUp{up}, AddressAdded{key.prefix, 2, "lan0", false}}},
		{"the same again", func() []Event { return tab.replace([]Interface{up}, map[addressKey]bool{key: false}) }, nil},
		{"usable", func() []Event { return tab.address(key, true) }, []Event{AddressAdded{key.prefix, 2, "lan0", true}}},
		{"lifetime renewed", func() []Event { return tab.address(key, true) }, nil},
		{"carrier lost", func() []Event { return tab.link(noCarrier) }, []Event{LinkDown{noCarrier}}},
		{"statistics", func() []Event { return tab.link(noCarrier) }, nil},
		{"carrier back unseen", func() []Event { return tab.replace([]Interface{up}, map[addressKey]bool{}) },
			[]Event{AddressGone{key.prefix, 2, "lan0"}, LinkUp{up}}},
		{"unknown address gone", func() []Event { return tab.unaddress(key) }, nil},
		{"address", func() []Event { return tab.address(key, true) }, []Event{AddressAdded{key.prefix, 2, "lan0", true}}},
		{"all gone unseen", func() []Event { return tab.replace(nil, nil) },
			[]Event{AddressGone{key.prefix, 2, "lan0"}, LinkDisappeared{up}}},
		{"unknown link gone", func() []Event { return tab.unlink(2) }, nil},
	} {
		if got := step.do(); fmt.Sprint(got) != fmt.Sprint(step.want) {
			t.Fatalf("%s: got %+v, want %+v", step.name, got, step.want)
		}
	}
}
