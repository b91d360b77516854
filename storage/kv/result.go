package kv

import "fmt"

// Code is the outcome of a request. Numbers are part of the snapshot's format.
type Code uint8

// The outcomes. 0 is invalid. All but OK and NotMet mean that nothing changed.
const (
	OK             Code = 1
	NotMet         Code = 2 // a condition did not hold, Else was executed
	Quota          Code = 3 // the state would be larger than Batch.MaxBytes
	IDReused       Code = 4 // the id belongs to a request with other content
	TooManyBuckets Code = 5
	TooLarge       Code = 6 // the gets would return more than MaxTxnBytes
)

func (c Code) String() string {
	switch c {
	case OK:
		return "ok"
	case NotMet:
		return "condition not met"
	case Quota:
		return "quota exceeded"
	case IDReused:
		return "request id reused"
	case TooManyBuckets:
		return "too many buckets"
	case TooLarge:
		return "answer too large"
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// OpResult is the answer to one operation that was executed.
//
//	put     Found: the key was there before; Rev: of this change
//	delete  Found: the key was there; Rev: of this change, 0 unless Found
//	get     Found, Rev of the key's last change, Value
type OpResult struct {
	Found bool
	Rev   uint64
	Value []byte // must not be changed
}

// Result is the answer to a request.
type Result struct {
	Code     Code
	Rev      uint64     // revision of the store after the request
	Conflict uint64     // NotMet: revision of the key of the first condition that failed, 0 when absent
	Ops      []OpResult // of Then (OK) or Else (NotMet), else empty
	// Replayed: the id is known, this is the first outcome again, but for the
	// values of gets, which are not kept.
	Replayed bool
}
