package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
	"fairlead/trace"
)

// subscriber is a Session and its place in the broker. It outlives its Network
// Connections.
type subscriber struct {
	broker *Broker

	// attach is held by whoever gives the Session to a connection, or ends it
	// while there is none. Between the two the goroutine of its connection owns
	// the Session, but for what stands under mu.
	attach  sync.Mutex
	last    *conn // the latest connection; guarded by attach
	absence       // what waits for the Client's return

	ending session.Ending // how the Client said goodbye; owned by the connection

	online    atomic.Bool // has a connection
	full      atomic.Bool // takes no more QoS 1 and 2 messages
	busy      atomic.Bool // could not send a QoS 1 or 2 message at once
	transient atomic.Bool // ends with its connection
	doomed    atomic.Bool // is about to be ended for being full

	mu    sync.Mutex // guards the fields below
	state session.State
	conn  *conn  // nil while the Client is away
	scans []scan // Retained Messages that are still to be sent
	gone  bool   // the Session has ended
}

// acceptLocked gives the message to the Session: to the outbox if it may go at
// once, else to the queue.
func (s *subscriber) acceptLocked(f *fanout, t *target) trace.Outcome {
	if s.gone {
		return trace.DroppedSessionGone
	}
	d := session.Delivery{Via: t.via, QoS: min(f.qos(), t.qos), Retain: f.scratch.Retain && t.asPublished}
	if d.QoS == mqtt.QoS0 {
		return s.acceptQoS0Locked(f, d)
	}
	d.Message = f.keep()
	c := s.conn
	if c == nil || c.len() >= highWater || !s.state.Ready() {
		s.queueLocked(d)
		return trace.Queued
	}
	id := s.state.Send(d)
	if !s.state.Ready() {
		s.busy.Store(true)
	}
	return s.putLocked(c, f, d, id)
}

func (s *subscriber) acceptQoS0Locked(f *fanout, d session.Delivery) trace.Outcome {
	c := s.conn
	if c == nil {
		return trace.DroppedAbsent
	}
	if c.len() >= s.broker.limits.OutboxBytes {
		return trace.DroppedOutboxFull
	}
	d.Message = f.message()
	return s.putLocked(c, f, d, 0)
}

// putLocked encodes the message into the outbox, unless it is above what the
// Client takes [MQTT-3.1.2-24]: then it counts as delivered [MQTT-3.1.2-25].
func (s *subscriber) putLocked(c *conn, f *fanout, d session.Delivery, id mqtt.PacketID) trace.Outcome {
	if c.broken {
		return trace.Sent // as if it had been sent a moment before the connection broke
	}
	b := c.bytes()
	n := len(b)
	b = f.append(b, c, d, id)
	if most := s.state.PacketMax(); most > 0 && len(b)-n > int(most) {
		c.setBytes(b[:n])
		if id != 0 {
			s.state.Drop(id)
		}
		return trace.DroppedTooLarge
	}
	c.setBytes(b)
	f.work.sent++
	f.work.sentBytes += len(d.Message.Payload)
	c.scheduleLocked(f.work)
	if len(b) >= flushAt {
		c.flushLocked()
	}
	return trace.Sent
}

// queueLocked puts a QoS 1 or 2 message behind those that wait.
func (s *subscriber) queueLocked(d session.Delivery) {
	s.state.Queue(d)
	s.broker.queued.Add(int64(d.Message.Size()))
	s.broker.QueuedMessages.Add(1)
	s.levelLocked()
}

// levelLocked brings the flags up to date that others read without the lock.
func (s *subscriber) levelLocked() {
	n, _ := s.state.Queued()
	full := n > 0 && (s.state.Full(&s.broker.limits.Limits) || s.broker.queued.Load() >= s.broker.limits.QueuedBytes)
	if full != s.full.Load() {
		s.full.Store(full)
	}
	if busy := !s.state.Ready(); busy != s.busy.Load() {
		s.busy.Store(busy)
	}
}

