package main

import (
	"fmt"
	"strings"
	"time"
)

// part is the name of the table in the page that holds it.
const part = "mutants"

// markdown is the table of all mutants. With all, the catchers that missed a
// mutant which another caught are told too.
func markdown(results []result, all bool) string {
	var b strings.Builder
	b.WriteString("| mutant | rule | what it brings back | caught by | needed |\n|---|---|---|---|---|\n")
	for _, r := range results {
		by, needed := cells(r, all)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.mutant.name, r.mutant.rule, r.mutant.bug, by, needed)
	}
	return b.String()
}

func cells(r result, all bool) (by, needed string) {
	if !r.caught() {
		return "**not caught**", "-"
	}
	var who, cost []string
	for _, o := range r.outcomes {
		switch {
		case o.kind == caught:
			who, cost = append(who, nameOf(o)), append(cost, costOf(o))
		case all && o.kind != notThere:
			who, cost = append(who, "(not "+o.catcher.pkgName()+")"), append(cost, "-")
		}
	}
	return strings.Join(who, "; "), strings.Join(cost, "; ")
}

// maxNamed is how many failing tests the table names for one mutant.
const maxNamed = 2

func nameOf(o outcome) string {
	if o.catcher.isSim() {
		return "sim (" + strings.Join(o.by, "") + ")"
	}
	by := o.by
	more := ""
	if len(by) > maxNamed {
		more = fmt.Sprintf(" and %d more", len(by)-maxNamed)
		by = by[:maxNamed]
	}
	if len(by) == 0 {
		by = []string{"a panic in " + strings.Join(o.catcher.tests, ", ")}
	}
	return strings.TrimPrefix(o.catcher.pkg, "./") + " " + strings.Join(by, ", ") + more
}

func costOf(o outcome) string {
	if o.catcher.isSim() {
		return fmt.Sprintf("%d seeds, %.1f s", o.seeds, o.took.Seconds())
	}
	if o.took < 100*time.Millisecond {
		return "< 0.1 s"
	}
	return fmt.Sprintf("%.1f s", o.took.Seconds())
}

// summary is one line for the terminal.
func summary(r result) string {
	if r.err != nil {
		return r.err.Error()
	}
	var parts []string
	for _, o := range r.outcomes {
		if o.kind == caught {
			parts = append(parts, fmt.Sprintf("%s (%s)", strings.Join(append(o.by, ""), " "), costOf(o)))
			continue
		}
		text := fmt.Sprintf("%v: %v", o.catcher, o.kind)
		if o.kind == broken {
			text += ": " + strings.ReplaceAll(o.text, "\n", " | ")
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}
