// Package clock is the one door to the kernel's boot clock.
//
// Leases, grants and deadlines are counted in CLOCK_BOOTTIME, the clock that
// the gate program reads with bpf_ktime_get_boot_ns: it counts suspend and is
// never set back. Readings of two hosts are never compared.
package clock

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Source gives readings of a clock in nanoseconds that never go back.
type Source interface {
	// Boottime returns nanoseconds since boot, suspend included.
	Boottime() int64
}

// System is the kernel's CLOCK_BOOTTIME.
type System struct{}

// Boottime returns nanoseconds since boot, suspend included.
func (System) Boottime() int64 { return Boottime() }

// Boottime reads CLOCK_BOOTTIME in nanoseconds. A kernel without that clock
// cannot run the gate either, so failure panics.
func Boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("clock: read CLOCK_BOOTTIME: %v", err))
	}
	return ts.Nano()
}

// Fake is a clock that tests move by hand. It is not safe for concurrent use.
type Fake struct{ now int64 }

// NewFake returns a clock that reads start nanoseconds.
func NewFake(start int64) *Fake { return &Fake{now: start} }

// Boottime returns the reading that was last set.
func (f *Fake) Boottime() int64 { return f.now }

// Advance moves the clock forward by d. A negative d panics: a boot clock
// never goes back.
func (f *Fake) Advance(d time.Duration) {
	if d < 0 {
		panic(fmt.Sprintf("clock: fake clock moved back by %v", d))
	}
	f.now += int64(d)
}

// ErrTimeNamespace means that CLOCK_BOOTTIME of this process differs from the
// one that BPF programs read.
var ErrTimeNamespace = errors.New("process runs in a time namespace with a boot-time offset")

// CheckTimeNamespace returns ErrTimeNamespace when the boot clock of this
// process has an offset to the kernel's (time_namespaces(7)): a deadline
// computed here would mean another instant to the gate.
func CheckTimeNamespace() error {
	raw, err := os.ReadFile("/proc/self/timens_offsets")
	if errors.Is(err, os.ErrNotExist) {
		return nil // kernel without time namespaces
	}
	if err != nil {
		return fmt.Errorf("read time namespace offsets: %w", err)
	}
	return checkOffsets(raw)
}

// checkOffsets reads the lines "CLOCK SECONDS NANOSECONDS" of timens_offsets.
func checkOffsets(raw []byte) error {
	for line := range bytes.Lines(raw) {
		f := bytes.Fields(line)
		if len(f) != 3 || !bytes.Equal(f[0], []byte("boottime")) {
			continue
		}
		sec, err1 := strconv.ParseInt(string(f[1]), 10, 64)
		ns, err2 := strconv.ParseInt(string(f[2]), 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("parse time namespace offsets: %w", err)
		}
		if sec != 0 || ns != 0 {
			return fmt.Errorf("%w: %d s %d ns", ErrTimeNamespace, sec, ns)
		}
	}
	return nil
}
