package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/storage"
)

// groupsChanged makes the groups of this node those of the committed state,
// with the interfaces of this node's file. A group that is held keeps its
// tenure; addresses that left it are removed, new ones are added.
func (w *worker) groupsChanged(now int64) {
	if w.catchingUp() {
		return // what the log says later counts; done once it was applied
	}
	var next []*group
	for _, cg := range w.state.Groups() {
		g := w.groupByID(cg.ID)
		if g == nil {
			g = &group{id: cg.ID, name: cg.Name, applied: w.state.Assignment(cg.ID).Epoch}
		}
		next = append(next, g)
	}
	for _, g := range w.groups {
		if _, ok := w.state.Group(g.id); !ok {
			w.carryOut(now, g, g.tenure.Release(now))
			if g.tenure.Active() {
				w.leaving = append(w.leaving, g)
			}
		}
	}
	w.groups = next
	w.placeVIPs()
}

// placeVIPs gives every group its addresses and the gate its table. An address
// is in the table whenever it may be on an interface: it enters before it is
// set, and leaves only after its removal was confirmed.
func (w *worker) placeVIPs() {
	committed := map[netip.Addr]uint16{}
	for _, g := range w.groups {
		g.vips = nil
		cg, _ := w.state.Group(g.id)
		for _, v := range cg.VIPs {
			scope := config.ScopeVIP
			if v.Scope == storage.ScopeForwarding {
				scope = config.ScopeForwarding
			}
			g.vips = append(g.vips, config.VIP{Address: v.Prefix, Interface: w.interfaceFor(v.Prefix), Group: g.name, Scope: scope})
			committed[v.Prefix.Addr()] = g.id
		}
	}
	w.committedVIPs = committed
	w.testify()
	if w.self.Role == config.Witness {
		return // it has neither VIP interface nor gate to keep
	}
	for _, addr := range slices.SortedFunc(maps.Keys(w.gated), netip.Addr.Compare) {
		if _, ok := committed[addr]; !ok {
			w.gated[addr] = retiredGroup // closed from here on, whoever holds what
			w.retire(addr)
		}
	}
	if err := w.setTable(); err != nil {
		w.fail(err)
		return
	}
	if err := w.setForwarding(); err != nil {
		w.fail(err)
		return
	}
	w.refreshInterfaces()
	for _, g := range w.groups {
		if g.tenure.WantsAddress() {
			w.setAddresses(g, func(int64, error) {
				if g.schedule != nil {
					w.announce(g)
				}
			})
		}
	}
}

// setTable writes the gate's table: what is committed, and what may still be
// on an interface.
func (w *worker) setTable() error {
	for addr, id := range w.committedVIPs {
		w.gated[addr] = id
	}
	var table []netfence.VIP
	for _, addr := range slices.SortedFunc(maps.Keys(w.gated), netip.Addr.Compare) {
		table = append(table, netfence.VIP{Addr: addr, Group: w.gated[addr]})
	}
	if err := w.gate.SetVIPs(table); err != nil {
		return fmt.Errorf("set gate addresses: %w", err)
	}
	return nil
}

// retiredGroup is a group that is never opened, for addresses on their way out.
const retiredGroup = netfence.MaxGroups - 1

// retire takes an address that is committed no more off every interface, and
// only then out of the gate's table. One that cannot be removed stays behind
// the gate.
func (w *worker) retire(addr netip.Addr) {
	delete(w.present, addr)
	w.retirement++
	mine := w.retirement
	w.retiring[addr] = mine
	w.addressJob(func() {
		_, err := w.vips.RemoveStrays([]netip.Addr{addr})
		w.mustPost(func(int64) {
			if _, again := w.committedVIPs[addr]; again || w.retiring[addr] != mine {
				return // it may have been set again after this removal
			}
			delete(w.retiring, addr)
			if err != nil {
				w.log.Error("address not removed, it stays behind the gate", "address", addr, "error", err)
				return
			}
			delete(w.gated, addr)
			if err := w.setTable(); err != nil {
				w.fail(err)
			}
		})
	})
}

// interfaceFor is this node's own choice of interface for a committed address;
// "" when its file does not list it.
func (w *worker) interfaceFor(p netip.Prefix) string {
	for _, v := range w.cfg.VIPs {
		if v.Address == p {
			return v.Interface
		}
	}
	// Committed by a member whose file was changed before ours: its network
	// tells where it belongs.
	for _, v := range w.cfg.VIPs {
		if v.Address.Masked() == p.Masked() {
			return v.Interface
		}
	}
	return ""
}

// setForwarding makes the interfaces of scope "forwarding" those that the
// groups name, by the index that they have at present.
func (w *worker) setForwarding() error {
	want := map[int]uint16{}
	for _, g := range w.groups {
		for _, v := range g.vips {
			info, err := w.ifaces.get(v.Interface)
			if v.Scope == config.ScopeForwarding && err == nil {
				want[info.Index] = g.id
			}
		}
	}
	for index := range w.forwarding {
		if _, ok := want[index]; !ok {
			if err := w.gate.ClearForwarding(index); err != nil {
				return fmt.Errorf("clear gate forwarding: %w", err)
			}
		}
	}
	for index, id := range want {
		if old, ok := w.forwarding[index]; ok && old == id {
			continue
		}
		if err := w.gate.SetForwarding(index, id); err != nil {
			return fmt.Errorf("set gate forwarding: %w", err)
		}
	}
	w.forwarding = want
	return nil
}
