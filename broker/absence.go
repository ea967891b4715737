package broker

import (
	"slices"
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/trace"
)

// absence is what waits for the return of a Client: its Will, and the end of its
// Session. It is guarded by attach, or owned by the connection that ends.
type absence struct {
	timer  *time.Timer // nil: nothing waits
	will   *session.Will
	willAt time.Time // if will is not nil
	endsAt time.Time // zero: never
}

// detach takes the Session from its connection: messages wait from now on.
func (s *subscriber) detach() session.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	s.online.Store(false)
	p := s.state.Disconnect(s.ending)
	s.levelLocked()
	s.dirtyLocked()
	return p
}

// leave does what is due once the connection has ended: the Will, the end of the
// Session, the messages of Shared Subscriptions. What is due later waits for a
// timer.
func (s *subscriber) leave(c *conn, why error, p session.Plan) {
	b := s.broker
	b.Connected.Add(-1)
	now := b.now()
	r, _ := reasonOf(why)
	stopping := r == mqtt.ServerShuttingDown
	if stopping && !s.recorded {
		p.Will = nil // it may be deferred to the next start (3.1.2.5), when nothing is left of it
	}
	s.will = p.Will
	if p.Will != nil {
		s.willAt = now.Add(p.WillAfter)
	}
	s.endsAt = time.Time{}
	if p.Ends {
		s.endsAt = now.Add(p.EndsAfter)
	}
	if c.discard.Load() {
		s.endsAt = now
	}
	s.doomed.Store(false)
	s.rested()
	if stopping && s.recorded {
		return // what is due now is due at the next start
	}
	if s.recorded && (s.endsAt.IsZero() || now.Before(s.endsAt)) {
		b.committer.later(nil, s.offOp(now))
	}
	if s.due(now) {
		return
	}
	for sub := range s.state.Subscriptions() {
		if sub.Filter.Shared() && b.router.share(sub.Filter.String()).present(s) {
			b.reshare(s, s.unshare(sub.Filter.String()), true)
		}
	}
}

// offOp says that the Client is away, and what waits for its return.
func (s *subscriber) offOp(now time.Time) *journal.Op {
	op := &journal.Op{Kind: journal.Off, Client: s.state.ID, At: now, EndsAt: s.endsAt}
	if s.will != nil {
		op.WillAt = s.willAt
	}
	return op
}

// rested lets checkpoints know of the absence as it is now.
func (s *subscriber) rested() {
	if !s.recorded {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = rest{will: s.will, willAt: s.willAt, endsAt: s.endsAt}
	s.dirtyLocked()
}

// due does what is due at the time now and sets the timer for the rest. It
// reports whether the Session has ended.
func (s *subscriber) due(now time.Time) bool {
	var err error
	if s.over(now) {
		if err = s.end(); err == nil {
			return true
		}
	} else if s.will != nil && !now.Before(s.willAt) {
		err = s.publishWill()
		s.rested()
	}
	next := s.endsAt
	if s.will != nil && (next.IsZero() || s.willAt.Before(next)) {
		next = s.willAt
	}
	if next.IsZero() {
		s.stopTimer()
		return false
	}
	wait := next.Sub(now)
	if err != nil {
		wait = retryEvery
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.wake)
		return false
	}
	s.timer.Reset(wait)
	return false
}

// over reports whether the Session's time is over, be it that it could not end.
func (s *subscriber) over(now time.Time) bool {
	return !s.endsAt.IsZero() && !now.Before(s.endsAt)
}

// wake is what the timer calls.
func (s *subscriber) wake() {
	s.broker.spawn(func() {
		s.attach.Lock()
		defer s.attach.Unlock()
		if s.timer == nil || !s.left() || s.isGone() {
			return
		}
		s.due(s.broker.now())
	})
}

// left reports whether the latest connection has let go of the Session: until
// then the absence is that connection's. The caller holds attach.
func (s *subscriber) left() bool {
	last := s.last.Load()
	if last == nil {
		return true
	}
	select {
	case <-last.done:
		return true
	default:
		return false
	}
}

// comeBack ends the absence: a Will that still waits is not published
// [MQTT-3.1.3-9].
func (s *subscriber) comeBack() {
	s.stopTimer()
	s.absence = absence{}
}

