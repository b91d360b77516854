package config

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// laterTables are part of the file format but not of this version.
var laterTables = []string{
	"backup", "dataset", "service", "check", "watchdog", "objectives", "drill", "alerts", "appliance",
}

// Parse reads and validates the text of a file; file is its name in messages.
// The error is Problems, with everything that is wrong.
func Parse(file string, text []byte) (*Config, error) {
	r := &reader{file: file}
	c := r.parse(text)
	if len(r.problems) > 0 {
		return nil, r.sorted()
	}
	return c, nil
}

func (r *reader) parse(text []byte) *Config {
	top, ok := r.decode(text)
	if !ok {
		return nil
	}
	c := &Config{File: r.file}
	c.Cluster = top.readName("cluster", `write the name of the cluster, such as "site-a", the same on every member`)
	c.Node = readNode(top.sub("node"))
	members := readMembers(top)
	vips := readVIPs(top)
	c.Timing = readTiming(top.sub("timing"))
	c.Placement = readPlacement(top.sub("placement"), c.Timing)
	c.Status = readStatus(top.sub("status"))
	c.State = readState(top.sub("state"))
	c.Buckets = readBuckets(top)
	c.Log = readLog(top.sub("log"))
	c.Hooks = readHooks(top)
	for _, key := range laterTables {
		if _, ok := top.get(key); ok {
			top.bad(key, "remove the table until you run a version that has it", "not supported by this version")
		}
	}
	top.finish()
	for _, t := range r.tables {
		t.unknown()
	}
	checkMembers(top, c.Node, members)
	checkVIPs(top, vips, members)
	checkListen(top, c, members)
	for _, m := range members {
		c.Members = append(c.Members, m.Member)
	}
	for _, v := range vips {
		c.VIPs = append(c.VIPs, v.VIP)
	}
	return c
}

// decode runs the TOML library and the line scanner over the text.
func (r *reader) decode(text []byte) (*table, bool) {
	if len(text) > FileBytesMax {
		r.add(1, "file", fmt.Sprintf("larger than %d bytes", FileBytesMax), "write a smaller file")
		return nil, false
	}
	places, err := scan(string(text))
	if errors.Is(err, errDepth) || err != nil && brackets(text) > bracketsMax {
		r.add(places.line, "syntax", errDepth.Error(), "nothing in this file needs that: write flat lists")
		return nil, false
	}
	for _, d := range places.duplicates {
		r.add(d.line, clip(d.key), fmt.Sprintf("set twice, first in line %d", d.first), "keep one of them")
	}
	values := map[string]any{}
	if _, parseErr := toml.Decode(string(text), &values); parseErr != nil {
		last := 1 + strings.Count(string(text), "\n")
		if err != nil {
			last = places.line // the library may have read on to the next line
		}
		r.syntax(parseErr, last)
		return nil, false
	}
	if len(r.problems) > 0 {
		return nil, false
	}
	return &table{r: r, values: values, place: places.root}, true
}

func brackets(text []byte) int {
	n := 0
	for _, c := range text {
		if c == '[' || c == '{' {
			n++
		}
	}
	return n
}

// syntax turns the library's error into a problem of a line up to last, unless
// the scanner has already named that line as a duplicate.
func (r *reader) syntax(err error, last int) {
	line, key, what := 1, "syntax", err.Error()
	var parse toml.ParseError
	if errors.As(err, &parse) {
		line, what = parse.Position.Line, parse.Message
		if what == "" {
			what = strings.TrimPrefix(parse.Error(), "toml: ")
			what = strings.TrimPrefix(what, fmt.Sprintf("line %d ", line))
			what = strings.TrimPrefix(what, fmt.Sprintf("(last key %q): ", parse.LastKey))
			what = strings.TrimPrefix(what, fmt.Sprintf("line %d: ", line))
		}
		if parse.LastKey != "" {
			key = parse.LastKey
		}
	}
	line = min(line, last)
	for _, p := range r.problems {
		if p.Line == line {
			return
		}
	}
	r.add(line, clip(key), "not TOML: "+clip(what), "correct the line, see https://toml.io")
}

