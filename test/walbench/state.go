package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

type stateOptions struct {
	dir         string
	keys, value int
	each        int   // puts in one log entry
	log         int64 // bytes of the log that is replayed
}

// stateResult is what the state machine takes, without a cluster around it.
type stateResult struct {
	Keys      int     `json:"keys"`
	LiveBytes int64   `json:"live_bytes"` // of keys and values
	Apply     float64 `json:"apply_per_s"`
	HeapBytes int64   `json:"heap_bytes"` // of the state, after a collection
	FreezeUs  float64 `json:"freeze_us"`
	WriteS    float64 `json:"snapshot_write_s"` // encode, write, sync, read again, publish
	FileBytes int64   `json:"snapshot_bytes"`
	OpenS     float64 `json:"snapshot_open_s"` // of a data directory that has it
	// SlowestApplyMs is the longest time of one entry while a snapshot is
	// written, and SlowestBeforeMs that of as many entries without one.
	SlowestBeforeMs float64 `json:"slowest_before_ms"`
	SlowestApplyMs  float64 `json:"slowest_during_ms"`
}

// firstConfig is a founding like any other.
func firstConfig() storage.FirstConfig {
	member := func(name string, id uint64, role storage.Role) storage.Member {
		return storage.Member{Name: name, PublicKey: [32]byte{byte(id)}, RaftID: id, Role: role}
	}
	return storage.FirstConfig{
		Cluster: "bench",
		Members: []storage.Member{
			member("gw1", 1, storage.Gateway), member("gw2", 2, storage.Gateway), member("w1", 3, storage.Witness),
		},
		Groups: []storage.Group{{Name: "default", VIPs: []storage.VIP{
			{Prefix: netip.MustParsePrefix("192.0.2.1/24"), Scope: storage.ScopeVIP},
		}}},
		Profile: storage.Profile{Beat: 50 * time.Millisecond, Promise: 500 * time.Millisecond, Epsilon: 20 * time.Millisecond},
	}
}

// machine is a data directory with the state that its log made.
type machine struct {
	data  *storage.Data
	log   *storage.Log
	state *storage.State
}

