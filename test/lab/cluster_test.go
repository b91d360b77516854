package lab_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// newCluster starts a cluster of stand-ins and waits until it is ready.
func newCluster(t *testing.T, l *lab.Lab, o lab.ClusterOptions) *lab.Cluster {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Binary, o.Env = self, []string{memberMark + "=1", "GORACE=atexit_sleep_ms=0"}
	c, err := l.NewCluster(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitReady(t, c)
	return c
}

func waitReady(t *testing.T, c *lab.Cluster) {
	t.Helper()
	if err := c.WaitReady(deadline(t)); err != nil {
		t.Fatal(err)
	}
}

func workerPID(t *testing.T, c *lab.Cluster, node string) int {
	t.Helper()
	pid, err := c.WorkerPID(node)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// gone reports whether a process has ended or waits to be reaped.
func gone(pid int) bool {
	raw, err := os.ReadFile(procFile(pid, "stat"))
	return err != nil || strings.Contains(string(raw), ") Z ")
}

func stopped(pid int) bool {
	raw, err := os.ReadFile(procFile(pid, "stat"))
	return err == nil && strings.Contains(string(raw), ") T ")
}

// eventually waits for a condition that the kernel or a stand-in brings about.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx := deadline(t)
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in 20 s: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func check(t *testing.T, f *lab.Fault, err error) *lab.Fault {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestClusterStartsStopsAndLeavesNothing(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Witnesses: 1, Clients: 1, Cable: true})
	c := newCluster(t, l, lab.ClusterOptions{})
	if h, err := c.WaitHolder(deadline(t)); err != nil || h != "gw1" || c.Leader() != "gw1" {
		t.Errorf("holder %q (%v), leader %q", h, err, c.Leader())
	}
	if s, err := c.StatusOf("gw2"); err != nil || s.Node != "gw2" || s.Holds() || s.Term != 3 || !strings.Contains(string(s.Raw), "/v1/status") {
		t.Errorf("status of gw2: %+v, %v", s, err)
	}
	guard, err := c.GuardPID("w1")
	if err != nil || guard == workerPID(t, c, "w1") {
		t.Errorf("guard %d (%v) is its own worker", guard, err)
	}
	out, err := c.RunCLI(deadline(t), "gw2", "status", "--json")
	if err != nil || out.Code != 4 || out.Stderr != "refused\n" ||
		out.Stdout != "asked through "+c.RuntimeDir("gw2")+"/control.sock: [status --json]\n" {
		t.Errorf("command line: %+v, %v", out, err)
	}
	// The member is in its node's network namespace and our mount namespace.
	ours, _ := os.Readlink("/proc/self/ns/mnt")
	if theirs, err := os.Readlink(procFile(guard, "ns/mnt")); err != nil || theirs != ours {
		t.Errorf("mount namespace %q (%v), want ours %q", theirs, err, ours)
	}
	if net, err := os.Readlink(procFile(guard, "ns/net")); err != nil || net == mustReadlink(t, "/proc/self/ns/net") {
		t.Errorf("network namespace %q (%v) is ours", net, err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if c.Running("gw1") || c.Proc("gw1").ExitCode() != 0 || c.Holder() != "" {
		t.Errorf("after the stop: running %v, exit code %d", c.Running("gw1"), c.Proc("gw1").ExitCode())
	}
	if err := c.Start("gw1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "second log of gw1", func() bool {
		return len(l.LogFiles("gw1")) == 2 && strings.Contains(l.Logs(5), "guard of gw1 starts a worker")
	})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left := traces(t, l); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestClusterConfiguration(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Witnesses: 1, Cable: true, SecondNIC: []string{"gw1"}})
	c := newCluster(t, l, lab.ClusterOptions{
		VIPs:           []lab.VIP{{Prefix: lab.VIP4}, {Prefix: lab.VIP6, Scope: "forwarding"}},
		Timing:         lab.Timing{Beat: 10 * time.Millisecond, Promise: 120 * time.Millisecond, Epsilon: 5 * time.Millisecond},
		PreAcquireHook: true,
		Config: func(n *lab.Node, cfg lab.Table) {
			if n.Name == "gw2" {
				cfg["placement"] = lab.Table{"preempt": true}
			}
		},
	})
	var got struct {
		Member []struct {
			Name, Role string
			PublicKey  string `toml:"public_key"`
			Addresses  []string
		}
		VIP    []struct{ Address, Interface, Group, Scope string }
		Timing struct{ Beat, Promise, Epsilon string }
		Hook   []struct {
			Phase   string
			Command []string
		}
		Placement struct{ Preempt bool }
	}
	if _, err := toml.DecodeFile(c.ConfigFile("gw2"), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Member) != 3 || len(got.Member[0].PublicKey) != 44 || got.Member[2].Role != "witness" {
		t.Fatalf("members %+v", got.Member)
	}
	if a := strings.Join(got.Member[0].Addresses, " "); a != "10.77.0.1:7400 10.78.0.1:7400" {
		t.Errorf("addresses of gw1: %s", a)
	}
	if len(got.VIP) != 2 || got.VIP[1].Address != "fd77::100/64" || got.VIP[1].Scope != "forwarding" || got.VIP[0].Interface != "eth0" {
		t.Errorf("VIPs %+v", got.VIP)
	}
	if got.Timing.Beat != "10ms" || !got.Placement.Preempt {
		t.Errorf("timing %+v, placement %+v", got.Timing, got.Placement)
	}
	hook := got.Hook[0].Command[0]
	if err := exec.Command(hook).Run(); err != nil {
		t.Errorf("hook: %v", err)
	}
	f, err := c.FailPreAcquire("gw2")
	check(t, f, err)
	if err := exec.Command(hook).Run(); err == nil {
		t.Error("the hook does not fail")
	}
	undo(t, f)
	if err := exec.Command(hook).Run(); err != nil {
		t.Errorf("hook after the undo: %v", err)
	}
}

func TestProcessFaults(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Witnesses: 1})
	c := newCluster(t, l, lab.ClusterOptions{})
	pids := func() (int, int) {
		g, err := c.GuardPID("gw1")
		if err != nil {
			t.Fatal(err)
		}
		return g, workerPID(t, c, "gw1")
	}

	g, w := pids()
	f, err := c.HangWorker("gw1")
	check(t, f, err)
	if !stopped(w) || stopped(g) {
		t.Error("hang worker: not the worker alone")
	}
	undo(t, f)
	eventually(t, "worker goes on", func() bool { return !stopped(w) })

	f, err = c.HangGuard("gw1")
	check(t, f, err)
	if stopped(w) || !stopped(g) {
		t.Error("hang guard: not the guard alone")
	}
	undo(t, f)

	f, err = c.Hang("gw1")
	check(t, f, err)
	if !stopped(w) || !stopped(g) {
		t.Error("hang: not both")
	}
	undo(t, f)
	eventually(t, "both go on", func() bool { return !stopped(w) && !stopped(g) })

	f, err = c.KillWorker("gw1")
	check(t, f, err)
	if !gone(w) || gone(g) {
		t.Error("kill worker: not the worker alone")
	}
	waitReady(t, c)
	if again := workerPID(t, c, "gw1"); again == w {
		t.Error("the worker is the old one")
	}

	g, w = pids()
	f, err = c.KillGuard("gw1")
	check(t, f, err)
	if !gone(g) || c.Running("gw1") {
		t.Error("kill guard: it lives")
	}
	eventually(t, "worker ends with its guard", func() bool { return gone(w) })
	undo(t, f)
	waitReady(t, c)

	g, w = pids()
	f, err = c.Kill("gw1")
	check(t, f, err)
	if !gone(g) || !gone(w) {
		t.Error("kill: one lives")
	}
	if logs := l.LogFiles("gw1"); strings.Contains(readFile(t, logs[len(logs)-1]), "worker ended") {
		t.Error("the guard could react to the end of its worker")
	}
	undo(t, f)
	waitReady(t, c)
	if f, err := c.KillWorker("gw9"); err == nil {
		t.Errorf("killed a worker that is not there: %v", f)
	}
}

