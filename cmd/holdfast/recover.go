package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/audit"
)

type recoverCmd struct {
	Inspect recoverInspectCmd `cmd:"" help:"Show what can be read of this node's data and of what was set aside; compare the members by it."`
	Found   recoverFoundCmd   `cmd:"" help:"Found a new cluster from the data of this node, when a majority has lost theirs."`
	Rejoin  recoverRejoinCmd  `cmd:"" help:"Set this node's data aside, so that it joins a cluster that was founded anew."`
}

type recoverInspectCmd struct{}

type recoverFoundCmd struct {
	From string `placeholder:"LABEL" help:"Take a set that was set aside, or \"present\" (default: the present data)."`
	Yes  bool   `help:"Do it; without it, only say what would be done and what may be lost."`
}

type recoverRejoinCmd struct {
	Yes bool `help:"Do it; without it, only say what would be done."`
}

// presentLabel names the data that the daemon would use.
const presentLabel = "present"

// copyReport is one set of data files.
type copyReport struct {
	Label    string       `json:"label"`
	Usable   bool         `json:"usable"`
	Cluster  string       `json:"cluster_id"`
	Name     string       `json:"cluster,omitempty"`
	RaftID   string       `json:"raft_id"`
	Voters   []string     `json:"voters"`
	Snapshot uint64       `json:"snapshot"`
	Last     uint64       `json:"last_index"`
	LastTerm uint64       `json:"last_term"`
	Commit   uint64       `json:"commit"`
	Beyond   uint64       `json:"beyond,omitempty"`
	Verdict  string       `json:"verdict"`
	Damage   []string     `json:"damage"`
	Keys     int          `json:"keys"`
	Bytes    int64        `json:"bytes"`
	Revision uint64       `json:"revision"`
	Newest   *audit.Event `json:"newest_event,omitempty"`
}

type inspectReport struct {
	Node   string       `json:"node"`
	Dir    string       `json:"dir"`
	Copies []copyReport `json:"copies"`
}

type foundReport struct {
	Done     bool       `json:"done"`
	Node     string     `json:"node"`
	Copy     copyReport `json:"copy"`
	Lost     []string   `json:"may_be_lost"`
	Cluster  string     `json:"cluster_id,omitempty"` // of the new one
	RaftID   string     `json:"raft_id,omitempty"`
	Index    uint64     `json:"index,omitempty"`
	Revision uint64     `json:"revision,omitempty"`
	Aside    []string   `json:"aside,omitempty"`
}

type rejoinReport struct {
	Done  bool        `json:"done"`
	Node  string      `json:"node"`
	Copy  *copyReport `json:"copy,omitempty"`
	Aside []string    `json:"aside"`
}

// offline is the data of this host while no daemon uses it.
type offline struct {
	*storage.DataLock
	cfg     *config.Config
	runtime *os.File // nil when the directory is not there
	ctx     context.Context
}

// offline locks the data of the configuration. The guard must not run either:
// it would start a worker as soon as the lock is free.
func (a *app) offline() (*offline, error) {
	cfg, err := loadConfig(a.cli.ConfigFile)
	if err != nil {
		return nil, err
	}
	o := &offline{cfg: cfg, ctx: a.ctx}
	switch _, err = os.Stat(cfg.Node.RuntimeDir); {
	case err == nil:
		if o.runtime, err = guard.LockRuntime(cfg.Node.RuntimeDir); err != nil {
			return nil, offlineError(err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, offlineError(err)
	}
	if o.DataLock, err = storage.LockData(vfs.OS, cfg.Node.DataDir); err != nil {
		return nil, offlineError(errors.Join(err, o.closeRuntime()))
	}
	return o, nil
}

func (o *offline) closeRuntime() error {
	if o.runtime == nil {
		return nil
	}
	return o.runtime.Close()
}

func (o *offline) close() error { return errors.Join(o.DataLock.Close(), o.closeRuntime()) }

// offlineError gives what stands in the way its code and hint.
func offlineError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, storage.ErrInUse), errors.Is(err, guard.ErrRunning):
		return &commandError{code: exitRefused, err: err, hint: "stop the daemon of this host first: systemctl stop holdfast"}
	case errors.Is(err, fs.ErrPermission):
		return &commandError{code: exitFailed, err: err, hint: "run it with sudo"}
	case errors.Is(err, storage.ErrNoCopy), errors.Is(err, fs.ErrNotExist):
		return &commandError{code: exitRefused, err: err, hint: "holdfast recover inspect lists what is there; the data_dir is that of --config"}
	case errors.Is(err, storage.ErrUnknownCommand):
		return &commandError{code: exitFailed, err: err, hint: "a newer version wrote it: use that one"}
	}
	return err
}

