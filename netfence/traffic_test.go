package netfence

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

var modes = []string{ModeTCX, ModeClsact}

// newPeer makes a second namespace; the test stays in its own.
func newPeer(t testing.TB) netns.NsHandle {
	t.Helper()
	here, err := netns.Get()
	check(t, err)
	defer here.Close()
	h, err := netns.New()
	check(t, err)
	check(t, netns.Set(here))
	t.Cleanup(func() { _ = h.Close() })
	inside(t, h, func() { run(t, "ip", "link", "set", "lo", "up") })
	return h
}

// inside runs f in another namespace on the same thread.
func inside(t testing.TB, h netns.NsHandle, f func()) {
	t.Helper()
	here, err := netns.Get()
	check(t, err)
	check(t, netns.Set(h))
	defer func() {
		if err := netns.Set(here); err != nil {
			panic(err) // the thread must not go on in the wrong namespace
		}
		_ = here.Close()
	}()
	f()
}

// wire joins interface near here with far in the peer's namespace.
func wire(t testing.TB, near string, peer netns.NsHandle, far string) {
	t.Helper()
	run(t, "ip", "link", "add", near, "type", "veth", "peer", "name", far)
	l, err := netlink.LinkByName(far)
	check(t, err)
	check(t, netlink.LinkSetNsFd(l, int(peer)))
	run(t, "ip", "link", "set", near, "up")
	inside(t, peer, func() { run(t, "ip", "link", "set", far, "up") })
}

func addAddrs(t testing.TB, dev string, addrs ...string) {
	t.Helper()
	for _, a := range addrs {
		args := []string{"addr", "add", a, "dev", dev}
		if strings.Contains(a, ":") {
			args = append(args, "nodad")
		}
		run(t, "ip", args...)
	}
}

// pings tells whether an address answers within a time that depends on what
// the caller expects: a closed gate is not waited for.
func pings(a netip.Addr, expect bool) bool {
	wait := "0.2"
	if expect {
		wait = "10"
	}
	return exec.Command("ping", "-n", "-q", "-c", "1", "-W", wait, a.String()).Run() == nil
}

func expectPing(t testing.TB, from netns.NsHandle, what string, want bool, addrs ...netip.Addr) {
	t.Helper()
	inside(t, from, func() {
		for _, a := range addrs {
			if got := pings(a, want); got != want {
				t.Errorf("%s: ping %v answered is %v, want %v", what, a, got, want)
			}
		}
	})
}

// whoHas asks for an IPv4 address by ARP on dev and returns the MACs that
// answer within the time.
func whoHas(t testing.TB, dev string, own, target netip.Addr, wait time.Duration) map[string]int {
	t.Helper()
	ifi, err := net.InterfaceByName(dev)
	check(t, err)
	const protocol = unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	check(t, err)
	defer unix.Close(fd)
	check(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: ifi.Index}))
	frame := etherARP([6]byte(ifi.HardwareAddr), arpRequest, own, target)
	_, err = unix.Write(fd, frame)
	check(t, err)
	out := map[string]int{}
	for end := time.Now().Add(wait); time.Now().Before(end); {
		tv := unix.NsecToTimeval(max(int64(time.Until(end)), 1000))
		check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
		buf := make([]byte, 128)
		n, err := unix.Read(fd, buf)
		if err != nil {
			continue
		}
		if n >= 42 && binary.BigEndian.Uint16(buf[20:]) == arpReply && bytes.Equal(buf[28:32], target.AsSlice()) {
			out[net.HardwareAddr(buf[6:12]).String()]++
		}
	}
	return out
}

// pair is a gate host, the thread's own namespace, and a client beside it. The
// host has the VIPs on its interface g0.
type pair struct{ host, client netns.NsHandle }

