package netfence

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

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
	// Without an Ethernet header nobody can be told.
	for name, frame := range claims(memberMAC) {
		b.verdict(t, ingress, true, frame, 0)
		if got := b.drops(t, ingress, false, probe); got != "" {
			t.Errorf("%s on a tunnel closed the gate", name)
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
