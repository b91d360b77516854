package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// The state part: how durable state costs what it costs, beside others. All of
// it is measured by test/walbench, a module of its own; this program builds
// labs around it and writes the page.

// size says how much is measured.
type size struct {
	walRounds    int
	walSlice     time.Duration
	replayBytes  int64
	replayRounds int

	rounds         int // of both systems, in turn
	warmup, length time.Duration

	preload      int // keys before the snapshots, and of a follower's absence
	pairs        int // of a time without snapshots and one with
	pair         time.Duration
	keys         int // of the state machine
	recoverBytes int64
	live         int // keys of the cluster whose memory is measured
}

var sizes = map[string]size{
	"full": {
		walRounds: 20, walSlice: 300 * time.Millisecond, replayBytes: 1 << 30, replayRounds: 1,
		rounds: 3, warmup: time.Second, length: 4 * time.Second,
		preload: 200_000, pairs: 2, pair: 8 * time.Second,
		keys: 1_000_000, recoverBytes: 1 << 30, live: 500_000,
	},
	"quick": {
		walRounds: 5, walSlice: 150 * time.Millisecond, replayBytes: 64 << 20, replayRounds: 1,
		rounds: 1, warmup: 500 * time.Millisecond, length: 1500 * time.Millisecond,
		preload: 30_000, pairs: 1, pair: 3 * time.Second,
		keys: 100_000, recoverBytes: 64 << 20, live: 50_000,
	},
}

const valueBytes = 256

// clientCounts are the numbers of clients at once.
var clientCounts = []int{1, 16, 64, 256}

// stateBench is the state part while it is measured. What could not be
// measured has its reason in failures and no rows.
type stateBench struct {
	binary string // of Holdfast
	tool   string // test/walbench, built
	dir    string // on the disk that is measured
	size   size
	name   string // of the size
	began  time.Time
	took   time.Duration

	machine  machine
	version  string
	etcd     string
	wal      []walRow
	replay   []replayRow
	cells    map[string]map[int]*cell // by system and clients
	pairs    [][2]loadRow             // without snapshots, with
	taken    int                      // snapshots meanwhile, on the leader
	preload  preloadRow
	catchUps []catchUp
	memory   []memory
	state    *stateRow
	recovery *recoveryRow
	failures []string
}

// figures are those of test/walbench.
type figures struct {
	Count int     `json:"count"`
	Rate  float64 `json:"rate"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
}

type walRow struct {
	Name        string  `json:"name"`
	Single      figures `json:"single"`
	Many        figures `json:"many"`
	SingleRatio float64 `json:"single_ratio"`
	Gain        float64 `json:"gain"`
}

type replayRow struct {
	Name    string  `json:"name"`
	Bytes   int64   `json:"bytes"`
	OnDisk  int64   `json:"on_disk"`
	Seconds float64 `json:"replay_s"`
	PeakMiB float64 `json:"peak_mib"`
}

type loadRow struct {
	figures
	Clients int     `json:"clients"`
	Failed  int     `json:"failed"`
	Error   string  `json:"error"`
	CPU     float64 `json:"client_cpu_us"`
	Gap     float64 `json:"gap_ms"`
	// Server is what the processes of the three members took, in microseconds
	// for each put.
	Server float64 `json:"-"`
}

// cell is one system with one number of clients, one row for each round.
type cell struct{ rows []loadRow }

type preloadRow struct {
	Keys    int     `json:"keys"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

type stateRow struct {
	Keys            int     `json:"keys"`
	LiveBytes       int64   `json:"live_bytes"`
	Apply           float64 `json:"apply_per_s"`
	HeapBytes       int64   `json:"heap_bytes"`
	FreezeUs        float64 `json:"freeze_us"`
	WriteS          float64 `json:"snapshot_write_s"`
	FileBytes       int64   `json:"snapshot_bytes"`
	OpenS           float64 `json:"snapshot_open_s"`
	SlowestBeforeMs float64 `json:"slowest_before_ms"`
	SlowestDuringMs float64 `json:"slowest_during_ms"`
}

type recoveryRow struct {
	Entries  int     `json:"entries"`
	Requests int     `json:"requests"`
	Bytes    int64   `json:"bytes"`
	OnDisk   int64   `json:"on_disk"`
	OpenS    float64 `json:"open_s"`
	ApplyS   float64 `json:"apply_s"`
	PeakMiB  float64 `json:"peak_mib"`
}

// catchUp is a follower that comes back.
type catchUp struct {
	way     string  // snapshot or log
	bytes   int64   // of keys and values that it lacked
	seconds float64 // from its start until it has applied what was committed then
	started float64 // until it answers at all
}

// memory is one member's, with the data that it holds.
type memory struct {
	node      string
	live      int64 // bytes of keys and values
	rss, peak int64 // KiB, of worker and guard together
}

// measureState measures the part; what is asked for stands in only: "wal" alone
// or everything.
func measureState(ctx context.Context, binary, name string, only string) (*stateBench, error) {
	s := &stateBench{
		binary: binary, name: name, size: sizes[name], began: time.Now(), machine: readMachine(),
		cells: map[string]map[int]*cell{},
	}
	b, err := readBinary(ctx, binary)
	if err != nil && only != "wal" {
		return nil, err
	}
	s.version = b.version
	if s.dir, err = os.MkdirTemp("", "holdfast-bench-"); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(s.dir)
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"write-ahead logs", s.measureWAL},
		{"replay", s.measureReplay},
		{"clusters", s.measureClusters},
		{"snapshots under load, memory, catching up", s.measureUnderLoad},
		{"state machine", s.measureMachine},
		{"recovery", s.measureRecovery},
	}
	if only == "wal" {
		steps = steps[:2]
	}
	for _, step := range steps {
		say("%s (%.0f s so far)", step.name, time.Since(s.began).Seconds())
		if err := step.do(ctx); err != nil {
			s.fail(step.name, err)
		}
	}
	s.took = time.Since(s.began)
	return s, nil
}

