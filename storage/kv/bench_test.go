package kv

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

const (
	benchKeys  = 1_000_000
	benchValue = 256
)

func benchKey(i int) string { return fmt.Sprintf("session/%012d", i) }

func benchBatch(n int, key func(i int) string, value []byte, ids bool, ttl time.Duration) *Batch {
	b := &Batch{Clock: 1}
	for i := range n {
		r := Request{Then: []Op{{Kind: OpPut, Bucket: "sessions", Key: key(i), Value: value, TTL: ttl}}}
		if ids {
			r.ID = fmt.Sprintf("%032x", rand.Uint64())
		}
		b.Requests = append(b.Requests, r)
	}
	return b
}

// filled returns a store with n keys of 256 bytes, put in random order.
func filled(tb testing.TB, n int) *Store {
	tb.Helper()
	s := New()
	order := rand.New(rand.NewPCG(1, 2)).Perm(n)
	value := make([]byte, benchValue)
	for len(order) > 0 {
		k := min(len(order), MaxBatchRequests)
		s.Apply(benchBatch(k, func(i int) string { return benchKey(order[i]) }, value, false, 0))
		order = order[k:]
	}
	if s.View().Keys() != n {
		tb.Fatalf("%d keys, want %d", s.View().Keys(), n)
	}
	return s
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// One put at 1 M keys, a view taken after each batch, as the node does.
func BenchmarkApply(b *testing.B) {
	s := filled(b, benchKeys)
	value := bytes.Repeat([]byte("x"), benchValue)
	for _, size := range []int{1, 16, 256} {
		for _, ids := range []bool{false, true} {
			b.Run(fmt.Sprintf("batch=%d/ids=%v", size, ids), func(b *testing.B) {
				var entries [][]byte
				for range 4096 / size {
					entries = append(entries, benchBatch(size, func(int) string { return benchKey(rand.IntN(benchKeys)) }, value, ids, 0).Encode())
				}
				clock := s.Clock()
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; i += size {
					batch, err := DecodeBatch(entries[i/size%len(entries)])
					if err != nil {
						b.Fatal(err)
					}
					clock += int64(IDLifetime) // so that no id is known
					batch.Clock = clock
					s.Apply(batch)
					s.View()
				}
			})
		}
	}
}

func BenchmarkApplyTTL(b *testing.B) {
	s := New()
	for i := 0; i < benchKeys; i += MaxBatchRequests {
		s.Apply(benchBatch(MaxBatchRequests, func(j int) string { return benchKey(i + j) }, make([]byte, benchValue), false, time.Hour))
	}
	batch := benchBatch(64, func(int) string { return benchKey(rand.IntN(benchKeys)) }, make([]byte, benchValue), false, time.Hour)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += 64 {
		batch.Clock++
		s.Apply(batch)
		s.View()
	}
}

func BenchmarkEncode(b *testing.B) {
	v := filled(b, benchKeys).View()
	b.SetBytes(v.Bytes())
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Encode(discard{}); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkDecode(b *testing.B) {
	var buf bytes.Buffer
	v := filled(b, benchKeys).View()
	if err := v.Encode(&buf); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(v.Bytes())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(bytes.NewReader(buf.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	s := filled(b, 1000)
	for b.Loop() {
		s.advance(s.clock + 1)
		s.Hash()
	}
}

func BenchmarkDecodeBatch(b *testing.B) {
	entry := benchBatch(64, benchKey, make([]byte, benchValue), true, 0).Encode()
	b.ReportAllocs()
	for i := 0; i < b.N; i += 64 {
		if _, err := DecodeBatch(entry); err != nil {
			b.Fatal(err)
		}
	}
}

// Live heap for each byte of keys and values.
func BenchmarkMemory(b *testing.B) {
	for _, how := range []string{"random", "ascending", "decoded"} {
		b.Run(how, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				var s *Store
				switch how {
				case "random":
					s = filled(b, benchKeys)
				case "ascending":
					s = New()
					for i := 0; i < benchKeys; i += 1000 {
						s.Apply(benchBatch(1000, func(j int) string { return benchKey(i + j) }, make([]byte, benchValue), false, 0))
					}
				case "decoded":
					var buf bytes.Buffer
					if err := filled(b, benchKeys).View().Encode(&buf); err != nil {
						b.Fatal(err)
					}
					var err error
					if s, err = Decode(&buf); err != nil {
						b.Fatal(err)
					}
					buf = bytes.Buffer{}
				}
				live := float64(s.keys * (len(benchKey(0)) + benchValue))
				b.ReportMetric(float64(heap()-before)/live, "heap/live")
				runtime.KeepAlive(s)
			}
		})
	}
}

func BenchmarkExpire(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := New()
		for i := 0; i < 100_000; i += 1000 {
			s.Apply(benchBatch(1000, func(j int) string { return benchKey((i + j) * 7919 % 100_003) }, make([]byte, benchValue), false, time.Duration(i+1)))
		}
		s.View()
		b.StartTimer()
		if s.Expire(1<<62) != MaxExpire {
			b.Fatal("not the most keys")
		}
	}
}
