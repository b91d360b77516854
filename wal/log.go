package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Options of a log. FS, Dir and Node must be set.
type Options struct {
	// FS is where the log lives, vfs.OS outside of tests.
	FS vfs.FS
	// Dir is the directory of the log, its own; Create makes it.
	Dir string
	// Cluster and Node are written into each segment; Open refuses a log of
	// another with ErrForeign.
	Cluster [16]byte
	Node    uint64
	// SegmentBytes is the length of new segment files: a multiple of 4096, 32
	// KiB to 256 MiB, default 16 MiB. Open reads segments of any length.
	SegmentBytes int64
	// MaxPayload is the largest payload that Append takes, bytes; it must fit
	// a segment. Default 8 MiB, or what fits if that is less.
	MaxPayload int
	// Logger hears of recovery and failure; nil is silence.
	Logger *slog.Logger
	// OnSync is called after each successful sync of a batch with its bytes on
	// disk, its records and the time of write and sync, from the goroutine
	// that writes: it must return at once. nil is nobody.
	OnSync func(bytes, records int, took time.Duration)
	// Now is the clock that durations are measured by; nil is time.Now.
	Now func() time.Time
	// Stepped starts no goroutine: the log works when its owner calls Step, so
	// that one goroutine can drive it and each run of it is the same. One
	// goroutine makes all calls then.
	Stepped bool
	// Notify is called, of a stepped log, whenever there is work for Step; nil
	// is nobody. It must not call the log. The first call may come before Open
	// or Create has returned.
	Notify func()
}

// Defaults and limits of Options and of the queue.
const (
	DefaultSegmentBytes = 16 << 20
	DefaultMaxPayload   = 8 << 20

	// A batch ends at either; one record larger than that is a batch alone.
	maxBatchRecords = 256
	maxBatchBytes   = 1 << 20

	// Append waits while the queue holds either.
	maxQueueRequests = 4096
	maxQueueBytes    = 64 << 20
)

