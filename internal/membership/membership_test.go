package membership

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const second = int64(time.Second)

// three is a healthy cluster of gw1 (the leader, raft id 1), gw2 and w1, long
// after its founding.
func three() Input {
	in := Input{
		Self: 1,
		Members: []Member{
			{Name: "gw1", PublicKey: [32]byte{1}, RaftID: 1, Gateway: true, Priority: 100},
			{Name: "gw2", PublicKey: [32]byte{2}, RaftID: 2, Gateway: true, Priority: 100},
			{Name: "w1", PublicKey: [32]byte{3}, RaftID: 3},
		},
		Voters: []uint64{1, 2, 3}, ConfigIndex: 10, Commit: 10_000,
		Reported: map[uint64]uint64{1: 10, 2: 10, 3: 10},
		Alive:    map[uint64]bool{2: true, 3: true},
		Holds:    map[uint64]string{},
		Match:    func(uint64) (uint64, bool) { return 10_000, true },
	}
	in.Seen = map[string]Seen{
		"gw2": {Connected: true, RaftID: 2, PublicKey: [32]byte{2}},
		"w1":  {Connected: true, RaftID: 3, PublicKey: [32]byte{3}},
	}
	return in
}

// newData makes gw2 one that came back with an empty disk, its old id silent
// for a while.
func newData(in Input, silent time.Duration) Input {
	in.Alive[2] = false
	in.Seen["gw2"] = Seen{Connected: true, RaftID: 20, PublicKey: [32]byte{2}, OldSilent: silent}
	return in
}

// settled is a Planner for which the last change lies long back.
func settled(t *testing.T, in Input) *Planner {
	t.Helper()
	pl := New(500 * time.Millisecond)
	pl.Configured(in.ConfigIndex, in.Voters)
	pl.Decide(1, in)
	return pl
}

func TestHealthyClusterIsLeftAlone(t *testing.T) {
	in := three()
	if d := settled(t, in).Decide(second, in); d.Change.Kind != 0 || d.Handover || d.Wait != "" {
		t.Errorf("decision %+v", d)
	}
	// One that is away, but with its data, is left alone too.
	in.Alive[2], in.Seen["gw2"] = false, Seen{}
	if d := settled(t, in).Decide(3600*second, in); d.Change.Kind != 0 {
		t.Errorf("member that is away: %+v", d)
	}
}

// Covers F2: old id out, new id in as learner, promoted when it has caught up
// and knows that it joined.
func TestNewDataIsReplacedByItself(t *testing.T) {
	in := newData(three(), time.Minute)
	pl := settled(t, in)
	d := pl.Decide(second, in)
	if d.Change.Kind != Drop || d.Change.ID != 2 || d.Change.Forget || d.Change.Cause != "new_data" {
		t.Fatalf("first %+v", d)
	}
	in.Voters, in.ConfigIndex = []uint64{1, 3}, 20
	in.Reported = map[uint64]uint64{1: 20, 3: 20}
	if d = pl.Decide(second+1, in); d.Change.Kind != 0 || d.Until != second+1+int64(500*time.Millisecond) {
		t.Fatalf("at once after the first %+v", d) // G4
	}
	if d = pl.Decide(2*second, in); d.Change.Kind != AddLearner || d.Change.ID != 20 ||
		d.Change.Member != (Member{Name: "gw2", PublicKey: [32]byte{2}, RaftID: 20, Gateway: true, Priority: 100}) {
		t.Fatalf("second %+v", d)
	}
	in.Members[1].RaftID, in.Learners, in.ConfigIndex, in.Alive[20] = 20, []uint64{20}, 30, true
	in.Reported = map[uint64]uint64{1: 30, 3: 30}
	match := uint64(5)
	in.Match = func(id uint64) (uint64, bool) {
		if id == 20 {
			return match, true
		}
		return in.Commit, true
	}
	pl.Decide(3*second, in)
	if d = pl.Decide(4*second, in); d.Change.Kind != 0 || !strings.Contains(d.Wait, "index 5 of 10000") {
		t.Fatalf("not caught up %+v", d)
	}
	match = in.Commit - CaughtUp
	if d = pl.Decide(5*second, in); d.Change.Kind != 0 || !strings.Contains(d.Wait, "has yet to apply that it joined") {
		t.Fatalf("does not know that it joined %+v", d)
	}
	in.Reported[20] = 30
	if d = pl.Decide(5900*int64(time.Millisecond), in); d.Change.Kind != 0 || !strings.Contains(d.Wait, "may not grant yet") || d.Until != 6400*int64(time.Millisecond) {
		t.Fatalf("still waits for the promises of before its start %+v", d) // G2
	}
	in.Alive[20] = false
	pl.Decide(5950*int64(time.Millisecond), in)
	in.Alive[20] = true
	if d = pl.Decide(6*second, in); d.Change.Kind != 0 || d.Until != 6500*int64(time.Millisecond) {
		t.Fatalf("heard anew %+v", d)
	}
	if d = pl.Decide(6500*int64(time.Millisecond), in); d.Change.Kind != Promote || d.Change.ID != 20 {
		t.Fatalf("third %+v", d)
	}
	in.Alive[20] = false
	if d = pl.Decide(7*second, in); d.Change.Kind != 0 {
		t.Errorf("promoted although it is not heard: %+v", d)
	}
}

