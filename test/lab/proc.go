package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is the pause between two looks at something that is waited for.
const pollEvery = 2 * time.Millisecond

// spawner starts processes inside namespaces from one OS thread that lives as
// long as its lab. Its children get SIGKILL when that thread dies
// (PR_SET_PDEATHSIG follows the thread, not the process), so a lab that is
// killed outright leaves no member running.
type spawner struct {
	jobs chan func()
	done chan struct{}
	once sync.Once
}

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func()), done: make(chan struct{})}
	go s.loop()
	return s
}

func (s *spawner) loop() {
	defer close(s.done)
	runtime.LockOSThread()
	for job := range s.jobs {
		job()
	}
	runtime.UnlockOSThread()
}

// start starts cmd in the namespace of file. `ip netns exec` is of no use
// here: it makes a new mount namespace, in which the bpffs that a member
// mounts would be lost with the member.
func (s *spawner) start(file *os.File, cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true // the terminal's ctrl-C is for the lab alone
	result := make(chan error, 1)
	s.jobs <- func() { result <- startInside(file, cmd) }
	return <-result
}

func startInside(file *os.File, cmd *exec.Cmd) error {
	home, err := os.Open(threadNetns)
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	startErr := cmd.Start()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		// Nothing after this would run where it should.
		panic(fmt.Sprintf("lab: return to own network namespace: %v", err))
	}
	return startErr
}

// stop ends the thread. No child may be running any more.
func (s *spawner) stop() {
	s.once.Do(func() { close(s.jobs) })
	<-s.done
}

// Proc is a process that was started inside a namespace of a lab.
type Proc struct {
	// Name is the command's name, for messages.
	Name string
	// Log is the file that has standard output and standard error; empty
	// when the caller directed them elsewhere.
	Log string

	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; valid once done is closed
}

// PID returns the process id.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and was reaped.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended yet.
func (p *Proc) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ExitCode returns the exit code of an ended process, -1 when a signal ended
// it or it is still running.
func (p *Proc) ExitCode() int {
	if p.Running() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal. A process that has ended is no error.
func (p *Proc) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, p.Name, err)
	}
	return nil
}

// Wait waits for the end of the process and returns exec.Cmd.Wait's error, or
// the context's.
func (p *Proc) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.Name, ctx.Err())
	}
}

// Start starts cmd inside the namespace of a node ("gw1", "c1", or "lan" for
// the namespace of the bridge). The process is killed when the lab closes, and
// when the lab's own process dies.
func (l *Lab) Start(node string, cmd *exec.Cmd) (*Proc, error) {
	ns, err := l.namespace(node)
	if err != nil {
		return nil, err
	}
	if err := l.spawn.start(ns.file, cmd); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", cmd.Path, node, err)
	}
	p := &Proc{Name: cmd.Path, cmd: cmd, done: make(chan struct{})}
	l.waits.Add(1)
	go func() {
		defer l.waits.Done()
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Run runs a command inside the namespace of a node until it ends or the
// context does, and returns what it printed. err is nil whenever the command
// ran and ended by itself, whatever its exit code.
func (l *Lab) Run(ctx context.Context, node, name string, args ...string) (Output, error) {
	return l.runWith(ctx, node, nil, nil, name, args...)
}

// Output is what a command printed, and its exit code.
type Output struct {
	Stdout, Stderr string
	Code           int
}

func (l *Lab) runWith(ctx context.Context, node string, stdin []byte, env []string, name string, args ...string) (Output, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = killLimit // a child of its own may hold the pipes
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	p, err := l.Start(node, cmd)
	if err != nil {
		return Output{Code: -1}, err
	}
	<-p.done
	out := Output{Stdout: stdout.String(), Stderr: stderr.String(), Code: p.ExitCode()}
	var exit *exec.ExitError
	if p.err != nil && (!errors.As(p.err, &exit) || ctx.Err() != nil) {
		return out, fmt.Errorf("run %s on %s: %w", name, node, errors.Join(p.err, ctx.Err()))
	}
	return out, nil
}

// procStat is the part of /proc/PID/stat that the lab needs.
type procStat struct {
	state  byte
	parent int
	start  uint64 // clock ticks since boot: with the pid it names one process
}

func readStat(pid int) (procStat, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	// The name is in parentheses and may hold spaces and parentheses itself.
	_, rest, ok := strings.Cut(string(raw[bytes.LastIndexByte(raw, ')'):]), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return procStat{}, fmt.Errorf("parse stat of process %d", pid)
	}
	parent, err1 := strconv.Atoi(f[1])
	start, err2 := strconv.ParseUint(f[19], 10, 64)
	return procStat{state: f[0][0], parent: parent, start: start}, errors.Join(err1, err2)
}

// pids returns all process ids.
func pids() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("open /proc: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read /proc: %w", err)
	}
	var all []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			all = append(all, pid)
		}
	}
	return all, nil
}

// pidsIn returns the processes whose network namespace has one of the inodes.
// The kernel shows none for a process that has ended and waits to be reaped.
func pidsIn(inodes map[uint64]bool) ([]int, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, pid := range all {
		if pid == os.Getpid() {
			continue // a thread of ours may be on a visit
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/net", &st) == nil && inodes[st.Ino] {
			found = append(found, pid)
		}
	}
	return found, nil
}

// killIn kills every process in the namespaces and waits until none is left.
// Several rounds, because a guard may start a worker in between.
func killIn(inodes map[uint64]bool, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		left, err := pidsIn(inodes)
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end processes of the lab: %v still there after %v", left, limit)
		}
		for _, pid := range left {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		time.Sleep(pollEvery)
	}
}

// waitState waits until a process is in the state ('T' stopped), or has ended.
func waitState(pid int, state byte, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		st, err := readStat(pid)
		if err != nil || st.state == state || st.state == 'Z' {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for process %d: state %c after %v, want %c", pid, st.state, limit, state)
		}
		time.Sleep(pollEvery)
	}
}

// waitGone waits until a process has ended; a zombie has.
func waitGone(pid int, start uint64, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		st, err := readStat(pid)
		if err != nil || st.start != start || st.state == 'Z' {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for the end of process %d: state %c after %v", pid, st.state, limit)
		}
		time.Sleep(pollEvery)
	}
}
