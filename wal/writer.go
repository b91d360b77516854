package wal

import (
	"fmt"
	"path"
	"slices"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// writer is the one that writes. Only its goroutine touches it.
type writer struct {
	log  *Log
	fsys vfs.FS
	dir  string
	enc  encoder

	// The segment in use. Invariant: everything before offset is durable, and
	// offset + sealBytes <= head.size.
	file   vfs.File
	head   header
	offset int64
	number uint64 // of the next batch
	prev   uint32 // checksum of the batch frame before, or of the header

	segments []segment // oldest first, the last in use
	oldest   uint64    // lowest sequence of the log
	last     uint64    // last index
}

// pick is what goes into the next batch.
type pick struct {
	records  []Record
	data     int64      // bytes of the records
	finished []*request // whose last record is in it, or that have none
}

// fits tells whether a record may join, in a batch of at most limit bytes. A
// record above the limit is a batch alone; Options.MaxPayload sees to it that a
// segment holds it.
func (p *pick) fits(bytes, limit int64) bool {
	return len(p.records) == 0 ||
		len(p.records) < maxBatchRecords && batchSize(p.data+bytes) <= limit
}

// run writes until the log is closed.
func (l *Log) run() {
	defer close(l.finished)
	for reqs := l.take(); len(reqs) > 0; reqs = l.take() {
		l.w.serve(reqs)
	}
}

// serve makes batches of the requests, in their order.
func (w *writer) serve(reqs []*request) {
	var p pick
	limit := min(maxBatchBytes, w.log.prep.size-headerBytes-sealBytes)
	for _, r := range reqs {
		if r.release != nil {
			w.flush(&p)
			r.finish(w.release(r))
			continue
		}
		for i := range r.records {
			bytes := recordSize(len(r.records[i].Payload))
			if !p.fits(bytes, limit) {
				w.flush(&p)
			}
			p.records = append(p.records, r.records[i])
			p.data += bytes
		}
		p.finished = append(p.finished, r)
	}
	w.flush(&p)
}

// flush writes the batch and tells those that waited for it.
func (w *writer) flush(p *pick) {
	err := w.log.Err()
	if err == nil && len(p.records) > 0 {
		err = w.write(p.records, p.data)
	}
	for _, r := range p.finished {
		r.finish(err)
	}
	clear(p.records)
	clear(p.finished)
	*p = pick{records: p.records[:0], finished: p.finished[:0]}
}

// write makes one batch durable, in the next segment when this one is full.
func (w *writer) write(records []Record, data int64) error {
	began := w.log.began()
	if w.offset+batchSize(data)+sealBytes > int64(w.head.size) {
		if err := w.rotate(); err != nil {
			return w.log.fail(err)
		}
	}
	size, err := w.writeBatch(records)
	if err != nil {
		return w.log.fail(err)
	}
	seg := &w.segments[len(w.segments)-1]
	for i := range records {
		w.last = nextIndex(w.last, &records[i])
		seg.maxIndex = max(seg.maxIndex, entryIndex(&records[i]))
	}
	took := w.log.opts.Now().Sub(began)
	w.log.note(size, len(records), took)
	w.publishStats()
	if w.log.opts.OnSync != nil {
		w.log.opts.OnSync(size, len(records), took)
	}
	return nil
}

// writeBatch writes and syncs one batch where it fits, and moves on. The synced
// offset of its frames is the present offset: each batch is synced before the
// next one is written.
func (w *writer) writeBatch(records []Record) (size int, err error) {
	out, crc := w.enc.encode(records, place{
		salt: w.head.salt, number: w.number, offset: w.offset, synced: w.offset, prev: w.prev,
	})
	end := w.offset + int64(len(out))
	invariant.Check(end <= int64(w.head.size), "batch %d from %d to %d in a segment of %d",
		w.number, w.offset, end, w.head.size)
	if err := w.file.WriteSync(out, w.offset); err != nil {
		return 0, fmt.Errorf("write batch: %w", err)
	}
	w.offset, w.number, w.prev = end, w.number+1, crc
	return len(out), nil
}

// rotate publishes the next segment, then seals this one, in this order: a seal
// without its next segment means that one was lost, so the seal must come after
// the name of the next is durable; and nothing is written into the next before
// the seal is durable, so a segment without seal means that the next is unused.
func (w *writer) rotate() error {
	next := w.log.prep.take()
	if next.err != nil {
		return fmt.Errorf("prepare next segment: %w", next.err)
	}
	head := header{
		cluster: w.head.cluster, node: w.head.node, sequence: w.head.sequence + 1,
		base: w.last, oldest: w.oldest, salt: newSalt(), size: uint64(w.log.prep.size),
		prevSalt: w.head.salt, prevEnd: uint64(w.offset), prevCRC: w.prev, first: w.number + 1,
	}
	crc, err := publishSegment(w.fsys, w.dir, next.file, next.name, &head)
	if err == nil {
		_, err = w.writeBatch([]Record{sealRecord(&head, crc)})
	}
	if err != nil {
		_ = next.file.Close()
		return err
	}
	invariant.Check(w.number == head.first, "next segment begins with batch %d, sealed with %d", head.first, w.number)
	old := w.file
	w.file, w.head, w.offset, w.prev = next.file, head, headerBytes, crc
	w.segments = append(w.segments, segment{name: segmentName(head.sequence), head: head})
	if err := old.Close(); err != nil {
		return fmt.Errorf("close sealed segment: %w", err)
	}
	return nil
}

// release takes segments out of the log and gives them to the request. The
// record that says so is durable before the first name goes, so that a name
// that is missing for another reason is seen.
func (w *writer) release(r *request) error {
	if err := w.log.Err(); err != nil {
		return err
	}
	if r.err != nil {
		return r.err
	}
	n := 0
	for n < len(w.segments)-1 && w.segments[n].maxIndex <= r.release.upto {
		n++
	}
	records := r.records
	if n > 0 {
		mark := Record{Type: TypeRelease, Index: w.segments[n].head.sequence, Term: r.release.upto}
		records = append(slices.Clone(records), mark)
	}
	if len(records) == 0 {
		return nil
	}
	if err := w.write(records, r.bytes+recordSize(0)); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	// Not before: the header of a segment must not say it in place of the mark.
	w.oldest = w.segments[n].head.sequence
	r.release.dropped = w.segments[:n]
	w.segments = slices.Clone(w.segments[n:])
	w.publishStats()
	return nil
}

// drop removes the files of segments that were released.
func (l *Log) drop(segments []segment) error {
	l.dropping.Lock()
	defer l.dropping.Unlock()
	if len(segments) == 0 || l.closed {
		return l.Err()
	}
	for i := range segments {
		if err := l.dropFile(&segments[i]); err != nil {
			return l.fail(err)
		}
	}
	if err := l.opts.FS.SyncDir(l.opts.Dir); err != nil {
		return l.fail(fmt.Errorf("sync log directory: %w", err))
	}
	return nil
}

// dropFile makes a segment the spare of the preparer, or removes it.
func (l *Log) dropFile(seg *segment) error {
	name := path.Join(l.opts.Dir, seg.name)
	if int64(seg.head.size) == l.prep.size && len(l.prep.spare) == 0 {
		spare := path.Join(l.opts.Dir, fmt.Sprintf("spare-%d%s", seg.head.sequence, tempSuffix))
		if err := l.opts.FS.Publish(name, spare); err != nil {
			return fmt.Errorf("recycle segment: %w", err)
		}
		l.prep.spare <- spare // there is room: only this fills it, one at a time
		return nil
	}
	if err := l.opts.FS.Remove(name); err != nil {
		return fmt.Errorf("remove segment: %w", err)
	}
	return nil
}
