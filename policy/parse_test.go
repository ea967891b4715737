package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"fairlead/document"
	"fairlead/mqtt"
)

func mustCompile(t testing.TB, texts ...string) *Set {
	t.Helper()
	var documents []*Document
	for i, text := range texts {
		d, err := Parse([]string{"policies.yaml", "more.yaml"}[i], []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, d)
	}
	s, err := Compile(documents...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestParseErrors holds the text of each error: place, what was found, what was
// expected.
func TestParseErrors(t *testing.T) {
	rule := func(line string) string {
		return "policies:\n  p:\n    who: everyone\n    allow:\n      - " + line + "\n"
	}
	for _, test := range []struct{ text, want string }{
		{"policy: {}\n", `f:1:1: found the key "policy", expected "policies"`},
		{"builtin: true\n", `f:1:10: found "true", expected on or off`},
		{"[a]\n", `f:1:1: found a list, expected policies`},
		{"policies: [a]\n", `f:1:11: found a list, expected policies by their names`},
		{"policies:\n  p:\n", `f:2:3: found a policy without rules, expected who, and allow, deny or limits`},
		{"policies: {p: x}\n", `f:1:15: found x, expected a policy with who, allow, deny and limits`},
		{"policies: {\"\": {who: everyone}}\n", `f:1:12: found an empty name, expected a name of a policy`},
		{"policies:\n  p:\n    who: everyone\n    alow: []\n", `f:4:5: found the key "alow", expected "allow"`},
		{"policies:\n  p:\n    allow: []\n", `f:2:3: found no who, expected who: everyone, every device, every user, or a mapping`},
		{"policies:\n  p:\n    who: nobody\n", `f:3:10: found "nobody", expected everyone, every device`},
		{"policies:\n  p:\n    who: [a]\n", `f:3:10: found a list, expected everyone, every device`},
		{"policies:\n  p:\n    who: {}\n", `f:3:10: found nobody, expected everyone, every device`},
		{"policies:\n  p:\n    who: {group: a}\n", `f:3:11: found the key "group", expected "groups"`},
		{"policies:\n  p:\n    who: {groups: [a, [b]]}\n", `f:3:23: found a list, expected a name, or a list of names`},
		{"policies:\n  p:\n    who: {groups: ''}\n", `f:3:19: found an empty name, expected one of groups`},
		{"policies:\n  p:\n    who: {attrs: {site: [b]}}\n", `f:3:25: found a list, expected the value of an attribute`},
		{"policies:\n  p:\n    who: {attrs: a}\n", `f:3:18: found a, expected attributes and their values`},
		{"policies:\n  p:\n    who: everyone\n    allow: a/b\n", `f:4:12: found a/b, expected a list of rules`},
		{rule("a/b"), `f:5:9: found no keys, expected a rule like - publish: a/b`},
		{rule("max_qos: 1"), `f:5:9: found no action, expected connect, publish or subscribe`},
		{rule("publsh: a"), `f:5:9: found the key "publsh", expected "publish"`},
		{rule("publish: a/#/b"), `f:5:18: topic filter "a/#/b": '#' at byte 2: expected alone in the last level`},
		{rule("publish: a{device}+"), `f:5:18: topic filter "a{device}+": '+' at byte 9: expected alone in its level`},
		{rule("publish: $share/g/a"), `f:5:18: found a shared subscription, expected the topic filter "a"`},
		{rule("publish: {device}/a"), `f:4:1: not YAML on or next to this line: did not find expected key`},
		{rule("publish: {device}"), `f:5:18: found a mapping, expected a topic filter, or a list of topic filters (a text that begins with "{" needs quotes)`},
		{rule("publish: #"), `f:5:17: found nothing, expected a topic filter, or a list of topic filters (a text that begins with "#" needs quotes)`},
		{rule("publish: [a, []]"), `f:5:22: found a list, expected a topic filter`},
		{rule("publish: []"), `f:5:18: found an empty list, expected a topic filter`},
		{rule("publish: a/{name}"), `f:5:18: found the variable "{name}", expected {device}, {group}, {user}, {client} or {attr.NAME}; write {{ for a brace that begins no variable`},
		{rule("publish: a/{device"), `f:5:18: found the variable "{device"`},
		{rule("publish: a/{attr.}"), `f:5:18: found the variable "{attr.}"`},
		{rule("publish: 'a/{attr.x/y}'"), `f:5:18: found the variable "{attr.x/y}"`},
		{rule("publish: 'a/{" + strings.Repeat("x", 50) + "'"), `f:5:18: found the variable "{` + strings.Repeat("x", 40) + `..."`},
		{rule("connect: 'a*b'"), `f:5:18: found "a*b", expected '*' in the end only`},
		{rule("connect: ''"), `f:5:18: found an empty text, expected a client id`},
		{rule("connect: 'x{client}'"), `f:5:18: found {client}, which every client id is, expected another variable, or "*"`},
		{rule("connect: 'x{devise}'"), `f:5:18: found the variable "{devise}"`},
		{rule("{publish: a, max_qos: 3}"), `f:5:31: found 3, expected a whole number from 0 to 2`},
		{rule("{publish: a, retain: no}"), `f:5:30: found no, expected true or false`},
		{rule("{publish: a, payload_bytes: big}"), `f:5:37: found big, expected a size like 65536, 64KiB or 8MB`},
		{rule("{subscribe: a, retain: true}"), `f:5:32: found retain in a rule without publish, expected publish`},
		{rule("{subscribe: a, payload_bytes: 1}"), `f:5:39: found payload_bytes in a rule without publish, expected publish`},
		{rule("{connect: a, max_qos: 1}"), `f:5:31: found max_qos in a rule without publish and subscribe, expected one of them`},
		{"policies:\n  p:\n    who: everyone\n    deny:\n      - publish: a\n        max_qos: 1\n", `f:6:9: found the key "max_qos", expected one of connect, publish, subscribe`},
		{"policies:\n  p:\n    who: everyone\n    limits: {mesages: 1/s}\n", `f:4:14: found the key "mesages", expected "messages"`},
		{"policies:\n  p:\n    who: everyone\n    limits: {messages: 1}\n", `f:4:24: found "1", expected a rate like 10/s, 600/min or 1000/h`},
		{"policies:\n  p:\n    who: everyone\n    limits: {messages: 0/s}\n", `f:4:24: found "0/s", expected a rate like`},
		{"policies:\n  p:\n    who: everyone\n    limits: {messages: 1/d}\n", `f:4:24: found "1/d", expected a rate like`},
		{"policies:\n  p:\n    who: everyone\n    limits: {bytes: x/s}\n", `f:4:21: found "x/s", expected a rate like 64KiB/s or 10MB/h`},
		{"policies:\n  p:\n    who: everyone\n    limits: {bytes: [x]}\n", `f:4:21: found a list, expected a rate like 64KiB/s or 10MB/h`},
		{"policies:\n  p:\n    who: everyone\n    limits: {subscriptions: 0}\n", `f:4:29: found 0, expected a whole number from 1 to 1000000`},
		{"policies:\n  p:\n    who: everyone\n    limits: {session_expiry: 10ms}\n", `f:4:30: found 10ms, expected at least 1s, because MQTT counts seconds`},
		{"policies:\n  p:\n    who: everyone\n    limits: {session_expiry: long}\n", `f:4:30: found long, expected a duration like 10s, 5m or 1h30m`},
		{"policies:\n  p: {who: everyone}\n  p: {who: everyone}\n", `f:3:3: found the key "p" twice, first in line 2, expected it once`},
		{"builtin: maybe\npolicies:\n  p: x\n", "f:1:10: found \"maybe\", expected on or off\nf:3:6: found x"},
	} {
		_, err := Parse("f", []byte(test.text))
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%q:\ngot  %v\nwant %s", test.text, err, test.want)
		}
	}
}

func TestNamesOfPolicies(t *testing.T) {
	a, errA := Parse("a.yaml", []byte("policies:\n  p: {who: everyone}\n"))
	b, errB := Parse("b.yaml", []byte("policies:\n  p: {who: everyone}\n  built-in users: {who: everyone}\n"))
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	_, err := Compile(a, b)
	want := "b.yaml:2:3: found the policy \"p\" twice, first at a.yaml:2:3, expected a name of its own\n" +
		"b.yaml:3:3: found the policy \"built-in users\" twice, first at builtin.yaml:15:3, expected a name of its own"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestLimits(t *testing.T) {
	s := mustCompile(t, `
policies:
  all:
    who: everyone
    limits: {messages: 600/min, bytes: 1MiB/s, session_expiry: 24h}
  sensors:
    who: {groups: sensors}
    limits: {messages: 20/s, subscriptions: 5, session_expiry: 1h}
  slow:
    who: {groups: slow}
    limits: {messages: 10/s, bytes: 100/h, subscriptions: 7}
`)
	for _, test := range []struct {
		groups []string
		want   Limits
	}{
		{nil, Limits{Rate{600, time.Minute}, Rate{1 << 20, time.Second}, 0, 24 * time.Hour}},
		{[]string{"sensors"}, Limits{Rate{600, time.Minute}, Rate{1 << 20, time.Second}, 5, time.Hour}},
		{[]string{"slow", "sensors"}, Limits{Rate{10, time.Second}, Rate{100, time.Hour}, 5, time.Hour}},
	} {
		if got := s.For(&Principal{Device: "d", Groups: test.groups}).Limits(); got != test.want {
			t.Errorf("limits of %v are %v, want %v", test.groups, got, test.want)
		}
	}
	if got := (Rate{600, time.Minute}).String() + " " + (Rate{}).String(); got != "600/min no limit" {
		t.Errorf("rates are written %q", got)
	}
	if got := s.For(&Principal{Method: MethodOpen}).Limits(); got != (Limits{}) {
		t.Errorf("limits of an open listener are %v, want none", got)
	}
}

// TestKeepsNothing wants a Set to outlive what it was made of.
func TestKeepsNothing(t *testing.T) {
	p := &Principal{Device: "d", Groups: []string{"g"}, Attrs: map[string]string{"site": "s"}, Client: "d"}
	s := mustCompile(t, "policies: {p: {who: everyone, allow: [{publish: 'x/{group}/{attr.site}'}]}}")
	r := s.For(p)
	p.Groups[0], p.Attrs["site"], p.Device = "other", "other", "other"
	if v := r.Publish("x/g/s", mqtt.QoS0, false, 0); !v.Allowed() {
		t.Errorf("rights change with their principal: %v", v)
	}
}

// FuzzParse wants an error with a place, or a document, from any text.
func FuzzParse(f *testing.F) {
	f.Add(string(builtinText))
	f.Add("builtin: off\npolicies:\n  p:\n    who: {groups: [a, b], attrs: {x: 1}}\n    allow:\n      - {publish: a/{{b/+, max_qos: 1, retain: false, payload_bytes: 1KiB}\n    limits: {messages: 1/s, bytes: 1KiB/min, subscriptions: 1, session_expiry: 1h}\n")
	f.Add("policies: {p: {who: everyone, deny: [{subscribe: ['#', '$SYS/#']}]}}")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Parse("f", []byte(text))
		if err != nil {
			var at *document.Error
			if !errors.As(err, &at) || at.Place.Line < 1 || !strings.Contains(at.What, "expected") && !strings.HasPrefix(at.What, "not YAML") && !strings.Contains(at.What, "topic filter") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		s, err := Compile(d)
		if err != nil {
			if !strings.Contains(err.Error(), "built-in") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		s.For(&Principal{Device: "d", User: "u", Groups: []string{"g", "h"}}).Publish("a/b", 0, false, 0)
	})
}
