// Command walbench measures what the product's durable state is made of beside
// what others have: write-ahead logs, the state machine, and clusters that
// answer when a majority has synced. It is a module of its own, so that what
// others' code needs stays out of the product's go.mod; the workspace file
// beside it takes the product from this tree. It prints one JSON object; the
// program in test/bench runs it and writes the page.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// parts are what the program can do, by the first argument. Those with a dash
// are steps that it starts itself.
var parts = map[string]func(*flag.FlagSet, []string) (any, error){
	"wal":           appends,
	"replay":        replay(func(o replayOptions, _ int) (any, error) { return compareReplays(o) }),
	"replay-fill":   replay(func(o replayOptions, i int) (any, error) { return o.fill(i) }),
	"replay-read":   replay(func(o replayOptions, i int) (any, error) { return o.read(i) }),
	"state":         state(func(o stateOptions) (any, error) { return measureState(o) }),
	"recovery":      state(func(o stateOptions) (any, error) { return measureRecovery(o) }),
	"recovery-fill": state(func(o stateOptions) (any, error) { return fillRecovery(o) }),
	"recovery-read": state(func(o stateOptions) (any, error) { return readRecovery(o) }),
	"load":          loadPart,
	"preload":       preloadPart,
	"leader":        leaderPart,
}

func main() {
	name := ""
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	run, ok := parts[name]
	if !ok {
		names := slices.Sorted(maps.Keys(parts))
		fatal(2, fmt.Errorf("no part %q; hint: one of %s", name, strings.Join(names, " ")))
	}
	result, err := run(flag.NewFlagSet(name, flag.ExitOnError), os.Args[2:])
	if err != nil {
		fatal(1, fmt.Errorf("%s: %w", name, err))
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(result); err != nil {
		fatal(1, err)
	}
}

func fatal(code int, err error) {
	fmt.Fprintf(os.Stderr, "walbench: %v\n", err)
	os.Exit(code)
}

func appends(f *flag.FlagSet, args []string) (any, error) {
	var o appendOptions
	f.StringVar(&o.dir, "dir", os.TempDir(), "directory on the disk to measure")
	f.IntVar(&o.bytes, "bytes", 256, "of an entry")
	f.IntVar(&o.rounds, "rounds", 20, "counted rounds")
	f.DurationVar(&o.slice, "slice", 300*time.Millisecond, "of a log in a round, for one writer and for many")
	f.IntVar(&o.many, "many", 64, "writers at once")
	_ = f.Parse(args) // it exits by itself
	return compareAppends(o)
}

func replay(do func(replayOptions, int) (any, error)) func(*flag.FlagSet, []string) (any, error) {
	return func(f *flag.FlagSet, args []string) (any, error) {
		var o replayOptions
		f.StringVar(&o.dir, "dir", os.TempDir(), "directory on the disk to measure")
		f.IntVar(&o.bytes, "bytes", 1024, "of an entry")
		f.Int64Var(&o.total, "total", 1<<30, "bytes of all entries")
		f.IntVar(&o.rounds, "rounds", 3, "times that each log is read")
		i := f.Int("contender", 0, "number of the log, in steps")
		_ = f.Parse(args) // it exits by itself
		if *i < 0 || *i >= len(contenders) || o.bytes < 1 || o.total < int64(o.bytes) {
			return nil, errors.New("an option is out of range")
		}
		return do(o, *i)
	}
}

func state(do func(stateOptions) (any, error)) func(*flag.FlagSet, []string) (any, error) {
	return func(f *flag.FlagSet, args []string) (any, error) {
		var o stateOptions
		f.StringVar(&o.dir, "dir", "", "empty directory on the disk to measure")
		f.IntVar(&o.keys, "keys", 1_000_000, "in the state")
		f.IntVar(&o.value, "value", 256, "bytes of each")
		f.IntVar(&o.each, "each", 64, "puts in one log entry")
		f.Int64Var(&o.log, "log", 1<<30, "bytes of the log that is replayed")
		_ = f.Parse(args) // it exits by itself
		if o.dir == "" || o.keys < o.each || o.each < 1 {
			return nil, errors.New("an option is out of range")
		}
		return do(o)
	}
}

func loadPart(f *flag.FlagSet, args []string) (any, error) {
	var o loadOptions
	f.StringVar(&o.system, "system", "", "etcd or holdfast")
	f.StringVar(&o.target, "target", "", "endpoint, or path of the control socket")
	f.IntVar(&o.clients, "clients", 64, "at once")
	f.IntVar(&o.conns, "conns", 1, "connections that clients of etcd share")
	f.IntVar(&o.value, "value", 256, "bytes")
	f.DurationVar(&o.warmup, "warmup", time.Second, "not counted")
	f.DurationVar(&o.length, "for", 5*time.Second, "counted")
	f.StringVar(&o.prefix, "prefix", "k", "of the keys, another in every run")
	_ = f.Parse(args) // it exits by itself
	if o.clients < 1 || o.value < 8 || o.length <= 0 {
		return nil, errors.New("an option is out of range")
	}
	return load(o)
}

func preloadPart(f *flag.FlagSet, args []string) (any, error) {
	var o preloadOptions
	f.StringVar(&o.system, "system", "", "etcd or holdfast")
	f.StringVar(&o.target, "target", "", "endpoint, or path of the control socket")
	f.IntVar(&o.keys, "keys", 100_000, "distinct")
	f.IntVar(&o.value, "value", 256, "bytes")
	f.IntVar(&o.each, "each", 64, "puts in a transaction")
	f.IntVar(&o.workers, "workers", 8, "transactions at once")
	f.StringVar(&o.prefix, "prefix", "p", "of the keys")
	_ = f.Parse(args) // it exits by itself
	if o.keys < 1 || o.each < 1 || o.workers < 1 {
		return nil, errors.New("an option is out of range")
	}
	return preload(o)
}

func leaderPart(f *flag.FlagSet, args []string) (any, error) {
	target := f.String("target", "", "endpoints of all members of etcd")
	_ = f.Parse(args) // it exits by itself
	return etcdLeader(strings.Split(*target, ","), 30*time.Second)
}
