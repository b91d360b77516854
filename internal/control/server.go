package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/storage/audit"
)

// Limits of the socket.
const (
	socketMode        = 0o660
	pathBytesMax      = 107 // sun_path without its final zero
	connectionsMax    = 1024
	bodyBytesMax      = 64 << 10
	headerBytesMax    = 16 << 10
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	idleTimeout       = 60 * time.Second
	closeTimeout      = 2 * time.Second
	probeTimeout      = time.Second
)

// Options of a server; all are needed.
type Options struct {
	Path    string // of the socket; its directory exists
	Backend Backend
	Logger  *slog.Logger
}

// Server answers on the control socket.
type Server struct {
	path  string
	self  uint32      // user of this process
	file  os.FileInfo // the socket file that is ours
	front *front
	http  *http.Server // of the connections that front hands over
}

// ErrInUse means that another process answers on the socket.
var ErrInUse = errors.New("another process answers on this socket")

// Listen makes the socket with mode 0660. A file left behind by a process
// that died is replaced; one that somebody answers on, or that is no socket,
// is left alone and refused.
func Listen(o Options) (*Server, error) {
	if len(o.Path) > pathBytesMax {
		return nil, fmt.Errorf("make control socket: path of %d bytes, the kernel takes %d: %s", len(o.Path), pathBytesMax, o.Path)
	}
	if err := removeStale(o.Path); err != nil {
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.Path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	listener.SetUnlinkOnClose(false) // ours may have been replaced by then
	// Between bind and chmod the umask decides who may connect; nobody is
	// answered before each caller's credentials were checked.
	err = os.Chmod(o.Path, socketMode)
	file, statErr := os.Lstat(o.Path)
	if err = errors.Join(err, statErr); err != nil {
		return nil, errors.Join(fmt.Errorf("set mode of control socket: %w", err), listener.Close(), os.Remove(o.Path))
	}
	s := &Server{path: o.Path, self: uint32(os.Geteuid()), file: file}
	stopping, stop := context.WithCancel(context.Background())
	api := newAPI(o.Backend, o.Logger, s.mayCall, stopping)
	s.front = newFront(newListener(listener, connectionsMax), api, o.Logger)
	s.http = &http.Server{
		Handler:           api,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      answerLimit,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytesMax,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		ConnContext:       withCaller,
	}
	s.http.RegisterOnShutdown(stop) // ends the watches, which end by themselves never
	return s, nil
}

// mayCall reads the socket's file again: an operator may have given it to a
// group after the start.
func (s *Server) mayCall(c Caller) bool {
	if owner(c, s.self) {
		return true // whatever the file says: no need to look at it
	}
	file, err := os.Lstat(s.path)
	if err != nil || !os.SameFile(file, s.file) {
		file = s.file
	}
	return allowed(c, s.self, file)
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket: move it away", path)
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		return errors.Join(fmt.Errorf("%w: %s", ErrInUse, path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("probe old socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	return nil
}

// Run serves until ctx ends, then lets running answers finish for up to two
// seconds and removes the socket. It returns nil after such an end.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 2)
	go func() { served <- s.http.Serve(s.front) }()
	go func() { served <- s.front.run() }()
	var err error
	left := 2
	select {
	case err = <-served:
		err = fmt.Errorf("serve control socket: %w", err)
		left--
	case <-ctx.Done():
	}
	err = errors.Join(err, s.Close())
	for range left {
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// Close ends the server and removes its socket file.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.front.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.front.shutdown(ctx)
	}()
	e := s.http.Shutdown(ctx)
	if errors.Is(e, context.DeadlineExceeded) {
		e = s.http.Close()
	}
	<-ended
	return errors.Join(err, e, s.remove())
}

func (s *Server) remove() error {
	info, err := os.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !os.SameFile(info, s.file) {
		return err
	}
	return os.Remove(s.path)
}

// statusPath is the path of the report.
const statusPath = "/v1/status"

// api answers the requests of callers that may call.
type api struct {
	backend  Backend
	log      *slog.Logger
	may      func(Caller) bool
	mux      *http.ServeMux
	stopping context.Context // ends when the server is to stop
	watches  chan struct{}   // one element a watch
}

func newAPI(b Backend, log *slog.Logger, may func(Caller) bool, stopping context.Context) *api {
	a := &api{backend: b, log: log, may: may, mux: http.NewServeMux(), stopping: stopping, watches: make(chan struct{}, watchesMax)}
	a.mux.Handle(statusPath, method(http.MethodGet, readLimit, func(r *http.Request) (any, error) {
		report, err := b.Status(r.Context())
		return report.Normal(), err
	}))
	a.mux.Handle("/v1/failover", change(log, failoverLimit, b.Failover))
	a.mux.Handle("/v1/maintenance", change(log, writeLimit, b.Maintenance))
	a.mux.Handle("/v1/fence", change(log, writeLimit, needNode(b.Fence)))
	a.mux.Handle("/v1/unfence", change(log, writeLimit, needNode(b.Unfence)))
	a.mux.Handle("/v1/reload", change(log, writeLimit, func(ctx context.Context, _ struct{}) (ReloadResult, error) {
		return b.Reload(ctx)
	}))
	a.mux.Handle("/v1/members", method(http.MethodGet, readLimit, func(r *http.Request) (any, error) {
		list, err := b.Members(r.Context())
		return list.normal(), err
	}))
	a.mux.Handle("/v1/member", change(log, memberLimit, needMember(b.ChangeMember)))
	a.mux.HandleFunc(txnPath, a.txn)
	a.mux.HandleFunc("/v1/audit", a.audit)
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.refuse(w, r, &Error{Code: NotFound, Message: "no such path: " + r.URL.Path, Hint: "see docs for the paths under /v1"})
	})
	return a
}

// ServeHTTP routes a request.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller, ok := CallerOf(r.Context())
	if !ok || !a.may(caller) {
		a.log.Warn("control socket: caller refused", "caller", caller.String())
		fail(w, &Error{Code: Forbidden, Message: "only root, the daemon's user and the socket's group may call", Hint: "run it with sudo"})
		return
	}
	switch {
	case strings.HasPrefix(r.URL.Path, kvPath):
		a.serveKV(w, r)
	case strings.HasPrefix(r.URL.Path, watchPath):
		a.watch(w, r)
	default:
		a.mux.ServeHTTP(w, r)
	}
}

