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
	retry time.Duration // after a full disk
	now   func() time.Time
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

	// Of a stepped log, in place of ready: the file or the error that waits, and
	// when to try again after a full disk.
	stepped bool
	held    prepared
	again   time.Time

	// Of the one that makes files.
	made  int       // count, for their names
	began time.Time // when the piece being written was begun

	mu      sync.Mutex
	blocked error // why there is no prepared file; nil while there is none to report
	waiting bool  // a file is there
	wanted  bool  // the writer waits for one
}

func newPreparer(fsys vfs.FS, dir string, size int64, fail func(error) error) *preparer {
	return &preparer{
		fsys: fsys, dir: dir, size: size, retry: time.Second, now: time.Now, fail: fail,
		ready: make(chan prepared), spare: make(chan string, 1),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// run works until stop is closed or an error is final.
func (p *preparer) run() {
	defer close(p.done)
	for {
		next := p.attempt()
		var again <-chan time.Time
		var timer *time.Timer
		if errors.Is(next.err, ErrClosed) {
			return
		}
		if isFull(next.err) {
			timer = time.NewTimer(p.retry)
			again = timer.C
		}
		select {
		case p.ready <- next:
			p.note(prepared{err: next.err})
		case <-again:
		case <-p.stop:
			p.discard(next)
			return
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// attempt makes a file and says how it went.
func (p *preparer) attempt() prepared {
	next := p.make()
	p.note(next)
	if next.err != nil && !isFull(next.err) && !errors.Is(next.err, ErrClosed) {
		_ = p.fail(next.err)
	}
	return next
}

// discard removes a file that nobody took. Open removes what is left here.
func (p *preparer) discard(next prepared) {
	if next.file != nil {
		_ = next.file.Close()
		_ = p.fsys.Remove(next.name)
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
func (p *preparer) make() prepared {
	select {
	case name := <-p.spare:
		f, err := p.fsys.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return prepared{err: fmt.Errorf("open spare segment: %w", err)}
		}
		return prepared{file: f, name: name}
	default:
	}
	name := path.Join(p.dir, fmt.Sprintf("next-%d%s", p.made, tempSuffix))
	p.made++
	p.began = p.now()
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
	if p.stepped {
		p.step()
		next := p.held
		p.held = prepared{err: next.err}
		p.note(p.held)
		return next
	}
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

// due tells whether step has a file to make.
func (p *preparer) due() bool {
	if p.held.err != nil {
		return isFull(p.held.err) && !p.now().Before(p.again)
	}
	return p.held.file == nil
}

// step makes a file if one is due. It stands in for run in a stepped log.
func (p *preparer) step() (worked bool) {
	if !p.due() {
		return false
	}
	p.held = p.attempt()
	p.again = p.now().Add(p.retry)
	return true
}

// pause leaves the disk to the writer for as long as the last piece took, unless
// the writer waits. It returns ErrClosed when the preparer has to end.
func (p *preparer) pause() error {
	if p.stepped {
		return nil
	}
	took := p.now().Sub(p.began)
	defer func() { p.began = p.now() }()
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
	if p.stepped {
		p.discard(p.held)
		return
	}
	close(p.stop)
	<-p.done
}
