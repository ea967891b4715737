package broker

import (
	"math/rand/v2"
	"slices"
	"strings"

	"fairlead/mqtt"
	"fairlead/store/storetest"
)

const (
	clients   = 5
	oldClient = 2 // speaks 3.1.1
)

// forever is a Session Expiry Interval that no history outlasts.
const forever = 100_000

var (
	plainTopics  = []string{"a/a", "a/b", "b/b"}
	sharedTopic  = "s/x/y"
	retainTopics = []string{"r/1", "r/2", "r/3"}
	filters      = []string{"a/a", "a/#", "+/b", "a/+", "r/#", "r/1", "w/#", "w/+", "$share/g/s/#", "$share/h/s/+/y", "$share/g/s/#"}
	shareFilters = []string{"$share/g/s/#", "$share/h/s/+/y"}
)

// Shapes that are left out, or not judged, because the broker does not yet do right
// by them.
const (
	// A message of a Shared Subscription expires: one that has waited at a member that
	// is away is sent, expired or not, to one that comes.
	sharedExpires = false
	// A Shared Subscription ends, and begins again before the next checkpoint: it is
	// owed what the old one was, delivered or not.
	shareBeginsAgain = false
	// Short queues drop nothing but their oldest, and what they have dropped is gone, even
	// after a crash: then what was under way waits in them, and is dropped, and what was
	// dropped since a checkpoint comes back.
	dropsSurviveCrash = false
	// A member of a Shared Subscription has a Will, and its Session ends when a QoS 2
	// message is about to be on record as under way: others do not get it.
	memberHasWill = false
	// The record that a QoS 2 message is under way to a member fails, the member's Session
	// ends, and the broker crashes, after which the record is whole: others do not get
	// the message.
	failedSendIsWhole = false
	// What waits at a client that leaves a Shared Subscription is delivered at QoS 2 once,
	// to that client or to another: after a crash it comes again.
	leaverGetsOnce = false
	// It comes with the Subscription Identifier: not after a crash.
	leaverGetsIdentifier = false
	// A QoS 2 message whose Packet Identifier one had that was refused, and whose record is
	// whole after a crash, is taken even if it is repeated: it passes for the other one.
	repeatIsTaken = false
)

func isShared(filter string) bool { return strings.HasPrefix(filter, "$share/") }

// filterID is the Subscription Identifier that clients give a Topic Filter.
func filterID(filter string) uint32 { return uint32(slices.Index(filters, filter) + 1) }

// taste is what one history has more of than others.
type taste struct {
	*rand.Rand
	active  int        // clients that do most
	qos     []mqtt.QoS // of messages and subscriptions
	topics  []string
	filters []string
}

func newTaste(seed uint64) *taste {
	r := rand.New(rand.NewPCG(seed, 0))
	t := &taste{r, 2 + r.IntN(clients-1), []mqtt.QoS{0, 1, 2}, append([]string{sharedTopic}, plainTopics...), filters}
	if r.IntN(3) == 0 {
		t.qos = []mqtt.QoS{2, 2, 1}
	}
	switch r.IntN(5) {
	case 0:
		t.topics, t.filters = []string{sharedTopic}, shareFilters
	case 1:
		t.topics, t.filters = []string{"a/a", "a/b"}, []string{"a/#", "a/+", "a/a"}
	case 2:
		t.topics, t.filters = []string{"a/a"}, []string{"r/#", "r/1", "a/#"}
	}
	return t
}

func pick[T any](r *taste, list ...T) T { return list[r.IntN(len(list))] }

func newHistory(seed uint64) *history {
	r := newTaste(seed)
	h := &history{engine: inMemory, often: r.IntN(2) == 0, limit: roomy}
	if seed%10 == 0 {
		h.engine = onDisk
	}
	switch seed % 7 {
	case 0:
		h.limit = short
	case 2:
		h.limit = drops
	case 4:
		h.limit = aging
	}
	for who := range clients {
		h.steps = append(h.steps, r.connect(who))
		for range r.IntN(3) {
			h.steps = append(h.steps, r.subscribe(who))
		}
	}
	for range 5 + r.IntN(40) {
		h.steps = append(h.steps, r.steps()...)
	}
	return h
}

func (r *taste) connect(who int) deed {
	x := deed{do: doConnect, who: who, clean: r.IntN(4) == 0, n: pick(r, 0, 0, 0, 1, 2, 5),
		expiry: pick(r, 0, 8, forever, forever, forever), will: -1}
	if r.IntN(3) == 0 {
		x.will, x.qos = pick(r, 0, 5), mqtt.QoS(1+r.IntN(2))
	}
	return x
}

