package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// listener counts the datagrams that reach a node, by their text.
type listener struct {
	conn *net.UDPConn
}

const faultPort = 7400

func listen(t *testing.T, l *lab.Lab, node string) *listener {
	t.Helper()
	var conn *net.UDPConn
	err := l.Do(node, func() (err error) {
		conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: faultPort})
		return err
	})
	if err != nil {
		t.Fatalf("listen on %s: %v", node, err)
	}
	t.Cleanup(func() { conn.Close() })
	return &listener{conn}
}

func send(t *testing.T, l *lab.Lab, node string, to netip.Addr, text string) {
	t.Helper()
	err := l.Do(node, func() error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, faultPort)))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(text))
		return err
	})
	if err != nil {
		t.Fatalf("send from %s: %v", node, err)
	}
}

// hears reports whether the text arrives. Sending is synchronous here down to
// the receiver's socket, so the wait only covers a busy machine.
func (x *listener) hears(t *testing.T, text string, wait time.Duration) bool {
	t.Helper()
	if err := x.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	for {
		n, err := x.conn.Read(buf)
		if err != nil {
			return false
		}
		if string(buf[:n]) == text {
			return true
		}
	}
}

// drain counts the datagrams that have arrived.
func (x *listener) drain(t *testing.T) int {
	t.Helper()
	buf := make([]byte, 2048)
	for count := 0; ; count++ {
		if err := x.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := x.conn.Read(buf); err != nil {
			return count
		}
	}
}

// net3 is a lab in which every node hears datagrams and knows its neighbours,
// so that losing one direction does not lose neighbour discovery with it.
type net3 struct {
	*lab.Lab
	listeners map[string]*listener
	addrs     map[string][2]netip.Addr
	count     int
}

func newNet3(t *testing.T, o lab.Options) *net3 {
	n := &net3{Lab: newLab(t, o), listeners: map[string]*listener{}, addrs: map[string][2]netip.Addr{}}
	for _, node := range n.Nodes() {
		n.listeners[node.Name] = listen(t, n.Lab, node.Name)
		v4, v6 := nodeAddr(t, n.Lab, node.Name, "eth0")
		n.addrs[node.Name] = [2]netip.Addr{v4, v6}
	}
	for _, from := range n.Nodes() {
		for _, to := range n.Nodes() {
			if from != to {
				n.pin(t, from, to)
			}
		}
	}
	return n
}

// pin makes the neighbour entries of to at from permanent.
func (n *net3) pin(t *testing.T, from, to *lab.Node) {
	t.Helper()
	c := to.NICs[0]
	for _, a := range []netip.Addr{c.IPv4.Addr(), c.IPv6.Addr()} {
		out, err := n.Run(deadline(t), from.Name, "ip", "neigh", "replace", a.String(), "lladdr", c.MAC.String(), "dev", "eth0")
		if err != nil || out.Code != 0 {
			t.Fatalf("pin neighbour: %v %s", err, out.Stderr)
		}
	}
}

// passes reports whether a datagram from one node reaches the other; it must
// be the same for IPv4 and IPv6. When it should, a busy machine gets time.
func (n *net3) passes(t *testing.T, from, to string, prefix string, should bool) bool {
	t.Helper()
	wait := 30 * time.Millisecond
	if should {
		wait = 5 * time.Second
	}
	var got [2]bool
	for i, a := range n.addrs[to] {
		n.count++
		text := fmt.Sprintf("%s%d", prefix, n.count)
		send(t, n.Lab, from, a, text)
		got[i] = n.listeners[to].hears(t, text, wait)
	}
	if got[0] != got[1] {
		t.Errorf("%s -> %s: IPv4 passes %v, IPv6 passes %v", from, to, got[0], got[1])
	}
	return got[0]
}

// check asserts which directions pass among gw1, gw2 and w1; blocked has
// "from>to" of those that must not.
func (n *net3) check(t *testing.T, when string, blocked ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, b := range blocked {
		want[b] = true
	}
	all := []string{"gw1", "gw2", "w1"}
	for _, from := range all {
		for _, to := range all {
			if from == to {
				continue
			}
			should := !want[from+">"+to]
			if passes := n.passes(t, from, to, "beat", should); passes != should {
				t.Errorf("%s: %s -> %s passes: %v", when, from, to, passes)
			}
		}
	}
}

func undo(t *testing.T, f *lab.Fault) {
	t.Helper()
	if err := f.Undo(); err != nil {
		t.Fatal(err)
	}
}

