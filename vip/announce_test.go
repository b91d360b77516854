package vip

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	vip4 = netip.MustParseAddr("192.0.2.100")
	vip6 = netip.MustParseAddr("2001:db8::100")
)

// capture receives every frame that arrives at a host's lan0.
func capture(t *testing.T, s *space) *packet.Conn {
	t.Helper()
	index := s.link(t, "lan0").Attrs().Index
	var c *packet.Conn
	must(t, s.do(func() (err error) {
		c, err = packet.Listen(&net.Interface{Index: index}, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	}))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// nextFrame returns the next frame from a MAC that fits; the kernels chatter.
func nextFrame(t *testing.T, c *packet.Conn, fits func(b []byte) bool) []byte {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	for {
		b := make([]byte, 2048)
		n, _, err := c.ReadFrom(b)
		must(t, err)
		if b = b[:n]; n >= 14 && fits(b) {
			return b
		}
	}
}

func isARP(b []byte) bool { return binary.BigEndian.Uint16(b[12:]) == 0x0806 }

func isNA(b []byte) bool {
	return binary.BigEndian.Uint16(b[12:]) == 0x86dd && len(b) > 54 && b[20] == 58 && b[54] == 136
}

// onesComplement is the Internet checksum (RFC 1071) written anew: over a
// message with its right checksum it is 0.
func onesComplement(parts ...[]byte) uint16 {
	var sum uint64
	for _, p := range parts {
		if len(p)%2 == 1 {
			p = append(p[:len(p):len(p)], 0)
		}
		for i := 0; i < len(p); i += 2 {
			sum += uint64(p[i])<<8 | uint64(p[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if string(got) != string(want) {
		t.Fatalf("%s is %x, want %x", what, got, want)
	}
}

func TestAnnounceARPFrames(t *testing.T) {
	a, b := pair(t)
	m := a.manager(t)
	i, err := m.Interface("lan0")
	must(t, err)
	c := capture(t, b)
	must(t, m.Announce(vip4, "lan0"))
	for _, form := range []struct {
		operation byte
		target    MAC
	}{{1, MAC{}}, {2, i.MAC}} {
		f := nextFrame(t, c, isARP)
		equal(t, "destination", f[:6], broadcast[:])
		equal(t, "source", f[6:12], i.MAC[:])
		// Ethernet, IPv4, lengths 6 and 4, operation.
		equal(t, "header", f[14:22], []byte{0, 1, 8, 0, 6, 4, 0, form.operation})
		equal(t, "sender MAC", f[22:28], i.MAC[:])
		equal(t, "sender address", f[28:32], vip4.AsSlice())
		equal(t, "target MAC", f[32:38], form.target[:])
		equal(t, "target address", f[38:42], vip4.AsSlice())
		if len(f) < 60 {
			t.Fatalf("frame has %d bytes, less than Ethernet allows", len(f))
		}
	}
}

func TestAnnounceNAFrame(t *testing.T) {
	a, b := pair(t)
	m := a.manager(t)
	i, err := m.Interface("lan0")
	must(t, err)
	c := capture(t, b)
	for _, tc := range []struct {
		forwarding string
		flags      byte
	}{{"0", 0x20}, {"1", 0xa0}} { // override; router and override
		a.sysctl(t, "ipv6/conf/lan0/forwarding", tc.forwarding)
		must(t, m.Announce(vip6, "lan0"))
		f := nextFrame(t, c, func(b []byte) bool {
			return isNA(b) && string(b[22:38]) == string(vip6.AsSlice())
		})
		equal(t, "destination", f[:6], []byte{0x33, 0x33, 0, 0, 0, 1})
		equal(t, "source", f[6:12], i.MAC[:])
		equal(t, "IPv6 header", f[14:22], []byte{0x60, 0, 0, 0, 0, 32, 58, 255})
		equal(t, "destination address", f[38:54], netip.MustParseAddr("ff02::1").AsSlice())
		equal(t, "type, code", f[54:56], []byte{136, 0})
		equal(t, "flags", f[58:62], []byte{tc.flags, 0, 0, 0})
		equal(t, "target", f[62:78], vip6.AsSlice())
		equal(t, "option", f[78:86], append([]byte{2, 1}, i.MAC[:]...))
		if len(f) != 86 {
			t.Fatalf("frame has %d bytes", len(f))
		}
		if sum := onesComplement(f[22:54], []byte{0, 0, 0, 32, 0, 0, 0, 58}, f[54:]); sum != 0 {
			t.Fatalf("checksum is off by %#x", sum)
		}
	}
}

// The MAC is read for each round: it may be changed under the socket.
func TestAnnounceFollowsInterface(t *testing.T) {
	a, b := pair(t)
	m := a.manager(t)
	must(t, m.Announce(vip4, "lan0"))

	fresh := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	must(t, a.h.LinkSetHardwareAddr(a.link(t, "lan0"), fresh))
	c := capture(t, b)
	must(t, m.Announce(vip4, "lan0"))
	equal(t, "sender MAC", nextFrame(t, c, isARP)[22:28], fresh)

	// Recreated under the same name, with another index.
	must(t, a.h.LinkDel(a.link(t, "lan0")))
	if err := m.Announce(vip4, "lan0"); !errors.Is(err, ErrNoInterface) {
		t.Fatalf("announce from a removed interface: %v", err)
	}
	veth(t, a, "lan0", b, "lan0")
	c = capture(t, b)
	must(t, m.Announce(vip4, "lan0"))
	nextFrame(t, c, isARP)

	// Another interface took over the name.
	veth(t, a, "new0", b, "new0")
	a.down(t, "lan0")
	a.down(t, "new0")
	must(t, a.h.LinkSetName(a.link(t, "lan0"), "old0"))
	must(t, a.h.LinkSetName(a.link(t, "new0"), "lan0"))
	if err := m.Announce(vip4, "lan0"); !isErrno(err, unix.ENETDOWN) {
		t.Fatalf("announce from an interface that is down: %v", err)
	}
	a.up(t, "lan0")
	want, err := m.Interface("lan0")
	must(t, err)
	must(t, b.h.LinkDel(b.link(t, "lan0")))
	must(t, b.h.LinkSetDown(b.link(t, "new0")))
	must(t, b.h.LinkSetName(b.link(t, "new0"), "lan0"))
	b.up(t, "lan0")
	c = capture(t, b)
	must(t, m.Announce(vip4, "lan0"))
	equal(t, "sender MAC", nextFrame(t, c, isARP)[22:28], want.MAC[:])
}

func TestAnnounceRefusals(t *testing.T) {
	a, _ := pair(t)
	m := a.manager(t)
	if err := m.Announce(vip4, "lo"); !errors.Is(err, ErrNotEthernet) {
		t.Fatalf("loopback: %v", err)
	}
	if err := m.Announce(netip.Addr{}, "lan0"); err == nil {
		t.Fatal("the zero address was announced")
	}
}

// A third host, which sends nothing, follows the address from one holder to
// the other: the kernel there judges the frames and their checksums.
func TestAnnounceMovesNeighbours(t *testing.T) {
	hosts := network(t, 3)
	a, b, c := hosts[0], hosts[1], hosts[2]
	for i, s := range hosts {
		digit := string(rune('2' + i))
		s.address(t, "lan0", "192.0.2."+digit+"/24")
		s.address(t, "lan0", "2001:db8::"+digit+"/64")
	}
	ma, mb, mc := a.manager(t), b.manager(t), c.manager(t)
	at := func(v netip.Addr) MAC {
		n, err := mc.Neighbours([]netip.Addr{v})
		must(t, err)
		if len(n[v]) != 1 {
			return MAC{}
		}
		return n[v][0]
	}
	for _, v := range []Address{addr("192.0.2.100/24"), addr("2001:db8::100/64")} {
		ip := v.Prefix.Addr()
		ia, err := ma.Interface("lan0")
		must(t, err)
		ib, err := mb.Interface("lan0")
		must(t, err)

		must(t, ma.Add(v))
		must(t, ma.Announce(ip, "lan0"))
		conn := c.dial(t, "udp", nil, net.JoinHostPort(ip.String(), "9"))
		eventually(t, ip.String()+" resolved to the first holder", func() bool {
			_, _ = conn.Write([]byte("?")) // refused, once resolved
			return at(ip) == ia.MAC
		})
		must(t, ma.Remove(v))
		must(t, mb.Add(v))
		if at(ip) != ia.MAC {
			t.Fatalf("%v moved without an announcement", ip)
		}
		start := time.Now()
		must(t, mb.Announce(ip, "lan0"))
		eventually(t, ip.String()+" moved to the second holder", func() bool { return at(ip) == ib.MAC })
		t.Logf("%v: neighbour moved within %v", ip, time.Since(start))
	}
}

// Neighbours leaves out what the kernel could not resolve.
func TestNeighboursUnresolved(t *testing.T) {
	a, _ := pair(t)
	m := a.manager(t)
	index := a.link(t, "lan0").Attrs().Index
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	must(t, a.h.NeighAdd(&netlink.Neigh{
		LinkIndex: index, State: unix.NUD_PERMANENT, IP: vip4.AsSlice(), HardwareAddr: mac,
	}))
	must(t, a.h.NeighAdd(&netlink.Neigh{
		LinkIndex: index, State: unix.NUD_FAILED, IP: vip6.AsSlice(), HardwareAddr: mac,
	}))
	got, err := m.Neighbours([]netip.Addr{vip4, vip6, netip.MustParseAddr("192.0.2.7")})
	if err != nil || len(got) != 1 || len(got[vip4]) != 1 || got[vip4][0] != MAC(mac) {
		t.Fatalf("got %x, %v", got, err)
	}
	if got, err = m.Neighbours(nil); err != nil || len(got) != 0 {
		t.Fatalf("got %x, %v", got, err)
	}
}

func BenchmarkAnnounce(b *testing.B) {
	a, _ := pair(b)
	m := a.manager(b)
	for _, v := range []netip.Addr{vip4, vip6} {
		b.Run(v.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				must(b, m.Announce(v, "lan0"))
			}
		})
	}
}
