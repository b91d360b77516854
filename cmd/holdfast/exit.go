package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/transport"
)

// Exit codes. Scripts, the unit file and the guard rely on them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2 // usage or configuration
	exitUnreachable = 3 // no daemon answers
	exitRefused     = 4 // refused in this state
	exitIntegrity   = 5 // an integrity check failed
)

// commandError is an error with its own exit code and hint.
type commandError struct {
	code int
	err  error
	hint string
}

func (e *commandError) Error() string { return e.err.Error() }

func (e *commandError) Unwrap() error { return e.err }

// report prints err as people read it, one line what failed and why and one
// line what to do, and returns the exit code.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	code, hint := classify(err)
	var problems config.Problems
	text := "holdfast: " + oneLine(err.Error())
	if errors.As(err, &problems) {
		text = problems.Error() // one line each, made to be read by editors too
	}
	_, _ = fmt.Fprintln(stderr, text) // nowhere left to complain
	if hint != "" {
		_, _ = fmt.Fprintln(stderr, "hint:", oneLine(hint))
	}
	return code
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// classify gives the exit code and the hint of an error.
func classify(err error) (code int, hint string) {
	var own *commandError
	var unreachable *control.UnreachableError
	var refused *control.Error
	var problems config.Problems
	var key *transport.KeyFileError
	switch {
	case errors.As(err, &own):
		return own.code, own.hint
	case errors.As(err, &unreachable):
		return exitUnreachable, unreachableHint(unreachable)
	case errors.As(err, &refused):
		return refusedCode(refused.Code), refused.Hint
	case errors.As(err, &problems):
		return exitUsage, "correct the file, then: holdfast config check " + problems[0].File
	case errors.As(err, &key):
		return keyCode(key), key.Hint
	case errors.Is(err, context.Canceled):
		return exitFailed, "interrupted: `holdfast status` shows what was done"
	}
	return exitFailed, ""
}

func unreachableHint(e *control.UnreachableError) string {
	if errors.Is(e.Err, fs.ErrPermission) || errors.Is(e.Err, syscall.EACCES) {
		return "run it with sudo, or as a member of the socket's group"
	}
	return "is it running? systemctl status holdfast; another socket: --socket PATH or --config FILE"
}

// refusedCode maps the daemon's answer. Refused is what may work later or
// elsewhere; invalid is what never will.
func refusedCode(code control.Code) int {
	switch code {
	case control.NoQuorum, control.PreconditionFailed, control.NotFound, control.QuotaExceeded, control.DiskFull, control.Compacted:
		return exitRefused
	case control.Invalid, control.TooLarge:
		return exitUsage
	}
	return exitFailed
}

// keyCode tells a key that is in the way from one that cannot be used.
func keyCode(e *transport.KeyFileError) int {
	if errors.Is(e, transport.ErrKeyExists) {
		return exitRefused
	}
	return exitUsage
}

// loadConfig reads a file; one that is missing is a configuration error too.
func loadConfig(path string) (*config.Config, error) {
	c, err := config.Load(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &commandError{code: exitUsage, err: err, hint: "write it (docs/configuration.md has an example), or name another: --config FILE"}
	case errors.Is(err, fs.ErrPermission):
		return nil, &commandError{code: exitUsage, err: err, hint: "run it with sudo"}
	}
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return nil, &commandError{code: exitUsage, err: err, hint: "name a file: --config FILE"}
	}
	return c, err
}
