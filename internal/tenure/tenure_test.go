package tenure

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = int64(time.Millisecond)

func effects(steps []Step) []Effect {
	var out []Effect
	for _, s := range steps {
		out = append(out, s.Effect)
	}
	return out
}

func want(t *testing.T, what string, got []Step, w ...Effect) {
	t.Helper()
	if !slices.Equal(effects(got), w) {
		t.Fatalf("%s: got %v, want %v", what, got, w)
	}
}

func wantState(t *testing.T, m *Machine, s State, epoch uint64) {
	t.Helper()
	if gs, ge := m.State(); gs != s || ge != epoch {
		t.Fatalf("state is %v %d, want %v %d", gs, ge, s, epoch)
	}
}

// hold brings a machine to holding epoch.
func hold(t *testing.T, m *Machine, epoch uint64) {
	t.Helper()
	want(t, "assigned", m.Assigned(0, epoch, true), RunPreAcquire)
	want(t, "hooks", m.HooksDone(0, m.Token(), nil), SetAddress)
	want(t, "address", m.AddressSet(m.Token(), nil), BeginRequests)
	want(t, "granted", m.Granted(epoch), OpenGate, Announce, RunAcquired)
	wantState(t, m, Holding, epoch)
}

func TestAcquireOrder(t *testing.T) {
	m := &Machine{}
	hold(t, m, 5)
	want(t, "window moves", m.Granted(5), OpenGate)
	want(t, "another epoch's window", m.Granted(4))
}

// Covers G5: close, 1 ms, note, address.
func TestReleaseOrder(t *testing.T) {
	m := &Machine{}
	hold(t, m, 5)
	want(t, "release", m.Release(10*ms), CloseGate)
	want(t, "at once", m.Tick(10*ms))
	if m.Next() != 11*ms {
		t.Fatalf("next is %d, want 1 ms after the close", m.Next())
	}
	m.Closed(12 * ms)
	wantState(t, m, Idle, 0)
	want(t, "too early", m.Tick(13*ms-1))
	if m.Next() != 13*ms {
		t.Fatalf("next is %d, want 1 ms after the gate was read back", m.Next())
	}
	want(t, "note", m.Tick(13*ms), SendRelease, ClearAddress, RunReleased)
	want(t, "only once", m.Tick(14*ms))
}

// Covers G3: a higher epoch ends holding at once, whomever it names.
func TestHigherEpochEndsHolding(t *testing.T) {
	m := &Machine{}
	hold(t, m, 5)
	want(t, "same epoch again", m.Assigned(0, 5, true))
	want(t, "other node", m.Assigned(0, 6, false), CloseGate)
	want(t, "note", m.Tick(ms), SendRelease, ClearAddress, RunReleased)

	hold(t, m, 7)
	want(t, "named again", m.Assigned(0, 8, true), CloseGate)
	want(t, "starts over", m.Tick(ms), SendRelease, ClearAddress, RunReleased, RunPreAcquire)
	wantState(t, m, Preparing, 8)
}

func TestNamedWhileLettingGo(t *testing.T) {
	m := &Machine{}
	hold(t, m, 5)
	want(t, "release", m.Release(0), CloseGate)
	want(t, "named", m.Assigned(0, 6, true))
	want(t, "other", m.Assigned(0, 7, false))
	want(t, "note", m.Tick(ms), SendRelease, ClearAddress, RunReleased)
	wantState(t, m, Idle, 0)
}

// Covers A5: the target prepares, says ready, and asks at once when assigned.
func TestPlannedTakeover(t *testing.T) {
	m := &Machine{}
	want(t, "prepare", m.Prepare(5), RunPreAcquire)
	wantState(t, m, Preparing, 5)
	want(t, "order repeated", m.Prepare(5))
	want(t, "hooks", m.HooksDone(0, m.Token(), nil), SetAddress)
	want(t, "address", m.AddressSet(m.Token(), nil))
	wantState(t, m, Ready, 5)
	want(t, "assigned", m.Assigned(0, 9, true), BeginRequests)
	want(t, "granted", m.Granted(9), OpenGate, Announce, RunAcquired)
}

func TestAssignAdoptsAPreparation(t *testing.T) {
	m := &Machine{}
	want(t, "prepare", m.Prepare(5), RunPreAcquire)
	want(t, "assigned", m.Assigned(0, 9, true))
	wantState(t, m, Preparing, 9)
	want(t, "cancel comes late", m.Cancel())
	want(t, "hooks", m.HooksDone(0, m.Token(), nil), SetAddress)
	want(t, "address", m.AddressSet(m.Token(), nil), BeginRequests)
}

