package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	receiveBuffer = 1 << 20
	// classCS6 is the DSCP class of network control, CS6, as a TOS byte: a
	// beat must not queue behind what the gateway forwards.
	classCS6 = 0xC0
)

// udpSocket is bound to one own address.
type udpSocket struct {
	index int // of the own address
	addr  netip.AddrPort
	conn  *net.UDPConn
	raw   syscall.RawConn
}

// errNoFamily means that no own socket has the family of a target.
var errNoFamily = errors.New("no own address of that family")

// send never blocks: a full queue or a link that is down is an error at once.
func (s *udpSocket) send(to unix.Sockaddr, b []byte) error {
	var sent error
	err := s.raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, to)
		return true // also when the queue is full: waiting is for TCP
	})
	if err != nil {
		return err
	}
	return sent
}

// family gives "tcp4" for "tcp" and so on, so that IPv6 sockets are IPv6 only.
func family(network string, addr netip.Addr) string {
	if addr.Is4() {
		return network + "4"
	}
	return network + "6"
}

func openUDP(addr netip.AddrPort, index int) (*udpSocket, error) {
	// No SO_REUSEADDR: on UDP it would let another process take our beats.
	lc := net.ListenConfig{Control: control(func(fd int) error {
		// Best effort: smaller buffers and no class only cost under load.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		setClass(fd, addr.Addr())
		return setFreebind(fd, addr.Addr())
	})}
	pc, err := lc.ListenPacket(context.Background(), family("udp", addr.Addr()), addr.String())
	if err != nil {
		return nil, fmt.Errorf("bind UDP socket: %w", err)
	}
	conn := pc.(*net.UDPConn)
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reach UDP socket: %w", err), conn.Close())
	}
	return &udpSocket{index: index, addr: addr, conn: conn, raw: raw}, nil
}

func openListener(addr netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 5},
		Control: control(func(fd int) error {
			setClass(fd, addr.Addr())
			return setFreebind(fd, addr.Addr())
		}),
	}
	lc.SetMultipathTCP(false) // TCP_USER_TIMEOUT and our own redial do its work
	ln, err := lc.Listen(context.Background(), family("tcp", addr.Addr()), addr.String())
	if err != nil {
		return nil, fmt.Errorf("bind TCP listener: %w", err)
	}
	return ln, nil
}

// control wraps a function that sets options on a socket before it is bound.
func control(set func(fd int) error) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var serr error
		if err := c.Control(func(fd uintptr) { serr = set(int(fd)) }); err != nil {
			return err
		}
		return serr
	}
}

// setFreebind lets an address be bound that is not there yet: links come up
// after the daemon does, and go down while it runs.
func setFreebind(fd int, addr netip.Addr) error {
	var err error
	if addr.Is4() {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}
	if err != nil {
		return fmt.Errorf("set IP_FREEBIND: %w", err)
	}
	return nil
}

func setClass(fd int, addr netip.Addr) {
	if addr.Is4() {
		_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TOS, classCS6)
	} else {
		_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TCLASS, classCS6)
	}
}

// tuneTCP makes a connection notice a dead path within limit even while it
// only sends.
func tuneTCP(conn net.Conn, limit time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("tune connection: %T is not TCP", conn)
	}
	if err := tcp.SetNoDelay(true); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach TCP socket: %w", err)
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}

func sockaddr(addr netip.AddrPort) unix.Sockaddr {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
}

// pair returns the index of the own address that speaks to the peer's address
// of index j: the same index if it has the same family, else the first of that
// family, else -1.
func pair(own []netip.AddrPort, to netip.Addr, j int) int {
	if j < len(own) && own[j].Addr().Is4() == to.Is4() {
		return j
	}
	for i, a := range own {
		if a.Addr().Is4() == to.Is4() {
			return i
		}
	}
	return -1
}

// sendErrors are the live counters behind SendErrors.
type sendErrors struct {
	denied, unreachable, full, address, other atomic.Uint64
}

func (c *sendErrors) count(err error) {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		c.denied.Add(1)
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EHOSTDOWN):
		c.unreachable.Add(1)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
		c.full.Add(1)
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EINVAL), errors.Is(err, errNoFamily):
		c.address.Add(1) // EINVAL: the own address is not there at the moment
	default:
		c.other.Add(1)
	}
}

func (c *sendErrors) snapshot() SendErrors {
	return SendErrors{Denied: c.denied.Load(), Unreachable: c.unreachable.Load(), Full: c.full.Load(),
		Address: c.address.Load(), Other: c.other.Load()}
}
