package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in an Ethernet frame without VLAN tag (RFC 826, RFC 791, RFC 8200,
// RFC 4861).
const (
	offEtherType = 12
	offARPOp     = 20
	offARPSender = 28 // protocol address
	offIPv4Src   = 26
	offIPv6Next  = 20
	offIPv6Src   = 22
	offICMPType  = 54
	offNDTarget  = 62
	offNDFlags   = 58

	arpRequest = 1
	arpReply   = 2
	ndSolicit  = 135
	ndAdvert   = 136

	acceptFrame = 128 // bytes of a frame that are kept; only headers matter
)

// question is the frame that asks who has the target: a broadcast ARP request
// for IPv4, a neighbour solicitation for IPv6. Every owner answers it, so two
// owners give two answers.
func question(target netip.Addr, mac net.HardwareAddr, from netip.Addr) []byte {
	if target.Is4() {
		return arpQuestion(target, mac, from)
	}
	return ndQuestion(target, mac, from)
}

func arpQuestion(target netip.Addr, mac net.HardwareAddr, from netip.Addr) []byte {
	f := make([]byte, 0, 60)
	f = append(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f = append(f, mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, arpRequest)
	f = append(f, mac...)
	f = append(f, from.AsSlice()...)
	f = append(f, 0, 0, 0, 0, 0, 0)
	f = append(f, target.AsSlice()...)
	return f[:60] // the shortest frame; the rest is zero
}

func ndQuestion(target netip.Addr, mac net.HardwareAddr, from netip.Addr) []byte {
	t, src := target.As16(), from.As16()
	// The target's solicited-node group (RFC 4291 2.7.1) and its MAC.
	group := [16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}
	icmp := make([]byte, 0, 32)
	icmp = append(icmp, ndSolicit, 0, 0, 0, 0, 0, 0, 0)
	icmp = append(icmp, t[:]...)
	icmp = append(icmp, 1, 1) // source link-layer address
	icmp = append(icmp, mac...)
	binary.BigEndian.PutUint16(icmp[2:], icmpv6Sum(src, group, icmp))
	f := make([]byte, 0, 86)
	f = append(f, 0x33, 0x33, 0xff, t[13], t[14], t[15])
	f = append(f, mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255)
	f = append(f, src[:]...)
	f = append(f, group[:]...)
	return append(f, icmp...)
}

// icmpv6Sum is the Internet checksum with the IPv6 pseudo header (RFC 8200 8.1).
func icmpv6Sum(src, dst [16]byte, msg []byte) uint16 {
	sum := uint32(len(msg)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{src[:], dst[:], msg} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// isAnswer tells an answer to our question from other frames of the target,
// such as announcements. The frame passed ownFilter.
func isAnswer(f []byte, mac [6]byte) bool {
	if len(f) < 42 || [6]byte(f[:6]) != mac {
		return false
	}
	switch binary.BigEndian.Uint16(f[offEtherType:]) {
	case unix.ETH_P_ARP:
		return f[offARPOp+1] == arpReply
	case unix.ETH_P_IPV6:
		return len(f) > offNDTarget && f[offIPv6Next] == unix.IPPROTO_ICMPV6 &&
			f[offICMPType] == ndAdvert && f[offNDFlags]&0x40 != 0 // solicited
	}
	return false
}

// ownFilter passes the frames by which a host acts as owner of the address:
// IP packets from it, ARP of either kind with it as sender, neighbour
// advertisements for it. Frames that arrive on one of the skipped interfaces
// are not passed.
func ownFilter(target netip.Addr, skip []int) ([]unix.SockFilter, error) {
	p := program{}
	for _, index := range skip {
		p.add(bpf.LoadExtension{Num: bpf.ExtInterfaceIndex})
		p.rejectIf(uint32(index))
	}
	if target.Is4() {
		a := target.As4()
		addr := binary.BigEndian.Uint32(a[:])
		p.add(bpf.LoadAbsolute{Off: offEtherType, Size: 2})
		p.add(bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 3})
		p.add(bpf.LoadAbsolute{Off: offIPv4Src, Size: 4})
		p.acceptIf(addr)
		p.add(bpf.LoadAbsolute{Off: offEtherType, Size: 2})
		p.rejectUnless(unix.ETH_P_ARP)
		p.add(bpf.LoadAbsolute{Off: offARPSender, Size: 4})
		p.acceptIf(addr)
		p.add(bpf.RetConstant{Val: 0})
		return p.assemble()
	}
	p.add(bpf.LoadAbsolute{Off: offEtherType, Size: 2})
	p.rejectUnless(unix.ETH_P_IPV6)
	p.acceptIfAddress(offIPv6Src, target)
	p.add(bpf.LoadAbsolute{Off: offIPv6Next, Size: 1})
	p.rejectUnless(unix.IPPROTO_ICMPV6)
	p.add(bpf.LoadAbsolute{Off: offICMPType, Size: 1})
	p.rejectUnless(ndAdvert)
	p.acceptIfAddress(offNDTarget, target)
	p.add(bpf.RetConstant{Val: 0})
	return p.assemble()
}

// program is a classic BPF program in the making.
type program struct{ ins []bpf.Instruction }

func (p *program) add(i bpf.Instruction) { p.ins = append(p.ins, i) }

func (p *program) acceptIf(v uint32) {
	p.add(bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: v, SkipTrue: 1})
	p.add(bpf.RetConstant{Val: acceptFrame})
}

func (p *program) rejectIf(v uint32) {
	p.add(bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: v, SkipTrue: 1})
	p.add(bpf.RetConstant{Val: 0})
}

func (p *program) rejectUnless(v uint32) {
	p.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: 1})
	p.add(bpf.RetConstant{Val: 0})
}

// acceptIfAddress accepts when the 16 bytes at the offset are the address and
// goes on otherwise.
func (p *program) acceptIfAddress(off uint32, a netip.Addr) {
	raw := a.As16()
	for i := uint32(0); i < 4; i++ {
		p.add(bpf.LoadAbsolute{Off: off + 4*i, Size: 4})
		p.add(bpf.JumpIf{
			Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(raw[4*i:]),
			SkipTrue: uint8(2*(3-i)) + 1,
		})
	}
	p.add(bpf.RetConstant{Val: acceptFrame})
}

func (p *program) assemble() ([]unix.SockFilter, error) {
	raw, err := bpf.Assemble(p.ins)
	if err != nil {
		return nil, fmt.Errorf("assemble capture filter: %w", err)
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}

// captureSocket opens a packet socket in the calling thread's namespace that
// receives from the interface (0: all) the frames which the filter passes,
// each with the kernel's time of arrival, and no frame that this namespace
// sends: on a bridge, every frame of a member then counts once.
func captureSocket(index int, filter []unix.SockFilter) (int, error) {
	// Without a protocol the socket receives nothing before it is set up.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	steps := []func() error{
		func() error { return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1) },
		func() error {
			return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ALL), Ifindex: index})
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("set up packet socket: %w", err)
		}
	}
	return fd, nil
}

// captureBuffer holds seconds of frames, so that a machine which is busy
// elsewhere loses none.
const captureBuffer = 16 << 20

func bigEndian16(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
