package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// netlinkTimeout bounds one exchange with the kernel. The answer normally
	// comes within a millisecond; it waits while another process holds the
	// kernel's configuration lock.
	netlinkTimeout = 2 * time.Second

	// dumpAttemptsMax bounds the repeats of a listing that a change
	// interrupted.
	dumpAttemptsMax = 5
)

// Address is a floating address and the interface it belongs on.
type Address struct {
	// Prefix is the address with the length of its subnet, 192.0.2.1/24.
	Prefix netip.Prefix
	// Interface is the kernel's name of the interface, or an alternative name
	// of at most 15 characters.
	Interface string
}

// String returns "PREFIX on INTERFACE".
func (a Address) String() string { return a.Prefix.String() + " on " + a.Interface }

// Manager changes and watches addresses in one network namespace. Its methods
// are safe for concurrent use; Close must be the last call.
type Manager struct {
	ns      namespace
	handle  *netlink.Handle
	control int // datagram socket for interface ioctls

	// mu orders changes of addresses, so that what a change read still holds
	// when it writes.
	mu sync.Mutex
	// added remembers the length with which each of our addresses was
	// installed, so that putting one back gives the same form.
	added map[Address]int

	sendMu  sync.Mutex
	senders map[string]*sender

	diagMu sync.Mutex
	diag   *nl.SocketHandle // nil until first needed

	watchCtx  context.Context
	stopWatch context.CancelFunc
	watchers  sync.WaitGroup
}

// New returns a Manager for the network namespace of the calling goroutine.
func New() (*Manager, error) {
	ns, err := currentNamespace()
	if err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", explain(err)), ns.close())
	}
	if err := h.SetSocketTimeout(netlinkTimeout); err != nil {
		h.Close()
		return nil, errors.Join(fmt.Errorf("set netlink timeout: %w", err), ns.close())
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		h.Close()
		return nil, errors.Join(fmt.Errorf("open control socket: %w", err), ns.close())
	}
	m := &Manager{
		ns:      ns,
		handle:  h,
		control: fd,
		added:   make(map[Address]int),
		senders: make(map[string]*sender),
	}
	m.watchCtx, m.stopWatch = context.WithCancel(context.Background())
	return m, nil
}

// Close ends every Watch, waits for it and closes the sockets. Addresses stay
// where they are.
func (m *Manager) Close() error {
	m.stopWatch()
	m.watchers.Wait()
	m.closeSenders()
	m.diagMu.Lock()
	if m.diag != nil {
		m.diag.Close()
		m.diag = nil
	}
	m.diagMu.Unlock()
	m.handle.Close()
	return errors.Join(unix.Close(m.control), m.ns.close())
}

// held is an address as the kernel lists it.
type held struct {
	netlink.Addr
	prefix netip.Prefix
}

// usable tells whether the kernel answers for the address: an IPv6 address
// whose duplicate detection runs or failed is listed but dead.
func (h held) usable() bool { return usableFlags(h.Flags) }

func usableFlags(flags int) bool { return flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 }

// addresses lists all addresses of one family, or of both for FAMILY_ALL.
func (m *Manager) addresses(family int) ([]held, error) {
	for range dumpAttemptsMax {
		list, err := m.handle.AddrList(nil, family)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", explain(err))
		}
		all := make([]held, 0, len(list))
		for _, a := range list {
			if p, ok := prefixOf(a); ok {
				all = append(all, held{Addr: a, prefix: p})
			}
		}
		return all, nil
	}
	return nil, fmt.Errorf("list addresses: interrupted by changes %d times", dumpAttemptsMax)
}

// prefixOf gives the local address with its length.
func prefixOf(a netlink.Addr) (netip.Prefix, bool) {
	if a.IPNet == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	if a.IP.To4() != nil && len(a.IP) == 4 {
		addr = addr.Unmap()
	}
	bits, _ := a.Mask.Size()
	return netip.PrefixFrom(addr, bits), true
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
