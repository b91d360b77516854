package control

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

const shortHead = "PUT /v1/kv/sessions/a HTTP/1.1\r\nHost: holdfast\r\nHoldfast-Request-Id: 7\r\nContent-Length: 3\r\n\r\n"

func TestHeadsThatAreShort(t *testing.T) {
	h := head{header: http.Header{}}
	for _, text := range []string{
		shortHead,
		"GET /v1/kv/sessions HTTP/1.1\r\nHost: x\r\n\r\n",
		"HEAD /v1/kv/sessions/a%2Fb?consistency=local HTTP/1.1\r\nhost:x\r\naccept: */*\r\nuser-agent: curl/8.5.0\r\n\r\n",
		"DELETE /v1/kv/sessions/.. HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-Match: \"1\"\r\nIf-Match: \"2\"\r\n\r\n",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v1/txn HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\nX-Empty:\r\n\r\n",
		strings.Replace(shortHead, "\r\n\r\n", strings.Repeat("\r\nA: b", headersMax-3)+"\r\n\r\n", 1),
	} {
		if !h.parse(text) {
			t.Errorf("left to net/http: %q", text)
		}
		compareHead(t, &h, text)
	}
}

// Whatever is not plain is left to net/http, which knows what to do.
func TestHeadsThatAreNot(t *testing.T) {
	with := func(header string) string { return strings.Replace(shortHead, "\r\n\r\n", "\r\n"+header+"\r\n\r\n", 1) }
	h := head{header: http.Header{}}
	for name, text := range map[string]string{
		"nothing":             "",
		"an empty line":       "\r\n\r\n",
		"another path":        "GET /v1/members HTTP/1.1\r\nHost: x\r\n\r\n",
		"a change of status":  "DELETE /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
		"a watch":             "GET /v1/watch/sessions HTTP/1.1\r\nHost: x\r\n\r\n",
		"another method":      "PATCH /v1/kv/sessions/a HTTP/1.1\r\nHost: x\r\n\r\n",
		"a query of a txn":    "POST /v1/txn?a HTTP/1.1\r\nHost: x\r\n\r\n",
		"a whole URL":         "GET http://x/v1/kv/sessions/a HTTP/1.1\r\nHost: x\r\n\r\n",
		"a broken escape":     "GET /v1/kv/sessions/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"a control character": "GET /v1/kv/sessions/\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
		"two spaces":          "GET  /v1/kv/sessions/a HTTP/1.1\r\nHost: x\r\n\r\n",
		"a space in the path": "GET /v1/kv/sessions/a b HTTP/1.1\r\nHost: x\r\n\r\n",
		"an old version":      "GET /v1/kv/sessions/a HTTP/1.0\r\nHost: x\r\n\r\n",
		"lines ended by LF":   strings.ReplaceAll(shortHead, "\r\n", "\n"),
		"CR in a value":       with("A: b\rc"),
		"LF in a value":       with("A: b\nc: d"),
		"NUL in a value":      with("A: \x00"),
		"high bytes":          with("A: \xc3\xa4"),
		"a folded line":       with("A: b\r\n c"),
		"space before colon":  with("A : b"),
		"no colon":            with("A"),
		"no name":             with(": b"),
		"no host":             "GET /v1/kv/sessions/a HTTP/1.1\r\n\r\n",
		"an empty host":       "GET /v1/kv/sessions/a HTTP/1.1\r\nHost:\r\n\r\n",
		"a wrong host":        "GET /v1/kv/sessions/a HTTP/1.1\r\nHost: /\r\n\r\n",
		"two hosts":           with("Host: holdfast"),
		"two lengths":         with("Content-Length: 3"),
		"a signed length":     "PUT /v1/kv/sessions/a HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\n",
		"an empty length":     "PUT /v1/kv/sessions/a HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n",
		"a large body":        "PUT /v1/kv/sessions/a HTTP/1.1\r\nHost: x\r\nContent-Length: 8388609\r\n\r\n",
		"a huge body":         "PUT /v1/kv/sessions/a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"chunks":              with("Transfer-Encoding: chunked"),
		"leave to send":       with("expect: 100-continue"),
		"the end":             with("Connection: close"),
		"another protocol":    with("Upgrade: h2c"),
		"trailers":            with("Trailer: A"),
		"too many headers":    with(strings.TrimSuffix(strings.Repeat("A: b\r\n", headersMax-2), "\r\n")),
		"no end":              strings.TrimSuffix(shortHead, "\r\n"),
		"more than the end":   shortHead + "x",
	} {
		if h.parse(text) {
			t.Errorf("%s: taken: %q", name, text)
		}
	}
}

// compareHead checks that net/http takes a head for the same request.
func compareHead(t *testing.T, h *head, text string) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + strings.Repeat("b", int(h.length)))))
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", text, err)
	}
	length, err := io.Copy(io.Discard, r.Body)
	got := fmt.Sprintf("%s %s %#v %s %d", h.method, h.target, h.url, h.host, h.length)
	want := fmt.Sprintf("%s %s %#v %s %d", r.Method, r.RequestURI, *r.URL, r.Host, r.ContentLength)
	if got != want || err != nil || length != h.length || r.Close || len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 || !httpguts.ValidHostHeader(r.Host) {
		t.Errorf("%q is %s (body of %d, %v), taken for %s", text, want, length, err, got)
	}
	if !reflect.DeepEqual(h.header, r.Header) {
		t.Errorf("%q: headers %v, taken for %v", text, r.Header, h.header)
	}
}

// FuzzHead: what is taken as a short request is the same one to net/http, also
// after another request.
func FuzzHead(f *testing.F) {
	f.Add(shortHead)
	f.Add("GET /v1/kv/a:b//%2f..?x=%zz#f HTTP/1.1\r\nHost: [::1]:80\r\n\r\n")                      // what net/url has rules for
	f.Add("PUT /v1/kv/s/k HTTP/1.1\r\nHost: x\r\nContent-Length: 007\r\nA:  b \t\r\na: c\r\n\r\n") // spaces, spellings
	f.Add("POST /v1/txn HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nPragma: no-cache\r\n\r\n")     // net/http adds to it
	f.Add("GET /v1/kv/s/k HTTP/1.1\r\nHost: x\r\nTe: trailers\r\nX: \"\\\"\r\n\r\n")
	f.Add("PUT /v1/kv/ HTTP/1.1\r\nHost:/\r\n\r\n") // no host name
	h := head{header: http.Header{}}
	f.Fuzz(func(t *testing.T, text string) {
		h.parse("DELETE /v1/kv/sessions/a%2Fb?x HTTP/1.1\r\nHost: before\r\nIf-Match: 1\r\nIf-Match: 2\r\n\r\n")
		if h.parse(text) {
			compareHead(t, &h, text)
		}
	})
}
