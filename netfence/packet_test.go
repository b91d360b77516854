package netfence

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// MACs and addresses of the tests. vip4 and vip6 belong to group vipGroup.
var (
	ownMAC      = [6]byte{0x02, 0, 0, 0, 0, 1}
	memberMAC   = [6]byte{0x02, 0, 0, 0, 0, 2}
	strangerMAC = [6]byte{0x02, 0, 0, 0, 0, 3}
	anyMAC      = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

	vip4   = mustAddr("10.9.0.100")
	own4   = mustAddr("10.9.0.1")
	other4 = mustAddr("10.9.0.2")
	zero4  = mustAddr("0.0.0.0")
	vip6   = mustAddr("fd09::100")
	own6   = mustAddr("fd09::1")
	other6 = mustAddr("fd09::2")
	link6  = mustAddr("fe80::2")
	zero6  = mustAddr("::")
	all6   = mustAddr("ff02::1")
)

const (
	vipGroup   = 5
	memberNode = 0x22

	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58

	arpRequest = 1
	arpReply   = 2
)

// ether puts an Ethernet header with any 802.1Q tags before a payload.
func ether(src [6]byte, proto uint16, payload []byte, tags ...uint16) []byte {
	b := slices.Concat(anyMAC[:], src[:])
	for _, t := range tags {
		b = binary.BigEndian.AppendUint16(b, 0x8100)
		b = binary.BigEndian.AppendUint16(b, t)
	}
	b = binary.BigEndian.AppendUint16(b, proto)
	return append(b, payload...)
}

func ip4(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	return ip4Options(src, dst, proto, 0, nil, payload)
}

// ip4Options builds a packet with a fragment field and header options.
func ip4Options(src, dst netip.Addr, proto uint8, frag uint16, options, payload []byte) []byte {
	b := []byte{0x40 | byte(5+len(options)/4), 0, 0, 0, 0, 1, byte(frag >> 8), byte(frag), 64, proto, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(options)+len(payload)))
	return slices.Concat(b, src.AsSlice(), dst.AsSlice(), options, payload)
}

func ip6(src, dst netip.Addr, next, hops uint8, payload []byte) []byte {
	b := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), next, hops}
	return slices.Concat(b, src.AsSlice(), dst.AsSlice(), payload)
}

// ext builds one extension header of 8 bytes; 44 makes it a first fragment.
func ext(next uint8, kind uint8) []byte {
	if kind == 44 {
		return []byte{next, 0, 0, 1, 0, 0, 0, 9}
	}
	return []byte{next, 0, 1, 4, 0, 0, 0, 0}
}

// chain puts extension headers of the kinds before the payload of protocol next.
func chain(next uint8, payload []byte, kinds ...uint8) (uint8, []byte) {
	for _, k := range slices.Backward(kinds) {
		payload = append(ext(next, k), payload...)
		next = k
	}
	return next, payload
}

func udp(src, dst uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	return append(b, 0, 16, 0, 0, 'h', 'o', 'l', 'd', 'f', 'a', 's', 't')
}

func arp(op uint16, sha [6]byte, sip, tip netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op)}
	return slices.Concat(b, sha[:], sip.AsSlice(), make([]byte, 6), tip.AsSlice())
}

