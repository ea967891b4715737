package crash

import (
	"cmp"
	"maps"
	"slices"

	"fairlead/mqtt"
)

// orderKey is within what the order of messages is kept [MQTT-4.6.0-6].
type orderKey struct {
	publisher, topic     string
	published, delivered mqtt.QoS
}

// inversion is a message that came after one that was published later.
type inversion struct {
	session      *session
	early, later *message // as they were published
	at           mark     // delivery of early
}

// delivered notes a PUBLISH that a client has received, after the client's part
// of QoS 2: between PUBREC and PUBREL a Packet Identifier stands for one message
// and may come again [MQTT-4.3.3-10].
func (m *model) delivered(s *session, e *event, at mark) {
	if e.qos == mqtt.QoS2 {
		if held, again := s.inbound[e.id]; again {
			if held != e.message {
				m.fail(faultStray, s.client.name, []mark{at}, "packet id %d stands for %q and is not released, but comes with %q", e.id, held, e.message)
			}
			return
		}
		s.inbound[e.id] = e.message
	}
	if e.message == "" {
		return // one clearing looks like another
	}
	msg := m.byName[e.message]
	if msg == nil || msg.topic != e.topic || msg.first > at {
		m.fail(faultStray, s.client.name, []mark{at}, "nobody has published %q to %s", e.message, e.topic)
		return
	}
	if e.retain {
		m.retainedRead(s, msg, at)
		return
	}
	m.totals.Delivered++
	r := s.got[msg]
	if r == nil {
		r = &receipt{first: at}
		s.got[msg] = r
		m.checkGrant(s, msg, e, at)
		m.checkOrder(s, msg, e, at)
	} else if e.qos == mqtt.QoS1 {
		m.totals.Repeated++
	}
	r.count++
	if e.qos == mqtt.QoS2 {
		r.exactly++
	}
	if msg.qos == mqtt.QoS2 && r.exactly > 0 && r.count == 2 {
		m.fail(faultDoubled, s.client.name, []mark{msg.first, r.first, at}, "%s %q was delivered twice", msg.noun(), msg.name)
	}
}

func (m *message) noun() string {
	if m.will {
		return "will"
	}
	return "message"
}

// checkGrant says whether the session has a subscription that the message could
// be matched with, and whether its QoS is right. Of overlapping subscriptions
// the highest QoS counts [MQTT-3.3.4-2].
func (m *model) checkGrant(s *session, msg *message, e *event, at mark) {
	var allowed, certain []mqtt.QoS
	for _, f := range s.filters {
		if !m.match(f.pattern, msg.topic) {
			continue
		}
		until := min(msg.settled, at)
		if f.share != "" {
			until = at // what another member has left may come to one that joined later
		}
		for i := range f.grants {
			if f.grants[i].possible(msg.first, until) {
				allowed = append(allowed, min(msg.qos, f.grants[i].qos))
			}
			if f.grants[i].sure(msg.first, until) {
				certain = append(certain, min(msg.qos, f.grants[i].qos))
			}
		}
	}
	switch {
	case len(allowed) == 0:
		m.fail(faultStray, s.client.name, []mark{s.born, msg.first, msg.acked, at}, "%s %q was delivered to a session that had not subscribed to %s", msg.noun(), msg.name, msg.topic)
	case !slices.Contains(allowed, e.qos) || len(certain) > 0 && e.qos < slices.Max(certain):
		m.fail(faultQoS, s.client.name, []mark{msg.first, at}, "%s %q was delivered at QoS %d, published at %d and subscribed so that %d is right", msg.noun(), msg.name, e.qos, msg.qos, allowed)
	}
}

// checkOrder looks at first deliveries only.
func (m *model) checkOrder(s *session, msg *message, e *event, at mark) {
	if msg.will {
		return
	}
	key := orderKey{msg.publisher, msg.topic, msg.qos, e.qos}
	if last := s.latest[key]; last != nil && last.first > msg.first {
		m.inversion = append(m.inversion, inversion{s, msg, last, at})
		return
	}
	s.latest[key] = msg
}

// shares returns the shared filters of the session that match the topic.
func (m *model) shares(s *session, topic string) []string {
	var found []string
	for name, f := range s.filters {
		if f.share != "" && m.match(f.pattern, topic) {
			found = append(found, name)
		}
	}
	return found
}

