package policy

import (
	"fmt"
	"strings"
	"testing"

	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

// ask puts a question in words: "publish a/b", "subscribe a/#", "receive a/b",
// "connect x"; "connect! x" if x belongs to a registered device. It wants the
// answer and its explanation to agree.
func ask(t *testing.T, r *Rights, question string) Explanation {
	t.Helper()
	verb, what, _ := strings.Cut(question, " ")
	var v Verdict
	var e Explanation
	switch verb {
	case "connect", "connect!":
		id := mqtt.ClientID(what)
		v, e = r.Connect(id, verb == "connect!"), r.ExplainConnect(id, verb == "connect!")
	case "publish":
		v, e = r.Publish(what, mqtt.QoS1, false, 10), r.ExplainPublish(what, mqtt.QoS1, false, 10)
	case "retain":
		v, e = r.Publish(what, mqtt.QoS0, true, 10), r.ExplainPublish(what, mqtt.QoS0, true, 10)
	case "large":
		v, e = r.Publish(what, mqtt.QoS0, false, 1025), r.ExplainPublish(what, mqtt.QoS0, false, 1025)
	case "subscribe":
		f, err := topic.ParseFilter(what)
		if err != nil {
			t.Fatal(err)
		}
		v, e = r.Subscribe(f, mqtt.QoS1), r.ExplainSubscribe(f, mqtt.QoS1)
	case "receive":
		if v, e = noSubscribe, r.ExplainReceive(what); r.Receive(what) {
			v = Verdict{}
		}
	default:
		t.Fatalf("no such question: %s", question)
	}
	if v != e.Verdict {
		t.Errorf("%s: %+v, explained as %+v", question, v, e)
	}
	return e
}

// want holds answers: each line is a question, after "yes " or "no ".
func want(t *testing.T, r *Rights, lines string) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		answer, question, _ := strings.Cut(strings.TrimSpace(line), " ")
		if e := ask(t, r, question); e.Verdict.Allowed() != (answer == "yes") {
			t.Errorf("%s: %s", line, e)
		}
	}
}

// TestBuiltinDevice is what a device may do that nobody wrote a policy for.
func TestBuiltinDevice(t *testing.T) {
	r := mustCompile(t).For(&Principal{Device: "t1", Groups: []string{"g"}, Method: "certificate", Client: "t1"})
	want(t, r, `
		yes connect! t1
		yes connect! t1:2
		yes connect! t1:
		no connect! t2
		no connect t10
		no connect t1x
		no connect anything
		yes publish devices/t1
		yes publish devices/t1/a/b
		yes retain devices/t1/a
		no publish devices/t10
		no publish devices/t10/a
		no publish devices
		no publish devices/t2/a
		no publish a
		no publish $fairlead/devices/t1/a
		no publish $SYS/broker/version
		no publish $SYS
		no publish $fairlead
		yes subscribe devices/t1/#
		yes subscribe devices/t1
		yes subscribe $share/g/devices/t1/+
		yes subscribe $fairlead/devices/t1/#
		no subscribe $fairlead/devices/+/#
		no subscribe $fairlead/#
		no subscribe $SYS/#
		no subscribe devices/+/#
		no subscribe devices/#
		no subscribe #
		no subscribe $share/g/#
		no subscribe +/t1/#
		yes receive devices/t1/a
		yes receive $fairlead/devices/t1/x
		no receive devices/t2/a
	`)
}

// TestNamesThatReachOver tries names that would change the rule they are put into.
func TestNamesThatReachOver(t *testing.T) {
	for _, name := range []string{"+", "#", "a/b", "a/#", "\x00", "\xff", "a+", ""} {
		r := mustCompile(t).For(&Principal{Device: name, User: "u"})
		want(t, r, "no subscribe devices/+/#\nno subscribe devices/#\nno subscribe devices/a/b/#\nno publish devices/a/b\nno publish devices/+x\nno publish devices/t1")
		if name != "" {
			want(t, r, "no connect! t1\nno connect x")
		}
	}
	want(t, mustCompile(t).For(&Principal{Device: "a:b"}), "no connect! a:b\nno connect! a\nno connect! a:b:c")
}

