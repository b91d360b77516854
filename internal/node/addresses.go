package node

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/vip"
)

// Addresses are set and removed by one goroutine, in order: a netlink call
// waits for whoever else changes the network configuration of this host, and
// the loop must not wait with it.

// maxAddressJobs bounds the changes that wait. When that many do, the kernel
// has not answered for long, and this node can neither take nor give back an
// address.
const maxAddressJobs = 256

var errAddressesStuck = errors.New("changes of addresses are stuck in the kernel")

func (w *worker) addressJob(f func()) {
	if !w.addresses.Submit(f) {
		w.fail(errAddressesStuck)
	}
}

// setAddresses adds the group's addresses and calls done, in the loop. An
// address that this node's file does not list is left out.
func (w *worker) setAddresses(g *group, done func(now int64, err error)) {
	vips := g.vips
	w.addressJob(func() {
		var err error
		if w.ungated.Load() {
			err = errCannotHold
		}
		for _, v := range vips {
			if v.Interface != "" && err == nil {
				err = w.vips.Add(vip.Address{Prefix: v.Address, Interface: v.Interface})
			}
		}
		w.mustPost(func(now int64) {
			if err != nil {
				w.log.Error("addresses not set", "group", g.name, "error", err)
			} else {
				w.notePresent(vips)
			}
			done(now, err)
		})
	})
}

func (w *worker) notePresent(vips []config.VIP) {
	for _, v := range vips {
		if v.Interface != "" {
			w.present[v.Address.Addr()] = true
		}
	}
}

// clearAddresses removes the addresses of a group.
func (w *worker) clearAddresses(g *group) {
	for _, v := range g.vips {
		w.clearAddress(v.Address, v.Interface)
	}
}

// clearAddress removes an address and ends what was bound to it: a connection
// that outlives its address hangs half dead.
func (w *worker) clearAddress(prefix netip.Prefix, iface string) {
	addr := prefix.Addr()
	delete(w.present, addr)
	if iface == "" {
		return // not in this node's file, so it was never set
	}
	w.addressJob(func() {
		if err := w.vips.Remove(vip.Address{Prefix: prefix, Interface: iface}); err != nil {
			w.log.Error("address not removed", "address", prefix, "error", err)
		}
		if n, err := w.vips.DestroySockets(addr); err != nil {
			w.log.Warn("sockets not destroyed", "address", addr, "error", err)
		} else if n.TCP+n.UDP > 0 {
			w.log.Info("sockets destroyed", "address", addr, "tcp", n.TCP, "udp", n.UDP)
		}
	})
}

// restore puts back addresses that something else has deleted, while they are
// wanted. One that cannot be put back makes holding impossible (A4).
func (w *worker) restore(lost netip.Addr) {
	for _, g := range w.groups {
		if !g.tenure.WantsAddress() {
			continue
		}
		for _, v := range g.vips {
			if lost.IsValid() && v.Address.Addr() != lost {
				continue
			}
			if lost.IsValid() {
				w.log.Warn("address deleted by something else, putting it back", "address", v.Address, "interface", v.Interface)
			}
			w.setAddresses(g, func(_ int64, err error) {
				delete(w.addressFault, g.id)
				if err != nil && g.tenure.WantsAddress() {
					w.addressFault[g.id] = addressFault{text: "address cannot be set: " + err.Error(), at: w.clk.Boottime()}
					return
				}
				if g.schedule != nil {
					w.announce(g)
				}
			})
			break // all addresses of the group at once
		}
	}
}

// addressFault is why a group's addresses cannot be set, and since when.
type addressFault struct {
	text string
	at   int64
}

// faultMemory is how long a failure to set an address keeps this node from
// being chosen.
const faultMemory = 10 * time.Second

// clearUngated takes the addresses off before anything is said of them: an
// interface without its programs answers for them, whatever the gate's value
// is. It waits for the kernel, since the note that follows must be true.
func (w *worker) clearUngated(g *group) {
	for _, v := range g.vips {
		if v.Interface == "" {
			continue
		}
		if err := w.vips.Remove(vip.Address{Prefix: v.Address, Interface: v.Interface}); err != nil {
			w.fail(fmt.Errorf("remove address that no gate guards: %w", err))
		}
	}
}

// announce tells the LAN, one round for each address. The loop does not wait:
// the first round on an interface opens a socket.
func (w *worker) announce(g *group) {
	vips := g.vips
	w.background(func() {
		for _, v := range vips {
			if v.Interface == "" {
				continue
			}
			if err := w.vips.Announce(v.Address.Addr(), v.Interface); err != nil {
				w.limited.Warn("announcement not sent", "address", v.Address, "interface", v.Interface, "error", err)
			}
		}
	})
}
