package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"fairlead/access"
	"fairlead/device"
	"fairlead/mqtt"
	"fairlead/mqtt/topic"
	"fairlead/policy"
)

func (s *Server) policyRoutes(a *api) {
	add(a, "GET /v1/policies", "Lists the documents of policies in force.", s.listPolicies)
	add(a, "GET /v1/policies/{name}", "Shows a document.", s.showPolicy)
	add(a, "PUT /v1/policies/{name}", "Puts a document in force, in the place of one of the same name. It decides at once, for live connections too.", s.applyPolicy, bytesMost(textBytes))
	add(a, "DELETE /v1/policies/{name}", "Takes a document out of force.", s.removePolicy)
	add(a, "POST /v1/policies/check", "Says whether somebody may do something, and which rule decides.", s.checkPolicy, bytesMost(questionBytes))
	add(a, "POST /v1/policies/diff", "Says who would gain and lose what if a document were applied.", s.diffPolicy, bytesMost(textBytes))
	add(a, "GET /v1/policies/blast-radius", "Ranks devices by what a thief of their credentials could do, worst first.", s.rankDevices)
	add(a, "GET /v1/policies/blast-radius/{device}", "Says what a thief of a device's credentials could do.", s.blastRadius)
	add(a, "GET /v1/policies/suggest/{device}", "Drafts the least policy that covers what a device did.", s.suggestPolicy)
}

func (s *Server) policies() (*access.Policies, error) {
	if s.o.Policies == nil {
		return nil, absent("policies: it lets everybody do everything")
	}
	return s.o.Policies, nil
}

func policyOf(d *access.Document) Policy {
	return Policy{Name: d.Name, Text: d.Text, Version: d.Version, Applied: some(d.Applied), By: d.By}
}

// listBytesMax is how much text of documents a part of a list has, about.
const listBytesMax = 4 << 20

func (s *Server) listPolicies(_ context.Context, in *struct {
	After string `query:"after" maxLength:"4096" doc:"Go on behind this item: next of the part before."`
}) (*answer[List[Policy]], error) {
	p, err := s.policies()
	if err != nil {
		return nil, err
	}
	all := p.Documents()
	if in.After != "" { // they are in no order that a name could be found by
		i := slices.IndexFunc(all, func(d access.Document) bool { return d.Name == in.After })
		if i < 0 {
			return nil, s.fault(fmt.Errorf("after %.200q: %w: begin again", in.After, access.ErrNotFound))
		}
		all = all[i+1:]
	}
	n, bytes := 0, 0
	for n < len(all) && bytes < listBytesMax {
		bytes += len(all[n].Text)
		n++
	}
	next := ""
	if n < len(all) {
		next = all[n-1].Name
	}
	return yes(listOf(all[:n], next, policyOf))
}

// policyPath is a document in a path: the path of a file, if it is one of the
// configuration.
type policyPath struct {
	Name string `path:"name" maxLength:"4096" doc:"Of the document."`
}

// documentOf is the document of that name; without one its version is 0.
func documentOf(p *access.Policies, name string) (access.Document, bool) {
	all := p.Documents()
	i := slices.IndexFunc(all, func(d access.Document) bool { return d.Name == name })
	if i < 0 {
		return access.Document{Name: name}, false
	}
	return all[i], true
}

func (s *Server) showPolicy(_ context.Context, in *policyPath) (*answer[Policy], error) {
	p, err := s.policies()
	if err != nil {
		return nil, err
	}
	d, ok := documentOf(p, in.Name)
	if !ok {
		return nil, s.fault(fmt.Errorf("%.200q: %w", in.Name, access.ErrNotFound))
	}
	return yes(policyOf(&d))
}

// auditTextMax is the longest document that an entry of the audit log has in full. Of a
// longer one it has the hash.
const auditTextMax = 16 << 10

// written is a document as the audit log has it.
type written struct {
	Version int    `json:"version,omitempty"`
	SHA256  string `json:"sha256"`
	Text    string `json:"text,omitempty"`
}

func writtenOf(version int, text string) written {
	sum := sha256.Sum256([]byte(text))
	w := written{Version: version, SHA256: hex.EncodeToString(sum[:])}
	if len(text) <= auditTextMax {
		w.Text = text
	}
	return w
}

