package kv

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits. A request over one of them is refused before it is proposed; a
// decoder checks them before it allocates.
const (
	MaxBucketName    = 63      // bytes
	MaxBuckets       = 256     // that have keys
	MaxKey           = 1 << 10 // bytes
	MaxValue         = 1 << 20 // bytes
	MaxTxnOps        = 128     // of If, of Then and of Else, each
	MaxTxnBytes      = 4 << 20 // of an encoded request, and of the values that its gets return
	MaxRequestID     = 64      // bytes
	MaxBatchRequests = 1024
	// MaxTTL keeps clock + TTL far from overflow.
	MaxTTL = 100 * 365 * 24 * time.Hour
	// DefaultMaxBytes is the quota of a batch that names none.
	DefaultMaxBytes = 512 << 20
)

// Cond is one condition on a key, true when its last change has revision Rev
// (Rev > 0), when it exists (Exists), or when it is absent (neither).
type Cond struct {
	Bucket, Key string
	Rev         uint64
	Exists      bool
}

// OpKind says what an Op does. Numbers are part of the log's format.
type OpKind uint8

// The operations. 0 is invalid.
const (
	OpPut    OpKind = 1
	OpDelete OpKind = 2
	OpGet    OpKind = 3
)

func (k OpKind) String() string {
	switch k {
	case OpPut:
		return "put"
	case OpDelete:
		return "delete"
	case OpGet:
		return "get"
	}
	return fmt.Sprintf("operation %d", uint8(k))
}

// Op is one operation on a key.
type Op struct {
	Kind        OpKind
	Bucket, Key string
	Value       []byte        // of a put; empty is a value too
	TTL         time.Duration // of a put: 0 is none, at most MaxTTL
}

// Request is what one client asks: the operations of Then when all of If hold,
// else those of Else, executed in order as one change with one revision. A get
// sees the operations before it.
type Request struct {
	// ID makes a repeated request happen once: 1 to MaxRequestID printable
	// ASCII bytes without spaces. "" is none.
	ID         string
	If         []Cond
	Then, Else []Op
}

// RequestError tells why a request is refused before it is proposed.
type RequestError struct {
	TooLarge bool // over a limit of size or number
	Message  string
}

func (e *RequestError) Error() string { return e.Message }

func refuse(format string, args ...any) error {
	return &RequestError{Message: fmt.Sprintf(format, args...)}
}

func tooLarge(what string, n, limit int) error {
	return &RequestError{TooLarge: true, Message: fmt.Sprintf("%s: %d, at most %d allowed", what, n, limit)}
}

// Validate checks a request against the limits; its errors are *RequestError.
func (r *Request) Validate() error {
	if len(r.If)+len(r.Then)+len(r.Else) == 0 {
		return refuse("request asks for nothing")
	}
	if err := validID(r.ID); err != nil {
		return err
	}
	if err := validCount(len(r.If), len(r.Then), len(r.Else)); err != nil {
		return err
	}
	for i := range r.If {
		if err := r.If[i].validate(); err != nil {
			return err
		}
	}
	for _, ops := range [2][]Op{r.Then, r.Else} {
		for i := range ops {
			if err := ops[i].validate(); err != nil {
				return err
			}
		}
	}
	if n := r.Size(); n > MaxTxnBytes {
		return tooLarge("bytes of the request", n, MaxTxnBytes)
	}
	return nil
}

func validCount(conds, then, otherwise int) error {
	switch {
	case conds > MaxTxnOps:
		return tooLarge("conditions", conds, MaxTxnOps)
	case then > MaxTxnOps:
		return tooLarge("operations", then, MaxTxnOps)
	case otherwise > MaxTxnOps:
		return tooLarge("operations of else", otherwise, MaxTxnOps)
	}
	return nil
}

func validID(id string) error {
	if len(id) > MaxRequestID {
		return tooLarge("bytes of the request id", len(id), MaxRequestID)
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return refuse("request id: byte %d is not printable ASCII", i)
		}
	}
	return nil
}

func (c *Cond) validate() error {
	if c.Rev > 0 && c.Exists {
		return refuse("condition on key %q asks for a revision and for existence: one of them", c.Key)
	}
	return validName(c.Bucket, c.Key)
}

func (o *Op) validate() error {
	if err := validName(o.Bucket, o.Key); err != nil {
		return err
	}
	switch o.Kind {
	case OpPut:
		if len(o.Value) > MaxValue {
			return tooLarge("bytes of the value", len(o.Value), MaxValue)
		}
		if o.TTL < 0 || o.TTL > MaxTTL {
			return refuse("ttl %v: at least 0 and at most %v", o.TTL, MaxTTL)
		}
	case OpDelete, OpGet:
		if len(o.Value) > 0 || o.TTL != 0 {
			return refuse("a %v takes neither value nor ttl", o.Kind)
		}
	default:
		return refuse("unknown %v", o.Kind)
	}
	return nil
}

func validName(bucket, key string) error {
	if err := ValidBucket(bucket); err != nil {
		return err
	}
	return ValidKey(key)
}

// ValidBucket checks the name of a bucket: [a-z0-9][a-z0-9._-]*, at most
// MaxBucketName bytes. Its errors are *RequestError.
func ValidBucket(name string) error {
	if len(name) > MaxBucketName {
		return tooLarge("bytes of the bucket's name", len(name), MaxBucketName)
	}
	if name == "" {
		return refuse("bucket has no name")
	}
	for i := range len(name) {
		c := name[i]
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || i > 0 && (c == '.' || c == '_' || c == '-') {
			continue
		}
		return refuse("bucket %q: a name is [a-z0-9][a-z0-9._-]*", name)
	}
	return nil
}

// ValidKey checks a key: 1 to MaxKey bytes of UTF-8 without NUL. Its errors
// are *RequestError.
func ValidKey(key string) error {
	if key == "" {
		return refuse("key is empty")
	}
	if len(key) > MaxKey {
		return tooLarge("bytes of the key", len(key), MaxKey)
	}
	if strings.IndexByte(key, 0) >= 0 || !utf8.ValidString(key) {
		return refuse("key %q: not UTF-8 without NUL", key)
	}
	return nil
}
