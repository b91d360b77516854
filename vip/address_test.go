package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func addr(prefix string) Address {
	return Address{Prefix: netip.MustParsePrefix(prefix), Interface: "lan0"}
}

func usable(t *testing.T, m *Manager, a Address) Presence {
	t.Helper()
	p, err := m.Present(a)
	must(t, err)
	if !p.Present || !p.Usable {
		t.Fatalf("%v is not usable: %+v", a, p)
	}
	return p
}

func absent(t *testing.T, m *Manager, a Address) {
	t.Helper()
	p, err := m.Present(a)
	must(t, err)
	if p.Present || p.Usable {
		t.Fatalf("%v is still there: %+v", a, p)
	}
}

func TestAddRemoveTwice(t *testing.T) {
	a, _ := pair(t)
	a.address(t, "lan0", "192.0.2.2/24")
	a.address(t, "lan0", "2001:db8::2/64")
	m := a.manager(t)
	for _, tc := range []struct{ given, installed string }{
		{"192.0.2.100/24", "192.0.2.100/32"},      // the host's own subnet
		{"2001:db8::100/64", "2001:db8::100/128"}, // the same
		{"198.51.100.1/24", "198.51.100.1/24"},    // needs its route
		{"2001:db8:1::1/64", "2001:db8:1::1/64"},  // the same
		{"203.0.113.9/32", "203.0.113.9/32"},
		{"::ffff:203.0.113.10/128", "203.0.113.10/32"},
	} {
		t.Run(tc.given, func(t *testing.T) {
			before := a.addresses(t, "lan0")
			for range 2 {
				must(t, m.Add(addr(tc.given)))
				if p := usable(t, m, addr(tc.given)); p.Prefix.String() != tc.installed {
					t.Fatalf("installed as %v, want %s", p.Prefix, tc.installed)
				}
			}
			if n := len(a.addresses(t, "lan0")) - len(before); n != 1 {
				t.Fatalf("adding twice gave %d addresses", n)
			}
			for range 2 {
				must(t, m.Remove(addr(tc.given)))
				absent(t, m, addr(tc.given))
			}
			if after := a.addresses(t, "lan0"); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Fatalf("addresses before %v, after %v", before, after)
			}
		})
	}
}

// An address that waits for duplicate detection does not answer for a second
// or more, and one that failed never does.
func TestIPv6UsableAtOnce(t *testing.T) {
	a, b := pair(t)
	m := a.manager(t)
	v := addr("2001:db8::100/64")
	must(t, m.Add(v))
	if p := usable(t, m, v); p.Prefix.Bits() != 64 {
		t.Fatalf("installed as %v", p.Prefix)
	}
	flags := a.addresses(t, "lan0")["2001:db8::100/64"]
	if flags&unix.IFA_F_NODAD == 0 || flags&unix.IFA_F_TENTATIVE != 0 || flags&unix.IFA_F_PERMANENT == 0 {
		t.Fatalf("flags are %#x", flags)
	}
	must(t, m.Remove(v))

	// Somebody added it the ordinary way while the other host has it.
	b.address(t, "lan0", "2001:db8::100/64")
	plain, err := netlink.ParseAddr("2001:db8::100/64")
	must(t, err)
	must(t, a.h.AddrAdd(a.link(t, "lan0"), plain))
	if p, err := m.Present(v); err != nil || !p.Present || p.Usable {
		t.Fatalf("tentative address is %+v, %v", p, err)
	}
	eventually(t, "duplicate detection failed", func() bool {
		return a.addresses(t, "lan0")["2001:db8::100/64"]&unix.IFA_F_DADFAILED != 0
	})
	if p, err := m.Present(v); err != nil || !p.Present || p.Usable {
		t.Fatalf("failed address is %+v, %v", p, err)
	}
	must(t, m.Add(v))
	usable(t, m, v)
}

// localAddr is the source that the kernel chooses for a new connection.
func localAddr(t *testing.T, s *space, remote string) string {
	t.Helper()
	host, _, err := net.SplitHostPort(s.dial(t, "udp", nil, net.JoinHostPort(remote, "9")).LocalAddr().String())
	must(t, err)
	return host
}

