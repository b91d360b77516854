package main

import (
	"bytes"
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
	"syscall"
	"time"
)

// outcome is what became of one catcher on one mutant.
type outcome struct {
	catcher catcher
	kind    kind
	took    time.Duration // of the run, without the build
	by      []string      // the tests that failed
	seeds   int           // how many the simulator needed
	text    string        // the end of the output
}

type kind uint8

const (
	missed   kind = iota // it passed
	caught               // it failed, as it should
	broken               // it did not compile, or could not be run
	late                 // it ran out of time
	notThere             // the simulator is not part of this tree
)

func (k kind) String() string {
	return [...]string{"missed", "caught", "broken", "late", "not there"}[k]
}

var errCompile = errors.New("mutant does not compile")

// Limits of a run; a test that needs more says nothing but that it hangs.
const (
	testLimit = 2 * time.Minute
	simLimit  = 5 * time.Minute
	keepTail  = 4 << 10
)

// exclusive packages measure real time, or share what the kernel has once: they
// run while nothing else does.
var exclusive = []string{"./internal/guard", "./internal/transport", "./netfence", "./vip", "./test/e2e"}

// machine is what all workers share.
type machine struct {
	quiet sync.RWMutex
	// clean is the simulator of the tree without a mutant.
	clean string
}

// run lets a catcher look at the tree.
func (mc *machine) run(ctx context.Context, t *tree, c catcher) outcome {
	if c.isSim() {
		return mc.simulate(ctx, t, c)
	}
	bin := filepath.Join(t.root, ".mutants", strings.ReplaceAll(strings.TrimPrefix(c.pkg, "./"), "/", "-")+".test")
	if out := mc.build(ctx, t, bin, "test", "-c", "-vet=off", "-trimpath", "-o", bin, c.pkg); out != nil {
		return outcome{catcher: c, kind: broken, text: errCompile.Error() + ": " + tail(out)}
	}
	if slices.Contains(exclusive, c.pkg) {
		mc.quiet.Lock()
		defer mc.quiet.Unlock()
	} else {
		mc.quiet.RLock()
		defer mc.quiet.RUnlock()
	}
	began := time.Now()
	text, err := command(ctx, testLimit+10*time.Second, filepath.Join(t.root, c.pkg), bin,
		"-test.run", c.pattern(), "-test.count=1", "-test.timeout", testLimit.String())
	return judge(c, time.Since(began), text, err)
}

// build runs the go command; it returns its output if that failed.
func (mc *machine) build(ctx context.Context, t *tree, bin string, args ...string) []byte {
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return []byte(err.Error())
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = t.root
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	return append(out, err.Error()...)
}

// command runs a program with all that it starts in a group that ends with it.
func command(ctx context.Context, limit time.Duration, dir, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	return out, err
}

var (
	failed   = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	ranFirst = regexp.MustCompile(`(?m)^panic: |^fatal error: `)
)

// judge reads the end of a test binary. Only a test that failed, or a panic of
// the program, is a catch; a test that hangs is not.
func judge(c catcher, took time.Duration, text []byte, err error) outcome {
	out := outcome{catcher: c, took: took, text: tail(text)}
	var exit *exec.ExitError
	switch {
	case err == nil:
		if bytes.Contains(text, []byte("no tests to run")) {
			out.kind, out.text = broken, "no tests to run"
		}
		return out
	case errors.Is(err, context.DeadlineExceeded) || bytes.Contains(text, []byte("panic: test timed out")):
		out.kind = late
		return out
	case !errors.As(err, &exit):
		out.kind, out.text = broken, err.Error()
		return out
	}
	for _, m := range failed.FindAllSubmatch(text, -1) {
		out.by = append(out.by, string(m[1]))
	}
	if len(out.by) == 0 && !ranFirst.Match(text) {
		out.kind, out.text = broken, fmt.Sprintf("%v: %s", err, tail(text))
		return out
	}
	out.kind = caught
	return out
}

// simDir is the program of the simulator.
const simDir = "test/sim/cmd"

// simFailed is the last line of a simulator that has seen a violation: how many
// seeds it took, which was the last, and what was violated.
var simFailed = regexp.MustCompile(`(?m)^violations in \d+ of (\d+) seeds: (\d+) \(([^)]*)\)`)

// simBinary is where the simulator of a tree goes; the one of the clean tree is
// not written over.
func (mc *machine) simBinary(t *tree) string {
	name := "sim"
	if mc.clean == "" {
		name = "sim-clean"
	}
	return filepath.Join(t.root, ".mutants", name)
}

func (mc *machine) simulate(ctx context.Context, t *tree, c catcher) outcome {
	if _, err := os.Stat(filepath.Join(t.root, simDir)); err != nil {
		return outcome{catcher: c, kind: notThere}
	}
	bin := mc.simBinary(t)
	if out := mc.build(ctx, t, bin, "build", "-trimpath", "-o", bin, "./"+simDir); out != nil {
		return outcome{catcher: c, kind: broken, text: errCompile.Error() + ": " + tail(out)}
	}
	mc.quiet.RLock()
	defer mc.quiet.RUnlock()
	began := time.Now()
	text, err := command(ctx, simLimit, t.root, bin, "-mutant", "-procs", "1", "-seeds", fmt.Sprint(c.seeds))
	out := outcome{catcher: c, took: time.Since(began), text: tail(text)}
	m := simFailed.FindSubmatch(text)
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		out.kind = late
	case m == nil:
		out.kind, out.text = broken, fmt.Sprintf("%v: %s", err, tail(text))
	default:
		out.kind = caught
		out.by = []string{string(m[3])}
		out.seeds, _ = strconv.Atoi(string(m[1])) // digits, and few of them
		mc.confirm(ctx, &out, string(m[2]))
	}
	return out
}

// confirm runs the seed without the mutant: one that fails anyway has caught
// nothing.
func (mc *machine) confirm(ctx context.Context, out *outcome, seed string) {
	if mc.clean == "" {
		return // this is the clean tree
	}
	if text, err := command(ctx, simLimit, filepath.Dir(mc.clean), mc.clean, "-quiet", "-seed", seed); err != nil {
		out.kind, out.text = broken, fmt.Sprintf("seed %s fails without the mutant too: %v: %s", seed, err, tail(text))
	}
}

// tail is the end of an output.
func tail(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[max(0, len(b)-keepTail):])
}
