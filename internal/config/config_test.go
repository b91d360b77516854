package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const docs = "../../docs/configuration.md"

func read1(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// docsExample is the first TOML block of the documentation.
func docsExample(t *testing.T) string {
	t.Helper()
	_, rest, ok := strings.Cut(read1(t, docs), "```toml\n")
	example, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("no TOML example in " + docs)
	}
	return example
}

func TestDocsExampleHasTheDocumentedDefaults(t *testing.T) {
	c := parse(t, docsExample(t))
	if c.Cluster != "site-a" || c.Self().Name != "gw1" || len(c.Members) != 3 {
		t.Errorf("cluster %q, self %q, %d members", c.Cluster, c.Self().Name, len(c.Members))
	}
	want := Node{Name: "gw1", DataDir: "/var/lib/holdfast", RuntimeDir: "/run/holdfast", KeyFile: "/etc/holdfast/node.key"}
	if c.Node != want {
		t.Errorf("node %+v", c.Node)
	}
	if m := c.Members[0]; m.Role != Gateway || m.Priority != 100 {
		t.Errorf("member %+v", m)
	}
	if v := c.VIPs[0]; v.Group != "default" || v.Scope != ScopeVIP || v.Address != netip.MustParsePrefix("10.77.0.100/24") {
		t.Errorf("vip %+v", v)
	}
	if c.Timing.Profile != "default" || c.Timing.Lease != 391*time.Millisecond {
		t.Errorf("timing %+v", c.Timing)
	}
	if c.Placement != (Placement{PreemptDelay: 30 * time.Second, FenceDelay: 10 * time.Second}) {
		t.Errorf("placement %+v", c.Placement)
	}
	if c.Status.Listen != "127.0.0.1:7401" || c.State.MaxBytes != 512<<20 {
		t.Errorf("status %+v, state %+v", c.Status, c.State)
	}
	if c.Log != (Log{Level: slog.LevelInfo, Format: "auto"}) || len(c.Hooks) != 0 {
		t.Errorf("log %+v, hooks %+v", c.Log, c.Hooks)
	}
	// Covers S11.
	if b := c.Buckets; len(b) != 3 || b[0] != (Bucket{"sessions", 5 * time.Minute}) || b[1].RPO != 2*time.Minute || b[2].RPO != 5*time.Minute {
		t.Errorf("buckets %+v", b)
	}
	if c.SocketPath() != "/run/holdfast/control.sock" {
		t.Errorf("socket %s", c.SocketPath())
	}
	if w := c.Warnings(); len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
}

func TestFullFile(t *testing.T) {
	c, err := Load("testdata/full.toml")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Groups(); !slices.Equal(got, []string{"default", "mail"}) {
		t.Errorf("groups %q", got)
	}
	if c.Timing.Profile != "" || c.Timing.Lease != 391*time.Millisecond {
		t.Errorf("timing by hand %+v", c.Timing)
	}
	if len(c.Hooks) != 6 || c.Hooks[0].Timeout != 5*time.Second || c.Hooks[2].Timeout != 10*time.Second {
		t.Errorf("hooks %+v", c.Hooks)
	}
	if len(c.Buckets) != 4 || c.Buckets[0].RPO != time.Minute || c.Buckets[3] != (Bucket{"tokens", 10 * time.Minute}) {
		t.Errorf("buckets %+v", c.Buckets)
	}
	if m, ok := c.Member("gw2"); !ok || len(m.Addresses) != 2 {
		t.Errorf("member gw2 %+v", m)
	}
}