func (c *recoverInspectCmd) Run(a *app) (err error) {
	o, err := a.offline()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	report := inspectReport{Node: o.cfg.Node.Name, Dir: o.cfg.Node.DataDir, Copies: []copyReport{}}
	labels, err := o.Labels()
	if err != nil {
		return offlineError(err)
	}
	for _, label := range append([]string{""}, labels...) {
		found, err := o.Read(o.ctx, label) // one at a time: each may be large
		if errors.Is(err, storage.ErrNoCopy) {
			continue
		}
		if err != nil {
			return offlineError(err)
		}
		report.Copies = append(report.Copies, describeCopy(found))
	}
	return a.show(report, "%s", inspectText(report))
}

func describeCopy(c *storage.Copy) copyReport {
	r := copyReport{
		Label: cmp.Or(c.Label, presentLabel), Usable: c.State != nil, Cluster: hex.EncodeToString(c.Cluster[:]),
		RaftID: fmt.Sprintf("%016x", c.RaftID), Snapshot: c.Snapshot, Last: c.Last, LastTerm: c.LastTerm, Commit: c.Commit, Beyond: c.Beyond,
		Verdict: verdictText(c), Damage: append([]string{}, c.Damage...), Voters: []string{},
	}
	if c.State == nil {
		return r
	}
	view := c.State.Buckets().View()
	r.Name, r.Keys, r.Bytes, r.Revision = c.State.Name(), view.Keys(), view.Bytes(), view.Rev()
	conf, _ := c.State.Conf()
	for _, id := range conf.Voters {
		name := fmt.Sprintf("%016x", id)
		if m, ok := c.State.MemberByID(id); ok {
			name = m.Name
		}
		r.Voters = append(r.Voters, name)
	}
	slices.Sort(r.Voters)
	if last := c.State.Trail().Last("", 1); len(last) > 0 {
		r.Newest = &last[0]
	}
	return r
}

// verdictText is one word for a copy: worse than that of its log when something
// else is damaged.
func verdictText(c *storage.Copy) string {
	switch {
	case len(c.Damage) > 0:
		return "corrupt"
	case c.Verdict == 0:
		return "empty"
	}
	return strings.ToLower(c.Verdict.String())
}

func inspectText(r inspectReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "data of %s in %s\n", r.Node, r.Dir)
	if len(r.Copies) == 0 {
		b.WriteString("nothing: this node was never in a cluster, or its data are gone\n")
	}
	for i := range r.Copies {
		b.WriteString("\n" + copyText(&r.Copies[i]))
	}
	return b.String()
}

func copyText(c *copyReport) string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s"+format+"\n", append([]any{key}, args...)...)
	}
	line("copy", "%s  %s", c.Label, c.Verdict)
	line("cluster", "%s", strings.TrimSpace(c.Cluster+"  "+c.Name))
	line("raft id", "%s", c.RaftID)
	if c.Usable {
		line("readable", "to index %d term %d, snapshot %d, %s", c.Last, c.LastTerm, c.Snapshot, knownText(c))
		line("data", "%s, %s, revision %d", count(c.Keys, "key", "keys"), bytesText(c.Bytes), c.Revision)
		line("voters", "%s", strings.Join(c.Voters, ", "))
	}
	if c.Newest != nil {
		line("event", "%s", strings.TrimSpace(eventText(*c.Newest)))
	}
	for _, d := range c.Damage {
		line("damage", "%s", printable(oneLine(d)))
	}
	return b.String()
}

func knownText(c *copyReport) string {
	if c.Commit >= c.Last {
		return fmt.Sprintf("known to be committed to %d", c.Commit)
	}
	return fmt.Sprintf("known to be committed to %d, %s behind that not proved", c.Commit, count(int(c.Last-c.Commit), "entry", "entries"))
}

// losses says what a cluster that goes on from a copy may lack or have too much.
func losses(c *copyReport) []string {
	out := []string{fmt.Sprintf("whatever other members have acknowledged behind index %d term %d: compare them all with recover inspect", c.Last, c.LastTerm)}
	if c.Commit > c.Last {
		out = append(out, fmt.Sprintf("entries %d to %d for certain: they were committed and cannot be read here", c.Last+1, c.Commit))
	}
	if c.Beyond > c.Last {
		out = append(out, fmt.Sprintf("entries up to %d that are on disk behind damage, with a gap before them", c.Beyond))
	}
	if c.Last > c.Commit {
		out = append(out, fmt.Sprintf("not lost, and not proved either: entries %d to %d are kept, in which writes may be whose callers got an error or no answer", c.Commit+1, c.Last))
	}
	return out
}