func newPair(t testing.TB) pair {
	t.Helper()
	p := pair{host: inNewNamespace(t)}
	p.client = newPeer(t)
	wire(t, "g0", p.client, "c0")
	addAddrs(t, "g0", "10.9.0.1/24", "fd09::1/64", "10.9.0.100/32", "fd09::100/128")
	inside(t, p.client, func() { addAddrs(t, "c0", "10.9.0.2/24", "fd09::2/64") })
	expectPing(t, p.client, "without a gate", true, own4, own6, vip4, vip6)
	return p
}

func (p pair) expectVIP(t testing.TB, what string, open bool) {
	t.Helper()
	expectPing(t, p.client, what, open, vip4, vip6)
	expectPing(t, p.client, what, true, own4, own6)
	inside(t, p.client, func() {
		wait := 100 * time.Millisecond
		if got := len(whoHas(t, "c0", other4, vip4, wait)); (got > 0) != open {
			t.Errorf("%s: %d hosts answer ARP for the VIP, want an answer: %v", what, got, open)
		}
	})
}

var bothVIPs = []VIP{{vip4, vipGroup}, {vip6, vipGroup}}

// TestLifeOfAGate follows a gate with real packets through open, close, the
// death of its processes, adoption by a new guard, and removal.
func TestLifeOfAGate(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			p := newPair(t)
			dir := pinRoot(t)
			f := loadFence(t, dir, mode)
			if err := f.AttachAll(); !errors.Is(err, ErrVIPsFirst) {
				t.Fatalf("AttachAll before SetVIPs: %v", err)
			}
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			check(t, f.AttachAll()) // twice is once
			check(t, f.Verify())
			p.expectVIP(t, "new gate", false)

			g := openGate(t, f, 7)
			open(t, g, vipGroup)
			p.expectVIP(t, "open gate", true)
			check(t, g.CloseGroup(vipGroup))
			p.expectVIP(t, "closed by the worker", false)
			open(t, g, vipGroup)
			check(t, f.CloseAll())
			p.expectVIP(t, "closed by the guard", false)
			if err := g.Open(vipGroup, clock.Boottime()+40e9, clock.Boottime()); !errors.Is(err, ErrClosedByGuard) {
				t.Errorf("late write of a worker: %v", err)
			}

			check(t, f.Close()) // the guard is gone, and so is every descriptor of this process
			p.expectVIP(t, "no process left", false)

			f = loadFence(t, dir, mode)
			p.expectVIP(t, "adopted", false)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			check(t, f.Verify())
			p.expectVIP(t, "adopted and attached", false)
			g = openGate(t, f, 8)
			if c, err := g.Counters(); err != nil || c["ip_in"] == 0 || c["arp_in"] == 0 {
				t.Errorf("counters did not outlive the guard: %v, %v", c, err)
			}
			open(t, g, vipGroup)
			p.expectVIP(t, "open after adoption", true)

			check(t, f.Close()) // a guard that dies leaves the lease of its worker to the deadline
			p.expectVIP(t, "guard died", true)
			f = loadFence(t, dir, mode)
			p.expectVIP(t, "a new guard begins by closing", false)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())

			check(t, f.Detach())
			p.expectVIP(t, "detached", true)
			expectNothingLeft(t, dir)
		})
	}
}

// expectNothingLeft looks for programs on the interfaces, pins and mounts.
func expectNothingLeft(t testing.TB, dir string) {
	t.Helper()
	links, err := netlink.LinkList()
	check(t, err)
	for _, l := range links {
		for _, d := range directions {
			res, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: tcxType(d)})
			check(t, err)
			if len(res.Programs) > 0 {
				t.Errorf("%s %s: %d tcx programs left", l.Attrs().Name, d, len(res.Programs))
			}
		}
		if out := run(t, "tc", "qdisc", "show", "dev", l.Attrs().Name); strings.Contains(out, "clsact") {
			t.Errorf("%s: qdisc left: %s", l.Attrs().Name, out)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	if strings.Contains(string(mounts), dir) {
		t.Errorf("%s is still mounted", dir)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%s holds %v, %v", dir, entries, err)
		}
	}
}

