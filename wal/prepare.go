package wal

import (
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// prepared is a file of the right size that waits to become a segment.
type prepared struct {
	file vfs.File
	name string // temporary, with its directory
	err  error
}

// preparer makes the next segment file in its own goroutine, so that the writer
// does not wait for 16 MiB of zeros. A full disk shows here first, while the
// active segment and mostly one more still have room.
type preparer struct {
	fsys  vfs.FS
	dir   string
	size  int64
	retry time.Duration     // after a full disk
	fail  func(error) error // hears of final errors

	// ready has no room: a send succeeds only when the writer takes it, so an
	// error is reported exactly when a file is needed.
	ready chan prepared
	// spare takes the name of a segment file of this process and size that is
	// no longer used; never one found on disk, whose format may be another.
	spare chan string
	// wake ends a pause because the writer waits; an old token costs one pause.
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	blocked error // why there is no prepared file; nil while there is none to report
	waiting bool  // a file is there
	wanted  bool  // the writer waits for one
}

func newPreparer(fsys vfs.FS, dir string, size int64, fail func(error) error) *preparer {
	return &preparer{
		fsys: fsys, dir: dir, size: size, retry: time.Second, fail: fail,
		ready: make(chan prepared), spare: make(chan string, 1),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// run works until stop is closed or an error is final.
func (p *preparer) run() {
	defer close(p.done)
	for n := 0; ; n++ {
		next := p.make(n)
		p.note(next)
		var again <-chan time.Time
		var timer *time.Timer
		if errors.Is(next.err, ErrClosed) {
			return
		}
		if isFull(next.err) {
			timer = time.NewTimer(p.retry)
			again = timer.C
		} else if next.err != nil {
			_ = p.fail(next.err)
		}
		select {
		case p.ready <- next:
			p.note(prepared{err: next.err})
		case <-again:
		case <-p.stop:
			if next.err == nil {
				// Open removes what is left here.
				_ = next.file.Close()
				_ = p.fsys.Remove(next.name)
			}
			return
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// isFull tells whether an error goes away when somebody makes room.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (p *preparer) note(next prepared) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked, p.waiting = next.err, next.file != nil
}

// state tells whether a file is ready, and if not for lack of what.
func (p *preparer) state() (ready bool, blocked error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting, p.blocked
}

// make returns a spare file if there is one, else a new one full of zeros.
func (p *preparer) make(n int) prepared {
	select {
	case name := <-p.spare:
		f, err := p.fsys.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return prepared{err: fmt.Errorf("open spare segment: %w", err)}
		}
		return prepared{file: f, name: name}
	default:
	}
	name := path.Join(p.dir, fmt.Sprintf("next-%d%s", n, tempSuffix))
	f, err := createFilled(p.fsys, name, p.size, p.pause)
	if err != nil {
		_ = p.fsys.Remove(name) // give a full disk its room back; Open removes it too
		return prepared{err: err}
	}
	return prepared{file: f, name: name}
}

// maxPause bounds what a stalled disk makes of a pause.
const maxPause = 50 * time.Millisecond

// take waits for a file. Only the writer calls it.
func (p *preparer) take() prepared {
	p.want(true)
	defer p.want(false)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return <-p.ready
}

func (p *preparer) want(wanted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = wanted
}

// pause leaves the disk to the writer for as long as the last piece took, unless
// the writer waits. It returns ErrClosed when the preparer has to end.
func (p *preparer) pause(took time.Duration) error {
	p.mu.Lock()
	wanted := p.wanted
	p.mu.Unlock()
	if wanted {
		return nil
	}
	timer := time.NewTimer(min(took, maxPause))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.wake:
	case <-p.stop:
		return ErrClosed
	}
	return nil
}

// close ends the goroutine and waits for it.
func (p *preparer) close() {
	close(p.stop)
	<-p.done
}
