package kvload

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake serves buckets from a map. Its faults are those that a product might
// have; each must be found.
type fake struct {
	mu    sync.Mutex
	keys  map[string]Item
	old   map[string]Item // as some time ago
	rev   uint64
	seen  map[string]reply // by request id
	turns int

	// What goes wrong, once the revision is above spare.
	spare     uint64
	Drop      int  // percent of the answers to writes that are lost
	Refuse    int  // percent of requests that find no quorum
	Late      bool // a lost write is executed some time later
	Stale     bool // some reads find what was
	Forget    bool // some acknowledged writes are not there
	Twice     bool // ids are ignored
	BackRevs  bool // revisions go back at times
	HalfMoves bool // transactions do half of their puts at times
}

func (f *fake) serve(t *testing.T) string {
	t.Helper()
	f.keys, f.old, f.seen = map[string]Item{}, map[string]Item{}, map[string]reply{}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: f}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return socket
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	id := r.Header.Get("Holdfast-Request-Id")
	f.mu.Lock()
	bad := f.rev >= f.spare
	refuse := f.Refuse
	f.mu.Unlock()
	if bad && rand.IntN(100) < refuse {
		answer(w, failure(503, "no_quorum", "nobody there"))
		return
	}
	lost := bad && id != "" && rand.IntN(100) < f.Drop
	if lost && f.Late {
		delay := time.Duration(rand.IntN(30)) * time.Millisecond
		time.AfterFunc(delay, func() { f.once(r, body, id) })
	} else if rep := f.once(r, body, id); !lost {
		answer(w, rep)
		return
	}
	if rand.IntN(2) == 0 {
		answer(w, failure(504, "timeout", "no answer in time"))
		return
	}
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

func answer(w http.ResponseWriter, r reply) {
	for k, v := range r.header {
		w.Header()[k] = v
	}
	w.WriteHeader(r.status)
	w.Write(r.body)
}

func failure(status int, code, message string) reply {
	body, _ := json.Marshal(map[string]any{"error": map[string]string{"code": code, "message": message}})
	return reply{status, nil, body}
}

func success(v any) reply {
	body, _ := json.Marshal(v)
	return reply{200, nil, body}
}

func (f *fake) once(r *http.Request, body []byte, id string) reply {
	f.mu.Lock()
	defer f.mu.Unlock()
	if rep, ok := f.seen[id]; ok && id != "" && !f.Twice {
		return rep
	}
	f.turns++
	if f.turns%50 == 0 {
		f.old = map[string]Item{}
		for k, v := range f.keys {
			f.old[k] = v
		}
	}
	rep := f.execute(r, body)
	if rep.status != 503 {
		f.seen[id] = rep
	}
	return rep
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.turns
}

func (f *fake) execute(r *http.Request, body []byte) reply {
	if r.URL.Path == "/v1/txn" {
		return f.txn(body)
	}
	path, _ := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/v1/kv/"))
	bucket, key, one := strings.Cut(path, "/")
	if !one {
		return f.list(bucket, r.URL.Query())
	}
	key = bucket + "/" + key
	item := f.keys[key]
	if r.Method == http.MethodGet {
		if f.Stale && rand.IntN(20) == 0 {
			item = f.old[key]
		}
		if !item.Found {
			return failure(404, "not_found", key)
		}
		return reply{200, http.Header{"Etag": {strconv.Quote(fmt.Sprint(item.Rev))}}, []byte(item.Value)}
	}
	if match := r.Header.Get("If-Match"); match != "" && (!item.Found || strconv.Quote(fmt.Sprint(item.Rev)) != match) ||
		r.Header.Get("If-None-Match") == "*" && item.Found {
		return failure(412, "precondition_failed", key)
	}
	if r.Method == http.MethodDelete {
		if !item.Found {
			return failure(404, "not_found", key)
		}
		f.next()
		delete(f.keys, key)
		return success(map[string]uint64{"rev": f.rev})
	}
	f.next()
	if !f.Forget || rand.IntN(50) != 0 {
		f.keys[key] = Item{Found: true, Value: string(body), Rev: f.rev}
	}
	return success(map[string]uint64{"rev": f.rev})
}

func (f *fake) next() {
	f.rev += 10
	if f.BackRevs && rand.IntN(50) == 0 && f.rev > 100 {
		f.rev -= 35
	}
}

func (f *fake) list(bucket string, q url.Values) reply {
	var keys []Listed
	for k, v := range f.keys {
		key := strings.TrimPrefix(k, bucket+"/")
		if key != k && strings.HasPrefix(key, q.Get("prefix")) && key > q.Get("after") {
			keys = append(keys, Listed{Key: key, Rev: v.Rev, Size: len(v.Value)})
		}
	}
	slices.SortFunc(keys, func(a, b Listed) int { return strings.Compare(a.Key, b.Key) })
	next := ""
	if len(keys) > 7 { // small pages: following them is tested too
		keys, next = keys[:7], keys[6].Key
	}
	return success(map[string]any{"keys": keys, "next": next})
}

func (f *fake) txn(body []byte) reply {
	var t Txn
	if err := json.Unmarshal(body, &t); err != nil {
		return failure(400, "invalid", err.Error())
	}
	result := map[string]any{"succeeded": true}
	for _, c := range t.If {
		if item := f.keys[c.Bucket+"/"+c.Key]; !item.Found || item.Rev != c.Rev {
			return success(map[string]any{"succeeded": false, "rev": f.rev, "results": []any{}})
		}
	}
	var results []map[string]any
	wrote := false
	for _, op := range t.Then {
		key := op.Bucket + "/" + op.Key
		if op.Op == "get" {
			item := f.keys[key]
			results = append(results, map[string]any{"found": item.Found, "rev": item.Rev, "value": []byte(item.Value)})
			continue
		}
		if !wrote {
			f.next()
		} else if f.HalfMoves && rand.IntN(5) == 0 {
			continue
		}
		wrote = true
		f.keys[key] = Item{Found: true, Value: op.Text, Rev: f.rev}
		results = append(results, map[string]any{"rev": f.rev})
	}
	result["rev"], result["results"] = f.rev, results
	return success(result)
}
