package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// registryDir has one file for each lab of this machine. The lab's process
// holds a lock on it; a file whose lock is free belongs to a dead lab.
const registryDir = "/run/holdfast-lab"

// registration is what the sweeper needs to remove a lab.
type registration struct {
	PID    int    `json:"pid"`    // of the process that built it, for people
	Prefix string `json:"prefix"` // of its namespaces: "hf-3fa2-"
	Dir    string `json:"dir"`    // its files
}

// register publishes a locked registration; closing the file gives it up.
func register(id string, r registration) (*os.File, error) {
	if err := os.MkdirAll(registryDir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", registryDir, err)
	}
	path := filepath.Join(registryDir, id)
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode registration: %w", err)
	}
	// Locked before it is published: a sweeper must never see it unlocked.
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make registration: %w", err)
	}
	err = errors.Join(unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB), writeAll(file, raw))
	if err == nil {
		err = os.Link(path+".new", path) // fails when the id is taken
	}
	os.Remove(path + ".new")
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("publish registration: %w", err)
	}
	return file, nil
}

func writeAll(f *os.File, raw []byte) error {
	_, err := f.Write(raw)
	return err
}

// Sweep removes what labs of dead processes left behind: processes in their
// namespaces, mounts, namespaces and files. It returns the number of labs
// removed. Labs that are alive, of this or any other process, stay untouched.
func Sweep() (int, error) {
	entries, err := os.ReadDir(registryDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", registryDir, err)
	}
	var swept int
	var all error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".new") {
			continue
		}
		done, err := sweepOne(filepath.Join(registryDir, e.Name()))
		if done {
			swept++
		}
		all = errors.Join(all, err)
	}
	return swept, all
}

func sweepOne(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, nil // another sweeper was quicker
	}
	defer file.Close()
	if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil // alive
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return false, nil
	}
	var r registration
	if err := json.Unmarshal(raw, &r); err != nil {
		return false, fmt.Errorf("parse registration %s: %w", path, err)
	}
	if !strings.HasPrefix(r.Prefix, namePrefix) || !strings.Contains(filepath.Base(r.Dir), namePrefix) {
		return false, fmt.Errorf("registration %s names %q and %q, which are no lab's", path, r.Prefix, r.Dir)
	}
	if err := removeRemains(r); err != nil {
		return false, fmt.Errorf("sweep lab %s: %w", filepath.Base(path), err)
	}
	return true, os.Remove(path)
}

func removeRemains(r registration) error {
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", netnsDir, err)
	}
	var names []string
	inodes := map[uint64]bool{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), r.Prefix) {
			continue
		}
		names = append(names, e.Name())
		if ns, err := openNamespace(e.Name()); err == nil {
			if isNamespace(ns.file) {
				inodes[ns.inode] = true
			}
			ns.file.Close()
		}
	}
	thawUnder(r.Dir)
	all := killIn(inodes, 5*time.Second)
	all = errors.Join(all, unmountUnder(r.Dir))
	for _, n := range names {
		all = errors.Join(all, removeNamespace(n))
	}
	return errors.Join(all, os.RemoveAll(r.Dir))
}

// isNamespace tells a bound namespace from the empty file of a lab that died
// before it bound one: that file's inode number may be any namespace's.
func isNamespace(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.NSFS_MAGIC
}

// open has the labs of this process, for the signal watcher.
var open struct {
	sync.Mutex
	labs map[*Lab]bool
	stop chan struct{}
	done chan struct{}
}

// watchSignals adds a lab to those that SIGINT and SIGTERM close. The watcher
// runs while there is at least one.
func watchSignals(l *Lab) {
	open.Lock()
	defer open.Unlock()
	if open.labs == nil {
		open.labs = map[*Lab]bool{}
	}
	open.labs[l] = true
	if len(open.labs) > 1 {
		return
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	stop, done := make(chan struct{}), make(chan struct{})
	open.stop, open.done = stop, done
	go func() {
		defer close(done)
		defer signal.Stop(signals)
		select {
		case <-stop:
		case sig := <-signals:
			closeForSignal(sig)
		}
	}()
}

// closeForSignal closes every open lab and ends the process by the signal.
func closeForSignal(sig os.Signal) {
	open.Lock()
	var labs []*Lab
	for l := range open.labs {
		labs = append(labs, l)
	}
	open.Unlock()
	for _, l := range labs {
		if err := l.close(); err != nil {
			fmt.Fprintf(os.Stderr, "lab: close after %v: %v\n", sig, err)
		}
	}
	signal.Reset(unix.SIGINT, unix.SIGTERM)
	if s, ok := sig.(unix.Signal); ok {
		_ = unix.Kill(os.Getpid(), s)
	}
	time.Sleep(time.Second) // the signal is on its way to us
	os.Exit(1)
}

// unwatchSignals takes a lab out, and ends the watcher with the last one.
func unwatchSignals(l *Lab) {
	open.Lock()
	if !open.labs[l] {
		open.Unlock()
		return
	}
	delete(open.labs, l)
	if len(open.labs) > 0 {
		open.Unlock()
		return
	}
	stop, done := open.stop, open.done
	open.Unlock()
	close(stop)
	<-done
}
