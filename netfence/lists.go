package netfence

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/holdfast-ha/holdfast/bpf"
)

// setVIPs makes vips the complete list of guarded addresses.
//
// An entry of the map has its filter bit at every instant, also after a crash
// in the middle: bits are raised before entries are written and cleared after
// entries are deleted. So an address that the map names is never let through
// by the filter.
func (t *tables) setVIPs(vips []VIP) error {
	want := make(map[bpf.GateAddress]uint32, len(vips))
	var bits bitset
	var flags bpf.GateActive
	for _, v := range vips {
		a := v.Addr.Unmap()
		if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("set VIPs: %v is no address that a host can hold", v.Addr)
		}
		if v.Group >= MaxGroups {
			return fmt.Errorf("set VIPs: %w: group %d of %v, at most %d", ErrLimit, v.Group, a, MaxGroups-1)
		}
		k := address(a)
		if g, ok := want[k]; ok && g != uint32(v.Group) {
			return fmt.Errorf("set VIPs: %v belongs to group %d and to group %d", a, g, v.Group)
		}
		want[k] = uint32(v.Group)
		bits.set(hashAddr(k))
		if a.Is4() {
			flags |= bpf.GateActiveACTIVE_VIP4
		} else {
			flags |= bpf.GateActiveACTIVE_VIP6
		}
	}
	if len(want) > MaxVIPs {
		return fmt.Errorf("set VIPs: %w: %d addresses, at most %d", ErrLimit, len(want), MaxVIPs)
	}
	t.raise(offVIPBits, &bits)
	t.flag(flags, true)
	if err := replaceAll(t.maps["vips"], want); err != nil {
		return fmt.Errorf("set VIPs: %w", err)
	}
	t.settle(offVIPBits, &bits)
	t.flag((bpf.GateActiveACTIVE_VIP4|bpf.GateActiveACTIVE_VIP6)&^flags, false)
	return t.checkVIPs(want)
}

// checkVIPs reads back what setVIPs wrote.
func (t *tables) checkVIPs(want map[bpf.GateAddress]uint32) error {
	for k, g := range want {
		var got uint32
		if err := t.maps["vips"].Lookup(k, &got); err != nil || got != g {
			return fmt.Errorf("read back VIP %v: group %d, want %d: %w", k.W, got, g, explain("look up", err))
		}
		h := hashAddr(k)
		if t.filter.load(offVIPBits+uintptr(h>>6)*8)>>(h&63)&1 == 0 {
			return fmt.Errorf("read back VIP %v: filter bit %d is clear", k.W, h)
		}
	}
	return nil
}

// setForwarding puts the interface behind the group's gate, or takes it from
// behind any when on is false. One word is one entry, so an entry is never
// seen in half.
func (t *tables) setForwarding(ifindex int, group uint16, on bool) error {
	if ifindex <= 0 || int64(ifindex) > 1<<31-1 || group >= MaxGroups {
		return fmt.Errorf("set forwarding: %w: interface %d, group %d", ErrLimit, ifindex, group)
	}
	slot, free := -1, -1
	var bits uint64
	for i := range MaxForwarding {
		e := t.filter.load(offForward + uintptr(i)*8)
		switch {
		case e == 0:
			if free < 0 {
				free = i
			}
		case int(e>>32) == ifindex:
			slot = i
		default:
			bits |= 1 << (e >> 32 & 63)
		}
	}
	if on {
		if slot < 0 {
			slot = free
		}
		if slot < 0 {
			return fmt.Errorf("set forwarding: %w: more than %d interfaces", ErrLimit, MaxForwarding)
		}
		t.filter.update(offForward+uintptr(slot)*8, uint64(ifindex)<<32|uint64(group)<<1|1)
		bits |= 1 << (ifindex & 63)
	} else if slot >= 0 {
		t.filter.update(offForward+uintptr(slot)*8, 0)
	}
	t.filter.update(offForwardBits, bits)
	t.flag(bpf.GateActiveACTIVE_FORWARDING, bits != 0)
	return nil
}

