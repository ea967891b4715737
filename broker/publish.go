package broker

import (
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
	"fairlead/policy"
	"fairlead/trace"
)

// publish carries one PUBLISH from the wire to its subscribers. This is the
// whole path; read it top to bottom.
func (c *conn) publish(p *packet.Publish) error {
	m, r, err := c.message(p)
	if err != nil {
		return err
	}
	repeated, err := c.step(p, m)
	if err != nil || repeated {
		return err
	}
	b := c.broker
	v := b.admit(c.access.Load(), m)
	if v.Allowed() {
		v = b.room(c, m, r)
	}
	if c.work.ticket != nil || v.Allowed() && b.keeps(c.session, m, r) {
		return c.commitLater(p.ID, m, r, v)
	}
	if v.Allowed() {
		v = b.commit(c.work, m)
	}
	if !v.Allowed() {
		return c.refusePublish(p.ID, m.QoS, v)
	}
	return c.acknowledge(p.ID, m.QoS, b.deliver(&c.work.fan, r))
}

// commitLater puts the message into the batch's ticket: what must survive is
// delivered and acknowledged once it is in the journal, and what comes after it
// stays after it [MQTT-4.6.0-1] [MQTT-4.6.0-2] [MQTT-4.6.0-3].
func (c *conn) commitLater(id mqtt.PacketID, m *mqtt.Message, r *route, v policy.Verdict) error {
	w := c.work
	if w.ticket == nil {
		w.ticket = newTicket()
	}
	s := step{op: -1, id: id, qos: m.QoS, verdict: v}
	if v.Allowed() {
		s.message, s.route, s.from = w.fan.keep(), r, c.session
		if c.broker.keeps(c.session, m, r) {
			op := journal.Op{Kind: journal.Message, Client: m.Publisher, Message: s.message}
			if m.QoS == mqtt.QoS2 && c.session.durable {
				op.ID = id
			}
			s.op = w.ticket.add(&op)
		}
		if m.QoS > mqtt.QoS0 {
			w.ticket.open++
		}
		if m.QoS == mqtt.QoS2 {
			w.ticket.take(id)
		}
	}
	w.ticket.steps = append(w.ticket.steps, s)
	if w.ticket.full() {
		return c.commitTicket()
	}
	return nil
}

// commitTicket waits until the batch's messages are in the journal and delivered,
// and answers them in their order.
func (c *conn) commitTicket() (err error) {
	w := c.work
	t := w.ticket
	if t == nil {
		return nil
	}
	w.ticket = nil
	w.flushDirty() // what others are to get need not wait for the disk
	failed := c.broker.committer.commit(t)
	for i := range t.steps {
		if e := c.answer(&t.steps[i], failed); e != nil && err == nil {
			err = e
		}
	}
	t.release()
	return err
}

// answer sends what is owed for one message of a ticket. If the ticket failed,
// nothing has happened yet: QoS 0 goes on all the same, the others are refused.
func (c *conn) answer(s *step, failed error) error {
	switch {
	case s.repeated:
		return c.ack(packet.PUBREC, s.id, mqtt.Success, "")
	case !s.verdict.Allowed():
		return c.refusePublish(s.id, s.qos, s.verdict)
	case failed == nil:
		return c.acknowledged(s.id, s.qos, s.reached)
	case s.qos == mqtt.QoS0:
		if s.message.Retain {
			c.broker.Outcomes[trace.DroppedNotRetained].Add(1)
			s.message.Retain = false
		}
		c.broker.carry(c.work, s)
		return nil
	}
	return c.refusePublish(s.id, s.qos, unkept(failed))
}

// take notes that the QoS 2 message is accepted. A checkpoint may be looking.
func (s *subscriber) take(id mqtt.PacketID) {
	if s.durable {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dirtyLocked()
	}
	s.state.Take(id)
}

// releaseID is the opposite of take.
func (s *subscriber) releaseID(id mqtt.PacketID) mqtt.ReasonCode {
	if s.durable {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dirtyLocked()
	}
	return s.state.Release(id)
}

