package node

import "errors"

var (
	errGuardGone    = errors.New("guard gone")
	errDeclaredOver = errors.New("this incarnation was declared over: another process speaks for this node")
	errRolledBack   = errors.New("state rolled back")
	errCannotHold   = errors.New("the group cannot be held here")
	// errNoInterfaceListed: an address that the cluster has committed is not
	// in this node's file.
	errNoInterfaceListed = errors.New("this node's file names no interface for the address")
)