// Blocked names a fenced member. Its frames are dropped, except TCP and UDP
// between a peer address and one of the ports, and ARP and neighbour discovery
// for a peer address.
type Blocked struct {
	Node  uint64       // raft id, nonzero
	MACs  [][6]byte    // source MACs dropped at ingress
	Addrs []netip.Addr // dropped as source at ingress and destination at egress
	Ports []uint16     // peer ports of either side, at most 8
	Peer  []netip.Addr // addresses that the members talk to each other with
}

// block makes list the complete list of fenced members.
func (t *tables) block(list []Blocked) error {
	addrs := map[bpf.GateAddress]bpf.GateBlockedAddr{}
	macs := map[uint64]uint64{}
	var bits bitset
	for _, b := range list {
		if b.Node == 0 || len(b.Ports) > maxPorts {
			return fmt.Errorf("block members: %w: node %d with %d ports, at most %d", ErrLimit, b.Node, len(b.Ports), maxPorts)
		}
		for _, m := range b.MACs {
			macs[packMAC(m)] = b.Node
			bits.set(hashMAC(packMAC(m)))
		}
		v := bpf.GateBlockedAddr{Node: b.Node}
		for i, p := range b.Ports {
			v.Ports[i] = p<<8 | p>>8
		}
		for _, a := range slices.Concat(b.Addrs, b.Peer) {
			v.Peer = 0
			if slices.Contains(b.Peer, a) {
				v.Peer = 1
			}
			k := address(a.Unmap().WithZone(""))
			addrs[k] = v
			bits.set(hashAddr(k))
		}
	}
	delete(macs, 0)
	if len(macs) > maxBlockedMACs || len(addrs) > maxBlockedAddrs {
		return fmt.Errorf("block members: %w: %d MACs and %d addresses, at most %d and %d",
			ErrLimit, len(macs), len(addrs), maxBlockedMACs, maxBlockedAddrs)
	}
	t.raise(offBlockedBits, &bits)
	if err := replaceAll(t.maps["blocked"], addrs); err != nil {
		return fmt.Errorf("block members: %w", err)
	}
	t.setBlockedMACs(macs)
	t.settle(offBlockedBits, &bits)
	t.flag(bpf.GateActiveACTIVE_BLOCKED, len(macs)+len(addrs) > 0)
	return nil
}

// setBlockedMACs keeps MACs that stay in their slots, so that a MAC is never
// missed because it is being moved.
func (t *tables) setBlockedMACs(macs map[uint64]uint64) {
	left := make(map[uint64]uint64, len(macs))
	for m, n := range macs {
		left[m] = n
	}
	var free []uintptr
	for i := range uintptr(maxBlockedMACs) {
		off := offBlockedMACs + i*blockedMACSize
		m := t.filter.load(off)
		if n, ok := left[m]; ok {
			t.filter.update(off+8, n)
			delete(left, m)
			continue
		}
		free = append(free, off)
	}
	for _, off := range free {
		t.filter.update(off, 0)
	}
	for m, n := range left {
		t.filter.store(free[0]+8, n) // the node before the MAC that makes it visible
		t.filter.store(free[0], m)
		free = free[1:]
	}
}

// setMembers makes the map of MAC to node complete.
func (t *tables) setMembers(members map[[6]byte]uint64) error {
	want := make(map[uint64]uint64, len(members))
	for m, n := range members {
		if k := packMAC(m); k != 0 {
			want[k] = n
		}
	}
	if len(want) > maxMACs {
		return fmt.Errorf("set members: %w: %d MACs, at most %d", ErrLimit, len(want), maxMACs)
	}
	if err := replaceAll(t.maps["members"], want); err != nil {
		return fmt.Errorf("set members: %w", err)
	}
	return nil
}

// setOwnMACs makes the set of this host's MACs complete.
func (t *tables) setOwnMACs(macs map[uint64]struct{}) error {
	want := make(map[uint64]uint64, len(macs))
	for m := range macs {
		if len(want) < maxMACs && m != 0 {
			want[m] = 1
		}
	}
	if err := replaceAll(t.maps["own_macs"], want); err != nil {
		return fmt.Errorf("set own MACs: %w", err)
	}
	return nil
}
