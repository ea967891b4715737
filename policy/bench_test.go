package policy

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

// thousandRules makes a set of 1,000 rules. Spread, they are 100 policies for one
// group each; otherwise they are one policy for everyone.
func thousandRules(tb testing.TB, spread bool) *Set {
	var b strings.Builder
	b.WriteString("policies:\n")
	for i := range 1000 {
		if i == 0 || spread && i%10 == 0 {
			who := "everyone"
			if spread {
				who = fmt.Sprintf("{groups: group-%d}", i/10)
			}
			fmt.Fprintf(&b, "  policy %d:\n    who: %s\n    deny:\n      - publish: plant/+/area-%d/{device}/secret\n        subscribe: plant/+/area-%d/{device}/secret\n    allow:\n", i, who, i, i)
			continue
		}
		fmt.Fprintf(&b, "      - publish: plant/{attr.site}/area-%d/{device}/#\n        subscribe: plant/{attr.site}/area-%d/+/state\n", i, i)
	}
	d, err := Parse("bench.yaml", []byte(b.String()))
	if err != nil {
		tb.Fatal(err)
	}
	s, err := Compile(d)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func member(i int) *Principal {
	return &Principal{Device: fmt.Sprintf("sensor-%06d", i), Method: "certificate", Attrs: map[string]string{"site": "berlin"},
		Groups: []string{fmt.Sprintf("group-%d", i%100), fmt.Sprintf("group-%d", (i+7)%100), "group-50"}}
}

var sink bool

func BenchmarkRights(b *testing.B) {
	for _, spread := range []bool{true, false} {
		r := thousandRules(b, spread).For(member(49))
		far := "plant/berlin/area-507/sensor-000049/temperature"
		filter := topic.Filter{Pattern: "plant/berlin/area-507/+/state"}
		name := map[bool]string{true: "spread", false: "everyone"}[spread]
		for _, bench := range []struct {
			name string
			ask  func() bool
			want bool
		}{
			{"publish own", func() bool { return r.Publish("devices/sensor-000049/telemetry", mqtt.QoS1, false, 100).Allowed() }, true},
			{"publish", func() bool { return r.Publish(far, mqtt.QoS1, false, 100).Allowed() }, true},
			{"publish denied", func() bool {
				return r.Publish("plant/x/area-500/sensor-000049/secret", mqtt.QoS1, false, 100).Allowed()
			}, false},
			{"publish refused", func() bool { return r.Publish("devices/sensor-000050/telemetry", mqtt.QoS1, false, 100).Allowed() }, false},
			{"subscribe", func() bool { return r.Subscribe(filter, mqtt.QoS1).Allowed() }, true},
			{"receive", func() bool { return r.Receive("plant/berlin/area-507/sensor-7/state") }, true},
		} {
			b.Run(name+"/"+bench.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					sink = bench.ask()
				}
				if sink != bench.want {
					b.Errorf("the answer is %v, want %v", sink, bench.want)
				}
			})
		}
	}
}

func BenchmarkFor(b *testing.B) {
	s := thousandRules(b, true)
	p := member(49)
	b.ReportAllocs()
	for b.Loop() {
		sink = s.For(p) != nil
	}
}

// BenchmarkBytes measures what the rights of 100,000 devices cost.
func BenchmarkBytes(b *testing.B) {
	s := thousandRules(b, true)
	principals := make([]*Principal, 100_000)
	for i := range principals {
		principals[i] = member(i)
	}
	rights := make([]*Rights, len(principals))
	var before, after runtime.MemStats
	for b.Loop() {
		clear(rights)
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i, p := range principals {
			rights[i] = s.For(p)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(rights)), "bytes/rights")
	runtime.KeepAlive(rights)
}

// BenchmarkRank ranks a fleet of 20,000 devices, of which each may read the state
// of all others.
func BenchmarkRank(b *testing.B) {
	d, err := Parse("bench.yaml", []byte("policies: {p: {who: every device, allow: [{subscribe: devices/+/state}], deny: [{publish: devices/+/secret}]}}"))
	if err != nil {
		b.Fatal(err)
	}
	s, err := Compile(d)
	if err != nil {
		b.Fatal(err)
	}
	members := make([]Member, 20_000)
	for i := range members {
		members[i] = Member{Principal: member(i), Connected: true, Subscribed: []Subscription{{Filter: topic.Filter{Pattern: fmt.Sprintf("devices/sensor-%06d/#", i)}}}}
	}
	for b.Loop() {
		sink = NewFleet(s, members, nil).Rank()[0].Data == len(members)-1
	}
	if !sink {
		b.Error("not every device reads every other")
	}
}
