package kv

import (
	"errors"
	"io"
)

type Store struct{ clock int64 }

func New() *Store                                      { return &Store{} }
func (s *Store) Apply(b *Batch) []Result               { return make([]Result, len(b.Requests)) }
func (s *Store) Clock() int64                          { return s.clock }
func (s *Store) Expirable(clock int64, limit int) bool { return false }
func (s *Store) Expire(clock int64) int                { return 0 }
func (s *Store) Hash() [32]byte                        { return [32]byte{} }
func (s *Store) View() *View                           { return &View{} }
func (s *Store) Recount() error                        { return nil }
func Decode(r io.Reader) (*Store, error)               { return New(), nil }

// Item is a key as a View has it.
type Item struct {
	Key         string
	Value       []byte // must not be changed
	Create, Rev uint64 // revisions of its creation and of its last change
	Expires     int64  // on the committed clock in ns, 0 for never
}

// BucketStat tells the size of a bucket.
type BucketStat struct {
	Name  string
	Keys  int
	Bytes int64
}

// EventType says what happened to a key.
type EventType uint8

const (
	EventPut    EventType = 1
	EventDelete EventType = 2
	EventExpire EventType = 3
)

func (t EventType) String() string { return "put" }

// Event is a change of one key.
type Event struct {
	Rev         uint64
	Type        EventType
	Bucket, Key string
	Value       []byte // of a put; must not be changed
	Create      uint64
	Expires     int64
}

// ErrCompacted: the history begins later than asked.
var ErrCompacted = errors.New("compacted")

// CompactedError wraps ErrCompacted.
type CompactedError struct {
	From, Oldest uint64
}

func (e *CompactedError) Error() string { return "compacted" }
func (e *CompactedError) Unwrap() error { return ErrCompacted }

type View struct{}

func (v *View) Rev() uint64           { return 0 }
func (v *View) Clock() int64          { return 0 }
func (v *View) Bytes() int64          { return 0 }
func (v *View) Keys() int             { return 0 }
func (v *View) Buckets() []BucketStat { return nil }
func (v *View) Get(bucket, key string) (Item, bool) {
	return Item{}, false
}
func (v *View) List(bucket, prefix, after string, limit int) (items []Item, next string) {
	return nil, ""
}
func (v *View) Events(bucket, prefix string, from uint64, limit int) (ev []Event, next uint64, err error) {
	return nil, 0, nil
}
func (v *View) Oldest() uint64           { return 0 }
func (v *View) Hash() [32]byte           { return [32]byte{} }
func (v *View) Encode(w io.Writer) error { return nil }
