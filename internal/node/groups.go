package node

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/hooks"
	"github.com/holdfast-ha/holdfast/internal/lease"
	"github.com/holdfast-ha/holdfast/internal/placement"
	"github.com/holdfast-ha/holdfast/internal/tenure"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/vip"
)

// group is a VIP group on this node: its tenure, and what carries it out.
type group struct {
	id   uint16
	name string
	vips []config.VIP // with the interfaces of this node

	tenure   tenure.Machine
	applied  uint64 // epoch
	schedule *vip.Schedule
	// heldSince is when the gate was first opened under this epoch, or the end
	// of the last stall: the instant from which deafness is counted (A2).
	heldSince int64
	deadline  int64 // as written to the gate
	fault     string
	// declinedAt is since when this node says that it declined, 0 = it does not.
	declinedAt int64
	cause      string // of the present tenure, for hooks
	// why is why the group is being let go of, for the audit trail.
	why, whyDetail string
}

// next is when the group has something to do.
func (g *group) next(now int64) int64 {
	next := g.tenure.Next()
	if g.schedule != nil && now < g.deadline { // a closed gate lets no announcement out
		if t := g.schedule.Next(); next == 0 || t < next {
			next = t
		}
	}
	return next
}

// groupsTurn carries on with what is due, and releases what must not be held
// any longer.
func (w *worker) groupsTurn(now int64) {
	w.leavingTurn(now)
	for _, g := range w.groups {
		w.carryOut(now, g, g.tenure.Tick(now))
		if f, ok := w.addressFault[g.id]; ok && now-f.at > int64(faultMemory) {
			delete(w.addressFault, g.id) // it is tried again when it is wanted again
		}
		state, epoch := g.tenure.State()
		g.fault = w.faultOf(g)
		switch {
		case state == tenure.Holding && g.fault != "":
			w.log.Error("releasing: holding has become impossible", "group", g.name, "epoch", epoch, "reason", g.fault)
			w.noteHook(g, hooks.Unhealthy, epoch)
			if w.gateLost != "" {
				w.clearUngated(g)
			}
			w.release(now, g, "impossible", g.fault)
		case state == tenure.Holding && w.deaf(now, g):
			w.log.Error("releasing: no majority has acknowledged for a promise", "group", g.name, "epoch", epoch)
			w.release(now, g, "deaf", "no majority has acknowledged for a promise")
		}
		if w.gateLost != "" && state != tenure.Holding && g.tenure.Active() {
			w.clearUngated(g)
			w.carryOut(now, g, g.tenure.Release(now))
		}
		w.forgetDeclined(now, g, state)
		if state == tenure.Holding && g.schedule != nil && now < g.deadline && g.schedule.Due(now) {
			w.announce(g)
		}
	}
}

// declinedMemory is how long a node goes on saying that it declined: as long as
// it is held down at least (A2). After that it may be asked again.
const declinedMemory = 10 * time.Second

func (w *worker) forgetDeclined(now int64, g *group, state tenure.State) {
	switch {
	case state != tenure.Declined:
		g.declinedAt = 0
	case g.declinedAt == 0:
		g.declinedAt = now
		w.recordEvent(storage.Record{Kind: "declined", Node: w.selfName, Group: g.name, Epoch: g.applied, Cause: "declined", Detail: g.fault})
	case now-g.declinedAt > int64(declinedMemory):
		w.carryOut(now, g, g.tenure.Release(now))
	}
}

// leavingTurn finishes the release of groups that the cluster has no more; the
// gate forgets their addresses only when they are off the interface.
func (w *worker) leavingTurn(now int64) {
	if len(w.leaving) == 0 {
		return
	}
	w.leaving = slices.DeleteFunc(w.leaving, func(g *group) bool {
		w.carryOut(now, g, g.tenure.Tick(now))
		return !g.tenure.Active()
	})
	if len(w.leaving) == 0 {
		w.placeVIPs()
	}
}

// deaf is A2: nothing that a majority acknowledged was sent within P.
func (w *worker) deaf(now int64, g *group) bool {
	last := max(w.holder.AckedByMajoritySince(g.id), g.heldSince)
	if win, ok := w.holder.Window(g.id); ok {
		// A voter that has just become one has acknowledged nothing yet; the
		// majority of before has.
		last = max(last, win.Sent)
	}
	return now-last > int64(w.timing.Promise)
}