// keeps reports whether the message must be in the journal before it is ours: a
// Session that outlives its connection wants it, or the retained store, or it is
// part of the Session State of its publisher from. Anything else could reach
// nobody after a crash.
func (b *Broker) keeps(from *subscriber, m *mqtt.Message, r *route) bool {
	if b.committer == nil {
		return false
	}
	return m.Retain || m.QoS > mqtt.QoS0 && (r.keeps() || m.QoS == mqtt.QoS2 && from != nil && from.durable)
}

// message turns a PUBLISH into an Application Message, its Topic Alias resolved,
// and finds its route. The message lies in the batch's scratch and its payload in
// the read buffer: who holds it longer keeps it first.
func (c *conn) message(p *packet.Publish) (*mqtt.Message, *route, error) {
	w := c.work
	w.published++
	w.received += len(p.Payload)
	if err := c.session.state.Check(p); err != nil {
		return nil, nil, err
	}
	r, err := c.route(p)
	if err != nil {
		return nil, nil, err
	}
	f := &w.fan
	f.begin(c.session, w)
	f.scratch = mqtt.Message{
		Topic: r.topic, Payload: p.Payload, Properties: p.Properties,
		Publisher: c.session.state.ID, Received: w.now, QoS: p.QoS, Retain: p.Retain,
	}
	if p.HasExpiry {
		f.scratch.Expires = w.now.Add(time.Duration(p.Expiry) * time.Second)
	}
	return &f.scratch, r, nil
}

// route finds the route of a PUBLISH: mostly the one before, or one of the
// latest of this connection, which takes no lock.
func (c *conn) route(p *packet.Publish) (*route, error) {
	name := p.Topic
	if p.TopicAlias != 0 {
		s, err := c.session.state.Topic(p.TopicAlias, name)
		if err != nil {
			return nil, err
		}
		if r := c.last; r != nil && r.topic == s && !r.stale.Load() {
			return r, nil
		}
		name = stringBytes(s)
	}
	if r := c.last; r != nil && r.topic == string(name) && !r.stale.Load() {
		return r, nil
	}
	r := c.routes[string(name)]
	if r == nil || r.stale.Load() {
		var err error
		if r, err = c.broker.router.route(name); err != nil {
			return nil, err
		}
		if len(c.routes) >= routesPerConn {
			clear(c.routes)
		}
		if c.routes == nil {
			c.routes = make(map[string]*route)
		}
		c.routes[r.topic] = r
		c.note(p, r)
	}
	c.last = r
	return r, nil
}

// note remembers for administration that the Client publishes to the topic.
func (c *conn) note(p *packet.Publish, r *route) {
	mu := &c.session.mu
	mu.Lock()
	defer mu.Unlock()
	if c.published == nil {
		c.published = new(published)
	}
	c.published.note(policy.Publication{Topic: r.topic, QoS: p.QoS, Retain: p.Retain, PayloadBytes: len(p.Payload)})
}

// routesPerConn bounds the routes that a connection remembers; beyond it, it
// begins anew and asks the router, which remembers more.
const routesPerConn = 64

// step asks the publisher's Session what the PUBLISH is. A QoS 2 message that
// was accepted before only gets its PUBREC again.
func (c *conn) step(p *packet.Publish, m *mqtt.Message) (repeated bool, err error) {
	t := c.work.ticket
	if p.QoS == mqtt.QoS1 {
		err = c.session.state.Room(t.waiting())
	}
	if p.QoS == mqtt.QoS2 {
		if t != nil && t.has(p.ID) {
			repeated = true
		} else {
			repeated, err = c.session.state.Receive(p.ID, p.Dup, t.waiting())
		}
		switch {
		case !repeated:
		case t != nil: // what it repeats may be there
			t.steps = append(t.steps, step{op: -1, id: p.ID, qos: p.QoS, repeated: true})
		default:
			err = c.ack(packet.PUBREC, p.ID, mqtt.Success, "")
		}
	}
	if step := c.broker.trace.Step; step != nil {
		step(trace.Step{Message: m, ID: p.ID, Repeated: repeated})
	}
	return repeated, err
}

// admit decides whether the message may enter at all.
func (b *Broker) admit(who *access, m *mqtt.Message) policy.Verdict {
	v := who.publish(m)
	if v.Allowed() && m.Topic[0] == '$' && ownTopic(m.Topic) {
		v = policy.Verdict{Code: mqtt.NotAuthorized, Reason: "topics below $SYS and $fairlead are the broker's own"}
	}
	if admit := b.trace.Admit; admit != nil {
		admit(trace.Admit{Message: m, Code: v.Code, Reason: v.Reason})
	}
	return v
}

