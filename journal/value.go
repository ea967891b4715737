package journal

import (
	"encoding/binary"
	"math"

	"fairlead/mqtt"
)

// AppendChunk appends the value of a chunk. Deliveries may leave out what the one
// before has: a message that follows itself, by its pointer, is written once.
func AppendChunk(dst []byte, ds []Delivery) []byte {
	begin := len(dst)
	dst = reserve(dst, frameSize)
	dst = appendDeliveries(dst, ds, &past{})
	chunkForm.seal(dst[begin:])
	return dst
}

// ReadChunk reads what [AppendChunk] wrote. The deliveries share memory with each
// other and with b, which stays as long as one of them does. An error is an
// [*Error] or wraps [ErrNewer].
func ReadChunk(b []byte) ([]Delivery, error) {
	c, err := chunkForm.open(b, frameSize)
	if err != nil {
		return nil, err
	}
	ds := c.deliveries(&past{}, &arena{})
	if err := c.end(); err != nil {
		return nil, err
	}
	return ds, nil
}

// AppendRetained appends the value of a Retained Message.
func AppendRetained(dst []byte, r *Retained) []byte {
	begin := len(dst)
	dst = reserve(dst, frameSize)
	dst = binary.AppendUvarint(dst, numberOf(r.Number, r.Message))
	dst = appendMessage(dst, r.Message, &past{})
	retainedForm.seal(dst[begin:])
	return dst
}

// ReadRetained reads what [AppendRetained] wrote. The payload stays in b. An error
// is an [*Error] or wraps [ErrNewer].
func ReadRetained(b []byte) (*Retained, error) {
	c, err := retainedForm.open(b, frameSize)
	if err != nil {
		return nil, err
	}
	r := &Retained{Number: c.number("number"), Message: new(mqtt.Message)}
	c.message(r.Message, &past{}, &arena{})
	r.Message.Number = r.Number
	if err := c.end(); err != nil {
		return nil, err
	}
	return r, nil
}

// Flags of a session, and of a message under way.
const (
	sessionOnline = 1 << 0
	sessionWillAt = 1 << 1
	sessionEndsAt = 1 << 2
	sessionWill   = 1 << 3

	flightReleased = 1 << 0
)

// AppendSession appends the value of a Session.
func AppendSession(dst []byte, s *Session) []byte {
	begin := len(dst)
	b := reserve(dst, frameSize)
	b = append(b, bit(sessionOnline, s.Online)|bit(sessionWillAt, !s.WillAt.IsZero())|
		bit(sessionEndsAt, !s.EndsAt.IsZero())|bit(sessionWill, s.Will != nil))
	b = appendText(b, s.Client)
	b = binary.AppendUvarint(b, s.Upto)
	b = binary.AppendUvarint(b, uint64(s.Expiry))
	if !s.WillAt.IsZero() {
		b = appendTime(b, s.WillAt)
	}
	if !s.EndsAt.IsZero() {
		b = appendTime(b, s.EndsAt)
	}
	if s.Will != nil {
		b = appendWill(b, s.Will, s.Client)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Subscriptions)))
	for i := range s.Subscriptions {
		b = appendSubscription(b, &s.Subscriptions[i])
	}
	b = appendIDs(b, s.Taken)
	b = binary.AppendUvarint(b, s.NextID)
	var p past
	b = appendFlight(b, s.Flight, &p)
	b = appendDeliveries(b, s.Queue, &p)
	for _, n := range [...]uint64{s.FirstChunk, s.NextChunk, s.Spilled, s.SpilledBytes} {
		b = binary.AppendUvarint(b, n)
	}
	b = appendDeliveries(b, s.Tail, &p)
	b = appendIDs(b, s.Doubtful)
	b = binary.AppendUvarint(b, uint64(len(s.Owed)))
	for i := range s.Owed {
		b = appendSubscription(b, &s.Owed[i].Subscription)
		b = binary.AppendUvarint(b, s.Owed[i].UpTo)
		b = binary.AppendUvarint(b, s.Owed[i].From)
		b = binary.AppendUvarint(b, s.Owed[i].Sent)
	}
	b = appendText(b, s.Owner)
	sessionForm.seal(b[begin:])
	return b
}

func appendIDs(b []byte, ids []mqtt.PacketID) []byte {
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = appendID(b, id)
	}
	return b
}

