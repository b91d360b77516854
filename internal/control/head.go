package control

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// Limits of a short request.
const (
	headBytesMax = 8 << 10 // longer heads are for net/http
	headersMax   = 32
)

// head is the beginning of a short request: one for the buckets, or for the
// status, in the plain form that programs send. It is reused from request to request.
type head struct {
	method string
	target string
	url    url.URL
	host   string
	length int64 // of the body
	header http.Header
	values [headersMax]string // what header points to
}

// parse reads text, which ends with an empty line. It is strict on purpose: it
// tells false for all that it does not know for sure to mean what net/http
// takes it for, which then gets the request. So what is malformed, unusual or
// too large is judged in one place, and not in this one.
func (h *head) parse(text string) bool {
	line, rest, ok := cutLine(text)
	if !ok || !h.parseLine(line) {
		return false
	}
	clear(h.header)
	h.host, h.length = "", -1
	for n := 0; ; n++ {
		line, rest, ok = cutLine(rest)
		switch {
		case !ok:
			return false
		case line == "":
			h.length = max(h.length, 0)
			return rest == "" && h.host != ""
		case n == headersMax || !h.parseHeader(line, n):
			return false
		}
	}
}

// cutLine cuts after the first line; it may have no other line break in it.
func cutLine(text string) (line, rest string, ok bool) {
	i := strings.IndexByte(text, '\n')
	if i < 1 || text[i-1] != '\r' {
		return "", "", false
	}
	return text[:i-1], text[i+1:], true
}

// parseLine reads the request line.
func (h *head) parseLine(line string) bool {
	method, line, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(line, " ")
	if version != "HTTP/1.1" {
		return false
	}
	switch method {
	case http.MethodPut, http.MethodGet, http.MethodDelete, http.MethodHead:
		if !strings.HasPrefix(target, kvPath) && (target != statusPath || method != http.MethodGet) {
			return false
		}
	case http.MethodPost:
		if target != txnPath {
			return false
		}
	default:
		return false
	}
	h.method, h.target, h.url = method, target, url.URL{Path: target}
	if !made(target, plain) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return false
		}
		h.url = *u
	}
	return true
}

// parseHeader reads line number n of the headers.
func (h *head) parseHeader(line string, n int) bool {
	name, value, ok := strings.Cut(line, ":")
	if !ok || name == "" || !made(name, token) || !made(value, printable) {
		return false
	}
	name, value = textproto.CanonicalMIMEHeaderKey(name), strings.Trim(value, " ")
	switch name {
	case "Connection", "Expect", "Pragma", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return false // they change how the request or the connection is handled
	case "Host":
		if h.host != "" || !made(value, hostname) {
			return false
		}
		h.host = value
		return true
	case "Content-Length":
		length, err := strconv.ParseUint(value, 10, 32)
		if err != nil || h.length >= 0 || length > txnBytesMax {
			return false
		}
		h.length = int64(length)
	}
	h.values[n] = value
	if more, ok := h.header[name]; ok {
		h.header[name] = append(more, value)
	} else {
		h.header[name] = h.values[n : n+1 : n+1]
	}
	return true
}

// Kinds of bytes.
const (
	plain     = 1 << iota // of a path that is no other when unescaped
	token                 // of the name of a header
	printable             // of a value
	hostname              // of a Host header, with its port
)

var kinds = func() (k [256]uint8) {
	for c := ' '; c <= '~'; c++ {
		k[c] = printable
	}
	mark := func(set string, kind uint8) {
		for i := range len(set) {
			k[set[i]] |= kind
		}
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	mark(letters+"-._~/", plain)
	mark(letters+"-_", token)
	mark(letters+"-._:[]", hostname)
	return k
}()

// made tells whether s has only bytes of a kind.
func made(s string, kind uint8) bool {
	for i := range len(s) {
		if kinds[s[i]]&kind == 0 {
			return false
		}
	}
	return true
}
