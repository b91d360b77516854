package control_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/control/controltest"
	"github.com/holdfast-ha/holdfast/storage/audit"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Covers C4, S8, S15: the routes of the state, as bytes on the socket.

// rawHTTP sends paths as they are given: net/http would escape them its way.
type rawHTTP struct {
	t    *testing.T
	path string
}

func serve(t *testing.T, n *controltest.Node) rawHTTP {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	controltest.Serve(t, path, n)
	return rawHTTP{t, path}
}

func (r rawHTTP) dial() net.Conn {
	r.t.Helper()
	conn, err := net.Dial("unix", r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	return conn
}

// send writes a request without waiting for the answer.
func (r rawHTTP) send(verb, target, body string, headers ...string) *bufio.Reader {
	r.t.Helper()
	conn := r.dial()
	length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	switch {
	case strings.HasPrefix(body, "length:"):
		length, body = "Content-Length: "+strings.TrimPrefix(body, "length:")+"\r\n", ""
	case strings.HasPrefix(body, "chunked:"):
		body = strings.TrimPrefix(body, "chunked:")
		length, body = "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	}
	text := verb + " " + target + " HTTP/1.1\r\nHost: x\r\n" + length
	for _, h := range headers {
		text += h + "\r\n"
	}
	if _, err := io.WriteString(conn, text+"\r\n"+body); err != nil {
		r.t.Fatalf("%s %s: %v", verb, target, err)
	}
	return bufio.NewReader(conn)
}

func (r rawHTTP) do(verb, target, body string, headers ...string) (*http.Response, string) {
	r.t.Helper()
	answer, err := http.ReadResponse(r.send(verb, target, body, headers...), &http.Request{Method: verb})
	if err != nil {
		r.t.Fatalf("%s %s: %v", verb, target, err)
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", verb, target, err)
	}
	return answer, string(text)
}

// want sends a request and compares status and the beginning of the body.
func (r rawHTTP) want(status int, body, verb, target, send string, headers ...string) http.Header {
	r.t.Helper()
	answer, text := r.do(verb, target, send, headers...)
	if answer.StatusCode != status || !strings.HasPrefix(text, body) {
		r.t.Errorf("%s %.80s %q: %d %.300s\nwant %d %s", verb, target, headers, answer.StatusCode, text, status, body)
	}
	if status >= 400 && verb != http.MethodHead {
		var e struct {
			Error *control.Error `json:"error"`
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil || e.Error == nil || e.Error.Message == "" {
			r.t.Errorf("%s %s: no error in %q", verb, target, text)
		}
	}
	return answer.Header
}

func refusal(code control.Code) string { return `{"error":{"code":"` + string(code) + `"` }

func TestConditionsOfHeaders(t *testing.T) {
	s := serve(t, controltest.New())
	s.want(200, `{"rev":1}`+"\n", "PUT", "/v1/kv/sessions/a", "v1")
	h := s.want(200, "v1", "GET", "/v1/kv/sessions/a", "")
	if h.Get("ETag") != `"1"` || h.Get("Content-Type") != "application/octet-stream" || h.Get("Content-Length") != "2" || h.Get("Holdfast-Expires") != "" {
		t.Errorf("headers %v", h)
	}
	const path = "/v1/kv/sessions/a"
	s.want(200, `{"rev":2}`, "PUT", path, "v2", `If-Match: "1"`)
	s.want(412, refusal(control.PreconditionFailed)+`,"message":"key \"a\" has revision 2, not 1"`, "PUT", path, "v3", `If-Match: "1"`)
	s.want(200, `{"rev":3}`, "PUT", path, "v3", `If-Match: 2`)
	s.want(200, `{"rev":4}`, "PUT", path, "v4", `If-Match: *`)
	s.want(412, refusal(control.PreconditionFailed), "PUT", path, "v5", `If-None-Match: *`)
	s.want(412, refusal(control.PreconditionFailed)+`,"message":"key \"b\" is not there"`, "PUT", "/v1/kv/sessions/b", "", `If-Match: *`)
	s.want(412, refusal(control.PreconditionFailed), "PUT", "/v1/kv/sessions/b", "", `If-Match: "7"`)
	s.want(200, `{"rev":5}`, "PUT", "/v1/kv/sessions/b", "", `If-None-Match: *`)
	for _, bad := range []string{`If-Match: "x"`, `If-Match: W/"4"`, `If-Match: "1", "2"`, `If-Match: "0"`, `If-Match: -1`, `If-None-Match: "4"`, "If-Match: *\r\nIf-None-Match: *", "If-Match: \"4\"\r\nIf-Match: \"4\""} {
		s.want(400, refusal(control.Invalid), "PUT", path, "bad", bad)
		s.want(400, refusal(control.Invalid), "DELETE", path, "", bad)
	}
	s.want(412, refusal(control.PreconditionFailed), "DELETE", path, "", `If-Match: "3"`)
	s.want(200, "v4", "GET", path, "")
	s.want(200, `{"rev":6}`, "DELETE", path, "", `If-Match: "4"`)
	s.want(404, refusal(control.NotFound), "DELETE", path, "")
	s.want(404, refusal(control.NotFound), "GET", path, "")
	s.want(200, "", "HEAD", "/v1/kv/sessions/b", "")
	s.want(404, "", "HEAD", path, "")
}

func TestKeysInPaths(t *testing.T) {
	s := serve(t, controltest.New())
	const base = "/v1/kv/sessions/"
	for _, c := range []struct {
		written string
		also    []string // other spellings of the same key
		key     string
	}{
		{"a%2Fb", []string{"a/b", "%61/b", "a%2fb"}, "a/b"},
		{"..", []string{"%2e%2e", "%2E."}, ".."},
		{"a/../b", []string{"a%2F..%2Fb"}, "a/../b"},
		{"a//b", []string{"a/%2Fb"}, "a//b"},
		{"%25", nil, "%"},
		{"%2525", nil, "%25"},
		{"a%20b", nil, "a b"},
		{"a+b", []string{"a%2Bb"}, "a+b"},
		{"k%C3%A4se", nil, "käse"},
		{"q%3Fx=1", nil, "q?x=1"},
		{"%23", nil, "#"},
		{"/", []string{"%2F"}, "/"},
	} {
		s.want(200, `{"rev":`, "PUT", base+c.written, "of "+c.key)
		for _, spelling := range append(c.also, c.written) {
			s.want(200, "of "+c.key, "GET", base+spelling, "")
		}
		_, list := s.do("GET", "/v1/kv/sessions", "")
		var page struct {
			Keys []struct{ Key string }
		}
		if err := json.Unmarshal([]byte(list), &page); err != nil || len(page.Keys) != 1 || page.Keys[0].Key != c.key {
			t.Errorf("%s: list %s, %v", c.written, list, err)
		}
		s.want(200, `{"rev":`, "DELETE", base+c.written, "")
	}
	for target, code := range map[string]control.Code{
		"":                               control.Invalid, // an empty key, not the list
		"%00":                            control.Invalid,
		"a%FFb":                          control.Invalid,
		strings.Repeat("k", kv.MaxKey+1): control.TooLarge,
		strings.Repeat("%C3%A4", kv.MaxKey/2) + "x": control.TooLarge,
	} {
		status := map[control.Code]int{control.Invalid: 400, control.TooLarge: 413}[code]
		s.want(status, refusal(code), "PUT", base+target, "v")
		s.want(status, refusal(code), "GET", base+target, "")
	}
	s.want(200, `{"rev":`, "PUT", base+strings.Repeat("%C3%A4", kv.MaxKey/2), "v")
	// A bucket ends at a slash that is not escaped.
	s.want(400, refusal(control.Invalid), "GET", "/v1/kv/sessions%2Fa", "")
	s.want(400, refusal(control.Invalid), "GET", "/v1/kv/", "")
	s.want(400, refusal(control.Invalid), "GET", "/v1/kv/..", "")
	s.want(404, refusal(control.NotFound), "GET", "/v1/kv/other", "")
	s.want(404, refusal(control.NotFound)+`,"message":"no bucket other; there are receipts, sessions, tasks"`, "PUT", "/v1/kv/other/k", "v")
	s.want(404, refusal(control.NotFound), "GET", "/v1/kv", "")
	s.want(400, refusal(control.Invalid), "GET", "/v1/k%76/sessions/a", "")
}

func TestMethodsAndQueries(t *testing.T) {
	n := controltest.New()
	var local []bool
	n.Reading = func(l bool) error {
		local = append(local, l)
		return nil
	}
	s := serve(t, n)
	for target, allow := range map[string]string{
		"/v1/kv/sessions": "GET, HEAD", "/v1/kv/sessions/k": "GET, HEAD, PUT, DELETE", "/v1/txn": "POST",
		"/v1/watch/sessions": "GET", "/v1/audit": "GET", "/v1/members": "GET", "/v1/member": "POST",
	} {
		if h := s.want(405, refusal(control.Invalid), "PATCH", target, ""); h.Get("Allow") != allow {
			t.Errorf("%s: allow %q", target, h.Get("Allow"))
		}
	}
	s.want(200, `{"rev":1}`, "PUT", "/v1/kv/sessions/k", "v")
	s.want(200, "v", "GET", "/v1/kv/sessions/k", "")
	s.want(200, "v", "GET", "/v1/kv/sessions/k?consistency=local", "")
	s.want(200, "v", "GET", "/v1/kv/sessions/k?consistency=linearizable", "")
	s.want(200, `{"keys":[{"key":"k"`, "GET", "/v1/kv/sessions?consistency=local&prefix=k", "")
	if fmt.Sprint(local) != "[false true false true]" {
		t.Errorf("local: %v", local)
	}
	for _, query := range []string{"?consistency=weak", "?prefix=k", "?consistency=local&consistency=local", "?a=%zz"} {
		s.want(400, refusal(control.Invalid), "GET", "/v1/kv/sessions/k"+query, "")
	}
	for _, query := range []string{"?limit=0", "?limit=10001", "?limit=x", "?limit=1&limit=2", "?from=1"} {
		s.want(400, refusal(control.Invalid), "GET", "/v1/kv/sessions"+query, "")
	}
	s.want(400, refusal(control.Invalid), "PUT", "/v1/kv/sessions/k?ttl=5s", "v")
	s.want(400, refusal(control.Invalid), "GET", "/v1/kv/sessions/k", "a body")
	s.want(400, refusal(control.Invalid), "DELETE", "/v1/kv/sessions/k", "a body")
	s.want(400, refusal(control.Invalid), "DELETE", "/v1/kv/sessions/k", "", "Holdfast-TTL: 5s")
	n.Reading = func(bool) error { return &control.Error{Code: control.NoQuorum, Message: "no leader"} }
	s.want(503, refusal(control.NoQuorum), "GET", "/v1/kv/sessions/k", "")
	s.want(503, refusal(control.NoQuorum), "GET", "/v1/kv/sessions", "")
	s.want(503, refusal(control.NoQuorum), "GET", "/v1/watch/sessions", "")
}

func TestValuesAndLimits(t *testing.T) {
	n := controltest.New()
	n.MaxBytes = 4 << 20
	s := serve(t, n)
	const path = "/v1/kv/sessions/k"
	largest := strings.Repeat("\x00\xff", kv.MaxValue/2)
	s.want(200, `{"rev":1}`, "PUT", path, largest)
	s.want(200, largest, "GET", path, "")
	s.want(200, `{"rev":2}`, "PUT", path, "chunked:"+largest)
	s.want(413, refusal(control.TooLarge), "PUT", path, largest+"x")
	s.want(413, refusal(control.TooLarge), "PUT", path, "chunked:"+largest+"x")
	s.want(413, refusal(control.TooLarge), "PUT", path, largest+largest+largest+largest)
	// Refused before anything is sent.
	s.want(413, refusal(control.TooLarge), "PUT", path, "length:99999999999", "Expect: 100-continue")
	s.want(200, largest, "GET", path, "")
	s.want(200, `{"rev":3}`, "PUT", path, "")
	if h := s.want(200, "", "GET", path, ""); h.Get("Content-Length") != "0" {
		t.Errorf("empty value: %v", h)
	}
	for i := range 3 {
		s.want(200, `{"rev":`, "PUT", path+fmt.Sprint(i), largest)
	}
	s.want(507, refusal(control.QuotaExceeded), "PUT", path+"4", largest)
	s.want(200, `{"rev":7}`, "DELETE", path+"0", "")

	s.want(200, `{"rev":8}`, "PUT", "/v1/kv/sessions/ttl", "", "Holdfast-TTL: 30m")
	if h := s.want(200, "", "GET", "/v1/kv/sessions/ttl", ""); h.Get("Holdfast-Expires") != "2026-11-24T14:30:00Z" {
		t.Errorf("headers %v", h)
	}
	if n.Expire(29*time.Minute) != 0 || n.Expire(time.Minute) != 1 {
		t.Error("expired at another time")
	}
	s.want(404, refusal(control.NotFound), "GET", "/v1/kv/sessions/ttl", "")
	for _, bad := range []string{"0s", "-5s", "5", "soon", "9999999h"} {
		s.want(400, refusal(control.Invalid), "PUT", path, "v", "Holdfast-TTL: "+bad)
	}
	// The same id: once.
	s.want(200, `{"rev":10}`, "PUT", path, "v", "Holdfast-Request-Id: one")
	s.want(200, `{"rev":11}`, "PUT", path, "w")
	s.want(200, `{"rev":10}`, "PUT", path, "v", "Holdfast-Request-Id: one")
	s.want(200, "w", "GET", path, "")
	s.want(400, refusal(control.Invalid), "PUT", path, "other", "Holdfast-Request-Id: one")
	s.want(413, refusal(control.TooLarge), "PUT", path, "v", "Holdfast-Request-Id: "+strings.Repeat("i", 65))
	s.want(400, refusal(control.Invalid), "PUT", path, "v", "Holdfast-Request-Id: a b")
	s.want(200, `{"rev":12}`, "DELETE", path, "", "Holdfast-Request-Id: two")
	s.want(200, `{"rev":12}`, "DELETE", path, "", "Holdfast-Request-Id: two")
	s.want(404, refusal(control.NotFound), "DELETE", path, "", "Holdfast-Request-Id: three")
}

func TestListPages(t *testing.T) {
	n := controltest.New()
	s := serve(t, n)
	for i := range 25 {
		s.want(200, "", "PUT", fmt.Sprintf("/v1/kv/tasks/job/%02d", i), "v")
	}
	s.want(200, "", "PUT", "/v1/kv/tasks/other", "longer", "Holdfast-TTL: 1h")
	s.want(200, `{"keys":[{"key":"job/00","rev":1,"size":1,"expires":null},{"key":"job/01","rev":2,"size":1,"expires":null}],"next":"job/01","rev":26,"clock":"2026-11-24T14:00:00Z"}`+"\n",
		"GET", "/v1/kv/tasks?limit=2&prefix=job%2F", "")
	s.want(200, `{"keys":[{"key":"job/24","rev":25,"size":1,"expires":null}],"next":"","rev":26`, "GET", "/v1/kv/tasks?limit=2&prefix=job/&after=job/23", "")
	s.want(200, `{"keys":[{"key":"other","rev":26,"size":6,"expires":"2026-11-24T15:00:00Z"}],"next":""`, "GET", "/v1/kv/tasks?prefix=o", "")
	s.want(200, `{"keys":[],"next":"","rev":26`, "GET", "/v1/kv/receipts", "")
	// Long keys end a page early; following next finds all.
	for i := range 1200 {
		r := kv.Request{Then: []kv.Op{{Kind: kv.OpPut, Bucket: "receipts", Key: fmt.Sprintf("%04d", i) + strings.Repeat("x", kv.MaxKey-4)}}}
		if _, err := n.Update(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	found, pages := 0, 0
	for after := ""; ; {
		_, text := s.do("GET", "/v1/kv/receipts?limit=10000&after="+after, "")
		var page struct {
			Keys []struct{ Key string }
			Next string
		}
		if err := json.Unmarshal([]byte(text), &page); err != nil {
			t.Fatal(err)
		}
		found, pages = found+len(page.Keys), pages+1
		if after = page.Next; after == "" {
			break
		}
	}
	if found != 1200 || pages != 2 {
		t.Errorf("%d keys in %d pages", found, pages)
	}
}

func TestTransactions(t *testing.T) {
	n := controltest.New()
	s := serve(t, n)
	txn := func(status int, want, body string, headers ...string) {
		t.Helper()
		s.want(status, want, "POST", "/v1/txn", body, headers...)
	}
	txn(200, `{"succeeded":true,"rev":1,"results":[{"op":"put","found":false,"rev":1},{"op":"get","found":true,"rev":1,"value":"AP8="},{"op":"delete","found":false},{"op":"get","found":false}]}`+"\n",
		`{"if":[{"bucket":"tasks","key":"a","absent":true}],"then":[{"op":"put","bucket":"tasks","key":"a","value":"AP8=","ttl":"30m"},{"op":"get","bucket":"tasks","key":"a"},{"op":"delete","bucket":"tasks","key":"b"},{"op":"get","bucket":"tasks","key":"b"}]}`)
	txn(200, `{"succeeded":false,"rev":1,"conflict":1,"results":[{"op":"get","found":true,"rev":1,"value":"AP8="}]}`,
		`{"if":[{"bucket":"tasks","key":"a","rev":1},{"bucket":"tasks","key":"a","rev":0}],"else":[{"op":"get","bucket":"tasks","key":"a"}]}`)
	txn(200, `{"succeeded":true,"rev":2,"results":[{"op":"put","found":true,"rev":2},{"op":"get","found":true,"rev":2,"value":""}]}`,
		`{"if":[{"bucket":"tasks","key":"a","exists":true}],"then":[{"op":"put","bucket":"tasks","key":"a","text":""},{"op":"get","bucket":"tasks","key":"a"}]}`, "Holdfast-Request-Id: t1")
	txn(200, `{"succeeded":true,"rev":2,"replayed":true,"results":[{"op":"put","found":true,"rev":2},{"op":"get","found":true}]}`,
		`{"if":[{"bucket":"tasks","key":"a","exists":true}],"then":[{"op":"put","bucket":"tasks","key":"a","text":""},{"op":"get","bucket":"tasks","key":"a"}]}`, "Holdfast-Request-Id: t1")
	txn(200, `{"succeeded":false,"rev":2,"conflict":0,"results":[]}`, `{"if":[{"bucket":"tasks","key":"none","exists":true}]}`)
	put := `{"op":"put","bucket":"tasks","key":"k","text":"v"}`
	for body, want := range map[string]string{
		``:                                   "",
		`{}`:                                 "asks for nothing",
		`[]`:                                 "",
		`{"then":1}`:                         "lists",
		`{"then":[` + put + `],"unless":[]}`: "unless",
		`{"then":[{"op":"put","bucket":"tasks","key":"k","txt":"v"}]}`:                     "txt",
		`{"then":[` + put + `]} {}`:                                                        "more than one",
		`{"then":[` + put + `,{"op":"put","bucket":"tasks","key":"k"}]}`:                   "then[1]: a put without value",
		`{"then":[{"op":"put","bucket":"tasks","key":"k","text":"v","value":"dg=="}]}`:     "both value and text",
		`{"then":[{"op":"put","bucket":"tasks","key":"k","value":"!"}]}`:                   "base64",
		`{"then":[{"op":"put","bucket":"tasks","key":"k","text":"v","ttl":"x"}]}`:          "time to live",
		`{"then":[{"op":"get","bucket":"tasks","key":"k","text":"v"}]}`:                    "neither value nor ttl",
		`{"then":[{"op":"move","bucket":"tasks","key":"k"}]}`:                              `operation \"move\"`,
		`{"else":[{"op":"get","bucket":"tasks","key":""}]}`:                                "key is empty",
		`{"if":[{"bucket":"tasks","key":"k"}],"then":[` + put + `]}`:                       "if[0]: a condition needs one",
		`{"if":[{"bucket":"tasks","key":"k","rev":1,"exists":true}],"then":[` + put + `]}`: "if[0]: a condition needs one",
		`{"if":[{"bucket":"tasks","key":"k","rev":-1}],"then":[` + put + `]}`:              "",
		`{"if":[{"bucket":"Tasks","key":"k","absent":true}]}`:                              "if[0]: bucket",
	} {
		answer, text := s.do("POST", "/v1/txn", body)
		if answer.StatusCode != 400 || !strings.Contains(text, want) || !strings.Contains(text, `"code":"invalid"`) {
			t.Errorf("%s: %d %s, want 400 %s", body, answer.StatusCode, text, want)
		}
	}
	txn(404, refusal(control.NotFound)+`,"message":"then[0]: no bucket other`, `{"then":[{"op":"get","bucket":"other","key":"k"}]}`)
	txn(413, refusal(control.TooLarge), `{"then":[`+strings.Repeat(put+",", kv.MaxTxnOps)+put+`]}`)
	txn(413, refusal(control.TooLarge), `{"then":[`+strings.Repeat("{},", 1<<14)+`{}]}`)
	txn(413, refusal(control.TooLarge), `{"then":[`+strings.Repeat(" ", 8<<20)+`]}`)
	big := `{"op":"put","bucket":"tasks","key":"k","value":"` + strings.Repeat("AAAA", 1<<18) + `"}`
	txn(200, `{"succeeded":true`, `{"then":[`+big+`]}`)
	txn(413, refusal(control.TooLarge), `{"then":[`+strings.Repeat(big+",", 5)+big+`]}`)
	get := `{"op":"get","bucket":"tasks","key":"k"}`
	txn(413, refusal(control.TooLarge), `{"then":[`+strings.Repeat(get+",", 5)+get+`]}`)
	txn(400, refusal(control.Invalid), `{"then":[`+put+`]}`, "Holdfast-Request-Id: t1")
}

// stream reads the lines of a watch.
func (r rawHTTP) stream(target string) *bufio.Scanner {
	r.t.Helper()
	answer, err := http.ReadResponse(r.send("GET", target, ""), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "application/x-ndjson" {
		text, _ := io.ReadAll(answer.Body)
		r.t.Fatalf("%s: %s %s", target, answer.Status, text)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 4<<20)
	return lines
}

func wantLine(t *testing.T, lines *bufio.Scanner, want string) {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("ended (%v), want %s", lines.Err(), want)
	}
	if lines.Text() != want {
		t.Fatalf("got %s\nwant %s", lines.Text(), want)
	}
}

func TestWatchLines(t *testing.T) {
	t.Parallel() // it waits for a sign of life
	n := controltest.New()
	s := serve(t, n)
	s.want(200, "", "PUT", "/v1/kv/tasks/a", "1")
	lines := s.stream("/v1/watch/tasks")
	wantLine(t, lines, `{"type":"progress","rev":1}`)
	s.want(200, "", "PUT", "/v1/kv/tasks/b", "", "Holdfast-TTL: 1h")
	s.want(200, "", "PUT", "/v1/kv/sessions/b", "elsewhere")
	s.want(200, "", "DELETE", "/v1/kv/tasks/a", "")
	n.Expire(time.Hour)
	wantLine(t, lines, `{"type":"put","key":"b","rev":2,"value":"","created":2,"expires":"2026-11-24T15:00:00Z"}`)
	wantLine(t, lines, `{"type":"delete","key":"a","rev":4}`)
	wantLine(t, lines, `{"type":"expire","key":"b","rev":5}`)
	began := time.Now()
	wantLine(t, lines, `{"type":"progress","rev":5}`) // a sign of life, in 5 s
	if d := time.Since(began); d > 7*time.Second {
		t.Errorf("a sign of life after %v", d)
	}
	lines = s.stream("/v1/watch/tasks?from=1&prefix=a&consistency=local")
	wantLine(t, lines, `{"type":"progress","rev":0}`)
	wantLine(t, lines, `{"type":"put","key":"a","rev":1,"value":"MQ==","created":1}`)
	wantLine(t, lines, `{"type":"delete","key":"a","rev":4}`)
	// From the future, as after a move to a member that is behind.
	lines = s.stream("/v1/watch/tasks?from=7")
	wantLine(t, lines, `{"type":"progress","rev":6}`)
	s.want(200, `{"rev":6}`, "PUT", "/v1/kv/tasks/c", "")
	s.want(200, `{"rev":7}`, "PUT", "/v1/kv/tasks/d", "")
	wantLine(t, lines, `{"type":"put","key":"d","rev":7,"value":"","created":7}`)
	for _, bad := range []string{"/v1/watch/tasks/a", "/v1/watch/tasks/", "/v1/watch/", "/v1/watch/tasks?from=0", "/v1/watch/tasks?from=x", "/v1/watch/tasks?limit=1"} {
		s.want(400, refusal(control.Invalid), "GET", bad, "")
	}
	s.want(404, refusal(control.NotFound), "GET", "/v1/watch/other", "")
}

// fill makes more events than the history holds.
func fill(t *testing.T, n *controltest.Node) {
	t.Helper()
	for range kv.MaxHistoryEvents/kv.MaxTxnOps + 1 {
		var r kv.Request
		for j := range kv.MaxTxnOps {
			r.Then = append(r.Then, kv.Op{Kind: kv.OpPut, Bucket: "tasks", Key: fmt.Sprint(j)})
		}
		if _, err := n.Update(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWatchOfWhatIsGone(t *testing.T) {
	n := controltest.New()
	s := serve(t, n)
	lines := s.stream("/v1/watch/tasks?from=1")
	wantLine(t, lines, `{"type":"progress","rev":0}`)
	fill(t, n)
	fill(t, n)
	_, text := s.do("GET", "/v1/watch/tasks?from=2", "")
	if !strings.HasPrefix(text, refusal(control.Compacted)) || !strings.Contains(text, "begins at 131") {
		t.Errorf("compacted: %s", text)
	}
	s.want(410, refusal(control.Compacted), "GET", "/v1/watch/tasks?from=2", "")
	// One that is too slow is told so in its last line.
	for range 3 {
		fill(t, n)
	}
	last := ""
	for lines.Scan() {
		if last = lines.Text(); strings.Contains(last, `"error"`) {
			break
		}
		if strings.Contains(last, fmt.Sprintf(`"rev":%d,`, 5*129)) {
			return // it kept up after all
		}
	}
	if !strings.HasPrefix(last, `{"type":"error","error":{"code":"compacted"`) {
		t.Errorf("last line %s, %v", last, lines.Err())
	}
	if lines.Scan() {
		t.Errorf("goes on after the end: %s", lines.Text())
	}
}

// The end of the server ends watches at once.
func TestStopEndsWatches(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	stop := controltest.Serve(t, path, controltest.New())
	lines := rawHTTP{t, path}.stream("/v1/watch/tasks")
	wantLine(t, lines, `{"type":"progress","rev":0}`)
	began := time.Now()
	stop()
	if d := time.Since(began); d > time.Second {
		t.Errorf("stopped after %v", d)
	}
	if lines.Scan() {
		t.Errorf("got %s", lines.Text())
	}
}

func TestAuditRoute(t *testing.T) {
	n := controltest.New()
	for i := range 5 {
		n.Log(audit.Event{Kind: "assign", Node: "gw1", Group: "default", Epoch: uint64(i), Cause: "operator"})
	}
	s := serve(t, n)
	answer, text := s.do("GET", "/v1/audit", "")
	sum, err := audit.VerifyExport(strings.NewReader(text))
	if err != nil || sum.Records != 5 || answer.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%+v, %v", sum, err)
	}
	_, text = s.do("GET", "/v1/audit?from=4", "")
	if sum, err = audit.VerifyExport(strings.NewReader(text)); err != nil || sum.Records != 2 || sum.Head.Seq != 5 {
		t.Errorf("from 4: %+v, %v", sum, err)
	}
	s.want(400, refusal(control.Invalid), "GET", "/v1/audit?from=x", "")
	s.want(400, refusal(control.Invalid), "GET", "/v1/audit?to=1", "")
}

func TestMemberRoutes(t *testing.T) {
	n := controltest.New()
	path := filepath.Join(t.TempDir(), "control.sock")
	controltest.Serve(t, path, n)
	c := control.NewClient(path)
	defer c.Close()
	list, err := c.Members(t.Context())
	if err != nil || len(list.Members) != 4 || list.Members[3].State != "absent" || len(list.Differences) != 1 {
		t.Errorf("members: %+v, %v", list, err)
	}
	res, err := c.ChangeMember(t.Context(), control.MemberRequest{Op: "add", Name: "gw3"})
	if err != nil || res != (control.MemberResult{Op: "add", Name: "gw3", State: "done", Index: 90}) {
		t.Errorf("add: %+v, %v", res, err)
	}
	s := rawHTTP{t, path}
	s.want(200, `{"members":[{"name":"gw1","role":"gateway","raft_id":"8a61f00c3d2b9e47","state":"voter","in_file":true,"connected":true,"match":88}`, "GET", "/v1/members", "")
	if _, text := s.do("GET", "/v1/members", ""); !strings.Contains(text, `"differences":[]`) {
		t.Errorf("members: %s", text)
	}
	s.want(404, refusal(control.NotFound), "POST", "/v1/member", `{"op":"remove","name":"nobody"}`)
	for _, bad := range []string{``, `{"op":"add"}`, `{"op":"promote","name":"gw3"}`, `{"name":"gw3"}`, `{"op":"add","name":"gw3","force":true}`} {
		s.want(400, refusal(control.Invalid), "POST", "/v1/member", bad)
	}
}

// FuzzRequests: no path, header or body makes the server panic or answer
// something else than HTTP with a known code.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/v1/kv/sessions/a%2Fb", "", "")                                                                                            // an escaped slash
	f.Add("PUT", "/v1/kv/sessions/..", `"1"`, "value")                                                                                       // a key that mux would clean
	f.Add("DELETE", "/v1/kv/sessions/%FF", "*", "")                                                                                          // not UTF-8
	f.Add("GET", "/v1/kv/sessions?prefix=%zz&limit=-1", "", "")                                                                              // broken query
	f.Add("POST", "/v1/txn", "", `{"if":[{"bucket":"tasks","key":"k","rev":0}],"then":[{"op":"put","bucket":"tasks","key":"k","text":""}]}`) // a whole transaction
	f.Add("POST", "/v1/txn", "", `{"then":[{"op":"put","value":null}]}`)                                                                     // parts missing
	f.Add("POST", "/v1/member", "", `{"op":"add","name":"gw3"}`)                                                                             // another route
	f.Add("GET", "/v1/watch/tasks?from=18446744073709551615", "", "")                                                                        // the last revision
	f.Add("GET", "/v1/audit?from=18446744073709551615", "", "")                                                                              // the last record
	n := controltest.New()
	h := control.NewTestHandler(n)
	f.Fuzz(func(t *testing.T, verb, target, match, body string) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		text := verb + " " + target + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\nIf-Match: " + match + "\r\n\r\n" + body
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		w := &recorder{header: http.Header{}}
		h.ServeHTTP(w, r.WithContext(ctx))
		if w.status >= 400 {
			var e struct {
				Error *control.Error `json:"error"`
			}
			if err := json.Unmarshal(w.body.Bytes(), &e); err != nil || e.Error == nil || e.Error.Code == control.Internal {
				t.Errorf("%d %s", w.status, &w.body)
			}
		}
	})
}

// recorder is a response writer with deadlines, which it ignores.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header              { return r.header }
func (r *recorder) WriteHeader(status int)           { r.status = status }
func (r *recorder) Write(b []byte) (int, error)      { return r.body.Write(b) }
func (r *recorder) Flush()                           {}
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