// faultOf names what makes holding impossible (A4), or "".
func (w *worker) faultOf(g *group) string {
	if w.gateLost != "" {
		return "gate not attached: " + w.gateLost
	}
	if len(g.vips) > 0 && !slices.ContainsFunc(g.vips, func(v config.VIP) bool { return v.Interface != "" }) {
		return errNoInterfaceListed.Error()
	}
	for _, v := range g.vips {
		if v.Interface == "" {
			continue // a condition says so; the group's other addresses stay
		}
		info, err := w.ifaces.get(v.Interface)
		switch {
		case err != nil:
			return err.Error()
		case !info.Up:
			return fmt.Sprintf("interface %s is down", v.Interface)
		case !info.Carrier:
			return fmt.Sprintf("interface %s has no carrier", v.Interface)
		}
	}
	return w.addressFault[g.id].text
}

// carryOut executes the steps of a tenure in their order.
func (w *worker) carryOut(now int64, g *group, steps []tenure.Step) {
	for _, s := range steps {
		w.log.Debug("tenure step", "group", g.name, "epoch", s.Epoch, "step", s.Effect.String())
		switch s.Effect {
		case tenure.RunPreAcquire:
			w.runTenureHook(now, g, hooks.PreAcquire, s.Epoch)
		case tenure.RunPreRelease:
			w.runTenureHook(now, g, hooks.PreRelease, s.Epoch)
		case tenure.SetAddress:
			token := g.tenure.Token()
			if fault := w.faultOf(g); fault != "" {
				// No address goes on an interface without its gate, and none
				// is prepared that could not be held.
				w.log.Error("addresses not set", "group", g.name, "reason", fault)
				w.carryOut(now, g, g.tenure.AddressSet(token, errCannotHold))
				w.beatNow = true
				continue
			}
			w.setAddresses(g, func(now int64, err error) {
				w.carryOut(now, g, g.tenure.AddressSet(token, err))
				w.beatNow = true
			})
		case tenure.BeginRequests:
			w.beginRequests(now, g, s.Epoch)
		case tenure.OpenGate:
			w.openGate(g)
		case tenure.Announce:
			g.schedule = w.newSchedule(now, g)
			g.heldSince = now
			if g.schedule.Due(now) {
				w.announce(g)
			}
			w.beatNow = true
		case tenure.RunAcquired:
			w.noteHook(g, hooks.Acquired, s.Epoch)
		case tenure.CloseGate:
			w.closeGate(g)
			g.tenure.Closed(w.clk.Boottime())
		case tenure.SendRelease:
			w.sendRelease(now, g, s.Epoch)
		case tenure.ClearAddress:
			w.clearAddresses(g)
		case tenure.RunReleased:
			w.noteHook(g, hooks.Released, s.Epoch)
		}
	}
}

// beginRequests starts to ask for an epoch, unless the guard could not speak
// for us yet (G5).
func (w *worker) beginRequests(now int64, g *group, epoch uint64) {
	if err := w.holder.Begin(g.id, epoch); err != nil {
		w.log.Error("epoch cannot be held", "group", g.name, "epoch", epoch, "error", err)
		w.release(now, g, "epoch-refused", err.Error())
		return
	}
	w.beatNow = true
}

// openGate moves the gate's deadline to what a majority has granted. The
// kernel compares the deadline with its own clock, so a late write opens
// nothing.
func (w *worker) openGate(g *group) {
	win, ok := w.holder.Window(g.id)
	if !ok || win.Deadline <= g.deadline || w.exit != nil {
		return
	}
	if err := w.gate.Open(g.id, win.Deadline, win.Sent); err != nil {
		w.fail(fmt.Errorf("open gate of %s: %w", g.name, err))
		return
	}
	g.deadline = win.Deadline
}

// closeGate must not return with the gate open: a failure ends the worker, and
// the guard closes.
func (w *worker) closeGate(g *group) {
	g.schedule, g.deadline = nil, 0
	if err := w.gate.CloseGroup(g.id); err != nil {
		w.fail(fmt.Errorf("close gate of %s: %w", g.name, err))
	}
}

// release lets go of a group and says why in the audit trail.
func (w *worker) release(now int64, g *group, why, detail string) {
	g.why, g.whyDetail = why, detail
	w.carryOut(now, g, g.tenure.Release(now))
}