var allowed = policy.Verdict{}

// commit takes a message over that the journal need not hold: after a yes it may
// be acknowledged [MQTT-4.3.2-4].
func (b *Broker) commit(w *work, m *mqtt.Message) policy.Verdict {
	if m.Retain {
		if v := b.retain(&w.fan); !v.Allowed() {
			return v
		}
	}
	if commit := b.trace.Commit; commit != nil {
		commit(trace.Commit{Message: m})
	}
	return allowed
}

// room asks each Session that the message would go to for QoS 1 and 2 whether
// it takes more. A Session that is full refuses the message for all, so that
// the publisher may retry without duplicates; it is ended instead if nobody
// could be told, or if its Client is connected, wants nothing kept and does not
// read [MQTT-4.3.2-4].
//
// A Session that outlives its connection holds what has been acknowledged: it is
// never ended for being full. A publisher that has no word for a refusal is
// disconnected instead, and may try again [v3 MQTT-3.3.5-2]; a Will goes in.
//
// The answer is given before the message is queued: each publisher may take a
// queue beyond its limit by what it sends in one batch.
func (b *Broker) room(c *conn, m *mqtt.Message, r *route) policy.Verdict {
	if m.QoS == mqtt.QoS0 {
		return allowed
	}
	if m.Retain && c != nil && b.committer != nil && !b.retained.fits(m, &b.limits) {
		return noRetainedRoom
	}
	for i := range r.targets {
		t := &r.targets[i]
		if t.qos == mqtt.QoS0 || !t.to.full.Load() || b.limits.DropOldest {
			continue
		}
		if t.to.transient.Load() {
			t.to.condemn()
			continue
		}
		if c == nil {
			continue
		}
		return policy.Verdict{Code: mqtt.QuotaExceeded, Reason: "the queue of a subscriber is full"}
	}
	for _, g := range r.groups {
		if g.hasRoom() {
			continue
		}
		lasting := g.lasting()
		if b.limits.DropOldest || c == nil && lasting {
			continue
		}
		if c != nil && (c.version >= mqtt.V5 || lasting) {
			return policy.Verdict{Code: mqtt.QuotaExceeded, Reason: "the queues of a shared subscription are full"}
		}
		g.condemn()
	}
	return allowed
}

// refusePublish tells the publisher that its message is not accepted. Before
// 5.0 there is no word for that but the end of the connection
// [v3 MQTT-3.3.5-2]; a QoS 0 message just ends here.
func (c *conn) refusePublish(id mqtt.PacketID, q mqtt.QoS, v policy.Verdict) error {
	c.broker.dropped(&c.work.fan, c.session.state.ID, q, trace.DroppedRefused)
	c.broker.refusedFor[v.Code].Add(1)
	switch {
	case q == mqtt.QoS0:
		return nil
	case c.version < mqtt.V5:
		return &session.Error{Reason: v.Code, What: v.Reason}
	case q == mqtt.QoS1:
		return c.ack(packet.PUBACK, id, v.Code, v.Reason)
	}
	return c.ack(packet.PUBREC, id, v.Code, v.Reason)
}

// acknowledge says that the message is ours [MQTT-4.3.2-4] [MQTT-4.3.3-8], and
// to 5.0 clients also if nobody wanted it.
func (c *conn) acknowledge(id mqtt.PacketID, q mqtt.QoS, reached int) error {
	if q == mqtt.QoS2 {
		c.session.state.Take(id)
	}
	return c.acknowledged(id, q, reached)
}

func (c *conn) acknowledged(id mqtt.PacketID, q mqtt.QoS, reached int) error {
	reason := mqtt.Success
	if reached == 0 {
		reason = mqtt.NoMatchingSubscribers
	}
	switch q {
	case mqtt.QoS1:
		return c.ack(packet.PUBACK, id, reason, "")
	case mqtt.QoS2:
		return c.ack(packet.PUBREC, id, reason, "")
	}
	return nil
}

