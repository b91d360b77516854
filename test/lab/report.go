package lab

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Report is what a probe measured. All instants are boot time in ns
// (CLOCK_BOOTTIME) of this machine, on which everything in a lab runs.
type Report struct {
	// Target is the address that was asked for.
	Target netip.Addr
	// Started and Stopped bound the measurement.
	Started, Stopped int64

	// Sent is the number of questions sent, Answered the number of answers
	// received; with two owners Answered can exceed Sent.
	Sent, Answered int64
	// StrangerAnswers is the number of answers of strangers, which count for
	// nothing else.
	StrangerAnswers int64
	// Skipped is the number of questions not sent because the probe itself
	// was late by more than 5 ms, SendErrors of those that the kernel
	// refused (the client's own link is down).
	Skipped, SendErrors int64
	// LateP99 and LateMax say how late questions left after their time.
	LateP99, LateMax time.Duration
	// LongestPause is the longest time between two questions. A gap that is
	// not longer than this says nothing about the target.
	LongestPause Gap

	// Longest is the longest time without an answer; the time from the
	// start to the first answer and from the last answer to the stop count.
	Longest Gap
	// Gaps has the gaps longer than the threshold of the probe's options.
	Gaps []Gap
	// GapsLeftOut is the number of gaps beyond the limit of the list.
	GapsLeftOut int64

	// Frames is the number of frames of an owner seen on the cables.
	Frames int64
	// Owners has everyone who acted as owner on the cables.
	Owners []Owner
	// Changes lists the moments when another owner than before was seen on
	// the cables; ChangeCount counts them, also beyond the limit of the list.
	Changes     []Change
	ChangeCount int64

	// Doubles has the stretches of time in which two hosts both acted as
	// owner on their cables, whether or not anybody could receive it;
	// DoubleCount counts them. See StartProbe for the exact rule.
	Doubles     []Double
	DoubleCount int64
	// AnswerDoubles is the same rule applied to the answers that the client
	// received. A host that is cut off and goes on shows in Doubles only.
	AnswerDoubles     []Double
	AnswerDoubleCount int64

	// Lost is the number of frames that the capture lost for want of
	// buffer, Truncated that a list inside the probe overflowed. Unless they
	// are 0 and false, a count of no doubles means nothing.
	Lost      int64
	Truncated bool
	// CPU is the processor time that the probe took.
	CPU time.Duration
}

// Gap is a time without an answer. Boot time, ns.
type Gap struct{ Start, End int64 }

// Duration returns the length of the gap.
func (g Gap) Duration() time.Duration { return time.Duration(g.End - g.Start) }

// Owner is a host that sent frames as owner of the target.
type Owner struct {
	Node string // name in the lab, or "" for a MAC that is no node's
	MAC  string
	// First and Last frame, boot time in ns.
	First, Last int64
	Frames      int64
}

// String returns the node's name, or the MAC of a stranger.
func (o Owner) String() string {
	if o.Node != "" {
		return o.Node
	}
	return o.MAC
}

// Change is the moment when another MAC became the owner.
type Change struct {
	At       int64 // boot time in ns of the first frame of the new owner
	From, To string
}

// Double is a stretch of time in which two hosts both acted as owner.
type Double struct {
	Start, End int64 // boot time, ns
	A, B       string
}

// Duration returns the length of the overlap; 0 means a single frame of one
// host in between those of the other.
func (d Double) Duration() time.Duration { return time.Duration(d.End - d.Start) }

// Valid returns nil when the probe saw every frame, so that a count of no
// doubles can be believed.
func (r *Report) Valid() error {
	switch {
	case r.Lost != 0:
		return fmt.Errorf("probe lost %d frames: its count of doubles means nothing", r.Lost)
	case r.Truncated:
		return fmt.Errorf("probe saw more stretches of activity than it keeps: its count of doubles means nothing")
	}
	return nil
}

// LongestSince returns the longest gap that ended after a boot time (ns), such
// as that of a fault. Gaps under the threshold are not known one by one; when
// none is longer, the zero Gap is returned.
func (r *Report) LongestSince(at int64) Gap {
	var longest Gap
	for _, g := range r.Gaps {
		if g.End > at && g.Duration() > longest.Duration() {
			longest = g
		}
	}
	return longest
}

// String is the measurement on one line.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: gap %s, doubles %d", r.Target, millis(r.Longest.Duration()), r.DoubleCount)
	if r.AnswerDoubleCount != r.DoubleCount {
		fmt.Fprintf(&b, " (%d heard by the client)", r.AnswerDoubleCount)
	}
	fmt.Fprintf(&b, ", moves %d, sent %d, answered %d", r.ChangeCount, r.Sent, r.Answered)
	if r.Skipped > 0 {
		fmt.Fprintf(&b, ", skipped %d", r.Skipped)
	}
	if err := r.Valid(); err != nil {
		fmt.Fprintf(&b, ", NOT VALID: %v", err)
	}
	return b.String()
}

// TableHead returns the two head lines of the table that Row makes lines of.
func TableHead() string {
	return fmt.Sprintf("%-44s %12s %8s %6s %9s\n%s", "scenario", "gap", "doubles", "moves", "answered",
		strings.Repeat("-", 44+12+8+6+9+4))
}

// Row returns the measurement as a line of a table.
func (r *Report) Row(scenario string) string {
	doubles := fmt.Sprint(r.DoubleCount)
	if r.Valid() != nil {
		doubles = "unknown"
	}
	share := 0.0
	if r.Sent > 0 {
		share = 100 * float64(min(r.Answered, r.Sent)) / float64(r.Sent)
	}
	return fmt.Sprintf("%-44s %12s %8s %6d %8.1f%%", scenario, millis(r.Longest.Duration()), doubles, r.ChangeCount, share)
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// names turns MACs and ports into names of nodes.
type names struct {
	ports map[int]string
	macs  map[[6]byte]string
}

// host names the host behind a sender: by the port that its frame came
// through, which nobody can forge, or by the MAC where there is no port.
func (n names) host(s sender) string {
	if name := n.node(s); name != "" {
		return name
	}
	return s.hardware()
}

func (n names) different(a, b sender) bool { return n.host(a) != n.host(b) }

func (n names) doubles(list []overlap) []Double {
	var out []Double
	for _, o := range list {
		out = append(out, Double{Start: o.Start, End: o.End, A: n.host(o.A), B: n.host(o.B)})
	}
	return out
}

// node names the node behind a sender, "" for none of the lab's.
func (n names) node(s sender) string {
	if name := n.ports[s.Port]; name != "" {
		return name
	}
	return n.macs[s.MAC]
}

func (s sender) hardware() string { return net.HardwareAddr(s.MAC[:]).String() }
