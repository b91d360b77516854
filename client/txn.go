package client

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Txn is a transaction: the operations of Then when all conditions of If hold,
// else those of Else, in order, as one change with one revision. At most 128
// of each, 4 MiB in all.
type Txn struct {
	If   []Cond
	Then []Op
	Else []Op
}

// Cond is a condition on a key; RevIs, Exists and Absent make one.
type Cond struct {
	Bucket string `json:"bucket"`
	Key    string `json:"key"`
	Rev    uint64 `json:"rev,omitempty"`
	Exists bool   `json:"exists,omitempty"`
	Absent bool   `json:"absent,omitempty"`
}

// RevIs holds when the key has this revision; 0 is Absent.
func RevIs(bucket, key string, rev uint64) Cond {
	return Cond{Bucket: bucket, Key: key, Rev: rev, Absent: rev == 0}
}

// Exists holds when the key is there.
func Exists(bucket, key string) Cond { return Cond{Bucket: bucket, Key: key, Exists: true} }

// Absent holds when the key is not there.
func Absent(bucket, key string) Cond { return Cond{Bucket: bucket, Key: key, Absent: true} }

// Op is an operation; PutOp, DeleteOp and GetOp make one.
type Op struct {
	Op          string // put, delete or get
	Bucket, Key string
	Value       []byte        // of a put
	TTL         time.Duration // of a put, 0 is none
}

// MarshalJSON writes the operation as the daemon reads it.
func (o Op) MarshalJSON() ([]byte, error) {
	out := struct {
		Op     string  `json:"op"`
		Bucket string  `json:"bucket"`
		Key    string  `json:"key"`
		Value  *[]byte `json:"value,omitempty"`
		TTL    string  `json:"ttl,omitempty"`
	}{Op: o.Op, Bucket: o.Bucket, Key: o.Key}
	if o.Op == "put" {
		value := o.Value
		if value == nil {
			value = []byte{}
		}
		out.Value = &value
	}
	if o.TTL != 0 {
		out.TTL = o.TTL.String()
	}
	return json.Marshal(out)
}

// PutOp sets a key.
func PutOp(bucket, key string, value []byte) Op {
	return Op{Op: "put", Bucket: bucket, Key: key, Value: value}
}

// DeleteOp removes a key. One that is not there is no error.
func DeleteOp(bucket, key string) Op { return Op{Op: "delete", Bucket: bucket, Key: key} }

// GetOp reads a key, as the operations before it have left it.
func GetOp(bucket, key string) Op { return Op{Op: "get", Bucket: bucket, Key: key} }

// OpResult is what an operation did.
type OpResult struct {
	Op    string `json:"op"`
	Found bool   `json:"found"` // the key was there: before a put or a delete
	Rev   uint64 `json:"rev"`   // of the change, or of the key that was read; 0 when nothing was there
	Value []byte `json:"value"` // of a get
}

// TxnResult is the answer to a transaction.
type TxnResult struct {
	Succeeded bool   `json:"succeeded"` // Then was executed, not Else
	Rev       uint64 `json:"rev"`       // of the store after it
	// Conflict, when not Succeeded, is the revision of the key whose condition
	// was the first that did not hold, 0 when it was not there.
	Conflict uint64     `json:"conflict"`
	Results  []OpResult `json:"results"` // of what was executed
	// Replayed: an earlier try had happened; this is its outcome, but without
	// what gets have read.
	Replayed bool `json:"replayed"`
}

// Txn executes a transaction. Conditions that do not hold are no error. Of the
// options only RequestID makes sense here.
func (c *Client) Txn(ctx context.Context, t Txn, options ...WriteOption) (TxnResult, error) {
	body, err := json.Marshal(struct {
		If   []Cond `json:"if,omitempty"`
		Then []Op   `json:"then,omitempty"`
		Else []Op   `json:"else,omitempty"`
	}{t.If, t.Then, t.Else})
	if err != nil {
		return TxnResult{}, &Error{Code: Invalid, Message: fmt.Sprintf("encode transaction: %v", err)}
	}
	a, err := c.write(ctx, &request{method: "POST", path: "/v1/txn", headers: nil, body: body}, options)
	if err != nil {
		return TxnResult{}, err
	}
	var out TxnResult
	if err := json.Unmarshal(a.body, &out); err != nil {
		return TxnResult{}, odd("answer: %v", err)
	}
	return out, nil
}
