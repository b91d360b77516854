package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// target is one process, told from a later one with the same id.
type target struct {
	pid   int
	start uint64
}

func newTarget(pid int) (target, error) {
	st, err := readStat(pid)
	if err != nil {
		return target{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	return target{pid: pid, start: st.start}, nil
}

// signal sends a signal; a process that has ended is no error.
func (t target) signal(sig unix.Signal) error {
	if st, err := readStat(t.pid); err != nil || st.start != t.start {
		return nil
	}
	if err := unix.Kill(t.pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, t.pid, err)
	}
	return nil
}

func (c *Cluster) guardTarget(node string) (target, error) {
	pid, err := c.GuardPID(node)
	if err != nil {
		return target{}, err
	}
	return newTarget(pid)
}

func (c *Cluster) workerTarget(node string) (target, error) {
	pid, err := c.WorkerPID(node)
	if err != nil {
		return target{}, err
	}
	return newTarget(pid)
}

func (c *Cluster) fault(name string, undo func() error) *Fault {
	c.lab.logger.Info("fault", "name", name)
	return &Fault{Name: name, At: Now(), undo: undo}
}

// KillWorker kills the worker with SIGKILL. Its guard lives, so Undo has
// nothing to do.
func (c *Cluster) KillWorker(node string) (*Fault, error) {
	w, err := c.workerTarget(node)
	if err != nil {
		return nil, err
	}
	f := c.fault("kill worker of "+node, nil)
	if err := w.signal(unix.SIGKILL); err != nil {
		return nil, err
	}
	return f, waitGone(w.pid, w.start, killLimit)
}

// KillGuard kills the guard with SIGKILL and waits for its end, not for that
// of its worker. Undo starts the member.
func (c *Cluster) KillGuard(node string) (*Fault, error) {
	m, err := c.member(node)
	if err != nil {
		return nil, err
	}
	p := m.guard()
	if p == nil {
		return nil, fmt.Errorf("kill guard of %s: it does not run", node)
	}
	f := c.fault("kill guard of "+node, func() error { return c.Start(node) })
	if err := p.Signal(unix.SIGKILL); err != nil {
		return nil, err
	}
	return f, waitProc(p)
}

func waitProc(p *Proc) error {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	if p.Wait(ctx); ctx.Err() != nil {
		return fmt.Errorf("wait for the end of process %d: %w", p.PID(), ctx.Err())
	}
	return nil
}

// Kill kills guard and worker of the members at once, all members when none is
// named: the guard is stopped first, so that it cannot react to the worker's
// end. The node's kernel lives on and answers for its addresses. Undo starts
// the members.
func (c *Cluster) Kill(nodes ...string) (*Fault, error) {
	ms, err := c.some(nodes)
	if err != nil {
		return nil, err
	}
	f := c.fault(fmt.Sprintf("kill guard and worker of %v", nodes), func() error { return c.Start(nodes...) })
	var victims []target
	for _, m := range ms {
		both, err := c.stopBoth(m, false)
		if err != nil {
			return nil, err
		}
		victims = append(victims, both...)
	}
	f.At = Now()
	for _, v := range victims {
		if err := v.signal(unix.SIGKILL); err != nil {
			return nil, err
		}
	}
	var all error
	for _, v := range victims {
		all = errors.Join(all, waitGone(v.pid, v.start, killLimit))
	}
	for _, m := range ms {
		if p := c.Proc(m.node.Name); p != nil {
			all = errors.Join(all, waitProc(p))
		}
	}
	return f, all
}

// stopBoth stops the guard, then with worker also the worker, and returns the
// worker and the guard, in that order. A member that does not run has none.
func (c *Cluster) stopBoth(m *member, worker bool) ([]target, error) {
	if m.guard() == nil {
		return nil, nil
	}
	g, err := c.guardTarget(m.node.Name)
	if err != nil {
		return nil, err
	}
	if err := stop(g); err != nil {
		return nil, err
	}
	w, err := c.workerTarget(m.node.Name)
	if err != nil {
		return []target{g}, nil // between two workers
	}
	if worker {
		if err := stop(w); err != nil {
			return nil, err
		}
	}
	return []target{w, g}, nil
}

// stop sends SIGSTOP and waits until the kernel has stopped the process.
func stop(t target) error {
	if err := t.signal(unix.SIGSTOP); err != nil {
		return err
	}
	return waitState(t.pid, 'T', hangLimit)
}

// HangWorker stops the worker with SIGSTOP. Undo lets it go on, if its guard
// has not killed it.
func (c *Cluster) HangWorker(node string) (*Fault, error) {
	w, err := c.workerTarget(node)
	if err != nil {
		return nil, err
	}
	f := c.fault("hang worker of "+node, func() error { return w.signal(unix.SIGCONT) })
	return f, stop(w)
}

// HangGuard stops the guard with SIGSTOP. Undo lets it go on.
func (c *Cluster) HangGuard(node string) (*Fault, error) {
	g, err := c.guardTarget(node)
	if err != nil {
		return nil, err
	}
	f := c.fault("hang guard of "+node, func() error { return g.signal(unix.SIGCONT) })
	return f, stop(g)
}

// Hang stops guard and worker with SIGSTOP, the guard first, so that it cannot
// react. Undo lets both go on.
func (c *Cluster) Hang(node string) (*Fault, error) {
	m, err := c.member(node)
	if err != nil {
		return nil, err
	}
	at := Now()
	both, err := c.stopBoth(m, true)
	if err != nil {
		return nil, err
	}
	if len(both) == 0 {
		return nil, fmt.Errorf("hang %s: it does not run", node)
	}
	f := c.fault("hang guard and worker of "+node, func() error {
		var all error
		for _, t := range both {
			all = errors.Join(all, t.signal(unix.SIGCONT))
		}
		return all
	})
	f.At = at
	return f, nil
}

// PowerCut takes the power from nodes, all members when none is named: their
// cables are dead at once, every process on them is killed, and what a kernel
// loses with its power is removed: addresses of the VIPs, programs on
// interfaces, the runtime directory with its pins. Files keep what was
// written, synced or not: this machine's page cache survives. Undo gives the
// power back and starts the members.
func (c *Cluster) PowerCut(nodes ...string) (*Fault, error) {
	ms, err := c.some(nodes)
	if err != nil {
		return nil, err
	}
	f := c.fault(fmt.Sprintf("power cut of %v", nodes), nil)
	var links []*Fault
	inodes := map[uint64]bool{}
	for _, m := range ms {
		link, err := c.lab.LinkDown(m.node.Name + "/*")
		if err != nil {
			return nil, err
		}
		links = append(links, link)
		inodes[c.lab.spaces[m.node.Name].inode] = true
	}
	f.undo = func() error {
		var all error
		for _, link := range links {
			all = errors.Join(all, link.Undo())
		}
		return errors.Join(all, c.Start(nodes...))
	}
	if err := killIn(inodes, killLimit); err != nil {
		return nil, err
	}
	for _, m := range ms {
		if p := c.Proc(m.node.Name); p != nil {
			if err := waitProc(p); err != nil {
				return nil, err
			}
		}
		if err := c.forgetKernel(m); err != nil {
			return nil, fmt.Errorf("cut power of %s: %w", m.node.Name, err)
		}
	}
	return f, nil
}

// forgetKernel removes what a kernel loses with its power.
func (c *Cluster) forgetKernel(m *member) error {
	if err := unmountUnder(m.runtimeDir()); err != nil {
		return err
	}
	entries, err := os.ReadDir(m.runtimeDir())
	if err != nil {
		return fmt.Errorf("read runtime directory: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(m.runtimeDir(), e.Name())); err != nil {
			return fmt.Errorf("empty runtime directory: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), nftLimit)
	defer cancel()
	for _, nic := range m.node.NICs {
		// An interface without one is an error of tc and none of ours.
		if _, err := c.lab.Run(ctx, m.node.Name, "tc", "qdisc", "del", "dev", nic.Name, "clsact"); err != nil {
			return err
		}
	}
	return c.deleteVIPs(m.node.Name)
}

// deleteVIPs removes the floating addresses with whatever prefix length they
// have: a member may set them as host addresses.
func (c *Cluster) deleteVIPs(node string) error {
	for _, v := range c.options.VIPs {
		if err := c.lab.removeAddress(node, v.Prefix.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// DeleteVIP removes the floating addresses from a node's interfaces, as a
// network manager that restarts does. Undo does nothing: putting them back is
// the member's business.
func (c *Cluster) DeleteVIP(node string) (*Fault, error) {
	if _, err := c.member(node); err != nil {
		return nil, err
	}
	f := c.fault("delete VIP on "+node, nil)
	return f, c.deleteVIPs(node)
}

// FailPreAcquire makes the pre-acquire hook of a member fail from now on. The
// cluster needs the option PreAcquireHook. Undo makes it succeed again.
func (c *Cluster) FailPreAcquire(node string) (*Fault, error) {
	m, err := c.member(node)
	if err != nil {
		return nil, err
	}
	if !c.options.PreAcquireHook {
		return nil, errors.New("fail pre-acquire hook: the cluster was made without it")
	}
	f := c.fault("pre-acquire hook of "+node+" fails", func() error { return os.Remove(m.failFile()) })
	if err := os.WriteFile(m.failFile(), nil, 0o600); err != nil {
		return nil, fmt.Errorf("fail pre-acquire hook: %w", err)
	}
	return f, nil
}

// Restart stops the members gracefully, all at once, and starts them again;
// all members when none is named.
func (c *Cluster) Restart(nodes ...string) (*Fault, error) {
	f := c.fault(fmt.Sprintf("restart of %v", nodes), nil)
	if err := c.Stop(nodes...); err != nil {
		return nil, err
	}
	return f, c.Start(nodes...)
}