// The host's own connections never come from the floating address, even after
// a network daemon took the host's address away and put it back.
func TestSourceSelectionUnchanged(t *testing.T) {
	a, _ := pair(t)
	m := a.manager(t)
	for _, tc := range []struct{ own, vip, remote string }{
		{"192.0.2.2/24", "192.0.2.100/24", "192.0.2.50"},
		{"2001:db8::2/64", "2001:db8::100/64", "2001:db8::101"},
	} {
		own := netip.MustParsePrefix(tc.own).Addr().String()
		a.address(t, "lan0", tc.own)
		must(t, m.Add(addr(tc.vip)))
		if got := localAddr(t, a, tc.remote); got != own {
			t.Fatalf("source for %s is %s, want %s", tc.remote, got, own)
		}
		a.removeAddress(t, "lan0", tc.own)
		p := usable(t, m, addr(tc.vip)) // must not go with it
		// Deleted as well while the host has no address: it comes back in the
		// same form, or it would be the primary of what follows.
		a.removeAddress(t, "lan0", p.Prefix.String())
		must(t, m.Add(addr(tc.vip)))
		if again := usable(t, m, addr(tc.vip)); again.Prefix != p.Prefix {
			t.Fatalf("put back as %v, was %v", again.Prefix, p.Prefix)
		}
		a.address(t, "lan0", tc.own)
		if got := localAddr(t, a, tc.remote); got != own {
			t.Fatalf("source for %s is %s after a restart of the network, want %s", tc.remote, got, own)
		}
	}
}

// Removing a primary makes the kernel remove its secondaries: another group's
// address, or the host's own that came later.
func TestRemoveKeepsBystanders(t *testing.T) {
	a, _ := pair(t)
	m := a.manager(t)
	must(t, m.Add(addr("192.0.2.100/24")))
	must(t, m.Add(addr("192.0.2.101/24")))
	a.address(t, "lan0", "192.0.2.2/24")
	if f := a.addresses(t, "lan0")["192.0.2.101/24"]; f&unix.IFA_F_SECONDARY == 0 {
		t.Fatalf("the second address is no secondary: flags %#x", f)
	}
	must(t, m.Remove(addr("192.0.2.100/24")))
	absent(t, m, addr("192.0.2.100/24"))
	usable(t, m, addr("192.0.2.101/24"))
	if _, ok := a.addresses(t, "lan0")["192.0.2.2/24"]; !ok {
		t.Fatal("the host's own address is gone")
	}
	routes, err := a.h.RouteGet(net.ParseIP("192.0.2.50"))
	if err != nil || len(routes) == 0 {
		t.Fatalf("the subnet lost its route: %v", err)
	}
}

func TestMissingInterface(t *testing.T) {
	a, b := newSpace(t), newSpace(t)
	m := a.manager(t)
	v := addr("192.0.2.100/24")
	for range 2 {
		if err := m.Add(v); !errors.Is(err, ErrNoInterface) {
			t.Fatalf("add without interface: %v", err)
		}
		must(t, m.Remove(v))
		absent(t, m, v)
		if _, err := m.Interface("lan0"); !errors.Is(err, ErrNoInterface) {
			t.Fatalf("look up: %v", err)
		}
		if err := m.Announce(v.Prefix.Addr(), "lan0"); !errors.Is(err, ErrNoInterface) {
			t.Fatalf("announce without interface: %v", err)
		}
		veth(t, a, "lan0", b, "lan0")
		must(t, m.Add(v))
		must(t, m.Announce(v.Prefix.Addr(), "lan0"))
		must(t, a.h.LinkDel(a.link(t, "lan0")))
	}
	for _, name := range []string{"", "a-name-of-sixteen", "../lan0"} {
		if err := m.Add(Address{v.Prefix, name}); !errors.Is(err, ErrNoInterface) {
			t.Fatalf("interface %q: %v", name, err)
		}
	}
	if err := m.Add(Address{Interface: "lan0"}); err == nil {
		t.Fatal("the zero prefix was accepted")
	}
}

