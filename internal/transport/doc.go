// Package transport carries everything that members say to each other.
//
// Each pair of members shares two TLS 1.3 connections, control (raft and small
// requests) and bulk (snapshots, backups), both dialled by the member with the
// lower name. Both sides prove an Ed25519 key that the member list pins, as
// WireGuard does: no authority, no names, no resumption, no fallback, and
// nothing of ours is parsed before that proof.
//
// Beats are UDP datagrams on the same port, sealed with AES-256-GCM under keys
// exported from the control connection's TLS session, sent on every path at
// once. A session of beat keys outlives its connection: it ends only when a
// newer one is in use, so a reset TCP connection costs no lease.
//
// Release notes (PROTOCOL.md G5) travel beside that as raw signed datagrams of
// one fixed size, because the guard that sends them has no session.
//
// # Frames on a connection
//
//	 0       4      5
//	+-------+------+-- ... --+
//	|length | kind | payload |   length u32 big endian, payload bytes only
//	+-------+------+-- ... --+   kinds 1..239 belong to callers
//
// The first frame of the dialer is its hello and names the channel; the other
// side answers with its hello or a refusal, and the dialer ends with ready or
// a refusal. Until then a frame is at most 4 KiB, afterwards 6 MiB on control
// and 4 MiB on bulk.
//
// # Beat datagrams
//
//	 0      3         4          12         20
//	+------+---------+----------+----------+-- ... --+-----+
//	|"HFB" | version | session  | counter  | sealed  | tag |
//	+------+---------+----------+----------+-- ... --+-----+
//
// The nonce is the counter, which starts at 0 in each session and direction;
// the additional data is the header and both names. A receiver checks the tag
// first and the RFC 6479 window second.
package transport
