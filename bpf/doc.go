// Package bpf holds the gate's kernel programs and their generated bindings.
//
// gate.c is the program, maps.h the memory it shares with package netfence,
// uapi.h the kernel definitions it needs. The objects are committed; only a
// change of the C files needs clang (14 or later) and `make generate`. amd64
// and arm64 are both little endian, so one object serves both.
package bpf

//go:generate go tool bpf2go -target bpfel -tags linux -cflags "-O2 -g -Wall -Wextra -Werror -mcpu=v3 -fno-ident" -type gate_value -type conflict -type address -type blocked_addr -type blocked_mac -type event -type reason -type event_kind -type active Gate gate.c