// openMachine founds the directory when it is new.
func openMachine(dir string) (*machine, error) {
	d, err := storage.OpenData(vfs.OS, dir)
	if err != nil {
		return nil, err
	}
	first := firstConfig()
	if known, ok := d.First(); ok {
		first = known
	} else {
		first.Members[0].RaftID = d.RaftID()
		if err := d.PublishFirst(first, storage.Empty); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	l, s, _, err := d.OpenLog(storage.LogOptions{})
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return &machine{d, l, s}, nil
}

func (m *machine) close() error { return errors.Join(m.log.Close(), m.data.Close()) }

// puts returns the data of an entry that sets keys from a number on.
func puts(from, count int, value []byte) ([]byte, error) {
	b := &kv.Batch{Clock: int64(time.Second), MaxBytes: 8 << 30}
	for i := range count {
		b.Requests = append(b.Requests, kv.Request{
			ID:   fmt.Sprintf("0123456789abcdef0123-%x", from+i),
			Then: []kv.Op{{Kind: kv.OpPut, Bucket: bucket, Key: fmt.Sprintf("key-%016d", from+i), Value: value}},
		})
	}
	return storage.Command{At: 1, Op: storage.Batch{Batch: b}}.Encode()
}

func measureState(o stateOptions) (stateResult, error) {
	r := stateResult{Keys: o.keys}
	dir := filepath.Join(o.dir, "state")
	m, err := openMachine(dir)
	if err != nil {
		return r, err
	}
	value := payload(o.value, 3)
	r.LiveBytes = int64(o.keys) * int64(o.value+len(fmt.Sprintf("key-%016d", 0)))
	runtime.GC()
	before := heap()
	index, _ := m.state.Applied()
	spent := time.Duration(0)
	for from := 0; from < o.keys; from += o.each {
		data, err := puts(from, min(o.each, o.keys-from), value)
		if err != nil {
			return r, err
		}
		index++
		began := time.Now()
		if _, err := m.state.Apply(index, storage.FirstTerm, data); err != nil {
			return r, err
		}
		spent += time.Since(began)
	}
	r.Apply = float64(o.keys) / spent.Seconds()
	runtime.GC()
	runtime.GC()
	r.HeapBytes = heap() - before

	if err := m.measureSnapshot(&r, index, o, value); err != nil {
		return r, errors.Join(err, m.close())
	}
	if err := m.close(); err != nil {
		return r, err
	}
	began := time.Now()
	if m, err = openMachine(dir); err != nil {
		return r, err
	}
	r.OpenS = time.Since(began).Seconds()
	return r, m.close()
}

// measureSnapshot writes one while entries go on being applied.
func (m *machine) measureSnapshot(r *stateResult, index uint64, o stateOptions, value []byte) error {
	apply := func(stop func() bool) (slowest float64, n int, err error) {
		for n = 0; !stop(); n++ {
			data, err := puts(n%o.keys, 64, value)
			if err != nil {
				return 0, n, err
			}
			index++
			began := time.Now()
			if _, err := m.state.Apply(index, storage.FirstTerm, data); err != nil {
				return 0, n, err
			}
			slowest = max(slowest, float64(time.Since(began))/1e6)
			time.Sleep(time.Millisecond)
		}
		return slowest, n, nil
	}
	began := time.Now()
	f := m.state.Freeze()
	r.FreezeUs = micros(time.Since(began))
	type written struct {
		meta storage.SnapshotMeta
		took time.Duration
		err  error
	}
	done := make(chan written, 1)
	go func() {
		began := time.Now()
		meta, err := m.data.Snapshots().Write(context.Background(), f)
		done <- written{meta, time.Since(began), err}
	}()
	var w written
	slowest, n, err := apply(func() bool {
		select {
		case w = <-done:
			return true
		default:
			return false
		}
	})
	if err = errors.Join(err, w.err); err != nil {
		return err
	}
	r.SlowestApplyMs, r.WriteS, r.FileBytes = slowest, w.took.Seconds(), w.meta.Size
	i := 0
	if r.SlowestBeforeMs, _, err = apply(func() bool { i++; return i > n }); err != nil {
		return err
	}
	// The log follows it as one that was received, so that the next start
	// reads it.
	return m.log.Install(w.meta.Raft())()
}

func heap() int64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// recoveryResult is a node's way from its disk to its state.
type recoveryResult struct {
	Entries  int     `json:"entries"`
	Requests int     `json:"requests"`
	Bytes    int64   `json:"bytes"`   // of the entries
	OnDisk   int64   `json:"on_disk"` // of the directory
	OpenS    float64 `json:"open_s"`  // the log read and checked
	ApplyS   float64 `json:"apply_s"` // and its entries applied
	PeakMiB  float64 `json:"peak_mib"`
}

// fillRecovery writes a log as a leader under load leaves it.
func fillRecovery(o stateOptions) (r recoveryResult, err error) {
	m, err := openMachine(filepath.Join(o.dir, "recovery"))
	if err != nil {
		return r, err
	}
	value := payload(o.value, 5)
	index, err := m.log.LastIndex()
	if err != nil {
		return r, errors.Join(err, m.close())
	}
	done := make(chan error, 64)
	for pending := 0; r.Bytes < o.log || pending > 0; {
		if r.Bytes < o.log {
			data, err := puts(r.Requests%o.keys, o.each, value)
			if err != nil {
				return r, errors.Join(err, m.close())
			}
			index++
			hs := &raftpb.HardState{Term: new(storage.FirstTerm), Commit: new(index)}
			m.log.Save(hs, []*raftpb.Entry{{Index: new(index), Term: new(storage.FirstTerm), Data: data}}, func(err error) { done <- err })
			pending++
			r.Entries, r.Requests, r.Bytes = r.Entries+1, r.Requests+o.each, r.Bytes+int64(len(data))
		}
		if pending == cap(done) || r.Bytes >= o.log {
			if err := <-done; err != nil {
				return r, errors.Join(err, m.close())
			}
			pending--
		}
	}
	return r, m.close()
}

// readRecovery is what a start does before it can vote.
func readRecovery(o stateOptions) (r recoveryResult, err error) {
	peak := watchMemory()
	began := time.Now()
	m, err := openMachine(filepath.Join(o.dir, "recovery"))
	if err != nil {
		return r, err
	}
	r.OpenS = time.Since(began).Seconds()
	last, err := m.log.LastIndex()
	if err != nil {
		return r, errors.Join(err, m.close())
	}
	applied, _ := m.state.Applied()
	for index := applied + 1; index <= last; {
		entries, err := m.log.Entries(index, last+1, 4<<20)
		if err != nil || len(entries) == 0 {
			return r, errors.Join(err, io.ErrUnexpectedEOF, m.close())
		}
		for _, e := range entries {
			if _, err := m.state.Apply(e.GetIndex(), e.GetTerm(), e.GetData()); err != nil {
				return r, errors.Join(err, m.close())
			}
			r.Entries++
			r.Bytes += int64(len(e.GetData()))
		}
		index += uint64(len(entries))
	}
	r.ApplyS = time.Since(began).Seconds() - r.OpenS
	r.PeakMiB = peak()
	return r, m.close()
}

func measureRecovery(o stateOptions) (recoveryResult, error) {
	args := []string{"-dir", o.dir, "-keys", fmt.Sprint(o.keys), "-value", fmt.Sprint(o.value),
		"-each", fmt.Sprint(o.each), "-log", fmt.Sprint(o.log)}
	var filled, read recoveryResult
	if err := child(&filled, append([]string{"recovery-fill"}, args...)...); err != nil {
		return filled, err
	}
	onDisk, err := evict(filepath.Join(o.dir, "recovery"))
	if err != nil {
		return filled, err
	}
	if err := child(&read, append([]string{"recovery-read"}, args...)...); err != nil {
		return read, err
	}
	read.OnDisk, read.Requests = onDisk, filled.Requests
	if read.Entries < filled.Entries {
		return read, fmt.Errorf("%d entries came back of %d", read.Entries, filled.Entries)
	}
	return read, nil
}
