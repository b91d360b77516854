package sim

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
)

// Commit is that of the tree in which this runs, "unknown" outside of one.
var Commit = sync.OnceValue(func() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
})

// CheckCommit warns when a seed is run on another commit than it was found on:
// the same seed may then be another life.
func CheckCommit(out io.Writer, wanted string) {
	if wanted != "" && wanted != Commit() {
		fmt.Fprintf(out, "warning: the seed is of commit %s, this is %s\n", wanted, Commit())
	}
}
