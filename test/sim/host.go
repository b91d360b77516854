package sim

import (
	"context"
	"crypto/ed25519"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/node"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/vip"
)

// host is one machine.
type host struct {
	w       *world
	i       int
	name    string
	gateway bool
	key     ed25519.PrivateKey
	addr    netip.AddrPort
	mac     [6]byte
	cfg     *config.Config

	sched, product, guardRnd *rand.Rand
	ppm                      int64
	wallOff                  time.Duration

	boot    int // counts the boots
	powered bool
	clk     *bootClock
	gate    *gate
	kernel  *kernel
	disk    *disk

	guard    *guardProc
	guards   int
	keepDown bool // the plan wants no guard here for now
	proc     *process
	workers  int // that were started
}

const ifName, ifIndex = Interface, 3

// at lets something happen on the host at true time t: not when it has lost its
// power by then, and later while it is frozen.
func (h *host) at(t int64, do func()) {
	boot := h.boot
	h.w.at(t, func() {
		if !h.powered || h.boot != boot {
			return
		}
		if thaw := h.clk.thaw(h.w.now); thaw > h.w.now {
			h.at(thaw, do)
			return
		}
		do()
	})
}

// powerOn boots the host.
func (h *host) powerOn() {
	if h.powered {
		return
	}
	h.boot++
	h.powered = true
	h.clk = newBootClock(h.w.now, 1e9+h.sched.Int64N(1e12), h.ppm)
	h.gate = newGate(h)
	h.kernel = newKernel(h)
	if !h.keepDown {
		h.at(h.w.now+span(h.sched, time.Millisecond, 30*time.Millisecond), h.startGuard)
	}
}

// powerOff takes its power away at once.
func (h *host) powerOff() {
	if !h.powered {
		return
	}
	h.w.note("%s loses power", h.name)
	if h.proc != nil {
		h.proc.dead, h.proc.diedAt = true, h.w.now
		h.w.net.vanished(h.proc)
		h.w.check.processEnded(h.proc)
		h.proc.node = nil
		h.proc = nil
	}
	h.powered = false
	h.gate.lookAll(endedByPower)
	h.guard = nil
	h.disk.crash()
}

// freeze stops the whole machine, its clock too, from true time at for d.
func (h *host) freeze(at, d int64) {
	if !h.clk.freeze(at, at+d) {
		return
	}
	h.w.note("%s frozen for %v at %v", h.name, time.Duration(d), stamp(at))
	look := func() {
		if h.powered {
			h.gate.lookAll(endedByFreeze)
		}
	}
	h.w.at(at, look)
	h.w.at(at+d, look)
}

// newProcess makes the process of a worker; open lets it begin.
func (h *host) newProcess(incarnation uint64) *process {
	h.workers++
	return &process{h: h, w: h.w, incarnation: incarnation, sched: h.sched, cursor: h.w.now}
}

// open is the worker's start.
func (p *process) open() {
	h := p.h
	p.link = &procLink{p: p, events: make(chan guard.Event, 16)}
	e := node.Host{
		Clock: p, Wall: p.wall, Sleep: p.sleep, Random: rand.New(rand.NewPCG(h.product.Uint64(), h.product.Uint64())),
		FS: h.disk.open(p), Key: h.key, Link: p.link, Hooks: noHooks{}, Go: p.goJob, Queue: p.newRow, Steps: steps(p),
		Mesh: func(c transport.Config) (node.Mesh, error) { return h.w.net.join(p, c), nil },
	}
	if h.gateway {
		e.Gate = &procGate{p: p, g: h.gate, last: map[uint16][2]int64{}}
		e.VIPs = &procVIPs{p: p, k: h.kernel}
	}
	var err error
	p.run(func() {
		p.node, err = node.Step(options(h, p.incarnation), e)
	})
	if p.dead || h.w.failure != nil {
		return
	}
	p.busy = p.cursor
	if err != nil {
		p.ending = true
		p.effect(func() { p.exit(err) })
		return
	}
	if h.guard == nil || h.guard.child != p {
		p.link.guardGone() // it died while this process was being made
	}
	h.w.check.started(p)
	p.wake(p.busy + span(p.sched, 10*time.Microsecond, time.Millisecond))
}

