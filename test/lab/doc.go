// Package lab builds small networks of namespaces on this machine, runs
// Holdfast clusters in them, breaks them on purpose and measures from outside
// what a client of the floating address sees.
//
// It is a library: the end-to-end tests, `make demo`, `make bench` and the
// chaos runs are programs on top of it. It imports no package of the product
// but the boot clock, and reads only what a user can read (the control socket,
// the command line), so that a fault of the product cannot hide in it.
//
// # Network
//
// One namespace, "lan", holds the bridge. Every other namespace is a node
// (gateways gw1, gw2 …, witnesses w1 …, clients c1 …) and hangs on the bridge
// by a veth pair: eth0 inside the node, a port named after the node in the lan
// namespace. Member i has 10.77.0.i and fd77::i, client j has 10.77.0.(200+j)
// and fd77::(200+j). Options add a second cable between the gateways (peer0,
// 10.78.0.0/24, a bridge of its own) and a second interface of a gateway on
// the same LAN (eth1). No frame leaves the namespaces of a lab.
//
// # Several labs, and labs that die
//
// Namespaces carry a random lab id ("hf-3fa2-gw1"), so any number of labs can
// run at once. Close removes everything: processes, mounts, namespaces, files.
// SIGINT and SIGTERM close every open lab before the process ends. What a lab
// leaves behind when its process is killed outright is found by Sweep through
// a file whose lock the kernel released; New sweeps first.
//
// # Disks
//
// A member can have its data directory on a disk of its own, an ext4 behind a
// loop device, that faults fill (FillDisk), stop (HangDisk) or slow down
// (SlowDisk). Flip and WipeData damage files of any member. Close and Sweep
// thaw and unmount what is left.
//
// # What is measured
//
// StartProbe says exactly what a gap and a double are. The instrument has
// tests of its own: deliberate double owners must be seen, single owners and
// clean moves must show none, each fault must break what it names and no more.
//
// # Use
//
//	l, err := lab.New(lab.Options{Gateways: 2, Witnesses: 1, Clients: 1})
//	…
//	l.Attach(t) // or defer l.Close()
//	c, err := l.NewCluster(lab.ClusterOptions{Profile: "fast"})
//	…
//	err = c.Start()
//	err = c.WaitReady(ctx)
//	p, err := l.StartProbe(lab.ProbeOptions{})
//	holder, err := p.WaitOwner(ctx, "")
//	fault, err := c.KillWorker(holder)
//	…
//	report, err := p.Stop() // report.Longest, report.DoubleCount, report.Valid()
package lab
