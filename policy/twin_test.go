package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

// pick returns one of the choices.
func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

// The words of random policies are few, so that rules meet.
var (
	randomLevels = []string{"a", "b", "", "d1", "+", "$x", "$SYS", "$fairlead", "devices", "{device}", "{group}", "{user}",
		"{client}", "{attr.site}", "{attr.none}", "x{group}", "{device}{attr.site}", "{{a", "{group}{device}"}
	randomWords  = []string{"a", "b", "", "d1", "$x", "$SYS", "$fairlead", "devices", "g1", "g2", "u", "d1:1", "s", "xg1", "d1s", "{a", "g1d1"}
	randomValues = []string{"", "a", "b", "d1", "g1", "s", "u", "$x", "a/b", "+", "#", "\xff", "d1:1"}
)

func randomFilter(r *rand.Rand, levels []string) string {
	n := 1 + r.IntN(4)
	var parts []string
	for range n {
		parts = append(parts, levels[r.IntN(len(levels))])
	}
	if r.IntN(3) == 0 {
		parts[n-1] = "#"
	}
	s := strings.Join(parts, "/")
	if s == "" {
		return "a"
	}
	return s
}

// randomSet makes a few policies.
func randomSet(t *testing.T, r *rand.Rand) *Set {
	var b strings.Builder
	if r.IntN(3) == 0 {
		b.WriteString("builtin: off\n")
	}
	b.WriteString("policies:\n")
	for i := range 1 + r.IntN(4) {
		who := pick(r, "everyone", "every device", "every user", "{groups: g1}", "{groups: [g1, g2]}", "{devices: [d1, a]}",
			"{users: u}", "{attrs: {site: s}}", "{groups: g2, attrs: {site: s, none: a}}", "{users: u, devices: d1}")
		fmt.Fprintf(&b, "  p%d:\n    who: %s\n", i, who)
		for _, effect := range []string{"allow", "deny"} {
			if n := r.IntN(4); n > 0 {
				fmt.Fprintf(&b, "    %s:\n", effect)
				for range n {
					b.WriteString(randomRule(r, effect == "allow"))
				}
			}
		}
		if r.IntN(3) == 0 {
			fmt.Fprintf(&b, "    limits: {subscriptions: %d, messages: %d/s}\n", 1+r.IntN(9), 1+r.IntN(9))
		}
	}
	d, err := Parse("random.yaml", []byte(b.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	s, err := Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func randomRule(r *rand.Rand, allow bool) string {
	switch r.IntN(5) {
	case 0:
		return fmt.Sprintf("      - connect: %q\n", pick(r, "*", "{device}", "{device}:*", "{user}*", "a*", "{group}", "x{attr.site}*"))
	case 1, 2:
		s := fmt.Sprintf("      - publish: %q\n", randomFilter(r, randomLevels))
		if allow && r.IntN(3) == 0 {
			s += fmt.Sprintf("        max_qos: %d\n        retain: %v\n        payload_bytes: %d\n", r.IntN(3), r.IntN(2) == 0, r.IntN(3))
		}
		return s
	}
	s := fmt.Sprintf("      - subscribe: %q\n", randomFilter(r, randomLevels))
	if allow && r.IntN(3) == 0 {
		s += fmt.Sprintf("        max_qos: %d\n", r.IntN(3))
	}
	return s
}

func randomPrincipal(r *rand.Rand) *Principal {
	p := &Principal{Device: pick(r, randomValues...), User: pick(r, randomValues...), Client: mqtt.ClientID(pick(r, randomValues...)),
		Method: pick(r, "certificate", "password", "password", "certificate", "certificate", MethodOpen, MethodOperator)}
	for range r.IntN(4) {
		p.Groups = append(p.Groups, pick(r, "g1", "g2", "a", "", "a/b", "$x", "viewer", "admin"))
	}
	if r.IntN(2) == 0 {
		p.Attrs = map[string]string{"site": pick(r, "s", "a", "", "a/b", "$x"), "none": pick(r, randomValues...)}
	}
	return p
}

// TestTwins holds each answer against its explanation: the walk through the tree
// against the loop over all rules, the index of principals against who.
func TestTwins(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	answers := make(map[Verdict]int)
	for range 1000 {
		s := randomSet(t, r)
		for range 4 {
			p := randomPrincipal(r)
			rights := s.For(p)
			checkApplying(t, s, p, rights)
			for range 30 {
				for _, v := range checkTwins(t, rights, randomFilter(r, randomWords), randomFilter(r, append(randomWords, "+", "+")), r.IntN(3), r.IntN(2) == 0, r.IntN(3)) {
					answers[v]++
				}
			}
		}
	}
	for _, v := range []Verdict{{}, noConnect, noPublish, noOwn, noQoS, noRetain, noPayload, noSubscribe} {
		if answers[v] < 50 {
			t.Errorf("%+v was the answer %d times: the random policies are too tame", v, answers[v])
		}
	}
}

// checkApplying holds the index of the Set against a loop.
func checkApplying(t *testing.T, s *Set, p *Principal, r *Rights) {
	t.Helper()
	if r.reach != reachPolicies {
		return
	}
	var want []int32
	for i, policy := range s.policies {
		if policy.who.means(p) {
			want = append(want, int32(i))
		}
	}
	if fmt.Sprint(r.policies) != fmt.Sprint(want) {
		t.Errorf("policies %v are for %+v, want %v", r.policies, p, want)
	}
}

func checkTwins(t *testing.T, r *Rights, name, filter string, qos int, retain bool, payload int) (verdicts []Verdict) {
	t.Helper()
	check := func(what string, v Verdict, e Explanation) {
		t.Helper()
		verdicts = append(verdicts, v)
		if v != e.Verdict {
			t.Errorf("%s of %+v: %+v, explained as %+v: %s", what, *r, v, e.Verdict, e)
		}
		begin := "allowed to "
		if !v.Allowed() {
			begin = "refused to "
		}
		if !strings.HasPrefix(e.String(), begin) || (e.Policy == "") != (e.Place.File == "") || !strings.Contains(e.Sentence, e.Rule) {
			t.Errorf("%s: %+v is explained by %+v", what, v, e)
		}
	}
	q := mqtt.QoS(qos)
	if topic.CheckName(name) == nil {
		check("publish "+name, r.Publish(name, q, retain, payload), r.ExplainPublish(name, q, retain, payload))
		v := noSubscribe
		if r.Receive(name) {
			v = Verdict{}
		}
		check("receive "+name, v, r.ExplainReceive(name))
	}
	if f, err := topic.ParseFilter(filter); err == nil {
		check("subscribe "+filter, r.Subscribe(f, q), r.ExplainSubscribe(f, q))
	}
	id := mqtt.ClientID(name)
	check("connect "+name, r.Connect(id, retain), r.ExplainConnect(id, retain))
	return verdicts
}

// TestSubscriptions tries every topic of a few levels: a subscription that is
// allowed sees none that may not be received.
func TestSubscriptions(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	names := everyName(3, "a", "b", "d1", "$x", "g1")
	allowed := 0
	for range 2000 {
		rights := randomSet(t, r).For(randomPrincipal(r))
		for range 10 {
			f, err := topic.ParseFilter(randomFilter(r, []string{"a", "b", "d1", "$x", "g1", "+", "+"}))
			if err != nil || !rights.Subscribe(f, mqtt.QoS0).Allowed() {
				continue
			}
			allowed++
			for _, name := range names {
				if f.Match(name) && !rights.Receive(name) {
					t.Errorf("%+v may subscribe to %s and not receive %s", *rights, f, name)
				}
			}
		}
	}
	if allowed < 1000 {
		t.Errorf("%d subscriptions were allowed: the random policies are too tame", allowed)
	}
}

// everyName lists the topic names of up to so many levels of words.
func everyName(levels int, words ...string) []string {
	names, last := []string(nil), []string{""}
	for range levels {
		var next []string
		for _, prefix := range last {
			for _, w := range words {
				next = append(next, prefix+w+"/")
			}
		}
		last = next
		for _, name := range last {
			names = append(names, strings.TrimSuffix(name, "/"))
		}
	}
	return names
}

// FuzzRights wants an error or rights from any text of policies, answers equal to
// their explanations, and no subscription that sees what may not be received.
func FuzzRights(f *testing.F) {
	f.Add("policies:\n  p:\n    who: everyone\n    allow:\n      - publish: a/{device}/#\n        max_qos: 1\n      - subscribe: [a/#, \"{group}/+\"]\n    deny:\n      - subscribe: a/{attr.site}/x\n",
		"d1", "u", "g1,g2", "s", "a/d1/x", "a/+")
	f.Add("builtin: off\npolicies: {p: {who: {groups: g, attrs: {site: s}}, allow: [{connect: \"{user}*\"}], limits: {bytes: 1MB/min}}}", "", "bob", "g", "s", "bob-1", "#")
	f.Add(string(builtinText), "$x", "a/b", ",,", "+", "$fairlead/devices/d", "$share/g/devices/d1/#")
	f.Fuzz(func(t *testing.T, text, device, user, groups, site, name, filter string) {
		d, err := Parse("f.yaml", []byte(text))
		if err != nil {
			return
		}
		s, err := Compile(d)
		if err != nil {
			return
		}
		p := &Principal{Device: device, User: user, Groups: strings.Split(groups, ","), Attrs: map[string]string{"site": site}, Client: mqtt.ClientID(name)}
		r := s.For(p)
		checkApplying(t, s, p, r)
		checkTwins(t, r, name, filter, len(name)%3, len(filter)%2 == 0, len(text))
		parsed, err := topic.ParseFilter(filter)
		if err == nil && topic.CheckName(name) == nil && parsed.Match(name) && r.Subscribe(parsed, 0).Allowed() && !r.Receive(name) {
			t.Errorf("%+v may subscribe to %s and not receive %s", p, filter, name)
		}
	})
}
