package broker

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// TestEqual plays each history with no store, with store/mem and with store/pebble,
// and at places of the history that are the same in all lets nothing happen, all
// connections be lost, the broker be restarted, or crash. The clients, which then
// connect again, must not notice: what those with a Session that outlives its
// connection have seen in the end is the same in all runs. That is, for each of them,
//
//   - the messages of each line, which is publisher, topic, QoS of both sides and RETAIN
//     flag, in their order, with their Subscription Identifiers; at QoS 2 as often as
//     they came;
//   - the answers to its CONNECTs, SUBSCRIBEs and UNSUBSCRIBEs;
//   - probes that are sent to all topics at the end, and so its subscriptions;
//
// and the Retained Messages at the end, to the second at which it comes. What MQTT
// leaves open is left out, or made the same:
//
//   - QoS 1 messages that come again, with DUP or without: the first time counts
//     (4.3.2). A client acknowledges at once what it has acknowledged before, else a
//     repetition would take the place of another message in its window, and that might
//     expire meanwhile.
//   - The order of lines among each other: order is promised for one topic, one QoS and
//     one publisher (4.6).
//   - QoS 0, which may be lost (4.3.1).
//   - Sessions that end with their connection, and so with the broker: client clean has
//     one, and publishes to the others. It shares no subscription, has no Will, and the
//     broker does not end while it waits for an answer.
//   - Which member of a Shared Subscription gets a message (4.8.2), and so at which QoS:
//     what all of them have got is compared, and the model says whether it is once. Their Sessions never end, or a message would end with one of them
//     and not with another; nor do their messages expire.
//   - Wills without a delay, which a lost connection publishes and no lost connection
//     does not: all have one that is longer than the client is away (3.1.3.2.2).
//   - Whether a message that was sent before, and has expired since, comes again and so
//     takes a place in the window of a client that has not acknowledged it (3.3.2.3.3):
//     where messages expire, windows are wide.
//   - Full queues: what is under way to a client waits in its queue again after a crash,
//     and counts. The queues are not short.
var (
	equalN    = flag.Int("equal.n", 25, "how many histories TestEqual plays")
	equalSeed = flag.Uint64("equal.seed", 1, "the seed of the first of them")
)

func TestEqual(t *testing.T) {
	for i := range *equalN {
		seed := *equalSeed + uint64(i)
		h := newSteadyHistory(seed)
		err := h.differs(t)
		if err == nil {
			continue
		}
		h.shrink(func(less *history) bool { return less.differs(t) != nil })
		t.Errorf("go test ./broker -run TestEqual -equal.n=1 -equal.seed=%d\nat first: %v\nshrunk: %v\n%v",
			seed, err, h.differs(t), h)
		return
	}
}

// ending is what happens at the places of a history where the broker may end.
type ending string

const (
	noEnding    ending = "nothing happens"
	cutOff      ending = "all connections are lost"
	restarted   ending = "the broker is restarted"
	crashed     ending = "the broker crashes"
	cleanClient        = 4
)

// runs are the ways in which a history is played. The first is the measure of the
// others.
var runs = []struct {
	engine
	ending
}{
	{noStore, noEnding}, {noStore, cutOff},
	{inMemory, noEnding}, {inMemory, restarted}, {inMemory, crashed},
	{onDisk, noEnding}, {onDisk, restarted}, {onDisk, crashed},
}

// differs plays the history in all ways and returns what is different, or nil.
func (h *history) differs(t *testing.T) error {
	var want view
	for _, r := range runs {
		h.engine, h.ending = r.engine, r.ending
		var got view
		err := h.on(t, func(s *stage) {
			s.playEndings(h.steps)
			s.finish()
			s.probe()
			got = s.view()
		})
		if err != nil {
			return fmt.Errorf("%s, %s: %w", r.engine, r.ending, err)
		}
		if want == nil {
			want = got
		}
		if line := want.difference(got); line != "" {
			return fmt.Errorf("%s, %s: %s:\n got %v\nwant %v, as with %s if %s",
				r.engine, r.ending, line, got[line], want[line], runs[0].engine, runs[0].ending)
		}
	}
	return nil
}