func TestNetworkFaultsDoWhatTheySay(t *testing.T) {
	n := newNet3(t, lab.Options{Gateways: 2, Witnesses: 1})
	n.check(t, "no fault")
	for _, c := range []struct {
		name    string
		fault   func() (*lab.Fault, error)
		blocked []string
		carrier bool
	}{
		{"cut", func() (*lab.Fault, error) { return n.Cut("gw1") }, []string{"gw1>gw2", "gw1>w1", "gw2>gw1", "w1>gw1"}, true},
		{"link down", func() (*lab.Fault, error) { return n.LinkDown("gw1") }, []string{"gw1>gw2", "gw1>w1", "gw2>gw1", "w1>gw1"}, false},
		{"mute", func() (*lab.Fault, error) { return n.Mute("gw1") }, []string{"gw1>gw2", "gw1>w1"}, true},
		{"deafen", func() (*lab.Fault, error) { return n.Deafen("gw1") }, []string{"gw2>gw1", "w1>gw1"}, true},
		{"one direction of a pair", func() (*lab.Fault, error) { return n.DropBetween("gw1", "w1") }, []string{"gw1>w1"}, true},
		{"lose all", func() (*lab.Fault, error) { return n.Lose("w1", 100) }, []string{"w1>gw1", "w1>gw2", "gw1>w1", "gw2>w1"}, true},
		{"udp", func() (*lab.Fault, error) { return n.DropProtocol("gw1", "udp") }, []string{"gw1>gw2", "gw1>w1", "gw2>gw1", "w1>gw1"}, true},
		{"tcp", func() (*lab.Fault, error) { return n.DropProtocol("gw1", "tcp") }, nil, true},
		{"expression", func() (*lab.Fault, error) { return n.DropMatching(`iifname "gw1" oifname "gw2" udp dport 7400`) }, []string{"gw1>gw2"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := c.fault()
			if err != nil {
				t.Fatal(err)
			}
			n.check(t, c.name, c.blocked...)
			if got, err := n.Carrier("gw1", "eth0"); err != nil || got != c.carrier {
				t.Errorf("carrier of gw1: %v, %v; want %v", got, err, c.carrier)
			}
			dropped, err := f.Dropped()
			if err != nil {
				t.Fatal(err)
			}
			if c.carrier && dropped < int64(2*len(c.blocked)) {
				t.Errorf("fault counts %d dropped frames, want %d at least", dropped, 2*len(c.blocked))
			}
			undo(t, f)
			undo(t, f)
			n.check(t, "after "+c.name)
			if got, err := n.Carrier("gw1", "eth0"); err != nil || !got {
				t.Errorf("carrier of gw1 afterwards: %v, %v", got, err)
			}
		})
	}
}

// Faults lie on top of each other and are undone in any order.
func TestFaultsAreIndependent(t *testing.T) {
	n := newNet3(t, lab.Options{Gateways: 2, Witnesses: 1})
	a, err := n.Mute("gw1")
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.DropBetween("gw1", "gw2")
	if err != nil {
		t.Fatal(err)
	}
	undo(t, a)
	n.check(t, "second fault alone", "gw1>gw2")
	undo(t, b)
	n.check(t, "no fault left")
}

func TestDropNotesDropsNotesOnly(t *testing.T) {
	n := newNet3(t, lab.Options{Gateways: 2, Witnesses: 1})
	f, err := n.DropNotes("gw1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, text string
		passes     bool
	}{
		{"gw1", "HFN1 note ", false},
		{"gw1", "HFN", true}, // shorter than the mark, with a number behind it
		{"gw1", "xHFN1", true},
		{"gw1", "beat", true},
		{"gw2", "HFN1 note ", true},
	} {
		to := "gw2"
		if c.from == "gw2" {
			to = "gw1"
		}
		if got := n.passes(t, c.from, to, c.text, c.passes); got != c.passes {
			t.Errorf("%q from %s passes: %v, want %v", c.text, c.from, got, c.passes)
		}
	}
	undo(t, f)
	if !n.passes(t, "gw1", "gw2", "HFN1 note ", true) {
		t.Error("notes are still dropped after the undo")
	}
}

func TestLoseDropsAShare(t *testing.T) {
	n := newNet3(t, lab.Options{Gateways: 2, Witnesses: 1})
	f, err := n.Lose("gw1", 30)
	if err != nil {
		t.Fatal(err)
	}
	const tries = 300
	for i := range tries {
		send(t, n.Lab, "gw1", n.addrs["gw2"][0], fmt.Sprintf("lossy %d", i))
	}
	dropped, err := f.Dropped()
	if err != nil {
		t.Fatal(err)
	}
	// 30 % of 300 is 90 with a deviation of 8; five of them to each side.
	if dropped < 50 || dropped > 130 {
		t.Errorf("dropped %d of %d at 30 %%", dropped, tries)
	}
	if got := n.listeners["gw2"].drain(t); got < tries-int(dropped) || got > tries-50 {
		t.Errorf("received %d of %d with %d dropped", got, tries, dropped)
	}
	undo(t, f)
	if _, err := n.Lose("gw1", 101); err == nil {
		t.Error("101 percent was accepted")
	}
}

// The second cable has faults of its own.
func TestPlacesOfFaults(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Witnesses: 1, Cable: true, SecondNIC: []string{"gw1"}})
	lan, _ := nodeAddr(t, l, "gw2", "eth0")
	cable, _ := nodeAddr(t, l, "gw2", "peer0")
	for _, c := range []struct {
		where      string
		lan, cable bool
	}{
		{"gw2", false, true}, {"gw2/eth0", false, true}, {"gw2/peer0", true, false}, {"gw2/*", false, false},
	} {
		f, err := l.Cut(c.where)
		if err != nil {
			t.Fatal(err)
		}
		if got := pings(t, l, "gw1", lan, c.lan); got != c.lan {
			t.Errorf("cut %s: LAN passes %v, want %v", c.where, got, c.lan)
		}
		if got := pings(t, l, "gw1", cable, c.cable); got != c.cable {
			t.Errorf("cut %s: cable passes %v, want %v", c.where, got, c.cable)
		}
		undo(t, f)
	}
	for _, where := range []string{"gw9", "gw2/eth1", "w1/peer0", ""} {
		if _, err := l.Cut(where); err == nil {
			t.Errorf("cut %q was accepted", where)
		}
	}
}
