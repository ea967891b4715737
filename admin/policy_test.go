package admin

import (
	"fmt"
	"strings"
	"testing"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/broker"
	"fairlead/device"
	"fairlead/mqtt"
	"fairlead/mqtt/topic"
	"fairlead/policy"
)

const sensors = `policies:
  sensors:
    who: {groups: sensors}
    allow:
      - publish: plant/{attr.site}/{device}/#
      - subscribe: plant/+/settings
`

// plant is a fixture with three sensors, of which one is connected, and a user.
func plant(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	for _, name := range []string{"t1", "t2", "t3"} {
		f.device(t, device.Device{Name: name, Groups: []string{"sensors"}, Attrs: map[string]string{"site": "berlin"}})
	}
	if _, err := f.registry.AddUser(t.Context(), device.User{Name: "ann"}); err != nil {
		t.Fatal(err)
	}
	f.broker.members = []broker.Member{
		{Client: "ann/../x", Owner: "user:ann"},
		{
			Client: "t1:a", Owner: "device:t1", Connected: true, Remote: "192.0.2.7:1",
			Identity: &auth.Identity{Principal: policy.Principal{
				Device: "t1", Groups: []string{"sensors"}, Attrs: map[string]string{"site": "berlin"}, Method: "certificate",
			}},
			Subscriptions: []policy.Subscription{{Filter: filter(t, "plant/+/settings"), QoS: 1}},
			Published:     []policy.Publication{{Topic: "plant/berlin/t1/temperature"}, {Topic: "plant/berlin/t1/humidity"}},
		},
	}
	return f
}

