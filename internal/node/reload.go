package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage"
)

// goodName is the file in the runtime directory that holds the last
// configuration that was applied: a worker that starts again reads it, so that
// a typo made meanwhile stops nothing.
const goodName = "holdfast.toml.good"

// keepGood stores the text of a configuration that is being applied.
func keepGood(c *config.Config, source string) (string, error) {
	text, err := os.ReadFile(source)
	if err != nil {
		return "", fmt.Errorf("read configuration: %w", err)
	}
	// What is kept must be what can be used again, even if the file was edited
	// a moment ago.
	if _, err := config.Parse(source, text); err != nil {
		return "", err
	}
	good := filepath.Join(c.Node.RuntimeDir, goodName)
	if err := vfs.OS.WriteFile(good, text, 0o600); err != nil {
		return "", fmt.Errorf("keep configuration: %w", err)
	}
	return good, nil
}

// Reload reads the file again, refuses it whole when anything in it cannot be
// changed while running, and applies the rest without touching a lease.
func (b backend) Reload(ctx context.Context) (control.ReloadResult, error) {
	w := b.w
	next, err := config.Load(w.source)
	if err != nil {
		var problems config.Problems
		if errors.As(err, &problems) {
			return control.ReloadResult{}, &control.Error{Code: control.Invalid, Message: err.Error(), Hint: "the configuration in force is kept; holdfast config check " + w.source}
		}
		return control.ReloadResult{}, &control.Error{Code: control.Invalid, Message: err.Error(), Hint: "the configuration in force is kept"}
	}
	who := actor(ctx, w.selfName)
	a, err := await(ctx, w, errBusy, errStopping, func(now int64, answer func(reloadAnswer, *control.Error)) {
		w.applyConfig(now, who, next, func(a reloadAnswer) { answer(a, nil) })
	})
	if err != nil {
		return control.ReloadResult{}, err
	}
	return a.result, a.err
}

type reloadAnswer struct {
	result control.ReloadResult
	err    error
}

// reloadByGuard is a reload asked for by SIGHUP; nobody waits for the answer.
func (w *worker) reloadByGuard() {
	w.background(func() {
		r, err := backend{w}.Reload(w.stopCtx)
		if err != nil {
			w.log.Error("configuration not reloaded, the one in force is kept", "error", err)
			return
		}
		w.log.Info("configuration reloaded", "changes", fmt.Sprintf("%+v", r.Changes))
	})
}

// applyConfig applies what changed, in the loop.
func (w *worker) applyConfig(now int64, who string, next *config.Config, done func(reloadAnswer)) {
	changes := config.Diff(w.cfg, next)
	var result control.ReloadResult
	for _, c := range changes {
		result.Changes = append(result.Changes, control.Change{Key: c.Key, Old: c.Old, New: c.New, Live: c.Live, Why: c.Why})
	}
	if refused := config.Refused(changes); len(refused) > 0 {
		c := refused[0]
		done(reloadAnswer{err: &control.Error{
			Code: control.PreconditionFailed, Message: fmt.Sprintf("%s cannot change while running (%d such changes): it %s", c.Key, len(refused), c.Why),
			Hint: "the configuration in force is kept",
		}})
		return
	}
	finish := func(now int64) {
		if err := w.useConfig(now, next); err != nil {
			done(reloadAnswer{err: err})
			return
		}
		if len(changes) > 0 {
			w.recordEventOf(cmp.Or(who, "SIGHUP on "+w.selfName), storage.Record{Kind: "operator", Node: w.selfName, Cause: "reload", Detail: keysOf(changes)})
		}
		done(reloadAnswer{result: result})
	}
	groups := w.changedGroups(next)
	if w.raft == nil || groupsEqual(groups, w.state.Groups()) {
		finish(now)
		return
	}
	// Which address is in which group is committed state (F1a), so that one
	// address is never in two.
	before := w.cfg
	w.cfg = withVIPs(w.cfg, next) // the interfaces of new addresses must be known when they are applied
	w.ask(now, opGroups, who, groups, func(now int64, r reply) {
		if r.Error != nil {
			w.cfg = before
			done(reloadAnswer{err: r.Error})
			return
		}
		finish(now)
	})
}

// keysOf names what changed, without values: some are secrets of their owners.
func keysOf(changes []config.Change) string {
	keys := make([]string, 0, len(changes))
	for _, c := range changes {
		keys = append(keys, c.Key)
	}
	return strings.Join(keys, " ")
}

