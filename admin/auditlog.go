package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"fairlead/audit"
)

func (s *Server) auditRoutes(a *api) {
	add(a, "GET /v1/audit", "Lists entries of the audit log, newest first.", s.listAudit)
	add(a, "POST /v1/audit/verify", "Verifies that the audit log is whole.", s.verifyAudit)
}

func (s *Server) auditLog() (*audit.Log, error) {
	if s.o.Audit == nil {
		return nil, absent("audit log")
	}
	return s.o.Audit, nil
}

func (s *Server) listAudit(ctx context.Context, in *struct {
	After  string    `query:"after" maxLength:"20" pattern:"^[0-9]*$" doc:"Go on behind this entry: next of the part before."`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many items at most."`
	Since  time.Time `query:"since" doc:"Entries of that time or later."`
	Until  time.Time `query:"until" doc:"Entries before that time."`
	Actor  string    `query:"actor" maxLength:"512" doc:"Who did it."`
	Action string    `query:"action" maxLength:"512" doc:"What was done; with a dot at the end, what that begins with."`
	Object string    `query:"object" maxLength:"512" doc:"What it was done to."`
	Kind   string    `query:"kind" enum:"act,refusal,note" doc:"What kind of entry."`
}) (*answer[List[AuditEntry]], error) {
	log, err := s.auditLog()
	if err != nil {
		return nil, err
	}
	q := audit.Query{
		Since: in.Since, Until: in.Until, Actor: in.Actor, Action: in.Action, Object: in.Object, Kind: audit.Kind(in.Kind), Limit: in.Limit,
	}
	if in.After != "" {
		if q.After, err = strconv.ParseUint(in.After, 10, 64); err != nil {
			return nil, invalid(fmt.Errorf("after %q: expected next of the part before", in.After))
		}
	}
	page, err := audit.List(ctx, log.Dir(), q)
	if err != nil {
		return nil, s.fault(err)
	}
	return yes(listOf(page.Entries, number(page.Next), entryOf))
}

func entryOf(e *audit.Entry) AuditEntry {
	return AuditEntry{
		Number: e.Number, Time: e.Time, Kind: string(e.Kind), Actor: AuditActor(e.Actor), Source: e.Source, Action: e.Action, Object: e.Object,
		Before: rawOf(e.Before), After: rawOf(e.After), Reason: e.Reason, Count: e.Count, Since: some(e.Since), Prev: e.Prev.String(), Hash: e.Hash.String(),
	}
}

// rawOf is what an entry that was read has before and after.
func rawOf(v any) json.RawMessage {
	raw, _ := v.(json.RawMessage)
	return raw
}

func (s *Server) verifyAudit(ctx context.Context, in *struct{ Body *AuditAnchors }) (*answer[AuditReport], error) {
	log, err := s.auditLog()
	if err != nil {
		return nil, err
	}
	var o audit.VerifyOptions
	if in.Body != nil {
		for _, a := range in.Body.Anchors {
			anchor := audit.Anchor{Number: a.Number}
			if err := anchor.Hash.UnmarshalText([]byte(a.Hash)); err != nil {
				return nil, invalid(err)
			}
			o.Anchors = append(o.Anchors, anchor)
		}
	}
	if !s.verify.TryLock() {
		return nil, problem(http.StatusConflict, errors.New("the audit log is being verified already"))
	}
	defer s.verify.Unlock()
	r, err := audit.Verify(ctx, log.Dir(), o)
	if err != nil {
		return nil, s.fault(err)
	}
	return yes(reportOf(&r))
}

func reportOf(r *audit.Report) AuditReport {
	out := AuditReport{
		OK: r.OK(), Files: r.Files, Entries: r.Entries, Bytes: r.Bytes, First: r.First, Last: r.Last, LastHash: r.LastHash.String(),
		Removed: r.Removed, Lost: r.Lost, Wrong: []AuditWrong{}, More: r.More,
	}
	for _, w := range r.Wrong {
		out.Wrong = append(out.Wrong, AuditWrong{File: w.File, Line: w.Line, Number: w.Number, Expected: w.Expected, Found: w.Found})
	}
	return out
}