// TestDeadlineClosesWithoutAnyone covers that time alone closes the gate.
func TestDeadlineClosesWithoutAnyone(t *testing.T) {
	p := newPair(t)
	f := loadFence(t, pinRoot(t), ModeTCX)
	check(t, f.SetVIPs(bothVIPs))
	check(t, f.AttachAll())
	g := openGate(t, f, 7)
	now := clock.Boottime()
	check(t, g.Open(vipGroup, now+1e9, now))
	check(t, f.Close())
	for {
		v, err := g.Read(vipGroup)
		check(t, err)
		if !v.Open {
			break
		}
		inside(t, p.client, func() { pings(vip4, false) })
	}
	if clock.Boottime() < now+1e9 {
		t.Error("gate closed before its deadline")
	}
	p.expectVIP(t, "deadline passed", false)
}

// TestModeChange covers a new guard in the other mode: the VIP is never open
// in between, and nothing of the old mode is left.
func TestModeChange(t *testing.T) {
	p := newPair(t)
	dir := pinRoot(t)
	for _, mode := range []string{ModeTCX, ModeClsact, ModeTCX} {
		f := loadFence(t, dir, mode)
		check(t, f.SetVIPs(bothVIPs))
		p.expectOpenNever(t, f)
		for _, l := range linksHere(t) {
			for _, d := range directions {
				res, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: tcxType(d)})
				check(t, err)
				out := run(t, "tc", "filter", "show", "dev", l.Attrs().Name, d.String())
				if (len(res.Programs) == 1) != (mode == ModeTCX) || strings.Contains(out, filterName) != (mode == ModeClsact) {
					t.Errorf("mode %s: %d tcx programs and filters %q", mode, len(res.Programs), out)
				}
			}
		}
		check(t, f.Verify())
		g := openGate(t, f, 9)
		open(t, g, vipGroup)
		p.expectVIP(t, "open in mode "+mode, true)
		check(t, f.CloseAll())
		check(t, f.Close())
	}
	f := loadFence(t, dir, ModeTCX)
	check(t, f.Detach())
	expectNothingLeft(t, dir)
}

func linksHere(t testing.TB) []netlink.Link {
	t.Helper()
	ns, err := currentNamespace()
	check(t, err)
	defer func() { check(t, ns.close()) }()
	links, err := ns.links()
	check(t, err)
	return links
}

// expectOpenNever attaches while the client asks for the VIP without pause.
func (p pair) expectOpenNever(t testing.TB, f *Fence) {
	t.Helper()
	first := true
	for _, l := range linksHere(t) { // before the first guard the VIP answers, rightly
		res, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		check(t, err)
		if len(res.Programs) > 0 || strings.Contains(run(t, "tc", "filter", "show", "dev", l.Attrs().Name, "ingress"), filterName) {
			first = false
		}
	}
	var asker *exec.Cmd
	var out io.ReadCloser
	inside(t, p.client, func() {
		asker = exec.Command("ping", "-n", "-f", "-W", "0.1", "-w", "60", vip4.String())
		var err error
		out, err = asker.StdoutPipe()
		check(t, err)
		check(t, asker.Start())
	})
	r := bufio.NewReader(out)
	asked := func(n int) { // until n more requests have left: each prints a dot
		for range n {
			_, err := r.ReadString('.')
			check(t, err)
		}
	}
	asked(3)
	err := errors.Join(f.AttachAll(), f.AttachAll())
	asked(3)
	check(t, asker.Process.Signal(unix.SIGINT))
	rest, readErr := io.ReadAll(r)
	_ = asker.Wait() // its exit code tells of lost packets, which is the point
	check(t, errors.Join(err, readErr))
	if !first && !strings.Contains(string(rest), " 0 received") {
		t.Errorf("the VIP answered while programs were replaced:\n%s", rest)
	}
}

