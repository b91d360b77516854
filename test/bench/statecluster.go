package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// rig is a cluster of three in a lab of its own. Clients run on the host of the
// leader, as programs of that host do.
type rig struct {
	lab     *lab.Lab
	system  string
	cluster *lab.Cluster // of Holdfast
	procs   []*lab.Proc  // of etcd
	urls    []string     // of etcd's clients, in the order of members
}

const readyLimit = 60 * time.Second

func newRig(ctx context.Context, s *stateBench, system string, state lab.Table) (r *rig, err error) {
	l, err := lab.New(lab.Options{Gateways: 2, Witnesses: 1})
	if err != nil {
		return nil, err
	}
	r = &rig{lab: l, system: system}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if system == "etcd" {
		return r, r.startEtcd()
	}
	r.cluster, err = l.NewCluster(lab.ClusterOptions{Binary: s.binary, Config: func(_ *lab.Node, cfg lab.Table) {
		cfg["log"] = lab.Table{"level": "info", "format": "text"} // as installed
		if state != nil {
			cfg["state"] = state
		}
	}})
	if err != nil {
		return nil, err
	}
	if err := r.cluster.Start(); err != nil {
		return nil, err
	}
	return r, r.ready(ctx)
}

func (r *rig) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	return r.cluster.WaitReady(ctx)
}

// startEtcd starts etcd as the package has it, all its timing by default.
func (r *rig) startEtcd() error {
	var peers []string
	for _, n := range r.lab.Members() {
		ip := n.NICs[0].IPv4.Addr().String()
		peers = append(peers, fmt.Sprintf("%s=http://%s", n.Name, net.JoinHostPort(ip, "2380")))
		r.urls = append(r.urls, "http://"+net.JoinHostPort(ip, "2379"))
	}
	for i, n := range r.lab.Members() {
		peer := strings.TrimPrefix(peers[i], n.Name+"=")
		log, err := os.Create(filepath.Join(r.lab.Dir, n.Name+"-etcd.log"))
		if err != nil {
			return fmt.Errorf("make log: %w", err)
		}
		cmd := exec.Command("etcd", "--name", n.Name, "--data-dir", filepath.Join(r.lab.Dir, n.Name+"-etcd"),
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--listen-client-urls", r.urls[i], "--advertise-client-urls", r.urls[i],
			"--initial-cluster", strings.Join(peers, ","), "--initial-cluster-state", "new", "--logger", "zap")
		cmd.Stdout, cmd.Stderr = log, log
		p, err := r.lab.Start(n.Name, cmd)
		if err = errors.Join(err, log.Close()); err != nil {
			return err
		}
		r.procs = append(r.procs, p)
	}
	return nil
}

// leader returns the host of the leader and where its clients connect.
func (r *rig) leader(ctx context.Context, s *stateBench) (node, target string, err error) {
	if r.system == "holdfast" {
		if err := r.ready(ctx); err != nil {
			return "", "", err
		}
		node := r.cluster.Leader()
		if node == "" {
			return "", "", errors.New("find leader: the members do not agree")
		}
		return node, filepath.Join(r.cluster.RuntimeDir(node), "control.sock"), nil
	}
	var found struct {
		Endpoint string `json:"endpoint"`
	}
	if err := r.tool(ctx, s, r.lab.Members()[0].Name, &found, "leader", "-target", strings.Join(r.urls, ",")); err != nil {
		return "", "", err
	}
	i := slices.Index(r.urls, found.Endpoint)
	if i < 0 {
		return "", "", fmt.Errorf("find leader: no member is %q", found.Endpoint)
	}
	return r.lab.Members()[i].Name, found.Endpoint, nil
}

// tool runs a part of test/walbench on a host of the lab.
func (r *rig) tool(ctx context.Context, s *stateBench, node string, result any, args ...string) error {
	out, err := r.lab.Run(ctx, node, s.tool, args...)
	if err != nil {
		return err
	}
	if out.Code != 0 {
		return fmt.Errorf("run %s on %s: exit code %d: %s", args[0], node, out.Code, out.Stderr)
	}
	return parse(args[0], []byte(out.Stdout), result)
}

// pids are the processes of all members.
func (r *rig) pids() ([]int, error) {
	var all []int
	for _, p := range r.procs {
		all = append(all, p.PID())
	}
	if r.cluster != nil {
		for _, node := range r.cluster.Names() {
			own, err := r.processes(node)
			if err != nil {
				return nil, err
			}
			all = append(all, own...)
		}
	}
	return all, nil
}

// processes of a Holdfast member.
func (r *rig) processes(node string) ([]int, error) {
	guard, err := r.cluster.GuardPID(node)
	if err != nil {
		return nil, err
	}
	worker, err := r.cluster.WorkerPID(node)
	return []int{guard, worker}, err
}

