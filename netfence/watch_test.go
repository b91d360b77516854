package netfence

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// TestLateInterface covers interfaces that appear, change and vanish.
func TestLateInterface(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			p := newPair(t)
			f := loadFence(t, pinRoot(t), mode)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if err := f.Watch(ctx); !errors.Is(err, ErrVIPsFirst) {
				t.Errorf("Watch before SetVIPs: %v", err)
			}
			check(t, f.SetVIPs(bothVIPs))
			ended := make(chan error, 1)
			go func() { ended <- f.Watch(ctx) }()
			eventually(t, "Watch attaches to what is there", func() bool { return has(f, "g0") })

			run(t, "ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1")
			eventually(t, "Watch attaches to a new pair", func() bool { return has(f, "late0") && has(f, "late1") })
			check(t, f.Verify())
			run(t, "ip", "link", "set", "late0", "address", "02:00:00:00:77:01")
			mac := packMAC([6]byte{2, 0, 0, 0, 0x77, 1})
			eventually(t, "Watch learns a new MAC of ours", func() bool {
				var one uint64
				return f.t.maps["own_macs"].Lookup(mac, &one) == nil
			})
			run(t, "ip", "link", "del", "late0")
			eventually(t, "Watch forgets an interface", func() bool { return !has(f, "late0") && !has(f, "late1") })
			eventually(t, "and its MAC", func() bool {
				var one uint64
				return errors.Is(f.t.maps["own_macs"].Lookup(mac, &one), ebpf.ErrKeyNotExist)
			})

			// A moved VIP on an interface that came late is guarded too.
			wire(t, "g1", p.client, "c1")
			run(t, "ip", "addr", "del", "10.9.0.100/32", "dev", "g0")
			addAddrs(t, "g1", "10.5.0.1/24", "10.9.0.100/32")
			inside(t, p.client, func() {
				addAddrs(t, "c1", "10.5.0.2/24")
				run(t, "ip", "route", "add", "10.9.0.100/32", "dev", "c1")
			})
			eventually(t, "Watch attaches to g1", func() bool { return has(f, "g1") })
			expectPing(t, p.client, "VIP on a late interface", false, vip4)
			expectPing(t, p.client, "late interface", true, mustAddr("10.5.0.1"))
			cancel()
			check(t, <-ended)

			// Verify attaches to what came while nobody watched.
			run(t, "ip", "link", "add", "late2", "type", "veth", "peer", "name", "late3")
			check(t, f.Verify())
			if !has(f, "late2") || !has(f, "late3") {
				t.Error("Verify did not attach to an interface that appeared")
			}
			check(t, f.Detach())
		})
	}
}

func has(f *Fence, name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.attached {
		if n == name {
			return true
		}
	}
	return false
}

// TestVerifyTellsAndRepairs covers programs that somebody took away or put in
// front of ours.
func TestVerifyTellsAndRepairs(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			p := newPair(t)
			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			g0, err := netlink.LinkByName("g0")
			check(t, err)
			index := g0.Attrs().Index

			if h, ok := f.hook.(*tcxHook); ok {
				lk := h.links[hookKey{index, egress}].(interface{ Detach() error })
				check(t, lk.Detach())
			} else {
				run(t, "tc", "filter", "del", "dev", "g0", "egress")
			}
			var detached *DetachedError
			if err := f.Verify(); !errors.As(err, &detached) || len(detached.Hooks) != 1 ||
				!strings.Contains(detached.Hooks[0], "g0 egress") {
				t.Errorf("Verify after a loss: %v", err)
			}
			check(t, f.AttachAll())
			check(t, f.Verify())
			p.expectVIP(t, "repaired", false)

			front, err := link.AttachTCX(link.TCXOptions{
				Interface: index, Program: emptyProgram(t), Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
			})
			check(t, err)
			if err := f.Verify(); !errors.As(err, &detached) || !strings.Contains(err.Error(), "in front") {
				t.Errorf("Verify with a program in front: %v", err)
			}
			check(t, front.Close())
			check(t, f.Verify())
			check(t, f.Detach())
		})
	}
}

// TestOthersStillRun covers programs of others in the same hook: those before
// us are overtaken in tcx, those behind us run for what we let pass.
func TestOthersStillRun(t *testing.T) {
	p := newPair(t)
	g0, err := netlink.LinkByName("g0")
	check(t, err)
	attachRaw := func(verdict int32, anchor link.Anchor) link.Link {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: constant(verdict)})
		check(t, err)
		defer prog.Close()
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: g0.Attrs().Index, Program: prog, Attach: ebpf.AttachTCXIngress, Anchor: anchor,
		})
		check(t, err)
		return l
	}
	accept := attachRaw(0, link.Head()) // TCX_PASS ends the chain
	defer accept.Close()
	f := loadFence(t, pinRoot(t), ModeTCX)
	check(t, f.SetVIPs(bothVIPs))
	check(t, f.AttachAll())
	check(t, f.Verify())
	p.expectVIP(t, "a program that accepts all was there before", false)
	check(t, accept.Close())
	dropAll := attachRaw(verdictDrop, link.Tail())
	expectPing(t, p.client, "a program behind us drops all", false, own4)
	check(t, dropAll.Close())
	expectPing(t, p.client, "it is gone", true, own4)
	check(t, f.Detach())
}