func appendFlight(b []byte, flight []InFlight, p *past) []byte {
	b = binary.AppendUvarint(b, uint64(len(flight)))
	var seq uint64
	for i := range flight {
		f := &flight[i]
		b = append(b, bit(flightReleased, f.Released))
		b = appendDifference(b, f.Seq, seq)
		seq = f.Seq
		if !f.Released {
			b = appendDelivery(b, &f.Delivery, p)
		}
	}
	return b
}

// ReadSession reads what [AppendSession] wrote. Payloads stay in b, which lives as
// long as one of them. An error is an [*Error] or wraps [ErrNewer].
func ReadSession(b []byte) (*Session, error) {
	c, err := sessionForm.open(b, frameSize)
	if err != nil {
		return nil, err
	}
	s := c.session()
	if err := c.end(); err != nil {
		return nil, err
	}
	return s, nil
}

func (c *cursor) session() *Session {
	s := new(Session)
	flags := c.flags("flags", sessionOnline|sessionWillAt|sessionEndsAt|sessionWill)
	s.Online = flags&sessionOnline != 0
	s.Client = mqtt.ClientID(c.bytes("Client Identifier"))
	s.Upto = c.number("number of the last op")
	s.Expiry = c.uint32("Session Expiry Interval")
	if flags&sessionWillAt != 0 {
		s.WillAt = c.time("time of the Will")
	}
	if flags&sessionEndsAt != 0 {
		s.EndsAt = c.time("end of the Session")
	}
	if flags&sessionWill != 0 {
		s.Will = c.will(s.Client)
	}
	s.Subscriptions = c.subscriptions()
	s.Taken = c.ids()
	s.NextID = c.number("next Packet Identifier")
	var p past
	var a arena
	s.Flight = c.flight(&p, &a)
	s.Queue = c.deliveries(&p, &a)
	s.FirstChunk = c.number("first chunk")
	s.NextChunk = c.number("next chunk")
	s.Spilled = c.number("messages in the chunks")
	s.SpilledBytes = c.number("bytes in the chunks")
	s.Tail = c.deliveries(&p, &a)
	if c.version > 1 {
		s.Doubtful = c.ids()
		s.Owed = c.owed()
		s.Owner = string(c.bytes("owner"))
	}
	return s
}

// Each of the following reads a count and as many elements, whose least size in
// bytes it names. It ends at the first error: a damaged count may be large.

func (c *cursor) subscriptions() []Subscription {
	n := c.count("subscriptions", 3)
	if n == 0 {
		return nil
	}
	subs := make([]Subscription, n)
	for i := range subs {
		if c.subscription(&subs[i]); c.err != nil {
			return nil
		}
	}
	return subs
}

func (c *cursor) owed() []Owed {
	n := c.count("new subscriptions", 6)
	if n == 0 {
		return nil
	}
	owed := make([]Owed, n)
	for i := range owed {
		o := &owed[i]
		c.subscription(&o.Subscription)
		o.UpTo = c.number("last Retained Message")
		o.From = c.number("Retained Message before")
		o.Sent = c.number("Retained Message before at QoS 2")
		if c.err != nil {
			return nil
		}
	}
	return owed
}

func (c *cursor) ids() []mqtt.PacketID {
	n := c.count("Packet Identifiers", 1)
	if n == 0 {
		return nil
	}
	ids := make([]mqtt.PacketID, n)
	for i := range ids {
		if ids[i] = c.id(); c.err != nil {
			return nil
		}
	}
	return ids
}

func (c *cursor) flight(p *past, a *arena) []InFlight {
	n := c.count("messages under way", 2)
	if n == 0 {
		return nil
	}
	flight := make([]InFlight, 0, min(n, math.MaxUint16, 8+c.left()/8))
	var seq uint64
	for i := range n {
		a.more = n - i
		flight = append(flight, InFlight{})
		if c.inFlight(&flight[i], &seq, p, a); c.err != nil {
			return nil
		}
	}
	return flight
}

func (c *cursor) inFlight(f *InFlight, seq *uint64, p *past, a *arena) {
	f.Released = c.flags("flags of a message under way", flightReleased) != 0
	*seq = c.difference("place of a message under way", *seq)
	f.Seq = *seq
	if !f.Released {
		c.delivery(&f.Delivery, p, a)
	}
}