func (r *rig) cpu() (float64, error) {
	pids, err := r.pids()
	sum := 0.0
	for _, pid := range pids {
		one, cerr := cpuSeconds(pid)
		sum, err = sum+one, errors.Join(err, cerr)
	}
	return sum, err
}

// load has clients put for a while.
func (r *rig) load(ctx context.Context, s *stateBench, clients int, length time.Duration, prefix string) (loadRow, error) {
	node, target, err := r.leader(ctx, s)
	if err != nil {
		return loadRow{}, err
	}
	before, err := r.cpu()
	if err != nil {
		return loadRow{}, err
	}
	var row loadRow
	// The clients of etcd share connections; more made it slower.
	err = r.tool(ctx, s, node, &row, "load", "-system", r.system, "-target", target,
		"-clients", fmt.Sprint(clients), "-conns", fmt.Sprint(min(clients, 4)), "-value", fmt.Sprint(valueBytes),
		"-warmup", s.size.warmup.String(), "-for", length.String(), "-prefix", prefix)
	if err != nil {
		return row, err
	}
	after, err := r.cpu()
	if err != nil {
		return row, err
	}
	if row.Count > 0 { // the warm-up has its share
		share := length.Seconds() / (length + s.size.warmup).Seconds()
		row.Server = (after - before) * 1e6 * share / float64(row.Count)
	}
	say("  %-8s %3d clients: %6.0f puts/s, p50 %6.0f us, p99 %6.0f us, failed %d %s",
		r.system, clients, row.Rate, row.P50, row.P99, row.Failed, row.Error)
	return row, nil
}

// measureClusters puts both systems under load in turn, each time new.
func (s *stateBench) measureClusters(ctx context.Context) error {
	systems := []string{"etcd", "holdfast"}
	if out, err := exec.CommandContext(ctx, "etcd", "--version").Output(); err != nil {
		s.fail("etcd", fmt.Errorf("it is not installed; hint: apt-get install etcd-server: %w", err))
		systems = systems[1:]
	} else {
		s.etcd, _, _ = strings.Cut(strings.TrimPrefix(string(out), "etcd Version: "), "\n")
	}
	for _, system := range systems {
		s.cells[system] = map[int]*cell{}
		for _, n := range clientCounts {
			s.cells[system][n] = &cell{}
		}
	}
	for round := range s.size.rounds {
		for _, system := range systems {
			if err := s.clusterRound(ctx, system, round); err != nil {
				s.fail("round of "+system, err)
			}
		}
	}
	return nil
}

func (s *stateBench) clusterRound(ctx context.Context, system string, round int) (err error) {
	r, err := newRig(ctx, s, system, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.lab.Close()) }()
	for _, n := range clientCounts {
		row, err := r.load(ctx, s, n, s.size.length, fmt.Sprintf("r%d-%d", round, n))
		if err != nil {
			return err
		}
		s.cells[system][n].rows = append(s.cells[system][n].rows, row)
	}
	return nil
}

// noSnapshots is more log than any part here writes.
const noSnapshots = "1GiB"

// measureUnderLoad measures what snapshots do to writes, what a follower needs
// to catch up, and what memory the data takes.
func (s *stateBench) measureUnderLoad(ctx context.Context) (err error) {
	r, err := newRig(ctx, s, "holdfast", lab.Table{"snapshot_bytes": noSnapshots, "max_bytes": "4GiB"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.lab.Close()) }()
	if s.preload, err = r.preload(ctx, s, s.size.preload, "p"); err != nil {
		return err
	}
	if err := s.measureSnapshots(ctx, r); err != nil {
		s.fail("writes during snapshots", err)
	}
	if err := s.measureCatchUp(ctx, r, "snapshot", "4MiB"); err != nil {
		s.fail("catching up by a snapshot", err)
	}
	if err := s.measureCatchUp(ctx, r, "log", noSnapshots); err != nil {
		s.fail("catching up by the log", err)
	}
	if err := r.setSnapshots(ctx, "16MiB"); err != nil {
		return err
	}
	if _, err := r.preload(ctx, s, s.size.live, "m"); err != nil {
		return err
	}
	return s.measureMemory(ctx, r)
}

func (r *rig) preload(ctx context.Context, s *stateBench, keys int, prefix string) (row preloadRow, err error) {
	node, target, err := r.leader(ctx, s)
	if err != nil {
		return row, err
	}
	err = r.tool(ctx, s, node, &row, "preload", "-system", r.system, "-target", target,
		"-keys", fmt.Sprint(keys), "-value", fmt.Sprint(valueBytes), "-prefix", prefix)
	if err == nil {
		say("  %d keys written in %.1f s", row.Keys, row.Seconds)
	}
	return row, err
}