// nd builds a solicitation (135) or advertisement (136) with a link-layer
// address option when mac is not zero.
func nd(kind uint8, target netip.Addr, mac [6]byte) []byte {
	b := append([]byte{kind, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice()...)
	if mac != [6]byte{} {
		b = append(append(b, kind-134, 1), mac[:]...)
	}
	return b
}

func etherARP(src [6]byte, op uint16, sip, tip netip.Addr) []byte {
	return ether(src, 0x0806, arp(op, src, sip, tip))
}

func etherND(mac [6]byte, kind uint8, src, dst, target netip.Addr, exts ...uint8) []byte {
	next, p := chain(protoICMP6, nd(kind, target, mac), exts...)
	return ether(mac, 0x86dd, ip6(src, dst, next, 255, p))
}

// hidden is a packet with the hop limit of neighbour discovery.
func hidden(next uint8, payload []byte) []byte {
	return ether(strangerMAC, 0x86dd, ip6(other6, all6, next, 255, payload))
}

// packetCase is one frame, the side it is seen at, and why a closed gate drops
// it; empty means that it always passes.
type packetCase struct {
	name   string
	d      direction
	frame  []byte
	reason string
	l2only bool // has no meaning on a link without an Ethernet header
	always bool // dropped even when the gate is open: what it hides cannot be told
}

func packetCases() []packetCase {
	echo4, echo6 := []byte{8, 0, 0, 0}, []byte{128, 0, 0, 0}
	other := func(name string, d direction, frame []byte) packetCase {
		return packetCase{name: name, d: d, frame: frame}
	}
	next9, chain9 := chain(protoICMP6, nd(136, vip6, memberMAC), 60, 60, 60, 60, 60, 60, 60, 60, 60)
	optioned := ip4Options(other4, vip4, protoUDP, 0, []byte{1, 1, 1, 1}, udp(1, 2))
	longARP := slices.Concat([]byte{0, 1, 8, 0, 8, 4, 0, arpRequest}, make([]byte, 8), other4.AsSlice(), make([]byte, 8), vip4.AsSlice())
	serviceTagged := slices.Concat([]byte{0, 9, 8, 0}, ip4(other4, vip4, protoICMP, echo4))
	return []packetCase{
		{"IPv4 to VIP", ingress, ether(strangerMAC, 0x0800, ip4(other4, vip4, protoUDP, udp(1, 2))), "ip_in", false, false},
		{"IPv4 to VIP with options", ingress, ether(strangerMAC, 0x0800, optioned), "ip_in", false, false},
		{"IPv4 to VIP, bare header", ingress, ether(strangerMAC, 0x0800, ip4(other4, vip4, protoICMP, nil)), "ip_in", false, false},
		{"IPv4 to VIP, one tag", ingress, ether(strangerMAC, 0x0800, ip4(other4, vip4, protoICMP, echo4), 7), "ip_in", true, false},
		{"IPv4 to VIP, two tags", ingress, ether(strangerMAC, 0x0800, ip4(other4, vip4, protoICMP, echo4), 7, 0x6008), "ip_in", true, false},
		{"IPv4 to VIP, service tag", ingress, ether(strangerMAC, 0x88a8, serviceTagged), "ip_in", true, false},
		{"IPv6 to VIP", ingress, ether(strangerMAC, 0x86dd, ip6(other6, vip6, protoUDP, 64, udp(1, 2))), "ip6_in", false, false},
		{"IPv6 echo to VIP", ingress, ether(strangerMAC, 0x86dd, ip6(other6, vip6, protoICMP6, 64, echo6)), "ip6_in", false, false},
		{"IPv6 to VIP, two tags", ingress, ether(strangerMAC, 0x86dd, ip6(other6, vip6, protoICMP6, 64, echo6), 7, 0x6008), "ip6_in", true, false},
		{"ARP request for VIP", ingress, etherARP(strangerMAC, arpRequest, other4, vip4), "arp_in", false, false},
		{"ARP request for VIP, long hardware address", ingress, ether(strangerMAC, 0x0806, longARP), "arp_in", false, false},
		{"ARP probe for VIP", ingress, etherARP(strangerMAC, arpRequest, zero4, vip4), "arp_in", false, false},
		{"ARP request for VIP, tagged", ingress, ether(strangerMAC, 0x0806, arp(arpRequest, strangerMAC, other4, vip4), 7), "arp_in", true, false},
		{"NS for VIP", ingress, etherND(strangerMAC, 135, other6, all6, vip6), "nd_in", false, false},
		{"NS for VIP, detection", ingress, etherND([6]byte{}, 135, zero6, all6, vip6), "nd_in", false, false},
		{"NS for VIP behind hop-by-hop", ingress, etherND(strangerMAC, 135, other6, all6, vip6, 0), "nd_in", false, false},
		{"NS for VIP behind options and fragment", ingress, etherND(strangerMAC, 135, other6, all6, vip6, 0, 60, 44), "nd_in", false, false},
		{"discovery, too many headers", ingress, hidden(next9, chain9), "nd_in", false, true},
		{"discovery, cut before its type", ingress, hidden(chain(protoICMP6, nil, 60)), "nd_in", false, true},
		{"discovery, cut in its target", ingress, hidden(protoICMP6, nd(136, vip6, [6]byte{})[:23]), "nd_in", false, true},
		{"discovery, cut in an extension", ingress, hidden(60, []byte{58}), "nd_in", false, true},
		{"discovery, cut in a fragment header", ingress, hidden(44, []byte{58, 0, 0, 1}), "nd_in", false, true},

		{"IPv4 from VIP", egress, ether(ownMAC, 0x0800, ip4(vip4, other4, protoUDP, udp(1, 2))), "ip_out", false, false},
		{"IPv4 from VIP, two tags", egress, ether(ownMAC, 0x0800, ip4(vip4, other4, protoUDP, udp(1, 2)), 8, 9), "ip_out", true, false},
		{"IPv6 from VIP", egress, ether(ownMAC, 0x86dd, ip6(vip6, other6, protoTCP, 64, udp(1, 2))), "ip6_out", false, false},
		{"ARP reply from VIP", egress, etherARP(ownMAC, arpReply, vip4, other4), "arp_out", false, false},
		{"ARP request from VIP", egress, etherARP(ownMAC, arpRequest, vip4, other4), "arp_out", false, false},
		{"gratuitous ARP request", egress, etherARP(ownMAC, arpRequest, vip4, vip4), "arp_out", false, false},
		{"gratuitous ARP reply", egress, etherARP(ownMAC, arpReply, vip4, vip4), "arp_out", false, false},
		{"gratuitous ARP reply, tagged", egress, ether(ownMAC, 0x0806, arp(arpReply, ownMAC, vip4, vip4), 8), "arp_out", true, false},
		{"NA for VIP from another address", egress, etherND(ownMAC, 136, own6, all6, vip6), "nd_out", false, false},
		{"NA for VIP from VIP", egress, etherND(ownMAC, 136, vip6, all6, vip6), "ip6_out", false, false},
		{"NA for VIP behind hop-by-hop", egress, etherND(ownMAC, 136, own6, all6, vip6, 0), "nd_out", false, false},
		{"NA for VIP behind eight headers", egress, etherND(ownMAC, 136, own6, all6, vip6, 0, 60, 43, 60, 60, 60, 60, 44), "nd_out", false, false},
		{"NA for VIP behind authentication", egress, hidden(51, slices.Concat([]byte{58, 2}, make([]byte, 14), nd(136, vip6, ownMAC))), "nd_out", false, false},
		{"NA for VIP behind long options", egress, hidden(60, slices.Concat([]byte{58, 1}, make([]byte, 14), nd(136, vip6, ownMAC))), "nd_out", false, false},
		{"discovery, too many headers", egress, hidden(next9, chain9), "nd_out", false, true},
		{"NS from VIP", egress, etherND(ownMAC, 135, vip6, all6, other6), "ip6_out", false, false},

		other("IPv4 from VIP", ingress, ether(memberMAC, 0x0800, ip4(vip4, own4, protoUDP, udp(1, 2)))),
		other("IPv6 from VIP", ingress, ether(memberMAC, 0x86dd, ip6(vip6, own6, protoUDP, 64, udp(1, 2)))),
		other("ARP reply from VIP", ingress, etherARP(strangerMAC, arpReply, vip4, own4)),
		other("ARP request from VIP", ingress, etherARP(strangerMAC, arpRequest, vip4, own4)),
		other("gratuitous ARP request of another", ingress, etherARP(strangerMAC, arpRequest, vip4, vip4)),
		other("gratuitous ARP reply of another", ingress, etherARP(strangerMAC, arpReply, vip4, vip4)),
		other("NA for VIP", ingress, etherND(strangerMAC, 136, vip6, own6, vip6)),
		other("ARP reply to VIP", ingress, etherARP(strangerMAC, arpReply, other4, vip4)),
		other("IPv4 to VIP, three tags", ingress, ether(strangerMAC, 0x0800, ip4(other4, vip4, protoICMP, echo4), 7, 8, 9)),
		other("ARP request for another", ingress, etherARP(strangerMAC, arpRequest, other4, own4)),
		other("NS for another", ingress, etherND(strangerMAC, 135, other6, all6, own6)),
		other("IPv4", ingress, ether(strangerMAC, 0x0800, ip4(other4, own4, protoUDP, udp(1, 2)))),
		other("IPv4, two tags", ingress, ether(strangerMAC, 0x0800, ip4(other4, own4, protoUDP, udp(1, 2)), 1, 2)),
		other("IPv6", ingress, ether(strangerMAC, 0x86dd, ip6(other6, own6, protoTCP, 64, udp(1, 2)))),
		other("IPv6 echo", ingress, ether(strangerMAC, 0x86dd, ip6(other6, own6, protoICMP6, 64, echo6))),
		other("hop limit 64, too many headers", ingress, ether(strangerMAC, 0x86dd, ip6(other6, all6, next9, 64, chain9))),
		other("later fragment, hop limit 255", ingress, ether(strangerMAC, 0x86dd, ip6(other6, own6, 44, 255, []byte{58, 0, 1, 0, 0, 0, 0, 9}))),
		other("LLDP", ingress, ether(strangerMAC, 0x88cc, make([]byte, 60))),
		{"cut IPv4 header", ingress, ether(strangerMAC, 0x0800, ip4(other4, vip4, protoUDP, nil)[:19], 7), "", true, false},
		{"cut IPv6 header", ingress, ether(strangerMAC, 0x86dd, ip6(other6, vip6, protoUDP, 64, nil)[:39], 7), "", true, false},
		{"cut tag", ingress, ether(strangerMAC, 0x8100, []byte{0, 1}, 7), "", true, false},
		{"cut ARP", ingress, ether(strangerMAC, 0x0806, arp(arpRequest, strangerMAC, other4, vip4)[:27], 7), "", true, false},
		other("ARP of another protocol", ingress, ether(strangerMAC, 0x0806, append([]byte{0, 1, 9, 0, 6, 4, 0, 1}, arp(1, strangerMAC, other4, vip4)[8:]...))),

		other("IPv4 to VIP", egress, ether(ownMAC, 0x0800, ip4(own4, vip4, protoUDP, udp(1, 2)))),
		other("IPv6 to VIP", egress, ether(ownMAC, 0x86dd, ip6(own6, vip6, protoUDP, 64, udp(1, 2)))),
		other("ARP request for VIP", egress, etherARP(ownMAC, arpRequest, own4, vip4)),
		other("ARP reply to VIP", egress, etherARP(ownMAC, arpReply, own4, vip4)),
		other("ARP probe for VIP", egress, etherARP(ownMAC, arpRequest, zero4, vip4)),
		other("NS for VIP", egress, etherND(ownMAC, 135, own6, all6, vip6)),
		other("NS for VIP, detection", egress, etherND([6]byte{}, 135, zero6, all6, vip6)),
		other("NA for another", egress, etherND(ownMAC, 136, own6, all6, own6)),
		other("IPv4", egress, ether(ownMAC, 0x0800, ip4(own4, other4, protoUDP, udp(1, 2)))),
		other("IPv6", egress, ether(ownMAC, 0x86dd, ip6(own6, other6, protoUDP, 64, udp(1, 2)))),
	}
}

// TestPacketBuilders guards the tests against their own mistakes: lengths at
// which the program reads must be there.
func TestPacketBuilders(t *testing.T) {
	if n := len(etherARP(ownMAC, arpRequest, own4, vip4)); n != 42 {
		t.Errorf("ARP frame has %d bytes, want 42", n)
	}
	if n := len(etherND(ownMAC, 136, own6, all6, vip6, 0)); n != 14+40+8+32 {
		t.Errorf("NA frame has %d bytes, want %d", n, 14+40+8+32)
	}
}
