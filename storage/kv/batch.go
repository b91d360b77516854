package kv

// Batch is the payload of one log entry.
type Batch struct {
	// Clock is the proposer's committed clock in ns, at least 0.
	Clock int64
	// MaxBytes is the quota: the sum over all keys of len(key) + len(value) +
	// 64. 0 means DefaultMaxBytes.
	MaxBytes int64
	// Requests, at most MaxBatchRequests, are executed in order.
	Requests []Request
}
