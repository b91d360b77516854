package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// keepalived, two gateways of it: no witness, because it knows none.

// rival is one way to run it.
type rival struct {
	profile string // of ours, beside which it stands
	advert  string // advert_int, seconds
	// settle is how long the backup hears the master before the fault.
	settle time.Duration
	// window is how long the fault lasts and the probe watches: longer than
	// three advertisements and their skew.
	window time.Duration
	name   string
}

var rivals = []rival{
	{profile: "default", advert: "1", settle: 2500 * time.Millisecond, window: 6 * time.Second, name: "advert_int 1"},
	{profile: "fast", advert: "0.1", settle: time.Second, window: 2 * time.Second, name: "advert_int 0.1"},
}

// rivalFault is a fault on the node that has the address.
type rivalFault struct {
	id, title string
	strike    func(r *pair) (*lab.Fault, error)
}

var rivalFaults = []rivalFault{
	{"link", "carrier lost", func(k *pair) (*lab.Fault, error) { return k.lab.LinkDown(master + "/*") }},
	{"cut", "cable cut, silently", func(k *pair) (*lab.Fault, error) { return k.lab.Cut(master + "/*") }},
	{"kill-child", "SIGKILL of its VRRP process", func(k *pair) (*lab.Fault, error) { return k.signalChild(unix.SIGKILL) }},
	{"kill", "SIGKILL of all its processes", func(k *pair) (*lab.Fault, error) { return k.signalAll(unix.SIGKILL) }},
	{"stop-child", "SIGSTOP of its VRRP process", func(k *pair) (*lab.Fault, error) { return k.signalChild(unix.SIGSTOP) }},
	{"stop", "SIGSTOP of all its processes", func(k *pair) (*lab.Fault, error) { return k.signalAll(unix.SIGSTOP) }},
	{"deaf", "hears nothing, is heard", func(k *pair) (*lab.Fault, error) { return k.lab.Deafen(master + "/*") }},
	{"mute", "not heard, hears", func(k *pair) (*lab.Fault, error) { return k.lab.Mute(master + "/*") }},
	{"term", "SIGTERM, planned", (*pair).terminate},
}

const master, backup = "gw1", "gw2"

// rivalOf names the rival's fault that one of our scenarios stands beside.
var rivalOf = map[string]string{
	"link": "link", "cut": "cut", "power": "cut",
	"worker-kill": "kill-child", "both-kill": "kill", "worker-stop": "stop-child", "both-stop": "stop",
	"deaf": "deaf", "mute": "mute", "switch": "term", "restart": "term",
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
	if err := k.run(master, 100, r.advert); err != nil {
		return nil, err
	}
	if _, err := probe.WaitOwner(ctx, master); err != nil {
		return nil, err
	}
	if err := k.run(backup, 90, r.advert); err != nil {
		return nil, err
	}
	time.Sleep(r.settle)
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

// terminate asks the master to end in order.
func (k *pair) terminate() (*lab.Fault, error) {
	return &lab.Fault{Name: "SIGTERM", At: lab.Now()}, unix.Kill(k.procs[master].PID(), unix.SIGTERM)
}

// child finds the master's VRRP process.
func (k *pair) child() (int, error) {
	parent := k.procs[master].PID()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return 0, fmt.Errorf("find child of keepalived: %w", err)
	}
	var pid int
	if _, err := fmt.Sscan(string(raw), &pid); err != nil {
		return 0, fmt.Errorf("find child of keepalived in %q: %w", raw, err)
	}
	return pid, nil
}

func (k *pair) signalChild(sig unix.Signal) (*lab.Fault, error) {
	pid, err := k.child()
	if err != nil {
		return nil, err
	}
	return &lab.Fault{Name: sig.String(), At: lab.Now()}, unix.Kill(pid, sig)
}

// signalAll sends a signal to both of the master's processes, the parent
// stopped first so that it cannot react to the end of its child.
func (k *pair) signalAll(sig unix.Signal) (*lab.Fault, error) {
	pid, err := k.child()
	if err != nil {
		return nil, err
	}
	f := &lab.Fault{Name: sig.String(), At: lab.Now()}
	parent := k.procs[master].PID()
	return f, errors.Join(unix.Kill(parent, unix.SIGSTOP), unix.Kill(pid, sig), unix.Kill(parent, sig))
}
