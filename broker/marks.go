package broker

import (
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
	"fairlead/trace"
)

// A mark says how far a QoS 2 delivery is. It is on record before the packet that
// follows from it is sent, so that after a crash nothing is delivered twice. Marks
// of a Session are committed in the order in which they were made.
type mark struct {
	kind  journal.Kind // Send, Receive, Release or Complete
	id    mqtt.PacketID
	d     session.Delivery // Send
	whole bool             // Send: the op holds the message, because no other may
	conn  *conn            // Release: who waits for PUBCOMP
}

// marks are those of one Session in one record.
type marks struct {
	to   *subscriber
	list []mark
}

// holds reports whether the delivery must be on record before it is sent.
func (s *subscriber) holds(d session.Delivery) bool {
	return d.QoS == mqtt.QoS2 && (s.durable || d.Via != nil && d.Via.Share != "" && d.Message.Number != 0)
}

// markLocked makes a mark, to be committed soon.
func (s *subscriber) markLocked(m mark) {
	s.marks = append(s.marks, m)
	if !s.marking {
		s.marking = true
		s.broker.committer.mark(s)
	}
}

// markSendLocked makes the mark of a delivery that has been taken into flight. A
// message of a Shared Subscription goes into it whole: the group, which had it, may
// be written without it before the Session is written with it.
func (s *subscriber) markSendLocked(id mqtt.PacketID, d session.Delivery, whole bool) {
	s.markLocked(mark{kind: journal.Send, id: id, d: d, whole: whole || d.Message.Number == 0 || shared(d)})
}

// packMarks puts the marks of the Session into the record.
func (s *subscriber) packMarks(r *record) {
	s.mu.Lock()
	list := s.marks
	s.marks, s.marking = nil, false
	s.mu.Unlock()
	if len(list) == 0 {
		return
	}
	op := journal.Op{Client: s.state.ID}
	for i := range list {
		m := &list[i]
		op.Kind, op.ID, op.Ref, op.Share, op.Delivery = m.kind, m.id, 0, "", nil
		if m.kind == journal.Send {
			op.Ref = m.d.Message.Number
			if m.d.Via != nil {
				op.Share = m.d.Via.Share
			}
			if m.whole {
				d := written(m.d)
				op.Delivery = &d
			}
		}
		r.bytes = journal.AppendOp(r.bytes, &op)
	}
	r.ops += len(list)
	r.marks = append(r.marks, marks{s, list})
}

// unpackMarks takes marks back that could not be committed.
func (s *subscriber) unpackMarks(list []mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		s.takeBackLocked(list) // the record may turn out whole after all
		return
	}
	s.marks = append(list, s.marks...)
	if !s.marking {
		s.marking = true
		s.broker.committer.mark(s)
	}
}

// applyMarks sends what the marks, now on record, have held back.
func (s *subscriber) applyMarks(w *work, list []mark, first uint64) {
	b := s.broker
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number = max(s.number, first+uint64(len(list))-1)
	s.dirtyLocked()
	if s.gone {
		s.takeBackLocked(list)
		return
	}
	c := s.conn
	if c != nil && c.broken {
		c = nil
	}
	for i := range list {
		m := &list[i]
		switch m.kind {
		case journal.Send:
			if m.d.Via != nil && m.d.Via.Share != "" {
				b.settle(m.d) // it stays with this Client from now on [MQTT-4.8.2-5]
			}
			if d, ok := s.state.Marked(m.id); ok && c != nil {
				s.sendLocked(c, session.Outgoing{Delivery: d, Type: packet.PUBLISH, ID: m.id}, w.now)
			}
		case journal.Receive:
			if s.state.Received(m.id) && c != nil {
				c.setBytes(packet.AppendAck(c.bytes(), c.version, packet.PUBREL, m.id, mqtt.Success))
			}
		case journal.Release:
			if c != nil && c == m.conn {
				c.setBytes(packet.AppendAck(c.bytes(), c.version, packet.PUBCOMP, m.id, mqtt.Success))
			}
		}
	}
	if c == nil {
		return
	}
	if s.waitingLocked() {
		s.pumpLocked(w.now)
	}
	if c.len() > 0 {
		c.scheduleLocked(w)
	}
}

// letsOutShared reports whether the mark is to let out a message of a Shared
// Subscription.
func (m *mark) letsOutShared() bool { return m.kind == journal.Send && shared(m.d) }

// takeBackLocked gives the messages of Shared Subscriptions that the marks were to let
// out to other members, once that is on record, because the Session has ended before:
// nothing of them has been sent [MQTT-4.8.2-5]. Until then their groups owe them.
func (s *subscriber) takeBackLocked(list []mark) {
	for i := range list {
		m := &list[i]
		if !m.letsOutShared() {
			continue
		}
		d := written(m.d)
		t := &ticket{}
		op := t.add(&journal.Op{Kind: journal.Return, Client: s.state.ID, ID: m.id, Ref: d.Number, Share: d.Share, Delivery: &d})
		t.steps = append(t.steps, step{op: op, apply: func(number uint64) {
			if g := s.broker.router.share(d.Share); g != nil {
				g.returned(number)
			}
			s.broker.reshare(s, []session.Delivery{m.d}, false)
		}})
		s.broker.committer.put(t)
	}
}

// written is the delivery as the journal writes it.
func written(d session.Delivery) journal.Delivery {
	j := journal.Delivery{Number: d.Message.Number, Message: d.Message, QoS: d.QoS, Retain: d.Retain}
	if d.Via != nil {
		j.IDs, j.Share = d.Via.IDs, d.Via.Share
	}
	return j
}

// read is the opposite of written.
func read(j *journal.Delivery) session.Delivery {
	d := session.Delivery{Message: j.Message, QoS: j.QoS, Retain: j.Retain, Via: plain}
	d.Message.Number = j.Number
	if len(j.IDs) > 0 || j.Share != "" {
		d.Via = &session.Via{IDs: j.IDs, Share: j.Share}
	}
	return d
}

// tracedCommit is what a Commit hook hears.
func tracedCommit(m *mqtt.Message) trace.Commit { return trace.Commit{Message: m} }

// dirtyLocked notes that the next checkpoint has to write the Session.
func (s *subscriber) dirtyLocked() {
	if s.recorded && !s.dirty {
		s.dirty = true
		s.broker.keeper.dirty(s)
	}
}

// rest is what a checkpoint has to know of a Session's connection or absence;
// guarded by mu.
type rest struct {
	online bool
	will   *session.Will
	willAt time.Time
	endsAt time.Time
}