func (o *Options) validate() error {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.SegmentBytes < minSegmentBytes || o.SegmentBytes > maxSegmentBytes || o.SegmentBytes%blockBytes != 0 {
		return fmt.Errorf("segment size %d: want a multiple of %d from %d to %d",
			o.SegmentBytes, blockBytes, minSegmentBytes, maxSegmentBytes)
	}
	fits := maxPayloadFor(o.SegmentBytes)
	if o.MaxPayload == 0 {
		o.MaxPayload = int(min(DefaultMaxPayload, fits))
	}
	if o.MaxPayload < 0 || int64(o.MaxPayload) > fits {
		return fmt.Errorf("largest payload %d: a segment of %d holds %d", o.MaxPayload, o.SegmentBytes, fits)
	}
	if o.FS == nil || o.Dir == "" || o.Node == 0 {
		return errors.New("log options lack file system, directory or node")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// request is one call that waits for the writer.
type request struct {
	records []Record
	bytes   int64
	release *release // nil for an append
	err     error    // found before it was queued
	done    func(error)
}

// release is what Compact asks of the writer, and its answer.
type release struct {
	upto    uint64
	dropped []segment // no longer part of the log; files still there
}

func (r *request) finish(err error) {
	if r.err != nil {
		err = r.err
	}
	if r.done != nil {
		r.done(err)
	}
}

// Log is an open log. Its methods may be called from any goroutine but the
// callbacks of it.
type Log struct {
	opts     Options
	recovery Recovery
	prep     *preparer
	finished chan struct{} // closed when the writer has ended
	failed   chan struct{} // closed when err is set

	dropping sync.Mutex // held while files of released segments go
	closed   bool       // no file is touched any more; guarded by dropping

	mu      sync.Mutex
	room    sync.Cond // the queue got shorter, or the log ended
	work    sync.Cond // the queue got longer, or Close was called
	queue   []*request
	queued  int64     // bytes of queue
	busy    time.Time // since when the writer works on what it took, zero when idle
	closing bool
	err     error // final
	meter   meter

	w writer // owned by the goroutine of the writer, or by the caller of Step
}

// Create makes a new log in Dir, which it creates with its parents. ErrExists
// means that there is one. A crash leaves no log or an empty one.
func Create(opts Options) (*Log, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if err := opts.FS.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create log directory: %w", err)
	}
	s := survey{fsys: opts.FS, dir: opts.Dir}
	if _, err := s.list(); err == nil {
		return nil, fmt.Errorf("%w: %s", ErrExists, opts.Dir)
	} else if !errors.Is(err, ErrNoLog) {
		return nil, err
	}
	if err := removeAll(opts.FS, opts.Dir, s.stale); err != nil {
		return nil, err
	}
	tmp := path.Join(opts.Dir, "first"+tempSuffix)
	f, err := createFilled(opts.FS, tmp, opts.SegmentBytes, nil)
	if err != nil {
		return nil, err
	}
	head := header{
		cluster: opts.Cluster, node: opts.Node, sequence: 1, oldest: 1,
		salt: newSalt(), size: uint64(opts.SegmentBytes), first: 1,
	}
	crc, err := publishSegment(opts.FS, opts.Dir, f, tmp, &head)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	tail := &scanner{head: head, offset: headerBytes, number: head.first, prev: crc}
	segments := []segment{{name: segmentName(1), head: head}}
	recovery := Recovery{Verdict: Clean, Segments: 1, Segment: path.Join(opts.Dir, segmentName(1)), Offset: headerBytes}
	return start(opts, f, tail, segments, recovery), nil
}

// Exists tells whether Dir holds a segment.
func Exists(fsys vfs.FS, dir string) (bool, error) {
	_, err := (&survey{fsys: fsys, dir: dir}).list()
	if errors.Is(err, ErrNoLog) {
		return false, nil
	}
	return err == nil, err
}

// Open reads the log in Dir, gives each record to replay in order (TypeTruncate
// records too; nil for nobody), repairs a torn tail and goes on behind it. The
// payload belongs to replay, which may keep it: it shares its memory with the
// others of its batch, of 1 MiB or so.
//
// A log that is damaged is a *CorruptError, which wraps ErrCorrupt; replay has
// then seen what comes before the damage, and nothing on disk was changed.
// ErrNoLog, ErrForeign, errors of replay and of the disk are returned wrapped.
// The Recovery is filled as far as reading came.
func Open(opts Options, replay func(Record) error) (*Log, Recovery, error) {
	if err := opts.validate(); err != nil {
		return nil, Recovery{}, err
	}
	s := survey{
		fsys: opts.FS, dir: opts.Dir, reload: true, visit: replay, stepped: opts.Stepped,
		only: &header{cluster: opts.Cluster, node: opts.Node},
	}
	if err := s.run(); err != nil {
		opts.Logger.Error("log not opened", "dir", opts.Dir, "verdict", s.Verdict.String(), "error", err)
		return nil, s.Recovery, err
	}
	f, err := s.repair()
	if err != nil {
		return nil, s.Recovery, err
	}
	opts.Logger.Info("log opened", "dir", opts.Dir, "verdict", s.Verdict.String(), "segments", s.Segments,
		"records", s.Records, "last_index", s.LastIndex, "torn_bytes", s.TornBytes, "why", s.Why)
	s.tail.buf = nil // 16 MiB
	return start(opts, f, s.tail, s.segments, s.Recovery), s.Recovery, nil
}

// repair removes what a crash left, cuts a torn tail, and returns the segment to
// go on with. It can be cut short and done again at any point.
func (s *survey) repair() (vfs.File, error) {
	drop := s.stale
	if s.drop != "" {
		drop = append(drop, s.drop)
	}
	if err := removeAll(s.fsys, s.dir, drop); err != nil {
		return nil, err
	}
	f, err := s.fsys.OpenFile(s.Segment, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open last segment: %w", err)
	}
	if s.Verdict != TornTail {
		return f, nil
	}
	// All of the rest, not only the torn batch: the next batch gets the number
	// and so the tag of the one that is cut.
	err = zeroFrom(f, s.Offset, int64(s.tail.head.size))
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, fmt.Errorf("cut torn tail: %w", errors.Join(err, f.Close()))
	}
	return f, nil
}

