package client

import (
	"context"
	"errors"
	"fmt"
)

// Code names a kind of failure.
type Code string

// Codes of failures. All but Unreachable are those of the daemon.
const (
	NoQuorum           Code = "no_quorum"           // no majority, or no leader to ask
	PreconditionFailed Code = "precondition_failed" // a condition did not hold
	NotFound           Code = "not_found"           // no such key, or bucket
	TooLarge           Code = "too_large"
	QuotaExceeded      Code = "quota_exceeded"
	DiskFull           Code = "disk_full"
	Invalid            Code = "invalid"
	Forbidden          Code = "forbidden"
	Timeout            Code = "timeout"   // of a write: the outcome is unknown
	Compacted          Code = "compacted" // of a watch: changes were missed
	Internal           Code = "internal"
	// Unreachable means that no daemon answered on the socket and nothing was
	// asked of it.
	Unreachable Code = "unreachable"
)

// Error is a failure: what and why, and in Hint what to do ("" is nothing).
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`

	cause error
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, such as the error of a system call or of a
// context, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Is compares codes: errors.Is(err, &client.Error{Code: client.NotFound}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// CodeOf returns the code of an error of this package, and Internal for any
// other; "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// transient tells whether the same request may succeed later.
func (e *Error) transient() bool {
	return e.Code == NoQuorum || e.Code == Timeout || e.Code == Unreachable
}

// settles tells whether the answer to a write that has an id says what became
// of earlier tries of it: such outcomes come from the log and are remembered.
// What is refused for another reason may still be under way.
func (e *Error) settles() bool { return e.Code == PreconditionFailed || e.Code == NotFound }

// unknown is the error of a write that may have happened.
func unknown(last *Error) *Error {
	if last.Code == Timeout {
		return last
	}
	return &Error{Code: Timeout, Message: "the outcome is unknown: an earlier try got no answer, the last one: " + last.Message, Hint: last.Hint, cause: last}
}

// broken is the error of a connection that ended before the answer.
func broken(err error) *Error {
	return &Error{Code: Timeout, Message: fmt.Sprintf("the daemon did not answer: %v", err), Hint: "holdfast status", cause: err}
}

// ended adds to the last error of a call that its context ended.
func ended(ctx context.Context, last *Error) error {
	if last == nil {
		return &Error{Code: Timeout, Message: "not done in time: " + ctx.Err().Error(), cause: context.Cause(ctx)}
	}
	e := *last
	e.cause = errors.Join(context.Cause(ctx), last.cause)
	return &e
}