// withVIPs is old with the addresses of both.
func withVIPs(old, next *config.Config) *config.Config {
	c := *old
	c.VIPs = slices.Clone(next.VIPs)
	for _, v := range old.VIPs {
		if !slices.ContainsFunc(c.VIPs, func(o config.VIP) bool { return o.Address == v.Address }) {
			c.VIPs = append(c.VIPs, v)
		}
	}
	return &c
}

// changedGroups are the committed groups with the difference between the file
// in force and the next one: what other members have added stays, although
// this node's file does not list it yet.
func (w *worker) changedGroups(next *config.Config) []storage.Group {
	if w.state == nil {
		return committedGroups(next)
	}
	listed := func(c *config.Config, a netip.Prefix) bool {
		return slices.ContainsFunc(c.VIPs, func(v config.VIP) bool { return v.Address == a })
	}
	groups := w.state.Groups()
	for i := range groups {
		groups[i].VIPs = slices.DeleteFunc(groups[i].VIPs, func(v storage.VIP) bool {
			return listed(w.cfg, v.Prefix) && !listed(next, v.Prefix)
		})
	}
	for _, g := range committedGroups(next) {
		i := slices.IndexFunc(groups, func(o storage.Group) bool { return o.Name == g.Name })
		if i < 0 {
			groups = append(groups, storage.Group{Name: g.Name})
			i = len(groups) - 1
		}
		for _, v := range g.VIPs {
			known := slices.ContainsFunc(groups, func(o storage.Group) bool {
				return slices.ContainsFunc(o.VIPs, func(c storage.VIP) bool { return c.Prefix == v.Prefix })
			})
			if !known && !listed(w.cfg, v.Prefix) {
				groups[i].VIPs = append(groups[i].VIPs, v)
			}
		}
	}
	return slices.DeleteFunc(groups, func(g storage.Group) bool { return len(g.VIPs) == 0 })
}

// groupsEqual compares what groups contain, in whatever order.
func groupsEqual(a, b []storage.Group) bool { return slices.Equal(groupLines(a), groupLines(b)) }

// groupLines are the contents of groups, one line an address, sorted.
func groupLines(groups []storage.Group) []string {
	var lines []string
	for _, g := range groups {
		for _, v := range g.VIPs {
			lines = append(lines, fmt.Sprintf("%s %v %v", g.Name, v.Prefix, v.Scope))
		}
	}
	slices.Sort(lines)
	return lines
}

// useConfig makes next the configuration in force.
func (w *worker) useConfig(now int64, next *config.Config) error {
	if _, err := keepGood(next, w.source); err != nil {
		return err
	}
	if err := w.useMembers(next); err != nil {
		return err
	}
	old := w.cfg
	w.cfg = next
	w.updateHello()
	w.bucketsChanged()
	if w.level != nil {
		w.level.Set(next.Log.Level)
	}
	w.hooks.SetHooks(hooksOf(next))
	if w.raft != nil {
		w.tracker.SetConfig(w.placementConfig())
		w.placementNews = true
		w.placeVIPs()
	}
	if old.Status.Listen != next.Status.Listen {
		if err := w.reopenStatus(next.Status.Listen); err != nil {
			return fmt.Errorf("status port: %w", err)
		}
	}
	w.log.Info("configuration in force", "file", w.source)
	return nil
}

// useMembers reaches the members that the new file lists. Who belongs to the
// cluster is committed state, which no file changes.
func (w *worker) useMembers(next *config.Config) error {
	if reflect.DeepEqual(w.cfg.Members, next.Members) {
		return nil
	}
	if err := w.mesh.SetMembers(meshMembers(next)); err != nil {
		return fmt.Errorf("change members: %w", err)
	}
	listed := map[string]bool{}
	for _, m := range next.Members {
		listed[m.Name] = true
		if m.Name == w.selfName {
			continue
		}
		p := w.peers[m.Name]
		if p == nil || p.member.PublicKey != m.PublicKey {
			p = &peer{} // another machine
			w.peers[m.Name] = p
		}
		p.member = m
		if w.state != nil {
			if c, ok := w.state.MemberByName(m.Name); ok {
				p.raftID = c.RaftID
			}
		}
	}
	for name := range w.peers {
		if !listed[name] {
			delete(w.peers, name)
		}
	}
	return nil
}
