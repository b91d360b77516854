// Package e2e has the tests of the whole product: real clusters in network
// namespaces of this machine, broken on purpose and watched from outside.
//
// Every test says which requirements it covers (`// Covers C5, S6, A2`). What
// is asserted is what people and their scripts can see: who answers for the
// floating address, what status and the command line say, and the logs. Bounds
// on times are wide, because other work may share the machine: they tell
// seconds from milliseconds. That never two hosts answer is exact.
package e2e