// TestOtherLayoutIsReplaced covers pins of a binary with other maps: they are
// closed by their number, guard the VIP until the new programs stand, and go.
func TestOtherLayoutIsReplaced(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			p := newPair(t)
			dir := pinRoot(t)
			f := loadFence(t, dir, mode)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			g := openGate(t, f, 7)
			open(t, g, vipGroup)
			current := f.dir
			check(t, f.Close())

			damages := map[string]func(){
				"another layout": func() { check(t, os.Rename(current, filepath.Join(dir, "gate-0123456789abcdef"))) },
				"a map missing":  func() { check(t, os.Remove(filepath.Join(current, "vips"))) },
			}
			for name, damage := range damages {
				open(t, g, vipGroup) // the old worker still lives
				p.expectVIP(t, name+": before", true)
				damage()
				f = loadFence(t, dir, mode)
				p.expectVIP(t, name+": loaded", false)
				if err := f.AttachAll(); !errors.Is(err, ErrVIPsFirst) {
					t.Errorf("%s: AttachAll before SetVIPs: %v", name, err)
				}
				p.expectVIP(t, name+": still the old programs", false)
				check(t, f.SetVIPs(bothVIPs))
				p.expectOpenNever(t, f)
				check(t, f.Verify())
				if old, err := f.pins.retired(f.dir); err != nil || len(old) > 0 {
					t.Errorf("%s: old pins left: %v, %v", name, old, err)
				}
				for _, l := range linksHere(t) {
					res, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXEgress})
					check(t, err)
					if len(res.Programs) > 1 {
						t.Errorf("%s: %d programs at egress of %s", name, len(res.Programs), l.Attrs().Name)
					}
				}
				p.expectVIP(t, name+": replaced", false)
				g = openGate(t, f, 8)
				open(t, g, vipGroup)
				p.expectVIP(t, name+": new gate", true)
				check(t, f.Close())
			}
			f = loadFence(t, dir, mode)
			check(t, f.Detach())
			expectNothingLeft(t, dir)
		})
	}
}

// TestStandbyIsAClient covers that a closed gate does not keep this host from
// using the VIP that another host holds.
func TestStandbyIsAClient(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			host := inNewNamespace(t)
			holder := newPeer(t)
			wire(t, "g0", holder, "c0")
			addAddrs(t, "g0", "10.9.0.1/24", "fd09::1/64")
			inside(t, holder, func() {
				addAddrs(t, "c0", "10.9.0.2/24", "fd09::2/64", "10.9.0.100/32", "fd09::100/128")
			})
			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			expectPing(t, host, "standby as a client", true, vip4, vip6)
			if got := len(whoHas(t, "g0", zero4, vip4, 2*time.Second)); got != 1 {
				t.Errorf("%d hosts answer the standby's probe, want the holder", got)
			}
			check(t, f.Detach())
		})
	}
}

// TestSecondInterfaceStaysSilent covers DESIGN section 8: Linux answers ARP for
// an address of one interface on another one of the same LAN.
func TestSecondInterfaceStaysSilent(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			inNewNamespace(t)
			lan := newPeer(t)
			wire(t, "g0", lan, "p0")
			wire(t, "g1", lan, "p1")
			inside(t, lan, func() {
				run(t, "ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
				for _, port := range []string{"p0", "p1"} {
					run(t, "ip", "link", "set", port, "master", "br0")
				}
				run(t, "ip", "link", "set", "br0", "up")
				addAddrs(t, "br0", "10.9.0.2/24")
			})
			addAddrs(t, "g0", "10.9.0.1/24", "10.9.0.100/32")
			addAddrs(t, "g1", "10.9.0.3/24")
			answers := func(wait time.Duration) (n int) {
				inside(t, lan, func() { n = len(whoHas(t, "br0", other4, vip4, wait)) })
				return n
			}
			eventually(t, "both interfaces answer without a gate", func() bool { return answers(200*time.Millisecond) == 2 })
			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			if n := answers(300 * time.Millisecond); n != 0 {
				t.Errorf("%d interfaces answer for a closed VIP", n)
			}
			g := openGate(t, f, 7)
			open(t, g, vipGroup)
			eventually(t, "both interfaces answer for an open VIP", func() bool { return answers(200*time.Millisecond) == 2 })

			// What one interface announces and the other hears is no conflict.
			before, err := g.Counters()
			check(t, err)
			announce(t, "g0")
			inside(t, lan, func() { answers(50 * time.Millisecond) })
			v, err := g.Read(vipGroup)
			check(t, err)
			after, err := g.Counters()
			check(t, err)
			if !v.Open || v.Conflict != 0 || after["foreign"] != before["foreign"] {
				t.Errorf("our own announcement counted: %+v, %v", v, after)
			}
			check(t, f.Detach())
		})
	}
}