func removeAll(fsys vfs.FS, dir string, names []string) error {
	for _, name := range names {
		if err := fsys.Remove(path.Join(dir, name)); err != nil {
			return fmt.Errorf("remove left-over file: %w", err)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sync log directory: %w", err)
	}
	return nil
}

// start begins the two goroutines of a log, which Close ends; a stepped log has
// none.
func start(opts Options, f vfs.File, tail *scanner, segments []segment, recovery Recovery) *Log {
	l := &Log{
		opts: opts, recovery: recovery,
		finished: make(chan struct{}), failed: make(chan struct{}),
	}
	l.room.L, l.work.L = &l.mu, &l.mu
	l.prep = newPreparer(opts.FS, opts.Dir, opts.SegmentBytes, l.fail)
	l.prep.now, l.prep.stepped = opts.Now, opts.Stepped
	l.w = writer{
		log: l, fsys: opts.FS, dir: opts.Dir, file: f, head: tail.head,
		offset: tail.offset, number: tail.number, prev: tail.prev,
		last: recovery.LastIndex, segments: segments, oldest: segments[0].head.sequence,
	}
	l.w.publishStats()
	if opts.Stepped {
		l.notify() // the next segment is to be made
		return l
	}
	go l.prep.run()
	go l.run()
	return l
}

// Append queues records; done is called with nil when they are all durable, or
// with the error. Calls are made one after the other by one goroutine, in the
// order of the requests; done must return at once and must not call the log.
// The payloads must not change until then. Records of one Append are durable in
// their order: after a crash a first part of them may be there, never another.
//
// An error is final for the log, but for ErrTooLarge, which concerns this call
// alone and writes nothing. Append waits while the queue is full. A type out of
// 1 to MaxType panics.
func (l *Log) Append(records []Record, done func(error)) { l.submit(l.request(records, done)) }

func (l *Log) request(records []Record, done func(error)) *request {
	r := &request{records: records, done: done}
	for i := range records {
		rec := &records[i]
		invariant.Check(rec.Type > 0 && rec.Type <= MaxType, "append record of type %d, index %d", rec.Type, rec.Index)
		r.bytes += recordSize(len(rec.Payload))
		if len(rec.Payload) > l.opts.MaxPayload {
			r.err = fmt.Errorf("%w: index %d has %d bytes, limit %d",
				ErrTooLarge, rec.Index, len(rec.Payload), l.opts.MaxPayload)
		}
	}
	if r.err != nil {
		r.records, r.bytes = nil, 0
	}
	return r
}

// Truncate voids the records so far whose index is from or above: replay will
// report a TypeTruncate record of that index after them. Else it is as Append.
func (l *Log) Truncate(from uint64, done func(error)) {
	r := Record{Type: TypeTruncate, Index: from}
	l.submit(&request{records: []Record{r}, bytes: recordSize(0), done: done})
}

// Release drops the segments, from the oldest on, in which no record has an
// index above upto; the one in use stays. It is ordered after the appends
// before it and returns when the segments are gone. Records of index 0 keep no
// segment: what of them is still needed must be appended again before, or be
// given to Compact.
func (l *Log) Release(upto uint64) error { return l.Compact(upto, nil)() }

// Compact is Release in two halves. It queues the release, ordered after the
// appends before it, together with records that must outlive it: they stand in
// one batch with the mark of the release, in the segment in use, so that a
// crash leaves both or neither. drop waits until that batch is durable and then
// removes the files; it may run on any goroutine, must run only once, and
// returns the final error of the log. A log that is closed before leaves the
// files to the next Open.
func (l *Log) Compact(upto uint64, keep []Record) (drop func() error) {
	done := make(chan error, 1)
	rel := &release{upto: upto}
	r := l.request(keep, func(err error) { done <- err })
	r.release = rel
	l.submit(r)
	return func() error {
		if l.opts.Stepped && len(done) == 0 {
			l.Step()
		}
		if err := <-done; err != nil {
			return err
		}
		return l.drop(rel.dropped)
	}
}

// submit queues a request, or ends it when the log is closed.
func (l *Log) submit(r *request) {
	l.mu.Lock()
	for !l.closing && (len(l.queue) >= maxQueueRequests || l.queued > 0 && l.queued+r.bytes > maxQueueBytes) {
		if l.opts.Stepped {
			l.mu.Unlock()
			l.Step()
			l.mu.Lock()
			continue
		}
		l.room.Wait()
	}
	if l.closing {
		err := l.err
		l.mu.Unlock()
		if err == nil {
			err = ErrClosed
		}
		<-l.finished // so that this is not called before those queued earlier
		r.finish(err)
		return
	}
	l.queue = append(l.queue, r)
	l.queued += r.bytes
	if l.opts.Stepped && l.busy.IsZero() {
		l.busy = l.opts.Now()
	}
	l.work.Signal()
	l.mu.Unlock()
	l.notify()
}

// take waits for requests and returns all; none means that the log is closed.
func (l *Log) take() []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = time.Time{}
	for len(l.queue) == 0 && !l.closing {
		l.work.Wait()
	}
	reqs := l.queue
	l.queue, l.queued = nil, 0
	if len(reqs) > 0 {
		l.busy = l.opts.Now()
	}
	l.room.Broadcast()
	return reqs
}

// fail makes err the end of the log, unless one was before it, and returns the
// one that counts.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = fmt.Errorf("log failed: %w", err)
		close(l.failed)
		l.opts.Logger.Error("log failed", "dir", l.opts.Dir, "error", err)
	}
	return l.err
}

// Err returns the final error, nil while the log works.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Failed is closed when the log has failed; Err then says why. It shows errors
// that no caller waits for, too, such as those of preparing the next segment.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Close writes what is queued, ends the goroutines and closes the files. It
// returns the final error of the log, if any. Calls after it are ErrClosed.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closing = true
	l.work.Broadcast()
	l.room.Broadcast()
	l.mu.Unlock()
	l.endSteps()
	<-l.finished
	l.dropping.Lock()
	defer l.dropping.Unlock()
	if l.closed {
		return l.Err()
	}
	l.closed = true
	l.prep.close()
	if err := l.w.file.Close(); err != nil {
		return errors.Join(l.Err(), fmt.Errorf("close segment: %w", err))
	}
	return l.Err()
}
