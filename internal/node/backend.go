package node

import (
	"context"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/storage/audit"
)

// await puts something to the loop and waits for its answer, which start gives
// once, then or later. busy is the error when the loop takes no more, gone the
// one when it ends first.
func await[Out any](ctx context.Context, w *worker, busy, gone *control.Error, start func(now int64, answer func(Out, *control.Error))) (Out, error) {
	type answer struct {
		out Out
		err *control.Error
	}
	got := make(chan answer, 1)
	var none Out
	if !w.post(func(now int64) {
		start(now, func(out Out, err *control.Error) { got <- answer{out, err} })
	}) {
		return none, busy
	}
	select {
	case a := <-got:
		if a.err != nil {
			return none, a.err
		}
		return a.out, nil
	case <-w.ended:
		return none, gone
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

var (
	errBusy     = &control.Error{Code: control.NoQuorum, Message: "this node is overloaded", Hint: "try again"}
	errStopping = &control.Error{Code: control.NoQuorum, Message: "this node is stopping"}
)

// Audit returns the trail as this node has applied it.
func (b backend) Audit(ctx context.Context) (*audit.Trail, error) {
	return await(ctx, b.w, errOverloaded, errStopping, func(_ int64, answer func(*audit.Trail, *control.Error)) {
		if b.w.raft == nil {
			answer(nil, b.w.notFounded())
			return
		}
		answer(b.w.state.Trail().Clone(), nil)
	})
}

// Members lists the members as this node knows them.
func (b backend) Members(ctx context.Context) (control.MemberList, error) {
	return await(ctx, b.w, errOverloaded, errStopping, func(now int64, answer func(control.MemberList, *control.Error)) {
		if b.w.raft == nil {
			answer(control.MemberList{}, b.w.notFounded())
			return
		}
		answer(b.w.memberList(now), nil)
	})
}

// ChangeMember adds, removes or replaces a member and waits until it is done.
func (b backend) ChangeMember(ctx context.Context, r control.MemberRequest) (control.MemberResult, error) {
	return call[control.MemberResult](ctx, b.w, opMember, memberAsk{Op: r.Op, Name: r.Name})
}
