package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/test/scenario"
)

// machine is where all this was measured.
type machine struct {
	model, kernel string
	cores         int
	memoryGiB     float64
}

func readMachine() machine {
	m := machine{model: "unknown processor", cores: runtime.NumCPU()}
	raw, _ := os.ReadFile("/proc/cpuinfo") // unreadable: the model stays unknown
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.model = strings.TrimSpace(value)
			break
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.kernel = unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.memoryGiB = float64(info.Totalram) * float64(info.Unit) / (1 << 30)
	}
	return m
}

// binary is the program as a file.
type binary struct {
	size    int64
	file    string
	version string
}

func readBinary(ctx context.Context, path string) (binary, error) {
	st, err := os.Stat(path)
	if err != nil {
		return binary{}, fmt.Errorf("look at the program: %w", err)
	}
	b := binary{size: st.Size(), file: "file(1) is not installed"}
	if out, err := exec.CommandContext(ctx, "file", "-b", path).Output(); err == nil {
		// Build ids differ with every build and tell nobody anything.
		b.file = strings.Join(slices.DeleteFunc(strings.Split(strings.TrimSpace(string(out)), ", "), func(s string) bool {
			return strings.Contains(s, "BuildID")
		}), ", ")
	}
	out, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return binary{}, fmt.Errorf("run the program: %w", err)
	}
	b.version, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	return b, nil
}

// readiness is how long three nodes take until the address is served.
type readiness struct {
	founding time.Duration
	starts   []time.Duration // of a cluster that was founded before
}

// usage is what one process of an idle node takes.
type usage struct {
	node, process string
	rssKiB        int64
	cpuPercent    float64 // of one core
}

const starts = 5

// measureAtRest measures what needs no fault.
func (p *page) measureAtRest(ctx context.Context, env scenario.Env, profile string) error {
	if profile == profiles[0] {
		say("  idle for %v", p.options.idle)
		var err error
		if p.idle, err = idle(ctx, env, p.options.idle); err != nil {
			return err
		}
	}
	for range min(starts, p.options.n) {
		if err := env.Cluster.Stop(); err != nil {
			return err
		}
		began := time.Now()
		if err := env.Cluster.Start(); err != nil {
			return err
		}
		if err := env.WaitWhole(ctx); err != nil {
			return err
		}
		p.ready[profile].starts = append(p.ready[profile].starts, time.Since(began))
	}
	return nil
}

func idle(ctx context.Context, env scenario.Env, d time.Duration) ([]usage, error) {
	var list []usage
	var pids []int
	for _, node := range env.Cluster.Names() {
		guard, err := env.Cluster.GuardPID(node)
		if err != nil {
			return nil, err
		}
		worker, err := env.Cluster.WorkerPID(node)
		if err != nil {
			return nil, err
		}
		name := node
		if node == env.Cluster.Holder() {
			name += " (holder)"
		}
		list = append(list, usage{node: name, process: "worker"}, usage{node: name, process: "guard"})
		pids = append(pids, worker, guard)
	}
	before := make([]float64, len(pids))
	for i, pid := range pids {
		var err error
		if before[i], err = cpuSeconds(pid); err != nil {
			return nil, err
		}
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(d):
	}
	for i, pid := range pids {
		after, err := cpuSeconds(pid)
		if err != nil {
			return nil, err
		}
		list[i].cpuPercent = 100 * (after - before[i]) / d.Seconds()
		if list[i].rssKiB, err = rss(pid); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// ticks is USER_HZ, which is 100 on every platform that the product runs on.
const ticks = 100

func cpuSeconds(pid int) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("read processor time of process %d: %q", pid, raw)
	}
	user, err1 := strconv.ParseFloat(f[11], 64)
	system, err2 := strconv.ParseFloat(f[12], 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("read processor time of process %d: %q", pid, raw)
	}
	return (user + system) / ticks, nil
}

func rss(pid int) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.ParseInt(strings.Fields(value)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("read memory of process %d: no VmRSS", pid)
}

// gateCost is what the gate's program takes for one frame, beside a program
// that does nothing.
type gateCost struct {
	frame, state    string
	nanos, emptyRun float64
}

// costLine is what the gate's own test of its cost logs.
var costLine = regexp.MustCompile(`: (.+?)\s+(nothing blocked|a member blocked)\s+([\d.]+) ns, empty\s+([\d.]+) ns`)

func measureGate(ctx context.Context) ([]gateCost, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^TestCost$", "-v", "-count=1", "./netfence").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("run the gate's test of its cost: %w", err)
	}
	var list []gateCost
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		m := costLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		nanos, err1 := strconv.ParseFloat(m[3], 64)
		empty, err2 := strconv.ParseFloat(m[4], 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("read the gate's cost: %q", lines.Text())
		}
		list = append(list, gateCost{frame: m[1], state: m[2], nanos: nanos, emptyRun: empty})
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("the gate's test of its cost printed none: %.200q", out)
	}
	return list, nil
}
