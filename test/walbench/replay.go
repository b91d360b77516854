package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

type replayOptions struct {
	dir    string
	total  int64 // bytes of all entries
	bytes  int   // of an entry
	rounds int
}

// replayResult is one log's.
type replayResult struct {
	Name    string  `json:"name"`
	Bytes   int64   `json:"bytes"`   // of the entries
	OnDisk  int64   `json:"on_disk"` // of the files
	Entries int     `json:"entries"`
	Fill    float64 `json:"fill_s"`
	Seconds float64 `json:"replay_s"` // median of the rounds
	// PeakMiB is what the process needed more than before, at most.
	PeakMiB float64 `json:"peak_mib"`
}

// compareReplays fills each log and reads it again with nothing of it in
// memory, as a machine does that has just started. Each step is a process of
// its own: so the memory is that of one log, and a log that keeps its lock
// after Close (raft-wal keeps that of its meta data) can be opened again.
func compareReplays(o replayOptions) ([]replayResult, error) {
	var results []replayResult
	for i, c := range contenders {
		if c.replay == nil {
			continue
		}
		dir, err := subdir(o.dir, fmt.Sprintf("replay-%d", i))
		if err != nil {
			return nil, err
		}
		r, err := replayOne(i, dir, o)
		if rerr := os.RemoveAll(dir); err == nil {
			err = rerr
		}
		if err != nil {
			return nil, fmt.Errorf("replay %s: %w", c.name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

func replayOne(i int, dir string, o replayOptions) (replayResult, error) {
	args := []string{"-contender", fmt.Sprint(i), "-dir", dir, "-bytes", fmt.Sprint(o.bytes), "-total", fmt.Sprint(o.total)}
	r := replayResult{Name: contenders[i].name}
	var filled step
	if err := child(&filled, append([]string{"replay-fill"}, args...)...); err != nil {
		return r, err
	}
	r.Entries, r.Bytes, r.Fill = filled.Entries, filled.Bytes, filled.Seconds
	var times []float64
	for range o.rounds {
		var err error
		if r.OnDisk, err = evict(dir); err != nil {
			return r, err
		}
		var read step
		if err := child(&read, append([]string{"replay-read"}, args...)...); err != nil {
			return r, err
		}
		times = append(times, read.Seconds)
		r.PeakMiB = max(r.PeakMiB, read.PeakMiB)
		if read.Bytes < r.Bytes {
			return r, fmt.Errorf("%d bytes came back of %d", read.Bytes, r.Bytes)
		}
	}
	r.Seconds = median(times)
	return r, nil
}

// step is what a process of one step says.
type step struct {
	Entries int     `json:"entries"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	PeakMiB float64 `json:"peak_mib"`
}

// child runs one step of this program and reads its result.
func child(result any, args ...string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return json.Unmarshal(out, result)
}

func (o replayOptions) fill(i int) (step, error) {
	began := time.Now()
	count, err := fill(contenders[i], o.dir, o)
	return step{Entries: count, Bytes: int64(count) * int64(o.bytes), Seconds: time.Since(began).Seconds()}, err
}

func (o replayOptions) read(i int) (step, error) {
	var s step
	peak := watchMemory()
	began := time.Now()
	err := contenders[i].replay(o.dir, func(data []byte) { s.Entries++; s.Bytes += int64(len(data)) })
	s.Seconds, s.PeakMiB = time.Since(began).Seconds(), peak()
	return s, err
}

// fill appends entries in batches of maxGroup. The bare file gets its bytes as
// they are.
func fill(c contender, dir string, o replayOptions) (int, error) {
	count := int(o.total / int64(o.bytes))
	if c.name == contenders[0].name {
		return count, fillBare(filepath.Join(dir, "bare"), int64(count)*int64(o.bytes))
	}
	l, err := c.open(dir)
	if err != nil {
		return 0, err
	}
	data := payload(o.bytes, 7)
	batch := make([]entry, 0, maxGroup)
	for i := range count {
		batch = append(batch, entry{uint64(i + 1), 1, data})
		if len(batch) == maxGroup || i == count-1 {
			if err := l.append(batch); err != nil {
				return 0, err
			}
			batch = batch[:0]
		}
	}
	return count, l.close()
}

func fillBare(name string, total int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	piece := payload(1<<20, 7)
	for at := int64(0); at < total; at += int64(len(piece)) {
		if _, err := f.WriteAt(piece[:min(int64(len(piece)), total-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// evict writes all files below dir to the disk and has the kernel forget them.
// It returns their length.
func evict(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		total += info.Size()
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	return total, err
}

// watchMemory looks at the process's memory every few milliseconds until the
// returned function is called, which returns by how many MiB it grew at most.
func watchMemory() func() float64 {
	before := residentMiB(os.Getpid())
	stop, result := make(chan struct{}), make(chan float64)
	go func() {
		most := before
		for {
			most = max(most, residentMiB(os.Getpid()))
			select {
			case <-stop:
				result <- most - before
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() float64 {
		close(stop)
		return <-result
	}
}

// residentMiB returns the resident memory of a process, 0 when it is gone.
func residentMiB(pid int) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(raw), &size, &resident); err != nil {
		return 0
	}
	return float64(resident*int64(os.Getpagesize())) / (1 << 20)
}