func (r *taste) disconnect(who int) deed {
	return deed{do: doDisconnect, who: who, n: pick(r, 0, 1, 2, 2), expiry: pick(r, -1, -1, 0, 8, forever)}
}

func (r *taste) subscribe(who int) deed {
	x := deed{do: doSubscribe, who: who, name: pick(r, r.filters...), qos: pick(r, r.qos...)}
	x.sub = options{noLocal: r.IntN(4) == 0 && !isShared(x.name), asPublished: r.IntN(3) == 0, handling: byte(pick(r, 0, 0, 1, 2))}
	return x
}

func (r *taste) publish(who, n, bytes int) deed {
	x := deed{do: doPublish, who: who, name: pick(r, r.topics...), qos: pick(r, r.qos...), n: n, bytes: bytes, expiry: r.expiry()}
	if x.name == sharedTopic && !sharedExpires {
		x.expiry = 0
	}
	return x
}

func (r *taste) retain(who int) deed {
	return deed{do: doRetain, who: who, name: pick(r, retainTopics...), qos: mqtt.QoS(r.IntN(3)), n: 1, bytes: pick(r, 0, 10, 10, 10), expiry: r.expiry()}
}

// expiry is a Message Expiry Interval.
func (r *taste) expiry() int { return pick(r, 0, 0, 0, 0, 3, 20, 1000) }

func (r *taste) acks(who int) deed {
	return deed{do: doAcks, who: who, n: r.IntN(4), patience: patience(r.IntN(3))}
}

// pass is often not long enough for a delay, and never as long as an expiry.
func (r *taste) pass() deed { return deed{do: doPass, n: 1 + r.IntN(7)} }

// trouble lets the journal be written no more.
func (r *taste) trouble() deed {
	return pick(r, deed{do: doHold}, deed{do: doFailAppends, n: storetest.All}, deed{do: doFailAppends, n: 1 + r.IntN(4)})
}

// end is how trouble may end.
func (r *taste) end() deed {
	return pick(r, deed{do: doHeal}, deed{do: doCrash, n: r.IntN(2)}, deed{do: doCrash, n: r.IntN(2)}, deed{do: doRestart, n: r.IntN(2)})
}

// steps is one step, or a few that go together.
func (r *taste) steps() []deed {
	who := r.IntN(r.active)
	var x deed
	switch n := r.IntN(116); {
	case n < 13:
		x = r.connect(who)
	case n < 21:
		x = r.disconnect(who)
	case n < 31:
		x = r.subscribe(who)
	case n < 34:
		x = deed{do: doUnsubscribe, who: who, name: pick(r, r.filters...)}
	case n < 50:
		x = r.publish(who, pick(r, 1, 1, 1, 2, 5), 10)
	case n < 53:
		x = r.publish(who, 20, 1000) // the queue of who is away goes to disk
	case n < 59:
		x = r.retain(who)
	case n < 67:
		x = r.acks(who)
	case n < 73:
		x = r.pass()
	case n < 77:
		x = deed{do: doCheckpoint}
	case n < 80:
		x = deed{do: doCrash, n: r.IntN(2)}
	case n < 82:
		x = deed{do: doRestart, n: r.IntN(2)}
	case n < 84:
		x = deed{do: doHold}
	case n < 86:
		x = deed{do: doFailAppends, n: 1 + r.IntN(4)}
	case n < 87:
		x = deed{do: doFailKV, n: 1 + r.IntN(4)}
	case n < 88:
		x = deed{do: doCutKV, n: r.IntN(4)}
	case n < 91:
		x = deed{do: doHeal}
	case n < 92:
		x = r.publish(who, 20, 70_000) // the queue of who is there goes to disk
	case n < 94:
		x = deed{do: doStall, who: who}
	default:
		return r.story(n-94, who)
	}
	return []deed{x}
}

