package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// Announce sends one round of announcements for addr from the named interface:
// for IPv4 a gratuitous ARP request and reply, for IPv6 an unsolicited
// neighbour advertisement to all nodes. It does not check that the address is
// there.
//
// The path is short, as failover waits for it: no netlink and none of the
// kernel's configuration locks, unless the interface was recreated or renamed
// since the last round. It never blocks on a full transmit queue.
//
// Errors: ErrNoInterface, ErrNotEthernet, ENETDOWN, EPERM, EAGAIN when the
// queue is full.
func (m *Manager) Announce(addr netip.Addr, iface string) error {
	if !addr.IsValid() {
		return fmt.Errorf("announce on %s: no address given", iface)
	}
	addr = addr.Unmap().WithZone("")
	m.sendMu.Lock()
	defer m.sendMu.Unlock()
	err := m.announce(addr, iface)
	if isGone(err) {
		// Removed between the look and the send; perhaps it is back already.
		m.closeSender(iface)
		err = m.announce(addr, iface)
	}
	if err != nil {
		return fmt.Errorf("announce %v on %s: %w", addr, iface, explain(err))
	}
	return nil
}

func (m *Manager) announce(addr netip.Addr, iface string) error {
	s, mac, err := m.sender(iface)
	if err != nil {
		return err
	}
	frames, err := announcement(addr, mac, addr.Is6() && s.isRouter())
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range frames {
		errs = append(errs, s.send(f))
	}
	return errors.Join(errs...)
}

// sender sends frames from one interface.
type sender struct {
	conn  *packet.Conn
	raw   syscall.RawConn
	index int
	name  string // the kernel's name, which may differ from the asked one
	// forwarding is the interface's IPv6 forwarding switch, nil without IPv6.
	forwarding *os.File
}

// sender returns the cached sender of an interface, with the interface's
// present MAC, and makes a new one when the interface is not the same any more.
// sendMu is held.
func (m *Manager) sender(iface string) (*sender, MAC, error) {
	s := m.senders[iface]
	if s != nil && m.nameOf(s.index) == s.name {
		mac, err := s.mac()
		if !isGone(err) {
			return s, mac, err
		}
	}
	m.closeSender(iface)
	link, err := m.link(iface)
	if err != nil {
		return nil, MAC{}, err
	}
	s = &sender{index: link.Attrs().Index, name: link.Attrs().Name}
	if err := m.ns.do(s.open); err != nil {
		return nil, MAC{}, err
	}
	m.senders[iface] = s
	mac, err := s.mac()
	return s, mac, err
}

// open runs in the Manager's namespace.
func (s *sender) open() error {
	// Protocol 0 receives nothing, so the socket needs no reader.
	conn, err := packet.Listen(&net.Interface{Index: s.index}, packet.Raw, 0, nil)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return errors.Join(fmt.Errorf("open packet socket: %w", err), conn.Close())
	}
	s.conn, s.raw = conn, raw
	// Opened here since /proc/sys/net shows the namespace of the opener.
	if f, err := os.Open("/proc/sys/net/ipv6/conf/" + s.name + "/forwarding"); err == nil {
		s.forwarding = f
	}
	return nil
}

// nameOf asks the kernel for the name of an interface index; "" if there is
// none. This ioctl takes no lock; the one in the other direction may start
// modprobe for an unknown name.
func (m *Manager) nameOf(index int) string {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return ""
	}
	ifr.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(m.control, unix.SIOCGIFNAME, ifr); err != nil {
		return ""
	}
	return ifr.Name()
}

// mac reads the present MAC of the socket's interface; it may have been
// changed since the socket was opened.
func (s *sender) mac() (MAC, error) {
	var sa unix.Sockaddr
	var err error
	if e := s.raw.Control(func(fd uintptr) { sa, err = unix.Getsockname(int(fd)) }); e != nil {
		return MAC{}, e
	}
	if err != nil {
		return MAC{}, fmt.Errorf("read socket address: %w", err)
	}
	ll, ok := sa.(*unix.SockaddrLinklayer)
	if !ok || ll.Halen == 0 || ll.Ifindex != s.index {
		if ok && ll.Ifindex == s.index && ll.Hatype != 0 {
			return MAC{}, ErrNotEthernet // tun, for one, has no address at all
		}
		return MAC{}, unix.ENODEV
	}
	if ll.Hatype != unix.ARPHRD_ETHER || int(ll.Halen) != len(MAC{}) {
		return MAC{}, ErrNotEthernet
	}
	return MAC(ll.Addr[:6]), nil
}

// isRouter: hosts drop a default route through a neighbour whose advertisement
// says that it is no router (RFC 4861 7.2.5), so the flag must say what the
// kernel's own advertisements say.
func (s *sender) isRouter() bool {
	if s.forwarding == nil {
		return false
	}
	var b [2]byte
	n, _ := s.forwarding.ReadAt(b[:], 0)
	return n > 0 && b[0] != '0'
}

// send hands one frame to the interface's queue, or fails at once.
func (s *sender) send(f frame) error {
	to := &unix.SockaddrLinklayer{
		Protocol: networkOrder(f.protocol),
		Ifindex:  s.index,
		Halen:    uint8(len(f.destination)),
	}
	copy(to.Addr[:], f.destination[:])
	var err error
	e := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), f.bytes, unix.MSG_DONTWAIT, to)
		return true
	})
	if err = errors.Join(e, err); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

func (m *Manager) closeSender(iface string) {
	s := m.senders[iface]
	if s == nil {
		return
	}
	delete(m.senders, iface)
	_ = s.conn.Close()
	if s.forwarding != nil {
		_ = s.forwarding.Close()
	}
}

func (m *Manager) closeSenders() {
	m.sendMu.Lock()
	defer m.sendMu.Unlock()
	for iface := range m.senders {
		m.closeSender(iface)
	}
}

// networkOrder returns v such that its bytes in memory are big-endian.
func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
