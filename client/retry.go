package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Distances of tries.
const (
	backoffMin = 10 * time.Millisecond
	backoffMax = time.Second
)

// backoff is the distance of tries, doubled each time and spread so that many
// clients do not come at once.
type backoff time.Duration

// wait waits for the next try, false when ctx ended before.
func (b *backoff) wait(ctx context.Context) bool {
	d := min(max(time.Duration(*b), backoffMin), backoffMax)
	*b = backoff(2 * d)
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// do executes a request, again and again as long as that makes sense.
func (c *Client) do(ctx context.Context, r *request) (*answer, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var last *Error
	var pause backoff
	for {
		if ctx.Err() != nil {
			return nil, ended(ctx, last)
		}
		a, e := c.try(ctx, r)
		if e == nil {
			return a, nil
		}
		if r.write || last == nil || e.Code != Timeout {
			last = e // else what was said before tells more than silence
		}
		if r.open && !e.settles() {
			last = unknown(e)
		}
		r.open = r.open || r.write && e.Code == Timeout
		if c.lasts(e) {
			return nil, last
		}
		if !pause.wait(ctx) {
			return nil, ended(ctx, last)
		}
	}
}

// try executes a request once. Its error has code Unreachable when the daemon
// did not get all of it, and Timeout when there was no answer.
func (c *Client) try(ctx context.Context, r *request) (*answer, *Error) {
	for fresh := false; ; fresh = true {
		cn, unreached := c.pool.get(ctx, fresh)
		if unreached != nil {
			return nil, unreached
		}
		a, sent, err := c.exchange(ctx, cn, r)
		switch {
		case err == nil && a.status < http.StatusBadRequest:
			return a, nil
		case err == nil:
			return nil, a.failure()
		case cn.old && ctx.Err() == nil && !isTimeout(err):
			// The daemon closed this connection, most likely while it was
			// idle; but it may have taken the request before.
			r.open = r.open || r.write && sent
			continue
		case !sent:
			return nil, &Error{Code: Unreachable, Message: fmt.Sprintf("ask daemon on %s: %v", c.pool.path, err), Hint: "holdfast status", cause: err}
		}
		return nil, broken(err)
	}
}

// exchange sends a request and reads the answer. What was not sent to its end
// is not executed.
func (c *Client) exchange(ctx context.Context, cn *conn, r *request) (a *answer, sent bool, err error) {
	release, err := cn.guard(ctx, tryTimeout)
	if err != nil {
		_ = cn.Close() // the error is told
		return nil, false, err
	}
	again := false
	if err = cn.send(r); err == nil {
		sent = true
		a, again, err = cn.receive()
	} else if refused, _, e := cn.receive(); e == nil {
		a, err = refused, nil // it said why before it closed the connection
	}
	if release() && again {
		c.pool.put(cn)
	} else {
		_ = cn.Close() // what it had to say was read
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return a, sent, err
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// failure is the Error that an answer has.
func (a *answer) failure() *Error {
	var in struct {
		Error *Error `json:"error"`
	}
	if json.Unmarshal(a.body, &in) != nil || in.Error == nil || in.Error.Code == "" {
		return odd("%d %s without a reason", a.status, http.StatusText(a.status))
	}
	return in.Error
}

// odd is the error for an answer that no daemon gives.
func odd(format string, args ...any) *Error {
	return &Error{Code: Internal, Message: "the daemon gave an odd answer: " + fmt.Sprintf(format, args...), Hint: "is it a control socket of Holdfast?"}
}

// revision reads {"rev":N}.
func (a *answer) revision() (uint64, error) {
	text := strings.TrimSuffix(string(a.body), "\n")
	if digits, ok := strings.CutPrefix(text, `{"rev":`); ok {
		if rev, err := strconv.ParseUint(strings.TrimSuffix(digits, "}"), 10, 64); err == nil {
			return rev, nil
		}
	}
	var in struct {
		Rev uint64 `json:"rev"`
	}
	if err := json.Unmarshal(a.body, &in); err != nil || in.Rev == 0 {
		return 0, odd("%q instead of a revision", text)
	}
	return in.Rev, nil
}

// etag reads the revision of a key.
func (a *answer) etag() (uint64, error) {
	text := a.header.Get("Etag")
	rev, err := strconv.ParseUint(strings.Trim(text, `"`), 10, 64)
	if err != nil || rev == 0 {
		return 0, odd("ETag %q", text)
	}
	return rev, nil
}
