package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/vip"
)

// interfaces is the last known state of the interfaces that carry VIPs, kept
// by events, so that no turn of the loop asks the kernel.
type interfaces struct {
	read  func(name string) (vip.Interface, error)
	known map[string]ifaceState
}

type ifaceState struct {
	info vip.Interface
	err  error
}

func newInterfaces(read func(string) (vip.Interface, error)) *interfaces {
	return &interfaces{read: read, known: map[string]ifaceState{}}
}

func (i *interfaces) get(name string) (vip.Interface, error) {
	if name == "" {
		return vip.Interface{}, errNoInterfaceListed
	}
	s, ok := i.known[name]
	if !ok {
		s.info, s.err = i.read(name)
		i.known[name] = s
	}
	return s.info, s.err
}

// set takes what an event or a reading tells.
func (i *interfaces) set(name string, info vip.Interface, err error) {
	if _, ok := i.known[name]; ok {
		i.known[name] = ifaceState{info, err}
	}
}

// refreshInterfaces reads the interfaces of this node's VIPs beside the loop,
// and then brings up to date what depends on their indexes and MACs.
func (w *worker) refreshInterfaces() {
	names := map[string]bool{}
	for _, v := range w.cfg.VIPs {
		names[v.Interface] = true
	}
	w.addressJob(func() {
		read := map[string]ifaceState{}
		for name := range names {
			info, err := w.vips.Interface(name)
			read[name] = ifaceState{info, err}
		}
		w.mustPost(func(int64) {
			maps.Copy(w.ifaces.known, read)
			w.macsChanged()
			if err := w.setForwarding(); err != nil {
				w.fail(err)
			}
		})
	})
}

// vipEvent takes a change of an address or a link of this host.
func (w *worker) vipEvent(now int64, e vip.Event) {
	switch e := e.(type) {
	case vip.AddressGone:
		delete(w.present, e.Prefix.Addr())
		w.restore(e.Prefix.Addr())
	case vip.LinkUp:
		w.ifaces.set(e.Name, e.Interface, nil)
		w.refreshInterfaces()
		w.linkRestored(now, e.Name)
	case vip.Resync:
		w.refreshInterfaces()
		w.restore(netip.Addr{})
	case vip.LinkDown:
		w.ifaces.set(e.Name, e.Interface, nil) // a holder lets go in this turn
		w.refreshInterfaces()
	case vip.LinkDisappeared:
		w.ifaces.set(e.Name, e.Interface, vip.ErrNoInterface)
		w.refreshInterfaces()
	case vip.LinkChanged, vip.LinkAppeared:
		w.refreshInterfaces()
	case vip.WatchLost:
		w.log.Error("changes of interfaces are not seen at present", "error", e.Err)
	}
}

// linkRestored announces again: a switch may have learnt another port.
func (w *worker) linkRestored(now int64, name string) {
	for _, g := range w.groups {
		for _, v := range g.vips {
			if v.Interface != name {
				continue
			}
			delete(w.addressFault, g.id)
			if g.schedule != nil {
				g.schedule.Trigger(now, vip.LinkRestored)
			}
		}
	}
	w.restore(netip.Addr{})
}

// macsChanged refreshes the MACs that our beats name, and those of the other
// members that the gate must know: an announcement of a VIP from one of them
// closes it (DESIGN 8).
func (w *worker) macsChanged() {
	w.macs = w.macs[:0:0]
	for _, g := range w.groups {
		for _, v := range g.vips {
			info, err := w.ifaces.get(v.Interface)
			if err == nil && len(w.macs) < transport.MaxBeatMACs && !slices.Contains(w.macs, info.MAC) {
				w.macs = append(w.macs, info.MAC)
			}
		}
	}
	if w.self.Role == config.Witness || w.raft == nil {
		return
	}
	members := map[[6]byte]uint64{}
	for _, p := range w.peers {
		if p.beat == nil {
			continue
		}
		for _, mac := range p.beat.MACs {
			members[mac] = p.raftID
		}
	}
	if err := w.gate.SetMembers(members); err != nil {
		w.fail(fmt.Errorf("set member MACs: %w", err))
	}
}

// learnMACs takes the MACs that a member's beat names.
func (w *worker) learnMACs(p *peer, macs [][6]byte) {
	if slices.Equal(p.macs, macs) {
		return
	}
	p.macs = macs
	w.macsChanged()
	if len(w.state.FencedNodes()) > 0 {
		w.fencesChanged()
	}
}
