package status

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzRequests: the port that anybody may reach answers every request with one
// of a few codes, and only reads.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/holder?group=default", "")   // a query
	f.Add("GET", "/holder?group=%zz;x", "")     // a broken one
	f.Add("POST", "/status", "x")               // not a read
	f.Add("GET", "//status/../%2e/metrics", "") // a path to be cleaned
	f.Add("OPTIONS", "*", "")                   // no path
	f.Add("HEAD", "/", "")
	now := time.Now()
	h := Handler(func() (Report, time.Time) { return Report{}, now }, nil)
	codes := []int{200, 301, 307, 308, 400, 404, 405, 503}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n" + body)))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if !slices.Contains(codes, w.Code) {
			t.Errorf("%s %s: %d", method, target, w.Code)
		}
		if reads := r.Method == http.MethodGet || r.Method == http.MethodHead; !reads && w.Code < 300 {
			t.Errorf("%s %s: %d", method, target, w.Code)
		}
	})
}