// sendRelease signs and spreads the note (G5); the gate was closed and read
// back a NoteDelay ago.
func (w *worker) sendRelease(now int64, g *group, epoch uint64) {
	if w.exitError() != nil {
		return // the gate could not be closed: nothing may say that it was
	}
	if e, ok := w.holder.Release(g.id); !ok || e != epoch {
		return // never asked for
	}
	note := lease.Note{
		Kind: lease.Release, Cluster: w.notes.cluster, Node: w.rid, Incarnation: w.inc,
		Group: g.id, Epoch: epoch,
	}
	raw := note.Sign(w.key)
	w.notes.put(now, raw, note)
	w.mesh.SendNote(raw[:])
	w.log.Info("released", "group", g.name, "epoch", epoch)
	w.recordEvent(storage.Record{Kind: "release", Node: w.selfName, Group: g.name, Epoch: epoch, Cause: cmp.Or(g.why, "superseded"), Detail: g.whyDetail})
	g.why, g.whyDetail = "", ""
	w.learn(now, note)
	w.beatNow = true
}

// newSchedule: a holder that was silent may be a virtual machine on pause, and
// is to see our announcement when it resumes (DESIGN 3).
func (w *worker) newSchedule(now int64, g *group) *vip.Schedule {
	repeat := time.Duration(0)
	if g.cause == string(placement.CauseLeaseExpired) {
		repeat = 2 * w.timing.Promise
	}
	return vip.NewSchedule(now, vip.ScheduleOptions{Repeat: repeat})
}

// runTenureHook runs hooks whose answer the tenure waits for.
func (w *worker) runTenureHook(now int64, g *group, phase hooks.Phase, epoch uint64) {
	token := g.tenure.Token()
	answer := func(now int64, err error) {
		w.carryOut(now, g, g.tenure.HooksDone(now, token, err))
		w.beatNow = true
	}
	queued, err := w.runHook(g, phase, epoch, func(err error) {
		w.mustPost(func(now int64) { answer(now, err) })
	})
	if !queued {
		answer(now, err)
	}
}

func (w *worker) runHook(g *group, phase hooks.Phase, epoch uint64, done func(error)) (bool, error) {
	var vips []string
	for _, v := range g.vips {
		vips = append(vips, v.Address.String())
	}
	return w.hooks.Run(hooks.Event{
		Phase: phase, Group: g.name, Epoch: epoch, Node: w.cfg.Node.Name, Cause: g.cause, VIPs: vips,
	}, done)
}

// noteHook runs hooks that nothing waits for.
func (w *worker) noteHook(g *group, phase hooks.Phase, epoch uint64) {
	if _, err := w.runHook(g, phase, epoch, nil); err != nil {
		w.log.Error("hooks not run", "phase", phase, "group", g.name, "error", err)
	}
}

// releaseAll lets go of every group and sends the notes: it waits for the note
// delay itself, because the loop will not turn again.
func (w *worker) releaseAll(now int64, why string) {
	var waiting []*group
	for _, g := range w.groups {
		if w.gateLost != "" && g.tenure.Active() {
			w.clearUngated(g)
		}
		g.why, g.whyDetail = "stop", why
		steps := g.tenure.Release(now)
		if len(steps) > 0 {
			w.log.Warn("releasing", "group", g.name, "reason", why)
		}
		w.carryOut(now, g, steps)
		if g.tenure.Next() != 0 {
			waiting = append(waiting, g)
		}
	}
	if len(waiting) == 0 {
		return
	}
	w.host.Sleep(2 * tenure.NoteDelay)
	for _, g := range waiting {
		w.carryOut(w.clk.Boottime(), g, g.tenure.Tick(w.clk.Boottime()))
	}
}

// groupByName finds a group of the committed state.
func (w *worker) groupByName(name string) (*group, bool) {
	i := slices.IndexFunc(w.groups, func(g *group) bool { return g.name == name })
	if i < 0 {
		return nil, false
	}
	return w.groups[i], true
}

func (w *worker) groupNames() string {
	var names []string
	for _, g := range w.groups {
		names = append(names, g.name)
	}
	return strings.Join(names, ", ")
}

func (w *worker) groupByID(id uint16) *group {
	for _, g := range w.groups {
		if g.id == id {
			return g
		}
	}
	return nil
}
