package netfence

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

var (
	// ErrNoBPF means that the kernel has no BPF or lacks a feature of Linux 5.10.
	ErrNoBPF = errors.New("kernel cannot run the gate program")
	// ErrNoCapability means that the process may not load or attach programs.
	ErrNoCapability = errors.New("missing capability")
	// ErrNoBPFFS means that nothing can be pinned where pins are needed.
	ErrNoBPFFS = errors.New("no BPF file system for pins")
	// ErrVIPsFirst means that AttachAll came before SetVIPs: new programs that
	// know no VIP would replace old ones that guard a present address.
	ErrVIPsFirst = errors.New("VIPs must be set before programs are attached")
	// ErrClosedByGuard means that the guard's number is zero or another than the
	// one this gate was opened with.
	ErrClosedByGuard = errors.New("guard has closed the gate")
	// ErrLimit means that a list is longer than its kernel table.
	ErrLimit = errors.New("over the limit")
	// ErrNotClosed means that a value read back after closing was not zero.
	ErrNotClosed = errors.New("gate value is not zero after closing")
)

// HintError is an error with advice for an operator.
type HintError struct {
	Op   string // what was being done, a short verb phrase
	Hint string // what the operator can do about it
	Err  error
}

func (e *HintError) Error() string { return fmt.Sprintf("%s: %v (%s)", e.Op, e.Err, e.Hint) }

// Unwrap returns the cause.
func (e *HintError) Unwrap() error { return e.Err }

// explain turns an error of the kernel into one with a class and a hint.
func explain(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return &HintError{op, "run as root or grant CAP_BPF, CAP_NET_ADMIN and, to mount pins, CAP_SYS_ADMIN",
			fmt.Errorf("%w: %w", ErrNoCapability, err)}
	case errors.Is(err, unix.ENOSYS), errors.Is(err, ebpf.ErrNotSupported):
		return &HintError{op, "use Linux 5.10 or later with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS",
			fmt.Errorf("%w: %w", ErrNoBPF, err)}
	}
	return fmt.Errorf("%s: %w", op, err)
}

// DetachedError lists the hooks at which the gate does not stand first.
type DetachedError struct {
	Hooks []string // "eth0 ingress: not attached"
}

func (e *DetachedError) Error() string {
	return "gate is not in place: " + strings.Join(e.Hooks, "; ")
}
