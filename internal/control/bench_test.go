package control

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/holdfast-ha/holdfast/storage/kv"
)

// quick answers at once: what is measured is the handler.
type quick struct{ Backend }

var quickOps = make([]kv.OpResult, 1)

func (quick) Update(context.Context, kv.Request) (kv.Result, error) {
	return kv.Result{Code: kv.OK, Rev: 1, Ops: quickOps}, nil
}

var quickBuckets = []string{"receipts", "sessions", "tasks"}

func (quick) Buckets() []string { return quickBuckets }

// nowhere is a response writer that forgets.
type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header         { return n.h }
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n *nowhere) WriteHeader(int)             {}

func BenchmarkPutHandler(b *testing.B) {
	a := newAPI(quick{}, slog.New(slog.DiscardHandler), func(Caller) bool { return true }, context.Background())
	value := make([]byte, 256)
	body := bytes.NewReader(value)
	r := httptest.NewRequestWithContext(context.WithValue(b.Context(), callerKey{}, connected{}), http.MethodPut, "/v1/kv/sessions/key-12345", body)
	r.Header.Set("Holdfast-Request-Id", "0123456789abcdef-1")
	w := &nowhere{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(value)
		r.Body = io.NopCloser(body)
		clear(w.h)
		a.ServeHTTP(w, r)
	}
}

func BenchmarkPutHandlerWithQuery(b *testing.B) {
	var into string
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readQuery("prefix="+fmt.Sprint(1), map[string]*string{"prefix": &into}); err != nil {
			b.Fatal(err)
		}
	}
}