// setSnapshots changes on all members how much log is written between two.
func (r *rig) setSnapshots(ctx context.Context, bytes string) error {
	for _, node := range r.cluster.Names() {
		err := r.cluster.WriteConfig(node, func(cfg lab.Table) {
			cfg["state"] = lab.Table{"snapshot_bytes": bytes, "max_bytes": "4GiB"}
		})
		if err != nil {
			return err
		}
		out, err := r.cluster.RunCLI(ctx, node, "reload")
		if err != nil || out.Code != 0 {
			return errors.Join(err, fmt.Errorf("reload %s: exit code %d: %s%s", node, out.Code, out.Stdout, out.Stderr))
		}
	}
	return nil
}

func (s *stateBench) measureSnapshots(ctx context.Context, r *rig) error {
	for i := range s.size.pairs {
		var pair [2]loadRow
		for j, bytes := range []string{noSnapshots, "16MiB"} {
			if err := r.setSnapshots(ctx, bytes); err != nil {
				return err
			}
			count := r.countSnapshots()
			row, err := r.load(ctx, s, 64, s.size.pair, fmt.Sprintf("s%d-%d", i, j))
			taken := count()
			if err != nil {
				return err
			}
			pair[j] = row
			if j == 1 {
				s.taken += taken
			}
		}
		s.pairs = append(s.pairs, pair)
	}
	return nil
}

// countSnapshots watches a member's snapshots until the returned function is
// called, which returns how many were made.
func (r *rig) countSnapshots() func() int {
	stop, result := make(chan struct{}), make(chan int)
	go func() {
		seen := map[uint64]bool{}
		for {
			if node := r.cluster.Leader(); node != "" {
				if st, err := r.cluster.StatusOf(node); err == nil {
					seen[st.State.Snapshot] = true
				}
			}
			select {
			case <-stop:
				result <- max(len(seen)-1, 0)
				return
			case <-time.After(250 * time.Millisecond):
			}
		}
	}()
	return func() int {
		close(stop)
		return <-result
	}
}

// measureCatchUp stops a follower, writes, and starts it again.
func (s *stateBench) measureCatchUp(ctx context.Context, r *rig, way, snapshots string) error {
	if err := r.setSnapshots(ctx, snapshots); err != nil {
		return err
	}
	if err := r.ready(ctx); err != nil {
		return err
	}
	leader := r.cluster.Leader()
	follower := "w1" // the holder stays where it is
	if leader == follower {
		return errors.New("the witness leads")
	}
	if err := r.cluster.Stop(follower); err != nil {
		return err
	}
	written, err := r.preload(ctx, s, s.size.preload, "c-"+way)
	if err != nil {
		return err
	}
	st, err := r.cluster.StatusOf(leader)
	if err != nil {
		return err
	}
	target := st.State.Commit
	began := time.Now()
	if err := r.cluster.Start(follower); err != nil {
		return err
	}
	c := catchUp{way: way, bytes: written.Bytes}
	for deadline := began.Add(readyLimit); ; {
		st, err := r.cluster.StatusOf(follower)
		if err == nil && c.started == 0 {
			c.started = time.Since(began).Seconds()
		}
		if err == nil && st.State.Applied >= target {
			break
		}
		if time.Now().After(deadline) {
			return errors.Join(err, fmt.Errorf("%s has not caught up with %d in %v", follower, target, readyLimit))
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.seconds = time.Since(began).Seconds()
	say("  caught up by %s in %.2f s (%.2f s until it answered)", way, c.seconds, c.started)
	s.catchUps = append(s.catchUps, c)
	return nil
}

// measureMemory reads what the processes of each member take.
func (s *stateBench) measureMemory(ctx context.Context, r *rig) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	select { // what a collection frees goes back with time
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Second):
	}
	for _, node := range r.cluster.Names() {
		st, err := r.cluster.StatusOf(node)
		if err != nil {
			return err
		}
		// The quota counts 64 bytes for each key beside what it holds.
		m := memory{node: node, live: st.State.Bytes - 64*int64(st.State.Keys)}
		pids, err := r.processes(node)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			now, err1 := procMemory(pid, "VmRSS")
			peak, err2 := procMemory(pid, "VmHWM")
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			m.rss, m.peak = m.rss+now, m.peak+peak
		}
		s.memory = append(s.memory, m)
		say("  %s: %.0f MiB live, %.0f MiB resident, %.0f at most", node, float64(m.live)/(1<<20), float64(m.rss)/1024, float64(m.peak)/1024)
	}
	return nil
}

// procMemory reads a line of a process's status in KiB.
func procMemory(pid int, field string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			var kib int64
			_, err := fmt.Sscan(value, &kib)
			return kib, err
		}
	}
	return 0, fmt.Errorf("read memory of process %d: no %s", pid, field)
}