func TestRemoveStrays(t *testing.T) {
	a, b := pair(t)
	veth(t, a, "wan0", b, "wan0")
	m := a.manager(t)
	for _, at := range []struct{ iface, prefix string }{
		{"lan0", "192.0.2.100/24"}, {"wan0", "192.0.2.100/32"}, {"lo", "192.0.2.100/32"},
		{"wan0", "2001:db8::100/128"}, {"lan0", "192.0.2.2/24"},
	} {
		a.address(t, at.iface, at.prefix)
	}
	must(t, m.Add(addr("192.0.2.100/24")))
	p, err := m.Present(addr("192.0.2.100/24"))
	if err != nil || fmt.Sprint(p.Elsewhere) != "[wan0]" {
		t.Fatalf("presence is %+v, %v", p, err)
	}
	listed := []netip.Addr{
		netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("2001:db8::100"), netip.MustParseAddr("203.0.113.1"),
	}
	strays, err := m.RemoveStrays(listed)
	if err != nil || len(strays) != 3 {
		t.Fatalf("removed %v, %v", strays, err)
	}
	if _, ok := a.addresses(t, "lan0")["192.0.2.2/24"]; !ok {
		t.Fatal("an unlisted secondary went with its primary")
	}
	if _, ok := a.addresses(t, "lo")["192.0.2.100/32"]; !ok {
		t.Fatal("the address of loopback was removed")
	}
	if strays, err = m.RemoveStrays(listed); err != nil || len(strays) != 0 {
		t.Fatalf("the second time removed %v, %v", strays, err)
	}
}

func TestIPv6Disabled(t *testing.T) {
	a, _ := pair(t)
	a.sysctl(t, "ipv6/conf/lan0/disable_ipv6", "1")
	err := a.manager(t).Add(addr("2001:db8::100/64"))
	if !isErrno(err, unix.EACCES) || !strings.Contains(err.Error(), "IPv6 disabled") {
		t.Fatalf("got %v", err)
	}
}

// An unprivileged thread gets EPERM from the kernel with a word on why.
func TestWithoutPrivilege(t *testing.T) {
	a, _ := pair(t)
	m := a.manager(t)
	type result struct{ add, announce error }
	c := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is of no more use
		// In the namespace, so that the Manager stays on this thread.
		if err := netns.Set(a.handle); err != nil {
			c <- result{err, err}
			return
		}
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			c <- result{err, err}
			return
		}
		c <- result{m.Add(addr("192.0.2.100/24")), m.Announce(netip.MustParseAddr("192.0.2.100"), "lan0")}
	}()
	got := <-c
	if !isErrno(got.add, unix.EPERM) || !strings.Contains(got.add.Error(), "CAP_NET_ADMIN") {
		t.Fatalf("add: %v", got.add)
	}
	if !isErrno(got.announce, unix.EPERM) {
		t.Fatalf("announce: %v", got.announce)
	}
}

func TestInterfaceState(t *testing.T) {
	a, b := pair(t)
	m := a.manager(t)
	i, err := m.Interface("lan0")
	must(t, err)
	if !i.Up || !i.Carrier || i.MTU != 1500 || i.Loopback || i.Index != a.link(t, "lan0").Attrs().Index {
		t.Fatalf("got %+v", i)
	}
	if got := net.HardwareAddr(i.MAC[:]).String(); got != a.link(t, "lan0").Attrs().HardwareAddr.String() {
		t.Fatalf("MAC is %s", got)
	}
	b.down(t, "lan0")
	eventually(t, "carrier lost", func() bool {
		i, err := m.Interface("lan0")
		return err == nil && i.Up && !i.Carrier
	})
	macs, err := m.MACs(nil)
	if err != nil || len(macs) != 1 || macs[0] != i.MAC {
		t.Fatalf("MACs are %x, %v", macs, err)
	}
	if macs, err = m.MACs([]string{"wan0", "lo"}); err != nil || len(macs) != 0 {
		t.Fatalf("MACs are %x, %v", macs, err)
	}
	if lo, err := m.Interface("lo"); err != nil || !lo.Loopback || lo.MAC != (MAC{}) {
		t.Fatalf("loopback is %+v, %v", lo, err)
	}
}

// Latency of the calls on the acquisition path, for the record.
func BenchmarkAddRemove(b *testing.B) {
	a, _ := pair(b)
	a.address(b, "lan0", "192.0.2.2/24")
	m := a.manager(b)
	v := addr("192.0.2.100/24")
	var slowest time.Duration
	for b.Loop() {
		at := time.Now()
		must(b, m.Add(v))
		slowest = max(slowest, time.Since(at))
		must(b, m.Remove(v))
	}
	b.ReportMetric(float64(slowest.Microseconds()), "µs-worst-add")
}
