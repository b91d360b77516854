package control

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fuzzPair is a connection with short requests and the caller's end of it.
func fuzzPair(t *testing.T, handler http.HandlerFunc) (*short, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "end")
		conn, err := net.FileConn(file)
		if err = errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		ends[i] = conn.(*net.UnixConn)
	}
	slots := make(chan struct{}, 1)
	slots <- struct{}{}
	s, err := newShort(&connection{Conn: ends[0], slots: slots}, handler, slog.New(slog.DiscardHandler), &atomic.Bool{})
	if err != nil {
		t.Fatal(err)
	}
	return s, ends[1]
}

// asked is a request as a handler sees it.
type asked struct{ method, target, body string }

// FuzzConnection: on a connection that brings any bytes in any pieces, the
// short requests are those that net/http would read, in their order, and what
// is handed on begins exactly behind the last of them.
func FuzzConnection(f *testing.F) {
	f.Add([]byte(shortHead), uint16(7))                                                                                           // one request in two pieces
	f.Add([]byte(putText("a", "1")+putText("b", "22")+"GET /v1/kv/s/k HTTP/1.1\r\nHost: x\r\n\r\n"), uint16(90))                  // pipelined
	f.Add([]byte(putText("a", "1")+"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nrest"), uint16(1))             // the second is for net/http
	f.Add([]byte("PUT /v1/kv/s/k HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nshort"), uint16(3))                              // a body that is cut
	f.Add([]byte("PUT /v1/kv/s/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"), uint16(60))      // chunks
	f.Add([]byte("PUT /v1/kv/s/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"+shortHead), uint16(60)) // two lengths
	f.Add(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 1000), uint16(4000))                                                         // a head without end
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		if len(stream) > 64<<10 {
			return
		}
		var got []asked
		whole := true // the last body was
		s, caller := fuzzPair(t, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			whole = err == nil
			got = append(got, asked{r.Method, r.RequestURI, string(body)})
			_, _ = w.Write(body)
		})
		defer func() { _ = caller.Close() }()
		if err := caller.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		go func() {
			at := min(int(cut), len(stream))
			_, _ = caller.Write(stream[:at])
			_, _ = caller.Write(stream[at:]) // it may have closed meanwhile
			_ = caller.CloseWrite()
		}()
		answers := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, caller)
			answers <- n
		}()
		ahead, hand := s.serve()
		_ = s.conn.Close()
		if n := <-answers; len(got) > 0 && n == 0 && whole {
			t.Fatalf("%d requests and no answer", len(got))
		}
		rest := compareRequests(t, stream, got, whole)
		if hand && whole && !bytes.HasPrefix(rest, ahead) {
			t.Fatalf("handed on %q of %q", ahead, rest)
		}
	})
}

// compareRequests reads the stream as net/http does and returns what follows
// the requests that were got.
func compareRequests(t *testing.T, stream []byte, got []asked, whole bool) []byte {
	t.Helper()
	src := bytes.NewReader(stream)
	br := bufio.NewReader(src)
	for i, g := range got {
		r, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("request %d %+v is none to net/http: %v", i, g, err)
		}
		body, err := io.ReadAll(r.Body)
		want := asked{r.Method, r.RequestURI, string(body)}
		if i == len(got)-1 && !whole {
			if err == nil {
				t.Fatalf("request %d: the body of %+v is whole", i, want)
			}
			return nil
		}
		if err != nil || g != want {
			t.Fatalf("request %d is %+v (%v), taken for %+v", i, want, err, g)
		}
	}
	return stream[len(stream)-br.Buffered()-src.Len():]
}
