package scenario

import (
	"context"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// Rows of the table of times, with the 99th percentile that each must reach.
const (
	rowPower    = "holder loses its link, or power"
	rowKilled   = "holder's daemon killed (SIGKILL)"
	rowHung     = "holder's daemon hangs (SIGSTOP)"
	rowBoth     = "daemon and its guardian both hang or die"
	rowOneWay   = "asymmetric partition"
	rowPlanned  = "planned switchover"
	rowRestart  = "restart of the daemon on the holder"
	rowLeader   = "loss of the raft leader that is not the holder"
	rowAddress  = "address deleted by someone"
	ms          = time.Millisecond
	wideMove    = 6 * time.Second
	widePlanned = 3 * time.Second
)

var goals = map[string]Goals{
	rowPower:   {750 * ms, 200 * ms},
	rowKilled:  {100 * ms, 50 * ms},
	rowHung:    {750 * ms, 250 * ms},
	rowBoth:    {800 * ms, 250 * ms},
	rowOneWay:  {800 * ms, 250 * ms},
	rowPlanned: {20 * ms, 20 * ms},
	rowRestart: {50 * ms, 50 * ms},
	rowLeader:  {10 * ms, 10 * ms},
	rowAddress: {}, // the table has none
}

// All returns every scenario, in the order of the table. Where the leader
// matters the holder leads too: that is the usual case after a start, and the
// slower one.
func All() []Scenario {
	list := []Scenario{
		{ID: "link", Title: "holder loses its carrier", Row: rowPower, lead: together, strike: linkDown},
		{ID: "cut", Title: "holder's cable is cut, silently", Row: rowPower, lead: together, strike: cut},
		{ID: "power", Title: "holder loses its power", Row: rowPower, lead: together, strike: power},
		{ID: "worker-kill", Title: "worker of the holder: SIGKILL", Row: rowKilled, lead: together, expect: mayMove, strike: killWorker},
		{ID: "guard-kill", Title: "guard of the holder: SIGKILL", Row: rowKilled, lead: together, expect: mayMove, strike: killGuard},
		{ID: "worker-stop", Title: "worker of the holder: SIGSTOP, later SIGCONT", Row: rowHung, lead: together, linger: 500 * ms, strike: hangWorker},
		{ID: "both-stop", Title: "guard and worker: SIGSTOP, later SIGCONT", Row: rowBoth, lead: together, linger: 500 * ms, strike: hangBoth},
		{ID: "both-kill", Title: "guard and worker: SIGKILL", Row: rowBoth, lead: together, linger: 200 * ms, strike: killBoth},
		{ID: "deaf", Title: "holder hears nothing, is heard", Row: rowOneWay, lead: together, linger: 500 * ms, strike: deafen},
		{ID: "mute", Title: "holder is not heard, hears", Row: rowOneWay, lead: together, linger: 500 * ms, strike: mute},
		{ID: "switch", Title: "holdfast failover", Row: rowPlanned, expect: returned, strike: planned},
		{ID: "restart", Title: "daemon of the holder: SIGTERM, start again", Row: rowRestart, lead: together, expect: mayMove, strike: restart},
		{ID: "leader", Title: "leader loses its power, holder is another", Row: rowLeader, lead: apart, expect: stays, linger: 2 * time.Second, strike: leaderPower},
		{ID: "address", Title: "ip address del on the holder", Row: rowAddress, expect: stays, strike: deleteAddress},
	}
	for i := range list {
		s := &list[i]
		s.Goals, s.Wide = goals[s.Row], wideMove
		if s.expect == returned || s.expect == stays || s.Row == rowRestart {
			s.Wide = widePlanned
		}
	}
	return list
}

// Find returns the scenario of that id.
func Find(id string) (Scenario, bool) {
	for _, s := range All() {
		if s.ID == id {
			return s, true
		}
	}
	return Scenario{}, false
}

func linkDown(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.Lab().LinkDown(at.Holder + "/*")
}

func cut(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.Lab().Cut(at.Holder + "/*")
}

func power(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.PowerCut(at.Holder)
}

func killWorker(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.KillWorker(at.Holder)
}

func killGuard(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.KillGuard(at.Holder)
}

func hangWorker(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.HangWorker(at.Holder)
}

func hangBoth(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.Hang(at.Holder)
}

func killBoth(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.Kill(at.Holder)
}

func deafen(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.Lab().Deafen(at.Holder + "/*")
}

func mute(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.Lab().Mute(at.Holder + "/*")
}

func planned(ctx context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	f := &lab.Fault{Name: "failover to " + at.Spare, At: lab.Now()}
	return f, Env{Cluster: c}.Switch(ctx, at.Spare)
}

func restart(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.Restart(at.Holder)
}

func leaderPower(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.PowerCut(at.Leader)
}

func deleteAddress(_ context.Context, c *lab.Cluster, at Position) (*lab.Fault, error) {
	return c.DeleteVIP(at.Holder)
}
