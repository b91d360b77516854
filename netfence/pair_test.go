package netfence

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
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
		ask := func() bool { return len(whoHas(t, "c0", other4, vip4, 100*time.Millisecond)) > 0 }
		if open {
			eventually(t, what+": ARP for the VIP is answered", ask)
		} else if ask() {
			t.Errorf("%s: ARP for the VIP is answered", what)
		}
	})
}

var bothVIPs = []VIP{{vip4, vipGroup}, {vip6, vipGroup}}

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

func linksHere(t testing.TB) []netlink.Link {
	t.Helper()
	ns, err := currentNamespace()
	check(t, err)
	defer func() { check(t, ns.close()) }()
	links, err := ns.links()
	check(t, err)
	return links
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