// TestBuiltinUser is what a person or a tool may do that nobody wrote a policy for.
func TestBuiltinUser(t *testing.T) {
	r := mustCompile(t).For(&Principal{User: "home", Method: "password"})
	want(t, r, `
		yes connect mqttjs_8f31
		yes connect homeassistant
		no connect! t1
		no connect! t1:2
		no publish a
		no publish devices/home/a
		no subscribe #
		no receive a
	`)
}

// TestBuiltinOff leaves what the documents say, and what the broker owns.
func TestBuiltinOff(t *testing.T) {
	s := mustCompile(t, "builtin: off\npolicies: {p: {who: every device, allow: [{connect: 'x-{device}', publish: '#'}, {publish: $SYS/#}]}}")
	want(t, s.For(&Principal{Device: "t1"}), `
		yes connect! x-t1
		no connect! t1
		yes publish devices/t2/a
		no publish $SYS/a
		no publish $fairlead/a
		no subscribe devices/t1/a
	`)
	want(t, s.For(&Principal{User: "u"}), "no connect u\nno publish a")
}

func TestMethods(t *testing.T) {
	s := mustCompile(t, "policies: {p: {who: everyone, deny: [{publish: '#', subscribe: '#', connect: '*'}]}}")
	want(t, s.For(&Principal{User: "u", Method: MethodOpen}), `
		yes connect! t1
		yes publish devices/t1/a
		yes publish $other/a
		no publish $SYS/a
		no publish $fairlead/a
		yes subscribe #
		yes subscribe $SYS/#
		yes receive a
	`)
	operator := func(roles ...string) *Rights {
		return s.For(&Principal{User: "o", Groups: roles, Method: MethodOperator})
	}
	for _, role := range []string{RoleOperator, RoleAdmin} {
		want(t, operator(role), "yes connect! t1\nyes publish devices/t1/a\nno publish $fairlead/a\nyes subscribe $fairlead/#\nyes receive a")
	}
	want(t, operator(RoleViewer), "yes connect o\nno publish devices/t1/a\nyes subscribe #\nyes receive a")
	want(t, operator("sensors"), "no connect o\nno publish a\nno subscribe a\nno receive a")
	want(t, s.For(&Principal{User: "o", Groups: []string{RoleAdmin}, Method: "password"}), "no connect o\nno publish a\nno subscribe a")
}

const plant = `
policies:
  sensors:
    who: {groups: sensors}
    allow:
      - publish: plant/{attr.site}/{device}/#
        max_qos: 1
        retain: false
        payload_bytes: 1KiB
      - publish: alarms/{group}
      - subscribe: [plant/+/config/#, "teams/{group}/{group}"]
    deny:
      - publish: plant/+/+/raw
      - subscribe: plant/vault/#
  berlin only:
    who: {attrs: {site: berlin}}
    allow:
      - subscribe: berlin/#
        max_qos: 0
`

func TestPolicies(t *testing.T) {
	s := mustCompile(t, plant)
	r := s.For(&Principal{Device: "t1", Groups: []string{"sensors", "night"}, Attrs: map[string]string{"site": "berlin"}})
	want(t, r, `
		yes publish plant/berlin/t1/temp
		yes publish plant/berlin/t1
		no publish plant/berlin/t2/temp
		no publish plant/paris/t1/temp
		no publish plant/berlin/t1/raw
		yes publish plant/berlin/t1/raw/x
		no retain plant/berlin/t1/temp
		no large plant/berlin/t1/temp
		yes publish alarms/night
		yes publish alarms/sensors
		yes retain alarms/night
		no publish alarms/day
		yes subscribe teams/night/night
		no subscribe teams/night/sensors
		yes subscribe plant/berlin/config/#
		no subscribe plant/+/config/#
		no subscribe plant/vault/config/x
		no receive plant/vault/config
		yes receive plant/x/config
		no subscribe berlin/#
		yes receive berlin/a
	`)
	want(t, s.For(&Principal{Device: "t1", Groups: []string{"sensors"}}), "no publish plant//t1/temp\nno publish plant/berlin/t1/x\nyes publish alarms/sensors")
	want(t, s.For(&Principal{Device: "t1"}), "no publish plant/berlin/t1/x\nno subscribe plant/x/config\nyes publish devices/t1/raw")
}

