package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

func subscribed(filters ...string) (list []Subscription) {
	for _, s := range filters {
		f, err := topic.ParseFilter(s)
		if err != nil {
			panic("a test's topic filter is wrong: " + err.Error())
		}
		list = append(list, Subscription{Filter: f})
	}
	return list
}

const house = `
policies:
  lamps:
    who: {groups: lamps}
    allow:
      - subscribe: scenes/#
  gateways:
    who: {groups: gateways}
    allow:
      - publish: devices/+/set
        subscribe: devices/+/state
      - publish: scenes/#
    deny:
      - publish: devices/safe/#
  panel:
    who: {users: panel}
    allow:
      - subscribe: "#"
`

func houseFleet(t *testing.T) *Fleet {
	return NewFleet(mustCompile(t, house), []Member{
		{Principal: &Principal{Device: "lamp1", Groups: []string{"lamps"}}, Connected: true, Subscribed: subscribed("devices/lamp1/#", "scenes/+")},
		{Principal: &Principal{Device: "lamp2", Groups: []string{"lamps"}}},
		{Principal: &Principal{Device: "gate", Groups: []string{"gateways"}}, Connected: true, Subscribed: subscribed("devices/gate/#")},
		{Principal: &Principal{Device: "safe"}, Connected: true, Subscribed: subscribed("devices/safe/#")},
		{Principal: &Principal{User: "panel"}, Connected: true, Subscribed: subscribed("#")},
	}, []string{"devices/lamp1/state", "scenes/now", "devices/safe/state", "devices/safe/code"})
}

