package client_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/client"
)

// odd serves connections one after the other, the last function again and
// again.
func odd(t *testing.T, conns ...func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				conns[min(i, len(conns)-1)](conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return path
}

// answering reads a whole request and writes text.
func answering(text string) func(net.Conn) {
	return func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(c, text)
	}
}

const (
	done      = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"rev\":7}\n"
	forbidden = "HTTP/1.1 403 Forbidden\r\nContent-Length: 59\r\nConnection: close\r\n\r\n" + `{"error":{"code":"forbidden","message":"no","hint":"sudo"}}`
)

func TestBrokenAnswers(t *testing.T) {
	for _, c := range []struct {
		name string
		text string
		want client.Code
	}{
		{"nothing", "", client.Timeout},
		{"half a header", "HTTP/1.1 200 O", client.Timeout},
		{"half a body", done[:len(done)-3], client.Timeout},
		{"not HTTP", "220 smtp\r\n", client.Timeout},
		{"another body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", client.Internal},
		{"no revision", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", client.Internal},
		{"no reason", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", client.Internal},
		{"absurd length", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", client.Timeout},
		{"refused", forbidden, client.Forbidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			kept := client.New(odd(t, answering(c.text)), client.NoRetry())
			defer kept.Close()
			_, err := kept.Put(t.Context(), "tasks", "k", []byte("v"))
			wantCode(t, "put", err, c.want)
		})
	}
}

// A write that was cut off is sent again; one that could not be sent at all
// has not happened.
func TestBrokenConnections(t *testing.T) {
	cut := func(c net.Conn) { _, _ = c.Read(make([]byte, 10)) }
	c := client.New(odd(t, answering(""), cut, answering(done)))
	defer c.Close()
	if rev, err := c.Put(limit(t, 10*time.Second), "tasks", "k", []byte("v")); err != nil || rev != 7 {
		t.Errorf("put: %d, %v", rev, err)
	}
	// It closes while most of the request is still to be sent.
	large := []byte(strings.Repeat("x", 1<<20))
	none := client.New(odd(t, cut), client.NoRetry())
	defer none.Close()
	_, err := none.Put(t.Context(), "tasks", "k", large)
	wantCode(t, "put that was not sent", err, client.Unreachable)
	// It says why before it closes.
	why := client.New(odd(t, func(c net.Conn) {
		cut(c)
		_, _ = io.WriteString(c, forbidden)
	}))
	defer why.Close()
	_, err = why.Put(limit(t, 10*time.Second), "tasks", "k", large)
	wantCode(t, "put that was refused early", err, client.Forbidden)
}

// A daemon that hangs does not hold a caller longer than its context.
func TestHangingDaemon(t *testing.T) {
	hang := make(chan struct{})
	c := client.New(odd(t, func(net.Conn) { <-hang }))
	defer close(hang)
	defer c.Close()
	began := time.Now()
	_, err := c.Put(limit(t, 100*time.Millisecond), "tasks", "k", nil)
	wantCode(t, "put", err, client.Timeout)
	if _, err := c.Watch(limit(t, 100*time.Millisecond), "tasks", client.WatchOptions{}); err == nil {
		t.Error("a watch without a daemon")
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}