// TestExplanations holds sentences: policy, place, rule, and what it means here.
func TestExplanations(t *testing.T) {
	r := mustCompile(t, plant).For(&Principal{Device: "t1", Groups: []string{"sensors"}, Attrs: map[string]string{"site": "berlin"}})
	open := mustCompile(t).For(&Principal{Method: MethodOpen})
	viewer := mustCompile(t).For(&Principal{Method: MethodOperator, Groups: []string{RoleViewer}})
	none := mustCompile(t).For(&Principal{Method: MethodOperator})
	for _, test := range []struct {
		rights         *Rights
		question, want string
	}{
		{r, "publish plant/berlin/t1/a", `allowed to publish to "plant/berlin/t1/a": policy "sensors" (policies.yaml:6:18) says allow publish plant/{attr.site}/{device}/#, which is plant/berlin/t1/# here`},
		{r, "publish plant/x/y/raw", `refused to publish to "plant/x/y/raw": policy "sensors" (policies.yaml:13:18) says deny publish plant/+/+/raw, which has topics in common with it`},
		{r, "retain plant/berlin/t1/a", `refused to publish to "plant/berlin/t1/a": policy "sensors" (policies.yaml:6:18) says allow publish plant/{attr.site}/{device}/#, but no retained messages`},
		{r, "large plant/berlin/t1/a", `refused to publish to "plant/berlin/t1/a": policy "sensors" (policies.yaml:6:18) says allow publish plant/{attr.site}/{device}/#, but payloads of 1024 bytes at most, and this one has 1025`},
		{r, "subscribe berlin/x", `refused to subscribe to "berlin/x": policy "berlin only" (policies.yaml:18:20) says allow subscribe berlin/#, but with QoS 0 at most, and this is QoS 1`},
		{r, "subscribe $share/g/#", `refused to subscribe to "$share/g/#": policy "sensors" (policies.yaml:14:20) says deny subscribe plant/vault/#, which has topics in common with it`},
		{r, "subscribe a", `refused to subscribe to "a": no single rule of the policies that are for it ("built-in devices", "sensors", "berlin only") allows all of it`},
		{r, "publish a", `refused to publish to "a": no single rule of the policies that are for it ("built-in devices", "sensors", "berlin only") allows it`},
		{r, "publish $SYS/a", `refused to publish to "$SYS/a": only the broker publishes to $SYS and $fairlead topics`},
		{r, "receive devices/t1", `allowed to receive messages of "devices/t1": policy "built-in devices" (builtin.yaml:12:13) says allow subscribe devices/{device}/#, which is devices/t1/# here`},
		{r, "connect t1", `allowed to connect with the client id "t1": policy "built-in devices" (builtin.yaml:8:13) says allow connect {device}`},
		{r, "connect! t2:x", `refused to connect with the client id "t2:x": this client id belongs to the device "t2"`},
		{r, "connect t2", `refused to connect with the client id "t2": no single rule of the policies that are for it ("built-in devices", "sensors", "berlin only") allows it`},
		{open, "publish a", `allowed to publish to "a": an operator and whoever comes by an open listener may do everything but publish to the broker's own topics`},
		{viewer, "subscribe a", `allowed to subscribe to "a": a viewer may read everything`},
		{viewer, "publish a", `refused to publish to "a": a viewer may read only`},
		{none, "receive a", `refused to receive messages of "a": this operator has none of the roles viewer, operator and admin`},
		{mustCompile(t, "builtin: off").For(&Principal{Device: "d"}), "publish a", `refused to publish to "a": no policy is for this principal, and what nothing allows is refused`},
	} {
		if got := ask(t, test.rights, test.question).String(); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.question, got, test.want)
		}
	}
}

