package guard

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// priority is the nice value of guard and worker. Nothing safe depends on it:
// a starved node fences itself. But a gateway whose CPUs are busy should not
// lose its address for that.
const priority = -20

// raisePriority gives all threads of this process, and so those that they
// start and every worker, the highest priority of normal scheduling.
func raisePriority() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	var errs []error
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, priority); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("raise priority: %w", err)
	}
	return nil
}
