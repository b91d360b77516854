package node

import (
	"context"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/storage/audit"
)

// onLoop reads something in the loop and waits for it.
func onLoop[Out any](ctx context.Context, w *worker, read func(now int64) (Out, error)) (Out, error) {
	type answer struct {
		out Out
		err error
	}
	got := make(chan answer, 1)
	var none Out
	if !w.post(func(now int64) {
		out, err := read(now)
		got <- answer{out, err}
	}) {
		return none, errOverloaded
	}
	select {
	case a := <-got:
		return a.out, a.err
	case <-w.ended:
		return none, errStopping
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// Audit returns the trail as this node has applied it.
func (b backend) Audit(ctx context.Context) (*audit.Trail, error) {
	return onLoop(ctx, b.w, func(int64) (*audit.Trail, error) {
		if b.w.raft == nil {
			return nil, b.w.notFounded()
		}
		return b.w.state.Trail().Clone(), nil
	})
}

// Members lists the members as this node knows them.
func (b backend) Members(ctx context.Context) (control.MemberList, error) {
	return onLoop(ctx, b.w, func(now int64) (control.MemberList, error) {
		if b.w.raft == nil {
			return control.MemberList{}, b.w.notFounded()
		}
		return b.w.memberList(now), nil
	})
}

// ChangeMember adds, removes or replaces a member and waits until it is done.
func (b backend) ChangeMember(ctx context.Context, r control.MemberRequest) (control.MemberResult, error) {
	return call[control.MemberResult](ctx, b.w, opMember, memberAsk{Op: r.Op, Name: r.Name})
}
