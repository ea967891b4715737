package crash

import (
	"maps"
	"slices"
)

// retainedRead notes a message with the RETAIN flag: what the broker held when
// the session subscribed. It must not be older than what was acknowledged then.
// Each retained topic has one publisher, so that there is one order.
func (m *model) retainedRead(s *session, msg *message, at mark) {
	m.totals.Retained++
	s.retained[msg.topic] = true
	if !msg.retain && !msg.will {
		m.fail(faultRetained, s.client.name, []mark{msg.first, at}, "message %q came with RETAIN, and was published without", msg.name)
		return
	}
	asked := m.firstAsked(s, msg.topic)
	if asked == 0 {
		m.fail(faultStray, s.client.name, []mark{at}, "retained message %q came without a SUBSCRIBE", msg.name)
		return
	}
	ops := m.retainedOps[msg.topic]
	if newest := latestAcked(ops, asked); slices.Index(ops, msg) < newest {
		m.fail(faultRetained, s.client.name, []mark{msg.first, ops[newest].first, ops[newest].acked, asked, at},
			"%s holds %q, although %q was acknowledged before the SUBSCRIBE", msg.topic, msg.name, ops[newest].called())
	}
}

func (m *message) called() string {
	if m.name == "" {
		return "(cleared)"
	}
	return m.name
}

// firstAsked is the first SUBSCRIBE of the session that selects the topic. Later
// ones may have been answered first: a queue keeps its order.
func (m *model) firstAsked(s *session, topic string) mark {
	var first mark
	for _, f := range s.filters {
		if f.share == "" && len(f.grants) > 0 && m.match(f.pattern, topic) && (first == 0 || f.grants[0].maybeFrom < first) {
			first = f.grants[0].maybeFrom
		}
	}
	return first
}

// latestAcked is the index of the last message that was acknowledged before the
// mark, or -1.
func latestAcked(ops []*message, before mark) int {
	for i, msg := range slices.Backward(ops) {
		if msg.acked > 0 && msg.acked < before {
			return i
		}
	}
	return -1
}

// judgeRetained looks for sessions that must have been told a retained message
// and were not: those that subscribed on a connection that stands to the end.
func (m *model) judgeRetained() {
	for _, s := range m.sessions {
		c := s.client.conn
		if s.client.session != s || c == nil || c.end > 0 || s.born < c.opened {
			continue
		}
		for _, topic := range slices.Sorted(maps.Keys(m.retainedOps)) {
			m.judgeRetainedTopic(s, topic)
		}
	}
}

func (m *model) judgeRetainedTopic(s *session, topic string) {
	ops := m.retainedOps[topic]
	for _, f := range s.filters {
		if f.share != "" || !f.keptSinceFirst() || !m.match(f.pattern, topic) || s.retained[topic] {
			continue
		}
		newest := latestAcked(ops, f.grants[0].maybeFrom)
		if newest < 0 || slices.ContainsFunc(ops[newest:], func(msg *message) bool { return msg.name == "" || s.got[msg] != nil }) {
			continue // cleared meanwhile, or replaced by one that came live before it could be sent
		}
		m.miss(faultRetained, s.client.name, []mark{ops[newest].first, ops[newest].acked, f.grants[0].maybeFrom},
			"%s holds nothing, although %q was acknowledged before the SUBSCRIBE", topic, ops[newest].called())
	}
}

// keptSinceFirst reports whether the filter was acknowledged and has stayed.
func (f *filter) keptSinceFirst() bool {
	return len(f.spans) == 1 && f.spans[0].sureFrom > 0 && f.spans[0].sureUntil == 0
}
