package e2e

import (
	"debug/elf"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// leftovers lists what a member that has ended may not leave on its host.
func (w *world) leftovers(t *testing.T, node string) []string {
	t.Helper()
	var found []string
	if has, err := w.lab.HasAddress(node, lab.VIP4.Addr()); err != nil || has {
		found = append(found, fmt.Sprintf("the address (%v)", err))
	}
	qdisc, err := w.lab.Run(within(t, settle), node, "tc", "qdisc", "show")
	check(t, err)
	if strings.Contains(qdisc.Stdout, "clsact") {
		found = append(found, "clsact: "+qdisc.Stdout)
	}
	handle, err := w.lab.Netlink(node)
	check(t, err)
	links, err := handle.LinkList()
	check(t, err)
	check(t, w.lab.Do(node, func() error {
		for _, l := range links {
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				r, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at})
				if err != nil {
					continue // a kernel without tcx has none
				}
				if len(r.Programs) > 0 {
					found = append(found, fmt.Sprintf("%d tcx programs on %s", len(r.Programs), l.Attrs().Name))
				}
			}
		}
		return nil
	}))
	mounts, err := os.ReadFile("/proc/self/mounts")
	check(t, err)
	for _, m := range lines(string(mounts), w.RuntimeDir(node)) {
		found = append(found, "mount "+m)
	}
	for _, name := range []string{"control.sock", "guard.pid", "worker.pid"} {
		if _, err := os.Lstat(filepath.Join(w.RuntimeDir(node), name)); err == nil {
			found = append(found, name)
		}
	}
	entries, err := os.ReadDir(filepath.Join(w.RuntimeDir(node), "bpf"))
	if err == nil && len(entries) > 0 {
		found = append(found, fmt.Sprintf("pins: %v", entries))
	}
	return found
}

// Covers C2, S6, A5, E6
func TestPlannedStopOfTheHolderLeavesNothing(t *testing.T) {
	for _, mode := range []string{"clsact", "tcx"} {
		t.Run(mode, func(t *testing.T) {
			w := launch(t, pair, lab.ClusterOptions{Env: []string{"HOLDFAST_ATTACH=" + mode}})
			holder := w.holder(t)
			p := w.watch(t)
			w.stop(t, holder)
			if code := w.Proc(holder).ExitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if left := w.leftovers(t, holder); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			next := w.holder(t, w.other(holder))
			p.owner(next)
			if r := p.safeWithin(undisturbed); r.ChangeCount != 1 {
				t.Errorf("moves: %+v", r.Changes)
			}
			s, err := w.status(next)
			check(t, err)
			if last := s.Failovers[len(s.Failovers)-1]; last.From != holder || last.To != next {
				t.Errorf("history: %+v", last)
			}
			p = w.watch(t)
			w.start(t, holder)
			w.ready(t)
			w.seen(t, holder, func(r *report) error {
				if r.Role != "standby" {
					return fmt.Errorf("role %q", r.Role)
				}
				return nil
			})
			p.untouched()
			w.stop(t)
			for _, n := range w.Names() {
				if left := w.leftovers(t, n); len(left) > 0 {
					t.Errorf("left behind on %s: %v", n, left)
				}
				if code := w.Proc(n).ExitCode(); code != 0 {
					t.Errorf("%s: exit code %d", n, code)
				}
			}
		})
	}
}

// Covers C2, S3, S6, A4
func TestHostTakesTheAddressOrTheInterfaceAway(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{VIPs: []lab.VIP{{Prefix: lab.VIP4}, {Prefix: lab.VIP6}}})

	t.Run("deleted address is put back", func(t *testing.T) {
		holder := w.holder(t)
		four, six, epoch := w.watch(t), w.watch(t, lab.ProbeOptions{Target: lab.VIP6.Addr()}), w.epoch(t, holder)
		for range 3 {
			broken(t)(w.DeleteVIP(holder))
			eventually(t, func() error {
				for _, a := range []netip.Addr{lab.VIP4.Addr(), lab.VIP6.Addr()} {
					if has, err := w.lab.HasAddress(holder, a); err != nil || !has {
						return fmt.Errorf("%v is not there: %v", a, err)
					}
				}
				return nil
			})
		}
		four.untouched()
		six.untouched()
		if e := w.epoch(t, holder); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	})

	t.Run("interface of the holder goes down and up", func(t *testing.T) {
		holder := w.holder(t)
		p := w.watch(t)
		set := func(state string) {
			t.Helper()
			out, err := w.lab.Run(within(t, settle), holder, "ip", "link", "set", "eth0", state)
			check(t, err)
			if out.Code != 0 {
				t.Fatal(out.Stderr)
			}
		}
		set("down")
		next := w.holder(t, w.other(holder))
		p.owner(next)
		w.seen(t, holder, func(r *report) error { return r.has("cannot_hold", "eth0") })
		set("up")
		w.ready(t)
		w.seen(t, holder, func(r *report) error {
			if r.has("cannot_hold") == nil || r.Role != "standby" {
				return fmt.Errorf("it is not well again")
			}
			return nil
		})
		p.safeWithin(moved)
		w.failover(t, holder)
	})
}

// Covers C1, C2, A4
func TestInterfaceOfTheAddressIsMissingAtTheStart(t *testing.T) {
	w := prepare(t, pair, lab.ClusterOptions{Config: func(n *lab.Node, cfg lab.Table) {
		if n.Name == "gw2" {
			cfg["vip"].([]lab.Table)[0]["interface"] = "late0"
		}
	}})
	began := time.Now()
	w.start(t, "gw2")
	if err := w.Proc("gw2").Wait(within(t, 20*time.Second)); w.Running("gw2") {
		t.Fatalf("still there after %v: %v", time.Since(began), err)
	}
	if code := w.Proc("gw2").ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	log := w.log(t, "gw2")
	wantText(t, log, "late0", "hint: ", "ip -br link")
	if left := w.leftovers(t, "gw2"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	w.start(t)
	eventually(t, func() error {
		if strings.Count(w.log(t, "gw2"), "waiting for interface") < 2 {
			return fmt.Errorf("gw2 does not say that it waits")
		}
		return nil
	})
	out, err := w.lab.Run(within(t, settle), "gw2", "ip", "link", "add", "late0", "up", "type", "veth", "peer", "name", "late1")
	check(t, err)
	if out.Code != 0 {
		t.Fatal(out.Stderr)
	}
	if out, err = w.lab.Run(within(t, settle), "gw2", "ip", "link", "set", "late1", "up"); err != nil || out.Code != 0 {
		t.Fatal(err, out.Stderr)
	}
	w.ready(t)
	if !w.Running("gw2") {
		t.Error("gw2 did not start although its interface came")
	}
}

// Covers C1, C6
func TestBinaryIsStaticAndSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast")
	// As the Makefile builds it.
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -buildid= -X main.version=test", "-o", path,
		"github.com/holdfast-ha/holdfast/cmd/holdfast")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	st, err := os.Stat(path)
	check(t, err)
	if st.Size() > 20<<20 {
		t.Errorf("%d bytes, at most 20 MiB", st.Size())
	}
	file, err := elf.Open(path)
	check(t, err)
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it has a %v segment: not static", p.Type)
		}
	}
	if libs, err := file.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("it needs %v", libs)
	}
	if tool, err := exec.LookPath("file"); err == nil {
		out, err := exec.Command(tool, "-b", path).CombinedOutput()
		check(t, err)
		wantText(t, string(out), "statically linked")
	}
	out, err := exec.Command(path, "version").CombinedOutput()
	check(t, err)
	wantText(t, string(out), "test")
}
