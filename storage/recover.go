package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage/audit"
)

// Recovery (F4) founds a new cluster from a copy. The new set of files is made
// beside the old one, read back, and then takes its place: the file "recovery"
// is the point from which on it will, whatever happens.

// Leap is how far index and revision of a recovered cluster begin behind those
// of its copy: no epoch and no revision that the old cluster may have given
// comes again. It is more than a cluster writes in a year, and leaves room for
// a hundred thousand recoveries below 2^53.
const Leap = 1 << 36

const (
	// fileRecovery holds the label under which the old files are set aside.
	fileRecovery = "recovery"
	stagedSuffix = ".recovered"
	recoveryText = "holdfast recovery 1 "
)

// Events of a recovery in the audit trail.
const (
	EventRecovery  = "recovery"
	CauseRecovered = "recovered"
)

// RecoverOptions are what a recovery has to be told.
type RecoverOptions struct {
	Node  string // name of this node, one of the members
	Label string // what the present files are set aside under
	Actor string
	At    int64 // wall time, ns
	// Lost says what may be lost, for the audit trail.
	Lost string

	segmentBytes int64 // of the log, for tests
}

// Recovered is what a recovery made.
type Recovered struct {
	Old, Cluster [16]byte // ids of the cluster before and now
	RaftID       uint64   // of this node
	Index, Term  uint64   // that the new cluster begins at
	Revision     uint64   // of its buckets
	Aside        []string // files of before
}

// Recover founds a new cluster from a copy that Read gave, whose state it takes
// over: this node is its only voter; the other members come back as new nodes
// (F2). The promise stays: it binds the machine (G2). A power cut leaves the old
// files or the new ones, and OpenData or LockData ends what was begun.
func (l *DataLock) Recover(ctx context.Context, c *Copy, o RecoverOptions) (Recovered, error) {
	out, err := l.recover(ctx, c, o)
	if err != nil {
		return Recovered{}, fmt.Errorf("recover: %w", err)
	}
	return out, nil
}

func (l *DataLock) recover(ctx context.Context, c *Copy, o RecoverOptions) (Recovered, error) {
	state := c.State
	switch {
	case state == nil:
		return Recovered{}, errors.New("nothing in this copy can be used")
	case o.Label == "" || strings.ContainsAny(o.Label, "/ \n"):
		return Recovered{}, fmt.Errorf("label %q", o.Label)
	}
	if _, ok := state.MemberByName(o.Node); !ok {
		return Recovered{}, fmt.Errorf("%s is not a member of the cluster of this copy", o.Node)
	}
	if err := l.labelIsFree(o.Label); err != nil {
		return Recovered{}, err
	}
	if err := removeStaged(l.fs, l.dir); err != nil {
		return Recovered{}, fmt.Errorf("remove what an earlier one left: %w", err)
	}
	c.State = nil
	out, err := l.stage(ctx, c, state, o)
	if err != nil {
		// Room for others; what cannot be removed goes at the next one.
		return Recovered{}, errors.Join(err, removeStaged(l.fs, l.dir))
	}
	if err := l.fs.WriteFile(filepath.Join(l.dir, fileRecovery), []byte(recoveryText+o.Label+"\n"), 0o600); err != nil {
		return Recovered{}, fmt.Errorf("write what is to be done: %w", err)
	}
	if err := finishRecovery(l.fs, l.dir); err != nil {
		return Recovered{}, err
	}
	for _, name := range dataFiles {
		name = filepath.Join(l.dir, name+AsideMark+o.Label)
		if ok, err := vfs.Exists(l.fs, name); err == nil && ok {
			out.Aside = append(out.Aside, name)
		}
	}
	return out, nil
}

func (l *DataLock) labelIsFree(label string) error {
	for _, name := range dataFiles {
		ok, err := vfs.Exists(l.fs, filepath.Join(l.dir, name+AsideMark+label))
		if err != nil {
			return err
		}
		if ok {
			return fmt.Errorf("label %s: %w", label, fs.ErrExist)
		}
	}
	return nil
}

// stage makes the new files beside the old ones, and reads them back.
func (l *DataLock) stage(ctx context.Context, c *Copy, state *State, o RecoverOptions) (Recovered, error) {
	d := newData(l.fs, l.dir, stagedSuffix)
	if err := d.load(); err != nil { // draws the raft id
		return Recovered{}, err
	}
	first, err := state.refounded(o.Node, d.id)
	if err != nil {
		return Recovered{}, err
	}
	out := Recovered{Old: state.cluster, Cluster: first.ID(), RaftID: d.id, Index: c.Last + Leap, Term: c.Term + 1}
	state.refound(first, d.id, out, o)
	out.Revision = state.kv.Rev()
	if err := d.PublishFirst(first, Empty); err != nil {
		return Recovered{}, err
	}
	log, _, _, err := d.OpenLog(LogOptions{SegmentBytes: o.segmentBytes})
	if err != nil {
		return Recovered{}, err
	}
	meta, err := d.snaps.Write(ctx, state.Freeze())
	if err == nil {
		err = log.Install(meta.Raft())()
	}
	if err := errors.Join(err, log.Close()); err != nil {
		return Recovered{}, err
	}
	return out, readStaged(l.fs, l.dir, meta, o.segmentBytes)
}

