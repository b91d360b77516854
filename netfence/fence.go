package netfence

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

// Modes of attachment.
const (
	// ModeAuto takes tcx where links can be pinned for good, else clsact.
	ModeAuto = "auto"
	// ModeTCX attaches by pinned TCX links (Linux 6.6), also where the pins
	// are in a private mount that ends with the service.
	ModeTCX = "tcx"
	// ModeClsact attaches by filters of a clsact qdisc, which stay by themselves.
	ModeClsact = "clsact"
)

// EnvAttach names the environment variable that overrides ModeAuto.
const EnvAttach = "HOLDFAST_ATTACH"

// Options tell Load what to do.
type Options struct {
	// PinDir is a directory for pins. When it is not on a BPF file system one
	// is mounted over it. Hosts with several fences (tests, network
	// namespaces) give each its own. Empty means nothing is pinned: clsact.
	PinDir string
	// Mode is ModeAuto (also when empty), ModeTCX or ModeClsact.
	Mode string
	// Logger is told which mode was chosen and why, and of new interfaces.
	// Nil logs nothing.
	Logger *slog.Logger
}

// Fence is the guard's access to the gate: it can close, never open. All
// methods may be called from several goroutines, Close and Detach last. The
// number and the closing never wait for attaching.
type Fence struct {
	log   *slog.Logger
	ns    *namespace
	pins  *pins // nil when nothing is pinned
	dir   string
	mode  string
	t     *tables
	progs map[string]*ebpf.Program

	mu       sync.Mutex // over what follows
	hook     hook
	vipsSet  bool
	attached map[int]string // ifindex to name, of interfaces that have both programs
	macs     map[int]uint64 // ifindex to MAC
}

// Load adopts the pinned gate of an earlier guard, or makes a new one. Either
// way it ends closed: the number is zero, then all values, both read back.
// Nothing is attached yet by this guard; programs of an earlier one stay until
// AttachAll has put new ones in their place. On error nothing new is left.
func Load(o Options) (*Fence, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := clock.CheckTimeNamespace(); err != nil {
		return nil, &HintError{"load gate", "run the daemon outside of time namespaces", err}
	}
	mode, err := wantedMode(o.Mode)
	if err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, explain("raise memory limit of BPF maps", err)
	}
	f := &Fence{log: o.Logger, progs: map[string]*ebpf.Program{}, attached: map[int]string{}, macs: map[int]uint64{}}
	if err := f.load(o.PinDir, mode); err != nil {
		return nil, errors.Join(err, f.undo())
	}
	f.log.Info("gate loaded", "mode", f.mode, "pins", f.dir)
	return f, nil
}

func wantedMode(mode string) (string, error) {
	if mode == "" || mode == ModeAuto {
		mode = ModeAuto
		if env := os.Getenv(EnvAttach); env != "" {
			mode = env
		}
	}
	switch mode {
	case ModeAuto, ModeTCX, ModeClsact:
		return mode, nil
	}
	return "", fmt.Errorf("load gate: unknown mode %q, want %s, %s or %s", mode, ModeAuto, ModeTCX, ModeClsact)
}

func (f *Fence) load(pinDir, mode string) error {
	var err error
	if f.ns, err = currentNamespace(); err != nil {
		return err
	}
	if err := f.chooseMode(pinDir, mode); err != nil {
		return err
	}
	spec, err := loadSpec()
	if err != nil {
		return err
	}
	if err := f.adopt(spec); err != nil {
		return err
	}
	if h, ok := f.hook.(*tcxHook); ok {
		h.dir = filepath.Join(f.dir, linkDir)
	}
	var opts ebpf.CollectionOptions
	if f.t != nil {
		opts.MapReplacements = f.t.maps
	}
	c, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		return explain("load gate program", err)
	}
	defer c.Close() // whatever is not detached below
	for name := range c.Programs {
		f.progs[name] = c.DetachProgram(name)
	}
	if f.t != nil {
		return nil
	}
	maps := map[string]*ebpf.Map{}
	for _, name := range mapNames {
		maps[name] = c.DetachMap(name)
	}
	if f.t, err = newTables(maps, true); err != nil {
		return err
	}
	if err := f.CloseAll(); err != nil { // new maps are zero; proves that closing works here
		return err
	}
	if f.pins != nil {
		return f.pins.publish(f.dir, maps)
	}
	return nil
}

// chooseMode sets pins and mode. A TCX link without a pin vanishes with its
// process and opens the gate, so without lasting pins there is no tcx.
func (f *Fence) chooseMode(pinDir, mode string) error {
	var err error
	if pinDir == "" {
		err = &HintError{"pin gate", "name a pin directory", ErrNoBPFFS}
	} else if pinDir, err = filepath.Abs(pinDir); err == nil {
		f.pins, err = openPins(pinDir)
	}
	if err == nil && !f.pins.isDurable() && mode == ModeTCX {
		f.log.Warn("pins end with the mounts of this service, and the gate with them", "dir", pinDir)
	} else if err == nil && !f.pins.isDurable() {
		err = &HintError{"pin gate", "mount a bpffs outside of the service's private mounts, such as /sys/fs/bpf",
			fmt.Errorf("%w: pins in %s would end with this service", ErrNoBPFFS, pinDir)}
	}
	if err == nil && mode != ModeClsact {
		err = haveTCX(f.ns)
	}
	switch {
	case mode == ModeTCX && err != nil:
		return err
	case mode == ModeClsact || err != nil:
		f.mode, f.hook = ModeClsact, &clsactHook{ns: f.ns}
	default:
		f.mode, f.hook = ModeTCX, &tcxHook{links: map[hookKey]link.Link{}}
	}
	if mode == ModeAuto && err != nil {
		f.log.Info("gate falls back to clsact filters", "why", err)
	}
	return nil
}