const (
	stopHint = "every other member must be stopped, or its data set aside (holdfast recover rejoin): this node cannot know them. " +
		"An old majority that still runs, or comes back, is another cluster that holds the same address"
	usualNext = "start this node, then on each other member: holdfast recover rejoin --yes, and start it"
)

func (c *recoverFoundCmd) Run(a *app) (err error) {
	o, err := a.offline()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	found, err := c.choose(o)
	if err != nil {
		return err
	}
	plan := foundReport{Node: o.cfg.Node.Name, Copy: describeCopy(found)}
	plan.Lost = losses(&plan.Copy)
	if err := mayFound(o.cfg, found); err != nil {
		return err
	}
	if !c.Yes {
		if err := a.show(plan, "%s", planText(&plan)); err != nil {
			return err
		}
		return a.notDone("recover found", c.From)
	}
	done, err := o.Recover(o.ctx, found, storage.RecoverOptions{
		Node: plan.Node, Label: asideLabel(), Actor: actor(), At: time.Now().UnixNano(), Lost: "may be lost: " + strings.Join(plan.Lost, "; "),
	})
	if err != nil {
		return offlineError(err)
	}
	plan.Done, plan.Aside, plan.Index, plan.Revision = true, done.Aside, done.Index, done.Revision
	plan.Cluster, plan.RaftID = hex.EncodeToString(done.Cluster[:]), fmt.Sprintf("%016x", done.RaftID)
	return a.show(plan, "%s", doneText(&plan))
}

// choose reads the copy to go on from. What is there must not be passed over
// for something that has less.
func (c *recoverFoundCmd) choose(o *offline) (*storage.Copy, error) {
	label := c.From
	if label == presentLabel {
		label = ""
	}
	labels, err := o.Labels()
	if err != nil {
		return nil, offlineError(err)
	}
	best := ""
	if c.From == "" {
		if best, err = further(o, labels); err != nil {
			return nil, err
		}
	}
	if best != "" {
		return nil, &commandError{
			code: exitRefused, err: fmt.Errorf("the set %s, which was set aside, goes further than the present data", best),
			hint: fmt.Sprintf("compare them with recover inspect, then name one: --from %s or --from %s", best, presentLabel),
		}
	}
	found, err := o.Read(o.ctx, label)
	return found, offlineError(err)
}

// further names the set that has more than the present data, "" for none. Only
// sets of the same cluster can be compared, but an empty log is less than any.
func further(o *offline, labels []string) (best string, err error) {
	if len(labels) == 0 {
		return "", nil
	}
	var last, term uint64
	present, err := o.Read(o.ctx, "")
	switch {
	case errors.Is(err, storage.ErrNoCopy):
		present = &storage.Copy{}
	case err != nil:
		return "", offlineError(err)
	}
	last, term = present.Last, present.LastTerm
	empty := last <= storage.FirstIndex
	present.State = nil // each may be large
	for _, label := range labels {
		other, err := o.Read(o.ctx, label)
		if errors.Is(err, storage.ErrNoCopy) {
			continue
		}
		if err != nil {
			return "", offlineError(err)
		}
		if other.Last <= storage.FirstIndex || !empty && other.Cluster != present.Cluster {
			continue
		}
		if other.LastTerm > term || other.LastTerm == term && other.Last > last {
			best, last, term = label, other.Last, other.LastTerm
		}
	}
	return best, nil
}

// mayFound says what speaks against a copy.
func mayFound(cfg *config.Config, c *storage.Copy) error {
	refuse := func(hint, format string, args ...any) error {
		return &commandError{code: exitRefused, err: fmt.Errorf(format, args...), hint: hint}
	}
	if c.State == nil {
		return refuse("use another member's, or another set of this one", "nothing of this copy can be used: %s", strings.Join(c.Damage, "; "))
	}
	self, ok := c.State.MemberByName(cfg.Node.Name)
	switch {
	case !ok:
		return refuse("found the cluster on one of its members", "%s is not a member of the cluster of this copy", cfg.Node.Name)
	case self.PublicKey != [32]byte(cfg.Self().PublicKey):
		return refuse("use the key that it had, or found the cluster on another member", "the copy knows %s under another key than the file has", cfg.Node.Name)
	case c.Last <= storage.FirstIndex && c.Beyond == 0 && len(c.Damage) == 0:
		return refuse("name a set that holds more: holdfast recover inspect", "this copy holds nothing but the founding")
	}
	return nil
}

