package node

import (
	"slices"
	"sync"
	"time"
)

// latencies keeps the last syncs of the log. The log's writer adds, the loop
// reads.
type latencies struct {
	mu   sync.Mutex
	ring [256]time.Duration
	ends [256]int64 // boottime of their ends
	n    int
}

func (l *latencies) add(now int64, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring[l.n%len(l.ring)], l.ends[l.n%len(l.ring)] = d, now
	l.n++
}

// p99 is 0 before the first.
func (l *latencies) p99() time.Duration {
	l.mu.Lock()
	sorted := slices.Clone(l.ring[:min(l.n, len(l.ring))])
	l.mu.Unlock()
	if len(sorted) == 0 {
		return 0
	}
	slices.Sort(sorted)
	return sorted[(len(sorted)*99-1)/100]
}

// longer counts the syncs of the time since that took longer than the limit.
func (l *latencies) longer(since int64, limit time.Duration) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for i := range min(l.n, len(l.ring)) {
		if l.ends[i] >= since && l.ring[i] > limit {
			n++
		}
	}
	return n
}

// synced is called by the log's writer after each sync.
func (w *worker) synced(_ int, _ int, took time.Duration) {
	w.fsyncs.add(w.clk.Boottime(), took)
	w.metrics.ObserveFsync(took)
}

// measure gives the elections the latencies that their waits rest on (E3).
func (w *worker) measure(now int64) {
	if now < w.nextLatency {
		return
	}
	w.nextLatency = now + int64(time.Second)
	var rtt time.Duration
	for name := range w.peers {
		rtt = max(rtt, w.mesh.RTTMax(name))
	}
	w.refusedNow = w.countRefused()
	w.raft.SetLatency(min(rtt, w.timing.Promise), min(w.fsyncs.p99(), w.timing.Promise))
}

// countRefused adds up what was not taken from others.
func (w *worker) countRefused() map[string]uint64 {
	s := w.mesh.Stats()
	out := map[string]uint64{
		"connection": s.Refused, "handshake": s.HandshakesFailed, "malformed": s.Malformed,
		"unknown_session": s.UnknownSession, "note_rate": s.NotesLimited, "note_size": s.NotesSize,
		"overload": w.lost.Load(),
	}
	for _, p := range s.Peers {
		out["hello"] += p.Refusals
		out["replay"] += p.ReplayDrops
		out["authentication"] += p.AuthFailures
	}
	for reason, n := range w.refusals {
		out["grant_"+reason.String()] = n
	}
	return out
}
