package membership

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const p = int64(500 * time.Millisecond)

// machine is one host as it is, whatever is committed of it.
type machine struct {
	name    string
	key     [32]byte
	gateway bool
	id      uint64 // raft id of its data directory
	up      bool
	since   int64 // up under that id since
	lag     uint64
	planner *Planner
}

// cluster is the smallest thing that obeys a leader's decisions: raft is
// taken for granted, and the checks are written anew, without the Planner.
type cluster struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	now     int64
	nextID  uint64
	hosts   map[string]*machine
	members []Member
	voters  []uint64
	before  []uint64 // voters before the last change
	learner []uint64
	index   uint64
	commit  uint64

	applied map[uint64]map[uint64]int64 // raft id -> configuration -> when
	beat    map[uint64]int64            // raft id -> last heard
	leader  string
	want    []Request
	pending *Change // proposed and not committed
	changes map[Kind]int
	trace   []string
}

var names = []string{"g1", "g2", "w1", "g3", "w2", "w3"}

func keyOf(name string, n byte) [32]byte { return [32]byte{name[0], name[1], n} }

// newCluster has the first members of them all.
func newCluster(t *testing.T, seed uint64) *cluster {
	rng := rand.New(rand.NewPCG(seed, 1))
	members := 3 + rng.IntN(len(names)-2)
	c := &cluster{t: t, seed: seed, rng: rng, now: 1e9, nextID: 100, index: 1, commit: 1000, hosts: map[string]*machine{},
		changes: map[Kind]int{}, applied: map[uint64]map[uint64]int64{}, beat: map[uint64]int64{}}
	for _, name := range names {
		c.nextID++
		c.hosts[name] = &machine{name: name, key: keyOf(name, 0), gateway: name[0] == 'g', id: c.nextID, up: true,
			since: c.now, planner: New(time.Duration(p))}
	}
	for _, name := range names[:members] {
		h := c.hosts[name]
		c.members = append(c.members, Member{Name: name, PublicKey: h.key, RaftID: h.id, Gateway: h.gateway})
		c.voters = append(c.voters, h.id)
		c.applied[h.id] = map[uint64]int64{1: c.now}
	}
	for _, h := range c.hosts {
		h.planner.Configured(1, c.voters)
	}
	c.leader = "g1"
	c.beats()
	return c
}

func (c *cluster) host(id uint64) *machine {
	for _, h := range c.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}

func (c *cluster) alive(id uint64) bool {
	h := c.host(id)
	return h != nil && h.up
}

func (c *cluster) aliveOf(voters []uint64) int {
	n := 0
	for _, id := range voters {
		if c.alive(id) {
			n++
		}
	}
	return n
}

func (c *cluster) quorum() bool { return c.aliveOf(c.voters) >= len(c.voters)/2+1 }

func (c *cluster) fatal(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("seed %d: %s\ntrace: %q", c.seed, fmt.Sprintf(format, args...), c.trace)
}

// beats lets every host that is up be heard.
func (c *cluster) beats() {
	for _, h := range c.hosts {
		if h.up {
			c.beat[h.id] = c.now
		}
	}
}

func (c *cluster) pass(d int64) {
	c.beats() // up to now
	c.now += d
	c.beats()
}

// elect makes a voter lead that is up, if there is a majority.
func (c *cluster) elect() bool {
	if h := c.hosts[c.leader]; h != nil && h.up && slices.Contains(c.voters, h.id) && c.quorum() {
		return true
	}
	if !c.quorum() {
		return false
	}
	for _, name := range names {
		if h := c.hosts[name]; h.up && slices.Contains(c.voters, h.id) {
			c.lead(h)
			return true
		}
	}
	return false
}

func (c *cluster) lead(h *machine) {
	c.leader = h.name
	c.want = nil // what the old one was asked is in its memory
	h.planner.Lead()
	h.planner.Configured(c.index, c.voters)
	c.trace = append(c.trace, h.name+" leads")
}

