package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

// Limits of the port. Anybody on the network may reach it, so nothing here
// waits for long or grows.
const (
	connectionsMax    = 128
	headerBytesMax    = 8 << 10
	readHeaderTimeout = 2 * time.Second
	readTimeout       = 5 * time.Second
	writeTimeout      = 5 * time.Second
	idleTimeout       = 30 * time.Second
	closeTimeout      = time.Second
)

// Source gives the newest reading and when it was made. It is called from
// many goroutines and must not block; the report it returns is not changed
// afterwards by either side.
type Source func() (Report, time.Time)

// Options of a server. All of them are needed but Metrics: without it there
// is no /metrics.
type Options struct {
	Listen  string // IP:port or :port
	Source  Source
	Metrics *Metrics
	Logger  *slog.Logger
}

// Server is the read-only HTTP port.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen takes the port. The server answers once Run is called.
func Listen(o Options) (*Server, error) {
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on status port: %w", err)
	}
	return &Server{
		listener: netutil.LimitListener(listener, connectionsMax),
		http: &http.Server{
			Handler:           Handler(o.Source, o.Metrics),
			ReadHeaderTimeout: readHeaderTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    headerBytesMax,
			ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		},
	}, nil
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until ctx ends, then lets running answers finish for up to a
// second. It returns nil after such an end, and the listener's error otherwise.
// When it returns, the port is free.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve status port: %w", err)
	case <-ctx.Done():
	}
	err := s.Close()
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// Close frees the port. Answers that are still being written get a second.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	// Shutdown knows the listener only once Run was called.
	if e := s.listener.Close(); !errors.Is(e, net.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}

const index = `Holdfast status port, read-only.

/healthz         200 while the loops of this node run
/readyz          200 while it is in quorum and caught up
/holder          200 while this node has a valid lease (?group=NAME for one group)
/status          everything as JSON
/metrics         Prometheus
`

// Handler is the port without its listener.
func Handler(source Source, metrics *Metrics) http.Handler {
	read := func() (Report, time.Duration) { return reading(source, time.Now()) }
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		report, age := read()
		probe(w, !report.Stale, "ok", staleText(age))
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		report, age := read()
		why := notReady(report)
		if report.Stale {
			why = staleText(age)
		}
		probe(w, why == "", "ready", why)
	})
	mux.HandleFunc("/holder", func(w http.ResponseWriter, r *http.Request) {
		report, age := read()
		why := "no valid lease on this node"
		if report.Stale {
			why = staleText(age)
		}
		probe(w, !report.Stale && report.holds(r.URL.Query().Get("group")), "holder", why)
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) {
		report, _ := read()
		writeReport(w, report)
	})
	if metrics != nil {
		mux.Handle("/metrics", metrics.handler(source))
	}
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, index) // the reader went away: nothing to tell it
	})
	return readOnly(mux)
}

// reading fetches the report and lets it age up to now. Both the monotonic and
// the wall clock count: the first stands still while the host is suspended, the
// second may be stepped back.
func reading(source Source, now time.Time) (Report, time.Duration) {
	report, asOf := source()
	if asOf.IsZero() {
		report.Stale = true
		return report.aged(Fresh + time.Millisecond).Normal(), -1
	}
	age := max(now.Sub(asOf), now.Round(0).Sub(asOf.Round(0)), 0)
	report.AsOf = asOf.Round(0)
	return report.aged(age).Normal(), age
}

func staleText(age time.Duration) string {
	if age < 0 {
		return "no reading yet"
	}
	return fmt.Sprintf("stale: the last reading is %s old", age.Round(time.Millisecond))
}

// notReady says why the node is not in quorum and caught up, or "".
func notReady(r Report) string {
	switch {
	case !r.Identity.Founded && len(r.WaitingFor) > 0:
		return "not founded: waiting for " + strings.Join(r.WaitingFor, ", ")
	case !r.Identity.Founded:
		return "not founded"
	case !r.Quorum.OK:
		return fmt.Sprintf("no quorum: %d of %d voters reachable", r.Quorum.Reachable, r.Quorum.Voters)
	case !r.Quorum.CaughtUp:
		return fmt.Sprintf("catching up: applied %d of %d", r.State.Applied, r.State.Commit)
	case slices.Contains([]Role{RoleJoining, RoleAbstain}, r.Role):
		return "role " + string(r.Role)
	}
	return ""
}

func probe(w http.ResponseWriter, ok bool, yes, no string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		yes = no
	}
	_, _ = io.WriteString(w, yes+"\n") // the reader went away: nothing to tell it
}

func writeReport(w http.ResponseWriter, report Report) {
	body, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if report.Stale {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(append(body, '\n')) // the reader went away: nothing to tell it
}

// readOnly answers 405 to whatever is not a read, and keeps answers out of
// caches: each is true for a moment only.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "read-only: use GET", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}