// announce sends a gratuitous ARP request for the VIP.
func announce(t testing.TB, dev string) {
	t.Helper()
	ifi, err := net.InterfaceByName(dev)
	check(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	frame := etherARP([6]byte(ifi.HardwareAddr), arpRequest, vip4, vip4)
	check(t, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifi.Index}))
}

// eventually asks again until the answer is yes, for at most 20 s.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if ok() {
			return
		}
	}
	t.Fatalf("did not come true: %s", what)
}

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

// TestForwardingScope covers scope "forwarding": nothing is routed on from the
// interface while closed, and everything local goes on.
func TestForwardingScope(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			inNewNamespace(t)
			lan, wan := newPeer(t), newPeer(t)
			wire(t, "lan0", lan, "l0")
			wire(t, "wan0", wan, "w0")
			addAddrs(t, "lan0", "10.9.0.1/24", "fd09::1/64")
			addAddrs(t, "wan0", "10.8.0.1/24", "fd08::1/64")
			inside(t, lan, func() {
				addAddrs(t, "l0", "10.9.0.2/24", "fd09::2/64")
				run(t, "ip", "route", "add", "default", "via", "10.9.0.1")
				run(t, "ip", "-6", "route", "add", "default", "via", "fd09::1")
			})
			inside(t, wan, func() {
				addAddrs(t, "w0", "10.8.0.2/24", "fd08::2/64")
				run(t, "ip", "route", "add", "default", "via", "10.8.0.1")
				run(t, "ip", "-6", "route", "add", "default", "via", "fd08::1")
			})
			for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
				check(t, os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0o644))
			}
			far := []netip.Addr{mustAddr("10.8.0.2"), mustAddr("fd08::2")}
			local := []netip.Addr{own4, own6, mustAddr("10.8.0.1"), mustAddr("fd08::1")}
			expectPing(t, lan, "without a gate", true, far...)

			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs(nil)) // a group may have no VIP on this host
			lan0, err := netlink.LinkByName("lan0")
			check(t, err)
			check(t, f.SetForwarding(lan0.Attrs().Index, vipGroup))
			check(t, f.AttachAll())
			expectPing(t, lan, "closed, forwarded", false, far...)
			expectPing(t, lan, "closed, local", true, local...)
			expectPing(t, wan, "closed, another interface, local", true, local...)
			expectBroadcast(t, lan)

			g := openGate(t, f, 7)
			open(t, g, vipGroup)
			expectPing(t, lan, "open, forwarded", true, far...)
			c, err := g.Counters()
			check(t, err)
			if c["forward"] == 0 || c["ip_in"] != 0 {
				t.Errorf("counters: %v", c)
			}
			check(t, g.CloseGroup(vipGroup))
			expectPing(t, lan, "closed again", false, far...)
			check(t, g.ClearForwarding(lan0.Attrs().Index))
			expectPing(t, lan, "out of scope", true, far...)
			check(t, f.Detach())
		})
	}
}

