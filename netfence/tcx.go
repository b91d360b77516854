package netfence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkDir is the directory of pinned links inside a layout's directory.
const linkDir = "links"

// hookKey names one side of one interface.
type hookKey struct {
	ifindex int
	d       direction
}

func (k hookKey) String() string { return fmt.Sprintf("%d-%s", k.ifindex, k.d) }

// tcxHook attaches by TCX links, pinned one file each: a link lives as long as
// its pin, whatever becomes of the process.
type tcxHook struct {
	dir   string
	links map[hookKey]link.Link
}

func tcxType(d direction) ebpf.AttachType {
	if d == ingress {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}

// haveTCX asks for the programs of loopback: kernels before 6.6 do not know
// the attach type.
func haveTCX(n *namespace) error {
	lo, err := n.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	_, err = link.QueryPrograms(link.QueryOptions{Target: lo.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported) {
		return &HintError{"attach gate by tcx", "use Linux 6.6 or later, or mode clsact", fmt.Errorf("%w: %w", ErrNoBPF, err)}
	}
	return explain("attach gate by tcx", err)
}

func (h *tcxHook) attach(l netlink.Link, d direction, prog *ebpf.Program) error {
	k := hookKey{l.Attrs().Index, d}
	if lk := h.links[k]; lk != nil {
		if isLinkOf(lk, k) {
			return nil
		}
		if err := h.drop(k); err != nil {
			return err
		}
	}
	pin := filepath.Join(h.dir, k.String())
	old, err := link.LoadPinnedLink(pin, nil)
	switch {
	case err == nil && isLinkOf(old, k):
		if err := old.Update(prog); err != nil {
			return errors.Join(explain("replace tcx program", err), old.Close())
		}
		h.links[k] = old
		return nil
	case err == nil: // of an earlier interface with this number
		if err := errors.Join(old.Unpin(), old.Close()); err != nil {
			return fmt.Errorf("drop stale tcx link: %w", err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return explain("open pinned tcx link", err)
	}
	lk, err := link.AttachTCX(link.TCXOptions{
		Interface: k.ifindex, Program: prog, Attach: tcxType(d), Anchor: link.Head(),
	})
	if err != nil {
		return explain("attach tcx link", err)
	}
	if err := lk.Pin(pin); err != nil {
		return errors.Join(explain("pin tcx link", err), lk.Close())
	}
	h.links[k] = lk
	return nil
}

// isLinkOf tells whether a link is attached to this side of this interface; a
// link whose interface is gone has number 0.
func isLinkOf(lk link.Link, k hookKey) bool {
	info, err := lk.Info()
	if err != nil {
		return false
	}
	t := info.TCX()
	return t != nil && int(t.Ifindex) == k.ifindex && ebpf.AttachType(t.AttachType) == tcxType(k.d)
}

func (h *tcxHook) verify(l netlink.Link, d direction, prog *ebpf.Program) error {
	want, err := programID(prog)
	if err != nil {
		return err
	}
	res, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: tcxType(d)})
	if err != nil {
		return explain("query tcx programs", err)
	}
	for i, p := range res.Programs {
		if p.ID == want && i == 0 {
			return nil
		}
		if p.ID == want {
			return fmt.Errorf("program %d stands in front", res.Programs[0].ID)
		}
	}
	return errors.New("not attached")
}

func (h *tcxHook) detach(l netlink.Link, d direction) error {
	return h.drop(hookKey{l.Attrs().Index, d})
}

// drop takes one link away, here and in the pin directory.
func (h *tcxHook) drop(k hookKey) error {
	var err error
	if lk := h.links[k]; lk != nil {
		err = lk.Close()
		delete(h.links, k)
	}
	return errors.Join(err, dropLink(filepath.Join(h.dir, k.String())))
}

// dropLink detaches a pinned link and removes the pin. Without the detaching
// the kernel would do it a moment later, when the last descriptor is gone.
func dropLink(pin string) error {
	lk, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pinned tcx link: %w", err)
	}
	d, ok := lk.(interface{ Detach() error })
	if ok {
		err = d.Detach()
	}
	// A link of an interface that is gone is detached already.
	if errors.Is(err, unix.ENOLINK) {
		err = nil
	}
	return errors.Join(err, lk.Unpin(), lk.Close())
}

// dropLinks does so for every link pinned in dir that keep does not want.
func dropLinks(dir string, keep func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list pinned links: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !keep(e.Name()) {
			errs = append(errs, dropLink(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func (h *tcxHook) forget(ifindex int) error {
	return errors.Join(h.drop(hookKey{ifindex, ingress}), h.drop(hookKey{ifindex, egress}))
}

func (h *tcxHook) close() error {
	var errs []error
	for _, lk := range h.links {
		errs = append(errs, lk.Close())
	}
	h.links = nil
	return errors.Join(errs...)
}

// programID asks the kernel by descriptor, which needs no capability.
func programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, explain("describe gate program", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, &HintError{"describe gate program", "use Linux 5.10 or later", ErrNoBPF}
	}
	return id, nil
}