func (s *Server) applyPolicy(ctx context.Context, in *struct {
	Name    string `path:"name" maxLength:"128"`
	IfMatch string `header:"If-Match" maxLength:"32" doc:"The version that was read; 0: there is none. Absent: whichever it is."`
	RawBody []byte `contentType:"text/yaml"`
}) (*answer[Policy], error) {
	p, err := s.policies()
	if err != nil {
		return nil, err
	}
	version := access.AnyVersion
	if in.IfMatch != "" {
		if version, err = strconv.Atoi(strings.Trim(in.IfMatch, `"`)); err != nil || version < 0 {
			return nil, invalid(fmt.Errorf("If-Match %.40q: expected a version", in.IfMatch))
		}
	}
	if err := access.ValidName(in.Name); err != nil {
		return nil, invalid(err)
	}
	old, known := documentOf(p, in.Name)
	switch {
	case known && old.Version == 0:
		return nil, s.fault(fmt.Errorf("%s: %w", in.Name, access.ErrFile))
	case version != access.AnyVersion && version != old.Version:
		return nil, s.fault(fmt.Errorf("%s: version %d, expected %d: %w", in.Name, old.Version, version, access.ErrChanged))
	}
	if _, err := p.Check(in.Name, in.RawBody); err != nil {
		return nil, invalid(err)
	}
	d := deed{action: "policy.apply", object: in.Name, after: writtenOf(0, string(in.RawBody))}
	if known {
		d.before = writtenOf(old.Version, old.Text)
	}
	var now access.Document
	err = s.act(ctx, d, func(ctx context.Context) (err error) {
		now, err = p.Apply(ctx, in.Name, in.RawBody, callerOf(ctx).name, version)
		return err
	})
	if err != nil {
		return nil, err
	}
	return yes(policyOf(&now))
}

func (s *Server) removePolicy(ctx context.Context, in *policyPath) (*done, error) {
	p, err := s.policies()
	if err != nil {
		return nil, err
	}
	old, known := documentOf(p, in.Name)
	switch {
	case !known:
		return nil, s.fault(fmt.Errorf("%.200q: %w", in.Name, access.ErrNotFound))
	case old.Version == 0:
		return nil, s.fault(fmt.Errorf("%s: %w", in.Name, access.ErrFile))
	}
	return s.remove(ctx, deed{action: "policy.remove", object: in.Name, before: writtenOf(old.Version, old.Text)}, func(ctx context.Context) error {
		return p.Remove(ctx, in.Name, old.Version)
	})
}

func (s *Server) checkPolicy(ctx context.Context, in *struct{ Body Question }) (*answer[Answer], error) {
	p, err := s.policies()
	if err != nil {
		return nil, err
	}
	q := &in.Body
	set := p.Set()
	if q.Text != "" {
		name := q.TextFor
		if name == "" {
			name = candidate
		}
		if set, err = p.Check(name, []byte(q.Text)); err != nil {
			return nil, invalid(err)
		}
	}
	who, err := s.principal(ctx, q)
	if err != nil {
		return nil, err
	}
	e, err := explain(set.For(who), q, who.Client, p.Reserved(who.Client))
	if err != nil {
		return nil, invalid(err)
	}
	a := Answer{Allowed: e.Verdict.Allowed(), Code: int(e.Verdict.Code), Policy: e.Policy, Rule: e.Rule, Sentence: e.Sentence}
	if e.Place.Line > 0 {
		a.Place = e.Place.String()
	}
	return yes(a)
}

// candidate is the name of a document that has none yet.
const candidate = "candidate"

// principal is who a question is about.
func (s *Server) principal(ctx context.Context, q *Question) (*policy.Principal, error) {
	if (q.Device == "") == (q.User == "") {
		return nil, invalid(errors.New("expected either a device or a user"))
	}
	var p *policy.Principal
	if q.Device != "" {
		d, err := s.deviceAt(ctx, q.Device, 0)
		if err != nil {
			return nil, err
		}
		p = devicePrincipal(&d)
	} else {
		u, err := s.userAt(ctx, q.User, 0)
		if err != nil {
			return nil, err
		}
		p = userPrincipal(&u)
	}
	if q.Client != "" {
		p.Client = mqtt.ClientID(q.Client)
	}
	return p, nil
}

// registered is the method of principals that nobody has shown to be.
const registered = "registry"

func devicePrincipal(d *device.Device) *policy.Principal {
	return &policy.Principal{Device: d.Name, Groups: d.Groups, Attrs: d.Attrs, Method: registered, Client: mqtt.ClientID(d.Name)}
}

func userPrincipal(u *device.User) *policy.Principal {
	groups := u.Groups
	if u.Role != "" { // a role is a group as well
		groups = append(slices.Clone(groups), u.Role)
	}
	return &policy.Principal{User: u.Name, Groups: groups, Method: registered, Client: mqtt.ClientID(u.Name)}
}

// explain asks the rights.
func explain(r *policy.Rights, q *Question, client mqtt.ClientID, reserved bool) (policy.Explanation, error) {
	if q.Action == "connect" {
		if q.Topic != "" {
			return policy.Explanation{}, errors.New("connect with a topic: expected none")
		}
		return r.ExplainConnect(client, reserved), nil
	}
	if q.Action == "subscribe" {
		f, err := topic.ParseFilter(q.Topic)
		if err != nil {
			return policy.Explanation{}, err
		}
		return r.ExplainSubscribe(f, mqtt.QoS(q.QoS)), nil
	}
	if err := topic.CheckName(q.Topic); err != nil {
		return policy.Explanation{}, err
	}
	if q.Action == "receive" {
		return r.ExplainReceive(q.Topic), nil
	}
	return r.ExplainPublish(q.Topic, mqtt.QoS(q.QoS), q.Retain, q.Bytes), nil
}
