// Package kvload drives the buckets of a cluster from many clients at once,
// writes down what each was told and when, and judges the history afterwards.
//
// It knows the control socket's HTTP and nothing of the product's packages, so
// that a fault of these cannot hide in it.
//
// # What is judged
//
// Check looks at a history of gets, puts, compare-and-sets, creates, deletes
// and transactions on few keys. It must be linearizable key by key (porcupine,
// revisions included), the revisions of all writes must agree with real time
// across keys, and every reading of all accounts in one transaction must find
// the sum that there was at first.
//
// A Ledger writes many keys once each and remembers which were acknowledged,
// which were refused and of which nobody knows. What was acknowledged must be
// on every member at the end, what was refused on none.
//
// # What an answer means
//
// An error code but timeout says that the request was not and will not be
// executed, and so does a socket that cannot be reached. Timeout and a
// connection that broke say nothing: the request counts as unknown, and may
// take effect at any later time.
package kvload
