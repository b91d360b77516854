package netfence

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestForwardingRules covers what the scope lets pass, on a host that routes.
func TestForwardingRules(t *testing.T) {
	b := newBench(t)
	run(t, "ip", "link", "add", "f0", "type", "veth", "peer", "name", "f1")
	run(t, "ip", "link", "set", "f0", "up")
	run(t, "ip", "link", "set", "f1", "up")
	addAddrs(t, "f0", "10.9.0.1/24", "fd09::1/64")
	addAddrs(t, "f1", "10.8.0.1/24", "fd08::1/64")
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		check(t, os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0o644))
	}
	for _, a := range []string{"10.9.0.1", "10.8.0.1", "fd09::1", "fd08::1"} {
		// Not before the kernel has noticed that the link is up.
		eventually(t, a+" is this host's", func() bool {
			routes, err := netlink.RouteGet(net.ParseIP(a))
			return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
		})
	}
	f0, err := netlink.LinkByName("f0")
	check(t, err)
	f1, err := netlink.LinkByName("f1")
	check(t, err)
	index, mac := f0.Attrs().Index, f0.Attrs().HardwareAddr
	check(t, b.SetForwarding(index, vipGroup))
	far4, far6 := mustAddr("10.8.0.2"), mustAddr("fd08::2")
	toUs := func(frame []byte) []byte { copy(frame, mac); return frame }
	v4 := func(dst string) []byte {
		return toUs(ether(strangerMAC, 0x0800, ip4(other4, mustAddr(dst), protoUDP, udp(1, 2))))
	}
	v6 := func(dst string) []byte {
		return toUs(ether(strangerMAC, 0x86dd, ip6(other6, mustAddr(dst), protoUDP, 64, udp(1, 2))))
	}
	tagged := func(tag uint16) []byte {
		return toUs(ether(strangerMAC, 0x0800, ip4(other4, far4, protoUDP, udp(1, 2)), tag))
	}
	for _, c := range []struct {
		name  string
		frame []byte
		drop  bool
	}{
		{"to the far side", v4(far4.String()), true},
		{"to the far side, IPv6", v6(far6.String()), true},
		{"to the far side, priority tag", tagged(0x6000), true},
		{"to the far side, VLAN of another interface", tagged(9), false},
		{"to the far side, frame not for us", ether(strangerMAC, 0x0800, ip4(other4, far4, protoUDP, udp(1, 2))), false},
		{"to us", v4("10.9.0.1"), false},
		{"to us on the far side", v4("10.8.0.1"), false},
		{"to us, IPv6", v6("fd08::1"), false},
		{"without a route", v4("203.0.113.1"), false},
		{"without a route, IPv6", v6("2001:db8::1"), false},
		{"multicast", v4("239.1.1.1"), false},
		{"limited broadcast", v4("255.255.255.255"), false},
		{"broadcast of the LAN", v4("10.9.0.255"), false},
		{"multicast, IPv6", v6("ff05::1"), false},
		{"ARP", toUs(etherARP(strangerMAC, arpRequest, other4, own4)), false},
	} {
		if got := b.verdict(t, ingress, false, c.frame, index) == verdictDrop; got != c.drop {
			t.Errorf("closed: %s: dropped is %v, want %v", c.name, got, c.drop)
		}
		elsewhere := append(slices.Clone(f1.Attrs().HardwareAddr), c.frame[6:]...)
		if b.verdict(t, ingress, false, elsewhere, f1.Attrs().Index) == verdictDrop {
			t.Errorf("another interface: %s: dropped", c.name)
		}
		if b.verdict(t, egress, false, c.frame, index) == verdictDrop {
			t.Errorf("egress: %s: dropped", c.name)
		}
	}
	// Multicast and unknown destinations pass also when a default route would take them.
	run(t, "ip", "route", "add", "default", "via", "10.8.0.2")
	run(t, "ip", "-6", "route", "add", "default", "via", "fd08::2")
	for _, dst := range []string{"239.1.1.1", "255.255.255.255"} {
		if b.verdict(t, ingress, false, v4(dst), index) == verdictDrop {
			t.Errorf("closed, with a default route: %s dropped", dst)
		}
	}
	if b.verdict(t, ingress, false, v6("ff05::1"), index) == verdictDrop {
		t.Error("closed, with a default route: IPv6 multicast dropped")
	}
	if b.verdict(t, ingress, false, v4("203.0.113.1"), index) != verdictDrop {
		t.Error("closed, with a default route: the world passes")
	}
	for kind, net := range map[string]string{"blackhole": "203.0.113", "unreachable": "198.51.100", "prohibit": "192.0.2"} {
		run(t, "ip", "route", "add", kind, net+".0/24")
		if b.verdict(t, ingress, false, v4(net+".1"), index) == verdictDrop {
			t.Errorf("a %s route forwards nothing, but its packet was dropped", kind)
		}
	}
	// Another interface whose number shares the filter's bit.
	check(t, b.g.ClearForwarding(index))
	check(t, b.SetForwarding(index+64, vipGroup))
	if b.verdict(t, ingress, false, v4(far4.String()), index) == verdictDrop {
		t.Error("the scope of another interface was applied")
	}
	check(t, b.SetForwarding(index, vipGroup))
	open(t, b.g, vipGroup)
	if b.verdict(t, ingress, false, v4(far4.String()), index) == verdictDrop {
		t.Error("open: dropped")
	}
	check(t, b.g.CloseGroup(vipGroup))
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		check(t, os.WriteFile("/proc/sys/net/"+key, []byte("0"), 0o644))
	}
	if b.verdict(t, ingress, false, v4(far4.String()), index) == verdictDrop {
		t.Error("closed, but this host does not route: dropped")
	}
}