// pubrel releases a QoS 2 message [MQTT-4.3.3-11]. In a durable Session that is on
// record before PUBCOMP says so: a message that later used the same Packet
// Identifier would be taken for a repetition else, and be lost.
func (c *conn) pubrel(p *packet.Pubrel) error {
	if t := c.work.ticket; t != nil && t.has(p.ID) { // the Client did not wait for PUBREC
		if err := c.commitTicket(); err != nil {
			return err
		}
	}
	s := c.session
	r := s.releaseID(p.ID)
	if s.durable && r == mqtt.Success {
		s.mu.Lock()
		s.markLocked(mark{kind: journal.Release, id: p.ID, conn: c})
		s.mu.Unlock()
		return nil
	}
	return c.ack(packet.PUBCOMP, p.ID, r, "")
}

// deliver gives the message to each Session on its route, and to one member of
// each Shared Subscription. It returns how many have it, or will get it once
// their Client is back.
func (b *Broker) deliver(f *fanout, r *route) (reached int) {
	if match := b.trace.Match; match != nil {
		match(trace.Match{Message: f.message(), Sessions: len(r.targets), Shares: len(r.groups)})
	}
	f.once = len(r.targets)+len(r.groups) <= 1
	for i := range r.targets {
		if b.deliverTo(f, r, &r.targets[i]) {
			reached++
		}
	}
	for _, g := range r.groups {
		if b.deliverShared(f, g) {
			reached++
		}
	}
	return reached
}

// deliverTo gives the message to one Session, and reports whether it has it.
func (b *Broker) deliverTo(f *fanout, r *route, t *target) bool {
	if t.noLocal && t.to == f.from { // [MQTT-3.8.3-3]
		if t = t.self; t == nil {
			return false
		}
	}
	s := t.to
	s.mu.Lock()
	if r.stale.Load() && f.moved(b, r, &t) {
		s.mu.Unlock()
		return false
	}
	outcome := s.acceptLocked(f, t)
	s.mu.Unlock()
	return b.delivered(f, s, t, outcome)
}

// delivered takes note of what became of the message.
func (b *Broker) delivered(f *fanout, s *subscriber, t *target, o trace.Outcome) bool {
	if o.Dropped() {
		b.dropped(f, s.state.ID, min(f.qos(), t.qos), o)
		return false
	}
	if deliver := b.trace.Deliver; deliver != nil {
		deliver(trace.Deliver{Message: f.message(), Client: s.state.ID, QoS: min(f.qos(), t.qos), Outcome: o})
	}
	return true
}

// dropped counts a message that a Session does not get, with the reason.
func (b *Broker) dropped(f *fanout, id mqtt.ClientID, q mqtt.QoS, o trace.Outcome) {
	b.Outcomes[o].Add(1)
	if deliver := b.trace.Deliver; deliver != nil {
		deliver(trace.Deliver{Message: f.message(), Client: id, QoS: q, Outcome: o})
	}
}

// puback takes a subscriber's acknowledgement: the next message may go.
func (c *conn) puback(p *packet.Puback) error {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.state.Puback(p.ID)
	if err != nil {
		return err
	}
	if s.durable {
		s.dirtyLocked()
	}
	c.broker.settle(d)
	s.ackedLocked(c.work)
	return nil
}

// pubrec takes the first half of a QoS 2 acknowledgement [MQTT-4.3.3-4].
func (c *conn) pubrec(p *packet.Pubrec) error {
	s := c.session
	s.mu.Lock()
	what, reason, err := s.state.Pubrec(p.ID, p.Reason, s.durable)
	switch {
	case err != nil:
	case what == session.Record:
		s.markLocked(mark{kind: journal.Receive, id: p.ID})
	case what == session.Ended && s.durable:
		s.markLocked(mark{kind: journal.Complete, id: p.ID})
	}
	if err == nil {
		s.ackedLocked(c.work)
	}
	s.mu.Unlock()
	if err != nil || what != session.Answer {
		return err
	}
	return c.ack(packet.PUBREL, p.ID, reason, "")
}

// pubcomp takes the second half.
func (c *conn) pubcomp(p *packet.Pubcomp) error {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	known, err := s.state.Pubcomp(p.ID)
	if err != nil {
		return err
	}
	if known && s.durable {
		s.markLocked(mark{kind: journal.Complete, id: p.ID})
	}
	s.ackedLocked(c.work)
	return nil
}
