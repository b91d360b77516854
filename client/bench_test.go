package client_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/control/controltest"
)

// BenchmarkPut is client and server in one process over a socket, 64 writers,
// 256 bytes.
func BenchmarkPut(b *testing.B) {
	c := start(b, controltest.New())
	value := make([]byte, 256)
	var serial atomic.Uint64
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := c.Put(b.Context(), "sessions", fmt.Sprint(serial.Add(1)%100000), value); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
