package netfence

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// TestModeChange covers a new guard in the other mode: the VIP is never open
// in between, and nothing of the old mode is left.
func TestModeChange(t *testing.T) {
	p := newPair(t)
	dir := pinRoot(t)
	for _, mode := range []string{ModeTCX, ModeClsact, ModeTCX} {
		f := loadFence(t, dir, mode)
		check(t, f.SetVIPs(bothVIPs))
		p.expectOpenNever(t, f)
		for _, l := range linksHere(t) {
			for _, d := range directions {
				res, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: tcxType(d)})
				check(t, err)
				out := run(t, "tc", "filter", "show", "dev", l.Attrs().Name, d.String())
				if (len(res.Programs) == 1) != (mode == ModeTCX) || strings.Contains(out, filterName) != (mode == ModeClsact) {
					t.Errorf("mode %s: %d tcx programs and filters %q", mode, len(res.Programs), out)
				}
			}
		}
		check(t, f.Verify())
		g := openGate(t, f, 9)
		open(t, g, vipGroup)
		p.expectVIP(t, "open in mode "+mode, true)
		check(t, f.CloseAll())
		check(t, f.Close())
	}
	f := loadFence(t, dir, ModeTCX)
	check(t, f.Detach())
	expectNothingLeft(t, dir)
}

// expectOpenNever attaches while the client asks for the VIP without pause.
func (p pair) expectOpenNever(t testing.TB, f *Fence) {
	t.Helper()
	first := true
	for _, l := range linksHere(t) { // before the first guard the VIP answers, rightly
		res, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		check(t, err)
		if len(res.Programs) > 0 || strings.Contains(run(t, "tc", "filter", "show", "dev", l.Attrs().Name, "ingress"), filterName) {
			first = false
		}
	}
	var asker *exec.Cmd
	var out io.ReadCloser
	inside(t, p.client, func() {
		asker = exec.Command("ping", "-n", "-f", "-W", "0.1", "-w", "60", vip4.String())
		var err error
		out, err = asker.StdoutPipe()
		check(t, err)
		check(t, asker.Start())
	})
	r := bufio.NewReader(out)
	asked := func(n int) { // until n more requests have left: each prints a dot
		for range n {
			_, err := r.ReadString('.')
			check(t, err)
		}
	}
	_, headErr := r.ReadString('\n') // it has dots too
	check(t, headErr)
	asked(3)
	err := errors.Join(f.AttachAll(), f.AttachAll())
	asked(3)
	check(t, asker.Process.Signal(unix.SIGINT))
	rest, readErr := io.ReadAll(r)
	_ = asker.Wait() // its exit code tells of lost packets, which is the point
	check(t, errors.Join(err, readErr))
	if !first && !strings.Contains(string(rest), " 0 received") {
		t.Errorf("the VIP answered while programs were replaced:\n%s", rest)
	}
}

// TestOtherLayoutIsReplaced covers pins of a binary with other maps: they are
// closed by their number, guard the VIP until the new programs stand, and go.
func TestOtherLayoutIsReplaced(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			p := newPair(t)
			dir := pinRoot(t)
			f := loadFence(t, dir, mode)
			check(t, f.SetVIPs(bothVIPs))
			check(t, f.AttachAll())
			g := openGate(t, f, 7)
			open(t, g, vipGroup)
			current := f.dir
			check(t, f.Close())

			damages := map[string]func(){
				"another layout": func() { check(t, os.Rename(current, filepath.Join(dir, "gate-0123456789abcdef"))) },
				"a map missing":  func() { check(t, os.Remove(filepath.Join(current, "vips"))) },
			}
			for name, damage := range damages {
				open(t, g, vipGroup) // the old worker still lives
				p.expectVIP(t, name+": before", true)
				damage()
				f = loadFence(t, dir, mode)
				p.expectVIP(t, name+": loaded", false)
				if err := f.AttachAll(); !errors.Is(err, ErrVIPsFirst) {
					t.Errorf("%s: AttachAll before SetVIPs: %v", name, err)
				}
				p.expectVIP(t, name+": still the old programs", false)
				check(t, f.SetVIPs(bothVIPs))
				p.expectOpenNever(t, f)
				check(t, f.Verify())
				if old, err := f.pins.retired(f.dir); err != nil || len(old) > 0 {
					t.Errorf("%s: old pins left: %v, %v", name, old, err)
				}
				for _, l := range linksHere(t) {
					res, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXEgress})
					check(t, err)
					if len(res.Programs) > 1 {
						t.Errorf("%s: %d programs at egress of %s", name, len(res.Programs), l.Attrs().Name)
					}
				}
				p.expectVIP(t, name+": replaced", false)
				g = openGate(t, f, 8)
				open(t, g, vipGroup)
				p.expectVIP(t, name+": new gate", true)
				check(t, f.Close())
			}
			f = loadFence(t, dir, mode)
			check(t, f.Detach())
			expectNothingLeft(t, dir)
		})
	}
}