// playEndings takes the steps. A crash may come while the journal holds the next step
// back.
func (s *stage) playEndings(steps []deed) {
	for i := 0; i < len(steps); i++ {
		x := steps[i]
		s.model.at = fmt.Sprintf("step %d, %v", i, x)
		if x.do != doEnding {
			s.step(x)
			continue
		}
		if during := x.clean && s.ending == crashed && i+1 < len(steps); during && s.mayCut(steps[i+1]) {
			i++
			s.hold()
			s.step(steps[i])
		}
		s.end(x.n)
	}
	s.model.at = "the end"
}

// mayCut reports whether the broker may end during the step: whoever takes it does the
// rest when it is back.
func (s *stage) mayCut(x deed) bool {
	return x.who != cleanClient && (x.do == doAcks || x.do == doPublish && x.qos > mqtt.QoS0 || x.do == doRetain && x.qos > mqtt.QoS0)
}

// end ends all connections in the history's way. Clients connect again.
func (s *stage) end(keep int) {
	var back []*device
	for _, d := range s.devices {
		if d.link != nil {
			back = append(back, d)
		}
	}
	switch s.ending {
	case noEnding:
		return
	case cutOff:
		for _, d := range back {
			d.disconnect(deed{n: 2, expiry: -1})
		}
		s.settle()
	case restarted:
		s.restart(keep)
	case crashed:
		s.crash(keep)
	}
	for _, d := range back {
		d.again()
		s.settle()
	}
}

// probe publishes a message to each topic.
func (s *stage) probe() {
	d := newDevice(s, "probe", mqtt.V5)
	s.devices = append(s.devices, d)
	d.connect(deed{do: doConnect, clean: true, will: -1})
	s.settle()
	for _, topic := range slices.Concat(plainTopics, retainTopics, []string{sharedTopic, "w/probe"}) {
		d.publish(deed{do: doPublish, name: topic, qos: mqtt.QoS2, bytes: 10})
		s.settle()
	}
}

// view is what clients have seen, in lines of things that have an order.
type view map[string][]string

func (s *stage) view() view {
	v := view{"ends at": {time.Now().String()}}
	for _, d := range s.devices {
		if d.name == "reader" {
			for _, topic := range retainTopics {
				v.add("retained", topic+": "+d.retained[topic])
			}
		}
	}
	for i, d := range s.devices[:clients] {
		if i != cleanClient {
			for _, x := range d.view {
				v.see(d.name, x)
			}
		}
	}
	for line, list := range v {
		if strings.HasPrefix(line, "share") {
			slices.Sort(list)
		}
	}
	return v
}

func (v view) add(line, what string) { v[line] = append(v[line], what) }

func (v view) see(who string, x sight) {
	if x.kind != packet.PUBLISH {
		v.add(who+": answers", fmt.Sprint(x.kind, " present=", x.present, " ", x.reasons))
		return
	}
	if x.qos == mqtt.QoS0 {
		return
	}
	line := fmt.Sprintf("%s: %s of %s, QoS %d as %d, retain=%v", who, x.topic, x.by, x.of, x.qos, x.retain)
	what := fmt.Sprint(x.key, " via ", x.via)
	if x.topic == sharedTopic {
		line, what = fmt.Sprint("share ", x.via), x.key
	}
	if x.qos == mqtt.QoS2 && x.topic != sharedTopic || !slices.Contains(v[line], what) {
		v.add(line, what)
	}
}

// difference returns a line that is not the same in both, or "".
func (v view) difference(w view) string {
	lines := slices.Sorted(maps.Keys(v))
	for line := range w {
		if v[line] == nil {
			lines = append(lines, line)
		}
	}
	for _, line := range lines {
		if !slices.Equal(v[line], w[line]) {
			return line
		}
	}
	return ""
}

