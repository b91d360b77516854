package node

import (
	"context"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/storage/audit"
)

var errNotYet = &control.Error{Code: control.Internal, Message: "not built yet"}

// Audit is not built yet.
func (b backend) Audit(context.Context) (*audit.Trail, error) { return nil, errNotYet }

// Members is not built yet.
func (b backend) Members(context.Context) (control.MemberList, error) {
	return control.MemberList{}, errNotYet
}

// ChangeMember is not built yet.
func (b backend) ChangeMember(context.Context, control.MemberRequest) (control.MemberResult, error) {
	return control.MemberResult{}, errNotYet
}