// notDone ends a command that only said what it would do.
func (a *app) notDone(command, from string) error {
	again := "holdfast " + command + " -c " + a.cli.ConfigFile
	if from != "" {
		again += " --from " + from
	}
	return &commandError{code: exitUsage, err: errors.New(command + ": nothing was done, --yes is missing"), hint: again + " --yes"}
}

func planText(r *foundReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "would found a new cluster on %s from\n\n%s\nmay be lost:\n", r.Node, copyText(&r.Copy))
	writeList(&b, r.Lost)
	b.WriteString("\nbefore:\n")
	writeList(&b, []string{stopHint, "this must be the best copy of all: nobody merges two"})
	b.WriteString("\nafter:\n")
	writeList(&b, []string{usualNext})
	return b.String()
}

func doneText(r *foundReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster %s founded on %s, index %d, revision %d\n", r.Cluster, r.Node, r.Index, r.Revision)
	for _, name := range r.Aside {
		fmt.Fprintf(&b, "kept as evidence: %s\n", name)
	}
	b.WriteString("may be lost:\n")
	writeList(&b, r.Lost)
	b.WriteString("next:\n")
	writeList(&b, []string{stopHint, usualNext})
	return b.String()
}

func writeList(b *strings.Builder, items []string) {
	for _, i := range items {
		b.WriteString("  - " + i + "\n")
	}
}

func asideLabel() string { return time.Now().UTC().Format("20060102T150405.000Z") }

func actor() string { return fmt.Sprintf("uid %d pid %d", os.Getuid(), os.Getpid()) }

func (c *recoverRejoinCmd) Run(a *app) (err error) {
	o, err := a.offline()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	report, err := giveUp(o)
	if err != nil {
		return err
	}
	if !c.Yes && len(report.Aside) > 0 {
		if err := a.show(report, "%s", rejoinText(report)); err != nil {
			return err
		}
		return a.notDone("recover rejoin", "")
	}
	moved, err := o.SetAside(asideLabel())
	if err != nil {
		return offlineError(err)
	}
	report.Done, report.Aside = true, append([]string{}, moved...)
	return a.show(report, "%s", rejoinText(report))
}

// giveUp says what would be set aside, and refuses where that would end a
// cluster.
func giveUp(o *offline) (report rejoinReport, err error) {
	report = rejoinReport{Node: o.cfg.Node.Name, Aside: []string{}}
	for _, name := range []string{"raft-id", "first-config", "wal", "snap"} {
		if _, err := os.Lstat(filepath.Join(o.cfg.Node.DataDir, name)); err == nil {
			report.Aside = append(report.Aside, filepath.Join(o.cfg.Node.DataDir, name))
		}
	}
	found, err := o.Read(o.ctx, "")
	if errors.Is(err, storage.ErrNoCopy) || errors.Is(err, storage.ErrUnknownCommand) {
		return report, nil // whatever it is, it can be set aside
	}
	if err != nil {
		return report, offlineError(err)
	}
	described := describeCopy(found)
	report.Copy = &described
	if len(found.Damage) == 0 && slices.Equal(described.Voters, []string{report.Node}) {
		return report, &commandError{
			code: exitRefused, err: fmt.Errorf("%s is the only voter of its cluster: without its data nothing is left of it", report.Node),
			hint: "rejoin is for the members that are to join it: start this one",
		}
	}
	return report, nil
}

func rejoinText(r rejoinReport) string {
	var b strings.Builder
	switch {
	case len(r.Aside) == 0:
		fmt.Fprintf(&b, "%s has no data to set aside: start it, and it joins\n", r.Node)
		return b.String()
	case r.Done:
		fmt.Fprintf(&b, "%s gives up its data; start it, and it joins the cluster as a new node\n", r.Node)
	default:
		fmt.Fprintf(&b, "%s would give up its data, which stay as evidence, and join as a new node\n", r.Node)
	}
	if !r.Done && r.Copy != nil {
		b.WriteString("\n" + copyText(r.Copy))
	}
	for _, name := range r.Aside {
		fmt.Fprintf(&b, "%s %s\n", map[bool]string{true: "kept as evidence:", false: "to be set aside:"}[r.Done], name)
	}
	return b.String()
}
