package vip

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
)

const (
	ipv6HeaderBytes = 40
	// ndHopLimit: receivers drop ND messages with any other value (RFC 4861
	// 7.1.2), since 255 proves that no router forwarded them.
	ndHopLimit     = 255
	protocolICMPv6 = 58
)

var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = MAC{0x33, 0x33, 0, 0, 0, 1} // RFC 2464 section 7
	broadcast   = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// frame is an Ethernet frame without checksum, ready for a raw packet socket.
type frame struct {
	destination MAC
	protocol    uint16 // EtherType
	bytes       []byte
}

// announcement returns the frames of one round for addr at mac. router is the
// R flag of a neighbour advertisement.
func announcement(addr netip.Addr, mac MAC, router bool) ([]frame, error) {
	if addr.Is4() {
		return gratuitousARP(addr, mac)
	}
	f, err := unsolicitedNA(addr, mac, router)
	if err != nil {
		return nil, err
	}
	return []frame{f}, nil
}

// gratuitousARP returns both forms, because receivers differ in which they
// heed: the announcement of RFC 5227 (a request, target MAC zero) and the
// reply. Linux takes a reply for gratuitous only if its target MAC is its
// sender's (net/ipv4/arp.c, arp_is_garp).
func gratuitousARP(addr netip.Addr, mac MAC) ([]frame, error) {
	request, err := arpFrame(arp.OperationRequest, addr, mac, MAC{})
	if err != nil {
		return nil, err
	}
	reply, err := arpFrame(arp.OperationReply, addr, mac, mac)
	if err != nil {
		return nil, err
	}
	return []frame{request, reply}, nil
}

func arpFrame(op arp.Operation, addr netip.Addr, mac, target MAC) (frame, error) {
	p, err := arp.NewPacket(op, mac[:], addr, target[:], addr)
	if err != nil {
		return frame{}, fmt.Errorf("build ARP packet: %w", err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return frame{}, fmt.Errorf("build ARP packet: %w", err)
	}
	return ethernetFrame(broadcast, mac, ethernet.EtherTypeARP, payload)
}

// unsolicitedNA returns the neighbour advertisement of RFC 4861 7.2.6. It
// comes from the announced address itself: the link-local address of the
// interface may be tentative, or absent, while the holder changes.
func unsolicitedNA(addr netip.Addr, mac MAC, router bool) (frame, error) {
	na := &ndp.NeighborAdvertisement{
		Router:        router,
		Override:      true,
		TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{
			Direction: ndp.Target,
			Addr:      net.HardwareAddr(mac[:]),
		}},
	}
	message, err := ndp.MarshalMessageChecksum(na, addr, allNodes)
	if err != nil {
		return frame{}, fmt.Errorf("build neighbour advertisement: %w", err)
	}
	return ethernetFrame(allNodesMAC, mac, ethernet.EtherTypeIPv6, ipv6Packet(addr, message))
}

// ipv6Packet puts an IPv6 header before an ICMPv6 message to all nodes.
func ipv6Packet(source netip.Addr, message []byte) []byte {
	p := make([]byte, ipv6HeaderBytes, ipv6HeaderBytes+len(message))
	p[0] = 6 << 4
	binary.BigEndian.PutUint16(p[4:], uint16(len(message)))
	p[6] = protocolICMPv6
	p[7] = ndHopLimit
	s, d := source.As16(), allNodes.As16()
	copy(p[8:], s[:])
	copy(p[24:], d[:])
	return append(p, message...)
}

func ethernetFrame(to, from MAC, kind ethernet.EtherType, payload []byte) (frame, error) {
	f := ethernet.Frame{Destination: to[:], Source: from[:], EtherType: kind, Payload: payload}
	b, err := f.MarshalBinary() // pads to the minimum of 60 bytes
	if err != nil {
		return frame{}, fmt.Errorf("build Ethernet frame: %w", err)
	}
	return frame{destination: to, protocol: uint16(kind), bytes: b}, nil
}