// Covers F2: an id that may be alive is not replaced.
func TestOldIDMustBeDead(t *testing.T) {
	in := newData(three(), 100*time.Millisecond)
	pl := settled(t, in)
	d := pl.Decide(second, in)
	if d.Change.Kind != 0 || d.Until != second+int64(400*time.Millisecond) {
		t.Errorf("heard 100 ms ago: %+v", d)
	}
	in = newData(three(), time.Minute)
	in.Alive[2] = true
	if d = pl.Decide(second, in); d.Change.Kind != 0 || !strings.Contains(d.Wait, "copy") {
		t.Errorf("alive twice: %+v", d)
	}
	in = newData(three(), time.Minute)
	s := in.Seen["gw2"]
	s.Since = second - 1
	in.Seen["gw2"] = s
	if d = pl.Decide(second, in); d.Change.Kind != 0 || d.Until == 0 {
		t.Errorf("connected just now: %+v", d)
	}
}

func TestWhatMayNotTakeAPlace(t *testing.T) {
	for name, tc := range map[string]struct {
		seen Seen
		wait string
	}{
		"another key":           {Seen{Connected: true, RaftID: 20, PublicKey: [32]byte{9}}, "member replace gw2"},
		"raft id of another":    {Seen{Connected: true, RaftID: 3, PublicKey: [32]byte{2}}, "raft id of w1"},
		"raft id of the leader": {Seen{Connected: true, RaftID: 1, PublicKey: [32]byte{2}}, "raft id of gw1"},
		"only away":             {Seen{RaftID: 20, PublicKey: [32]byte{2}}, ""},
	} {
		in := newData(three(), time.Minute)
		tc.seen.OldSilent = time.Minute
		in.Seen["gw2"] = tc.seen
		d := settled(t, in).Decide(second, in)
		if d.Change.Kind != 0 || !strings.Contains(d.Wait, tc.wait) || (tc.wait == "") != (d.Wait == "") {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// A remove that would leave fewer than a majority at work is not made.
func TestNeverBelowAWorkingMajority(t *testing.T) {
	in := newData(three(), time.Minute)
	in.Alive[3] = false
	if d := settled(t, in).Decide(second, in); d.Change.Kind != 0 || !strings.Contains(d.Wait, "only 1 of 3 voters") {
		t.Errorf("two of three gone: %+v", d)
	}
	in = newData(three(), time.Minute)
	in.Match = func(id uint64) (uint64, bool) { return 0, id == 3 }
	in.Commit = 1 << 20
	if d := settled(t, in).Decide(second, in); d.Change.Kind != 0 || !strings.Contains(d.Wait, "up to date") {
		t.Errorf("the other is far behind: %+v", d)
	}
}

func TestOneAfterTheOther(t *testing.T) {
	in := newData(three(), time.Minute)
	for i, name := range []string{"gw3", "gw4"} {
		id := uint64(4 + i)
		in.Members = append(in.Members, Member{Name: name, PublicKey: [32]byte{byte(id)}, RaftID: id, Gateway: true})
		in.Alive[id], in.Reported[id] = true, 10
		in.Seen[name] = Seen{Connected: true, RaftID: id, PublicKey: [32]byte{byte(id)}}
	}
	in.Voters, in.Learners = []uint64{1, 2, 3, 4}, []uint64{5}
	in.Match = func(id uint64) (uint64, bool) { return map[bool]uint64{true: 1, false: in.Commit}[id == 5], true }
	d := settled(t, in).Decide(second, in)
	if d.Change.Kind != 0 || !strings.Contains(d.Wait, "gw4 is being filled") {
		t.Errorf("while another is filled: %+v", d)
	}
	in.Alive[5] = false // it is gone, and must not hold up the repair
	if d = settled(t, in).Decide(second, in); d.Change.Kind != Drop || d.Change.ID != 2 {
		t.Errorf("after the other went: %+v", d)
	}
}

// Covers G4.
func TestWaitBetweenChanges(t *testing.T) {
	ms := int64(time.Millisecond)
	in := newData(three(), time.Minute)
	pl := New(500 * time.Millisecond)
	pl.Configured(5, []uint64{1, 2}) // gw2 voted before, and is gone
	pl.Configured(10, in.Voters)
	in.Reported = map[uint64]uint64{}
	if d := pl.Decide(10*second, in); d.Change.Kind != 0 || !strings.Contains(d.Wait, "gw2, w1") {
		t.Fatalf("nobody has applied it: %+v", d)
	}
	in.Reported[3] = 10
	d := pl.Decide(10100*ms, in)
	if d.Change.Kind != 0 || !strings.Contains(d.Wait, "before the last change") || d.Until != 15100*ms {
		t.Fatalf("the old voters have not: %+v", d)
	}
	// gw2 is gone for good: not waited for without end.
	if d = pl.Decide(15100*ms, in); d.Change.Kind != 0 || d.Until != 15600*ms {
		t.Fatalf("when the patience is over: %+v", d)
	}
	if d = pl.Decide(15600*ms, in); d.Change.Kind != Drop {
		t.Fatalf("P later: %+v", d)
	}
	// A new leader proves it anew.
	pl.Lead()
	in.Reported[2] = 10
	if d = pl.Decide(16000*ms, in); d.Change.Kind != 0 || d.Until != 16500*ms {
		t.Errorf("new leader: %+v", d)
	}
	in.Reported[3], in.Reported[2] = 9, 9 // a voter that restarted and has yet to apply it again
	if d = pl.Decide(17000*ms, in); d.Change.Kind != 0 {
		t.Errorf("reports that went back: %+v", d)
	}
	in.Reported[3] = 10
	if d = pl.Decide(7100*ms+3*second, in); d.Change.Kind != 0 || d.Until == 0 {
		t.Errorf("P begins anew when reports went back: %+v", d)
	}
	for name, change := range map[string]func(*Input){
		"pending": func(in *Input) { in.Pending = true },
		"joint":   func(in *Input) { in.Outgoing = []uint64{1, 2, 3} },
	} {
		in := newData(three(), time.Minute)
		change(&in)
		if d := settled(t, in).Decide(second, in); d.Change.Kind != 0 || d.Wait == "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// After a snapshot the voters before are unknown: those that this node knew
// long ago are not asked for.
func TestVotersBeforeASnapshotAreForgotten(t *testing.T) {
	in := newData(three(), time.Minute)
	in.Reported = map[uint64]uint64{3: 10}
	pl := New(500 * time.Millisecond)
	pl.Configured(5, []uint64{1, 2})
	pl.Forget()
	pl.Configured(10, in.Voters)
	if d := pl.Decide(10*second, in); d.Until != 10*second+int64(500*time.Millisecond) {
		t.Errorf("decision %+v", d)
	}
	in.Reported = nil // but those of now are
	if d := pl.Decide(20*second, in); d.Change.Kind != 0 {
		t.Errorf("nobody has applied it: %+v", d)
	}
}

func accept(t *testing.T, in *Input, r Request) {
	t.Helper()
	r, err := Check(*in, r)
	if err != nil {
		t.Fatal(err)
	}
	in.Want = append(in.Want, r)
}

var gw3 = Member{Name: "gw3", PublicKey: [32]byte{4}, Gateway: true, Priority: 50}

func TestAdd(t *testing.T) {
	in := three()
	accept(t, &in, Request{Op: Add, Name: "gw3", File: gw3})
	pl := settled(t, in)
	d := pl.Decide(second, in)
	if d.Change.Kind != 0 || d.Answers[0].Outcome != Working || !strings.Contains(d.Wait, "add gw3: waiting for it to connect") {
		t.Fatalf("not connected: %+v", d)
	}
	in.Seen["gw3"] = Seen{Connected: true, RaftID: 4, PublicKey: [32]byte{9}}
	if d = pl.Decide(second, in); d.Change.Kind != 0 || !strings.Contains(d.Answers[0].Text, "another key") {
		t.Fatalf("another key: %+v", d)
	}
	in.Seen["gw3"] = Seen{Connected: true, RaftID: 4, PublicKey: [32]byte{4}}
	want := gw3
	want.RaftID = 4
	if d = pl.Decide(second, in); d.Change.Kind != AddLearner || d.Change.Member != want || d.Change.Cause != "operator" {
		t.Fatalf("connected: %+v", d)
	}
	in.Members, in.Learners = append(in.Members, want), []uint64{4}
	if d = pl.Decide(second, in); d.Answers[0].Outcome != Working {
		t.Errorf("learner: %+v", d)
	}
	in.Learners, in.Voters = nil, []uint64{1, 2, 3, 4}
	if d = pl.Decide(second, in); d.Answers[0].Outcome != Done {
		t.Errorf("voter: %+v", d)
	}
}

func TestSecondAddWaitsForTheFirst(t *testing.T) {
	in := three()
	for i, name := range []string{"gw3", "gw4"} {
		key := [32]byte{byte(4 + i)}
		in.Seen[name] = Seen{Connected: true, RaftID: uint64(4 + i), PublicKey: key}
		accept(t, &in, Request{Op: Add, Name: name, File: Member{Name: name, PublicKey: key}})
	}
	pl := settled(t, in)
	d := pl.Decide(second, in)
	if d.Change.Kind != AddLearner || d.Change.ID != 4 || !strings.Contains(d.Answers[1].Text, "another member") {
		t.Fatalf("both at once: %+v", d)
	}
	in.Members, in.Learners, in.Alive[4] = append(in.Members, d.Change.Member), []uint64{4}, true
	if d = pl.Decide(second, in); d.Change.Kind != 0 || !strings.Contains(d.Answers[1].Text, "another member") {
		t.Fatalf("while the first is filled: %+v", d)
	}
	in.Voters, in.Learners = []uint64{1, 2, 3, 4}, nil
	if d = pl.Decide(second, in); d.Change.Kind != AddLearner || d.Change.ID != 5 {
		t.Errorf("after the first: %+v", d)
	}
}

func TestRemove(t *testing.T) {
	in := three()
	in.Members, in.Voters = append(in.Members, Member{Name: "gw3", PublicKey: [32]byte{4}, RaftID: 4, Gateway: true}), []uint64{1, 2, 3, 4}
	in.Alive[4], in.Reported[4] = true, 10
	accept(t, &in, Request{Op: Remove, Name: "gw2"})
	d := settled(t, in).Decide(second, in)
	if d.Change.Kind != Drop || d.Change.ID != 2 || !d.Change.Forget || d.Change.Cause != "operator" {
		t.Fatalf("first %+v", d)
	}
	in.Holds[2] = "default" // it became the holder meanwhile
	if d = settled(t, in).Decide(second, in); d.Change.Kind != 0 || d.Answers[0].Outcome != Refused || !strings.Contains(d.Answers[0].Hint, "failover") {
		t.Errorf("holder: %+v", d)
	}
	in.Pending = true // in the log already: what it will be is not known yet
	if d = settled(t, in).Decide(second, in); d.Answers[0].Outcome != Working {
		t.Errorf("pending: %+v", d)
	}
	in.Pending, in.Voters = false, []uint64{1, 3, 4}
	if d = settled(t, in).Decide(second, in); d.Change.Kind != Forget || d.Change.ID != 2 {
		t.Errorf("out, and its record is there: %+v", d)
	}
	in.Members = slices.Delete(in.Members, 1, 2)
	if d = settled(t, in).Decide(second, in); d.Change.Kind != 0 || d.Answers[0].Outcome != Done {
		t.Errorf("gone: %+v", d)
	}
}

// A learner that an operator wants gone is neither promoted nor replaced.
func TestRemoveOfALearner(t *testing.T) {
	in := three()
	in.Members = append(in.Members, Member{Name: "gw3", PublicKey: [32]byte{4}, RaftID: 4, Gateway: true})
	in.Learners, in.Alive[4], in.Reported[4] = []uint64{4}, true, 10
	in.Seen["gw3"] = Seen{Connected: true, RaftID: 4, PublicKey: [32]byte{4}}
	accept(t, &in, Request{Op: Remove, Name: "gw3"})
	for _, id := range []uint64{4, 40} {
		in.Seen["gw3"] = Seen{Connected: true, RaftID: id, PublicKey: [32]byte{4}, OldSilent: time.Minute}
		in.Alive[4] = id == 4
		if d := settled(t, in).Decide(second, in); d.Change.Kind != Drop || !d.Change.Forget || d.Change.ID != 4 {
			t.Errorf("shows id %d: %+v", id, d)
		}
	}
}

func TestLeaderHandsOverWhatConcernsItself(t *testing.T) {
	in := three()
	in.Members, in.Voters = append(in.Members, Member{Name: "gw3", PublicKey: [32]byte{4}, RaftID: 4, Gateway: true}), []uint64{1, 2, 3, 4}
	in.Alive[4], in.Reported[4] = true, 10
	for _, r := range []Request{{Op: Remove, Name: "gw1"}, {Op: Replace, Name: "gw1", File: in.Members[0]}} {
		in.Want = nil
		accept(t, &in, r)
		if d := settled(t, in).Decide(second, in); !d.Handover || d.Change.Kind != 0 || d.Answers[0].Outcome != Working {
			t.Errorf("%s: %+v", r.Op, d)
		}
	}
}

func TestReplace(t *testing.T) {
	in := three()
	file := Member{Name: "gw2", PublicKey: [32]byte{7}, Gateway: true, Priority: 10}
	accept(t, &in, Request{Op: Replace, Name: "gw2", File: file})
	pl := settled(t, in)
	if d := pl.Decide(second, in); d.Change.Kind != 0 || d.Answers[0].Outcome != Working || d.Answers[0].Hint == "" {
		t.Fatalf("the old machine runs: %+v", d)
	}
	in.Alive[2] = false
	in.Seen["gw2"] = Seen{Connected: true, RaftID: 20, PublicKey: [32]byte{7}, OldSilent: time.Minute}
	if d := pl.Decide(second, in); d.Change.Kind != Drop || d.Change.ID != 2 || d.Change.Forget {
		t.Fatalf("first %+v", d)
	}
	in.Voters = []uint64{1, 3}
	if d := pl.Decide(second, in); d.Change.Kind != AddLearner || d.Change.Member.PublicKey != file.PublicKey || d.Change.Member.Priority != 10 || d.Change.Member.RaftID != 20 {
		t.Fatalf("second %+v", d)
	}
	// Asked again, of a new leader, it is the same replacement.
	in.Want = nil
	accept(t, &in, Request{Op: Replace, Name: "gw2", File: file})
	if d := pl.Decide(second, in); d.Change.Kind != AddLearner || d.Change.Member.PublicKey != file.PublicKey {
		t.Fatalf("asked again %+v", d)
	}
	in.Members[1] = Member{Name: "gw2", PublicKey: [32]byte{7}, RaftID: 20, Gateway: true}
	in.Learners = []uint64{20}
	if d := pl.Decide(second, in); d.Answers[0].Outcome != Working {
		t.Fatalf("learner %+v", d)
	}
	in.Learners, in.Voters = nil, []uint64{1, 3, 20}
	if d := pl.Decide(second, in); d.Answers[0].Outcome != Done {
		t.Errorf("at the end %+v", d)
	}
}

func TestWhatIsRefused(t *testing.T) {
	five := func() Input {
		in := three()
		in.Members = append(in.Members, Member{Name: "w2", PublicKey: [32]byte{4}, RaftID: 4}, Member{Name: "w3", PublicKey: [32]byte{5}, RaftID: 5})
		in.Voters, in.Alive[4], in.Alive[5] = []uint64{1, 2, 3, 4, 5}, true, true
		return in
	}
	for name, tc := range map[string]struct {
		in       Input
		r        Request
		says     string
		notFound bool
	}{
		"unknown name":         {three(), Request{Op: Remove, Name: "gw9"}, "not a member", true},
		"not in the file":      {three(), Request{Op: Add, Name: "gw9"}, "configuration file", true},
		"key of another":       {three(), Request{Op: Add, Name: "gw3", File: Member{Name: "gw3", PublicKey: [32]byte{2}}}, "key of gw2", false},
		"two voters left":      {three(), Request{Op: Remove, Name: "w1"}, "2 voters would be left", false},
		"holder":               {with(five(), func(in *Input) { in.Holds[2] = "default" }), Request{Op: Remove, Name: "gw2"}, "holds group default", false},
		"last gateway":         {with(five(), func(in *Input) { in.Members[0].Gateway = false }), Request{Op: Remove, Name: "gw2"}, "last gateway", false},
		"no majority at work":  {with(five(), func(in *Input) { in.Alive[3], in.Alive[4] = false, false }), Request{Op: Remove, Name: "w3"}, "only 2 of 4", false},
		"too many members":     {with(three(), func(in *Input) { in.Members = make([]Member, MaxMembers) }), Request{Op: Add, Name: "gw3", File: gw3}, "63 members", false},
		"replace, not in file": {three(), Request{Op: Replace, Name: "gw2"}, "configuration file", true},
	} {
		_, err := Check(tc.in, tc.r)
		var no *Refusal
		if !errors.As(err, &no) || !strings.Contains(no.Message, tc.says) || no.NotFound != tc.notFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Check(five(), Request{Op: Remove, Name: "w3"}); err != nil {
		t.Errorf("what is possible: %v", err)
	}
}

func with(in Input, change func(*Input)) Input {
	change(&in)
	return in
}

// Ids that belong to no member are removed, so that a half-finished change of
// an earlier version cannot hold a quorum for ever.
func TestOrphansAreRemoved(t *testing.T) {
	in := three()
	in.Learners = []uint64{77}
	if d := settled(t, in).Decide(second, in); d.Change.Kind != Drop || d.Change.ID != 77 || d.Change.Cause != "orphan" {
		t.Errorf("learner: %+v", d)
	}
	in.Learners, in.Voters = nil, []uint64{1, 2, 3, 77}
	if d := settled(t, in).Decide(second, in); d.Change.Kind != Drop || d.Change.ID != 77 {
		t.Errorf("voter: %+v", d)
	}
	in.Alive[2] = false
	if d := settled(t, in).Decide(second, in); d.Change.Kind != 0 || !strings.Contains(d.Wait, "belongs to no member") {
		t.Errorf("without a majority: %+v", d)
	}
}

func TestDifferences(t *testing.T) {
	committed := three().Members
	file := slices.Clone(committed)
	if d := Differences(file, committed); d != nil {
		t.Errorf("equal: %q", d)
	}
	file[0].Priority, file[1].PublicKey, file[2] = 7, [32]byte{9}, gw3
	got := strings.Join(Differences(file, committed), "\n")
	for _, want := range []string{"gw1 has priority 7 in the file and 100", "member replace gw2", "member add gw3", "w1 is a member and not in the file"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	file = slices.Clone(committed)
	file[2].Gateway = true
	if d := Differences(file, committed); len(d) != 1 || !strings.Contains(d[0], "w1 is a gateway in the file and a witness") {
		t.Errorf("role: %q", d)
	}
}

func TestWordsOfOperations(t *testing.T) {
	for _, o := range []Op{Add, Remove, Replace} {
		if got, ok := ParseOp(o.String()); !ok || got != o {
			t.Errorf("%s: %v, %v", o, got, ok)
		}
	}
	if _, ok := ParseOp("op(9)"); ok {
		t.Error("an unknown word was read")
	}
}