// readName reads a name that appears in messages, metrics and file names.
func (t *table) readName(key, fix string) string {
	s, ok := t.required(key, fix)
	if !ok {
		return ""
	}
	if why := nameProblem(s); why != "" {
		t.bad(key, fmt.Sprintf("write 1 to %d letters, digits, '-', '_' or '.', beginning with a letter or digit", NameBytesMax),
			"%q %s", clip(s), why)
		return ""
	}
	return s
}

func nameProblem(s string) string {
	if len(s) > NameBytesMax {
		return fmt.Sprintf("is %d bytes long", len(s))
	}
	for i, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && strings.ContainsRune("-_.", c):
		default:
			return fmt.Sprintf("has %q at place %d", c, i+1)
		}
	}
	return ""
}

// readPath reads an absolute path and cleans it.
func (t *table) readPath(key, def string) string {
	s, ok := t.str(key, def)
	if !ok {
		return ""
	}
	if !filepath.IsAbs(s) || strings.ContainsRune(s, 0) || len(s) > 4095 {
		t.bad(key, fmt.Sprintf("write an absolute path, such as %q", def), "%q is not an absolute path", clip(s))
		return ""
	}
	return filepath.Clean(s)
}

func readNode(t *table) Node {
	n := Node{
		Name:       t.readName("name", "write the name of this node, one of the [[member]] names"),
		DataDir:    t.readPath("data_dir", DefaultDataDir),
		RuntimeDir: t.readPath("runtime_dir", DefaultRuntimeDir),
		KeyFile:    t.readPath("key_file", DefaultKeyFile),
	}
	if n.DataDir != "" && n.DataDir == n.RuntimeDir {
		t.bad("runtime_dir", fmt.Sprintf("write another directory, such as %q", DefaultRuntimeDir), "the same as data_dir")
	}
	if size := len(n.RuntimeDir + "/" + SocketName); size > SocketPathBytesMax {
		t.bad("runtime_dir", fmt.Sprintf("write a path of at most %d bytes", SocketPathBytesMax-len("/"+SocketName)),
			"too long for the control socket in it (%d bytes, %d is the kernel's limit)", size, SocketPathBytesMax)
	}
	t.finish()
	return n
}

func readPlacement(t *table, timing Timing) Placement {
	p := Placement{
		Preempt:      t.boolean("preempt", false),
		PreemptDelay: t.duration("preempt_delay", DefaultPreemptDelay, 0, 24*time.Hour, true),
		FenceDelay:   t.duration("fence_delay", DefaultFenceDelay, time.Second, 24*time.Hour, true),
	}
	if p.FenceDelay != 0 && p.FenceDelay <= 2*timing.Promise {
		t.bad("fence_delay", fmt.Sprintf(`write more than %q, or "0s" for fencing by hand only`, short(2*timing.Promise)),
			"%s is within twice the promise (%s), the time of an ordinary takeover", short(p.FenceDelay), short(timing.Promise))
	}
	t.finish()
	return p
}

func readStatus(t *table) Status {
	defer t.finish()
	listen, ok := t.str("listen", DefaultListen)
	if !ok || listen == "" {
		return Status{}
	}
	if _, err := parseListen(listen); err != nil {
		t.bad("listen", fmt.Sprintf(`write IP:port such as %q, ":7401" for all addresses, or "" for off`, DefaultListen),
			"%q is not an address to listen on", clip(listen))
		return Status{}
	}
	return Status{Listen: listen}
}

func readState(t *table) State {
	defer t.finish()
	return State{
		MaxBytes:      t.size("max_bytes", DefaultMaxBytes, 1<<20, 16<<30),
		SnapshotBytes: t.size("snapshot_bytes", DefaultSnapshot, 64<<10, 1<<30),
		ScrubEvery:    t.duration("scrub_every", DefaultScrubEvery, time.Second, 365*24*time.Hour, true),
		SlowFsync:     t.duration("slow_fsync", DefaultSlowFsync, 10*time.Millisecond, time.Minute, false),
	}
}

