package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Status is a member's own view, as its control socket serves it. It has the
// fields of the contract that tests look at; Raw has all.
type Status struct {
	AsOf     time.Time `json:"as_of"`
	Version  string    `json:"version"`
	Cluster  string    `json:"cluster"`
	Node     string    `json:"node"`
	Role     string    `json:"role"`
	Holder   string    `json:"holder"`
	Leader   string    `json:"leader"`
	Term     uint64    `json:"term"`
	Epoch    uint64    `json:"epoch"`
	Identity struct {
		Incarnation string `json:"incarnation"`
	} `json:"identity"`
	Lease struct {
		Held        bool  `json:"held"`
		RemainingMs int64 `json:"remaining_ms"`
		LengthMs    int64 `json:"length_ms"`
	} `json:"lease"`
	Quorum struct {
		OK        bool `json:"ok"`
		Voters    int  `json:"voters"`
		Reachable int  `json:"reachable"`
	} `json:"quorum"`
	Members    []Member `json:"members"`
	Membership struct {
		Differences []string `json:"differences"`
		Waiting     string   `json:"waiting"`
	} `json:"membership"`
	VIPs []struct {
		Address   string `json:"address"`
		Interface string `json:"interface"`
		Group     string `json:"group"`
		Present   bool   `json:"present"`
		Gate      string `json:"gate"`
	} `json:"vips"`
	Gate struct {
		Attached bool              `json:"attached"`
		Mode     string            `json:"mode"`
		Dropped  map[string]uint64 `json:"dropped"`
	} `json:"gate"`
	State struct {
		Applied  uint64 `json:"applied"`
		Commit   uint64 `json:"commit"`
		Snapshot uint64 `json:"snapshot"`
		Bytes    int64  `json:"bytes"`
		Keys     int    `json:"keys"`
		Revision uint64 `json:"revision"`
		Hash     string `json:"hash"`
	} `json:"state"`
	WAL struct {
		Bytes      int64   `json:"bytes"`
		Segments   int     `json:"segments"`
		Verdict    string  `json:"verdict"`
		FsyncP99Ms float64 `json:"fsync_p99_ms"`
		Blocked    string  `json:"blocked"`
		Slow       bool    `json:"slow"`
	} `json:"wal"`
	Failovers []struct {
		At     time.Time `json:"at"`
		Group  string    `json:"group"`
		From   string    `json:"from"`
		To     string    `json:"to"`
		Cause  string    `json:"cause"`
		TookMs float64   `json:"took_ms"`
	} `json:"failovers"`

	// Raw is the whole answer.
	Raw json.RawMessage `json:"-"`
}

// Member is what a status says of a member.
type Member struct {
	Name        string `json:"name"`
	Role        string `json:"role"`
	Reachable   bool   `json:"reachable"`
	LastBeatMs  int64  `json:"last_beat_ms"`
	Match       uint64 `json:"match"`
	Fenced      bool   `json:"fenced"`
	Maintenance bool   `json:"maintenance"`
	Healthy     bool   `json:"healthy"`
	Voter       bool   `json:"voter"`
	State       string `json:"state"`
	RaftID      string `json:"raft_id"`
}

// Holds reports whether the member says that it holds the VIP by a valid lease.
func (s *Status) Holds() bool { return s.Role == "holder" && s.Lease.Held }

const (
	statusLimit  = 16 << 20
	callDuration = 2 * time.Second
)

// call sends a request to a control socket and returns the answer's body.
// A socket's path works from every network namespace.
func call(ctx context.Context, socket, method, path string, body io.Reader) (int, []byte, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, body)
	if err != nil {
		return 0, nil, fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("ask control socket: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, statusLimit))
	if err != nil {
		return resp.StatusCode, nil, fmt.Errorf("read answer of control socket: %w", err)
	}
	return resp.StatusCode, raw, nil
}

// Call sends a request to a member's control socket and returns the HTTP
// status and the body.
func (c *Cluster) Call(ctx context.Context, node, method, path string, body io.Reader) (int, []byte, error) {
	m, err := c.member(node)
	if err != nil {
		return 0, nil, err
	}
	return call(ctx, m.socket(), method, path, body)
}

// StatusOf asks a member for its status; it waits at most 2 s.
func (c *Cluster) StatusOf(node string) (*Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callDuration)
	defer cancel()
	code, raw, err := c.Call(ctx, node, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return nil, fmt.Errorf("status of %s: %w", node, err)
	}
	if code != http.StatusOK {
		return nil, fmt.Errorf("status of %s: HTTP %d: %s", node, code, raw)
	}
	s := &Status{Raw: raw}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("status of %s: parse: %w", node, err)
	}
	return s, nil
}