// expectBroadcast sends to the LAN's broadcast address and wants it received.
func expectBroadcast(t testing.TB, lan netns.NsHandle) {
	t.Helper()
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 4747})
	check(t, err)
	defer listener.Close()
	inside(t, lan, func() {
		c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 9, 0, 255), Port: 4747})
		check(t, err)
		defer c.Close()
		_, err = c.Write([]byte("hello"))
		check(t, err)
	})
	check(t, listener.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, _, err := listener.ReadFrom(make([]byte, 16)); err != nil {
		t.Errorf("broadcast from behind a closed gate: %v", err)
	}
}

// TestLinkWithoutEthernet covers tunnels: no Ethernet header, no MAC.
func TestLinkWithoutEthernet(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			inNewNamespace(t)
			tun := openTun(t, "tun0")
			run(t, "ip", "link", "set", "tun0", "up")
			addAddrs(t, "tun0", "10.9.0.1/24", "10.9.0.100/32", "fd09::1/64", "fd09::100/128")
			f := loadFence(t, pinRoot(t), mode)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			check(t, f.Verify())
			g := openGate(t, f, 7)
			if tun.echoes(t, vip4, 200*time.Millisecond) || tun.echoes(t, vip6, 200*time.Millisecond) {
				t.Error("closed VIP answers on a tunnel")
			}
			if !tun.echoes(t, own4, 10*time.Second) || !tun.echoes(t, own6, 10*time.Second) {
				t.Error("own address does not answer on a tunnel")
			}
			open(t, g, vipGroup)
			if !tun.echoes(t, vip4, 10*time.Second) || !tun.echoes(t, vip6, 10*time.Second) {
				t.Error("open VIP does not answer on a tunnel")
			}
			check(t, g.CloseGroup(vipGroup))
			c, err := g.Counters()
			check(t, err)
			// What the host itself sends as the VIP is dropped as well.
			_ = exec.Command("ping", "-c", "1", "-W", "0.1", "-I", vip4.String(), other4.String()).Run()
			after, err := g.Counters()
			check(t, err)
			if c["ip_in"] == 0 || c["ip6_in"] == 0 || after["ip_out"] == c["ip_out"] {
				t.Errorf("counters: %v, then %v", c, after)
			}
			check(t, f.Detach())
		})
	}
}

type tunDevice struct{ f *os.File }

func openTun(t testing.TB, name string) tunDevice {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no tun devices: %v", err)
		}
		t.Skipf("no tun devices: %v", err)
	}
	ifr, err := unix.NewIfreq(name)
	check(t, err)
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	check(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	f := os.NewFile(uintptr(fd), "tun")
	t.Cleanup(func() { _ = f.Close() })
	return tunDevice{f}
}

// echoes sends an echo request into the host and tells whether it answers.
func (d tunDevice) echoes(t testing.TB, to netip.Addr, wait time.Duration) bool {
	t.Helper()
	var p []byte
	var at int // of the ICMP type
	var want byte
	if to.Is4() {
		p, at, want = ip4(other4, to, protoICMP, icmp4Echo()), 20, 0
		binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	} else {
		p, at, want = ip6(other6, to, protoICMP6, 64, icmp6Echo(other6, to)), 40, 129
	}
	if _, err := d.f.Write(p); err != nil {
		t.Fatalf("write to tunnel: %v", err)
	}
	check(t, d.f.SetReadDeadline(time.Now().Add(wait)))
	buf := make([]byte, 2048)
	for {
		n, err := d.f.Read(buf)
		if err != nil {
			return false
		}
		if n > at && buf[0]>>4 == p[0]>>4 && buf[at] == want && bytes.Contains(buf[:at], to.AsSlice()) {
			return true
		}
	}
}

func icmp4Echo() []byte {
	b := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

func icmp6Echo(src, dst netip.Addr) []byte {
	b := []byte{128, 0, 0, 0, 0, 1, 0, 1}
	pseudo := bytes.Join([][]byte{src.AsSlice(), dst.AsSlice(), {0, 0, 0, 8, 0, 0, 0, 58}, b}, nil)
	binary.BigEndian.PutUint16(b[2:], checksum(pseudo))
	return b
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
