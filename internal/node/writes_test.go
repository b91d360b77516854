package node

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// writtenFrame is what a leader answers to three writes of a member.
func writtenFrame(t testing.TB) []byte {
	t.Helper()
	w := &worker{replies: map[string][]byte{}}
	w.replyWrite("gw2", 7, kv.Result{Code: kv.OK, Rev: 9, Ops: []kv.OpResult{{Found: true, Rev: 9}}}, nil)
	w.replyWrite("gw2", 8, kv.Result{}, errDiskFull)
	w.replyWrite("gw2", 9, kv.Result{Code: kv.NotMet, Conflict: 4}, nil)
	return w.replies["gw2"]
}

func TestAnswersToForwardedWrites(t *testing.T) {
	frame := writtenFrame(t)
	want := []struct {
		id   uint64
		code kv.Code
		err  control.Code
	}{{7, kv.OK, ""}, {8, 0, control.DiskFull}, {9, kv.NotMet, ""}}
	for _, c := range want {
		id, res, failure, rest, err := decodeWritten(frame)
		if err != nil {
			t.Fatal(err)
		}
		if id != c.id || res.Code != c.code || (failure == nil) != (c.err == "") || failure != nil && failure.Code != c.err {
			t.Fatalf("answer %d: %+v %+v, want %+v", id, res, failure, c)
		}
		frame = rest
	}
	if len(frame) != 0 {
		t.Fatalf("%d bytes left over", len(frame))
	}
}

func FuzzAnswersToForwardedWrites(f *testing.F) {
	f.Add(writtenFrame(f))                                    // three answers
	f.Add([]byte{})                                           // nothing
	f.Add(append(make([]byte, 8), 1, 0xff, 0xff, 0xff, 0xff)) // an error longer than the frame
	f.Fuzz(func(t *testing.T, frame []byte) {
		for len(frame) > 0 {
			_, res, failure, rest, err := decodeWritten(frame)
			if err != nil {
				return
			}
			if len(rest) >= len(frame) {
				t.Fatal("an answer of no bytes")
			}
			if failure == nil {
				again := kv.AppendResult(nil, &res)
				if used := frame[9 : len(frame)-len(rest)]; !bytes.Equal(again, used) {
					t.Fatalf("two encodings of one answer: %x and %x", used, again)
				}
			} else if _, err := json.Marshal(failure); err != nil {
				t.Fatal(err)
			}
			frame = rest
		}
	})
}
