package broker

import (
	"time"

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
	if r == mqtt.ServerShuttingDown {
		p.Will = nil // the Server may defer it to its next start (3.1.2.5), when nothing is left of it yet
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
	if s.due(now) {
		return
	}
	if s.state.SharesAny() {
		b.reshare(s, s.unshare(""), true)
	}
}

// due does what is due at the time now and sets the timer for the rest. It
// reports whether the Session has ended.
func (s *subscriber) due(now time.Time) bool {
	if !s.endsAt.IsZero() && !now.Before(s.endsAt) {
		s.endLocked()
		return true
	}
	if s.will != nil && !now.Before(s.willAt) {
		s.publishWill()
	}
	next := s.endsAt
	if s.will != nil && (next.IsZero() || s.willAt.Before(next)) {
		next = s.willAt
	}
	if next.IsZero() {
		s.stopTimer()
		return false
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(next.Sub(now), s.wake)
		return false
	}
	s.timer.Reset(next.Sub(now))
	return false
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
	select {
	case <-s.last.done:
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

// publishWill publishes the Will Message that waits [MQTT-3.1.2-8].
func (s *subscriber) publishWill() {
	w := s.will
	s.will = nil
	m := w.Message
	m.Received = s.broker.now()
	if w.HasExpiry {
		m.Expires = m.Received.Add(time.Duration(w.Expiry) * time.Second)
	}
	s.broker.publishOwn(s, &m)
}

// endLocked ends the Session [MQTT-3.1.2-23]: its Will is published if it still
// waits, its subscriptions go, and what others may have of its messages goes to
// them. The caller holds attach, or is the connection that ends; the Session has
// no connection.
func (s *subscriber) endLocked() {
	b := s.broker
	s.stopTimer()
	if s.will != nil {
		s.publishWill()
	}
	for sub := range s.state.Subscriptions() {
		b.router.unsubscribe(s, sub)
	}
	b.reshare(s, s.unshare(""), false)
	s.mu.Lock()
	s.gone = true
	n, bytes := s.state.Queued()
	lost := n + s.state.InFlight()
	s.mu.Unlock()
	b.queued.Add(int64(-bytes))
	b.QueuedMessages.Add(int64(-n))
	b.Outcomes[trace.DroppedSessionGone].Add(uint64(lost))
	b.mu.Lock()
	if b.sessions[s.state.ID] == s {
		delete(b.sessions, s.state.ID)
	}
	b.mu.Unlock()
	b.Sessions.Add(-1)
}

func (s *subscriber) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// publishOwn publishes a message that no connection brings: a Will, or what the
// broker says. The message is held by the broker from now on; from is the
// Session that speaks, or nil.
func (b *Broker) publishOwn(from *subscriber, m *mqtt.Message) {
	r, err := b.router.route([]byte(m.Topic))
	if err != nil {
		return
	}
	w := newWork(m.Received)
	f := &w.fan
	f.begin(from, w)
	f.scratch, f.kept = *m, m
	if m.QoS > mqtt.QoS0 {
		b.room(nil, r)
	}
	if m.Retain && !b.retain(f).Allowed() {
		b.dropped(f, m.Publisher, m.QoS, trace.DroppedNotRetained)
	}
	b.deliver(f, r)
	w.finish(b)
}

func (b *Broker) now() time.Time { return time.Now() }