func TestCancelAndAssignOfOthersEndAPreparation(t *testing.T) {
	for name, end := range map[string]func(*Machine) []Step{
		"cancel":   func(m *Machine) []Step { return m.Cancel() },
		"assigned": func(m *Machine) []Step { return m.Assigned(0, 9, false) },
		"release":  func(m *Machine) []Step { return m.Release(0) },
	} {
		m := &Machine{}
		m.Prepare(5)
		want(t, name+" in hooks", end(m), RunReleased)
		wantState(t, m, Idle, 0)
		m = &Machine{}
		m.Prepare(5)
		m.HooksDone(0, m.Token(), nil)
		m.AddressSet(m.Token(), nil)
		want(t, name+" when ready", end(m), ClearAddress, RunReleased)
		wantState(t, m, Idle, 0)
	}
}

// Covers A2's other half: what fails says so.
func TestFailuresDecline(t *testing.T) {
	m := &Machine{}
	m.Assigned(0, 5, true)
	want(t, "hooks", m.HooksDone(0, m.Token(), errors.New("no")), RunReleased)
	wantState(t, m, Declined, 5)
	want(t, "next epoch", m.Assigned(0, 6, true), RunPreAcquire)
	m.HooksDone(0, m.Token(), nil)
	want(t, "address", m.AddressSet(m.Token(), errors.New("no")), ClearAddress, RunReleased)
	wantState(t, m, Declined, 6)
	want(t, "told again", m.Prepare(6))
	want(t, "cancel", m.Release(0))
	wantState(t, m, Idle, 0)

	m = &Machine{}
	m.Prepare(5)
	m.HooksDone(0, m.Token(), errors.New("no"))
	wantState(t, m, Declined, 5)
	want(t, "cancel", m.Cancel())
	wantState(t, m, Idle, 0)
}

func TestLateAnswersAreIgnored(t *testing.T) {
	m := &Machine{}
	m.Prepare(5)
	old := m.Token()
	m.Cancel()
	m.Assigned(0, 6, true)
	want(t, "late hooks", m.HooksDone(0, old, nil))
	want(t, "late address", m.AddressSet(old, nil))
	wantState(t, m, Preparing, 6)
}

func TestYieldRunsPreReleaseFirst(t *testing.T) {
	m := &Machine{}
	hold(t, m, 5)
	want(t, "yield", m.Yield(0), RunPreRelease)
	want(t, "asked again", m.Yield(0))
	want(t, "window goes on", m.Granted(5), OpenGate)
	want(t, "hooks failed", m.HooksDone(ms, m.Token(), errors.New("no")), CloseGate)
	want(t, "note", m.Tick(2*ms), SendRelease, ClearAddress, RunReleased)

	hold(t, m, 6)
	m.Yield(0)
	want(t, "lost meanwhile", m.Release(0), CloseGate)
}

// Whatever happens in whatever order: the gate opens only between BeginRequests
// and CloseGate of one epoch, a note follows only a close, an epoch that had a
// note never comes back, and the address goes only when the gate is closed.
func TestOrdersHoldForAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &Machine{}
		var now int64
		var epoch, begun, closedAt uint64
		closedTime := int64(-1)
		open, address := false, false
		released := map[uint64]bool{}
		check := func(steps []Step) {
			for _, s := range steps {
				switch s.Effect {
				case SetAddress:
					address = true
				case BeginRequests:
					if !address || released[s.Epoch] || begun != 0 {
						t.Fatalf("requests of %d begin: address %v, released %v, begun %d", s.Epoch, address, released[s.Epoch], begun)
					}
					begun = s.Epoch
				case OpenGate:
					if begun != s.Epoch {
						t.Fatalf("gate opens under %d, begun %d", s.Epoch, begun)
					}
					open = true
				case CloseGate:
					open, closedAt, closedTime = false, s.Epoch, now
				case SendRelease:
					if open || closedAt != s.Epoch || now < closedTime+ms {
						t.Fatalf("note of %d: open %v, closed %d at %d, now %d", s.Epoch, open, closedAt, closedTime, now)
					}
					released[s.Epoch], begun = true, 0
				case ClearAddress:
					if open || begun != 0 {
						t.Fatal("address removed while holding")
					}
					address = false
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += rapid.Int64Range(0, 2*ms).Draw(t, "pause")
			fail := error(nil)
			if rapid.Bool().Draw(t, "fails") {
				fail = errors.New("no")
			}
			token := m.Token() - rapid.Uint64Range(0, 1).Draw(t, "late")
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				epoch++
				check(m.Assigned(now, epoch, rapid.Bool().Draw(t, "mine")))
			case 1:
				check(m.Prepare(epoch))
			case 2:
				check(m.Cancel())
			case 3:
				check(m.HooksDone(now, token, fail))
			case 4:
				check(m.AddressSet(token, fail))
			case 5:
				check(m.Granted(rapid.Uint64Range(0, epoch).Draw(t, "epoch")))
			case 6:
				check(m.Release(now))
			case 7:
				check(m.Yield(now))
			default:
				check(m.Tick(now))
			}
			if open && !m.Active() {
				t.Fatal("gate open while inactive")
			}
		}
	})
}