// newSteadyHistory is a history without trouble.
func newSteadyHistory(seed uint64) *history {
	r := &steadyTaste{taste: newTaste(seed)}
	h := &history{often: r.IntN(2) == 0, limit: roomy, steady: true}
	r.expires, r.shares = r.IntN(2) == 0, r.IntN(2) == 0
	if r.expires && !r.shares && r.IntN(2) == 0 {
		h.limit = aging
	}
	if !r.shares {
		r.topics, r.filters = plainTopics, slices.DeleteFunc(slices.Clone(filters), isShared)
	}
	for who := range clients {
		h.steps = append(h.steps, r.connect(who))
		for range 1 + r.IntN(3) {
			h.steps = append(h.steps, r.subscribe(who))
		}
	}
	begun := len(h.steps)
	for range 10 + r.IntN(40) {
		h.steps = append(h.steps, r.step())
	}
	if !r.expires {
		h.steps = append(h.steps, r.owed()...)
	}
	for range 1 + r.IntN(2) {
		at := begun + r.IntN(len(h.steps)-begun+1)
		h.steps = slices.Insert(h.steps, at, deed{do: doEnding, n: r.IntN(2), clean: r.IntN(2) == 0})
	}
	return h
}

// steadyTaste is that of a history of which all is known that clients see, but for
// what MQTT leaves open.
type steadyTaste struct {
	*taste
	shares  bool // there are Shared Subscriptions
	expires bool // messages expire
}

// member reports whether the client may be a member of a Shared Subscription.
func (r *steadyTaste) member(who int) bool { return r.shares && (who == 1 || who == 3) }

func (r *steadyTaste) connect(who int) deed {
	x := r.taste.connect(who)
	x.expiry = pick(r.taste, 8, forever, forever, forever)
	if x.will >= 0 {
		x.will = 5
	}
	if r.expires {
		x.n = 0
	}
	switch {
	case who == cleanClient:
		x.clean, x.expiry, x.will = true, 0, -1
	case who == oldClient: // it knows no delay
		x.clean, x.will = false, -1
	case r.member(who):
		x.clean, x.expiry = false, forever
	}
	return x
}

func (r *steadyTaste) disconnect(who int) deed {
	x := r.taste.disconnect(who)
	if r.member(who) {
		x.expiry = -1
	}
	return x
}

func (r *steadyTaste) subscribe(who int) deed {
	x := r.taste.subscribe(who)
	if isShared(x.name) && !r.member(who) {
		x.name, x.sub.noLocal = pick(r.taste, "a/#", "+/b", "r/#", "r/1"), false
	}
	return x
}

func (r *steadyTaste) publish(who, n, bytes int) deed {
	x := r.taste.publish(who, n, bytes)
	if x.name == sharedTopic || !r.expires {
		x.expiry = 0
	}
	return x
}

func (r *steadyTaste) retain(who int) deed {
	x := r.taste.retain(who)
	if !r.expires {
		x.expiry = 0
	}
	return x
}

// owed is Retained Messages that wait for the window of a new subscription when the
// broker ends.
func (r *steadyTaste) owed() (steps []deed) {
	who, other := 0, 1+r.IntN(clients-1)
	for _, x := range r.taste.owed(who, other) {
		switch n, name := x.n, x.name; x.do {
		case doConnect:
			x = r.connect(who)
			x.n = n
		case doRetain:
			x = r.retain(other)
			x.name = name
		}
		steps = append(steps, x)
	}
	return append(steps, deed{do: doEnding}, r.acks(who))
}

func (r *steadyTaste) step() deed {
	who := r.IntN(clients)
	switch n := r.IntN(100); {
	case n < 18:
		return r.connect(who)
	case n < 27:
		return r.disconnect(who)
	case n < 37:
		return r.subscribe(who)
	case n < 40:
		x := deed{do: doUnsubscribe, who: who, name: pick(r.taste, r.filters...)}
		if isShared(x.name) && !leaverGetsIdentifier {
			x.name = "a/#"
		}
		return x
	case n < 60:
		return r.publish(who, pick(r.taste, 1, 1, 1, 2, 5), 10)
	case n < 63:
		return r.publish(who, 20, pick(r.taste, 1000, 1000, 70_000))
	case n < 71:
		return r.retain(who)
	case n < 85:
		return r.acks(who)
	case n < 95:
		return r.pass()
	}
	return deed{do: doCheckpoint}
}
