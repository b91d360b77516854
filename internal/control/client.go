package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-ha/holdfast/internal/status"
)

// answerBytesMax bounds what a client reads of an answer.
const answerBytesMax = 16 << 20

// UnreachableError means that no daemon answers on the socket: nothing was
// asked of it.
type UnreachableError struct {
	Path string
	Err  error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("reach daemon on %s: %v", e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Client calls a daemon on this host. It is safe for concurrent use.
type Client struct {
	path string
	http *http.Client
}

// NewClient makes a client of the socket at path; it connects when it is used.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialer := net.Dialer{Timeout: readHeaderTimeout}
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err != nil {
			var op *net.OpError
			if errors.As(err, &op) {
				err = op.Err
			}
			return nil, &UnreachableError{Path: path, Err: err}
		}
		return conn, nil
	}
	return &Client{path: path, http: &http.Client{
		Timeout:   failoverLimit + readTimeout,
		Transport: &http.Transport{DialContext: dial, MaxIdleConns: 1, IdleConnTimeout: time.Second},
	}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the report of the node.
func (c *Client) Status(ctx context.Context) (status.Report, error) {
	return call[status.Report](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Failover asks for a planned switchover and waits for it.
func (c *Client) Failover(ctx context.Context, r FailoverRequest) (FailoverResult, error) {
	return call[FailoverResult](ctx, c, http.MethodPost, "/v1/failover", r)
}

// Maintenance changes whether a node is eligible to hold.
func (c *Client) Maintenance(ctx context.Context, r MaintenanceRequest) (NodeResult, error) {
	return call[NodeResult](ctx, c, http.MethodPost, "/v1/maintenance", r)
}

// Fence fences a node.
func (c *Client) Fence(ctx context.Context, r NodeRequest) (NodeResult, error) {
	return call[NodeResult](ctx, c, http.MethodPost, "/v1/fence", r)
}

// Unfence lifts a fence.
func (c *Client) Unfence(ctx context.Context, r NodeRequest) (NodeResult, error) {
	return call[NodeResult](ctx, c, http.MethodPost, "/v1/unfence", r)
}

// Reload makes the daemon read its file again.
func (c *Client) Reload(ctx context.Context) (ReloadResult, error) {
	return call[ReloadResult](ctx, c, http.MethodPost, "/v1/reload", nil)
}

// Members asks for the members.
func (c *Client) Members(ctx context.Context) (MemberList, error) {
	return call[MemberList](ctx, c, http.MethodGet, "/v1/members", nil)
}

// ChangeMember changes the members and waits for it.
func (c *Client) ChangeMember(ctx context.Context, r MemberRequest) (MemberResult, error) {
	return call[MemberResult](ctx, c, http.MethodPost, "/v1/member", r)
}

// call sends one request. The error is *UnreachableError, *Error as the daemon
// gave it, or that of a broken connection.
func call[Out any](ctx context.Context, c *Client, verb, path string, in any) (Out, error) {
	var out Out
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return out, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, verb, "http://holdfast"+path, body)
	if err != nil {
		return out, fmt.Errorf("make request: %w", err)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return out, transportError(verb, err)
	}
	defer func() { _ = answer.Body.Close() }() // all that matters was read
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerBytesMax))
	if err != nil {
		return out, transportError(verb, err)
	}
	if answer.StatusCode != http.StatusOK {
		var e envelope
		if json.Unmarshal(text, &e) != nil || e.Error == nil {
			return out, fmt.Errorf("daemon answered %s without saying why", answer.Status)
		}
		return out, e.Error
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return out, fmt.Errorf("read answer: %w", err)
	}
	return out, nil
}

// transportError tells a daemon that was never asked from one that did not
// answer, in which case a change may have happened.
func transportError(verb string, err error) error {
	var unreachable *UnreachableError
	if errors.As(err, &unreachable) {
		return unreachable
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	if verb == http.MethodGet {
		return &Error{Code: Internal, Message: "daemon did not answer: " + err.Error(), Hint: "holdfast status"}
	}
	return &Error{Code: Timeout, Message: "daemon did not answer, the outcome is unknown: " + err.Error(), Hint: "holdfast status"}
}
