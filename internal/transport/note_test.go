package transport

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func testNote(i int) []byte {
	return fmt.Appendf(nil, "%s%0*d", noteMagic, testNoteSize-len(noteMagic), i)
}

// Covers G5: notes reach every member on every path, without a session, and
// only once.
func TestNotes(t *testing.T) {
	p := newPlan(t, "a", "b", "c")
	p.everywhere("b", testAddr(), testAddr6())
	p.everywhere("a", testAddr(), testAddr6())
	p.names = []string{"a", "b"} // c is down
	nodes := p.startAll(t)
	b := nodes["b"]
	if n := nodes["a"].SendNote(testNote(1)); n != 3 { // two paths to b, one to c
		t.Errorf("%d datagrams", n)
	}
	eventually(t, "one of the two copies is handed on", func() bool {
		s := b.Stats()
		return s.NotesIn == 1 && s.NotesDuplicate == 1
	})

	// The guard has no transport.
	own := []netip.Addr{testAddr().Addr(), netip.IPv6Loopback(), netip.MustParseAddr("198.51.100.9")}
	sent, err := SendNotes(own[:2], b.own, [][]byte{testNote(2), testNote(3)})
	if err != nil || sent != 4 {
		t.Errorf("SendNotes: %d, %v", sent, err)
	}
	eventually(t, "notes of the guard", func() bool { return len(b.allNotes()) == 3 })
	sockets, err := OpenNoteSockets(own) // one address is not there
	if err != nil {
		t.Fatal(err)
	}
	if sent, err = sockets.Send(b.own, [][]byte{testNote(4)}); err != nil || sent < 2 {
		t.Errorf("%d, %v", sent, err)
	}
	eventually(t, "note of the guard's sockets", func() bool { return len(b.allNotes()) == 4 })
	if err := sockets.Close(); err != nil {
		t.Error(err)
	}
	if _, err := SendNotes(own[:1], b.own[1:], [][]byte{testNote(5)}); err == nil {
		t.Error("no datagram and no error")
	}
	for _, bad := range [][]byte{testNote(6)[:testNoteSize-1], append(testNote(6), 0), []byte(noteMagic)} {
		if _, err := SendNotes(own[:1], b.own[:1], [][]byte{bad}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "wrong sizes are dropped", func() bool { return b.Stats().NotesSize == 3 })
	if len(b.allNotes()) != 4 {
		t.Errorf("notes %q", b.allNotes())
	}
}

// A flood of different notes of a stranger leaves room for a member's.
func TestNoteFloodIsLimited(t *testing.T) {
	p := newPlan(t, "a", "b")
	nodes := p.startAll(t)
	b := nodes["b"]
	stranger, err := OpenNoteSockets([]netip.Addr{testAddr().Addr()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	began := time.Now()
	const flood = 5000
	for i := range flood {
		if _, err := stranger.Send(b.own, [][]byte{testNote(i)}); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			eventually(t, "flood is received", func() bool { s := b.Stats(); return s.NotesIn+s.NotesLimited >= uint64(i+1) })
		}
	}
	allowed := noteBurst + noteRate*time.Since(began).Seconds() + 1
	if n := len(b.allNotes()); float64(n) > allowed {
		t.Errorf("%d notes passed, allowed %.0f", n, allowed)
	}
	nodes["a"].SendNote(testNote(flood + 1))
	eventually(t, "a member's note passes", func() bool {
		for _, n := range b.allNotes() {
			if n == string(testNote(flood+1)) {
				return true
			}
		}
		return false
	})
	if n := b.logs.count("note rate"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func TestNoteFilter(t *testing.T) {
	f := newNoteFilter()
	from := netip.MustParseAddr("192.0.2.1")
	const second = int64(1e9)
	now := 100 * second
	check := func(i int, at int64, want noteVerdict) {
		t.Helper()
		if got := f.check(testNote(i), from, at); got != want {
			t.Errorf("note %d: %v, want %v", i, got, want)
		}
	}
	check(1, now, notePass)
	check(1, now+1, noteDuplicate)
	check(1, now+recentNotesNs-1, noteDuplicate)
	check(1, now+recentNotesNs, notePass) // repeated for 2 P, so it may come again
	check(1, now+recentNotesNs+1, noteDuplicate)
	now += 10 * second
	for i := range noteBurst {
		check(100+i, now, notePass)
	}
	check(9999, now, noteLimited)
	check(100, now, noteDuplicate)        // repetition costs nothing
	check(9999, now+second/100, notePass) // two tokens later
	for i := range 10 * recentNotes {
		now += second
		check(20000+i, now, notePass)
	}
	if len(f.at) > recentNotes {
		t.Errorf("%d notes remembered", len(f.at))
	}
}

func TestBucketsAreBounded(t *testing.T) {
	b := newBuckets(10, 10)
	member := netip.MustParseAddr("192.0.2.1")
	b.setMembers(map[netip.Addr]bool{member: true})
	passed := 0
	addr := netip.MustParseAddr("2001:db8::1")
	for range 10000 {
		addr = addr.Next()
		if b.take(addr, 1) {
			passed++
		}
	}
	if passed > 100 || len(b.strangers) > maxStrangers {
		t.Errorf("%d of a flood passed, %d sources kept", passed, len(b.strangers))
	}
	for range 10 {
		if !b.take(member, 1) {
			t.Error("member is held up by strangers")
		}
	}
	if b.take(member, 1) {
		t.Error("member has no limit")
	}
	if !b.take(netip.AddrFrom16(member.As16()), 1e9) {
		t.Error("mapped form of an address is another source, or nothing comes back")
	}
	for range 20000 { // over time, places are given to others
		addr = addr.Next()
		b.take(addr, 1e12+int64(addr.As16()[15])*1e9)
	}
	if len(b.strangers) > maxStrangers {
		t.Errorf("%d sources kept", len(b.strangers))
	}
}

func TestQuietLog(t *testing.T) {
	logs := &logBuffer{}
	q := newQuietLog(slog.New(slog.NewTextHandler(logs, nil)))
	for i := range 10 {
		q.line(int64(i), levelWarn, "replay", "gw2", "dropped")
		q.line(int64(i), levelWarn, "replay", "gw3", "dropped")
	}
	q.line(quietNs, levelWarn, "replay", "gw2", "dropped")
	if n := logs.count("dropped"); n != 3 || logs.count("suppressed=9") != 1 {
		t.Errorf("%d lines:\n%s", n, logs)
	}
	for i := range 10 * maxQuiet {
		q.line(quietNs, levelWarn, "scan", fmt.Sprint(i), "dropped")
	}
	if n := len(q.last); n > maxQuiet+2 {
		t.Errorf("%d sources kept", n)
	}
	if n := strings.Count(logs.String(), "\n"); n > maxQuiet+5 {
		t.Errorf("%d lines", n)
	}
}
