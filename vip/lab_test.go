package vip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// patience bounds every wait of these tests; it is reached only on failure.
const patience = 10 * time.Second

// space is a network namespace of a test.
type space struct {
	namespace
	h *netlink.Handle
}

// privileged skips where namespaces cannot be made. In CI a skip would hide
// that nothing was tested.
func privileged(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const why = "network namespaces need root: run the test binary with sudo"
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// newSpace makes a namespace with loopback up.
func newSpace(t testing.TB) *space {
	t.Helper()
	privileged(t)
	type made struct {
		ns  netns.NsHandle
		err error
	}
	c := make(chan made)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		ns, err := netns.New()
		c <- made{ns, err}
	}()
	got := <-c
	must(t, got.err)
	h, err := netlink.NewHandleAt(got.ns, unix.NETLINK_ROUTE)
	must(t, err)
	s := &space{namespace{got.ns}, h}
	t.Cleanup(func() {
		h.Close()
		_ = s.close()
	})
	s.up(t, "lo")
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *space) manager(t testing.TB) *Manager {
	t.Helper()
	var m *Manager
	must(t, s.do(func() (err error) { m, err = New(); return err }))
	t.Cleanup(func() { must(t, m.Close()) })
	return m
}

func (s *space) link(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := s.h.LinkByName(name)
	must(t, err)
	return l
}

func (s *space) up(t testing.TB, name string) { t.Helper(); must(t, s.h.LinkSetUp(s.link(t, name))) }
func (s *space) down(t testing.TB, name string) {
	t.Helper()
	must(t, s.h.LinkSetDown(s.link(t, name)))
}

// veth joins a's interface to b's; both up.
func veth(t testing.TB, a *space, aName string, b *space, bName string) {
	t.Helper()
	must(t, a.h.LinkAdd(&netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: aName},
		PeerName:      bName,
		PeerNamespace: netlink.NsFd(int(b.handle)),
	}))
	a.up(t, aName)
	b.up(t, bName)
}

// pair is two hosts on a wire, each with interface lan0.
func pair(t testing.TB) (*space, *space) {
	t.Helper()
	a, b := newSpace(t), newSpace(t)
	veth(t, a, "lan0", b, "lan0")
	return a, b
}

// network is n hosts on a bridge, each with interface lan0.
func network(t testing.TB, n int) []*space {
	t.Helper()
	hub := newSpace(t)
	must(t, hub.h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	hub.up(t, "br0")
	var hosts []*space
	for i := range n {
		s := newSpace(t)
		port := "port" + string(rune('0'+i))
		veth(t, hub, port, s, "lan0")
		must(t, hub.h.LinkSetMaster(hub.link(t, port), hub.link(t, "br0")))
		hosts = append(hosts, s)
	}
	return hosts
}

// address gives an interface an address as an administrator would.
func (s *space) address(t testing.TB, iface, prefix string) {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	a := &netlink.Addr{IPNet: &net.IPNet{
		IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	must(t, s.h.AddrAdd(s.link(t, iface), a))
}

func (s *space) removeAddress(t testing.TB, iface, prefix string) {
	t.Helper()
	a, err := netlink.ParseAddr(prefix)
	must(t, err)
	must(t, s.h.AddrDel(s.link(t, iface), a))
}

// addresses lists an interface as "prefix" strings with their flags.
func (s *space) addresses(t testing.TB, iface string) map[string]int {
	t.Helper()
	list, err := s.h.AddrList(s.link(t, iface), netlink.FAMILY_ALL)
	must(t, err)
	all := make(map[string]int)
	for _, a := range list {
		all[a.IPNet.String()] = a.Flags
	}
	return all
}

func (s *space) sysctl(t testing.TB, path, value string) {
	t.Helper()
	must(t, s.do(func() error { return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0) }))
}

func (s *space) listen(t testing.TB, network, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	must(t, s.do(func() (err error) { l, err = net.Listen(network, addr); return err }))
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func (s *space) dial(t testing.TB, network string, local net.Addr, remote string) net.Conn {
	t.Helper()
	var c net.Conn
	must(t, s.do(func() error {
		// A dial with a deadline still connects on this thread; one to several
		// addresses would not.
		raw := &net.Dialer{LocalAddr: local, Timeout: patience, FallbackDelay: -1}
		var err error
		c, err = raw.DialContext(context.Background(), network, remote)
		return err
	}))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// eventually asks again until ok, since the kernel tells nobody when a
// neighbour entry or a carrier has changed.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func isErrno(err error, want unix.Errno) bool { return errors.Is(err, want) }
