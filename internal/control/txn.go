package control

import (
	"bytes"
	"encoding/json"

	"net/http"
	"strconv"

	"github.com/holdfast-ha/holdfast/storage/kv"
)

// txnPath is the path of transactions.
const txnPath = "/v1/txn"

// txnBytesMax bounds the body of a transaction: its values are in base64.
const txnBytesMax = 8 << 20

// txnCond is a condition: one of the three.
type txnCond struct {
	Bucket string  `json:"bucket"`
	Key    string  `json:"key"`
	Rev    *uint64 `json:"rev"` // 0 is absent
	Exists bool    `json:"exists"`
	Absent bool    `json:"absent"`
}

// txnOp is an operation.
type txnOp struct {
	Op     string  `json:"op"`
	Bucket string  `json:"bucket"`
	Key    string  `json:"key"`
	Value  []byte  `json:"value"` // base64
	Text   *string `json:"text"`  // or as it is
	TTL    string  `json:"ttl"`
}

type txnRequest struct {
	If   capped[txnCond] `json:"if"`
	Then capped[txnOp]   `json:"then"`
	Else capped[txnOp]   `json:"else"`
}

// capped is a list of at most kv.MaxTxnOps elements: a longer one is refused
// before it takes memory.
type capped[T any] []T

// UnmarshalJSON reads the list, strictly as decode does.
func (c *capped[T]) UnmarshalJSON(text []byte) error {
	*c = nil
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	switch t, err := d.Token(); {
	case err != nil:
		return err
	case t == nil: // null
		return nil
	case t != json.Delim('['):
		return invalid("a list: [ ... ]", "body: if, then and else are lists")
	}
	for d.More() {
		if len(*c) == kv.MaxTxnOps {
			return &Error{Code: TooLarge, Message: "body: a list has more than " + strconv.Itoa(kv.MaxTxnOps) + " elements", Hint: "docs/api.md names the limits"}
		}
		*c = append(*c, *new(T))
		if err := d.Decode(&(*c)[len(*c)-1]); err != nil {
			return err
		}
	}
	return nil
}

// txnResult is what one operation did. Found tells whether the key was there:
// before a put or a delete.
type txnResult struct {
	Op    string  `json:"op"`
	Found bool    `json:"found"`
	Rev   uint64  `json:"rev,omitempty"`
	Value *[]byte `json:"value,omitempty"` // of a get that found it
}

type txnAnswer struct {
	Succeeded bool        `json:"succeeded"`
	Rev       uint64      `json:"rev"`
	Conflict  *uint64     `json:"conflict,omitempty"` // revision of the key whose condition failed first, 0 absent
	Replayed  bool        `json:"replayed,omitempty"` // values of gets are missing
	Results   []txnResult `json:"results"`
}

func (a *api) txn(w http.ResponseWriter, r *http.Request) {
	if !onlyMethods(w, r, http.MethodPost) {
		return
	}
	req, err := a.readTxn(r)
	var res kv.Result
	if err == nil {
		res, err = a.update(r.Context(), &req)
	}
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	ops := req.Then
	out := txnAnswer{Succeeded: res.Code == kv.OK, Rev: res.Rev, Replayed: res.Replayed, Results: make([]txnResult, 0, len(res.Ops))}
	if res.Code == kv.NotMet {
		ops = req.Else
		out.Conflict = &res.Conflict
	}
	for i := range min(len(res.Ops), len(ops)) {
		did := txnResult{Op: ops[i].Kind.String(), Found: res.Ops[i].Found, Rev: res.Ops[i].Rev}
		if ops[i].Kind == kv.OpGet && did.Found && !res.Replayed {
			value := res.Ops[i].Value
			if value == nil {
				value = []byte{}
			}
			did.Value = &value
		}
		out.Results = append(out.Results, did)
	}
	reply(w, http.StatusOK, out)
}

func (a *api) readTxn(r *http.Request) (kv.Request, error) {
	var req kv.Request
	if err := noQuery(r); err != nil {
		return req, err
	}
	id, err := one(r.Header, headerRequestID)
	if err != nil {
		return req, err
	}
	text, err := readBody(r, txnBytesMax)
	if err != nil {
		return req, err
	}
	var in txnRequest
	if err := decode(bytes.NewReader(text), &in); err != nil {
		return req, err
	}
	req.ID = id
	for i := range in.If {
		c, err := in.If[i].cond()
		if err == nil {
			err = a.known(c.Bucket)
		}
		if err != nil {
			return req, at("if", i, err)
		}
		req.If = append(req.If, c)
	}
	if req.Then, err = a.ops("then", in.Then); err == nil {
		req.Else, err = a.ops("else", in.Else)
	}
	return req, err
}

// at says which element of a transaction an error is about.
func at(list string, i int, err error) *Error {
	e := *asError(err)
	e.Message = list + "[" + strconv.Itoa(i) + "]: " + e.Message
	return &e
}

func (c *txnCond) cond() (kv.Cond, error) {
	n := 0
	for _, given := range []bool{c.Rev != nil, c.Exists, c.Absent} {
		if given {
			n++
		}
	}
	if n != 1 {
		return kv.Cond{}, invalid(`"rev":N, "exists":true or "absent":true`, "a condition needs one of rev, exists and absent")
	}
	out := kv.Cond{Bucket: c.Bucket, Key: c.Key, Exists: c.Exists}
	if c.Rev != nil {
		out.Rev = *c.Rev
	}
	return out, nil
}

func (a *api) ops(list string, in []txnOp) ([]kv.Op, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]kv.Op, 0, len(in))
	for i := range in {
		op, err := in[i].op()
		if err == nil {
			err = a.known(op.Bucket)
		}
		if err != nil {
			return nil, at(list, i, err)
		}
		out = append(out, op)
	}
	return out, nil
}

func (o *txnOp) op() (kv.Op, error) {
	out := kv.Op{Bucket: o.Bucket, Key: o.Key, Value: o.Value}
	switch o.Op {
	case "put":
		out.Kind = kv.OpPut
		switch {
		case o.Text != nil && o.Value != nil:
			return out, invalid("value in base64, or text", "both value and text")
		case o.Text != nil:
			out.Value = []byte(*o.Text)
		case o.Value == nil:
			return out, invalid(`"value" in base64, or "text"; for an empty one "text":""`, "a put without value")
		}
		var err error
		out.TTL, err = ttl(o.TTL)
		return out, err
	case "delete":
		out.Kind = kv.OpDelete
	case "get":
		out.Kind = kv.OpGet
	default:
		return out, invalid("put, delete or get", "operation %q is unknown", o.Op)
	}
	if o.Value != nil || o.Text != nil || o.TTL != "" {
		return out, invalid("leave them out", "a %s has neither value nor ttl", o.Op)
	}
	return out, nil
}