// size reads a number of bytes with a binary unit.
func (t *table) size(key string, def, low, high int64) int64 {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	fix := fmt.Sprintf("write a size with its unit from %q to %q", sizeText(low), sizeText(high))
	s, ok := v.(string)
	if !ok {
		t.bad(key, fix, "%s where a size belongs", kind(v))
		return def
	}
	n, ok := parseSize(s)
	switch {
	case !ok:
		t.bad(key, fix+" (KiB, MiB or GiB)", "%q is not a size", clip(s))
		return def
	case n < low || n > high:
		t.bad(key, fix, "%s is outside %s to %s", clip(s), sizeText(low), sizeText(high))
		return def
	}
	return n
}

var sizeUnits = []struct {
	suffix string
	shift  uint
}{{"KiB", 10}, {"MiB", 20}, {"GiB", 30}}

func parseSize(s string) (int64, bool) {
	for _, unit := range sizeUnits {
		if digits, ok := strings.CutSuffix(s, unit.suffix); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 32)
			return int64(n) << unit.shift, err == nil
		}
	}
	return 0, false
}

func sizeText(n int64) string {
	for _, unit := range slices.Backward(sizeUnits) {
		if n >= 1<<unit.shift && n%(1<<unit.shift) == 0 {
			return fmt.Sprintf("%d%s", n>>unit.shift, unit.suffix)
		}
	}
	return fmt.Sprintf("%dB", n)
}

// builtinBuckets exist without being named. Their objectives are those of
// S11: tasks are worth less time than sessions and receipts.
func builtinBuckets() []Bucket {
	return []Bucket{
		{Name: "sessions", RPO: 5 * time.Minute},
		{Name: "tasks", RPO: 2 * time.Minute},
		{Name: "receipts", RPO: 5 * time.Minute},
	}
}

func readBuckets(top *table) []Bucket {
	buckets := builtinBuckets()
	named := map[string]int{}
	for _, t := range top.list("bucket", BucketsMax) {
		name := t.readName("name", `write the name of the bucket, such as "sessions"`)
		at := slices.IndexFunc(buckets, func(b Bucket) bool { return b.Name == name })
		def := DefaultRPO
		if at >= 0 {
			def = buckets[at].RPO
		}
		bucket := Bucket{Name: name, RPO: t.duration("rpo", def, time.Second, 30*24*time.Hour, false)}
		if first := named[name]; name != "" && first != 0 {
			t.bad("name", "give every bucket its own name", "%q is used twice, first in line %d", name, first)
		}
		named[name] = t.line("name")
		if at >= 0 {
			buckets[at] = bucket
		} else {
			buckets = append(buckets, bucket)
		}
		t.finish()
	}
	return buckets
}

func readLog(t *table) Log {
	defer t.finish()
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	names := slices.SortedFunc(maps.Keys(levels), func(a, b string) int { return int(levels[a] - levels[b]) })
	level, _ := t.choice("level", "info", names...)
	format, _ := t.choice("format", "auto", "auto", "text", "json")
	return Log{Level: levels[level], Format: format}
}

func readHooks(top *table) []Hook {
	var hooks []Hook
	names := make([]string, 0, len(Phases()))
	for _, p := range Phases() {
		names = append(names, string(p))
	}
	const fix = `write the program and its arguments as a list, such as ["/etc/holdfast/hooks/acquired"]`
	for _, t := range top.list("hook", HooksMax) {
		if _, ok := t.get("phase"); !ok {
			t.bad("phase", "write one of "+strings.Join(names, ", "), "missing")
		}
		phase, _ := t.choice("phase", names[0], names...)
		command, ok := t.strings("command", fix, CommandWordsMax)
		if ok {
			t.checkCommand(command, fix)
		}
		hooks = append(hooks, Hook{
			Phase:   Phase(phase),
			Command: command,
			Timeout: t.duration("timeout", DefaultHookTimeout, 10*time.Millisecond, 10*time.Minute, false),
		})
		t.finish()
	}
	return hooks
}

func (t *table) checkCommand(command []string, fix string) {
	size := 0
	for _, word := range command {
		size += len(word) + 1
		if strings.ContainsRune(word, 0) {
			t.bad("command", fix, "a zero byte in %q", clip(word))
			return
		}
	}
	if size > CommandBytesMax {
		t.bad("command", "move the arguments into a script", "%d bytes long, %d is the limit", size, CommandBytesMax)
	}
	if !filepath.IsAbs(command[0]) {
		t.bad("command", fix, "%q is not an absolute path", clip(command[0]))
	}
}
