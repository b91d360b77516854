// Package client speaks to a Holdfast daemon on this host: buckets of keys
// that outlive the loss of any one node.
//
//	c := client.New("/run/holdfast/control.sock")
//	defer c.Close()
//	rev, err := c.Put(ctx, "sessions", "alice", []byte("..."), client.TTL(30*time.Minute))
//	item, err := c.Get(ctx, "sessions", "alice")
//	rev, err = c.Put(ctx, "sessions", "alice", next, client.IfRev(item.Rev))
//
// Any member takes any request. A write is answered when a majority of the
// members has it on disk; reads see all that was answered before, unless they
// ask for Local.
//
// Calls last until they succeed, fail for good or ctx ends: no quorum, a
// failover, a restart of the daemon are tried again, so give ctx a limit.
// Every write has a request id, kept over its tries, so that it happens once
// however often it is sent; the cluster remembers ids for ten minutes. When a
// write ends with an Error of code Timeout, it is unknown whether it happened,
// or will.
package client