// TestForwardingScope covers scope "forwarding": nothing is routed on from the
// interface while closed, and everything local goes on.
func TestForwardingScope(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			inNewNamespace(t)
			lan, wan := newPeer(t), newPeer(t)
			wire(t, "lan0", lan, "l0")
			wire(t, "wan0", wan, "w0")
			addAddrs(t, "lan0", "10.9.0.1/24", "fd09::1/64")
			addAddrs(t, "wan0", "10.8.0.1/24", "fd08::1/64")
			inside(t, lan, func() {
				addAddrs(t, "l0", "10.9.0.2/24", "fd09::2/64")
				run(t, "ip", "route", "add", "default", "via", "10.9.0.1")
				run(t, "ip", "-6", "route", "add", "default", "via", "fd09::1")
			})
			inside(t, wan, func() {
				addAddrs(t, "w0", "10.8.0.2/24", "fd08::2/64")
				run(t, "ip", "route", "add", "default", "via", "10.8.0.1")
				run(t, "ip", "-6", "route", "add", "default", "via", "fd08::1")
			})
			for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
				check(t, os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0o644))
			}
			far := []netip.Addr{mustAddr("10.8.0.2"), mustAddr("fd08::2")}
			local := []netip.Addr{own4, own6, mustAddr("10.8.0.1"), mustAddr("fd08::1")}
			expectPing(t, lan, "without a gate", true, far...)

			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs(nil)) // a group may have no VIP on this host
			lan0, err := netlink.LinkByName("lan0")
			check(t, err)
			check(t, f.SetForwarding(lan0.Attrs().Index, vipGroup))
			check(t, f.AttachAll())
			expectPing(t, lan, "closed, forwarded", false, far...)
			expectPing(t, lan, "closed, local", true, local...)
			expectPing(t, wan, "closed, another interface, local", true, local...)
			expectBroadcast(t, lan)

			g := openGate(t, f, 7)
			open(t, g, vipGroup)
			expectPing(t, lan, "open, forwarded", true, far...)
			c, err := g.Counters()
			check(t, err)
			if c["forward"] == 0 || c["ip_in"] != 0 {
				t.Errorf("counters: %v", c)
			}
			check(t, g.CloseGroup(vipGroup))
			expectPing(t, lan, "closed again", false, far...)
			check(t, g.ClearForwarding(lan0.Attrs().Index))
			expectPing(t, lan, "out of scope", true, far...)
			check(t, f.Detach())
		})
	}
}

// expectBroadcast sends to the LAN's broadcast address and wants it received.
func expectBroadcast(t testing.TB, lan netns.NsHandle) {
	t.Helper()
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 4747})
	check(t, err)
	defer listener.Close()
	inside(t, lan, func() {
		c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 9, 0, 255), Port: 4747})
		check(t, err)
		defer c.Close()
		_, err = c.Write([]byte("hello"))
		check(t, err)
	})
	check(t, listener.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, _, err := listener.ReadFrom(make([]byte, 16)); err != nil {
		t.Errorf("broadcast from behind a closed gate: %v", err)
	}
}
