// Package sim is a simulator of whole clusters: the product's own workers (lease,
// placement, elections, log, state machine) on simulated clocks, networks,
// disks, kernels and guards, carried by one goroutine. One seed is the life of
// one cluster: the same seed gives the same life to the nanosecond.
//
// Times are true times in nanoseconds from the beginning of a run unless they
// are called local: a local time is the boot clock of one host, which runs
// faster or slower than the true one and stands still while its virtual machine
// is frozen. What the promises of the product are worth is checked on true
// time, at every event (see check.go); what happens to the cluster is in a plan
// that is drawn from the seed beforehand (plan.go), so that a failing run can
// be cut down to the faults that it needs (shrink.go).
package sim