// apply lets a host apply the newest configuration.
func (c *cluster) apply(h *machine) {
	if !h.up || !slices.Contains(c.voters, h.id) && !slices.Contains(c.learner, h.id) {
		return
	}
	if c.applied[h.id] == nil {
		c.applied[h.id] = map[uint64]int64{}
	}
	if _, ok := c.applied[h.id][c.index]; !ok {
		c.applied[h.id][c.index] = c.now
		h.planner.Configured(c.index, c.voters)
	}
}

func (c *cluster) input() Input {
	lead := c.hosts[c.leader]
	in := Input{
		Self: lead.id, Members: slices.Clone(c.members), Voters: slices.Clone(c.voters), Learners: slices.Clone(c.learner),
		ConfigIndex: c.index, Reported: map[uint64]uint64{}, Alive: map[uint64]bool{}, Seen: map[string]Seen{},
		Commit: c.commit, Pending: c.pending != nil, Want: slices.Clone(c.want),
		Match: func(id uint64) (uint64, bool) {
			h := c.host(id)
			if h == nil || !h.up {
				return 0, false
			}
			return c.commit - h.lag, true
		},
	}
	for _, h := range c.hosts {
		in.Alive[h.id] = h.up
		for index := range c.applied[h.id] {
			in.Reported[h.id] = max(in.Reported[h.id], index)
		}
		seen := Seen{Connected: h.up, RaftID: h.id, PublicKey: h.key, Since: h.since}
		if m, ok := in.byName(h.name); ok {
			seen.OldSilent = time.Duration(c.now - c.beat[m.RaftID])
		}
		in.Seen[h.name] = seen
	}
	return in
}

// decide asks the leader and checks what it says against the rules.
func (c *cluster) decide() {
	if !c.elect() {
		return
	}
	c.apply(c.hosts[c.leader])
	in := c.input()
	d := c.hosts[c.leader].planner.Decide(c.now, in)
	for _, a := range d.Answers {
		if a.Outcome != Working {
			c.trace = append(c.trace, fmt.Sprintf("%s %s: %d %s", a.Op, a.Name, a.Outcome, a.Text))
			c.want = slices.DeleteFunc(c.want, func(r Request) bool { return r == a.Request })
		}
	}
	if d.Handover {
		for _, name := range names {
			if h := c.hosts[name]; name != c.leader && h.up && slices.Contains(c.voters, h.id) {
				want := c.want
				c.lead(h)
				c.want = want // asked again
				return
			}
		}
	}
	if d.Change.Kind != 0 {
		c.check(in, d.Change)
		c.trace = append(c.trace, d.Change.Reason)
		c.pending = &d.Change
	}
}

// check is the dumb second implementation: G4, F2 and what keeps a majority.
func (c *cluster) check(in Input, ch Change) {
	if in.Pending {
		c.fatal("%s proposed while another is pending", ch.Kind)
	}
	if ch.ID == in.Self {
		c.fatal("%s proposed by %s for itself", ch.Kind, c.leader)
	}
	c.checkWait(c.voters)
	if ch.Kind != Drop {
		return
	}
	if h := c.host(ch.ID); !ch.Forget && h != nil && h.up {
		c.fatal("remove of %s as lost, which is up", h.name)
	}
	if !ch.Forget && c.now-c.beat[ch.ID] < p {
		c.fatal("remove of an old id that was heard %d ms ago", (c.now-c.beat[ch.ID])/1e6)
	}
	rest := slices.DeleteFunc(slices.Clone(c.voters), func(id uint64) bool { return id == ch.ID })
	if alive := c.aliveOf(rest); alive < len(rest)/2+1 {
		c.fatal("after the remove %d of %d voters are up", alive, len(rest))
	}
	if ch.Forget && slices.Contains(c.voters, ch.ID) && len(rest) < 3 {
		c.fatal("an operator's remove leaves %d voters", len(rest))
	}
}

// checkWait: since P or longer a majority of the voters has applied the last
// change.
func (c *cluster) checkWait(voters []uint64) {
	if c.index == 1 {
		return
	}
	n := 0
	for _, id := range voters {
		if at, ok := c.applied[id][c.index]; ok && at <= c.now-p {
			n++
		}
	}
	if n < len(voters)/2+1 {
		c.fatal("next change after configuration %d: only %d of %d voters have applied it for P", c.index, n, len(voters))
	}
}

