package crash

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// fault is a way to break a promise.
type fault string

const (
	faultLost       fault = "lost"         // acknowledged, and not delivered to who should have it
	faultDoubled    fault = "doubled"      // QoS 2, delivered twice
	faultOrder      fault = "out of order" // later published, earlier delivered
	faultQoS        fault = "qos"          // not delivered at min(published, subscribed)
	faultStray      fault = "stray"        // delivered to a session that has not subscribed, or never published, or damaged
	faultRetained   fault = "retained"     // a retained value older than an acknowledged one, or none
	faultWill       fault = "will"         // published without cause, or not at all
	faultSession    fault = "session"      // Session Present is wrong
	faultUnanswered fault = "unanswered"   // no acknowledgement on a connection that stands
	faultClosed     fault = "closed"       // the broker closed the connection of a client that did nothing wrong
	faultDied       fault = "died"         // the broker ended by itself, or did not start
)

// A violation is one broken promise.
type violation struct {
	fault  fault
	client string
	what   string
	marks  []mark // the events that show it
	// missing: something did not happen. While the round goes on, it still may.
	missing bool
}

func (v violation) String() string {
	if v.client == "" {
		return fmt.Sprintf("%s: %s", v.fault, v.what)
	}
	return fmt.Sprintf("%s: %s: %s", v.fault, v.client, v.what)
}

// mark is the place of an event in the history, counted from 1. 0 is none.
type mark int

// endless is the mark after all events.
const endless = mark(1) << 40

// What the model leaves open because nobody outside the broker can know it.
const (
	// unsure is how long before a kill a DISCONNECT may have been sent and yet be
	// forgotten: what it changes is written, and nothing waits for it.
	unsure = time.Second
	// settling is how long after its acknowledgement a message may still be
	// matched with subscriptions. The standard sets no limit; what is matched
	// must be what stood when the message was sent.
	settling = time.Second
	// late is how much later than promised an end by time (Session Expiry, Will
	// Delay) may be without being called a fault.
	late = 1500 * time.Millisecond
)

// judge holds a history against the promises. Whoever is to judge a round waits
// until nothing is under way: what is owed and not there counts as lost.
func judge(h []event) *model {
	m := &model{
		h: h, byName: make(map[string]*message), out: make(map[string]map[mqtt.PacketID]*message),
		retainedOps: make(map[string][]*message), clients: make(map[string]*client), matches: make(map[[2]string]bool),
	}
	m.gather()
	m.follow()
	m.judgeOwed()
	m.judgeGroups()
	m.judgeRetained()
	m.judgeWills()
	m.judgeUnanswered()
	m.tally()
	return m
}

// model is what the history says, as far as the promises need it.
type model struct {
	h          []event
	violations []violation
	totals     totals

	messages    []*message // in the order of their first PUBLISH; Will Messages too
	byName      map[string]*message
	out         map[string]map[mqtt.PacketID]*message // by publisher: under way
	retainedOps map[string][]*message                 // by topic: what was published with RETAIN
	starts      []mark
	readies     []mark
	kills       []mark

	clients   map[string]*client
	names     []string // of the clients, in the order of their first event
	sessions  []*session
	wills     []*will
	inversion []inversion
	matches   map[[2]string]bool
}

// message is one Application Message.
type message struct {
	name      string // empty: a retained message was cleared
	topic     string
	publisher string
	qos       mqtt.QoS
	retain    bool
	first     mark // its first PUBLISH; of a will: its CONNECT
	again     mark // its latest repetition
	acked     mark // PUBACK or PUBREC that says success
	refused   mark // one that does not
	released  mark // PUBREL
	settled   mark // from here on it can't be matched any more
	will      bool
}

// owed reports whether somebody was promised the message.
func (m *message) owed() bool { return m.acked > 0 && m.refused == 0 && m.name != "" && !m.will }

func (m *model) event(at mark) *event       { return &m.h[at-1] }
func (m *model) when(at mark) time.Duration { return m.event(at).at }

// end is when the history ends.
func (m *model) end() time.Duration {
	if len(m.h) == 0 {
		return 0
	}
	return m.h[len(m.h)-1].at
}

func (m *model) fail(f fault, client string, marks []mark, format string, args ...any) {
	marks = slices.DeleteFunc(marks, func(at mark) bool { return at <= 0 || at > mark(len(m.h)) })
	m.violations = append(m.violations, violation{fault: f, client: client, what: fmt.Sprintf(format, args...), marks: marks})
}

// miss is fail for what has not happened.
func (m *model) miss(f fault, client string, marks []mark, format string, args ...any) {
	m.fail(f, client, marks, format, args...)
	m.violations[len(m.violations)-1].missing = true
}