// adopt opens pinned maps that fit and closes them before anything else. What
// does not fit is closed too, and kept until our programs stand.
func (f *Fence) adopt(spec *ebpf.CollectionSpec) error {
	if f.pins == nil {
		return nil
	}
	f.dir = filepath.Join(f.pins.root, layout(spec))
	old, err := f.pins.retired(f.dir)
	if err != nil {
		return err
	}
	for _, d := range old {
		f.closeRetired(d)
	}
	if _, err := os.Lstat(f.dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	maps, err := loadMaps(f.dir, spec)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return explain("adopt gate", err)
	}
	if err != nil {
		f.log.Warn("pinned gate does not fit; it is replaced", "dir", f.dir, "err", err)
		f.closeRetired(f.dir)
		return f.pins.retire(f.dir)
	}
	if f.t, err = newTables(maps, true); err != nil {
		return err
	}
	return f.CloseAll()
}

func (f *Fence) closeRetired(dir string) {
	if err := closeRetired(dir); err != nil {
		f.log.Warn("old gate cannot be closed by hand; its deadline will pass", "dir", dir, "err", err)
	}
}

// Mode is ModeTCX or ModeClsact, as chosen by Load.
func (f *Fence) Mode() string { return f.mode }

// SetIncarnation writes the guard's number and reads it back. Gates open only
// for values with this number, so a new number ends every worker before; 0
// closes all. It returns in microseconds and takes no lock.
func (f *Fence) SetIncarnation(number uint64) error { return f.t.setNumber(number) }

// CloseAll closes every gate twice over: the number becomes zero, then all
// values; both are read back through the kernel. ErrNotClosed tells that a
// value was written meanwhile; the number keeps the gates closed even so.
func (f *Fence) CloseAll() error {
	return errors.Join(f.t.setNumber(0), f.t.zeroAll())
}

// SetVIPs makes vips the complete list of guarded addresses; while a worker
// runs it is the worker's to call (Gate.SetVIPs). Addresses go to interfaces
// only after it and AttachAll returned, and leave them before it drops them.
func (f *Fence) SetVIPs(vips []VIP) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.t.setVIPs(vips); err != nil {
		return err
	}
	f.vipsSet = true
	return nil
}

// SetForwarding puts an interface behind a group's gate, as Gate.SetForwarding
// does; while a worker runs it is the worker's to call.
func (f *Fence) SetForwarding(ifindex int, group uint16) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.t.setForwarding(ifindex, group, true)
}

// GateFiles returns the files for a worker's OpenGate, in its order. They are
// new descriptors that the caller closes. With pins, the one of the guard's
// number is read-only, so that no worker can change it.
func (f *Fence) GateFiles() ([]*os.File, error) {
	var files []*os.File
	for i, name := range mapNames {
		m, err := f.gateMap(name, i == 0)
		if err == nil {
			var fd int
			if fd, err = unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0); err == nil {
				files = append(files, os.NewFile(uintptr(fd), "gate:"+name))
			}
			err = errors.Join(err, m.Close())
		}
		if err != nil {
			for _, f := range files {
				_ = f.Close() // duplicates of descriptors
			}
			return nil, fmt.Errorf("hand over map %s: %w", name, err)
		}
	}
	return files, nil
}

func (f *Fence) gateMap(name string, readOnly bool) (*ebpf.Map, error) {
	if readOnly && f.pins != nil {
		return ebpf.LoadPinnedMap(filepath.Join(f.dir, pinName(name)), &ebpf.LoadPinOptions{ReadOnly: true})
	}
	return f.t.maps[name].Clone()
}

// Close gives up the descriptors and leaves the gate as it is: attached,
// pinned, with the values it has. A later Load adopts it.
func (f *Fence) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.release()
}

// Detach takes the gate down: programs, filters, pins and our own mount. Every
// VIP must be gone from the interfaces before. It also releases what Close
// releases.
func (f *Fence) Detach() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := []error{f.t.setNumber(0), f.ns.do(f.detachAll)}
	if f.pins != nil {
		errs = append(errs, f.pins.remove())
	}
	return errors.Join(append(errs, f.release())...)
}

// undo leaves nothing of a Load that went wrong. Pins of an earlier guard stay.
func (f *Fence) undo() error {
	var errs []error
	errs = append(errs, f.release())
	if f.pins != nil && f.pins.mounted {
		errs = append(errs, f.pins.remove())
	}
	return errors.Join(errs...)
}

func (f *Fence) release() error {
	var errs []error
	if f.hook != nil {
		errs = append(errs, f.hook.close())
	}
	for _, p := range f.progs {
		errs = append(errs, p.Close())
	}
	if f.t != nil {
		errs = append(errs, f.t.close())
	}
	if f.ns != nil {
		errs = append(errs, f.ns.close())
	}
	return errors.Join(errs...)
}
