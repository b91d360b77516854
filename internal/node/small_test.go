package node

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/storage"
)

// Covers S16: a move is measured from the last sign of the old holder to the
// first of the new one.
func TestMovesMeasureEachFailover(t *testing.T) {
	m := newMoves()
	m.assigned(100, storage.Assign{Group: 1, Node: 7}, 10)
	if !m.held(130, 1, 7, 10) || m.took[10] != 30 {
		t.Fatalf("first holder took %v", m.took[10])
	}
	if m.held(200, 1, 7, 10) {
		t.Fatal("the same tenure ends a move twice")
	}
	m.assigned(700, storage.Assign{Group: 1, Node: 8}, 11)
	if m.held(710, 1, 9, 11) || m.held(710, 2, 8, 11) {
		t.Fatal("another node or group ended the move")
	}
	if !m.held(750, 1, 8, 11) || m.took[11] != 550 {
		t.Fatalf("failover took %v, want 550 since the last sign at 200", m.took[11])
	}
	m.released(1000, 1, 11)
	m.assigned(1001, storage.Assign{Group: 1, Node: 7}, 12)
	if !m.held(1004, 1, 7, 12) || m.took[12] != 4 {
		t.Fatalf("planned switchover took %v, want 4 since the release", m.took[12])
	}
	for e := uint64(20); e < 20+2*maxTook; e++ {
		m.assigned(2000, storage.Assign{Group: 1, Node: 7}, e)
		m.held(2001, 1, 7, e)
	}
	if len(m.took) > maxTook {
		t.Fatalf("remembers %d moves", len(m.took))
	}
}

func TestLatenciesP99(t *testing.T) {
	var l latencies
	if l.p99() != 0 {
		t.Fatal("p99 before the first")
	}
	for i := range 1000 {
		l.add(int64(i), time.Duration(i))
	}
	if got := l.p99(); got < 990 || got > 999 {
		t.Fatalf("p99 of the last 256 is %d", got)
	}
}

func TestLimitedLoggerSaysThingsOnce(t *testing.T) {
	var out bytes.Buffer
	l := newLimitedLogger(slog.New(slog.NewTextHandler(&out, nil)))
	for range 100 {
		l.Warn("same")
	}
	l.Warn("other")
	if got := strings.Count(out.String(), "\n"); got != 2 {
		t.Fatalf("wrote %d lines:\n%s", got, out.String())
	}
}

func vips(names ...string) []config.VIP {
	var out []config.VIP
	for _, n := range names {
		out = append(out, config.VIP{Address: netip.MustParsePrefix(n), Interface: "eth0", Group: "default", Scope: config.ScopeVIP})
	}
	return out
}

// Covers F1a: what counts is which address is in which group, not the order of
// a file nor the interface of a node.
func TestGroupsEqual(t *testing.T) {
	a := &config.Config{VIPs: vips("10.0.0.1/24", "10.0.0.2/24")}
	b := &config.Config{VIPs: vips("10.0.0.2/24", "10.0.0.1/24")}
	b.VIPs[0].Interface = "eth1"
	if !groupsEqual(committedGroups(a), committedGroups(b)) {
		t.Fatal("order and interface count")
	}
	b.VIPs[0].Group = "second"
	if groupsEqual(committedGroups(a), committedGroups(b)) {
		t.Fatal("the group does not count")
	}
	if membersDigest(a) == membersDigest(b) {
		t.Fatal("the digest of different mappings is the same")
	}
}

func TestWithVIPsKeepsWhatIsInUse(t *testing.T) {
	old := &config.Config{VIPs: vips("10.0.0.1/24")}
	next := &config.Config{VIPs: vips("10.0.0.2/24")}
	if got := withVIPs(old, next); len(got.VIPs) != 2 || len(old.VIPs) != 1 {
		t.Fatalf("got %v", got.VIPs)
	}
}
