// Package vip puts floating addresses on interfaces, takes them off, and tells
// the neighbours where they are.
//
// A Manager works in one network namespace, that of the goroutine which made
// it, through netlink and packet sockets. It decides nothing: who may hold an
// address, and whether the kernel lets its traffic pass, is settled elsewhere.
// Schedule says when to announce and is pure; Announce sends one round.
//
// What the package does not promise: that a neighbour heard. Announcements are
// not acknowledged, a full transmit queue or a dead carrier loses them without
// an error, so Schedule repeats them.
package vip
