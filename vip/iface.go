package vip

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// Interface is the state of a network interface at the time of reading.
type Interface struct {
	Name  string
	Index int
	// MAC is zero where the interface has no Ethernet address.
	MAC MAC
	// Up: an administrator has set it up.
	Up bool
	// Carrier: up, and the link below works. Reading it shows the present
	// state; Watch tells of a change at once, but Linux holds back changes
	// within a second of the previous one until that second is over
	// (net/core/link_watch.c).
	Carrier bool
	// MTU is in bytes, without the Ethernet header.
	MTU int
	// Loopback interfaces have no neighbours.
	Loopback bool
}

// Interface reads the interface called name. Errors: ErrNoInterface.
func (m *Manager) Interface(name string) (Interface, error) {
	link, err := m.link(name)
	if err != nil {
		return Interface{}, fmt.Errorf("look up interface %q: %w", name, err)
	}
	return interfaceOf(link.Attrs()), nil
}

// link finds an interface by name; errors are explained already.
func (m *Manager) link(name string) (netlink.Link, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return nil, ErrNoInterface
	}
	link, err := m.handle.LinkByName(name)
	if err != nil {
		return nil, explain(err)
	}
	return link, nil
}

func interfaceOf(a *netlink.LinkAttrs) Interface {
	i := Interface{
		Name:     a.Name,
		Index:    a.Index,
		Up:       a.RawFlags&unix.IFF_UP != 0,
		Carrier:  a.RawFlags&unix.IFF_LOWER_UP != 0,
		MTU:      a.MTU,
		Loopback: a.RawFlags&unix.IFF_LOOPBACK != 0,
	}
	if len(a.HardwareAddr) == len(i.MAC) {
		copy(i.MAC[:], a.HardwareAddr)
	}
	return i
}

func hasAltName(a *netlink.LinkAttrs, name string) bool { return slices.Contains(a.AltNames, name) }

// links lists all interfaces.
func (m *Manager) links() ([]Interface, error) {
	for range dumpAttemptsMax {
		list, err := m.handle.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list interfaces: %w", explain(err))
		}
		all := make([]Interface, 0, len(list))
		for _, l := range list {
			all = append(all, interfaceOf(l.Attrs()))
		}
		return all, nil
	}
	return nil, fmt.Errorf("list interfaces: interrupted by changes %d times", dumpAttemptsMax)
}

// MACs returns the Ethernet addresses of the named interfaces, or of all when
// names is empty: sorted, each once, without loopback. Interfaces that do not
// exist have none and are left out.
func (m *Manager) MACs(names []string) ([]MAC, error) {
	all, err := m.links()
	if err != nil {
		return nil, fmt.Errorf("read own MAC addresses: %w", err)
	}
	var macs []MAC
	for _, i := range all {
		if i.Loopback || i.MAC == (MAC{}) || len(names) > 0 && !slices.Contains(names, i.Name) {
			continue
		}
		macs = append(macs, i.MAC)
	}
	slices.SortFunc(macs, func(a, b MAC) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(macs), nil
}

// Neighbours returns the Ethernet addresses under which the kernel's neighbour
// table knows each of addrs, on any interface. Addresses it does not know, or
// could not resolve, are absent from the map: nothing is asked on the wire.
func (m *Manager) Neighbours(addrs []netip.Addr) (map[netip.Addr][]MAC, error) {
	known := make(map[netip.Addr][]MAC)
	wanted := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		wanted[a.Unmap().WithZone("")] = true
	}
	if len(wanted) == 0 {
		return known, nil
	}
	list, err := m.neighbours()
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		addr, ok := netip.AddrFromSlice(n.IP)
		addr = addr.Unmap()
		if !ok || !wanted[addr] || len(n.HardwareAddr) != len(MAC{}) ||
			n.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE|unix.NUD_NOARP) != 0 {
			continue
		}
		mac := MAC(n.HardwareAddr)
		if mac != (MAC{}) && !slices.Contains(known[addr], mac) {
			known[addr] = append(known[addr], mac)
		}
	}
	return known, nil
}

func (m *Manager) neighbours() ([]netlink.Neigh, error) {
	for range dumpAttemptsMax {
		list, err := m.handle.NeighList(0, netlink.FAMILY_ALL)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", explain(err))
		}
		return list, nil
	}
	return nil, fmt.Errorf("list neighbours: interrupted by changes %d times", dumpAttemptsMax)
}
