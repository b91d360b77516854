package transport

import (
	"errors"
	"fmt"
)

// Causes of a refused hello, to be used with errors.Is on a RefusedError.
var (
	ErrVersionMismatch   = errors.New("protocol version differs")
	ErrClusterMismatch   = errors.New("cluster name differs")
	ErrProfileMismatch   = errors.New("timing profile differs")
	ErrClusterIDMismatch = errors.New("cluster id differs")
	ErrHelloRefused      = errors.New("hello refused") // by CheckHello
)

// RefusedError says that two members do not go together. Both sides get one,
// each with both values from its own point of view.
type RefusedError struct {
	Peer   string
	Remote bool   // the peer refused us, else we refused it
	Ours   string // our value
	Theirs string // the peer's value
	Err    error  // one of the causes above
	Reason string // CheckHello's text; empty for the other causes
}

func (e *RefusedError) Error() string {
	who := "refused " + e.Peer
	if e.Remote {
		who = "refused by " + e.Peer
	}
	if e.Reason != "" {
		return fmt.Sprintf("%s: %s", who, e.Reason)
	}
	return fmt.Sprintf("%s: %v: ours is %s, theirs is %s", who, e.Err, e.Ours, e.Theirs)
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }
