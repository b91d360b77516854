package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// entry is what every log stores: an index, a term and some bytes.
type entry struct {
	index, term uint64
	data        []byte
}

// log is a write-ahead log under test. append returns when the entries are on
// disk. Only one goroutine calls it, unless shared is true: then any number
// may, and the log makes one sync of what comes at once.
type log interface {
	append(entries []entry) error
	shared() bool
	close() error
}

// contender is one kind of log.
type contender struct {
	name string
	open func(dir string) (log, error)
	// replay reads a log that was closed, from its first entry to its last,
	// and calls visit with the data of each.
	replay func(dir string, visit func(data []byte)) error
}

// The bare files come first: everything else is divided by the first of them.
var contenders = []contender{
	{"bare file, 4 KiB writes", openBare(4096), replayBare},
	{"bare file, 256 B writes", openBare(256), nil},
	{"Holdfast wal", openHoldfast, replayHoldfast},
	{"etcd wal 3.7.3", openEtcd, replayEtcd},
	{"hashicorp/raft-wal 0.4.0", openRaftWAL, replayRaftWAL},
}

// payload returns n bytes that do not compress and that no run shares.
func payload(n int, seed uint64) []byte {
	b := make([]byte, n)
	x := seed*0x9E3779B97F4A7C15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

// subdir makes a directory for one log.
func subdir(parent, name string) (string, error) {
	dir := filepath.Join(parent, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}
