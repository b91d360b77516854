// Package netfence is the user's side of the kernel gate: it attaches the
// programs of package bpf and writes the memory that they decide by.
//
// A Fence belongs to the guard. It loads or adopts the pinned maps, attaches
// both programs to every interface but loopback, and holds the guard's number;
// it can close the gate and never opens it. A Gate belongs to the worker. It
// is made from files that the guard hands over and moves deadlines forward.
//
// A group's gate is open only while its deadline has not come, its value
// carries the guard's number, and the request behind it was sent after the
// last conflict that the kernel saw (PROTOCOL section 2, the sentences after
// G8). Anything missing or zero is closed. A closed gate drops, on every
// interface, what would let this host answer for a VIP of the group; packets
// to a VIP that another host holds, and its replies, pass.
//
// The order of a guard: Load (which closes whatever it adopts), SetVIPs,
// AttachAll, Watch, then addresses and workers; at the end Detach after the
// last address is gone. Close keeps the gate in place without a process.
//
// Programs return "no opinion" for what they do not drop, so that programs of
// others still run. Holdfast attaches first, and Verify reports a program that
// was put in front later: one that accepts or redirects would bypass the gate.
// XDP programs that redirect, and packet sockets with PACKET_QDISC_BYPASS, run
// outside these hooks and are not covered.
package netfence
