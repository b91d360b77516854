package e2e

import (
	"net/netip"
	"syscall"
)

const hangup = syscall.SIGHUP

func netipAddr(s string) netip.Addr { return netip.MustParseAddr(s) }
