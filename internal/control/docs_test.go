package control_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/control/controltest"
)

const documentedSocket = "/run/holdfast/control.sock"

// example is a command of the documentation with the output that it shows.
type example struct {
	line         int
	command, out string
}

// examples finds the commands in blocks marked sh: a line that begins with "$ "
// and those that follow as long as a quotation is open, then the output.
func examples(t *testing.T, text string) []example {
	t.Helper()
	var all []example
	inside := false
	for i, line := range strings.Split(text, "\n") {
		last := len(all) - 1
		switch command, begins := strings.CutPrefix(line, "$ "); {
		case strings.HasPrefix(line, "```"):
			inside = line == "```sh"
		case !inside:
		case begins:
			all = append(all, example{line: i + 1, command: command})
		case last < 0:
			t.Fatalf("line %d: output without a command", i+1)
		case strings.Count(all[last].command, "'")%2 == 1:
			all[last].command += "\n" + line
		default:
			all[last].out += line + "\n"
		}
	}
	return all
}

// pattern matches an output; "..." stands for anything, and at the end of a
// line for the rest of it.
func pattern(out string) *regexp.Regexp {
	text := regexp.QuoteMeta(strings.TrimSuffix(out, "\n"))
	return regexp.MustCompile(`\A` + strings.ReplaceAll(text, regexp.QuoteMeta("..."), ".*?") + `\n*\z`)
}

// The documentation cannot rot: its examples are run.
func TestDocumentedExamples(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("needs curl; hint: test/setup.sh")
	}
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "control.sock")
	controltest.Serve(t, socket, controltest.New())
	all := examples(t, string(text))
	if len(all) < 20 {
		t.Errorf("only %d examples were found", len(all))
	}
	for _, e := range all {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(e.command, documentedSocket, socket))
		out, _ := cmd.Output() // what it printed counts; a watch ends by its time limit
		got := strings.ReplaceAll(string(out), "\r\n", "\n")
		if !pattern(e.out).MatchString(got) {
			t.Errorf("docs/api.md:%d: $ %s\ngot\n%s\nwant\n%s", e.line, e.command, got, e.out)
		}
	}
}

// The test of the documentation can fail.
func TestExamplesAreCompared(t *testing.T) {
	all := examples(t, "x\n```sh\n$ echo 'a\nb'\na\nb\n$ true\n```\n```\n$ not run\n```\n")
	if len(all) != 2 || all[0].command != "echo 'a\nb'" || all[0].out != "a\nb\n" || all[0].line != 3 || all[1].out != "" {
		t.Fatalf("%+v", all)
	}
	for out, want := range map[string]bool{"a\nb\n": true, "a\nb": true, "a...\nb": true, "...": false, "a\n...": true, "a\nc": false, "a": false, "": false} {
		if got := pattern(out).MatchString("a\nb\n"); got != want {
			t.Errorf("%q matches: %v", out, got)
		}
	}
}
