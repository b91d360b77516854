package netfence

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

// TestLifeOfAGate follows a gate with real packets through open, close, the
// death of its processes, adoption by a new guard, and removal.
func TestLifeOfAGate(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			p := newPair(t)
			dir := pinRoot(t)
			f := loadFence(t, dir, mode)
			if err := f.AttachAll(); !errors.Is(err, ErrVIPsFirst) {
				t.Fatalf("AttachAll before SetVIPs: %v", err)
			}
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			check(t, f.AttachAll()) // twice is once
			check(t, f.Verify())
			p.expectVIP(t, "new gate", false)

			g := openGate(t, f, 7)
			open(t, g, vipGroup)
			p.expectVIP(t, "open gate", true)
			check(t, g.CloseGroup(vipGroup))
			p.expectVIP(t, "closed by the worker", false)
			open(t, g, vipGroup)
			check(t, f.CloseAll())
			p.expectVIP(t, "closed by the guard", false)
			if err := g.Open(vipGroup, clock.Boottime()+40e9, clock.Boottime()); !errors.Is(err, ErrClosedByGuard) {
				t.Errorf("late write of a worker: %v", err)
			}

			check(t, f.Close()) // the guard is gone, and so is every descriptor of this process
			p.expectVIP(t, "no process left", false)

			f = loadFence(t, dir, mode)
			p.expectVIP(t, "adopted", false)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			check(t, f.Verify())
			p.expectVIP(t, "adopted and attached", false)
			g = openGate(t, f, 8)
			if c, err := g.Counters(); err != nil || c["ip_in"] == 0 || c["arp_in"] == 0 {
				t.Errorf("counters did not outlive the guard: %v, %v", c, err)
			}
			open(t, g, vipGroup)
			p.expectVIP(t, "open after adoption", true)

			check(t, f.Close()) // a guard that dies leaves the lease of its worker to the deadline
			p.expectVIP(t, "guard died", true)
			f = loadFence(t, dir, mode)
			p.expectVIP(t, "a new guard begins by closing", false)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())

			check(t, f.Detach())
			p.expectVIP(t, "detached", true)
			expectNothingLeft(t, dir)
		})
	}
}

// TestDeadlineClosesWithoutAnyone covers that time alone closes the gate.
func TestDeadlineClosesWithoutAnyone(t *testing.T) {
	p := newPair(t)
	f := loadFence(t, pinRoot(t), ModeTCX)
	check(t, f.SetVIPs(bothVIPs))
	check(t, f.AttachAll())
	g := openGate(t, f, 7)
	now := clock.Boottime()
	check(t, g.Open(vipGroup, now+1e9, now))
	check(t, f.Close())
	for {
		v, err := g.Read(vipGroup)
		check(t, err)
		if !v.Open {
			break
		}
		inside(t, p.client, func() { pings(vip4, false) })
	}
	if clock.Boottime() < now+1e9 {
		t.Error("gate closed before its deadline")
	}
	p.expectVIP(t, "deadline passed", false)
}

// TestStandbyIsAClient covers that a closed gate does not keep this host from
// using the VIP that another host holds.
func TestStandbyIsAClient(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			host := inNewNamespace(t)
			holder := newPeer(t)
			wire(t, "g0", holder, "c0")
			addAddrs(t, "g0", "10.9.0.1/24", "fd09::1/64")
			inside(t, holder, func() {
				addAddrs(t, "c0", "10.9.0.2/24", "fd09::2/64", "10.9.0.100/32", "fd09::100/128")
			})
			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			expectPing(t, host, "standby as a client", true, vip4, vip6)
			eventually(t, "the holder answers the standby's probe", func() bool {
				return len(whoHas(t, "g0", zero4, vip4, 100*time.Millisecond)) == 1
			})
			check(t, f.Detach())
		})
	}
}

// TestSecondInterfaceStaysSilent covers DESIGN section 8: Linux answers ARP for
// an address of one interface on another one of the same LAN.
func TestSecondInterfaceStaysSilent(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			inNewNamespace(t)
			lan := newPeer(t)
			wire(t, "g0", lan, "p0")
			wire(t, "g1", lan, "p1")
			inside(t, lan, func() {
				run(t, "ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
				for _, port := range []string{"p0", "p1"} {
					run(t, "ip", "link", "set", port, "master", "br0")
				}
				run(t, "ip", "link", "set", "br0", "up")
				addAddrs(t, "br0", "10.9.0.2/24")
			})
			addAddrs(t, "g0", "10.9.0.1/24", "10.9.0.100/32")
			addAddrs(t, "g1", "10.9.0.3/24")
			answers := func(wait time.Duration) (n int) {
				inside(t, lan, func() { n = len(whoHas(t, "br0", other4, vip4, wait)) })
				return n
			}
			eventually(t, "both interfaces answer without a gate", func() bool { return answers(200*time.Millisecond) == 2 })
			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			if n := answers(300 * time.Millisecond); n != 0 {
				t.Errorf("%d interfaces answer for a closed VIP", n)
			}
			g := openGate(t, f, 7)
			open(t, g, vipGroup)
			eventually(t, "both interfaces answer for an open VIP", func() bool { return answers(200*time.Millisecond) == 2 })

			// What one interface announces and the other hears is no conflict.
			before, err := g.Counters()
			check(t, err)
			announce(t, "g0")
			inside(t, lan, func() { answers(50 * time.Millisecond) })
			v, err := g.Read(vipGroup)
			check(t, err)
			after, err := g.Counters()
			check(t, err)
			if !v.Open || v.Conflict != 0 || after["foreign"] != before["foreign"] {
				t.Errorf("our own announcement counted: %+v, %v", v, after)
			}
			check(t, f.Detach())
		})
	}
}
