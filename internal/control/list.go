package control

import (
	"net/http"
	"strconv"
	"time"

	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Limits of a list.
const (
	listDefault  = 1000
	listMax      = 10000
	listBytesMax = 1 << 20 // of keys; a page ends early over it
)

// keyInfo is a key in a list.
type keyInfo struct {
	Key     string     `json:"key"`
	Rev     uint64     `json:"rev"`
	Size    int        `json:"size"`
	Expires *time.Time `json:"expires"`
}

// keyPage is the answer to a list. Rev is the revision of the store that it
// was read at: a watch from Rev+1 misses nothing. Clock is the committed clock
// there, which Expires is measured by.
type keyPage struct {
	Keys  []keyInfo `json:"keys"`
	Next  string    `json:"next"`
	Rev   uint64    `json:"rev"`
	Clock time.Time `json:"clock"`
}

func (a *api) list(w http.ResponseWriter, r *http.Request, bucket string) {
	var prefix, after, most string
	v, err := a.view(r, map[string]*string{"prefix": &prefix, "after": &after, "limit": &most})
	limit := listDefault
	if err == nil && most != "" {
		n, e := strconv.Atoi(most)
		if e != nil || n < 1 || n > listMax {
			err = invalid("limit=1 to 10000", "limit %q is not a number from 1 to %d", most, listMax)
		}
		limit = n
	}
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	items, next := v.List(bucket, prefix, after, limit)
	reply(w, http.StatusOK, pageOf(v, items, next))
}

func pageOf(v *kv.View, items []kv.Item, next string) keyPage {
	p := keyPage{Keys: make([]keyInfo, 0, len(items)), Next: next, Rev: v.Rev(), Clock: clockTime(v.Clock())}
	bytes := 0
	for i, item := range items {
		k := keyInfo{Key: item.Key, Rev: item.Rev, Size: len(item.Value)}
		if item.Expires != 0 {
			at := clockTime(item.Expires)
			k.Expires = &at
		}
		p.Keys = append(p.Keys, k)
		if bytes += len(item.Key); bytes > listBytesMax && i+1 < len(items) {
			p.Next = item.Key
			break
		}
	}
	return p
}
