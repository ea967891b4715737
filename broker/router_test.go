package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
	"fairlead/mqtt/topic"
)

// TestRoutesAgainstTwin subscribes and unsubscribes at random and asks for
// routes in between: each is what a loop over all subscriptions finds.
func TestRoutesAgainstTwin(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { twin(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func twin(t *testing.T, random *rand.Rand) {
	var r router
	var sessions [5]*subscriber
	for i := range sessions {
		sessions[i] = &subscriber{}
		sessions[i].state.ID = mqtt.ClientID(fmt.Sprint(i))
	}
	type key struct {
		session int
		filter  string
	}
	naive := map[key]*session.Subscription{}
	word := func(wild bool) string {
		words := []string{"a", "b", ""}
		if wild {
			words = append(words, "+", "+")
		}
		return words[random.IntN(len(words))]
	}
	filter := func() string {
		levels := []string{word(true)}
		for range random.IntN(3) {
			levels = append(levels, word(true))
		}
		if random.IntN(4) == 0 {
			levels = append(levels, "#")
		}
		f := strings.Join(levels, "/")
		if random.IntN(5) == 0 {
			f = "$share/g/" + f
		}
		return f
	}
	name := func() string {
		levels := []string{word(false)}
		for range random.IntN(4) {
			levels = append(levels, word(false))
		}
		return strings.Join(levels, "/")
	}
	for range 3000 {
		k := key{random.IntN(len(sessions)), filter()}
		switch random.IntN(3) {
		case 0:
			sub, _, err := session.ParseSubscription(packet.Subscription{Filter: k.filter, QoS: mqtt.QoS(random.IntN(3))}, uint32(random.IntN(3)))
			if err != nil || sub == nil {
				continue
			}
			r.subscribe(sessions[k.session], sub)
			naive[k] = sub
		case 1:
			if sub := naive[k]; sub != nil {
				r.unsubscribe(sessions[k.session], sub)
				delete(naive, k)
			}
		case 2:
			n := name()
			if n == "" {
				continue
			}
			rt, err := r.route([]byte(n))
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]bool{}
			for k, sub := range naive {
				if topic.Match(sub.Filter.Pattern, n) {
					want[describe(k.session, sub, naiveQoS(naive[k], func(yield func(*session.Subscription)) {
						for o, s := range naive {
							if o.session == k.session && !s.Filter.Shared() && topic.Match(s.Filter.Pattern, n) {
								yield(s)
							}
						}
					}))] = true
				}
			}
			if got := routeText(rt); !slices.Equal(got, sortedKeys(want)) {
				t.Fatalf("route(%q) = %q, want %q", n, got, sortedKeys(want))
			}
		}
	}
}

// naiveQoS is the QoS of a delivery by sub or, if it is not shared, by all that
// overlap.
func naiveQoS(sub *session.Subscription, each func(yield func(*session.Subscription))) mqtt.QoS {
	q := sub.QoS
	if !sub.Filter.Shared() {
		each(func(s *session.Subscription) { q = max(q, s.QoS) })
	}
	return q
}

func describe(id int, sub *session.Subscription, q mqtt.QoS) string {
	if sub.Filter.Shared() {
		return fmt.Sprintf("%s member %d qos %d", sub.Filter, id, q)
	}
	return fmt.Sprintf("%d qos %d", id, q)
}

func routeText(rt *route) []string {
	got := map[string]bool{}
	for _, t := range rt.targets {
		got[fmt.Sprintf("%s qos %d", t.to.state.ID, t.qos)] = true
	}
	for _, g := range rt.groups {
		for _, m := range g.list() {
			got[fmt.Sprintf("%s member %s qos %d", g.filter, m.to.state.ID, m.qos)] = true
		}
	}
	return sortedKeys(got)
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// TestStaleRoute unsubscribes between match and deliver: the message does not
// come any more [MQTT-3.10.4-2].
func TestStaleRoute(t *testing.T) {
	b := New(Options{})
	gone, stays := sink(b, "gone", "a/+", mqtt.QoS0), sink(b, "stays", "a/b", mqtt.QoS0)
	rt, err := b.router.route([]byte("a/b"))
	if err != nil {
		t.Fatal(err)
	}
	s := b.sessions["gone"]
	for sub := range s.state.Subscriptions() {
		b.router.unsubscribe(s, sub)
	}
	before := [2]int{gone.written, stays.written}
	w := workPool.Get().(*work)
	f := &w.fan
	f.begin(nil, w)
	f.scratch = mqtt.Message{Topic: "a/b"}
	if n := b.deliver(f, rt); n != 1 {
		t.Errorf("%d sessions have the message, want 1", n)
	}
	for _, c := range w.dirty {
		c.flush()
	}
	if gone.written != before[0] || stays.written == before[1] {
		t.Errorf("bytes written: gone %d to %d, stays %d to %d", before[0], gone.written, before[1], stays.written)
	}
}

// TestRoutesAreForgotten asks for more names than the router remembers.
func TestRoutesAreForgotten(t *testing.T) {
	b := New(Options{})
	sink(b, "s", "#", mqtt.QoS0)
	first, err := b.router.route([]byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range routerMax/2 + 10 {
		if _, err := b.router.route(fmt.Appendf(nil, "n/%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if b.router.size > routerMax {
		t.Errorf("%d routes and targets are remembered, want at most %d", b.router.size, routerMax)
	}
	if !first.stale.Load() {
		t.Error("the oldest route is still taken for good")
	}
}