// audit streams the trail.
func (a *api) audit(w http.ResponseWriter, r *http.Request) {
	if !onlyMethods(w, r, http.MethodGet) {
		return
	}
	var first string
	_, err := readQuery(r.URL.RawQuery, map[string]*string{"from": &first})
	var from uint64
	if err == nil && first != "" {
		if from, err = strconv.ParseUint(first, 10, 64); err != nil {
			err = invalid("from=N", "from %q is not the number of a record", first)
		}
	}
	var trail *audit.Trail
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), readLimit)
		defer cancel()
		trail, err = a.backend.Audit(ctx)
	}
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	w.Header()["Content-Type"] = linesType
	if err := trail.Export(w, from); err != nil {
		a.log.Debug("audit trail not sent", "error", err) // its last line is missing: the caller can tell
	}
}

// needMember refuses what no backend has to look at.
func needMember(next func(context.Context, MemberRequest) (MemberResult, error)) func(context.Context, MemberRequest) (MemberResult, error) {
	return func(ctx context.Context, r MemberRequest) (MemberResult, error) {
		if r.Name == "" {
			return MemberResult{}, invalid(`send {"op":"add","name":"NAME"}`, "name is missing")
		}
		if r.Op != "add" && r.Op != "remove" && r.Op != "replace" {
			return MemberResult{}, invalid("add, remove or replace", "op %q is unknown", r.Op)
		}
		return next(ctx, r)
	}
}

func needNode(next func(context.Context, NodeRequest) (NodeResult, error)) func(context.Context, NodeRequest) (NodeResult, error) {
	return func(ctx context.Context, r NodeRequest) (NodeResult, error) {
		if r.Node == "" {
			return NodeResult{}, &Error{Code: Invalid, Message: "node is missing", Hint: `send {"node":"NAME"}`}
		}
		return next(ctx, r)
	}
}

// change is a POST with a JSON body that is logged with its caller.
func change[In, Out any](log *slog.Logger, limit time.Duration, do func(context.Context, In) (Out, error)) http.Handler {
	return method(http.MethodPost, limit, func(r *http.Request) (any, error) {
		var in In
		if err := decode(r.Body, &in); err != nil {
			return nil, err
		}
		caller, _ := CallerOf(r.Context())
		out, err := do(r.Context(), in)
		if err != nil {
			log.Warn("operator command refused", "path", r.URL.Path, "caller", caller.String(), "error", err)
			return nil, err
		}
		log.Info("operator command done", "path", r.URL.Path, "caller", caller.String())
		return out, nil
	})
}

// method answers one method within a time limit.
func method(want string, limit time.Duration, do func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != want {
			w.Header().Set("Allow", want)
			failWith(w, http.StatusMethodNotAllowed, &Error{Code: Invalid, Message: r.Method + " is not " + want, Hint: "use " + want})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax)
		out, err := do(r.WithContext(ctx))
		if err != nil {
			fail(w, asError(err))
			return
		}
		reply(w, http.StatusOK, out)
	})
}

// decode reads one JSON value; an empty body is an empty request.
func decode(body io.Reader, into any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.New("more than one JSON value")
		}
	}
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &Error{Code: TooLarge, Message: fmt.Sprintf("body larger than %d bytes", tooLarge.Limit)}
	}
	return &Error{Code: Invalid, Message: "body: " + err.Error(), Hint: "send one JSON object"}
}

func fail(w http.ResponseWriter, e *Error) {
	code, ok := httpStatus[e.Code]
	if !ok {
		code = http.StatusInternalServerError
	}
	failWith(w, code, e)
}

func failWith(w http.ResponseWriter, code int, e *Error) { reply(w, code, envelope{Error: e}) }

// Values of Content-Type, ready to be put into a header.
var (
	jsonType   = []string{"application/json"}
	linesType  = []string{"application/x-ndjson"}
	binaryType = []string{"application/octet-stream"}
)

func reply(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		code, text = http.StatusInternalServerError, []byte(`{"error":{"code":"internal","message":"encode answer","hint":""}}`)
	}
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(code)
	_, _ = w.Write(append(text, '\n')) // the caller went away: nothing to tell it
}