// TestManyPolicies names ten policies and counts the rest.
func TestManyPolicies(t *testing.T) {
	var b strings.Builder
	b.WriteString("builtin: off\npolicies:\n")
	for i := range 12 {
		fmt.Fprintf(&b, "  p%d: {who: everyone}\n", i)
	}
	got := ask(t, mustCompile(t, b.String()).For(&Principal{User: "u"}), "publish a").String()
	if want := `"p8", "p9", and 2 more) allows it`; !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want it to end in %s", got, want)
	}
}

// TestDenyFailsSafe gives deny rules variables without a usable value. A missing
// value could be any, an unusable one could reach anywhere below.
func TestDenyFailsSafe(t *testing.T) {
	s := mustCompile(t, `
policies:
  all:
    who: everyone
    allow: [{publish: "#", subscribe: "#", connect: "*"}, {publish: $other/#}]
  site:
    who: {groups: site}
    deny: [{publish: "x/{attr.site}/y"}]
  first:
    who: {groups: first}
    deny: [{publish: "{attr.site}/y"}]
  groups:
    who: {users: grouped}
    deny: [{publish: "x/{group}", subscribe: "x/{group}"}]
  ids:
    who: {groups: ids}
    deny: [{connect: "{attr.site}"}]
`)
	site := func(value string, groups ...string) *Rights {
		return s.For(&Principal{User: "u", Groups: groups, Attrs: map[string]string{"site": value}})
	}
	want(t, site("s", "site"), "no publish x/s/y\nyes publish x/t/y\nyes publish x/s")
	want(t, site("", "site"), "no publish x/s/y\nno publish x/t/y\nyes publish x/s\nyes publish x/s/y/z")
	for _, value := range []string{"a/b", "+", "#", "a\x00", "\xff"} {
		want(t, site(value, "site"), "no publish x/a/b/y\nno publish x/s/y\nno publish x\nno publish x/s\nyes publish y")
	}
	want(t, site("s", "first"), "no publish s/y\nyes publish t/y")
	want(t, site("", "first"), "no publish s/y\nno publish t/y\nyes publish t\nyes publish $other/y")
	for _, value := range []string{"a/b", "$other"} {
		want(t, site(value, "first"), "no publish s/y\nno publish t\nno publish $other/y")
	}
	grouped := func(groups ...string) *Rights { return s.For(&Principal{User: "grouped", Groups: groups}) }
	want(t, grouped("a", "b"), "no publish x/a\nno publish x/b\nyes publish x/c\nno subscribe x/+\nno subscribe #\nyes subscribe x/c")
	want(t, grouped(), "yes publish x/a\nyes subscribe x/+")
	want(t, grouped("a/b"), "no publish x/c\nno publish x/a/b\nno publish x\nyes publish y\nno subscribe x")
	want(t, site("s", "ids"), "no connect s\nyes connect t")
	want(t, site("", "ids"), "no connect s\nno connect t")
	want(t, site("a/b", "ids"), "no connect s\nno connect a/b")
	for question, note := range map[string]string{
		"publish x/q/y": `deny publish x/{attr.site}/y, which has no usable value for a variable here and so denies all of x/+/y`,
	} {
		if got := ask(t, site("", "site"), question).String(); !strings.HasSuffix(got, note) {
			t.Errorf("%s: %s", question, got)
		}
	}
	if got := ask(t, site("/", "first"), "publish q").String(); !strings.HasSuffix(got, "which has no usable value for a variable here and so denies everything") {
		t.Error(got)
	}
}

// TestLiteralBrace writes a brace that begins no variable.
func TestLiteralBrace(t *testing.T) {
	r := mustCompile(t, "policies: {p: {who: everyone, allow: [{publish: 'a/{{device}/{{{device}'}]}}").For(&Principal{Device: "d"})
	want(t, r, "yes publish a/{device}/{d\nno publish a/d/{d")
}

