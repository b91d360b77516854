package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Paths of the buckets. They do not go through http.ServeMux, which would
// clean keys such as "a//b" and "..", and is slower.
const (
	kvPath    = "/v1/kv/"
	watchPath = "/v1/watch/"
)

// Headers of the buckets, as net/http spells them.
const (
	headerTTL       = "Holdfast-Ttl"
	headerRequestID = "Holdfast-Request-Id"
	headerExpires   = "Holdfast-Expires"
	headerETag      = "Etag"
	headerMatch     = "If-Match"
	headerNoneMatch = "If-None-Match"
)

// Limits that are longer than a node takes to give up by itself, so that its
// better words come back.
const (
	updateLimit = 12 * time.Second
	viewLimit   = readLimit + time.Second
)

func invalid(hint, format string, args ...any) *Error {
	return &Error{Code: Invalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// serveKV answers everything below /v1/kv/.
func (a *api) serveKV(w http.ResponseWriter, r *http.Request) {
	bucket, key, hasKey, err := target(r.URL, kvPath)
	if err == nil {
		err = a.known(bucket)
	}
	if err == nil && hasKey {
		err = asRequestError(kv.ValidKey(key))
	}
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	switch {
	case !hasKey:
		if onlyMethods(w, r, "GET, HEAD") {
			a.list(w, r, bucket)
		}
	case r.Method == http.MethodPut:
		a.put(w, r, bucket, key)
	case r.Method == http.MethodDelete:
		a.delete(w, r, bucket, key)
	case onlyMethods(w, r, "GET, HEAD, PUT, DELETE"):
		a.get(w, r, bucket, key)
	}
}

// onlyMethods answers a request with another method than the listed ones.
func onlyMethods(w http.ResponseWriter, r *http.Request, list string) bool {
	for m := range strings.SplitSeq(list, ", ") {
		if r.Method == m {
			return true
		}
	}
	w.Header().Set("Allow", list)
	failWith(w, http.StatusMethodNotAllowed, &Error{Code: Invalid, Message: r.Method + " is not for this path", Hint: "use " + list})
	return false
}

// target splits what follows prefix into bucket and key. Only a slash ends the
// bucket, an escaped one does not; in the key both are slashes.
func target(u *url.URL, prefix string) (bucket, key string, hasKey bool, err error) {
	if u.RawPath == "" {
		bucket, key, hasKey = strings.Cut(u.Path[len(prefix):], "/")
		return bucket, key, hasKey, nil
	}
	rest, ok := strings.CutPrefix(u.RawPath, prefix)
	if !ok {
		return "", "", false, invalid("escape only bytes of the key", "path %q escapes what needs no escaping", u.RawPath)
	}
	rawBucket, rawKey, hasKey := strings.Cut(rest, "/")
	bucket, errBucket := url.PathUnescape(rawBucket)
	key, errKey := url.PathUnescape(rawKey)
	if err := errors.Join(errBucket, errKey); err != nil {
		return "", "", false, invalid("escape bytes of the key as %XX", "path: %v", err)
	}
	return bucket, key, hasKey, nil
}

// known refuses a bucket that does not exist.
func (a *api) known(bucket string) error {
	buckets := a.backend.Buckets()
	if slices.Contains(buckets, bucket) {
		return nil
	}
	if err := kv.ValidBucket(bucket); err != nil {
		return asRequestError(err)
	}
	return &Error{
		Code: NotFound, Message: fmt.Sprintf("no bucket %s; there are %s", bucket, strings.Join(buckets, ", ")),
		Hint: fmt.Sprintf("add [[bucket]] name = %q to the configuration of every member, then: holdfast reload", bucket),
	}
}

// asRequestError gives the refusals of package kv their code.
func asRequestError(err error) error {
	var refused *kv.RequestError
	if !errors.As(err, &refused) {
		return err
	}
	code := Invalid
	if refused.TooLarge {
		code = TooLarge
	}
	return &Error{Code: code, Message: refused.Message, Hint: "docs/api.md names the limits"}
}

// single is a write of one operation with what it points to: one allocation.
type single struct {
	request kv.Request
	ops     [1]kv.Op
	conds   [1]kv.Cond
}

// newSingle makes the request of a PUT or DELETE, with the conditions of its
// headers.
func newSingle(r *http.Request, op kv.Op) (*single, error) {
	s := &single{ops: [1]kv.Op{op}}
	s.request.Then = s.ops[:]
	id, err := one(r.Header, headerRequestID)
	if err != nil {
		return nil, err
	}
	s.request.ID = id
	match, err := one(r.Header, headerMatch)
	if err != nil {
		return nil, err
	}
	noneMatch, err := one(r.Header, headerNoneMatch)
	if err != nil {
		return nil, err
	}
	cond := kv.Cond{Bucket: op.Bucket, Key: op.Key}
	switch {
	case match == "" && noneMatch == "":
		return s, nil
	case match != "" && noneMatch != "":
		return nil, invalid("use one of them", "both If-Match and If-None-Match")
	case noneMatch != "":
		if noneMatch != "*" {
			return nil, invalid("If-None-Match: *", "If-None-Match: %s: only * is possible for a write", noneMatch)
		}
	case match == "*":
		cond.Exists = true
	default:
		if cond.Rev, err = revision(match); err != nil || cond.Rev == 0 {
			return nil, invalid(`If-Match: "REV" with the revision of one key, or *`, "If-Match: %s is not a revision", match)
		}
	}
	s.conds[0] = cond
	s.request.If = s.conds[:]
	return s, nil
}

// one returns a header that may occur once at most.
func one(h http.Header, name string) (string, error) {
	switch v := h[name]; len(v) {
	case 0:
		return "", nil
	case 1:
		return v[0], nil
	}
	return "", invalid("send it once", "header %s more than once", name)
}

// revision reads the value of an ETag; the quotation marks may be missing.
func revision(s string) (uint64, error) {
	if len(s) > 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return strconv.ParseUint(s, 10, 64)
}

// ttl reads a time to live; "" is none.
func ttl(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, invalid("a number with its unit, for example 90s, 30m or 24h", "time to live %q: not a positive duration", s)
	}
	return d, nil
}

func (a *api) put(w http.ResponseWriter, r *http.Request, bucket, key string) {
	s, err := newSingle(r, kv.Op{Kind: kv.OpPut, Bucket: bucket, Key: key})
	if err == nil {
		var text string
		if text, err = one(r.Header, headerTTL); err == nil {
			s.ops[0].TTL, err = ttl(text)
		}
	}
	if err == nil {
		err = noQuery(r)
	}
	if err == nil {
		s.ops[0].Value, err = readBody(r, kv.MaxValue)
	}
	var res kv.Result
	if err == nil {
		res, err = a.updateOne(r, s)
	}
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	revised(w, res.Ops[0].Rev)
}

func (a *api) delete(w http.ResponseWriter, r *http.Request, bucket, key string) {
	s, err := newSingle(r, kv.Op{Kind: kv.OpDelete, Bucket: bucket, Key: key})
	if err == nil {
		err = noQuery(r)
	}
	if err == nil && len(r.Header[headerTTL]) > 0 {
		err = invalid("leave it out", "a deletion has no time to live")
	}
	if err == nil {
		_, err = readBody(r, 0)
	}
	var res kv.Result
	if err == nil {
		res, err = a.updateOne(r, s)
	}
	if err == nil && !res.Ops[0].Found {
		err = noKey(bucket, key)
	}
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	revised(w, res.Ops[0].Rev)
}

func noKey(bucket, key string) *Error {
	return &Error{Code: NotFound, Message: fmt.Sprintf("no key %q in bucket %s", key, bucket), Hint: "holdfast kv list " + bucket}
}

func noQuery(r *http.Request) error {
	if r.URL.RawQuery != "" {
		return invalid("options of a write are headers", "query %q on a write", r.URL.RawQuery)
	}
	return nil
}

// revised answers a write.
func revised(w http.ResponseWriter, rev uint64) {
	var room [40]byte
	b := append(room[:0], `{"rev":`...)
	b = strconv.AppendUint(b, rev, 10)
	b = append(b, "}\n"...)
	w.Header()["Content-Type"] = jsonType
	_, _ = w.Write(b) // the caller went away: nothing to tell it
}

// updateOne executes a request of one operation; an unmet condition is an
// error.
func (a *api) updateOne(r *http.Request, s *single) (kv.Result, error) {
	res, err := a.update(r.Context(), &s.request)
	if err == nil && res.Code == kv.NotMet {
		err = unmet(&s.conds[0], res.Conflict)
	}
	return res, err
}

// unmet says why a condition did not hold.
func unmet(c *kv.Cond, found uint64) *Error {
	e := &Error{Code: PreconditionFailed, Hint: "read the key again: holdfast kv get " + c.Bucket + " KEY"}
	switch {
	case found == 0:
		e.Message = fmt.Sprintf("key %q is not there", c.Key)
	case c.Rev > 0:
		e.Message = fmt.Sprintf("key %q has revision %d, not %d", c.Key, found, c.Rev)
	default:
		e.Message = fmt.Sprintf("key %q is there already, with revision %d", c.Key, found)
	}
	return e
}

// update executes a request; outcomes that mean "refused" are errors.
func (a *api) update(ctx context.Context, req *kv.Request) (kv.Result, error) {
	if err := req.Validate(); err != nil {
		return kv.Result{}, asRequestError(err)
	}
	ctx, cancel := bounded(ctx, updateLimit)
	defer cancel()
	res, err := a.backend.Update(ctx, *req)
	if err != nil {
		return res, err
	}
	switch res.Code {
	case kv.OK:
		if len(res.Ops) != len(req.Then) {
			return res, fmt.Errorf("%d answers to %d operations", len(res.Ops), len(req.Then))
		}
	case kv.NotMet:
	case kv.Quota:
		return res, &Error{Code: QuotaExceeded, Message: "the state would be larger than max_bytes allows", Hint: "delete keys, or raise max_bytes of [state] on every member"}
	case kv.TooManyBuckets:
		return res, &Error{Code: QuotaExceeded, Message: fmt.Sprintf("more than %d buckets would have keys", kv.MaxBuckets), Hint: "delete the keys of a bucket that is not needed"}
	case kv.IDReused:
		return res, invalid("a new id for each change", "request id %q was used for another change", req.ID)
	case kv.TooLarge:
		return res, &Error{Code: TooLarge, Message: fmt.Sprintf("the values to be read have more than %d bytes", kv.MaxTxnBytes), Hint: "read less in one transaction"}
	default:
		return res, fmt.Errorf("update: %v", res.Code)
	}
	return res, nil
}

func (a *api) get(w http.ResponseWriter, r *http.Request, bucket, key string) {
	var item kv.Item
	v, err := a.view(r, nil)
	if err == nil {
		var ok bool
		if item, ok = v.Get(bucket, key); !ok {
			err = noKey(bucket, key)
		}
	}
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	h := w.Header()
	h["Content-Type"] = binaryType
	h[headerETag] = []string{`"` + strconv.FormatUint(item.Rev, 10) + `"`}
	h["Content-Length"] = []string{strconv.Itoa(len(item.Value))}
	if item.Expires != 0 {
		h[headerExpires] = []string{clockTime(item.Expires).Format(time.RFC3339Nano)}
	}
	_, _ = w.Write(item.Value) // the caller went away: nothing to tell it
}

// view is the point that a request reads at. Its query may have consistency
// and what else takes; the values of that go to else by name.
func (a *api) view(r *http.Request, take map[string]*string) (*kv.View, error) {
	local, err := readQuery(r.URL.RawQuery, take)
	if err != nil {
		return nil, err
	}
	if _, err := readBody(r, 0); err != nil {
		return nil, err
	}
	ctx, cancel := bounded(r.Context(), viewLimit)
	defer cancel()
	return a.backend.View(ctx, local)
}

// readQuery reads consistency=local|linearizable and the parameters of take.
func readQuery(raw string, take map[string]*string) (local bool, err error) {
	if raw == "" {
		return false, nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return false, invalid("escape bytes of a value as %XX", "query: %v", err)
	}
	for name, values := range query {
		into, ok := take[name]
		switch {
		case len(values) != 1:
			return false, invalid("send it once", "parameter %s more than once", name)
		case ok:
			*into = values[0]
		case name != "consistency":
			return false, invalid("docs/api.md lists the parameters", "unknown parameter %s", name)
		case values[0] == "local":
			local = true
		case values[0] != "linearizable":
			return false, invalid("consistency=local, or leave it out", "consistency %q is unknown", values[0])
		}
	}
	return local, nil
}

// clockTime is a reading of the committed clock as a time.
func clockTime(ns int64) time.Time { return time.Unix(0, ns).UTC() }
