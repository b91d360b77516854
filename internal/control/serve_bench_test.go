package control

import (
	"io"
	"net"
	"syscall"
	"testing"
)

// BenchmarkServePut is the server with a backend that answers at once, and
// callers that cost little but their system calls. cpu-ns/op is the time of
// both on processors.
func BenchmarkServePut(b *testing.B) {
	path := start(b, quick{})
	text := "PUT /v1/kv/sessions/key-12345 HTTP/1.1\r\nHost: holdfast\r\nHoldfast-Request-Id: 0123456789abcdef-1\r\nContent-Length: 256\r\n\r\n" + string(make([]byte, 256))
	measurePuts(b, path, text)
}

// BenchmarkServeEcho is what the callers and the sockets cost of it.
func BenchmarkServeEcho(b *testing.B) {
	path := b.TempDir() + "/echo.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				buf := make([]byte, 4096)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					if _, err := conn.Write(buf[:min(n, 140)]); err != nil {
						return
					}
				}
			}()
		}
	}()
	measurePuts(b, path, string(make([]byte, 390)))
}

func measurePuts(b *testing.B, path, text string) {
	b.Helper()
	b.SetParallelism(32)
	b.ReportAllocs()
	before := cpuTime(b)
	b.RunParallel(func(p *testing.PB) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			b.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		request, answer := []byte(text), make([]byte, 4096)
		for p.Next() {
			_, err := conn.Write(request)
			if err == nil {
				_, err = conn.Read(answer)
			}
			if err != nil && err != io.EOF {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpuTime is what this process has used, in ns.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
