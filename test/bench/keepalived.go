package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// keepalived, two gateways of it: no witness, because it knows none.

// rival is one way to run it.
type rival struct {
	profile string // of ours, beside which it stands
	advert  string // advert_int, seconds
	window  time.Duration
	name    string
}

// A window is how long the fault lasts and the probe watches: longer than
// three advertisements and their skew.
var rivals = []rival{
	{profile: "default", advert: "1", window: 6 * time.Second, name: "advert_int 1"},
	{profile: "fast", advert: "0.1", window: 2 * time.Second, name: "advert_int 0.1"},
}

// rivalFault is a fault on the node that has the address.
type rivalFault struct {
	id, title string
	strike    func(r *pair) (*lab.Fault, error)
}

const master, backup = "gw1", "gw2"

var rivalFaults = []rivalFault{
	{"cut", "cable cut, silently", func(r *pair) (*lab.Fault, error) { return r.lab.Cut(master + "/*") }},
	{"kill", "SIGKILL of all its processes", func(r *pair) (*lab.Fault, error) { return r.signal(unix.SIGKILL) }},
	{"stop", "SIGSTOP of all its processes", func(r *pair) (*lab.Fault, error) { return r.signal(unix.SIGSTOP) }},
	{"mute", "not heard, hears", func(r *pair) (*lab.Fault, error) { return r.lab.Mute(master + "/*") }},
	{"term", "SIGTERM, planned", func(r *pair) (*lab.Fault, error) { return r.signal(unix.SIGTERM) }},
}

// rivalOf names the rival's fault that one of our scenarios stands beside.
var rivalOf = map[string]string{
	"link": "cut", "cut": "cut", "power": "cut", "worker-kill": "kill", "guard-kill": "kill", "both-kill": "kill",
	"worker-stop": "stop", "both-stop": "stop", "deaf": "mute", "mute": "mute", "switch": "term", "restart": "term",
}

const rivalConfig = `global_defs {
    router_id %[1]s
    vrrp_version 3
}
vrrp_instance lab {
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 77
    priority %[2]d
    advert_int %[3]s
    virtual_ipaddress {
        %[4]s dev eth0
    }
}
`

// pair is a lab with two gateways that run it.
type pair struct {
	lab   *lab.Lab
	procs map[string]*lab.Proc
}

// measureRivals measures what is installed.
func (p *page) measureRivals(ctx context.Context) error {
	if p.options.peers == 0 {
		return errors.New("not asked for")
	}
	if _, err := exec.LookPath("keepalived"); err != nil {
		return errors.New("keepalived is not installed")
	}
	for _, r := range rivals {
		say("keepalived, %s", r.name)
		if err := p.measureRival(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (p *page) measureRival(ctx context.Context, r rival) error {
	for _, f := range rivalFaults {
		p.rivals[r.profile] = append(p.rivals[r.profile], &series{id: f.id, title: f.title})
	}
	for n := range p.options.peers {
		say("  round %d of %d", n+1, p.options.peers)
		for i, f := range rivalFaults {
			s := p.rivals[r.profile][i]
			// Every round has a fresh pair: after most faults this one does
			// not come back by itself.
			if err := p.rivalRound(ctx, r, f, s); err != nil {
				s.errors = append(s.errors, err.Error())
				say("    %s: %v", f.title, err)
			}
		}
	}
	return nil
}

func (p *page) rivalRound(ctx context.Context, r rival, f rivalFault, s *series) (err error) {
	l, err := lab.New(lab.Options{Gateways: 2, Clients: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	k := &pair{lab: l, procs: map[string]*lab.Proc{}}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	probe, err := k.start(ctx, r)
	if err != nil {
		return err
	}
	fault, err := f.strike(k)
	if err != nil {
		return err
	}
	time.Sleep(r.window)
	report, err := probe.Stop()
	if err != nil {
		return err
	}
	if err := errors.Join(report.Valid(), fault.Undo()); err != nil {
		return err
	}
	var longest time.Duration
	for _, d := range report.Doubles {
		longest = max(longest, d.Duration())
	}
	s.count(report.DoubleCount, longest)
	s.gaps = append(s.gaps, report.LongestSince(fault.At).Duration())
	return nil
}

// start starts the master, waits until it has the address, and then the
// backup, which is given time to hear it.
func (k *pair) start(ctx context.Context, r rival) (*lab.Probe, error) {
	probe, err := k.lab.StartProbe(lab.ProbeOptions{GapOver: 2 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	for i, node := range []string{master, backup} {
		if err := k.run(node, 100-10*i, r.advert); err != nil {
			return nil, err
		}
		if _, err := probe.WaitOwner(ctx, master); err != nil {
			return nil, err
		}
		time.Sleep(2500 * time.Millisecond)
	}
	return probe, nil
}

func (k *pair) run(node string, priority int, advert string) error {
	dir := filepath.Join(k.lab.Dir, node)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	file := filepath.Join(dir, "keepalived.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, rivalConfig, node, priority, advert, lab.VIP4), 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "keepalived.log"))
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("keepalived", "--vrrp", "--dont-fork", "--log-console", "--use-file", file,
		"--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp.pid"))
	cmd.Stdout, cmd.Stderr = log, log
	k.procs[node], err = k.lab.Start(node, cmd)
	return err
}

// signal sends a signal to the master's parent process and, unless it is one
// that asks for an orderly end, to its child too, the parent stopped first so
// that it cannot react.
func (k *pair) signal(sig unix.Signal) (*lab.Fault, error) {
	f := &lab.Fault{Name: "signal " + sig.String(), At: lab.Now()}
	parent := k.procs[master].PID()
	if sig == unix.SIGTERM {
		return f, unix.Kill(parent, sig)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return nil, fmt.Errorf("find child of keepalived: %w", err)
	}
	if err := unix.Kill(parent, unix.SIGSTOP); err != nil {
		return nil, fmt.Errorf("stop keepalived: %w", err)
	}
	for _, child := range strings.Fields(string(raw)) {
		var pid int
		if _, err := fmt.Sscan(child, &pid); err != nil {
			return nil, fmt.Errorf("find child of keepalived: %w", err)
		}
		if err := unix.Kill(pid, sig); err != nil {
			return nil, fmt.Errorf("signal child of keepalived: %w", err)
		}
	}
	return f, unix.Kill(parent, sig)
}