// waitingLocked reports whether pumpLocked may have something to do.
func (s *subscriber) waitingLocked() bool { return !s.state.Idle() || len(s.scans) > 0 }

// ackedLocked lets the next messages go after an acknowledgement.
func (s *subscriber) ackedLocked(w *work) {
	if !s.waitingLocked() || s.conn == nil {
		if s.busy.Load() {
			s.levelLocked()
		}
		return
	}
	s.pumpLocked(w.now)
	if s.conn.len() > 0 {
		s.conn.scheduleLocked(w)
	}
}

// pumpLocked moves what waits into the outbox: messages under way that a new
// connection sees again, then the queue, then Retained Messages; as much as the
// send quota and the outbox allow.
func (s *subscriber) pumpLocked(now time.Time) {
	c := s.conn
	if c == nil || c.broken {
		return
	}
	before, bytes := s.state.Queued()
	for c.len() < highWater {
		out, expired, ok := s.state.Next(now)
		if expired > 0 {
			s.broker.Outcomes[trace.DroppedExpired].Add(uint64(expired))
		}
		if !ok {
			break
		}
		s.sendLocked(c, out, now)
	}
	if after, left := s.state.Queued(); after != before {
		s.broker.queued.Add(int64(left - bytes))
		s.broker.QueuedMessages.Add(int64(after - before))
		s.levelLocked()
	}
	s.scanLocked(c, now)
}

// sendLocked encodes a message that has waited.
func (s *subscriber) sendLocked(c *conn, out session.Outgoing, now time.Time) {
	b := c.bytes()
	if out.Type == packet.PUBREL {
		c.setBytes(packet.AppendAck(b, c.version, packet.PUBREL, out.ID, mqtt.Success))
		return
	}
	n := len(b)
	b = c.appendPublish(b, out.Delivery, out.ID, out.Dup, now)
	if most := s.state.PacketMax(); most > 0 && len(b)-n > int(most) {
		c.setBytes(b[:n])
		if out.ID != 0 {
			s.state.Drop(out.ID)
		}
		s.broker.droppedMessage(out.Message, s.state.ID, out.QoS, trace.DroppedTooLarge)
		return
	}
	c.setBytes(b)
	s.broker.SentMessages.Add(1)
	s.broker.SentPayloadBytes.Add(uint64(len(out.Message.Payload)))
	if deliver := s.broker.trace.Deliver; deliver != nil {
		deliver(trace.Deliver{Message: out.Message, Client: s.state.ID, QoS: out.QoS, Outcome: trace.Sent})
	}
}

// droppedMessage is dropped for a message that had waited.
func (b *Broker) droppedMessage(m *mqtt.Message, id mqtt.ClientID, q mqtt.QoS, o trace.Outcome) {
	b.Outcomes[o].Add(1)
	if deliver := b.trace.Deliver; deliver != nil {
		deliver(trace.Deliver{Message: m, Client: id, QoS: q, Outcome: o})
	}
}

// condemn ends a Session whose queue is full, because it can't take a message
// that nobody may refuse. It is counted and logged: what it held is lost.
func (s *subscriber) condemn() {
	if !s.doomed.CompareAndSwap(false, true) {
		return
	}
	b := s.broker
	b.spawn(func() {
		const why = "the queue of the session is full"
		s.mu.Lock()
		c := s.conn
		s.mu.Unlock()
		b.logger.Warn("session ended", "client", s.state.ID, "reason", why)
		b.Outcomes[trace.DroppedSessionFull].Add(1)
		if c != nil {
			c.discard.Store(true)
			c.kick(mqtt.QuotaExceeded, why)
			return
		}
		s.attach.Lock()
		defer s.attach.Unlock()
		if s.full.Load() && s.left() && !s.isGone() {
			s.endLocked()
		}
		s.doomed.Store(false)
	})
}
