package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Cluster is a set of Holdfast members, one for each gateway and witness of a
// lab. Its methods start, stop, watch and break them.
type Cluster struct {
	lab     *Lab
	options ClusterOptions
	binary  string
	members []*member
}

// member is one node's installation.
type member struct {
	node   *Node
	dir    string
	disk   int64 // bytes of a disk of its own, 0 = none
	public string

	mu     sync.Mutex
	proc   *Proc // of the last start, the guard
	starts int
}

const (
	stopLimit  = 20 * time.Second // of a graceful stop
	killLimit  = 10 * time.Second // of the kernel's part of a SIGKILL
	hangLimit  = 2 * time.Second  // of the kernel's part of a SIGSTOP
	socketPath = 107              // bytes that a control socket's path may have
)

// publicKey finds the public key in what keygen prints: 32 bytes in base64.
var publicKey = regexp.MustCompile(`[A-Za-z0-9+/]{43}=`)

// NewCluster makes directories, keys and configuration files for the gateways
// and witnesses of the lab, or for those that the options name. It starts
// nothing. A lab has one cluster at most.
func (l *Lab) NewCluster(o ClusterOptions) (*Cluster, error) {
	o.fill()
	c := &Cluster{lab: l, options: o, binary: o.Binary}
	if c.binary == "" {
		var err error
		if c.binary, err = Binary(); err != nil {
			return nil, err
		}
	}
	for _, n := range l.Members() {
		if len(o.Found) > 0 && !slices.Contains(o.Found, n.Name) {
			continue
		}
		m := c.newMember(n)
		c.members = append(c.members, m)
		if err := c.install(m); err != nil {
			return nil, fmt.Errorf("install %s: %w", n.Name, err)
		}
	}
	for _, m := range c.members { // every file names every key
		if err := c.WriteConfig(m.node.Name, nil); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) newMember(n *Node) *member {
	return &member{node: n, dir: filepath.Join(c.lab.Dir, n.Name), disk: c.options.Disks[n.Name]}
}

func (c *Cluster) install(m *member) error {
	if len(m.socket()) > socketPath {
		return fmt.Errorf("path %s is longer than a socket's path may be (%d bytes)", m.socket(), socketPath)
	}
	if m.disk != 0 {
		if err := c.mountDisk(m); err != nil {
			return err
		}
	}
	for _, dir := range []string{m.dataDir(), m.runtimeDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	hook := fmt.Sprintf("#!/bin/sh\n# Fails while the file exists.\n[ ! -e '%s' ]\n", m.failFile())
	if err := os.WriteFile(m.hookFile(), []byte(hook), 0o700); err != nil {
		return fmt.Errorf("write hook: %w", err)
	}
	return c.makeKey(m)
}

// makeKey makes the key of a member, which has none.
func (c *Cluster) makeKey(m *member) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	out, err := c.run(ctx, m, "keygen", "-o", m.keyFile())
	if err != nil {
		return err
	}
	m.public = publicKey.FindString(out.Stdout)
	if out.Code != 0 || m.public == "" {
		return fmt.Errorf("make key: exit code %d, printed %q, %q", out.Code, out.Stdout, out.Stderr)
	}
	return nil
}

func (c *Cluster) member(node string) (*member, error) {
	for _, m := range c.members {
		if m.node.Name == node {
			return m, nil
		}
	}
	return nil, fmt.Errorf("find member: the cluster has no %q", node)
}

// some returns the members of those names, all when there are none.
func (c *Cluster) some(nodes []string) ([]*member, error) {
	if len(nodes) == 0 {
		return c.members, nil
	}
	var ms []*member
	for _, n := range nodes {
		m, err := c.member(n)
		if err != nil {
			return nil, err
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// Lab returns the lab that the cluster runs in.
func (c *Cluster) Lab() *Lab { return c.lab }

// Names returns the names of all members.
func (c *Cluster) Names() []string {
	var names []string
	for _, m := range c.members {
		names = append(names, m.node.Name)
	}
	return names
}

// Start starts the members of those names, all when none is named. Those that
// run already are left alone. It does not wait until they are ready.
func (c *Cluster) Start(nodes ...string) error {
	ms, err := c.some(nodes)
	if err != nil {
		return err
	}
	for _, m := range ms {
		if err := c.start(m); err != nil {
			return fmt.Errorf("start %s: %w", m.node.Name, err)
		}
	}
	return nil
}

func (c *Cluster) start(m *member) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc != nil && m.proc.Running() {
		return nil
	}
	m.starts++
	log, err := c.lab.logFile(m.node.Name, m.starts)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.binary, "run", "-c", m.configFile())
	cmd.Env = append(os.Environ(), c.options.Env...)
	cmd.Dir = m.dir
	cmd.Stdout, cmd.Stderr = log, log
	m.proc, err = c.lab.Start(m.node.Name, cmd)
	if err != nil {
		return err
	}
	m.proc.Log = log.Name()
	return nil
}

// guard returns the running guard of a member, nil when there is none.
func (m *member) guard() *Proc {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil || !m.proc.Running() {
		return nil
	}
	return m.proc
}

// Running reports whether a member's guard runs.
func (c *Cluster) Running(node string) bool {
	m, err := c.member(node)
	return err == nil && m.guard() != nil
}

// Proc returns the process of a member's last start; nil before the first.
func (c *Cluster) Proc(node string) *Proc {
	m, err := c.member(node)
	if err != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc
}

// Stop stops members as a service manager does: SIGTERM, then it waits. A
// member that does not end in 20 s is killed, and that is an error. All
// members when none is named.
func (c *Cluster) Stop(nodes ...string) error {
	ms, err := c.some(nodes)
	if err != nil {
		return err
	}
	var procs []*Proc
	var all error
	for _, m := range ms {
		if p := m.guard(); p != nil {
			all = errors.Join(all, p.Signal(unix.SIGTERM))
			procs = append(procs, p)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	for _, p := range procs {
		if err := p.Wait(ctx); ctx.Err() != nil {
			all = errors.Join(all, fmt.Errorf("stop member: %w", err), p.Signal(unix.SIGKILL))
		}
	}
	return all
}

// GuardPID returns the process id of a member's guard.
func (c *Cluster) GuardPID(node string) (int, error) {
	m, err := c.member(node)
	if err != nil {
		return 0, err
	}
	p := m.guard()
	if p == nil {
		return 0, fmt.Errorf("find guard of %s: it does not run", node)
	}
	return p.PID(), nil
}

// WorkerPID returns the process id of a member's worker: the child of its
// guard that runs the same program.
func (c *Cluster) WorkerPID(node string) (int, error) {
	guard, err := c.GuardPID(node)
	if err != nil {
		return 0, err
	}
	all, err := pids()
	if err != nil {
		return 0, err
	}
	exe, err := os.Stat(exePath(guard))
	if err != nil {
		return 0, fmt.Errorf("find program of the guard of %s: %w", node, err)
	}
	for _, pid := range all {
		st, err := readStat(pid)
		if err != nil || st.parent != guard || st.state == 'Z' {
			continue
		}
		if same, err := os.Stat(exePath(pid)); err == nil && os.SameFile(exe, same) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("find worker of %s: guard %d has none", node, guard)
}

func exePath(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/exe" }

// RunCLI runs the command line program on a member's node, with the member's
// control socket. err is nil whenever it ran and ended by itself.
func (c *Cluster) RunCLI(ctx context.Context, node string, args ...string) (Output, error) {
	m, err := c.member(node)
	if err != nil {
		return Output{Code: -1}, err
	}
	return c.run(ctx, m, append([]string{"--socket", m.socket()}, args...)...)
}

func (c *Cluster) run(ctx context.Context, m *member, args ...string) (Output, error) {
	return c.lab.runWith(ctx, m.node.Name, nil, c.options.Env, c.binary, args...)
}

// statuses asks every running member; those that do not answer are left out,
// and why stands in the text.
func (c *Cluster) statuses() (map[string]*Status, string) {
	found := map[string]*Status{}
	var why []string
	for _, m := range c.members {
		if m.guard() == nil {
			continue
		}
		s, err := c.StatusOf(m.node.Name)
		if err != nil {
			why = append(why, err.Error())
			continue
		}
		found[m.node.Name] = s
		why = append(why, fmt.Sprintf("%s: role %q holder %q leader %q quorum %v", m.node.Name, s.Role, s.Holder, s.Leader, s.Quorum.OK))
	}
	return found, strings.Join(why, "; ")
}

// Holders returns the members that say of themselves that they hold the VIP.
func (c *Cluster) Holders() []string {
	found, _ := c.statuses()
	var holders []string
	for node, s := range found {
		if s.Holds() {
			holders = append(holders, node)
		}
	}
	slices.Sort(holders)
	return holders
}

// Holder returns the member that says of itself that it holds the VIP, or ""
// when none does or more than one.
func (c *Cluster) Holder() string {
	if h := c.Holders(); len(h) == 1 {
		return h[0]
	}
	return ""
}

// Leader returns the member that leads by its own word and that of most
// running members, or "".
func (c *Cluster) Leader() string {
	found, _ := c.statuses()
	votes := map[string]int{}
	for _, s := range found {
		votes[s.Leader]++
	}
	for node, n := range votes {
		if own := found[node]; node != "" && 2*n > len(found) && own != nil && own.Leader == node {
			return node
		}
	}
	return ""
}

// WaitHolder waits until exactly one member holds the VIP and is one of those
// named, any when none is named. It returns the holder.
func (c *Cluster) WaitHolder(ctx context.Context, nodes ...string) (string, error) {
	for {
		h := c.Holder()
		if h != "" && (len(nodes) == 0 || slices.Contains(nodes, h)) {
			return h, nil
		}
		if err := pause(ctx); err != nil {
			_, why := c.statuses()
			return h, fmt.Errorf("wait for holder %v: %w (%s)", nodes, err, why)
		}
	}
}

// WaitReady waits until every running member answers, has a quorum, is no
// longer joining, and all name the same leader and the same holder, which
// holds.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for {
		found, why := c.statuses()
		if c.ready(found) {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("wait until the cluster is ready: %w (%s)", err, why)
		}
	}
}

func (c *Cluster) ready(found map[string]*Status) bool {
	var first *Status
	for _, m := range c.members {
		if m.guard() == nil {
			continue
		}
		s := found[m.node.Name]
		if s == nil || !s.Quorum.OK || s.Role == "joining" || s.Role == "abstain" || s.Leader == "" {
			return false
		}
		if first == nil {
			first = s
		}
		if s.Leader != first.Leader || s.Holder != first.Holder {
			return false
		}
	}
	if first == nil {
		return false
	}
	holder := found[first.Holder]
	return holder != nil && holder.Holds()
}

// pause is the pause between two looks at all members.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(5 * pollEvery):
		return nil
	}
}