// Every key that the code asks for is in the documentation and, but for the
// one that excludes others, in the full file; neither names one that the code
// does not know.
func TestEveryKeyIsDocumented(t *testing.T) {
	r := &reader{file: "full"}
	r.parse([]byte(read1(t, "testdata/full.toml")))
	known := map[string]bool{}
	for _, table := range r.tables {
		for _, key := range table.asked {
			known[table.key(key)] = true
		}
	}
	tables := []string{"node", "member", "vip", "timing", "placement", "status", "state", "bucket", "log", "hook"}
	for _, key := range append(tables, laterTables...) {
		delete(known, key)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\|.*\\|.*\\|.*\\|$").FindAllStringSubmatch(read1(t, docs), -1) {
		documented[m[1]] = true
	}
	delete(documented, "default") // rows of the table of profiles
	delete(documented, "fast")
	delete(documented, "wan")
	for key := range known {
		if !documented[key] {
			t.Errorf("%s is not in %s", key, docs)
		}
	}
	for key := range documented {
		if !known[key] {
			t.Errorf("%s documents %s, which does not exist", docs, key)
		}
	}
	places, err := scan(read1(t, "testdata/full.toml"))
	if err != nil {
		t.Fatal(err)
	}
	for key := range known {
		n, last := places.root, key
		if table, rest, ok := strings.Cut(key, "."); ok {
			n, last = n.child(table), rest
			if n != nil && n.tables {
				n = n.items[0]
			}
		}
		if n.child(last) == nil && key != "timing.profile" {
			t.Errorf("testdata/full.toml lacks %s", key)
		}
	}
	for _, name := range laterTables {
		if !strings.Contains(read1(t, docs), name) {
			t.Errorf("%s does not name the later table %s", docs, name)
		}
	}
}

func TestDocumentedProfilesAreTheDerivedOnes(t *testing.T) {
	for _, name := range Profiles() {
		c := parse(t, docsExample(t)+"\n[timing]\nprofile = \""+name+"\"\n")
		row := regexp.MustCompile("(?m)^\\| `" + name + "` \\| (.*) \\| (.*) \\| (.*) \\| (.*) \\|$").FindStringSubmatch(read1(t, docs))
		if row == nil {
			t.Fatalf("no row for profile %s", name)
		}
		for i, d := range []time.Duration{c.Timing.Beat, c.Timing.Promise, c.Timing.Epsilon, c.Timing.Lease} {
			written, err := time.ParseDuration(strings.ReplaceAll(row[i+1], " ", ""))
			if err != nil || written != d {
				t.Errorf("profile %s column %d: documented %s, derived %v", name, i+1, row[i+1], d)
			}
		}
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "read configuration") {
		t.Errorf("directory: %v", err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("#\n", FileBytesMax)), 0o600); err != nil {
		t.Fatal(err)
	}
	var problems Problems
	if _, err := Load(big); !errors.As(err, &problems) || problems[0].Key != "file" {
		t.Errorf("big file: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	text := strings.Replace(docsExample(t), `"10.77.0.2:7400"]`, "\"10.77.0.2:7400\"]\nrole = \"witness\"", 1)
	c := parse(t, text+"\n[placement]\nfence_delay = \"0s\"\n")
	if w := c.Warnings(); len(w) != 2 {
		t.Errorf("warnings %q", w)
	}
}

func TestLookAt(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "holdfast.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct{ name, text, dir, members string }{
		{"full file", read1(t, "testdata/full.toml"), "/run/holdfast", "gw1 gw2 w1"},
		{"invalid but readable", "[node]\nruntime_dir = \"/run/other\"\nbogus = 1\n[[member]]\nname = \"a\"\n[[member]]\nname = 3\n", "/run/other", "a"},
		{"relative directory", "[node]\nruntime_dir = \"run\"\n", DefaultRuntimeDir, ""},
		{"not TOML", "[node\n", DefaultRuntimeDir, ""},
		{"empty", "", DefaultRuntimeDir, ""},
	} {
		got := LookAt(write(c.text))
		if got.RuntimeDir != c.dir || strings.Join(got.Members, " ") != c.members {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	if got := LookAt(filepath.Join(dir, "absent")).SocketPath(); got != "/run/holdfast/control.sock" {
		t.Errorf("absent: %s", got)
	}
}
