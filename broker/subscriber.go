package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"fairlead/journal"
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
	begun   bool // has had a connection since the start; guarded by attach
	absence      // what waits for the Client's return

	ending session.Ending // how the Client said goodbye; owned by the connection

	// last is the latest connection, nil once it is over: an absent Session would else
	// keep all of it. It is set under attach.
	last      atomic.Pointer[conn]
	online    atomic.Bool // has a connection
	full      atomic.Bool // takes no more QoS 1 and 2 messages
	busy      atomic.Bool // could not send a QoS 1 or 2 message at once
	transient atomic.Bool // ends with its connection
	doomed    atomic.Bool // is about to be ended for being full
	durable   bool        // outlives its connections; set before anybody else sees the Session
	hold      func(session.Delivery) bool

	mu    sync.Mutex // guards the fields below
	state session.State
	conn  *conn  // nil while the Client is away
	scans []scan // Retained Messages that are still to be sent
	fresh []scan // those of subscriptions whose SUBACK has not been sent
	gone  bool   // the Session has ended

	owner   string  // whose it is, see access.owner
	access  *access // who its Client is, or was; nil: not known since the start
	sifting bool    // what waits may not all be for the Client any more

	scanning bool // scanLaterLocked has been called, and what it starts has not begun
	kept
}

// kept is what concerns the store: see committer.go and keeper.go.
type kept struct {
	recorded bool   // the journal knows the Session
	number   uint64 // of the latest op that has changed it
	marks    []mark // to be committed
	marking  bool   // the committer knows that there are some
	dirty    bool   // the next checkpoint writes it
	rest     rest
	spilling bool // the keeper is asked to spill its queue
	bringing bool // the keeper is asked for a chunk
	// Chunks firstChunk to nextChunk-1 hold what is away of the queue; those below
	// deleted are deleted.
	firstChunk, nextChunk, deleted uint64
	strays                         bool      // a crash may have left chunks beyond them
	awaySince                      time.Time // about when the first of it was received
}

// acceptLocked gives the message to the Session: to the outbox if it may go at
// once, else to the queue.
func (s *subscriber) acceptLocked(f *fanout, t *target) trace.Outcome {
	if s.gone {
		return trace.DroppedSessionGone
	}
	d := session.Delivery{Via: t.via, QoS: min(f.qos(), t.qos), Retain: f.scratch.Retain && t.asPublished}
	if d.QoS > mqtt.QoS0 && s.durable && t.via.Share == "" {
		switch n := f.scratch.Number; {
		case n == 0:
			// Whoever published it saw no durable subscription for QoS 1 or 2, so the
			// Session had one for QoS 0, and the other is not acknowledged yet.
			d.QoS = mqtt.QoS0
		case n <= s.number:
			return trace.Queued // it is known from a checkpoint
		default:
			s.number = n
			s.dirtyLocked()
		}
	}
	if d.QoS == mqtt.QoS0 {
		return s.acceptQoS0Locked(f, d)
	}
	d.Message = f.keep()
	c := s.conn
	if c == nil || c.len() >= highWater || !s.state.Ready() {
		s.queueLocked(d)
		return trace.Queued
	}
	hold := s.holds(d)
	id := s.state.Send(d, hold)
	if !s.state.Ready() {
		s.busy.Store(true)
	}
	if hold {
		s.markSendLocked(id, d, false)
		return trace.Queued
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
		s.giveUpLocked(id, d)
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
	if s.broker.limits.DropOldest && s.full.Load() && !shared(d) {
		s.dropOldestLocked()
	}
	s.state.Queue(d)
	s.broker.queued.Add(int64(d.Message.Size()))
	s.broker.QueuedMessages.Add(1)
	if s.recorded && !s.spilling && s.hereLocked() >= spillPresent {
		s.spilling = true
		s.broker.keeper.wantSpill(s)
	}
	s.levelLocked()
}

// dropOldestLocked makes room in a full queue, as the configuration wants it.
func (s *subscriber) dropOldestLocked() {
	d, ok := s.state.DropOldest()
	if !ok {
		s.wantBringLocked() // the oldest is on disk: it goes when it has come
		return
	}
	b := s.broker
	b.queued.Add(int64(-d.Message.Size()))
	b.QueuedMessages.Add(-1)
	b.settle(d)
	b.droppedMessage(d.Message, s.state.ID, d.QoS, trace.DroppedOldest)
}

// giveUpLocked ends the delivery of a message that can't be sent; id 0: it was
// not under way.
func (s *subscriber) giveUpLocked(id mqtt.PacketID, d session.Delivery) {
	if id != 0 {
		s.state.Drop(id)
		if d.QoS == mqtt.QoS2 && s.durable {
			s.markLocked(mark{kind: journal.Complete, id: id})
		}
	}
	s.state.Unalias(d.Message.Topic)
	s.broker.settle(d)
}

// levelLocked brings the flags up to date that others read without the lock.
func (s *subscriber) levelLocked() {
	n, _ := s.state.Queued()
	full := n > 0 && (s.state.Full(&s.broker.limits.Limits) || s.broker.crowded())
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
// connection sees again, then Retained Messages, which are older than what waits
// in the queue, then that; as much as the send quota and the outbox allow.
func (s *subscriber) pumpLocked(now time.Time) {
	c := s.conn
	if c == nil || c.broken {
		return
	}
	before, bytes := s.state.Queued()
	for c.len() < highWater {
		if len(s.scans) > 0 && s.state.Open() {
			s.scanLocked(c, now)
		}
		out, ok := s.state.Next(now, s.hold)
		if !ok {
			break
		}
		switch {
		case out.Type == packet.PUBLISH && !out.Expired && !s.mayReceiveLocked(out.Message):
			s.giveUpLocked(out.ID, out.Delivery)
			s.broker.droppedMessage(out.Message, s.state.ID, out.QoS, trace.DroppedNotAllowed)
		case out.Expired:
			s.broker.Outcomes[trace.DroppedExpired].Add(1)
			s.broker.settle(out.Delivery)
		case out.Held:
			s.markSendLocked(out.ID, out.Delivery, false)
		default:
			s.sendLocked(c, out, now)
		}
	}
	if s.state.Wants() {
		s.wantBringLocked()
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
		s.giveUpLocked(out.ID, out.Delivery)
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
			s.end()
		}
		s.doomed.Store(false)
	})
}

// crowded reports whether the queues of all Sessions hold as much as they may.
func (b *Broker) crowded() bool {
	return b.queued.Load() >= b.limits.QueuedBytes || b.inMemory() >= b.limits.QueuedMemory
}

// inMemory is what the queues of all Sessions hold in memory, in bytes.
func (b *Broker) inMemory() int64 { return b.queued.Load() - b.away.Load() }
