package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"fairlead/auth"
	"fairlead/broker"
	"fairlead/device"
	"fairlead/policy"
)

// How much an answer about a fleet lists.
const (
	diffMax     = 1000 // members
	victimsMax  = 1000
	retainedMax = 1000
	// retainedRead is how many topics of Retained Messages are looked at.
	retainedRead = 100_000
)

// fleet is everybody that policies are about: who has a session, and those of the
// registry who have none and could come.
type fleet struct {
	members []policy.Member
	clients []string // by index: the Client Identifier of who has a session; empty: it has none
}

// fleet looks at everybody. Only one request does so at a time: that may take seconds,
// and much memory.
func (s *Server) fleet(ctx context.Context) (f *fleet, free func(), err error) {
	r, err := s.registry()
	if err != nil {
		return nil, nil, err
	}
	select {
	case s.study <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, s.fault(ctx.Err())
	}
	free = func() { <-s.study }
	f = new(fleet)
	seen := make(map[string]bool)
	for _, m := range s.o.Broker.Members() {
		f.addLive(&m, seen)
	}
	if err := f.addRegistered(ctx, r, seen); err != nil {
		free()
		return nil, nil, s.fault(err)
	}
	return f, free, nil
}

// addLive adds who has a session. The tools of operators and clients that nobody has
// asked who they are have all rights whatever policies say.
func (f *fleet) addLive(m *broker.Member, seen map[string]bool) {
	if m.Identity == nil || m.Identity.Method == policy.MethodOperator || m.Identity.Method == policy.MethodOpen {
		return
	}
	p := m.Identity.Principal
	p.Client = m.Client
	f.members = append(f.members, policy.Member{Principal: &p, Connected: m.Connected, Subscribed: m.Subscriptions, Published: m.Published})
	f.clients = append(f.clients, string(m.Client))
	seen[seenKey(&p)] = true
}

// seenKey tells devices from users.
func seenKey(p *policy.Principal) string {
	if p.Device != "" {
		return "device:" + p.Device
	}
	return "user:" + p.User
}

// addRegistered adds those of the registry that were not seen, but for those that are
// kept out for good.
func (f *fleet) addRegistered(ctx context.Context, r *device.Registry, seen map[string]bool) error {
	add := func(p *policy.Principal) {
		if !seen[seenKey(p)] {
			f.members = append(f.members, policy.Member{Principal: p})
			f.clients = append(f.clients, "")
		}
	}
	for after := ""; ; {
		found, next, err := r.Devices(device.Filter{}, device.Page{After: after, Limit: device.LimitMax})
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		for i := range found {
			if found[i].State != auth.Retired {
				add(devicePrincipal(&found[i]))
			}
		}
		if after = next; next == "" {
			break
		}
	}
	for after := ""; ; {
		found, next, err := r.Users(device.Page{After: after, Limit: device.LimitMax})
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		for i := range found {
			if !found[i].Disabled {
				add(userPrincipal(&found[i]))
			}
		}
		if after = next; next == "" {
			return nil
		}
	}
}

// name is what people call a member.
func (f *fleet) name(i int) string { return f.members[i].Principal.Name() }

