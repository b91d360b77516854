package netfence

import (
	"net/netip"
	"testing"
)

// TestBlocked covers the fencing of members: frames of their MACs and
// addresses drop, but the members still reach each other's peer port.
func TestBlocked(t *testing.T) {
	b := newBench(t)
	peer4, peer6, data4 := mustAddr("10.9.1.2"), mustAddr("fd09:1::2"), mustAddr("10.9.0.22")
	thirdMAC, thirdPeer := [6]byte{2, 0, 0, 0, 0, 9}, mustAddr("10.9.1.3")
	const peerPort = 4647
	frame4 := func(mac [6]byte, src, dst netip.Addr, proto uint8, p []byte) []byte {
		return ether(mac, 0x0800, ip4(src, dst, proto, p))
	}
	frame6 := func(mac [6]byte, src, dst netip.Addr, proto uint8, p []byte) []byte {
		return ether(mac, 0x86dd, ip6(src, dst, proto, 64, p))
	}
	fragment := ether(memberMAC, 0x0800, ip4Options(peer4, own4, protoUDP, 185, nil, udp(peerPort, peerPort)))
	cases := []struct {
		name  string
		d     direction
		frame []byte
		drop  bool
	}{
		{"its data address", ingress, frame4(strangerMAC, data4, own4, protoUDP, udp(1, 2)), true},
		{"its MAC, forwarding for others", ingress, frame4(memberMAC, other4, own4, protoUDP, udp(1, 2)), true},
		{"its MAC, IPv6", ingress, frame6(memberMAC, other6, own6, protoUDP, udp(1, 2)), true},
		{"its MAC, another protocol", ingress, ether(memberMAC, 0x88cc, make([]byte, 50)), true},
		{"its MAC, tagged", ingress, ether(memberMAC, 0x0800, ip4(other4, own4, protoUDP, udp(1, 2)), 7), true},
		{"peer port, from", ingress, frame4(memberMAC, peer4, own4, protoUDP, udp(peerPort, 9)), false},
		{"peer port, to", ingress, frame4(memberMAC, peer4, own4, protoTCP, udp(9, peerPort)), false},
		{"peer port, IPv6", ingress, frame6(memberMAC, peer6, own6, protoTCP, udp(9, peerPort)), false},
		{"peer port of a data address", ingress, frame4(memberMAC, data4, own4, protoUDP, udp(peerPort, 9)), true},
		{"peer address, another port", ingress, frame4(memberMAC, peer4, own4, protoUDP, udp(1, 2)), true},
		{"peer address, ICMP", ingress, frame4(memberMAC, peer4, own4, protoICMP, udp(peerPort, 9)), true},
		{"peer address, later fragment", ingress, fragment, true},
		{"peer address of another node", ingress, frame4(memberMAC, thirdPeer, own4, protoUDP, udp(peerPort, 9)), true},
		{"peer address, ICMPv6", ingress, frame6(memberMAC, peer6, own6, protoICMP6, []byte{128, 0, 0, 0}), true},
		{"ARP of its peer address", ingress, etherARP(memberMAC, arpReply, peer4, own4), false},
		{"ARP question of its peer address", ingress, etherARP(memberMAC, arpRequest, peer4, own4), false},
		{"ARP of its data address", ingress, etherARP(memberMAC, arpReply, data4, own4), true},
		{"ARP as the VIP", ingress, etherARP(memberMAC, arpReply, vip4, vip4), true},
		{"NS from its peer address", ingress, etherND(memberMAC, 135, peer6, all6, own6), false},
		{"NA of its peer address", ingress, etherND(memberMAC, 136, peer6, own6, peer6), false},
		{"NA of the VIP from its peer address", ingress, etherND(memberMAC, 136, peer6, own6, vip6), true},
		{"NA of the VIP from elsewhere", ingress, etherND(memberMAC, 136, link6, all6, vip6), true},

		{"to its data address", egress, frame4(ownMAC, own4, data4, protoUDP, udp(1, 2)), true},
		{"to its peer port", egress, frame4(ownMAC, own4, peer4, protoUDP, udp(9, peerPort)), false},
		{"to its peer port, IPv6", egress, frame6(ownMAC, own6, peer6, protoUDP, udp(9, peerPort)), false},
		{"from our peer port", egress, frame4(ownMAC, own4, peer4, protoTCP, udp(peerPort, 9)), false},
		{"to another port of it", egress, frame4(ownMAC, own4, peer4, protoUDP, udp(9, 22)), true},
		{"ARP question for its peer address", egress, etherARP(ownMAC, arpRequest, own4, peer4), false},
		{"ARP question for its data address", egress, etherARP(ownMAC, arpRequest, own4, data4), true},
		{"NA to its peer address", egress, etherND(ownMAC, 136, own6, peer6, own6), false},
		{"NS for its peer address", egress, etherND(ownMAC, 135, own6, all6, peer6), false},
		{"NS probe to its peer address", egress, etherND(ownMAC, 135, own6, peer6, peer6), false},
		{"to others", egress, frame4(ownMAC, own4, other4, protoUDP, udp(1, 2)), false},
		{"from others", ingress, frame4(strangerMAC, other4, own4, protoUDP, udp(1, 2)), false},
		{"ARP of others", ingress, etherARP(strangerMAC, arpReply, other4, own4), false},
		{"IPv6 of others", ingress, frame6(strangerMAC, other6, own6, protoUDP, udp(1, 2)), false},
	}
	list := []Blocked{
		{Node: memberNode, MACs: [][6]byte{memberMAC}, Addrs: []netip.Addr{data4, peer4}, Ports: []uint16{4000, peerPort}, Peer: []netip.Addr{peer4, peer6}},
		{Node: 0x33, MACs: [][6]byte{thirdMAC}, Ports: []uint16{peerPort}, Peer: []netip.Addr{thirdPeer}},
	}
	check(t, b.g.Block(list))
	for _, c := range cases {
		want := ""
		if c.drop {
			want = "blocked"
		}
		if got := b.drops(t, c.d, false, c.frame); got != want {
			t.Errorf("%s %s: dropped for %q, want %q", c.d, c.name, got, want)
		}
	}

	// Tunnels have no MACs; addresses count there as elsewhere.
	for frame, want := range map[string]string{
		string(frame4(memberMAC, data4, own4, protoUDP, udp(1, 2))):        "blocked",
		string(frame4(memberMAC, peer4, own4, protoUDP, udp(1, 2))):        "blocked",
		string(frame4(memberMAC, peer4, own4, protoUDP, udp(peerPort, 2))): "",
		string(frame4(memberMAC, other4, own4, protoUDP, udp(1, 2))):       "",
	} {
		if got := b.drops(t, ingress, true, []byte(frame)); got != want {
			t.Errorf("without Ethernet header, %x: dropped for %q, want %q", frame, got, want)
		}
	}

	// A fenced member's claim still closes: our list may be older than its lease.
	open(t, b.g, vipGroup)
	b.verdict(t, ingress, false, claims(memberMAC)["gratuitous reply"], 0)
	if v, err := b.g.Read(vipGroup); err != nil || v.Open {
		t.Errorf("claim by a fenced member left the gate open: %+v, %v", v, err)
	}

	check(t, b.g.Block(list[1:]))
	if got := b.drops(t, ingress, false, frame4(memberMAC, data4, own4, protoUDP, udp(1, 2))); got != "" {
		t.Errorf("after unfencing: dropped for %q", got)
	}
	if got := b.drops(t, ingress, false, frame4(thirdMAC, other4, own4, protoUDP, udp(1, 2))); got != "blocked" {
		t.Errorf("member that stays fenced: dropped for %q", got)
	}
	check(t, b.g.Block(nil))
	if got := b.drops(t, ingress, false, frame4(thirdMAC, other4, own4, protoUDP, udp(1, 2))); got != "" {
		t.Errorf("after unfencing all: dropped for %q", got)
	}
}
