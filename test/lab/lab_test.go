package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// newLab builds a lab that ends with the test.
func newLab(t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	lab.NeedRoot(t)
	l, err := lab.New(o)
	if err != nil {
		t.Fatalf("build lab: %v", err)
	}
	l.Attach(t)
	return l
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// pings reports whether node reaches addr with one ICMP echo. When it should
// it may take longer: asking again for a neighbour that was lost takes the
// kernel a second.
func pings(t *testing.T, l *lab.Lab, node string, addr netip.Addr, should bool) bool {
	t.Helper()
	wait := "0.2"
	if should {
		wait = "5"
	}
	out, err := l.Run(deadline(t), node, "ping", "-n", "-c", "1", "-W", wait, addr.String())
	if err != nil {
		t.Fatalf("ping from %s: %v", node, err)
	}
	return out.Code == 0
}

func nodeAddr(t *testing.T, l *lab.Lab, node, nic string) (v4, v6 netip.Addr) {
	t.Helper()
	n, err := l.Node(node)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := n.NIC(nic)
	if !ok {
		t.Fatalf("%s has no %s", node, nic)
	}
	return c.IPv4.Addr(), c.IPv6.Addr()
}

// traces returns what is left of a lab on this machine.
func traces(t *testing.T, l *lab.Lab) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{"/run/netns", "/run/holdfast-lab", os.TempDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.Contains(e.Name(), l.ID) {
				found = append(found, dir+"/"+e.Name())
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "hf-"+l.ID) {
			found = append(found, "mount "+line)
		}
	}
	return found
}

func TestBuildAndTearDownLeavesNothing(t *testing.T) {
	lab.NeedRoot(t)
	l, err := lab.New(lab.Options{Gateways: 2, Witnesses: 1, Clients: 1, Cable: true, SecondNIC: []string{"gw1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for _, to := range []struct{ node, nic string }{{"gw1", "eth0"}, {"gw2", "eth0"}, {"w1", "eth0"}, {"gw1", "eth1"}} {
		v4, v6 := nodeAddr(t, l, to.node, to.nic)
		if !pings(t, l, "c1", v4, true) || !pings(t, l, "c1", v6, true) {
			t.Errorf("c1 does not reach %s/%s", to.node, to.nic)
		}
	}
	v4, v6 := nodeAddr(t, l, "gw2", "peer0")
	if !pings(t, l, "gw1", v4, true) || !pings(t, l, "gw1", v6, true) {
		t.Error("gw1 does not reach gw2 over the second cable")
	}
	// A process that would outlive the lab, and one that has changed its
	// session.
	p, err := l.Start("gw1", exec.Command("setsid", "--fork", "sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	q, err := l.Start("gw2", exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if len(traces(t, l)) == 0 {
		t.Error("the test finds no trace of a lab that is up, so it could find none of a leak")
	}
	if err := l.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if q.Running() {
		t.Error("a process of the lab is still running")
	}
	if left := traces(t, l); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if out, _ := exec.Command("sh", "-c", "ip -o link | grep -E 'gw1|peer0' ").Output(); len(out) > 0 {
		t.Errorf("links in the machine's own namespace: %s", out)
	}
	if err := l.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}

func TestTwoLabsAtOnce(t *testing.T) {
	a := newLab(t, lab.Options{Gateways: 1, Clients: 1})
	b := newLab(t, lab.Options{Gateways: 1, Clients: 1})
	if a.ID == b.ID {
		t.Fatal("two labs have one id")
	}
	if err := a.AddAddress("gw1", "eth0", lab.VIP4); err != nil {
		t.Fatal(err)
	}
	if !pings(t, a, "c1", lab.VIP4.Addr(), true) {
		t.Error("the address does not answer in its own lab")
	}
	if pings(t, b, "c1", lab.VIP4.Addr(), false) {
		t.Error("the address of one lab answers in the other")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	v4, _ := nodeAddr(t, b, "gw1", "eth0")
	if !pings(t, b, "c1", v4, true) {
		t.Error("closing one lab broke the other")
	}
}

// orphanMark makes this test binary build a lab, say so and wait for a signal.
const orphanMark = "HOLDFAST_LAB_TEST_ORPHAN"

func TestMain(m *testing.M) {
	if os.Getenv(memberMark) != "" {
		os.Exit(standIn(os.Args[1:]))
	}
	if os.Getenv(orphanMark) != "" {
		orphan()
	}
	os.Exit(m.Run())
}

func orphan() {
	l, err := lab.New(lab.Options{Gateways: 1, Clients: 1})
	if err != nil {
		panic(err)
	}
	defer l.Close()
	if _, err := l.Start("gw1", exec.Command("sleep", "1000")); err != nil {
		panic(err)
	}
	if _, err := l.Start("gw1", exec.Command("setsid", "--fork", "sleep", "1000")); err != nil {
		panic(err)
	}
	if os.Getenv(orphanMark) == "panic" {
		panic("on purpose, with lab " + l.ID)
	}
	os.Stdout.WriteString(l.ID + "\n")
	select {}
}

// startOrphan runs this binary as an orphan and returns it with its lab's id.
func startOrphan(t *testing.T) (*exec.Cmd, *lab.Lab) {
	t.Helper()
	lab.NeedRoot(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), orphanMark+"=wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	id := make([]byte, 6)
	if _, err := out.Read(id); err != nil {
		t.Fatal(err)
	}
	return cmd, &lab.Lab{ID: string(id)}
}

func TestSignalClosesTheLab(t *testing.T) {
	cmd, l := startOrphan(t)
	if len(traces(t, l)) == 0 {
		t.Fatal("no trace of the lab")
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "interrupt") {
		t.Errorf("ended with %v, want the signal", err)
	}
	if left := traces(t, l); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPanicClosesTheLab(t *testing.T) {
	lab.NeedRoot(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), orphanMark+"=panic")
	out, err := cmd.CombinedOutput()
	_, rest, ok := strings.Cut(string(out), "with lab ")
	if err == nil || !ok {
		t.Fatalf("did not panic: %v\n%s", err, out)
	}
	if left := traces(t, &lab.Lab{ID: rest[:6]}); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSweepRemovesDeadLabsOnly(t *testing.T) {
	alive := newLab(t, lab.Options{Gateways: 1, Clients: 1})
	cmd, dead := startOrphan(t)
	if _, err := lab.Sweep(); err != nil {
		t.Fatal(err)
	}
	if len(traces(t, dead)) == 0 {
		t.Fatal("a lab of a process that is alive was swept")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if _, err := lab.Sweep(); err != nil {
		t.Fatal(err)
	}
	if left := traces(t, dead); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	v4, _ := nodeAddr(t, alive, "gw1", "eth0")
	if !pings(t, alive, "c1", v4, true) {
		t.Error("the sweep broke a lab that is alive")
	}
}

func procFile(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

func mustReadlink(t *testing.T, path string) string {
	t.Helper()
	s, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mountsOf returns the mount points below a directory.
func mountsOf(t *testing.T, dir string) []string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			found = append(found, f[4])
		}
	}
	return found
}
