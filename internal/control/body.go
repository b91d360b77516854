package control

import (
	"errors"
	"fmt"
	"io"
	"net/http"
)

// drainMax bounds what is read of a body that is refused, so that the caller
// gets to hear why.
const drainMax = 16 << 20

// readBody reads a body of at most limit bytes into memory of its own. The
// size is known in advance for all but chunked bodies; nothing is allocated
// before it is checked.
func readBody(r *http.Request, limit int) ([]byte, error) {
	switch n := r.ContentLength; {
	case n == 0:
		return nil, nil
	case n > int64(limit):
		return nil, bodyTooLarge(limit)
	case n > 0:
		b := make([]byte, n)
		if _, err := io.ReadFull(r.Body, b); err != nil {
			return nil, brokenBody(err)
		}
		return b, nil
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	if err != nil {
		return nil, brokenBody(err)
	}
	if len(b) > limit {
		return nil, bodyTooLarge(limit)
	}
	return b, nil
}

func bodyTooLarge(limit int) *Error {
	if limit == 0 {
		return invalid("send none", "this request has no body")
	}
	return &Error{Code: TooLarge, Message: fmt.Sprintf("body larger than %d bytes", limit), Hint: "docs/api.md names the limits"}
}

func brokenBody(err error) *Error {
	return invalid("send all of it within 10 s", "read body: %v", err)
}

// refuse answers with an error, after reading what the caller still sends: it
// may read no answer before that. Who waits for leave to send is not given it.
func (a *api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	known := asError(err)
	if r.ContentLength != 0 && r.Header.Get("Expect") == "" {
		_, e := io.CopyN(io.Discard, r.Body, drainMax)
		if e == nil || !errors.Is(e, io.EOF) {
			w.Header().Set("Connection", "close")
		}
	}
	fail(w, known)
}