func (s *subscriber) stopTimer() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// publishWill publishes the Will Message that waits [MQTT-3.1.2-8]. With an error
// it still waits, because it could not be made durable.
func (s *subscriber) publishWill() error {
	w := s.will
	m := w.Message
	s.mu.Lock()
	a := s.access
	s.mu.Unlock()
	if a != nil { // policies may have changed since its CONNECT
		if v := s.broker.admit(a, &m); !v.Allowed() {
			s.broker.logger.Warn("will not published: its client may not", "client", s.state.ID, "topic", m.Topic, "why", v.Reason)
			s.broker.Outcomes[trace.DroppedRefused].Add(1)
			s.will = nil
			return nil
		}
	}
	m.Received = s.broker.now()
	if w.HasExpiry {
		m.Expires = m.Received.Add(time.Duration(w.Expiry) * time.Second)
	}
	if err := s.broker.publishOwn(s, &m); err != nil {
		return err
	}
	s.will = nil
	return nil
}

// end ends the Session, and first publishes its Will if that still waits. With an
// error the Session goes on, because the Will could not be made durable.
func (s *subscriber) end() error {
	if s.will != nil {
		if err := s.publishWill(); err != nil {
			return err
		}
	}
	s.endLocked()
	return nil
}

// endLocked ends the Session [MQTT-3.1.2-23]: its subscriptions go, and what
// others may have of its messages goes to them. The caller holds attach, or is the connection that ends; the Session has
// no connection.
func (s *subscriber) endLocked() {
	b := s.broker
	s.stopTimer()
	for sub := range s.state.Subscriptions() {
		b.router.unsubscribe(s, sub)
	}
	b.reshare(s, s.unshare(""), false)
	if s.recorded {
		b.ends(s.state.ID, 1)
	}
	s.mu.Lock()
	s.gone = true
	n, bytes := s.state.Queued()
	_, away := s.state.Away()
	lost := n + s.state.InFlight()
	for d := range s.state.Unmarked() {
		if shared(d) {
			lost-- // others get it: now, or once it is on record that it has not been sent
		}
	}
	var unsent []session.Delivery
	s.marks = slices.DeleteFunc(s.marks, func(m mark) bool {
		if m.letsOutShared() {
			unsent = append(unsent, m.d)
		}
		return m.letsOutShared()
	})
	if s.recorded {
		b.committer.later(func() { b.ends(s.state.ID, -1) }, &journal.Op{Kind: journal.End, Client: s.state.ID})
		b.keeper.forget(goneSession{s.state.ID, s.nextChunk > 0 || s.strays})
	}
	s.mu.Unlock()
	b.queued.Add(int64(-bytes))
	b.away.Add(int64(-away))
	b.QueuedMessages.Add(int64(-n))
	b.Outcomes[trace.DroppedSessionGone].Add(uint64(lost))
	b.mu.Lock()
	if b.sessions[s.state.ID] == s {
		delete(b.sessions, s.state.ID)
	}
	b.mu.Unlock()
	b.Sessions.Add(-1)
	b.reshare(s, unsent, false)
}

func (s *subscriber) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// publishOwn publishes a message that no connection brings: a Will, or what the
// broker says. The message is held by the broker from now on; from is the
// Session that speaks, or nil. The error says that it could not be made durable,
// and nobody has got it.
func (b *Broker) publishOwn(from *subscriber, m *mqtt.Message) error {
	r, err := b.router.route([]byte(m.Topic))
	if err != nil {
		return nil // a will whose topic has more levels than are allowed now
	}
	b.room(nil, m, r)
	recorded := from != nil && from.recorded
	if recorded || !isSys(m.Topic) && b.keeps(from, m, r) {
		return b.commitOwn(from, m, r, recorded)
	}
	w := newWork(m.Received)
	f := &w.fan
	f.begin(from, w)
	f.scratch, f.kept = *m, m
	if m.Retain && !b.retain(f).Allowed() {
		b.dropped(f, m.Publisher, m.QoS, trace.DroppedNotRetained)
	}
	b.deliver(f, r)
	w.finish(b)
	return nil
}

// commitOwn publishes a Will by way of the journal, where the same record says
// that it has been published: it is published once.
func (b *Broker) commitOwn(from *subscriber, m *mqtt.Message, r *route, recorded bool) error {
	if m.Retain && !b.retained.fits(m, &b.limits) {
		b.Outcomes[trace.DroppedNotRetained].Add(1)
		m.Retain = false
	}
	t := newTicket()
	defer t.release()
	s := step{message: m, route: r, from: from}
	if recorded {
		s.will = from
	}
	s.op = t.add(&journal.Op{Kind: journal.Message, Client: m.Publisher, Message: m})
	t.steps = append(t.steps, s)
	if recorded {
		t.add(&journal.Op{Kind: journal.WillDone, Client: from.state.ID})
	}
	return b.committer.commit(t)
}

func (b *Broker) now() time.Time { return time.Now() }
