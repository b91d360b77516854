package node

import (
	"log/slog"
	"sync"
	"time"
)

// limitedLogger says each thing at most once a minute, however often it
// happens: what others send must not fill a disk.
type limitedLogger struct {
	log  *slog.Logger
	mu   sync.Mutex
	last map[string]time.Time
	kept map[string]int
}

const (
	limitEvery = time.Minute
	maxLimited = 256
)

func newLimitedLogger(log *slog.Logger) *limitedLogger {
	return &limitedLogger{log: log, last: map[string]time.Time{}, kept: map[string]int{}}
}

// Warn logs msg unless it was logged within the last minute, then with the
// number of times that it was not.
func (l *limitedLogger) Warn(msg string, args ...any) {
	l.mu.Lock()
	if time.Since(l.last[msg]) < limitEvery {
		l.kept[msg]++
		l.mu.Unlock()
		return
	}
	if len(l.last) >= maxLimited {
		clear(l.last)
	}
	kept := l.kept[msg]
	delete(l.kept, msg)
	l.last[msg] = time.Now()
	l.mu.Unlock()
	if kept > 0 {
		args = append(args, "not_logged", kept)
	}
	l.log.Warn(msg, args...)
}