// judgeOwed looks for acknowledged messages that did not reach a session that
// had subscribed before they were sent and has stayed subscribed.
func (m *model) judgeOwed() {
	for _, s := range m.sessions {
		for _, msg := range m.messages {
			if msg.owed() && s.got[msg] == nil && m.promised(s, msg.acked) && m.wants(s, msg) {
				m.miss(faultLost, s.client.name, []mark{msg.first, msg.acked}, "message %q (QoS %d, %s) was acknowledged and not delivered%s",
					msg.name, msg.qos, msg.topic, s.state())
			}
		}
	}
	for _, v := range m.inversion {
		groups := m.shares(v.session, v.early.topic)
		if len(groups) > 0 && m.stirred(groups, v.early.first, v.at) {
			continue // what one member did not take another may get later
		}
		if v.early.again > v.later.first && !m.wants(v.session, v.early) {
			continue // it subscribed when the message had passed, and got the repetition
		}
		m.fail(faultOrder, v.session.client.name, []mark{v.early.first, v.later.first, v.session.got[v.later].first, v.at},
			"%q came after %q, which was published later", v.early.name, v.later.name)
	}
}

func (s *session) state() string {
	switch {
	case s.broken > 0:
		return ": its session was lost"
	case s.client.conn == nil || s.client.conn.end > 0:
		return ": it is not connected at the end"
	}
	return ""
}

// wants reports whether a subscription of the session's own asks for the message.
func (m *model) wants(s *session, msg *message) bool {
	for _, f := range s.filters {
		if f.share == "" && f.kept(msg.first) && m.match(f.pattern, msg.topic) {
			return true
		}
	}
	return false
}

// stirred reports whether a connection of a member began or ended in between, or
// so shortly before that the broker may have seen it then.
func (m *model) stirred(groups []string, from, until mark) bool {
	since := m.when(from) - settling
	for _, s := range m.sessions {
		if !slices.ContainsFunc(groups, func(g string) bool { return s.filters[g] != nil }) {
			continue
		}
		if slices.ContainsFunc(s.client.moves, func(at mark) bool { return m.when(at) >= since && at <= until }) {
			return true
		}
	}
	return false
}

// judgeGroups holds each Shared Subscription against its promises: while it has
// a member that stays, one of the members gets each message, and a QoS 2 message
// no two.
func (m *model) judgeGroups() {
	groups := make(map[string][]*session)
	for _, s := range m.sessions {
		for name, f := range s.filters {
			if f.share != "" {
				groups[name] = append(groups[name], s)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		for _, msg := range m.messages {
			if m.match(groups[name][0].filters[name].pattern, msg.topic) {
				m.judgeShared(name, groups[name], msg)
			}
		}
	}
}

func (m *model) judgeShared(name string, members []*session, msg *message) {
	var exactly, holders int
	marks := []mark{msg.first, msg.acked}
	for _, s := range members {
		if r := s.got[msg]; r != nil {
			holders++
			exactly += r.exactly
			marks = append(marks, r.first)
		}
	}
	if msg.qos == mqtt.QoS2 && holders > 1 && exactly > 0 {
		m.fail(faultDoubled, name, marks, "message %q went to %d members", msg.name, holders)
	}
	stays := func(s *session) bool { return s.filters[name].kept(msg.first) && m.promised(s, msg.acked) }
	if holders > 0 || !msg.owed() || !slices.ContainsFunc(members, stays) || m.mayVanish(name, members, msg) {
		return
	}
	m.miss(faultLost, name, marks, "message %q (QoS %d, %s) was acknowledged and reached no member", msg.name, msg.qos, msg.topic)
}

// mayVanish reports whether a QoS 2 message may have been on its way to a member
// whose session then ended: no other may get it [MQTT-4.8.2-5].
func (m *model) mayVanish(name string, members []*session, msg *message) bool {
	qos := mqtt.QoS0
	for _, s := range members {
		for _, g := range s.filters[name].grants {
			qos = max(qos, g.qos)
		}
	}
	if min(qos, msg.qos) < mqtt.QoS2 {
		return false
	}
	return slices.ContainsFunc(members, func(s *session) bool {
		return s.broken == 0 && !m.alive(s) && (s.doubtful == 0 || s.doubtful > msg.first)
	})
}

// tally sums up.
func (m *model) tally() {
	for _, msg := range m.messages {
		switch {
		case msg.will:
			continue
		case msg.refused > 0:
			m.totals.Refused++
		case msg.acked > 0:
			m.totals.Acknowledged++
		}
		m.totals.Published++
	}
	slices.SortStableFunc(m.violations, func(a, b violation) int { return cmp.Compare(firstMark(a), firstMark(b)) })
	for _, v := range m.violations {
		switch v.fault {
		case faultLost:
			m.totals.Lost++
		case faultDoubled:
			m.totals.Doubled++
		case faultOrder:
			m.totals.OutOfOrder++
		}
	}
	m.totals.Violations = len(m.violations)
	m.totals.Kills = len(m.kills)
}

func firstMark(v violation) mark {
	if len(v.marks) == 0 {
		return 0
	}
	return slices.Min(v.marks)
}
