package wal

import (
	"time"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// Step does all the work that a stepped log has: it writes what is queued, calls
// the callbacks, and makes the next segment if there is none. It tells whether
// there was any. After a full disk the making is tried again by a Step a second
// later at the earliest (Pending), of which Notify does not tell.
func (l *Log) Step() (worked bool) {
	invariant.Check(l.opts.Stepped, "step of a log in %s that has goroutines", l.opts.Dir)
	if l.isClosing() {
		return false
	}
	worked = l.serveQueue()
	return l.prep.step() || worked
}

// Pending tells whether Step has work to do.
func (l *Log) Pending() bool {
	if !l.opts.Stepped || l.isClosing() {
		return false
	}
	l.mu.Lock()
	queued := len(l.queue) > 0
	l.mu.Unlock()
	return queued || l.prep.due()
}

func (l *Log) isClosing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing
}

// serveQueue writes what is queued at this moment.
func (l *Log) serveQueue() bool {
	l.mu.Lock()
	reqs := l.queue
	l.queue, l.queued = nil, 0
	l.mu.Unlock()
	if len(reqs) == 0 {
		return false
	}
	l.w.serve(reqs)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = time.Time{}
	if len(l.queue) > 0 {
		l.busy = l.opts.Now()
	}
	return true
}

// endSteps does the last work of a stepped log that is being closed.
func (l *Log) endSteps() {
	if !l.opts.Stepped || l.closed {
		return
	}
	l.serveQueue()
	close(l.finished)
}

// began returns when the writer turned to what it writes now.
func (l *Log) began() time.Time {
	if l.opts.Stepped {
		return l.busy
	}
	return l.opts.Now()
}

func (l *Log) notify() {
	if l.opts.Notify != nil && l.opts.Stepped {
		l.opts.Notify()
	}
}