func TestPowerCutAndVIPs(t *testing.T) {
	l := newLab(t, lab.Options{Gateways: 2, Witnesses: 1, Cable: true})
	c := newCluster(t, l, lab.ClusterOptions{VIPs: []lab.VIP{{Prefix: lab.VIP4}, {Prefix: lab.VIP6}}})
	has := func(node string) bool {
		four, err := l.HasAddress(node, lab.VIP4.Addr())
		if err != nil {
			t.Fatal(err)
		}
		six, err := l.HasAddress(node, lab.VIP6.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if four != six {
			t.Errorf("%s has the IPv4 VIP: %v, the IPv6 VIP: %v", node, four, six)
		}
		return four
	}
	ownBoth := func() {
		own(t, l, "gw1", lab.VIP4)
		own(t, l, "gw1", lab.VIP6)
	}
	ownBoth()
	own(t, l, "gw1", netip.PrefixFrom(lab.VIP4.Addr(), 32)) // as some programs add it
	f, err := c.DeleteVIP("gw1")
	check(t, f, err)
	if has("gw1") {
		t.Error("delete VIP: it is still there")
	}
	ownBoth()
	if out, err := l.Run(deadline(t), "gw1", "tc", "qdisc", "add", "dev", "eth0", "clsact"); err != nil || out.Code != 0 {
		t.Fatalf("add clsact: %v %s", err, out.Stderr)
	}
	w := workerPID(t, c, "gw1")
	if len(mountsOf(t, c.RuntimeDir("gw1"))) != 1 {
		t.Error("the stand-in has mounted nothing")
	}
	f, err = c.PowerCut("gw1", "w1")
	check(t, f, err)
	if !gone(w) || c.Running("gw1") || c.Running("w1") || !c.Running("gw2") {
		t.Error("not the processes of those nodes alone ended")
	}
	if has("gw1") || len(mountsOf(t, c.RuntimeDir("gw1"))) != 0 {
		t.Error("the kernel's memory survived")
	}
	if out, err := l.Run(deadline(t), "gw1", "tc", "qdisc", "show", "dev", "eth0"); err != nil || strings.Contains(out.Stdout, "clsact") {
		t.Errorf("programs survived: %v %s", err, out.Stdout)
	}
	if left, err := filepath.Glob(c.RuntimeDir("gw1") + "/*"); err != nil || len(left) > 0 {
		t.Errorf("left in the runtime directory: %v %v", left, err)
	}
	for _, nic := range []string{"eth0", "peer0"} {
		if up, err := l.Carrier("gw1", nic); err != nil || up {
			t.Errorf("%s has a carrier: %v %v", nic, up, err)
		}
	}
	undo(t, f)
	waitReady(t, c)
	if up, err := l.Carrier("gw1", "peer0"); err != nil || !up {
		t.Errorf("no carrier afterwards: %v %v", up, err)
	}
	f, err = c.Restart()
	check(t, f, err)
	waitReady(t, c)
}
