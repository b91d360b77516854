package lab_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// impair puts a relay in until the test ends.
func impair(t *testing.T, l *lab.Lab, where string, out, in lab.Impairment) *lab.Fault {
	t.Helper()
	f, err := l.Impair(where, out, in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { undo(t, f) })
	return f
}

// way sends numbered datagrams and returns them as they arrive, and how long
// the first took.
func (n *net3) way(t *testing.T, from, to string, count int) (order []int, took time.Duration) {
	t.Helper()
	x := n.listeners[to]
	n.count++
	began := time.Now()
	for i := range count {
		send(t, n.Lab, from, n.addrs[to][0], fmt.Sprintf("run %d number %d", n.count, i))
	}
	buf := make([]byte, 2048)
	for {
		if err := x.conn.SetReadDeadline(time.Now().Add(400 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		m, err := x.conn.Read(buf)
		if err != nil {
			return order, took
		}
		var run, number int
		if k, _ := fmt.Sscanf(string(buf[:m]), "run %d number %d", &run, &number); k != 2 || run != n.count {
			continue
		}
		if len(order) == 0 {
			took = time.Since(began)
		}
		order = append(order, number)
	}
}

// TestRelayDoesWhatItIsAskedTo tells each impairment from the others, in the
// direction that it is for and in no other.
func TestRelayDoesWhatItIsAskedTo(t *testing.T) {
	const count = 60
	n := newNet3(t, lab.Options{Gateways: 2, Witnesses: 1})
	check := func(t *testing.T, from, to string, ok func(order []int, took time.Duration) bool) {
		t.Helper()
		if order, took := n.way(t, from, to, count); !ok(order, took) {
			t.Errorf("%s -> %s: first after %v, %d datagrams: %v", from, to, took, len(order), order)
		}
	}
	sound := func(order []int, took time.Duration) bool {
		return len(order) == count && sorted(order) && took < 100*time.Millisecond
	}
	for _, c := range []struct {
		name string
		what lab.Impairment
		ok   func(order []int, took time.Duration) bool
	}{
		{"nothing", lab.Impairment{}, sound},
		{"delay and jitter", lab.Impairment{Delay: 150 * time.Millisecond, Jitter: 50 * time.Millisecond}, func(order []int, took time.Duration) bool {
			return len(order) == count && sorted(order) && took >= 150*time.Millisecond
		}},
		{"duplicates", lab.Impairment{Duplicate: 100}, func(order []int, _ time.Duration) bool { return len(order) == 2*count }},
		{"out of order", lab.Impairment{Reorder: 50}, func(order []int, _ time.Duration) bool { return len(order) == count && !sorted(order) }},
		{"loss", lab.Impairment{Lose: 50}, func(order []int, _ time.Duration) bool { return len(order) > 0 && len(order) < count }},
		{"nothing passes", lab.Impairment{Lose: 100}, func(order []int, _ time.Duration) bool { return len(order) == 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, out := range []bool{true, false} {
				var there, back lab.Impairment
				from, to := "gw2", "gw1"
				if out {
					there, from, to = c.what, to, from
				} else {
					back = c.what
				}
				f := impair(t, n.Lab, "gw1", there, back)
				check(t, from, to, c.ok)
				check(t, to, from, sound)    // the other direction
				check(t, "gw2", "w1", sound) // other nodes
				undo(t, f)
				if got := f.Relayed(); got.Relayed < 2*count {
					t.Errorf("the relay counts %+v", got)
				}
				check(t, from, to, sound)
			}
		})
	}
	if _, err := n.Impair("gw1", lab.Impairment{Delay: time.Hour}, lab.Impairment{}); err == nil {
		t.Error("a delay of an hour is taken")
	}
	if _, err := n.Impair("gw1", lab.Impairment{}, lab.Impairment{Lose: 101}); err == nil {
		t.Error("a loss of 101 % is taken")
	}
	f := impair(t, n.Lab, "gw1", lab.Impairment{}, lab.Impairment{})
	if _, err := n.Impair("gw1", lab.Impairment{}, lab.Impairment{}); err == nil {
		t.Error("a second relay at the same port")
	}
	check(t, "gw1", "gw2", sound) // the first is still there
	undo(t, f)
	if out, err := n.Run(deadline(t), lab.Lan, "ip", "-o", "link"); err != nil || strings.Contains(out.Stdout, "r-gw1") {
		t.Errorf("devices of relays are left: %v %s", err, out.Stdout)
	}
}

func sorted(order []int) bool {
	for i := 1; i < len(order); i++ {
		if order[i] < order[i-1] {
			return false
		}
	}
	return true
}

// A stream has frames that are larger than the wire takes and whose sums are
// still to be made: they must pass as they are.
func TestRelayPassesStreams(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2})
	v4, _ := nodeAddr(t, l, "gw1", "eth0")
	impair(t, l, "gw1", lab.Impairment{Delay: time.Millisecond, Reorder: 1, Lose: 0.1}, lab.Impairment{Duplicate: 1, Lose: 0.1})
	var listener net.Listener
	if err := l.Do("gw1", func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(v4, 9000).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const size = 4 << 20
	got := make(chan int64, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer conn.Close()
		n, _ := io.Copy(io.Discard, conn)
		got <- n
	}()
	var conn net.Conn
	if err := l.Do("gw2", func() (err error) {
		conn, err = net.DialTimeout("tcp4", listener.Addr().String(), 10*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if n := <-got; n != size {
		t.Errorf("%d bytes arrived of %d", n, size)
	}
}

// The probe looks at frames before a relay has them: frames of the old owner
// that are still under way are no double.
func TestRelayedOwnerIsNoDouble(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Clients: 1})
	own(t, l, "gw1", lab.VIP4)
	p := startProbe(t, l, lab.VIP4)
	waitOwner(t, p, "gw1")
	f := impair(t, l, "gw1", lab.Impairment{Delay: 200 * time.Millisecond}, lab.Impairment{})
	cut, err := l.Deafen("gw2") // rules for ports work beside it
	if err != nil {
		t.Fatal(err)
	}
	undo(t, cut)
	measureFor(300 * time.Millisecond)
	disown(t, l, "gw1", lab.VIP4)
	own(t, l, "gw2", lab.VIP4)
	waitOwner(t, p, "gw2")
	measureFor(400 * time.Millisecond)
	undo(t, f)
	r := stopProbe(t, p)
	if r.DoubleCount != 0 {
		t.Errorf("doubles %v of a clean move behind a relay", r.Doubles)
	}
	if r.AnswerDoubleCount == 0 {
		t.Error("the client heard no late answers: the relay held nothing back")
	}
}

// Faults by rules and by the carrier reach a node behind a relay.
func TestOtherFaultsBesideARelay(t *testing.T) {
	n := newNet3(t, lab.Options{Gateways: 2, Witnesses: 1})
	impair(t, n.Lab, "gw1", lab.Impairment{}, lab.Impairment{})
	arrives := func(from, to string) bool {
		order, _ := n.way(t, from, to, 5)
		return len(order) > 0
	}
	for name, cause := range map[string]func() (*lab.Fault, error){
		"mute":      func() (*lab.Fault, error) { return n.Mute("gw1") },
		"link down": func() (*lab.Fault, error) { return n.LinkDown("gw1") },
		"between":   func() (*lab.Fault, error) { return n.DropBetween("gw1", "gw2") },
	} {
		f, err := cause()
		if err != nil {
			t.Fatal(err)
		}
		if arrives("gw1", "gw2") {
			t.Errorf("%s: gw2 still hears gw1", name)
		}
		undo(t, f)
		if !arrives("gw1", "gw2") || !arrives("gw2", "gw1") {
			t.Errorf("%s was undone, and nothing arrives", name)
		}
	}
}