// readStaged opens the new files as the daemon will.
func readStaged(fsys vfs.FS, dir string, want SnapshotMeta, segmentBytes int64) error {
	d := newData(fsys, dir, stagedSuffix)
	if err := d.load(); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	log, state, _, err := d.OpenLog(LogOptions{SegmentBytes: segmentBytes})
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if state.Hash() != want.Hash || log.Stage() != Used {
		err = fmt.Errorf("read back: state %x, %s: want state %x", state.Hash(), log.Stage(), want.Hash)
	}
	return errors.Join(err, log.Close())
}

// refounded is the first configuration of the new cluster. The raft ids of the
// others are drawn: nobody has them, so each comes back under its own as a new
// node.
func (s *State) refounded(node string, id uint64) (FirstConfig, error) {
	first := FirstConfig{Cluster: s.name, Members: s.Members(), Groups: s.Groups(), Profile: s.profile, Parent: s.cluster}
	for i := range first.Members {
		m := &first.Members[i]
		if m.RaftID = id; m.Name == node {
			continue
		}
		var err error
		if m.RaftID, err = drawRaftID(); err != nil {
			return FirstConfig{}, err
		}
	}
	first = first.Canonical()
	return first, first.Validate()
}

// refound makes the state that of a new cluster at its beginning. Groups keep
// their ids, fences of operators and maintenance stay with the machines;
// assignments do not, so every group is assigned anew.
func (s *State) refound(first FirstConfig, self uint64, r Recovered, o RecoverOptions) {
	invariant.Check(r.Index > s.applied && r.Term > s.term, "recovered at index %d term %d from index %d term %d", r.Index, r.Term, s.applied, s.term)
	fenced, maintained := s.fenced, s.maintained
	s.fenced, s.maintained = map[uint64]Fenced{}, map[uint64]Maintained{}
	now := map[string]uint64{}
	for _, m := range first.Members {
		now[m.Name] = m.RaftID
	}
	for i := range s.members {
		m := &s.members[i]
		if f, ok := fenced[m.RaftID]; ok && f.Operator {
			s.fenced[now[m.Name]] = f
		}
		if f, ok := maintained[m.RaftID]; ok {
			s.maintained[now[m.Name]] = f
		}
		m.RaftID = now[m.Name]
	}
	s.cluster = r.Cluster
	s.conf, s.configIndex = Conf{Voters: []uint64{self}}, r.Index
	s.assigned, s.history = map[uint16]Assignment{}, nil
	last := s.applied
	s.applied, s.term = r.Index, r.Term
	s.kv.Skip(Leap)
	s.trail.Append(audit.Event{
		Index: r.Index, Term: r.Term, At: o.At, Kind: EventRecovery, Actor: o.Actor, Node: o.Node, Cause: CauseRecovered,
		Detail: fmt.Sprintf("cluster %x from a copy of cluster %x up to index %d; %s", r.Cluster, r.Old, last, o.Lost),
	})
}

// finishRecovery ends a recovery that was decided on, if there is one: the old
// files go aside and the new ones take their place. It may be cut short and
// done again at any point: as long as a new file has not its place, what is
// there is the old one.
func finishRecovery(fsys vfs.FS, dir string) error {
	marker := filepath.Join(dir, fileRecovery)
	b, err := vfs.ReadFile(fsys, marker, maxLine)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read unfinished recovery: %w", err)
	}
	label, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), recoveryText)
	if !ok || label == "" {
		return fmt.Errorf("read unfinished recovery: %s holds %q", marker, b)
	}
	for _, name := range dataFiles {
		if err := takePlace(fsys, filepath.Join(dir, name), label); err != nil {
			return fmt.Errorf("finish recovery: %w", err)
		}
	}
	if err := fsys.Remove(marker); err != nil {
		return fmt.Errorf("finish recovery: %w", err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("finish recovery: %w", err)
	}
	return nil
}

// takePlace puts a new file in the place of the old one. The new set has each but
// the mark of a founding, which goes aside.
func takePlace(fsys vfs.FS, name, label string) error {
	staged, err := vfs.Exists(fsys, name+stagedSuffix)
	if err != nil {
		return err
	}
	old, err := vfs.Exists(fsys, name)
	if err != nil {
		return err
	}
	if old && (staged || filepath.Base(name) == fileFounding) {
		if err := fsys.Publish(name, name+AsideMark+label); err != nil {
			return err
		}
	}
	if !staged {
		return nil
	}
	return fsys.Publish(name+stagedSuffix, name)
}

// removeStaged removes new files that were never decided on.
func removeStaged(fsys vfs.FS, dir string) error {
	for _, name := range dataFiles {
		name = filepath.Join(dir, name+stagedSuffix)
		inside, err := fsys.ReadDir(name)
		if err == nil {
			for _, n := range inside {
				if err := fsys.Remove(filepath.Join(name, n)); err != nil {
					return err
				}
			}
		}
		if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fsys.SyncDir(dir)
}