// TestSame says which changes of policies and principals change rights.
func TestSame(t *testing.T) {
	const text = "policies:\n  p:\n    who: {groups: g}\n    allow: [{publish: 'a/{attr.site}'}]\n  q:\n    who: {groups: h}\n    allow: [{publish: b}]\n"
	p := func() *Principal {
		return &Principal{Device: "d", Groups: []string{"g"}, Attrs: map[string]string{"site": "s"}, Client: "d"}
	}
	before := mustCompile(t, text).For(p())
	for _, test := range []struct {
		what   string
		rights *Rights
		want   bool
	}{
		{"nothing", mustCompile(t, text).For(p()), true},
		{"lines and names", mustCompile(t, "# a comment\n"+strings.Replace(text, "  p:", "  other:", 1)).For(p()), true},
		{"somebody else's policy", mustCompile(t, strings.Replace(text, "publish: b", "publish: c", 1)).For(p()), true},
		{"an attribute that no rule uses", mustCompile(t, text).For(with(p(), func(p *Principal) { p.Attrs["x"] = "y" })), true},
		{"a rule", mustCompile(t, strings.Replace(text, "a/{attr.site}", "a/#", 1)).For(p()), false},
		{"who", mustCompile(t, strings.Replace(text, "groups: g", "groups: i", 1)).For(p()), false},
		{"allow becomes deny", mustCompile(t, strings.Replace(text, "allow: [{publish: 'a", "deny: [{publish: 'a", 1)).For(p()), false},
		{"limits", mustCompile(t, text+"  r: {who: everyone, limits: {subscriptions: 1}}\n").For(p()), false},
		{"builtin", mustCompile(t, "builtin: off\n"+text).For(p()), false},
		{"an attribute", mustCompile(t, text).For(with(p(), func(p *Principal) { p.Attrs["site"] = "t" })), false},
		{"a group", mustCompile(t, text).For(with(p(), func(p *Principal) { p.Groups = append(p.Groups, "z") })), false},
		{"the device", mustCompile(t, text).For(with(p(), func(p *Principal) { p.Device = "e" })), false},
		{"the method", mustCompile(t, text).For(with(p(), func(p *Principal) { p.Method = MethodOpen })), false},
	} {
		if got := before.Same(test.rights); got != test.want {
			t.Errorf("%s changes: Same = %v, want %v", test.what, got, test.want)
		}
		if got := test.rights.Same(before); got != test.want {
			t.Errorf("%s changes: Same the other way = %v, want %v", test.what, got, test.want)
		}
	}
}

func with(p *Principal, change func(*Principal)) *Principal {
	change(p)
	return p
}

func TestName(t *testing.T) {
	for want, p := range map[string]Principal{"d": {Device: "d", User: "u", Client: "c"}, "u": {User: "u", Client: "c"}, "c": {Client: "c"}} {
		if got := p.Name(); got != want {
			t.Errorf("the name of %+v is %q, want %q", p, got, want)
		}
	}
	for id, want := range map[string]string{"t1": "t1", "t1:x": "t1", "t1:x:y": "t1", ":x": "", "": ""} {
		if got := NameOf(id); got != want {
			t.Errorf("NameOf(%q) = %q, want %q", id, got, want)
		}
	}
}

// TestNoAllocation holds the promise that answers do not allocate.
func TestNoAllocation(t *testing.T) {
	r := thousandRules(t, true).For(member(49))
	filter := topic.Filter{Pattern: "plant/berlin/area-507/+/state"}
	n := testing.AllocsPerRun(100, func() {
		sink = r.Publish("devices/sensor-000049/telemetry", mqtt.QoS1, false, 100).Allowed() &&
			r.Publish("plant/berlin/area-507/sensor-000049/t", mqtt.QoS1, false, 100).Allowed() &&
			r.Subscribe(filter, mqtt.QoS1).Allowed() && r.Receive("plant/berlin/area-507/x/state")
	})
	if n != 0 || !sink {
		t.Errorf("four answers allocate %v times, and are all yes: %v", n, sink)
	}
}