func filter(t *testing.T, s string) topic.Filter {
	t.Helper()
	parsed, err := topic.ParseFilter(s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestPolicyLife(t *testing.T) {
	f := plant(t)
	c, ctx := f.local, t.Context()
	p, err := c.ApplyPolicy(ctx, "plant", []byte(sensors), 0)
	if err != nil || p.Version != 1 || p.By == "" || p.Applied == nil || p.Text != sensors {
		t.Fatalf("%+v, %v", p, err)
	}
	_, err = c.ApplyPolicy(ctx, "plant", []byte(sensors), 0)
	want(t, "one that is there", err, 412, "version 1")
	_, err = c.ApplyPolicy(ctx, "plant", []byte("policies:\n  a:\n    who: everbody\n"), AnyVersion)
	want(t, "a wrong one", err, 422, "plant:3:10")
	_, err = c.ApplyPolicy(ctx, "other", []byte(sensors), AnyVersion)
	want(t, "a policy that is there", err, 422, "sensors")
	if p, err = c.ApplyPolicy(ctx, "plant", []byte(sensors+"# later\n"), 1); err != nil || p.Version != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	if l, err := c.Policies(ctx); err != nil || len(l.Items) != 1 || l.Items[0].Version != 2 {
		t.Errorf("%+v, %v", l, err)
	}
	if p, err := c.Policy(ctx, "plant"); err != nil || !strings.HasSuffix(p.Text, "# later\n") {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = c.Policy(ctx, "nothing")
	want(t, "no such one", err, 404, "nothing")
	if err := c.RemovePolicy(ctx, "plant"); err != nil {
		t.Error(err)
	}
	want(t, "twice", c.RemovePolicy(ctx, "plant"), 404, "plant")
	e := f.entries(t, audit.Query{Action: "policy."})
	if len(e) != 3 || e[0].Before != nil || !strings.Contains(fmt.Sprintf("%s", e[1].Before), "plant/+/settings") || e[2].Action != "policy.remove" {
		t.Errorf("entries %+v", e)
	}
}

func TestPolicyCheck(t *testing.T) {
	f := plant(t)
	c, ctx := f.local, t.Context()
	if _, err := c.ApplyPolicy(ctx, "plant", []byte(sensors), 0); err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		Question
		allowed bool
		policy  string
	}{
		{Question{Device: "t1", Action: "publish", Topic: "plant/berlin/t1/temperature"}, true, "sensors"},
		{Question{Device: "t1", Action: "publish", Topic: "plant/berlin/t2/temperature"}, false, ""},
		{Question{Device: "t1", Action: "subscribe", Topic: "plant/+/settings", QoS: 2}, true, "sensors"},
		{Question{Device: "t1", Action: "subscribe", Topic: "#"}, false, ""},
		{Question{Device: "t1", Action: "receive", Topic: "plant/x/settings"}, true, "sensors"},
		{Question{Device: "t1", Action: "connect"}, true, ""},
		{Question{Device: "t1", Action: "connect", Client: "t1:b"}, true, ""},
		{Question{Device: "t1", Action: "connect", Client: "t2"}, false, ""},
		{Question{User: "ann", Action: "connect"}, true, ""},
		{Question{User: "ann", Action: "connect", Client: "t2"}, false, ""},
		{Question{User: "ann", Action: "publish", Topic: "a"}, false, ""},
		{Question{User: "ann", Action: "publish", Topic: "a", Text: "policies: {x: {who: {users: ann}, allow: [{publish: a}]}}"}, true, "x"},
		{Question{Device: "t1", Action: "publish", Topic: "plant/berlin/t1/a", Text: "policies: {}", TextFor: "plant"}, false, ""},
	} {
		a, err := c.CheckPolicy(ctx, q.Question)
		if err != nil {
			t.Errorf("%+v: %v", q, err)
			continue
		}
		if a.Allowed != q.allowed || a.Allowed != (a.Code < 0x80) || a.Sentence == "" || q.policy != "" && (a.Policy != q.policy || a.Rule == "" || a.Place == "") {
			t.Errorf("%+v: %+v", q.Question, a)
		}
	}
	for _, q := range []Question{
		{Action: "connect"}, {Device: "t1", User: "ann", Action: "connect"}, {Device: "t1", Action: "read"}, {Device: "t1", Action: "publish", Topic: "a/#"},
		{Device: "t1", Action: "publish"}, {Device: "t1", Action: "subscribe", Topic: "a#"}, {Device: "t1", Action: "connect", Topic: "a"},
		{Device: "t1", Action: "publish", Topic: "a", QoS: 3}, {Device: "t1", Action: "connect", Text: "nonsense: 1"},
	} {
		_, err := c.CheckPolicy(ctx, q)
		want(t, fmt.Sprintf("%+v", q), err, 422, "")
	}
	_, err := c.CheckPolicy(ctx, Question{Device: "t9", Action: "connect"})
	want(t, "an unknown device", err, 404, "t9")
}

func TestPolicyDiff(t *testing.T) {
	f := plant(t)
	c, ctx := f.local, t.Context()
	if _, err := c.ApplyPolicy(ctx, "plant", []byte(sensors), 0); err != nil {
		t.Fatal(err)
	}
	d, err := c.DiffPolicy(ctx, "plant", []byte(strings.Replace(sensors, "      - subscribe: plant/+/settings\n", "    limits: {messages: 10/s}\n", 1)))
	if err != nil || d.Total != 3 || d.Of != 4 || len(d.Members) != 3 {
		t.Fatalf("%+v, %v", d, err)
	}
	m := d.Members[0]
	if m.Name != "t1" || m.Client != "t1:a" || !m.Connected || len(m.Gained) != 0 || m.Limits == nil || m.Limits.After.Messages != "10/s" ||
		len(m.Lost) == 0 || m.Lost[0].Action != "subscribe" || m.Lost[0].Topic != "plant/+/settings" || !m.Lost[0].Used || m.Lost[0].Why == "" {
		t.Errorf("%+v", m)
	}
	if m := d.Members[1]; m.Name != "t2" || m.Client != "" || m.Connected || len(m.Lost) == 0 || m.Lost[0].Used {
		t.Errorf("%+v", m)
	}
	if d, err := c.DiffPolicy(ctx, "plant", []byte(sensors)); err != nil || d.Total != 0 || d.Members == nil {
		t.Errorf("no difference: %+v, %v", d, err)
	}
	_, err = c.DiffPolicy(ctx, "plant", []byte("policies: 1"))
	want(t, "a wrong one", err, 422, "plant:1:")
}

func TestBlastRadius(t *testing.T) {
	f := plant(t)
	c, ctx := f.local, t.Context()
	rank := func(above int, users bool, p Page) string {
		t.Helper()
		l, err := c.RankDevices(ctx, above, users, p)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, e := range l.Items {
			fmt.Fprintf(&b, "%s=%d ", e.Name, e.Score)
		}
		return b.String() + l.Next
	}
	if got := rank(-1, false, Page{}); got != "t1=0 t2=0 t3=0 " {
		t.Errorf("without policies: %q", got)
	}
	if got := rank(0, true, Page{}); got != "" {
		t.Errorf("above 0: %q", got)
	}
	b, err := c.BlastRadius(ctx, "t1")
	if err != nil || b.Score != 0 || len(b.Victims) != 0 || len(b.Writes) == 0 || b.Writes[0] != "devices/t1/#" {
		t.Errorf("without policies: %+v, %v", b, err)
	}
	f.broker.retained = []string{"plant/a", "devices/t1/x"}
	if _, err := c.ApplyPolicy(ctx, "wide", []byte("policies: {wide: {who: {devices: t2, users: ann}, allow: [{publish: 'plant/#', subscribe: 'plant/#'}]}, all: {who: {groups: sensors}, allow: [{publish: 'plant/{device}', subscribe: 'plant/+/settings'}]}}"), 0); err != nil {
		t.Fatal(err)
	}
	b, err = c.BlastRadius(ctx, "t2")
	if err != nil || b.Commands != 2 || b.Data != 2 || b.Live != 1 || b.Score != 6 || b.VictimsTotal != 2 || b.Victims[0].Name != "t1" || b.RetainedTotal != 1 || b.Retained[0] != "plant/a" {
		t.Errorf("with a wide policy: %+v, %v", b, err)
	}
	if got := rank(0, false, Page{Limit: 1}); got != "t2=6 1" {
		t.Errorf("the first part: %q", got)
	}
	if got := rank(-1, false, Page{Limit: 1, After: "1"}); got != "t1=1 2" {
		t.Errorf("the second part: %q", got)
	}
	if got := rank(-1, false, Page{After: "2"}); got != "t3=1 " {
		t.Errorf("the last part: %q", got)
	}
	if got := rank(6, false, Page{}); got != "" {
		t.Errorf("above 6: %q", got)
	}
	if got := rank(4, true, Page{}); !strings.Contains(got, "ann=") || !strings.Contains(got, "t2=6") {
		t.Errorf("with users: %q", got)
	}
	_, err = c.BlastRadius(ctx, "t9")
	want(t, "an unknown device", err, 404, "t9")
	s, err := c.SuggestPolicy(ctx, "t1")
	if err != nil || s.Subscribed != 1 || s.Published != 2 || s.Text != "" && !strings.Contains(s.Text, "plant/") {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := policy.Parse("suggested", []byte(s.Text)); err != nil || !strings.Contains(s.Text, "{device}") {
		t.Errorf("the suggestion is no document: %v\n%s", err, s.Text)
	}
}

func TestClients(t *testing.T) {
	f := plant(t)
	c, ctx := f.local, t.Context()
	yes, no := true, false
	for _, q := range []struct {
		filter ClientFilter
		want   string
	}{
		{ClientFilter{}, "ann/../x t1:a"}, {ClientFilter{Prefix: "t"}, "t1:a"}, {ClientFilter{Device: "t1"}, "t1:a"}, {ClientFilter{User: "ann"}, "ann/../x"},
		{ClientFilter{Connected: &yes}, "t1:a"}, {ClientFilter{Connected: &no}, "ann/../x"}, {ClientFilter{Device: "t1", Connected: &no}, ""},
	} {
		for _, limit := range []int{0, 1} {
			var ids []string
			for item, err := range All(func(after string) (*List[ClientInfo], error) { return c.Clients(ctx, q.filter, Page{after, limit}) }) {
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, item.Client)
			}
			if got := strings.Join(ids, " "); got != q.want {
				t.Errorf("%+v by %d: %q, want %q", q.filter, limit, got, q.want)
			}
		}
	}
	l, err := c.Clients(ctx, ClientFilter{Device: "t1"}, Page{})
	if err != nil || len(l.Items) != 1 {
		t.Fatalf("%+v, %v", l, err)
	}
	if i := l.Items[0]; i.Method != "certificate" || i.Remote != "192.0.2.7:1" || len(i.Subscriptions) != 1 || i.Subscriptions[0] != (Subscription{"plant/+/settings", 1}) {
		t.Errorf("%+v", i)
	}
}

// TestDisconnect names clients by whatever a Client Identifier may be.
func TestDisconnect(t *testing.T) {
	f := newFixture(t)
	ids := []string{"t1", "a/b", "a//b", "..", ".", "../../users", "%2F", "a b", "#", "ü/+", "?x=1", "a;b", "$x"}
	for _, id := range ids {
		f.broker.members = append(f.broker.members, broker.Member{Client: mqtt.ClientID(id), Connected: true})
	}
	for _, id := range ids {
		if err := f.local.DisconnectClient(t.Context(), id, ""); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for i, sent := range f.broker.sent {
		if want := ids[i] + " 0x98 an operator has ended the connection"; sent != want {
			t.Errorf("sent away %q, want %q", sent, want)
		}
	}
	want(t, "nobody", f.local.DisconnectClient(t.Context(), "nobody", "why not"), 404, "nobody")
	e := f.entries(t, audit.Query{Action: "client.disconnect"})
	if n := len(ids); len(e) != n+2 || e[n].Reason != "why not" || !strings.HasPrefix(e[n+1].Reason, "failed: ") {
		t.Errorf("entries %+v", e)
	}
}

func TestCA(t *testing.T) {
	f := newFixture(t)
	c, ctx := f.local, t.Context()
	info, err := c.CA(ctx)
	if err != nil || info.Fingerprint != f.ca.Fingerprint() || info.Root != string(f.ca.Root()) || info.Revoked != 0 || len(info.Expiries) < 3 {
		t.Fatalf("%+v, %v", info, err)
	}
	for i, e := range info.Expiries[1:] {
		if e.NotAfter.Before(info.Expiries[i].NotAfter) {
			t.Errorf("%+v: want the soonest first", info.Expiries)
		}
	}
	if root, err := c.RootPEM(ctx); err != nil || string(root) != info.Root {
		t.Errorf("root %q, %v", root, err)
	}
	if crl, err := c.CRLPEM(ctx); err != nil || !strings.HasPrefix(string(crl), "-----BEGIN X509 CRL-----") {
		t.Errorf("crl %q, %v", crl, err)
	}
}

func TestAuditLog(t *testing.T) {
	f := newFixture(t)
	c, ctx := f.local, t.Context()
	for _, name := range []string{"g1", "g2", "g3"} {
		if _, err := c.AddGroup(ctx, GroupSpec{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	var objects []string
	for e, err := range All(func(after string) (*List[AuditEntry], error) {
		return c.Audit(ctx, AuditQuery{Action: "group.", Kind: "act"}, Page{After: after, Limit: 2})
	}) {
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, e.Object)
		if !strings.Contains(string(e.After), e.Object) || len(e.Hash) != 64 || e.Actor.How != Socket {
			t.Errorf("%+v", e)
		}
	}
	if got := strings.Join(objects, " "); got != "g3 g2 g1" {
		t.Errorf("entries about %q", got)
	}
	r, err := c.VerifyAudit(ctx)
	if err != nil || !r.OK || r.Entries < 3 || r.Wrong == nil {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = c.VerifyAudit(ctx, AuditAnchor{Number: r.Last, Hash: strings.Repeat("0", 64)}); err != nil || r.OK || len(r.Wrong) != 1 {
		t.Errorf("against a wrong anchor: %+v, %v", r, err)
	}
	_, err = c.VerifyAudit(ctx, AuditAnchor{Hash: "x"})
	want(t, "no hash", err, 422, "hash")
	if l, err := c.Audit(ctx, AuditQuery{Actor: "nobody"}, Page{}); err != nil || len(l.Items) != 0 || l.Items == nil {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestDoctor(t *testing.T) {
	f := newFixture(t)
	l, err := f.local.Doctor(t.Context())
	if err != nil || len(l) != 2 || l[0].Severity != Danger || l[1].Severity != Advice {
		t.Errorf("%+v, %v: want the worst first", l, err)
	}
}