// kernel is the rest of a host's kernel: its floating addresses and its link.
type kernel struct {
	h       *host
	addrs   map[netip.Addr]netip.Prefix
	carrier bool
}

func newKernel(h *host) *kernel {
	return &kernel{h: h, addrs: map[netip.Addr]netip.Prefix{}, carrier: true}
}

// clear takes all floating addresses off.
func (k *kernel) clear() {
	for _, v := range k.h.cfg.VIPs {
		k.remove(v.Address.Addr())
	}
}

// remove takes an address off, and tells the worker, as the kernel does
// whoever did it.
func (k *kernel) remove(a netip.Addr) bool {
	prefix, ok := k.addrs[a]
	if !ok {
		return false
	}
	delete(k.addrs, a)
	k.tell(vip.AddressGone{Prefix: prefix, Index: ifIndex, Interface: ifName})
	return true
}

func (k *kernel) tell(e vip.Event) {
	p := k.h.proc
	if p == nil || !k.h.gateway {
		return
	}
	p.at(k.h.w.now+span(k.h.sched, 20*time.Microsecond, time.Millisecond), func() {
		p.deliver(func() { p.node.VIP(e) })
	})
}

func (k *kernel) iface() vip.Interface {
	return vip.Interface{Name: ifName, Index: ifIndex, MAC: k.h.mac, Up: true, Carrier: k.carrier, MTU: 1500}
}

func (k *kernel) setCarrier(on bool) {
	if k.carrier == on {
		return
	}
	k.carrier = on
	if on {
		k.tell(vip.LinkUp{Interface: k.iface()})
		return
	}
	k.tell(vip.LinkDown{Interface: k.iface()})
}

// procVIPs are the addresses and interfaces as a worker reaches them.
type procVIPs struct {
	p *process
	k *kernel
}

func (v *procVIPs) Interface(name string) (vip.Interface, error) {
	if name != ifName {
		return vip.Interface{}, vip.ErrNoInterface
	}
	return v.k.iface(), nil
}

func (v *procVIPs) Add(a vip.Address) error {
	v.p.effect(func() { v.k.addrs[a.Prefix.Addr()] = a.Prefix })
	return nil
}

func (v *procVIPs) Remove(a vip.Address) error {
	v.p.effect(func() { v.k.remove(a.Prefix.Addr()) })
	return nil
}

func (v *procVIPs) RemoveStrays(addrs []netip.Addr) ([]vip.Stray, error) {
	for _, a := range addrs {
		v.p.effect(func() { v.k.remove(a) })
	}
	return nil, nil
}

func (v *procVIPs) DestroySockets(netip.Addr) (vip.Destroyed, error) { return vip.Destroyed{}, nil }

func (v *procVIPs) Neighbours(addrs []netip.Addr) (map[netip.Addr][]vip.MAC, error) {
	known := map[netip.Addr][]vip.MAC{}
	for _, h := range v.p.w.hosts {
		for _, a := range addrs {
			if h.addr.Addr() == a {
				known[a] = []vip.MAC{h.mac}
			}
		}
	}
	return known, nil
}

// Announce sends a claim to the whole network, if the gate lets it out.
func (v *procVIPs) Announce(addr netip.Addr, _ string) error {
	v.p.effect(func() {
		w := v.p.w
		group, ok := w.groupOf(addr)
		if !ok {
			return
		}
		if val := v.p.h.gate.value(group); val.open != nil {
			w.net.claim(v.p.h, v.p.h.mac, group)
		}
	})
	return nil
}

func (v *procVIPs) Watch(context.Context) (<-chan vip.Event, error) { return nil, nil }

func (v *procVIPs) Close() error { return nil }
