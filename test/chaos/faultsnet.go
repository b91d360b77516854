package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// rogue is the host of the LAN that is no member and claims the address.
const rogue = "c2"

func networkKinds() []kind {
	return []kind{
		{name: "link-down", cause: atPort((*lab.Lab).LinkDown), often: 1},
		{name: "link-flaps", cause: flap},
		{name: "cut", cause: atPort((*lab.Lab).Cut), often: 1},
		{name: "mute", cause: atPort((*lab.Lab).Mute), often: 1},
		{name: "deafen", cause: atPort((*lab.Lab).Deafen), often: 1},
		{name: "lose-20%", cause: atPort(func(l *lab.Lab, where string) (*lab.Fault, error) { return l.Lose(where, 20) })},
		{name: "lose-udp", cause: atPort(func(l *lab.Lab, where string) (*lab.Fault, error) { return l.DropProtocol(where, "udp") })},
		{name: "lose-tcp", cause: atPort(func(l *lab.Lab, where string) (*lab.Fault, error) { return l.DropProtocol(where, "tcp") })},
		{name: "pair-loss", cause: pairLoss, often: 1},
		{name: "split", cause: split, often: 1},
		{name: "delay", cause: relay(delayed, delayed)},
		{name: "delay-one-way", cause: oneWay(delayed)},
		{name: "shuffle", cause: relay(shuffled, shuffled)},
		{name: "storm", cause: relay(stormy, stormy)},
		{name: "storm-everywhere", cause: everywhere(stormy)},
		{name: "steal-vip", cause: func(_ context.Context, w *world, _ string, _ plan) (func() error, error) {
			return undo(w.lab.Steal(rogue, w.shape.vip))
		}},
		{name: "forge-vip", cause: func(_ context.Context, w *world, node string, p plan) (func() error, error) {
			return undo(w.lab.Forge(rogue, w.shape.vip.Addr(), w.gatewayBeside(node, p)))
		}},
	}
}

func atPort(f func(*lab.Lab, string) (*lab.Fault, error)) cause {
	return func(_ context.Context, w *world, node string, _ plan) (func() error, error) {
		return undo(f(w.lab, node+"/*"))
	}
}

// flap takes the carrier away some times in a row.
func flap(_ context.Context, w *world, node string, p plan) (func() error, error) {
	r := p.rand()
	again := func() error {
		var all error
		for range 1 + r.IntN(3) {
			f, err := w.lab.LinkDown(node + "/*")
			if err != nil {
				return errors.Join(all, err)
			}
			time.Sleep(between(r, time.Millisecond, 10*time.Millisecond, 100*time.Millisecond))
			all = errors.Join(all, f.Undo())
			time.Sleep(between(r, time.Millisecond, 10*time.Millisecond, 100*time.Millisecond))
		}
		return all
	}
	return again, again()
}

// pairLoss cuts two members off from each other, in one direction or in both:
// every other member and the client go on to hear them.
func pairLoss(_ context.Context, w *world, node string, p plan) (func() error, error) {
	return w.drop(p.rand().IntN(2) == 0, [2]string{node, w.memberBeside(node, p)})
}

// split cuts a member off from all others but one, in one direction or in
// both; the client goes on to hear it.
func split(_ context.Context, w *world, node string, p plan) (func() error, error) {
	keep := w.memberBeside(node, p)
	var pairs [][2]string
	for _, other := range w.shape.members() {
		if other != node && other != keep {
			pairs = append(pairs, [2]string{node, other})
		}
	}
	r := p.rand()
	both := r.IntN(2) == 0
	if !both && r.IntN(2) == 0 {
		for i := range pairs {
			pairs[i][0], pairs[i][1] = pairs[i][1], pairs[i][0]
		}
	}
	return w.drop(both, pairs...)
}

// drop loses frames of pairs, in the direction that they name or in both.
func (w *world) drop(both bool, pairs ...[2]string) (func() error, error) {
	var faults []*lab.Fault
	mend := func() error { return undoAll(faults) }
	for _, p := range pairs {
		ways := [][2]string{p}
		if both {
			ways = append(ways, [2]string{p[1], p[0]})
		}
		for _, way := range ways {
			f, err := w.lab.DropBetween(way[0]+"/*", way[1]+"/*")
			if err != nil {
				return mend, err
			}
			faults = append(faults, f)
		}
	}
	return mend, nil
}

func undoAll(faults []*lab.Fault) error {
	var all error
	for _, f := range faults {
		all = errors.Join(all, f.Undo())
	}
	return all
}

// What relays do. Each draw is another one.

func delayed(r *rand.Rand) lab.Impairment {
	d := between(r, time.Millisecond, 10*time.Millisecond, 50*time.Millisecond, 200*time.Millisecond, time.Second)
	return lab.Impairment{Delay: d, Jitter: d * time.Duration(r.IntN(3)) / 2}
}

func shuffled(r *rand.Rand) lab.Impairment {
	return lab.Impairment{
		Jitter:    between(r, time.Microsecond, time.Millisecond, 20*time.Millisecond),
		Duplicate: float64(10 + r.IntN(50)), Reorder: float64(10 + r.IntN(50)),
	}
}

func stormy(r *rand.Rand) lab.Impairment {
	return lab.Impairment{
		Delay: between(r, time.Microsecond, time.Millisecond, 20*time.Millisecond), Jitter: between(r, time.Millisecond, 10*time.Millisecond, 100*time.Millisecond),
		Lose: float64(r.IntN(15)), Duplicate: float64(r.IntN(30)), Reorder: float64(r.IntN(30)),
	}
}

func relay(out, in func(*rand.Rand) lab.Impairment) cause {
	return func(_ context.Context, w *world, node string, p plan) (func() error, error) {
		r := p.rand()
		return w.impair(node, out(r), in(r))
	}
}

func oneWay(what func(*rand.Rand) lab.Impairment) cause {
	return func(_ context.Context, w *world, node string, p plan) (func() error, error) {
		r := p.rand()
		out, in := what(r), lab.Impairment{}
		if r.IntN(2) == 0 {
			out, in = in, out
		}
		return w.impair(node, out, in)
	}
}

// everywhere impairs every member, each in its own way.
func everywhere(what func(*rand.Rand) lab.Impairment) cause {
	return func(_ context.Context, w *world, _ string, p plan) (func() error, error) {
		r := p.rand()
		var mends []func() error
		mend := func() error {
			var all error
			for _, m := range mends {
				all = errors.Join(all, m())
			}
			return all
		}
		for _, node := range w.shape.members() {
			m, err := w.impair(node, what(r), what(r))
			if err != nil {
				return mend, err
			}
			mends = append(mends, m)
		}
		return mend, nil
	}
}

// impair puts a relay in and counts what it did.
func (w *world) impair(node string, out, in lab.Impairment) (func() error, error) {
	f, err := w.lab.Impair(node+"/*", out, in)
	if err != nil {
		return nothing, err
	}
	return func() error {
		err := f.Undo()
		n := f.Relayed()
		w.relayed.Relayed += n.Relayed
		w.relayed.Lost += n.Lost
		w.relayed.Duplicated += n.Duplicated
		w.relayed.Reordered += n.Reordered
		return err
	}, err
}
