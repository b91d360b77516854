package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/holdfast-ha/holdfast/test/lab"
)

const (
	// processesOfMember is what a member that runs consists of: guard and worker.
	processesOfMember = 2
	// growth is how many more of something a process may have than it once had
	// with the cluster whole: connections of clients come and go.
	growth = 40
	// filesLimit bounds the files of a member's data directory, without what
	// was set aside; memoryLimit the memory of a process, bytes.
	filesLimit  = 24
	memoryLimit = 512 << 20
)

// process is one process, told from a later one with the same id.
type process struct {
	pid   int
	start string
	name  string // gw1 worker
}

// usage is what a process has.
type usage struct{ threads, files, goroutines, memory int }

// footprint is what a cluster has on its hosts.
type footprint struct {
	// kernel has pins, programs on interfaces and qdiscs of each member, by
	// name: always the same.
	kernel map[string][]string
	usage  map[process]usage
}

// leaks looks until nothing is left that should not be, for a short time: what
// ends takes a moment.
func (w *world) leaks(ctx context.Context) error {
	return w.soon(func() error {
		now, err := w.look(ctx)
		if err != nil {
			return err
		}
		return w.compare(now)
	})
}

// look takes the footprint of the cluster, which is whole.
func (w *world) look(ctx context.Context) (*footprint, error) {
	f := &footprint{kernel: map[string][]string{}, usage: map[process]usage{}}
	for _, node := range w.cluster.Names() {
		found, err := processesOn(w.lab.Namespace(node))
		if err != nil {
			return nil, err
		}
		if len(found) != processesOfMember {
			return nil, fmt.Errorf("%s has %d processes, not %d: %s", node, len(found), processesOfMember, strings.Join(found, "; "))
		}
		if f.kernel[node], err = w.kernelState(node); err != nil {
			return nil, err
		}
		if err := w.lookAtProcesses(ctx, node, f); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// compare says what is there and was not, or grows.
func (w *world) compare(now *footprint) error {
	for node, was := range w.before.kernel {
		if is := now.kernel[node]; !slices.Equal(is, was) {
			return fmt.Errorf("%s has in its kernel %q, had %q", node, is, was)
		}
	}
	for p, u := range now.usage {
		least, known := w.grown[p]
		if !known {
			least = u
		}
		least.threads, least.files, least.goroutines = min(least.threads, u.threads), min(least.files, u.files), min(least.goroutines, u.goroutines)
		w.grown[p] = least
		if u.threads > least.threads+growth || u.files > least.files+growth || u.goroutines > least.goroutines+growth || u.memory > memoryLimit {
			return fmt.Errorf("%s (pid %d) grows: %+v, once %+v", p.name, p.pid, u, least)
		}
	}
	maps.DeleteFunc(w.grown, func(p process, _ usage) bool {
		_, lives := now.usage[p]
		return !lives
	})
	holder := w.cluster.Holder()
	for _, node := range w.cluster.Names() {
		for _, vip := range []netip.Addr{lab.VIP4.Addr(), lab.VIP6.Addr()} {
			if has, err := w.lab.HasAddress(node, vip); err != nil || has != (node == holder) {
				return fmt.Errorf("%s holds; %s has %v: %v, %v", holder, node, vip, has, err)
			}
		}
		if err := w.filesOf(node); err != nil {
			return err
		}
	}
	return nil
}

// filesOf says what a member's data directory has too much of. A member sets
// aside what is damaged, and only that.
func (w *world) filesOf(node string) error {
	kept, err := w.cluster.Evidence(node)
	if err != nil {
		return err
	}
	if w.rots[node] == 0 && len(kept) > 0 {
		return fmt.Errorf("%s has set aside %v, and nothing of it was damaged", node, kept)
	}
	files, err := w.cluster.DataFiles(node, "")
	if err != nil {
		return err
	}
	if len(files) > filesLimit {
		return fmt.Errorf("%s has %d files: %v", node, len(files), files)
	}
	return nil
}

// kernelState lists what a member has in its kernel: pins, and programs and
// qdiscs on interfaces.
func (w *world) kernelState(node string) ([]string, error) {
	var found []string
	pins := filepath.Join(w.cluster.RuntimeDir(node), "bpf")
	err := filepath.WalkDir(pins, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(pins, path)
			found = append(found, "pin "+rel)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list pins of %s: %w", node, err)
	}
	handle, err := w.lab.Netlink(node)
	if err != nil {
		return nil, err
	}
	links, err := handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces of %s: %w", node, err)
	}
	err = w.lab.Do(node, func() error {
		for _, l := range links {
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				r, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at})
				if err == nil { // a kernel without tcx has none
					found = append(found, fmt.Sprintf("%s %v: %d programs", l.Attrs().Name, at, len(r.Programs)))
				}
			}
			qdiscs, err := handle.QdiscList(l)
			if err != nil {
				return fmt.Errorf("list qdiscs of %s: %w", node, err)
			}
			for _, q := range qdiscs {
				found = append(found, l.Attrs().Name+" qdisc "+q.Type())
			}
		}
		return nil
	})
	slices.Sort(found)
	return found, err
}

