package config

import (
	"fmt"
	"sort"
	"strings"
)

// problemsMax bounds what is reported of one file: after so many lines nobody
// reads on.
const problemsMax = 100

// Problem is one thing that is wrong in a file: where, which key, what is
// wrong and what to write instead.
type Problem struct {
	File string
	Line int    // from 1
	Key  string // as docs/configuration.md names it, such as member.public_key
	What string
	Fix  string
}

func (p Problem) String() string {
	return fmt.Sprintf("%s:%d: %s: %s: %s", p.File, p.Line, p.Key, p.What, p.Fix)
}

// Problems is every problem of a file, sorted by line. As an error it prints
// one problem a line.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, 0, len(p))
	for _, one := range p[:min(len(p), problemsMax)] {
		lines = append(lines, one.String())
	}
	if len(p) > problemsMax {
		lines = append(lines, fmt.Sprintf("%s: and %d more problems", p[0].File, len(p)-problemsMax))
	}
	return strings.Join(lines, "\n")
}

// reader collects the problems of one file while it is being walked.
type reader struct {
	file     string
	problems Problems
	tables   []*table // those that were read
}

func (r *reader) add(line int, key, what, fix string) {
	if key == "" {
		key = `""` // a key of no characters is possible in TOML
	}
	r.problems = append(r.problems, Problem{File: r.file, Line: max(line, 1), Key: key, What: what, Fix: fix})
}

func (r *reader) sorted() Problems {
	sort.SliceStable(r.problems, func(i, j int) bool { return r.problems[i].Line < r.problems[j].Line })
	return r.problems
}

// nearest is the known word closest to a mistyped one, or "".
func nearest(word string, known []string) string {
	best, distance := "", 3 // more than two edits away is another word
	for _, k := range known {
		if d := edits(word, k); d < distance && d < len(k) {
			best, distance = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance of two short words.
func edits(a, b string) int {
	if len(a) > NameBytesMax || len(b) > NameBytesMax {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
