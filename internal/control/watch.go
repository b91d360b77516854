package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Limits of watches.
const (
	watchesMax      = 768 // leaves connections for the rest
	watchBatch      = 256 // events in one write
	progressEvery   = 5 * time.Second
	watchWriteLimit = 10 * time.Second // of a caller that does not read
	// watchPace is the least distance of looks for changes: under load many
	// revisions are sent together, instead of waking every watch for each.
	watchPace = 2 * time.Millisecond
)

// watchLine is an event of a watch: put, delete, expire, progress or error.
type watchLine struct {
	Type    string     `json:"type"`
	Key     string     `json:"key,omitempty"`
	Rev     uint64     `json:"rev,omitempty"`
	Value   *[]byte    `json:"value,omitempty"` // of a put, base64
	Created uint64     `json:"created,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
}

// progressLine says that every change up to Rev was sent.
type progressLine struct {
	Type string `json:"type"`
	Rev  uint64 `json:"rev"`
}

// errorLine ends a watch that cannot go on.
type errorLine struct {
	Type  string `json:"type"`
	Error *Error `json:"error"`
}

// watcher is a watch that goes on.
type watcher struct {
	data           Data
	bucket, prefix string
	next           uint64 // revision that was not sent yet
	out            *http.ResponseController
	lines          *json.Encoder
}

func (a *api) watch(w http.ResponseWriter, r *http.Request) {
	if !onlyMethods(w, r, http.MethodGet) {
		return
	}
	select {
	case a.watches <- struct{}{}:
		defer func() { <-a.watches }()
	default:
		a.refuse(w, r, &Error{Code: NoQuorum, Message: "too many watches on this node: " + strconv.Itoa(watchesMax), Hint: "watch on another member, or end some"})
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(a.stopping, cancel)()
	watch, v, err := a.newWatcher(ctx, r)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	w.Header()["Content-Type"] = linesType
	watch.out, watch.lines = http.NewResponseController(w), json.NewEncoder(w)
	var gone *Error
	if err := watch.run(ctx, v); errors.As(err, &gone) && ctx.Err() == nil {
		_ = watch.lines.Encode(errorLine{"error", gone}) // or it went away itself
	}
}

// newWatcher finds out what to watch, and from where on.
func (a *api) newWatcher(ctx context.Context, r *http.Request) (*watcher, *kv.View, error) {
	bucket, _, hasKey, err := target(r.URL, watchPath)
	if err == nil && hasKey {
		err = invalid("/v1/watch/BUCKET?prefix=KEY", "a watch has no key in its path")
	}
	if err == nil {
		err = a.known(bucket)
	}
	if err != nil {
		return nil, nil, err
	}
	watch := &watcher{data: a.backend, bucket: bucket}
	var from string
	local, err := readQuery(r.URL.RawQuery, map[string]*string{"prefix": &watch.prefix, "from": &from})
	if err == nil {
		_, err = readBody(r, 0)
	}
	if err == nil && from != "" {
		if watch.next, err = strconv.ParseUint(from, 10, 64); err != nil || watch.next == 0 {
			err = invalid("from=REV", "from %q is not a revision", from)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	readCtx, cancel := context.WithTimeout(ctx, readLimit+time.Second)
	defer cancel()
	// Who begins now must see what is written from now on and nothing older.
	// Who names a revision gets what this node has, then what it learns.
	v, err := a.backend.View(readCtx, local || from != "")
	if err != nil {
		return nil, nil, err
	}
	if from == "" {
		watch.next = v.Rev() + 1
	}
	// Compacted must be known before the answer begins.
	if _, _, err := v.Events(bucket, watch.prefix, watch.next, 1); err != nil {
		return nil, nil, compacted(err)
	}
	return watch, v, nil
}

func compacted(err error) error {
	var gone *kv.CompactedError
	if !errors.As(err, &gone) {
		return err
	}
	return &Error{
		Code: Compacted, Message: gone.Error(),
		Hint: "list the bucket and watch from the revision after that of the list",
	}
}

// run sends until ctx ends, the caller is gone or the history is.
func (w *watcher) run(ctx context.Context, v *kv.View) error {
	// The first line tells where the watch begins, and that it has.
	if err := w.progress(); err != nil {
		return err
	}
	due := time.Now().Add(progressEvery)
	for {
		looked := time.Now()
		if err := w.send(v); err != nil {
			return err
		}
		if !looked.Before(due) {
			if err := w.progress(); err != nil {
				return err
			}
			due = looked.Add(progressEvery)
		}
		after := max(v.Rev(), w.next-1)
		v = nil // a view in hand keeps memory while nothing happens
		var err error
		if v, err = w.wait(ctx, after, looked, due); err != nil {
			return err
		}
	}
}

// wait returns a view with revisions after the given one, or at due whichever
// there is.
func (w *watcher) wait(ctx context.Context, after uint64, looked, due time.Time) (*kv.View, error) {
	timed, cancel := context.WithDeadline(ctx, due)
	defer cancel()
	v, err := w.data.NextView(timed, after)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err == nil && time.Since(looked) >= watchPace:
		return v, nil
	case err != nil && !errors.Is(err, context.DeadlineExceeded):
		return nil, err
	}
	if err == nil {
		pause := time.NewTimer(watchPace - time.Since(looked))
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return w.data.View(ctx, true)
}

// send sends what a view has that was not sent.
func (w *watcher) send(v *kv.View) error {
	for {
		events, next, err := v.Events(w.bucket, w.prefix, w.next, watchBatch)
		if err != nil {
			return compacted(err)
		}
		w.next = next
		if len(events) > 0 {
			if err := w.write(events); err != nil {
				return err
			}
		}
		if next > v.Rev() {
			return nil
		}
	}
}

func (w *watcher) write(events []kv.Event) error {
	if err := w.out.SetWriteDeadline(time.Now().Add(watchWriteLimit)); err != nil {
		return err
	}
	for i := range events {
		e := &events[i]
		line := watchLine{Type: e.Type.String(), Key: e.Key, Rev: e.Rev}
		if e.Type == kv.EventPut {
			line.Value, line.Created = &e.Value, e.Create
			if e.Value == nil {
				line.Value = &[]byte{}
			}
			if e.Expires != 0 {
				at := clockTime(e.Expires)
				line.Expires = &at
			}
		}
		if err := w.lines.Encode(line); err != nil {
			return err
		}
	}
	return w.out.Flush()
}

func (w *watcher) progress() error {
	if err := w.out.SetWriteDeadline(time.Now().Add(watchWriteLimit)); err != nil {
		return err
	}
	if err := w.lines.Encode(progressLine{"progress", w.next - 1}); err != nil {
		return err
	}
	return w.out.Flush()
}
