package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"fairlead/audit"
	"fairlead/auth"
)

// refusals tells the operator of clients that were not let in: the audit log of each,
// the log of as many as somebody can read.
type refusals struct {
	log   *slog.Logger
	audit *audit.Log
	now   func() time.Time

	mu     sync.Mutex // guards the fields below
	since  time.Time
	logged int
	hidden int
}

// refusalsLogged is how many refusals a minute stand in the log; the rest is counted
// there. The audit log has its own limits.
const refusalsLogged = 30

func (r *refusals) refused(x auth.Refusal) {
	r.audit.Refuse(audit.Entry{
		Actor:  audit.Actor{Name: x.Identity, How: x.Method},
		Source: x.Source, Action: "connect", Object: x.ClientID, Reason: x.Why,
	})
	show, hidden := r.turn()
	if !show {
		return
	}
	attrs := []slog.Attr{
		slog.String("why", x.Why), slog.String("client", x.ClientID), slog.String("identity", x.Identity),
		slog.String("remote", x.Source), slog.String("listener", x.Listener),
	}
	if x.Hint != "" {
		attrs = append(attrs, slog.String("try", x.Hint))
	}
	if hidden > 0 {
		attrs = append(attrs, slog.Int("others_not_shown", hidden))
	}
	r.log.LogAttrs(context.Background(), slog.LevelWarn, "client refused", attrs...)
}

// turn says whether the next refusal is shown, and how many were not before it.
func (r *refusals) turn() (show bool, hidden int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); now.Sub(r.since) >= time.Minute {
		r.since, r.logged = now, 0
	}
	if r.logged >= refusalsLogged {
		r.hidden++
		return false, 0
	}
	r.logged++
	hidden, r.hidden = r.hidden, 0
	return true, hidden
}