// story is a few steps that lead somewhere together.
func (r *taste) story(n, who int) []deed {
	other := (who + 1 + r.IntN(clients-1)) % clients
	lost := deed{do: doDisconnect, who: who, n: 2, expiry: -1}
	switch {
	case n < 3: // a crash within a checkpoint
		return []deed{{do: doCutKV, n: r.IntN(3)}, {do: doCheckpoint}, {do: doCrash}}
	case n < 6: // a crash with a record under way that others have led to
		return []deed{r.acks(other), {do: doHold}, r.acks(who), r.publish(who, 1, 10), {do: doCheckpoint}, {do: doCrash, n: r.IntN(2)}}
	case n < 7: // a Session that begins anew while its old queue is on disk
		again := r.lasting(who)
		again.clean = true
		fill := r.publish(r.IntN(clients), 20, pick(r, 1000, 70_000))
		return []deed{lost, fill, {do: doCheckpoint}, again, r.subscribe(who), lost, fill, {do: pick(r, doCheckpoint, doCrash)}}
	case n < 8: // the disk fails and the broker is stopped
		lost.n = r.IntN(3)
		return []deed{{do: pick(r, doFailAppends, doFailKV), n: storetest.All}, r.publish(who, 1, 10), lost, {do: doRestart, n: r.IntN(2)}}
	case n < 10:
		return r.refused(who)
	case n < 13:
		return r.memberLeaves(who, other)
	case n < 15:
		return r.lastMemberLeaves(who, other)
	case n < 18:
		return append(r.owed(who, other), pick(r, r.retain(other), r.acks(who), deed{do: doCheckpoint}), r.end())
	}
	// What is under way is lost with the connection, or with the broker.
	return []deed{{do: doStall, who: who}, r.publish(other, 1+r.IntN(5), 10), pick(r, deed{do: doCrash}, lost, r.connect(who), r.pass())}
}

// lasting connects a client whose Session outlives the connection.
func (r *taste) lasting(who int) deed {
	x := r.connect(who)
	x.clean, x.expiry = false, forever
	return x
}

// refused is messages that are refused, and whose record may turn out whole. Then
// others have the same Packet Identifiers.
func (r *taste) refused(who int) []deed {
	before, after := r.publish(who, 1+r.IntN(3), 10), r.publish(who, 1+r.IntN(3), 10)
	before.qos, after.qos = 2, 2
	return []deed{
		r.lasting(who), {do: doFailAppends, n: storetest.All}, before, {do: doCrash, n: 1},
		pick(r, deed{do: doCheckpoint}, deed{do: doCrash}, deed{do: doPass, n: 1}), r.lasting(who), after,
	}
}

// owed is Retained Messages that wait for the window of a new subscription.
func (r *taste) owed(who, other int) (steps []deed) {
	for _, name := range retainTopics {
		x := r.retain(other)
		x.name, x.qos = name, pick[mqtt.QoS](r, 1, 2)
		steps = append(steps, x)
	}
	asks, waits := r.subscribe(who), r.lasting(who)
	asks.name, asks.qos, asks.sub.handling = "r/#", pick[mqtt.QoS](r, 1, 2), byte(pick(r, 0, 0, 1))
	waits.n = 1 + r.IntN(2)
	return append(steps, waits, deed{do: doAcks, who: who, patience: never}, asks)
}

// memberLeaves is a Shared Subscription with QoS 2 messages that wait for the window
// of a member. That opens when the journal can't be written, and then the member
// leaves.
func (r *taste) memberLeaves(who, other int) []deed {
	filter := pick(r, shareFilters...)
	member := r.connect(who)
	if member.n = 1 + r.IntN(2); r.IntN(4) > 0 {
		member.will = -1
	}
	publish := func(q mqtt.QoS, n int) deed {
		return deed{do: doPublish, who: r.IntN(clients), name: sharedTopic, qos: q, n: n, bytes: 10}
	}
	again := r.connect(who)
	again.clean = true
	leave := pick(r, again, deed{do: doDisconnect, who: who, n: r.IntN(3), expiry: pick(r, -1, 0)}, deed{do: doUnsubscribe, who: who, name: filter})
	return []deed{
		r.lasting(other), {do: doSubscribe, who: other, name: filter, qos: 2}, {do: doDisconnect, who: other, n: 2, expiry: -1},
		member, {do: doSubscribe, who: who, name: filter, qos: 2}, {do: doAcks, who: who, patience: never},
		publish(1, member.n), publish(pick[mqtt.QoS](r, 1, 2, 2), 1+r.IntN(3)),
		r.trouble(), {do: doAcks, who: who, n: 1 + r.IntN(2), patience: never}, leave, r.end(), r.end(),
	}
}

// lastMemberLeaves is the same, but there is no other, and all is well.
func (r *taste) lastMemberLeaves(who, other int) []deed {
	filter, member := pick(r, shareFilters...), r.lasting(who)
	member.n = r.IntN(3)
	publish := deed{do: doPublish, who: other, name: sharedTopic, qos: mqtt.QoS(1 + r.IntN(2)), n: 1 + r.IntN(4), bytes: 10}
	return []deed{
		member, {do: doSubscribe, who: who, name: filter, qos: 2}, pick(r, deed{do: doAcks, who: who, patience: never}, deed{do: doStall, who: who}),
		publish, {do: doUnsubscribe, who: who, name: filter}, pick(r, deed{do: doCheckpoint}, r.acks(who), r.end()), r.end(),
	}
}
