package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"fairlead/access"
	"fairlead/audit"
	"fairlead/device"
	"fairlead/store"
)

// A deed is what an act does, for the audit log.
type deed struct {
	action        string // a noun and a verb
	object        string
	before, after any
	reason        string // the operator's
}

// act has the audit log know of a deed, and then does it. If it fails the log gets a
// second entry that says why. Do gets a context that outlives the caller: what has been
// begun is finished.
func (s *Server) act(ctx context.Context, d deed, do func(ctx context.Context) error) error {
	if s.o.Audit == nil {
		return problem(http.StatusConflict, errors.New("this broker has no audit log, and without one nothing is changed"))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), actTime)
	defer cancel()
	e := callerOf(ctx).entry(d.action, d.object)
	e.Before, e.After, e.Reason = d.before, d.after, d.reason
	if err := s.o.Audit.Act(ctx, e); err != nil {
		s.o.Logger.Error("an act was not done: the audit log can't be written", "action", d.action, "object", d.object, "err", err)
		return problem(http.StatusServiceUnavailable, fmt.Errorf("the audit log can't be written, so nothing is done: %w", err))
	}
	if err := do(ctx); err != nil {
		s.failed(ctx, e, err)
		return s.fault(err)
	}
	s.o.Logger.Info("done", "action", d.action, "object", d.object, "by", e.Actor.Name, "how", e.Actor.How)
	return nil
}

// failed writes that an act which stands in the audit log has failed.
func (s *Server) failed(ctx context.Context, e audit.Entry, why error) {
	if s.o.Audit == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), actTime)
	defer cancel()
	e.Before, e.After, e.Reason = nil, nil, "failed: "+why.Error()
	if err := s.o.Audit.Act(ctx, e); err != nil {
		s.o.Logger.Error("that an act has failed is not in the audit log", "action", e.Action, "object", e.Object, "failed", why, "err", err)
	}
}

// refused notes what was asked for and not granted.
func (s *Server) refused(e audit.Entry, why string) {
	if s.o.Audit == nil {
		return
	}
	e.Reason = why
	s.o.Audit.Refuse(e)
}

// faults are the statuses of errors that have one.
var faults = []struct {
	err    error
	status int
}{
	{device.ErrNotFound, http.StatusNotFound},
	{device.ErrExists, http.StatusConflict},
	{device.ErrChanged, http.StatusConflict},
	{device.ErrRetired, http.StatusConflict},
	{device.ErrInUse, http.StatusConflict},
	{device.ErrLimit, http.StatusConflict},
	{access.ErrNotFound, http.StatusNotFound},
	{access.ErrChanged, http.StatusPreconditionFailed},
	{access.ErrFile, http.StatusConflict},
	{store.ErrClosed, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusServiceUnavailable},
	{context.Canceled, http.StatusServiceUnavailable},
}

// fault is the answer to an error: whose it is, the caller's or ours.
func (s *Server) fault(err error) error {
	if p := (*Problem)(nil); errors.As(err, &p) {
		return p
	}
	for _, f := range faults {
		if errors.Is(err, f.err) {
			return problem(f.status, err)
		}
	}
	s.o.Logger.Error("administration", "err", err)
	return problem(http.StatusInternalServerError, err)
}

// invalid is the answer to what can't be right; nil: it is.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	return problem(http.StatusUnprocessableEntity, err)
}

// absent is the answer where a part of the broker is not there.
func absent(what string) error {
	return problem(http.StatusConflict, fmt.Errorf("this broker has no %s", what))
}

// some is t, or nil if there is none.
func some(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// list is a list that JSON shows as one even if it is empty.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
