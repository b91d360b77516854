package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// address is the IPv4 address of a node's interface.
func (w *world) address(t *testing.T, node, nic string) netip.Addr {
	t.Helper()
	n, err := w.lab.Node(node)
	check(t, err)
	c, ok := n.NIC(nic)
	if !ok {
		t.Fatalf("%s has no %s", node, nic)
	}
	return c.IPv4.Addr()
}

// pings tells whether a node reaches another by ICMP from its own address.
func (w *world) pings(t *testing.T, from, to string) error {
	t.Helper()
	out, err := w.lab.Run(within(t, settle), from, "ping", "-n", "-c", "1", "-W", "0.5", w.address(t, to, "eth0").String())
	check(t, err)
	if out.Code != 0 {
		return fmt.Errorf("%s does not reach %s: %s", from, to, out.Stdout)
	}
	return nil
}

// reachesPeerPort tells whether a node can connect to another's peer port.
func (w *world) reachesPeerPort(t *testing.T, from, to string) error {
	t.Helper()
	addr := netip.AddrPortFrom(w.address(t, to, "eth0"), lab.PeerPort)
	return w.lab.Do(from, func() error {
		conn, err := net.DialTimeout("tcp4", addr.String(), 3*time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Covers C3, S6, A6
func TestFences(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: func(_ *lab.Node, cfg lab.Table) {
		cfg["placement"] = lab.Table{"fence_delay": "2s"}
	}})
	fenced := func(node string, want bool) func(*report) error {
		return func(r *report) error {
			if r.fencedMember(node) != want {
				return fmt.Errorf("%s fenced: %v, want %v", node, !want, want)
			}
			return nil
		}
	}
	for _, name := range []string{"standby", "holder"} {
		t.Run("silent "+name+" is fenced until it is back", func(t *testing.T) {
			victim := w.holder(t)
			if name == "standby" {
				victim = w.other(victim)
			}
			stays := w.other(victim)
			check(t, w.pings(t, victim, stays))
			p := w.watch(t)
			f := broken(t)(w.Kill(victim))
			for _, n := range w.others(victim) {
				w.seen(t, n, fenced(victim, true))
			}
			p.owner(stays)
			// The fenced host still runs; what it sends is dropped.
			if w.pings(t, victim, stays) == nil {
				t.Errorf("%s is fenced and still reaches %s", victim, stays)
			}
			if err := w.reachesPeerPort(t, victim, stays); err != nil {
				t.Errorf("a fenced member must reach the peer port: %v", err)
			}
			s, err := w.status(stays)
			check(t, err)
			dropped := uint64(0)
			for reason, n := range s.Gate.Dropped {
				if strings.Contains(reason, "fence") || strings.Contains(reason, "block") {
					dropped += n
				}
			}
			if dropped == 0 {
				t.Errorf("no counter of what a fenced member sent: %v", s.Gate.Dropped)
			}
			w.mend(t, f)
			for _, n := range w.Names() {
				w.seen(t, n, fenced(victim, false))
			}
			eventually(t, func() error { return w.pings(t, victim, stays) })
			p.safeWithin(moved)
		})
	}
	t.Run("operator's fence stays until it is lifted by hand", func(t *testing.T) {
		holder := w.holder(t)
		victim := w.other(holder)
		p, epoch := w.watch(t), w.epoch(t, holder)
		w.cli(t, holder, 0, "fence", victim)
		w.seen(t, victim, func(r *report) error {
			if r.Role != "fenced" {
				return fmt.Errorf("role %q", r.Role)
			}
			return r.has("fenced")
		})
		if w.pings(t, victim, holder) == nil {
			t.Errorf("%s is fenced and still reaches %s", victim, holder)
		}
		out := w.cli(t, "w1", 4, "failover", "--to", victim)
		wantText(t, out.Stderr, "fence", "hint: ")
		// It comes back, and is heard for longer than the fence delay.
		broken(t)(w.Restart(victim))
		w.ready(t)
		always(t, 3*time.Second, func() error {
			r, err := w.status(holder)
			if err != nil {
				return err
			}
			return fenced(victim, true)(r)
		})
		w.cli(t, victim, 0, "unfence", victim)
		for _, n := range w.Names() {
			w.seen(t, n, fenced(victim, false))
		}
		wantText(t, w.cli(t, holder, 0, "unfence", victim).Stdout, "already")
		w.cli(t, holder, 4, "fence", "nobody")
		w.cli(t, holder, 4, "unfence", "nobody")
		w.cli(t, holder, 2, "fence")
		eventually(t, func() error { return w.pings(t, victim, holder) })
		p.untouched()
		if e := w.epoch(t, holder); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	})
	t.Run("fenced holder gives the address up", func(t *testing.T) {
		holder := w.holder(t)
		next := w.other(holder)
		p := w.watch(t)
		w.cli(t, next, 0, "fence", holder)
		w.holder(t, next)
		p.owner(next)
		w.cli(t, next, 0, "unfence", holder)
		w.ready(t)
		p.safeWithin(moved)
	})
}

// Covers C2, C3, S6
func TestClosedGateAnswersOnNoInterface(t *testing.T) {
	l := pair
	l.SecondNIC = []string{"gw1", "gw2"}
	w := launch(t, l, lab.ClusterOptions{VIPs: []lab.VIP{{Prefix: lab.VIP4}, {Prefix: lab.VIP6}}})
	w.failover(t, "gw1")
	for _, node := range []string{"gw1", "gw2"} {
		// The kernel's default: any interface answers for any address.
		out, err := w.lab.Run(within(t, settle), node, "sysctl", "-n", "net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.eth1.arp_ignore")
		check(t, err)
		if strings.TrimSpace(out.Stdout) != "0\n0" {
			t.Fatalf("arp_ignore is %q", out.Stdout)
		}
	}
	for name, fault := range map[string]func(...string) (*lab.Fault, error){
		"killed":  w.Kill,
		"hanging": func(n ...string) (*lab.Fault, error) { return w.Hang(n[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			w.failover(t, "gw1")
			four, six := w.watch(t), w.watch(t, lab.ProbeOptions{Target: lab.VIP6.Addr()})
			f := broken(t)(fault("gw1"))
			w.holder(t, "gw2")
			four.owner("gw2")
			six.owner("gw2")
			if has, err := w.lab.HasAddress("gw1", lab.VIP4.Addr()); err != nil || !has {
				t.Errorf("gw1 has lost its address (%v): the gate was not needed", err)
			}
			after, after6 := w.watch(t), w.watch(t, lab.ProbeOptions{Target: lab.VIP6.Addr()})
			time.Sleep(2 * time.Second) // of questions
			for _, p := range []*watch{after, after6} {
				for _, o := range p.safeWithin(undisturbed).Owners {
					if o.Node != "gw2" {
						t.Errorf("%v answers from behind a closed gate", o)
					}
				}
			}
			w.mend(t, f)
			four.safeWithin(moved)
			six.safeWithin(moved)
		})
	}
}