// fail notes what could not be measured, and goes on.
func (s *stateBench) fail(what string, err error) {
	say("  not measured: %s: %v", what, err)
	s.failures = append(s.failures, fmt.Sprintf("%s: %v", what, err))
}

// build builds the module of its own.
func (s *stateBench) build(ctx context.Context) error {
	s.tool = filepath.Join(s.dir, "walbench")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", s.tool, ".")
	cmd.Dir = "test/walbench"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build test/walbench: %w: %s", err, out)
	}
	return nil
}

// run runs a part of the tool here and reads what it says.
func (s *stateBench) run(ctx context.Context, result any, args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, s.tool, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", args[0], err, stderr.String())
	}
	return parse(args[0], out, result)
}

func parse(what string, out []byte, result any) error {
	if err := json.Unmarshal(out, result); err != nil {
		return fmt.Errorf("read what %s says: %w", what, err)
	}
	return nil
}

func (s *stateBench) measureWAL(ctx context.Context) error {
	return s.run(ctx, &s.wal, "wal", "-dir", s.dir, "-bytes", fmt.Sprint(valueBytes),
		"-rounds", fmt.Sprint(s.size.walRounds), "-slice", s.size.walSlice.String())
}

func (s *stateBench) measureReplay(ctx context.Context) error {
	return s.run(ctx, &s.replay, "replay", "-dir", s.dir, "-total", fmt.Sprint(s.size.replayBytes),
		"-rounds", fmt.Sprint(s.size.replayRounds))
}

// inEmpty runs a part of the tool in an empty directory.
func (s *stateBench) inEmpty(ctx context.Context, result any, args ...string) (err error) {
	dir, err := os.MkdirTemp(s.dir, "part-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return s.run(ctx, result, append(args, "-dir", dir)...)
}

func (s *stateBench) measureMachine(ctx context.Context) error {
	var r stateRow
	err := s.inEmpty(ctx, &r, "state", "-keys", fmt.Sprint(s.size.keys), "-value", fmt.Sprint(valueBytes))
	if err == nil {
		s.state = &r
	}
	return err
}

func (s *stateBench) measureRecovery(ctx context.Context) error {
	var r recoveryRow
	err := s.inEmpty(ctx, &r, "recovery", "-keys", fmt.Sprint(s.size.keys), "-value", fmt.Sprint(valueBytes),
		"-log", fmt.Sprint(s.size.recoverBytes))
	if err == nil {
		s.recovery = &r
	}
	return err
}