// commitPending carries out what was proposed, if a majority stores it.
func (c *cluster) commitPending() {
	if c.pending == nil || !c.elect() {
		return
	}
	ch := *c.pending
	c.pending = nil
	c.changes[ch.Kind]++
	c.commit++
	was := slices.Clone(c.voters)
	without := func(ids []uint64) []uint64 {
		return slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return id == ch.ID })
	}
	switch ch.Kind {
	case AddLearner:
		if slices.Contains(c.voters, ch.ID) {
			c.fatal("a voter is made a learner: %+v", ch)
		}
		c.learner = append(c.learner, ch.ID)
		c.members = slices.DeleteFunc(c.members, func(m Member) bool { return m.Name == ch.Member.Name })
		c.members = append(c.members, ch.Member)
		if ch.Member.RaftID != ch.ID {
			c.fatal("learner %x with record %+v", ch.ID, ch.Member)
		}
	case Promote:
		if !slices.Contains(c.learner, ch.ID) {
			c.fatal("promote of what is no learner: %+v", ch)
		}
		c.learner, c.voters = without(c.learner), append(c.voters, ch.ID)
	case Drop:
		c.learner, c.voters = without(c.learner), without(c.voters)
		if ch.Forget {
			c.members = slices.DeleteFunc(c.members, func(m Member) bool { return m.RaftID == ch.ID })
		}
	case Forget:
		c.members = slices.DeleteFunc(c.members, func(m Member) bool { return m.RaftID == ch.ID })
		return // no configuration change
	}
	c.before = was
	c.index = c.commit
	c.overlap(was)
	c.apply(c.hosts[c.leader])
}

// overlap: every majority of the voters before meets every one of those after.
func (c *cluster) overlap(was []uint64) {
	both := 0
	for _, id := range was {
		if slices.Contains(c.voters, id) {
			both++
		}
	}
	// The smallest intersection of two majorities, counted over the union.
	union := len(was) + len(c.voters) - both
	if len(was)/2+1+len(c.voters)/2+1 <= union {
		c.fatal("majorities of %x and %x need not meet", was, c.voters)
	}
	if len(c.voters) < 2 {
		c.fatal("%d voters", len(c.voters))
	}
}

func (c *cluster) ask(r Request) {
	if !c.elect() {
		return
	}
	h := c.hosts[r.Name]
	if r.Op != Remove {
		r.File = Member{Name: r.Name, PublicKey: h.key, Gateway: h.gateway}
	}
	if accepted, err := Check(c.input(), r); err == nil {
		c.want = append(c.want, accepted)
	}
}

// step is one thing that happens; most of it is time and work.
func (c *cluster) step() {
	host := c.hosts[names[c.rng.IntN(len(names))]]
	switch what := c.rng.IntN(60); {
	case what < 14:
		c.pass(1 + c.rng.Int64N(2*p))
	case what < 32:
		c.decide()
	case what < 40:
		c.commitPending()
	case what < 46:
		c.apply(host)
	case what < 49:
		for _, h := range c.hosts {
			c.apply(h)
		}
	case what < 51:
		host.lag = []uint64{0, 10, 500, 100_000}[c.rng.IntN(4)]
	case what < 52:
		host.up = false
	case what < 55:
		c.up(host.name)
	case what < 56:
		c.lose(host.name)
	case what < 57:
		if host.up && slices.Contains(c.voters, host.id) && c.quorum() {
			c.lead(host)
		}
	case what < 59:
		c.ask(Request{Op: Op(1 + c.rng.IntN(3)), Name: host.name})
	default:
		if c.lose(host.name) {
			host.key = keyOf(host.name, host.key[2]+1)
		}
	}
}