func (s *Server) diffPolicy(ctx context.Context, in *struct {
	Name    string `query:"name" maxLength:"4096" doc:"Of the document that this one would replace, or a new one."`
	RawBody []byte `contentType:"text/yaml"`
}) (*answer[Diff], error) {
	p, err := s.policies()
	if err != nil {
		return nil, err
	}
	name := in.Name
	if name == "" {
		name = candidate
	}
	after, err := p.Check(name, in.RawBody)
	if err != nil {
		return nil, invalid(err)
	}
	f, free, err := s.fleet(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	changes := policy.Diff(p.Set(), after, f.members)
	d := Diff{Members: []MemberDiff{}, Total: len(changes), Of: len(f.members)}
	for _, c := range changes[:min(len(changes), diffMax)] {
		d.Members = append(d.Members, f.diffOf(&c))
	}
	return yes(d)
}

func (f *fleet) diffOf(c *policy.Change) MemberDiff {
	d := MemberDiff{
		Name: f.name(c.Member), Client: f.clients[c.Member], Connected: f.members[c.Member].Connected,
		Lost: differences(c.Lost), Gained: differences(c.Gained),
	}
	if c.Limits[0] != c.Limits[1] {
		d.Limits = &LimitsDiff{Before: limitsOf(c.Limits[0]), After: limitsOf(c.Limits[1])}
	}
	return d
}

func differences(l []policy.Difference) []Difference {
	out := make([]Difference, 0, len(l))
	for _, d := range l {
		out = append(out, Difference{Action: d.Action.String(), Topic: d.Topic, Used: d.Used, Why: d.Why})
	}
	return out
}

func limitsOf(l policy.Limits) Limits {
	out := Limits{Subscriptions: l.Subscriptions}
	if l.Messages.Count > 0 {
		out.Messages = l.Messages.String()
	}
	if l.Bytes.Count > 0 {
		out.Bytes = l.Bytes.String()
	}
	if l.SessionExpiry > 0 {
		out.SessionExpiry = l.SessionExpiry.String()
	}
	return out
}

// studyFleet applies the policies in force to everybody.
func (s *Server) studyFleet(ctx context.Context) (*fleet, *policy.Fleet, func(), error) {
	p, err := s.policies()
	if err != nil {
		return nil, nil, nil, err
	}
	f, free, err := s.fleet(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	return f, policy.NewFleet(p.Set(), f.members, s.o.Broker.RetainedNames(retainedRead)), free, nil
}

func (s *Server) rankDevices(ctx context.Context, in *struct {
	After string `query:"after" maxLength:"20" pattern:"^[0-9]*$" doc:"Go on behind this item: next of the part before."`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many items at most."`
	Above int    `query:"above" minimum:"-1" default:"-1" doc:"Only those whose score is greater."`
	Users bool   `query:"users" doc:"Users too."`
}) (*answer[List[Exposure]], error) {
	from := 0
	if in.After != "" {
		n, err := strconv.Atoi(in.After)
		if err != nil {
			return nil, invalid(fmt.Errorf("after %q: expected next of the part before", in.After))
		}
		from = n
	}
	f, all, free, err := s.studyFleet(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	ranked := f.rank(all, in.Above, in.Users)
	l := List[Exposure]{Items: list(ranked[min(from, len(ranked)):])}
	if len(l.Items) > in.Limit {
		l.Items, l.Next = l.Items[:in.Limit], strconv.Itoa(from+in.Limit)
	}
	return yes(l)
}

// rank lists who is above a bound, each once, with the worst of its connections.
func (f *fleet) rank(all *policy.Fleet, above int, users bool) []Exposure {
	var out []Exposure
	seen := make(map[string]bool)
	for _, e := range all.Rank() {
		if e.Score() <= above {
			break
		}
		p := f.members[e.Member].Principal
		if key := seenKey(p); !seen[key] && (users || p.Device != "") {
			seen[key] = true
			out = append(out, f.exposureOf(&e))
		}
	}
	return out
}

func (f *fleet) exposureOf(e *policy.Exposure) Exposure {
	return Exposure{
		Name: f.name(e.Member), User: f.members[e.Member].Principal.Device == "", Client: f.clients[e.Member],
		Score: e.Score(), Commands: e.Commands, Data: e.Data, Live: e.Live,
	}
}

// oneDevice is a device in a path.
type oneDevice struct {
	Device string `path:"device" maxLength:"128" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" doc:"Name of the device."`
}

func (s *Server) blastRadius(ctx context.Context, in *oneDevice) (*answer[Blast], error) {
	f, all, free, err := s.studyFleet(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	var worst *policy.Blast
	for i, m := range f.members {
		if m.Principal.Device != in.Device {
			continue
		}
		if b := all.BlastRadius(i); worst == nil || b.Score() > worst.Score() {
			worst = b
		}
	}
	if worst == nil {
		return nil, s.fault(fmt.Errorf("device %s: %w, or it is retired", in.Device, device.ErrNotFound))
	}
	return yes(f.blastOf(worst))
}

func (f *fleet) blastOf(b *policy.Blast) Blast {
	out := Blast{
		Exposure: f.exposureOf(&b.Exposure),
		Writes:   list(b.Writes), WriteDenies: list(b.WriteDenies), Reads: list(b.Reads), ReadDenies: list(b.ReadDenies),
		Retained: list(b.Retained[:min(len(b.Retained), retainedMax)]), RetainedTotal: len(b.Retained),
		Victims: []Victim{}, VictimsTotal: len(b.Victims),
	}
	for _, v := range b.Victims[:min(len(b.Victims), victimsMax)] {
		out.Victims = append(out.Victims, Victim{
			Name: f.name(v.Member), Client: f.clients[v.Member], Live: list(v.Live), Commands: list(v.Commands), Data: list(v.Data),
		})
	}
	return out
}

func (s *Server) suggestPolicy(ctx context.Context, in *oneDevice) (*answer[Suggestion], error) {
	d, err := s.deviceAt(ctx, in.Device, 0)
	if err != nil {
		return nil, err
	}
	var published []policy.Publication
	var subscribed []policy.Subscription
	for _, m := range s.o.Broker.Members() {
		if m.Owner == "device:"+in.Device || m.Identity != nil && m.Identity.Device == in.Device {
			published = append(published, m.Published...)
			subscribed = append(subscribed, m.Subscriptions...)
		}
	}
	text := policy.Suggest(devicePrincipal(&d), published, subscribed)
	return yes(Suggestion{Name: in.Device, Text: text, Published: len(published), Subscribed: len(subscribed)})
}
