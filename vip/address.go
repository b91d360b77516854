package vip

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addAttemptsMax bounds Add against a rival that changes the same address.
const addAttemptsMax = 3

// Presence says where an address is, and whether it works.
type Presence struct {
	// Present: the address is on the interface that was asked for.
	Present bool
	// Usable: present, and neither tentative nor failed in duplicate address
	// detection. Says nothing about the carrier; see Interface.
	Usable bool
	// Prefix is the form in which the kernel has it, see Add.
	Prefix netip.Prefix
	// Elsewhere names the other interfaces, without loopback, that have the
	// address too.
	Elsewhere []string
}

// Add puts the address on its interface and returns when it is usable. Doing
// it again changes nothing; an unusable IPv6 address is replaced.
//
// Where the interface already has an address of its own in the subnet, the
// floating one gets the length of a single host (/32, /128): with the same
// length it would be a secondary of the host's address and vanish with it, or
// worse become the primary when the host's address is put back, and then the
// source of the host's own connections. Callers compare addresses, not
// prefixes. Without such an address the given length is used, so that the
// subnet gets its route.
//
// IPv6 skips duplicate detection (the quorum has decided who holds it) and is
// added with a preferred lifetime of 0, so that RFC 6724 source selection does
// not choose it for the host's own connections.
//
// Errors: ErrNoInterface, EPERM, EACCES when IPv6 is disabled there.
func (m *Manager) Add(a Address) error {
	a, err := a.canonical()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for range addAttemptsMax {
		added, err := m.tryAdd(a)
		if err != nil {
			return fmt.Errorf("add %v to %s: %w", a.Prefix, a.Interface, explain(err))
		}
		if added {
			return nil
		}
	}
	return fmt.Errorf("add %v to %s: changed by something else %d times", a.Prefix, a.Interface, addAttemptsMax)
}

// tryAdd returns false when a rival was quicker and the state must be read
// again.
func (m *Manager) tryAdd(a Address) (bool, error) {
	link, err := m.link(a.Interface)
	if err != nil {
		return false, err
	}
	all, err := m.addresses(family(a.Prefix.Addr()))
	if err != nil {
		return false, err
	}
	all = onLink(all, link.Attrs().Index)
	for _, h := range all {
		if h.prefix.Addr() != a.Prefix.Addr() {
			continue
		}
		if h.usable() {
			m.added[a] = h.prefix.Bits()
			return true, nil
		}
		if err := m.handle.AddrDel(link, &h.Addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return false, fmt.Errorf("replace unusable address: %w", err)
		}
	}
	bits := m.bits(a, all)
	err = m.handle.AddrAdd(link, newAddr(netip.PrefixFrom(a.Prefix.Addr(), bits)))
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	m.added[a] = bits
	return true, nil
}

// bits chooses the installed length: that of last time, else see Add.
// Addresses which this Manager added do not count as the host's own: they
// leave one by one, and the last must still have its route.
func (m *Manager) bits(a Address, here []held) int {
	if bits, ok := m.added[a]; ok {
		return bits
	}
	for _, h := range here {
		own := true
		for other := range m.added {
			if other.Interface == a.Interface && other.Prefix.Addr() == h.prefix.Addr() {
				own = false
			}
		}
		if own && h.prefix.Bits() < h.prefix.Addr().BitLen() && h.prefix.Contains(a.Prefix.Addr()) {
			return a.Prefix.Addr().BitLen()
		}
	}
	return a.Prefix.Bits()
}

// newAddr is the request to install p.
func newAddr(p netip.Prefix) *netlink.Addr {
	addr := &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	if p.Addr().Is6() {
		var forever uint32 = math.MaxUint32
		addr.Flags = unix.IFA_F_NODAD
		addr.ValidLft = int(forever)
		addr.PreferedLft = 0
	}
	return addr
}

// Remove takes the address off its interface, in whatever length it is there.
// An address or an interface that is already gone is success.
func (m *Manager) Remove(a Address) error {
	a, err := a.canonical()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.added, a)
	link, err := m.link(a.Interface)
	if errors.Is(err, ErrNoInterface) {
		return nil
	}
	if err == nil {
		_, err = m.drop(link, a.Prefix.Addr())
	}
	if err != nil {
		return fmt.Errorf("remove %v from %s: %w", a.Prefix.Addr(), a.Interface, explain(err))
	}
	return nil
}

