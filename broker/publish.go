package broker

import (
	"time"

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
	v := b.admit(c.principal, m)
	if v.Allowed() {
		v = b.commit(c, m, r)
	}
	if !v.Allowed() {
		return c.refusePublish(p, m, v)
	}
	reached := b.deliver(&c.work.fan, r)
	return c.acknowledge(p, reached)
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
	}
	c.last = r
	return r, nil
}

// routesPerConn bounds the routes that a connection remembers; beyond it, it
// begins anew and asks the router, which remembers more.
const routesPerConn = 64

// step asks the publisher's Session what the PUBLISH is. A QoS 2 message that
// was accepted before only gets its PUBREC again.
func (c *conn) step(p *packet.Publish, m *mqtt.Message) (repeated bool, err error) {
	if p.QoS == mqtt.QoS2 {
		if repeated, err = c.session.state.Receive(p.ID); repeated {
			err = c.ack(packet.PUBREC, p.ID, mqtt.Success, "")
		}
	}
	if step := c.broker.trace.Step; step != nil {
		step(trace.Step{Message: m, ID: p.ID, Repeated: repeated})
	}
	return repeated, err
}

// admit decides whether the message may enter at all.
func (b *Broker) admit(who *policy.Principal, m *mqtt.Message) policy.Verdict {
	v := allowed
	if isSys(m.Topic) {
		v = policy.Verdict{Code: mqtt.NotAuthorized, Reason: "$SYS topics are the broker's own"}
	} else if b.admission != nil {
		v = b.admission.Publish(who, m)
	}
	if admit := b.trace.Admit; admit != nil {
		admit(trace.Admit{Message: m, Code: v.Code, Reason: v.Reason})
	}
	return v
}

var allowed = policy.Verdict{}

// commit takes the message over, or says why it can't: after a yes it may be
// acknowledged [MQTT-4.3.2-4]. Memory is all there is today, so a yes needs room
// in each queue that wants the message, and in the retained store.
func (b *Broker) commit(c *conn, m *mqtt.Message, r *route) policy.Verdict {
	if m.QoS > mqtt.QoS0 {
		if v := b.room(c, r); !v.Allowed() {
			return v
		}
	}
	if m.Retain {
		if v := b.retain(&c.work.fan); !v.Allowed() {
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
// The answer is given before the message is queued: each publisher may take a
// queue one message beyond its limit.
func (b *Broker) room(c *conn, r *route) policy.Verdict {
	for i := range r.targets {
		t := &r.targets[i]
		if t.qos == mqtt.QoS0 || !t.to.full.Load() {
			continue
		}
		if c == nil || c.version < mqtt.V5 || t.to.transient.Load() {
			t.to.condemn()
			continue
		}
		return policy.Verdict{Code: mqtt.QuotaExceeded, Reason: "the queue of a subscriber is full"}
	}
	for _, g := range r.groups {
		if g.hasRoom() {
			continue
		}
		if c != nil && c.version >= mqtt.V5 {
			return policy.Verdict{Code: mqtt.QuotaExceeded, Reason: "the queues of a shared subscription are full"}
		}
		g.condemn()
	}
	return allowed
}

// refusePublish tells the publisher that its message is not accepted. Before
// 5.0 there is no word for that but the end of the connection
// [v3 MQTT-3.3.5-2]; a QoS 0 message just ends here.
func (c *conn) refusePublish(p *packet.Publish, m *mqtt.Message, v policy.Verdict) error {
	c.broker.dropped(&c.work.fan, c.session.state.ID, m.QoS, trace.DroppedRefused)
	c.broker.refusedFor[v.Code].Add(1)
	switch {
	case p.QoS == mqtt.QoS0:
		return nil
	case c.version < mqtt.V5:
		return &session.Error{Reason: v.Code, What: v.Reason}
	case p.QoS == mqtt.QoS1:
		return c.ack(packet.PUBACK, p.ID, v.Code, v.Reason)
	}
	return c.ack(packet.PUBREC, p.ID, v.Code, v.Reason)
}

// acknowledge says that the message is ours [MQTT-4.3.2-4] [MQTT-4.3.3-8], and
// to 5.0 clients also if nobody wanted it.
func (c *conn) acknowledge(p *packet.Publish, reached int) error {
	reason := mqtt.Success
	if reached == 0 {
		reason = mqtt.NoMatchingSubscribers
	}
	switch p.QoS {
	case mqtt.QoS1:
		return c.ack(packet.PUBACK, p.ID, reason, "")
	case mqtt.QoS2:
		c.session.state.Take(p.ID)
		return c.ack(packet.PUBREC, p.ID, reason, "")
	}
	return nil
}

// pubrel releases a QoS 2 message [MQTT-4.3.3-11].
func (c *conn) pubrel(p *packet.Pubrel) error {
	return c.ack(packet.PUBCOMP, p.ID, c.session.state.Release(p.ID), "")
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
	if _, err := s.state.Puback(p.ID); err != nil {
		return err
	}
	s.ackedLocked(c.work)
	return nil
}

// pubrec takes the first half of a QoS 2 acknowledgement [MQTT-4.3.3-4].
func (c *conn) pubrec(p *packet.Pubrec) error {
	s := c.session
	s.mu.Lock()
	answer, reason, err := s.state.Pubrec(p.ID, p.Reason)
	if err == nil {
		s.ackedLocked(c.work)
	}
	s.mu.Unlock()
	if err != nil || !answer {
		return err
	}
	return c.ack(packet.PUBREL, p.ID, reason, "")
}

// pubcomp takes the second half.
func (c *conn) pubcomp(p *packet.Pubcomp) error {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.state.Pubcomp(p.ID); err != nil {
		return err
	}
	s.ackedLocked(c.work)
	return nil
}