// Covers G4, F2: whatever happens, every change keeps the rules, and when all
// is well again the cluster gets to what is wanted of it.
func TestAnyFaultsAndRequestsKeepTheRules(t *testing.T) {
	changes := map[Kind]int{}
	for seed := range uint64(150) {
		c := newCluster(t, seed)
		for range 300 {
			c.step()
		}
		for k, n := range c.changes {
			changes[k] += n
		}
		c.converge()
	}
	t.Logf("changes: %v", changes)
	for _, k := range []Kind{AddLearner, Promote, Drop, Forget} {
		if changes[k] < 5 {
			t.Errorf("only %d times %s: nothing was tested", changes[k], k)
		}
	}
}

func (c *cluster) up(name string) {
	if h := c.hosts[name]; !h.up {
		h.up, h.since = true, c.now
	}
}

// next returns the voters after the change that is pending.
func (c *cluster) next() []uint64 {
	voters := slices.Clone(c.voters)
	switch {
	case c.pending == nil:
	case c.pending.Kind == Drop:
		voters = slices.DeleteFunc(voters, func(id uint64) bool { return id == c.pending.ID })
	case c.pending.Kind == Promote:
		voters = append(voters, c.pending.ID)
	}
	return voters
}

// lose gives a host an empty disk; not so many at a time that a majority of
// the voters is gone for good, which nothing repairs (F4).
func (c *cluster) lose(name string) bool {
	h := c.hosts[name]
	for _, voters := range [][]uint64{c.voters, c.next()} {
		left := 0
		for _, id := range voters {
			if id != h.id && c.host(id) != nil {
				left++
			}
		}
		if slices.Contains(voters, h.id) && left < len(voters)/2+1 {
			return false
		}
	}
	c.nextID++
	h.id, h.up, h.since, h.lag = c.nextID, true, c.now, 0
	h.planner = New(time.Duration(p)) // it knows nothing of before
	c.trace = append(c.trace, name+" lost its data")
	return true
}

// converge heals everything and gives the leader time: then every member is a
// voter under the raft id that it has.
func (c *cluster) converge() {
	for _, h := range c.hosts {
		c.up(h.name)
		h.lag = 0
	}
	c.want = nil
	c.settle()
	for _, m := range slices.Clone(c.members) {
		if c.hosts[m.Name].key != m.PublicKey {
			c.ask(Request{Op: Replace, Name: m.Name}) // only an operator changes a key
		}
	}
	c.settle()
	for _, m := range c.members {
		h := c.hosts[m.Name]
		if m.RaftID != h.id || m.PublicKey != h.key || !slices.Contains(c.voters, h.id) {
			d := c.hosts[c.leader].planner.Decide(c.now, c.input())
			c.fatal("%s is not repaired: %s, until %d, now %d", m.Name, d.Wait, d.Until, c.now)
		}
	}
	if len(c.learner) > 0 || len(c.voters) != len(c.members) {
		c.fatal("voters %x, learners %x, members %+v", c.voters, c.learner, c.members)
	}
	if len(c.want) > 0 {
		c.fatal("not done: %+v", c.want)
	}
	// Then an operator takes all in, and all but three out again.
	for _, name := range names {
		c.ask(Request{Op: Add, Name: name})
	}
	c.settle()
	if len(c.voters) != len(names) || len(c.want) > 0 {
		c.fatal("%d voters after adding all; open: %+v", len(c.voters), c.want)
	}
	for _, name := range []string{"g1", "w2", "w3"} {
		c.ask(Request{Op: Remove, Name: name})
		c.settle()
	}
	left := slices.Sorted(maps.Keys(byName(c.members)))
	if !slices.Equal(left, []string{"g2", "g3", "w1"}) || len(c.voters) != 3 {
		c.fatal("left: %v", left)
	}
}

func byName(members []Member) map[string]Member {
	all := map[string]Member{}
	for _, m := range members {
		all[m.Name] = m
	}
	return all
}

// settle lets a healthy cluster go on for a while.
func (c *cluster) settle() {
	for range 150 {
		c.commitPending()
		for _, h := range c.hosts {
			c.apply(h)
		}
		c.decide()
		c.pass(p / 2)
	}
}
