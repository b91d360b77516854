package guard

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A worker outlives a guard that was killed: normally for the instant in which
// it releases, but a stopped one until it is continued. The guard that follows
// must end it before it starts another (G7). The pid file names the process by
// pid and start time, so that a pid used again by a stranger is left alone.

func writePid(path string, pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	return os.WriteFile(path, fmt.Appendf(nil, "%d %d\n", pid, start), 0o644)
}

// startTime is field 22 of /proc/PID/stat, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read process start time: %w", err)
	}
	// The command name, in parentheses, may hold anything.
	end := bytes.LastIndexByte(raw, ')')
	fields := strings.Fields(string(raw[end+1:]))
	const startField = 22 - 3 // counted from the state, which is field 3
	if end < 0 || len(fields) <= startField {
		return 0, fmt.Errorf("read process start time: %d fields", len(fields))
	}
	return strconv.ParseUint(fields[startField], 10, 64)
}

// endLeftover kills the worker that the file names and waits until it is gone.
func endLeftover(path string) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var pid int
	var start uint64
	if _, err := fmt.Sscanf(string(raw), "%d %d", &pid, &start); err != nil || pid <= 1 {
		return os.Remove(path) // torn by a crash while it was written
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// Read after the pidfd was opened: it names the same process then.
	if got, err := startTime(pid); err != nil || got != start {
		return os.Remove(path)
	}
	if err := unix.Kill(-pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process group %d: %w", pid, err)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	const limit = 10 * time.Second
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", pid, err)
	}
	if n == 0 {
		return fmt.Errorf("process %d did not end within %v", pid, limit)
	}
	return os.Remove(path)
}
