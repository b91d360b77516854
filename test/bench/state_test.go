package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample is a small run, better than every goal but the snapshots'.
func sample() *stateBench {
	s := &stateBench{
		name: "quick", size: sizes["quick"], etcd: "3.4.23", version: "holdfast 1",
		wal: []walRow{
			{Name: "bare file, 4 KiB writes", Single: figures{Rate: 1000, P50: 100}, SingleRatio: 1, Gain: 20},
			{Name: "Holdfast wal", Single: figures{Rate: 950, P50: 105}, SingleRatio: 1.05, Gain: 18},
		},
		replay:   []replayRow{{Name: "Holdfast wal", Bytes: 64 << 20, Seconds: 0.25}},
		cells:    map[string]map[int]*cell{"etcd": {}, "holdfast": {}},
		pairs:    [][2]loadRow{{{figures: figures{P99: 1000}}, {figures: figures{P99: 2500}}}},
		memory:   []memory{{node: "gw1", live: 100 << 20, rss: 339 << 10}},
		recovery: &recoveryRow{Bytes: 64 << 20, OpenS: 0.1, ApplyS: 0.2},
	}
	for _, n := range clientCounts {
		s.cells["etcd"][n] = &cell{rows: []loadRow{
			{figures: figures{Rate: 900, P50: 2100, P99: 10_000}},
			{figures: figures{Rate: 1000, P50: 2000, P99: 11_000}},
			{figures: figures{Rate: 1100, P50: 1900, P99: 12_000}},
		}}
		s.cells["holdfast"][n] = &cell{rows: []loadRow{{figures: figures{Rate: 4000, P50: 1000, P99: 5500}}}}
	}
	return s
}

func TestGoalsAreJudgedAtTheirLimits(t *testing.T) {
	s := sample()
	for _, g := range s.goals() {
		if want := !strings.Contains(g.what, "snapshots"); g.met != want {
			t.Errorf("%s: %s, met %v", g.what, g.got, g.met)
		}
	}
	if n := len(s.goals()); n != 9 {
		t.Errorf("%d goals", n)
	}
	s.wal[1].SingleRatio, s.wal[1].Gain = 1.11, 7.9
	s.replay[0].Seconds = 0.32
	s.cells["holdfast"][1].rows[0].P50 = 1010
	s.cells["holdfast"][64].rows[0] = loadRow{figures: figures{Rate: 3990, P50: 1, P99: 5600}}
	s.memory[0].rss = 341 << 10
	s.recovery.ApplyS = 0.3
	for _, g := range s.goals() {
		if g.met {
			t.Errorf("%s: %s is met", g.what, g.got)
		}
	}
}

// What was not measured is said, and breaks nothing.
func TestStatePageOfNothing(t *testing.T) {
	s := &stateBench{name: "quick", size: sizes["quick"]}
	s.fail("clusters", errors.New("no\nnamespaces"))
	text := s.markdown()
	if !strings.Contains(text, "Not measured: clusters: no; namespaces\n") || len(s.goals()) != 0 {
		t.Errorf("the page does not say so:\n%s", text)
	}
}

func TestStatePageHasEveryTable(t *testing.T) {
	s := sample()
	s.state = &stateRow{Keys: 100_000, Apply: 123_456, LiveBytes: 1 << 20, HeapBytes: 2 << 20}
	s.catchUps = []catchUp{{way: "log", bytes: 50 << 20, seconds: 3, started: 1}}
	text := s.markdown()
	for _, want := range []string{
		"| wal: rate of 64 writers, by that of one | at least 8 | 18.0 | met |",
		"| p99 of writes with snapshots, by that without | at most 2 | 2.50 | **missed** |",
		"| Holdfast wal | 105 µs |", "| 64 | 4.00 | 0.50 | 0.50 |", "| 64 | etcd | 1,000 | 2.00 ms | 11 ms |",
		"| log | 50 MiB | 3.00 s | 1.00 s | 25 MiB/s |", "| puts applied, up to 100000 keys | 123,456/s |",
		"| gw1 | 100 MiB | 339 MiB | 3.39 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
}

// A run of one part keeps the other.
func TestPartsOfThePage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	for _, c := range []struct {
		page, first, second string
	}{
		{"", "", ""},
		{"# one\n", "# one\n", ""},
		{"# one\n\n" + stateMark + "# two\n", "# one\n\n", "# two\n"},
	} {
		if c.page != "" {
			if err := os.WriteFile(path, []byte(c.page), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		first, err1 := otherPart(path, false)
		second, err2 := otherPart(path, true)
		if err := errors.Join(err1, err2); err != nil || first != c.first || second != c.second {
			t.Errorf("%q: %q and %q, %v", c.page, first, second, err)
		}
		joined := join(c.first, c.second)
		if c.second != "" && joined != c.page || c.second == "" && joined != c.first {
			t.Errorf("%q joins to %q", c.page, joined)
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	for got, want := range map[string]string{
		micro(0): "-", micro(12.3): "12 µs", micro(1234): "1.23 ms", micro(45_678): "46 ms",
		rate(12.4): "12", rate(1234.5): "1,235", rate(1_234_567): "1,234,567", rate(1_000_001): "1,000,001",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