// drop removes addr from link and reports whether it was there.
func (m *Manager) drop(link netlink.Link, addr netip.Addr) (bool, error) {
	all, err := m.addresses(family(addr))
	if err != nil {
		return false, err
	}
	all = onLink(all, link.Attrs().Index)
	found := false
	for _, h := range all {
		if h.prefix.Addr() != addr {
			continue
		}
		err := m.handle.AddrDel(link, &h.Addr)
		if isGone(err) {
			continue
		}
		if err != nil {
			return found, err
		}
		found = true
		if err := m.restoreSecondaries(link, h, all); err != nil {
			return found, err
		}
	}
	return found, nil
}

// restoreSecondaries puts back what the kernel took away with a primary: IPv4
// addresses of the same subnet and length that came later go with it, unless
// promote_secondaries is set. They are not ours to remove.
func (m *Manager) restoreSecondaries(link netlink.Link, gone held, before []held) error {
	if !gone.prefix.Addr().Is4() || gone.Flags&unix.IFA_F_SECONDARY != 0 {
		return nil
	}
	for _, h := range before {
		if h.Flags&unix.IFA_F_SECONDARY == 0 || h.prefix.Masked() != gone.prefix.Masked() {
			continue
		}
		if err := m.handle.AddrAdd(link, &h.Addr); err != nil && !errors.Is(err, unix.EEXIST) && !isGone(err) {
			return fmt.Errorf("restore secondary address %v: %w", h.prefix, err)
		}
	}
	return nil
}

// Present tells whether the address is on its interface and usable. A missing
// interface is not an error here: the address is absent.
func (m *Manager) Present(a Address) (Presence, error) {
	a, err := a.canonical()
	if err != nil {
		return Presence{}, err
	}
	all, err := m.addresses(family(a.Prefix.Addr()))
	if err != nil {
		return Presence{}, fmt.Errorf("find %v: %w", a.Prefix.Addr(), err)
	}
	var p Presence
	for _, h := range all {
		if h.prefix.Addr() != a.Prefix.Addr() {
			continue
		}
		link, err := m.handle.LinkByIndex(h.LinkIndex)
		if err != nil {
			continue // the interface went away, and the address with it
		}
		attrs := link.Attrs()
		switch {
		case attrs.Name == a.Interface || hasAltName(attrs, a.Interface):
			p.Present = true
			p.Prefix = h.prefix
			p.Usable = p.Usable || h.usable()
		case attrs.Flags&net.FlagLoopback == 0:
			p.Elsewhere = append(p.Elsewhere, attrs.Name)
		}
	}
	return p, nil
}

// Stray is an address that RemoveStrays found and removed.
type Stray struct {
	Addr      netip.Addr
	Interface string
}

// RemoveStrays removes the listed addresses from every interface but loopback
// and returns what it removed, for the start of a process: nobody holds
// anything then, and a predecessor may have died without tidying up. It goes
// on after an error and returns all of them joined.
func (m *Manager) RemoveStrays(addrs []netip.Addr) ([]Stray, error) {
	wanted := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		wanted[a.Unmap().WithZone("")] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	all, err := m.addresses(netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("remove stray addresses: %w", err)
	}
	var strays []Stray
	var errs []error
	for _, h := range all {
		if !wanted[h.prefix.Addr()] {
			continue
		}
		link, err := m.handle.LinkByIndex(h.LinkIndex)
		var gone netlink.LinkNotFoundError
		switch {
		case errors.As(err, &gone):
			continue // and the address with it
		case err != nil:
			errs = append(errs, fmt.Errorf("remove stray %v: %w", h.prefix, explain(err)))
			continue
		case link.Attrs().Flags&net.FlagLoopback != 0:
			continue
		}
		found, err := m.drop(link, h.prefix.Addr())
		if err != nil {
			errs = append(errs, fmt.Errorf("remove stray %v from %s: %w",
				h.prefix, link.Attrs().Name, explain(err)))
		}
		if found {
			strays = append(strays, Stray{Addr: h.prefix.Addr(), Interface: link.Attrs().Name})
		}
	}
	return strays, errors.Join(errs...)
}

// canonical refuses what is no address and unmaps IPv4 in IPv6.
func (a Address) canonical() (Address, error) {
	if !a.Prefix.IsValid() {
		return a, fmt.Errorf("use address %q on %q: not a valid prefix", a.Prefix, a.Interface)
	}
	if a.Prefix.Addr().Is4In6() {
		if a.Prefix.Bits() < 96 {
			return a, fmt.Errorf("use address %v on %q: mapped IPv4 with length below 96", a.Prefix, a.Interface)
		}
		a.Prefix = netip.PrefixFrom(a.Prefix.Addr().Unmap(), a.Prefix.Bits()-96)
	}
	return a, nil
}

func onLink(all []held, index int) []held {
	var here []held
	for _, h := range all {
		if h.LinkIndex == index {
			here = append(here, h)
		}
	}
	return here
}

// isGone: what should be removed is not there any more.
func isGone(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}