func TestBlastRadius(t *testing.T) {
	f := houseFleet(t)
	got := f.BlastRadius(2)
	want := &Blast{
		Exposure:    Exposure{Member: 2, Commands: 2, Data: 3, Live: 2},
		Writes:      []string{"devices/+/set", "devices/gate/#", "scenes/#"},
		Reads:       []string{"$fairlead/devices/gate/#", "devices/+/state", "devices/gate/#"},
		WriteDenies: []string{"devices/safe/#"},
		ReadDenies:  []string{},
		Retained:    []string{"devices/lamp1/state", "devices/safe/state"},
		Victims: []Victim{
			{Member: 0, Live: []string{"devices/lamp1/set", "scenes/+"}, Commands: []string{"devices/lamp1/set", "scenes/#"}, Data: []string{"devices/lamp1/state"}},
			{Member: 4, Live: []string{"devices/+/set", "devices/gate/#", "scenes/#"}},
			{Member: 1, Commands: []string{"devices/lamp2/set", "scenes/#"}, Data: []string{"devices/lamp2/state"}},
			{Member: 3, Data: []string{"devices/safe/state"}},
		},
	}
	if len(got.ReadDenies) == 0 {
		got.ReadDenies = []string{}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if score := got.Score(); score != 7 {
		t.Errorf("the score is %d, want 7", score)
	}
	if b := f.BlastRadius(0); b.Commands != 0 || b.Data != 1 || b.Live != 1 || b.Victims[0].Member != 4 || !slices.Equal(b.Victims[1].Data, []string{"scenes/#"}) {
		t.Errorf("a lamp reaches %+v, want the panel and what the gateway says of scenes", b)
	}
}

func TestRank(t *testing.T) {
	var got []string
	f := houseFleet(t)
	for _, e := range f.Rank() {
		got = append(got, fmt.Sprintf("%s %d", f.members[e.Member].Principal.Name(), e.Score()))
	}
	if want := "gate 7, panel 4, lamp1 1, lamp2 1, safe 0"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestFleetTwins holds the ranking against the blast radius of each member, and
// both against every topic of a few levels: nothing that can be reached is missed.
func TestFleetTwins(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	names := everyName(3, "a", "b", "d1", "g1", "devices")
	reached := 0
	for range 150 {
		s := randomSet(t, r)
		var members []Member
		for range 12 {
			m := Member{Principal: randomPrincipal(r), Connected: r.IntN(2) == 0}
			m.Subscribed = subscribed(randomFilter(r, []string{"a", "b", "+", "d1", "devices"}))
			members = append(members, m)
		}
		f := NewFleet(s, members, names)
		for _, e := range f.Rank() {
			b := f.BlastRadius(e.Member)
			if b.Exposure != e {
				t.Fatalf("ranked as %+v, its blast radius is %+v", e, b.Exposure)
			}
			reached += checkBlast(t, s, members, names, b)
		}
	}
	if reached < 1000 {
		t.Errorf("%d victims are reached: the random policies are too tame", reached)
	}
}

// checkBlast tries every name on every pair of members.
func checkBlast(t *testing.T, s *Set, members []Member, names []string, b *Blast) (reached int) {
	t.Helper()
	thief := s.For(members[b.Member].Principal)
	own := reachOf(thief).own
	for i, m := range members {
		other := s.For(m.Principal)
		otherOwn := reachOf(other).own
		for _, name := range names {
			writes, reads := thief.Publish(name, 0, false, 0).Allowed(), thief.Receive(name)
			device := m.Principal.Device != "" && i != b.Member && (!covered(name, own) || covered(name, otherOwn))
			check := func(kind string, hit bool, list func(Victim) []string) {
				if !hit {
					return
				}
				reached++
				if !slices.ContainsFunc(b.Victims, func(v Victim) bool { return v.Member == i && len(list(v)) > 0 }) {
					t.Errorf("%s of %+v is reached by %s and not listed for %+v", kind, m.Principal, name, members[b.Member].Principal)
				}
			}
			live := i != b.Member && m.Connected && m.Subscribed[0].Filter.Match(name)
			check("live", writes && live, func(v Victim) []string { return v.Live })
			check("commands", device && writes && other.Receive(name), func(v Victim) []string { return v.Commands })
			check("data", device && reads && other.Publish(name, 0, false, 0).Allowed(), func(v Victim) []string { return v.Data })
		}
	}
	return reached
}

// TestRankWide ranks a fleet in which many share wide filters.
func TestRankWide(t *testing.T) {
	s := mustCompile(t, `
policies:
  all:
    who: every device
    allow: [{subscribe: devices/+/state}, {publish: news/a}, {subscribe: news/#}]
    deny: [{subscribe: devices/d0003/#}]
`)
	var members []Member
	for i := range 200 {
		members = append(members, Member{Principal: &Principal{Device: fmt.Sprintf("d%04d", i)}})
	}
	f := NewFleet(s, members, nil)
	for _, e := range f.Rank() {
		b := f.BlastRadius(e.Member)
		if b.Exposure != e || e.Commands != 199 || e.Data != 199 {
			t.Fatalf("ranked as %+v, its blast radius is %+v, want 199 of each", e, b.Exposure)
		}
	}
}

// TestCommon holds the filter that two filters have in common against both, on
// every name of a few levels.
func TestCommon(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	names := everyName(4, "a", "b", "", "$x")
	for range 3000 {
		a, b := randomFilter(r, []string{"a", "b", "", "+", "+", "$x"}), randomFilter(r, []string{"a", "b", "", "+", "+", "$x"})
		if !topic.Overlap(a, b) {
			continue
		}
		c := common(a, b)
		for _, name := range names {
			if name != "" && topic.Match(c, name) != (topic.Match(a, name) && topic.Match(b, name)) {
				t.Fatalf("common(%q, %q) = %q, which is wrong for %q", a, b, c, name)
			}
		}
	}
}

func TestDiff(t *testing.T) {
	members := houseFleet(t).members
	members[2].Published = []Publication{{Topic: "devices/lamp1/set"}, {Topic: "scenes/now", Retain: true}}
	members[4].Principal.Client = "panel-7"
	after := strings.NewReplacer("devices/+/set", "devices/lamp2/set", "subscribe: scenes/#", "subscribe: scenes/now",
		"      - subscribe: \"#\"", "      - subscribe: \"#\"\n        max_qos: 0\n    deny:\n      - {subscribe: devices/safe/#, connect: panel*}\n    limits: {subscriptions: 3}").Replace(house)
	changes := Diff(mustCompile(t, house), mustCompile(t, after), members)
	var got []string
	for _, c := range changes {
		name := members[c.Member].Principal.Name()
		for _, d := range c.Lost {
			got = append(got, fmt.Sprintf("%s loses %v used=%v", name, d, d.Used))
		}
		for _, d := range c.Gained {
			got = append(got, fmt.Sprintf("%s gains %v used=%v", name, d, d.Used))
		}
		if c.Limits[0] != c.Limits[1] {
			got = append(got, fmt.Sprintf("%s has %d subscriptions instead of %d", name, c.Limits[1].Subscriptions, c.Limits[0].Subscriptions))
		}
	}
	want := []string{
		`lamp1 loses subscribe scenes/+ (refused to subscribe to "scenes/+": no single rule of the policies that are for it ("built-in devices", "lamps") allows all of it) used=true`,
		`lamp1 loses subscribe scenes/# used=false`,
		`lamp2 loses subscribe scenes/# used=false`,
		`gate loses publish devices/lamp1/set (refused to publish to "devices/lamp1/set": no single rule of the policies that are for it ("built-in devices", "gateways") allows it) used=true`,
		`gate loses publish devices/+/set used=false`,
		`panel loses connect panel-7 (refused to connect with the client id "panel-7": policy "panel" (policies.yaml:21:46) says deny connect panel*) used=true`,
		`panel loses subscribe # (refused to subscribe to "#": policy "panel" (policies.yaml:21:21) says deny subscribe devices/safe/#, which has topics in common with it) used=true`,
		`panel loses subscribe devices/safe/# used=false`,
		`panel has 3 subscriptions instead of 0`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, c := range Diff(mustCompile(t, after), mustCompile(t, house), members) {
		if c.Lost != nil || len(c.Gained) == 0 {
			t.Errorf("the way back: %+v", c)
		}
	}
	if again := Diff(mustCompile(t, house), mustCompile(t, "# the same\n"+house), members); again != nil {
		t.Errorf("nothing changes, and %+v", again)
	}
}

// TestDiffTwin holds a diff against every topic of a few levels: whoever gains or
// loses one is listed.
func TestDiffTwin(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	names := everyName(2, "a", "b", "d1", "$x", "devices")
	changed := 0
	for range 600 {
		before, after := randomSet(t, r), randomSet(t, r)
		m := Member{Principal: randomPrincipal(r)}
		changes := Diff(before, after, []Member{m})
		b, a := before.For(m.Principal), after.For(m.Principal)
		for _, name := range names {
			had, has := b.Receive(name), a.Receive(name)
			if had == has {
				continue
			}
			changed++
			list := []Difference(nil)
			if len(changes) == 1 {
				list = map[bool][]Difference{true: changes[0].Gained, false: changes[0].Lost}[has]
			}
			if !slices.ContainsFunc(list, func(d Difference) bool { return d.Action == Subscribe && topic.Match(d.Topic, name) }) {
				t.Errorf("%+v: receive %s was %v and is %v, and the diff says %+v", m.Principal, name, had, has, changes)
			}
		}
	}
	if changed < 500 {
		t.Errorf("%d topics change: the random policies are too tame", changed)
	}
}

func TestSuggest(t *testing.T) {
	p := &Principal{Device: "t1", Groups: []string{"sensors"}, Attrs: map[string]string{"site": "berlin", "odd}": "odd"}}
	published := []Publication{
		{Topic: "devices/t1/state"}, {Topic: "plant/berlin/t1/temp", QoS: mqtt.QoS1, PayloadBytes: 100}, {Topic: "plant/berlin/t1/hum", PayloadBytes: 129},
		{Topic: "teams/sensors/{x}", Retain: true}, {Topic: "odd/t10"}, {Topic: "$SYS/x"},
	}
	for i := range SiblingsMax + 1 {
		published = append(published, Publication{Topic: fmt.Sprintf("probe/%d/t1", i), QoS: mqtt.QoS1})
	}
	got := Suggest(p, published, append(subscribed("devices/t1/#", "$share/g/plant/berlin/#"), Subscription{topic.Filter{Pattern: "cmd/t1/+"}, mqtt.QoS2}))
	want := `policies:
  "suggested for t1":
    who:
      devices: ["t1"]
    allow:
      - publish:
          - "odd/t10"
          - "plant/{attr.site}/{device}/hum"
        max_qos: 0
        retain: false
        payload_bytes: 256
      - publish:
          - "teams/{group}/{{x}"
        max_qos: 0
        retain: true
        payload_bytes: 0
      - publish:
          - "plant/{attr.site}/{device}/temp"
          - "probe/+/{device}"
        max_qos: 1
        retain: false
        payload_bytes: 128
      - subscribe:
          - "plant/{attr.site}/#"
        max_qos: 0
      - subscribe:
          - "cmd/{device}/+"
        max_qos: 2
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := Suggest(p, published[:1], subscribed("devices/t1/#")); got != "" {
		t.Errorf("what the built-in policies allow leads to\n%s", got)
	}
	if got := Suggest(&Principal{Client: "c"}, published, nil); got != "" {
		t.Errorf("nobody gets\n%s", got)
	}
	if got := Suggest(&Principal{User: "u"}, published[:1], nil); !strings.Contains(got, "users: [\"u\"]") {
		t.Errorf("a user gets\n%s", got)
	}
}

// FuzzSuggest wants a document that allows all that was seen, whatever it was.
func FuzzSuggest(f *testing.F) {
	f.Add("t1", "u", "g", "site", "berlin", "plant/berlin/t1,x/{group}/g,a//b", "plant/+/t1,#", 3)
	f.Add("", "a/b\"\\", "{", "x.y", "x", "{x/\u0085/\ufeff,\u007f/\U000e0001", "$share/g/x", 40)
	f.Fuzz(func(t *testing.T, device, user, group, key, value, topics, filters string, many int) {
		p := &Principal{Device: device, User: user, Groups: []string{group}, Attrs: map[string]string{key: value}}
		var published []Publication
		for i, name := range strings.Split(topics, ",") {
			for j := range max(1, min(many, 20)) {
				if name += strings.Repeat("/x", j%2) + fmt.Sprint(j); topic.CheckName(name) == nil && !brokers(name) {
					published = append(published, Publication{name, mqtt.QoS((i + j) % 3), j%3 == 0, i * j})
				}
			}
		}
		var subs []Subscription
		for i, s := range strings.Split(filters, ",") {
			if f, err := topic.ParseFilter(s); err == nil {
				subs = append(subs, Subscription{f, mqtt.QoS(i % 3)})
			}
		}
		text := Suggest(p, published, subs)
		if text == "" && (p.Device == "" && p.User == "" || strings.ContainsRune(p.Name(), '\ufffd') || len(published)+len(subs) == 0) {
			return
		}
		r := mustCompile(t, text).For(p)
		if strings.ToValidUTF8(p.Name(), "") != p.Name() {
			return
		}
		for _, m := range published {
			if v := r.Publish(m.Topic, m.QoS, m.Retain, m.PayloadBytes); !v.Allowed() {
				t.Errorf("%+v is %v by\n%s", m, v, text)
			}
		}
		for _, s := range subs {
			if v := r.Subscribe(s.Filter, s.QoS); !v.Allowed() {
				t.Errorf("%+v is %v by\n%s", s, v, text)
			}
		}
	})
}