// leftBehind says what members that were stopped in order have left.
func (w *world) leftBehind() error {
	for _, node := range w.cluster.Names() {
		found, err := processesOn(w.lab.Namespace(node))
		if err != nil {
			return err
		}
		state, err := w.kernelState(node)
		if err != nil {
			return err
		}
		for _, s := range state {
			if strings.HasPrefix(s, "pin ") || strings.HasSuffix(s, " programs") && !strings.HasSuffix(s, ": 0 programs") || strings.HasSuffix(s, "clsact") {
				found = append(found, s)
			}
		}
		for _, vip := range []netip.Addr{lab.VIP4.Addr(), lab.VIP6.Addr()} {
			if has, err := w.lab.HasAddress(node, vip); err != nil || has {
				found = append(found, fmt.Sprintf("address %v (%v)", vip, err))
			}
		}
		if _, err := os.Lstat(w.cluster.Socket(node)); err == nil {
			found = append(found, "its control socket")
		}
		if len(found) > 0 {
			return fmt.Errorf("%s was stopped and left %q", node, found)
		}
	}
	return nil
}

func (w *world) lookAtProcesses(ctx context.Context, node string, f *footprint) error {
	for name, find := range map[string]func(string) (int, error){"guard": w.cluster.GuardPID, "worker": w.cluster.WorkerPID} {
		pid, err := find(node)
		if err != nil {
			return err
		}
		p, u, err := lookAt(pid)
		if err != nil {
			return fmt.Errorf("look at the %s of %s: %w", name, node, err)
		}
		p.name = node + " " + name
		if name == "worker" {
			if u.goroutines, err = w.goroutines(ctx, node); err != nil {
				return err
			}
		}
		f.usage[p] = u
	}
	return nil
}

var (
	threadsLine = regexp.MustCompile(`(?m)^Threads:\s+(\d+)$`)
	memoryLine  = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)
)

// lookAt reads what the kernel knows of a process.
func lookAt(pid int) (process, usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, usage{}, err
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return process{}, usage{}, err
	}
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return process{}, usage{}, err
	}
	// The start is the 20th field behind the name, which stands in parentheses.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	threads, memory := threadsLine.FindSubmatch(status), memoryLine.FindSubmatch(status)
	if len(fields) < 20 || threads == nil || memory == nil {
		return process{}, usage{}, fmt.Errorf("parse status of process %d", pid)
	}
	t, err1 := strconv.Atoi(string(threads[1]))
	m, err2 := strconv.Atoi(string(memory[1]))
	return process{pid: pid, start: fields[19]}, usage{threads: t, files: len(files), memory: m << 10}, errors.Join(err1, err2)
}

// goroutines asks a worker how many it has.
func (w *world) goroutines(ctx context.Context, node string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, serveLimit)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
			err = w.lab.Do(node, func() (err error) {
				conn, err = net.DialTimeout("tcp4", "127.0.0.1:7401", 2*time.Second)
				return err
			})
			return conn, err
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://status/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("ask metrics of %s: %w", node, err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			return strconv.Atoi(n)
		}
	}
	return 0, fmt.Errorf("metrics of %s do not count goroutines", node)
}

// processesOn lists the processes in a network namespace, as pid and command.
func processesOn(namespace string) ([]string, error) {
	var want syscall.Stat_t
	if err := syscall.Stat(filepath.Join("/run/netns", namespace), &want); err != nil {
		return nil, fmt.Errorf("find namespace %s: %w", namespace, err)
	}
	spaces, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, path := range spaces {
		var st syscall.Stat_t
		if syscall.Stat(path, &st) != nil || st.Ino != want.Ino {
			continue // ended meanwhile, or elsewhere
		}
		pid := strings.Split(path, "/")[2]
		if pid == fmt.Sprint(os.Getpid()) {
			continue // a thread of ours on a visit
		}
		command, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline")) // it may have ended: the pid is enough
		found = append(found, pid+" "+strings.ReplaceAll(string(command), "\x00", " "))
	}
	return found, nil
}