// gather reads the history once: which messages there are, and when the broker
// has answered for them.
func (m *model) gather() {
	for i := range m.h {
		e, at := &m.h[i], mark(i+1)
		switch e.kind {
		case started:
			m.starts = append(m.starts, at)
		case killed:
			m.kills = append(m.kills, at)
		case ready:
			m.readies = append(m.readies, at)
		case ended:
			if lastBefore(m.kills, at) <= lastBefore(m.starts, at) {
				m.fail(faultDied, "", []mark{at}, "the broker ended by itself: %s", e.text)
			}
		case sent:
			m.gatherSent(e, at)
		case received:
			m.gatherReceived(e, at)
		}
	}
	for _, msg := range m.messages {
		msg.settled = endless
		if msg.acked > 0 {
			msg.settled = m.markAt(m.when(msg.acked) + settling)
		}
	}
}

// lastBefore is the last of the marks before at, or 0.
func lastBefore(marks []mark, at mark) mark {
	i, _ := slices.BinarySearch(marks, at)
	if i == 0 {
		return 0
	}
	return marks[i-1]
}

// killedWithin reports whether there was a kill in that time.
func (m *model) killedWithin(from, to time.Duration) bool {
	return slices.ContainsFunc(m.kills, func(at mark) bool { return m.when(at) >= from && m.when(at) <= to })
}

// markAt is the mark of the first event after a time.
func (m *model) markAt(t time.Duration) mark {
	i, _ := slices.BinarySearchFunc(m.h, t, func(e event, t time.Duration) int {
		if e.at <= t {
			return -1
		}
		return 1
	})
	return mark(i + 1)
}

func (m *model) gatherSent(e *event, at mark) {
	switch e.packet {
	case packet.CONNECT:
		if w := e.connect.will; w != nil {
			m.learn(&message{name: w.message, topic: w.topic, publisher: e.client, qos: w.qos, first: at, will: true})
		}
		if e.connect.clean {
			m.out[e.client] = nil
		}
	case packet.PUBLISH:
		if e.qos > mqtt.QoS0 {
			m.gatherPublish(e, at)
		}
	case packet.PUBREL:
		if msg := m.out[e.client][e.id]; msg != nil {
			msg.released = at
		}
	}
}

func (m *model) learn(msg *message) {
	m.messages = append(m.messages, msg)
	if msg.name != "" {
		m.byName[msg.name] = msg
	}
}

func (m *model) gatherPublish(e *event, at mark) {
	if m.out[e.client] == nil {
		m.out[e.client] = make(map[mqtt.PacketID]*message)
	}
	if msg := m.out[e.client][e.id]; e.dup && msg != nil {
		msg.again = at
		return
	}
	msg := m.byName[e.message]
	if msg != nil {
		msg.again = at
	}
	if msg == nil || e.message == "" {
		msg = &message{name: e.message, topic: e.topic, publisher: e.client, qos: e.qos, retain: e.retain, first: at}
		m.learn(msg)
		if e.retain {
			m.retainedOps[e.topic] = append(m.retainedOps[e.topic], msg)
		}
	}
	m.out[e.client][e.id] = msg
}

func (m *model) gatherReceived(e *event, at mark) {
	out := m.out[e.client]
	switch e.packet {
	case packet.CONNACK:
		if !e.present && e.code == mqtt.Success {
			m.out[e.client] = nil // a client without a session has nothing under way
		}
	case packet.PUBACK, packet.PUBREC:
		msg := out[e.id]
		if msg == nil {
			return // the answer to a repetition
		}
		if e.code.Failed() {
			msg.refused = at
			delete(out, e.id)
			return
		}
		if msg.acked == 0 {
			msg.acked = at
		}
		if e.packet == packet.PUBACK {
			delete(out, e.id)
		}
	case packet.PUBCOMP:
		delete(out, e.id)
	}
}

// judgeUnanswered looks for what has no acknowledgement although its connection
// stands to the end.
func (m *model) judgeUnanswered() {
	for _, name := range m.names {
		c := m.clients[name].conn
		if c == nil || c.end > 0 || c.acked == 0 {
			continue
		}
		for id, msg := range m.out[name] {
			if msg.acked > 0 && msg.released == 0 {
				continue // it is the client's turn
			}
			m.miss(faultUnanswered, name, []mark{msg.first, msg.acked}, "PUBLISH id=%d, message %q, is not acknowledged to its end", id, msg.name)
		}
		for id, at := range m.clients[name].asked {
			m.miss(faultUnanswered, name, []mark{at}, "%s id=%d has no answer", m.event(at).packet, id)
		}
	}
}

// matchTopic is the standard's matching of a Topic Name with a Topic Filter, in
// its simplest form; topics of the harness don't begin with '$'.
func (m *model) match(pattern, topic string) bool {
	key := [2]string{pattern, topic}
	is, known := m.matches[key]
	if !known {
		is = matchLevels(strings.Split(pattern, "/"), strings.Split(topic, "/"))
		m.matches[key] = is
	}
	return is
}

func matchLevels(pattern, topic []string) bool {
	if len(pattern) == 0 {
		return len(topic) == 0
	}
	if pattern[0] == "#" {
		return true
	}
	if len(topic) == 0 {
		return false
	}
	return (pattern[0] == "+" || pattern[0] == topic[0]) && matchLevels(pattern[1:], topic[1:])
}
