package netfence

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// mountSource is the name that our own bpffs mounts carry in mountinfo.
const mountSource = "holdfast"

// pins is the directory of pinned maps and links. Under the root there is one
// directory per layout, "gate-HASH"; others are those of binaries before us.
type pins struct {
	root    string
	made    bool // the directory, by this process
	mounted bool // the file system, by this process
}

// openPins makes root a directory on a BPF file system, mounting one over it
// when it is not.
func openPins(root string) (*pins, error) {
	_, err := os.Lstat(root)
	p := &pins{root: root, made: errors.Is(err, os.ErrNotExist)}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	ok, err := isBPFFS(root)
	if err != nil {
		return nil, err
	}
	if !ok {
		err := unix.Mount(mountSource, root, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700")
		if err != nil {
			p.removeMade()
			return nil, &HintError{"mount bpffs on " + root,
				"mount one there or point the pin directory at a mounted one, such as /sys/fs/bpf/holdfast",
				fmt.Errorf("%w: %w", ErrNoBPFFS, err)}
		}
		p.mounted = true
	}
	return p, nil
}

func isBPFFS(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("examine pin directory: %w", err)
	}
	return st.Type == unix.BPF_FS_MAGIC, nil
}

// firstMounts is the mount namespace that the kernel starts with, where it has
// a fixed number: MNT_NS_INIT_INO of include/linux/proc_ns.h, since Linux 6.18.
const firstMounts = "mnt:[4026531832]"

// isDurable tells whether pins outlive this process and its service: either we
// share the mounts of PID 1, or the same file system is mounted there too. A
// mount that only a private mount namespace knows (systemd's ProtectSystem
// makes one) goes with the last process of the service, and every pin with it.
func (p *pins) isDurable() bool {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false
	}
	if own == firstMounts {
		return true // PID 1 may be closed to us, the kernel's number is not
	}
	first, err := os.Readlink("/proc/1/ns/mnt")
	if err != nil {
		return false
	}
	if own == first {
		return true
	}
	var st unix.Stat_t
	if err := unix.Stat(p.root, &st); err != nil {
		return false
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	f, err := os.Open("/proc/1/mountinfo")
	if err != nil {
		return false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 2 && fields[2] == dev {
			return true
		}
	}
	return false
}

// layout names the shape of the shared memory.
func layout(spec *ebpf.CollectionSpec) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", layoutVersion)
	for _, name := range mapNames {
		m := spec.Maps[name]
		fmt.Fprintf(h, "%s %v %d %d %d %d\n", name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
	}
	return fmt.Sprintf("gate-%x", h.Sum(nil)[:8])
}

// pinName is a map's file name: bpffs takes no dots.
func pinName(mapName string) string {
	return strings.ReplaceAll(strings.TrimPrefix(mapName, "."), ".", "_")
}

// loadMaps opens the maps pinned in dir; all of them must be there and fit.
func loadMaps(dir string, spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	maps := map[string]*ebpf.Map{}
	for _, name := range mapNames {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, pinName(name)), nil)
		if err == nil {
			maps[name] = m
			err = spec.Maps[name].Compatible(m)
		}
		if err != nil {
			for _, m := range maps {
				_ = m.Close() // nothing was written
			}
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
	}
	return maps, nil
}

// publish pins maps under a temporary name and renames the directory, so that
// a crash leaves all of them or none.
func (p *pins) publish(dir string, maps map[string]*ebpf.Map) (err error) {
	tmp := filepath.Join(p.root, "new")
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("clear half-made pins: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(tmp, linkDir), 0o700); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	for name, m := range maps {
		if err := m.Pin(filepath.Join(tmp, pinName(name))); err != nil {
			return explain("pin map "+name, err)
		}
	}
	if err := unix.Rename(tmp, dir); err != nil {
		return fmt.Errorf("publish pins: %w", err)
	}
	return nil
}

// retire gives dir a name of its own so that a new one can take its place.
func (p *pins) retire(dir string) error {
	for i := range 1000 {
		old := filepath.Join(p.root, fmt.Sprintf("old-%d", i))
		if _, err := os.Lstat(old); err == nil {
			continue
		}
		if err := unix.Rename(dir, old); err != nil {
			return fmt.Errorf("set old pins aside: %w", err)
		}
		return nil
	}
	return fmt.Errorf("set old pins aside: %w: 1000 of them in %s", ErrLimit, p.root)
}

// retired lists the directories of other layouts, which must be closed at once
// and dropped when our programs stand.
func (p *pins) retired(current string) ([]string, error) {
	entries, err := os.ReadDir(p.root)
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var out []string
	for _, e := range entries {
		dir := filepath.Join(p.root, e.Name())
		ours := strings.HasPrefix(e.Name(), "gate-") || strings.HasPrefix(e.Name(), "old-")
		if e.IsDir() && ours && dir != current {
			out = append(out, dir)
		}
	}
	slices.Sort(out)
	return out, nil
}

// closeRetired sets the number of a gate of another layout to zero. Every
// layout keeps it in the first word of the map of this name.
func closeRetired(dir string) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, pinName(".data.control")), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open old number: %w", err)
	}
	defer m.Close()
	if m.KeySize() != 4 || m.ValueSize() < 8 {
		return fmt.Errorf("close old gate in %s: number has %d bytes", dir, m.ValueSize())
	}
	if err := m.Put(uint32(0), make([]byte, m.ValueSize())); err != nil {
		return explain("close old gate", err)
	}
	return nil
}

// removeRetired detaches the links pinned in dir and removes it.
func removeRetired(dir string) error {
	err := dropLinks(filepath.Join(dir, linkDir), func(string) bool { return false })
	return errors.Join(err, os.RemoveAll(dir))
}

// remove deletes every pin of ours, and the mount when it is ours too.
func (p *pins) remove() error {
	dirs, err := p.retired("")
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range append(dirs, filepath.Join(p.root, "new")) {
		errs = append(errs, removeRetired(d))
	}
	if p.mounted || isOwnMount(p.root) {
		if err := unix.Unmount(p.root, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount pins: %w", err))
		}
		p.mounted = false
	}
	p.removeMade()
	return errors.Join(errs...)
}

// removeMade removes a directory that this process made, unless it is in use.
func (p *pins) removeMade() {
	if p.made {
		_ = os.Remove(p.root) // an empty directory is no harm
	}
}

// isOwnMount tells whether a guard mounted the file system on dir.
func isOwnMount(dir string) bool {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, _ := strings.Cut(s.Text(), " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if len(b) > 4 && b[4] == dir && len(a) > 1 && a[0] == "bpf" && a[1] == mountSource {
			return true
		}
	}
	return false
}
