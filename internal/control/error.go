// Package control is the control socket: HTTP over a Unix socket, for the
// command line and for programs of the operator on the same host.
package control

import (
	"context"
	"errors"
	"net/http"
)

// Code names a kind of failure. Scripts compare it.
type Code string

// Codes of failures.
const (
	NoQuorum           Code = "no_quorum"           // no majority, or no leader to ask
	PreconditionFailed Code = "precondition_failed" // refused in this state
	NotFound           Code = "not_found"
	TooLarge           Code = "too_large"
	QuotaExceeded      Code = "quota_exceeded"
	DiskFull           Code = "disk_full"
	Invalid            Code = "invalid"   // the request or the configuration is wrong
	Forbidden          Code = "forbidden" // the caller may not
	Timeout            Code = "timeout"   // the outcome is unknown
	Internal           Code = "internal"
	// Compacted: the history of changes begins after the revision that was
	// asked for.
	Compacted Code = "compacted"
)

var httpStatus = map[Code]int{
	NoQuorum:           http.StatusServiceUnavailable,
	PreconditionFailed: http.StatusPreconditionFailed,
	NotFound:           http.StatusNotFound,
	TooLarge:           http.StatusRequestEntityTooLarge,
	QuotaExceeded:      http.StatusInsufficientStorage,
	DiskFull:           http.StatusInsufficientStorage,
	Invalid:            http.StatusBadRequest,
	Forbidden:          http.StatusForbidden,
	Timeout:            http.StatusGatewayTimeout,
	Internal:           http.StatusInternalServerError,
	Compacted:          http.StatusGone,
}

// Error is a failure as the caller sees it: what failed and why, and in Hint
// the command to run ("" = none). A Backend returns it, possibly wrapped, and
// a Client returns it again.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

func (e *Error) Error() string { return e.Message }

// asError finds the Error in err, or makes one of it.
func asError(err error) *Error {
	var known *Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &Error{Code: Timeout, Message: "no answer in time: the outcome is unknown", Hint: "holdfast status"}
	}
	return &Error{Code: Internal, Message: err.Error()}
}

// envelope is the body of every failure.
type envelope struct {
	Error *Error `json:"error"`
}
