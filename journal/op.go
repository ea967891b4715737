package journal

import (
	"encoding/binary"
	"fmt"
	"math"

	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

// Flags of Connect, Off and Send.
const (
	connectClean = 1 << 0
	connectWill  = 1 << 1
	connectOwner = 1 << 2 // from version 2 on

	offAt     = 1 << 0
	offWillAt = 1 << 1
	offEndsAt = 1 << 2

	sendDelivery = 1 << 0
)

// AppendOp appends one op, without its Number. It allocates only what dst lacks.
func AppendOp(dst []byte, op *Op) []byte {
	dst = append(dst, byte(op.Kind))
	dst = appendText(dst, op.Client)
	switch op.Kind {
	case Connect:
		return appendConnect(dst, op)
	case Off:
		return appendOff(dst, op)
	case End, WillDone:
		return dst
	case Subscribe:
		return appendSubscription(dst, &op.Subscription)
	case Unsubscribe:
		return appendText(dst, op.Subscription.Filter)
	case Message:
		dst = binary.AppendUvarint(dst, uint64(op.ID))
		return appendMessage(dst, op.Message, &past{publisher: op.Client})
	case Release, Receive, Complete:
		return appendID(dst, op.ID)
	case Send, Return:
		return appendSend(dst, op)
	}
	panic(fmt.Sprintf("journal: an op of %s is to be written", op.Kind))
}

func appendConnect(b []byte, op *Op) []byte {
	b = append(b, bit(connectClean, op.Clean)|bit(connectWill, op.Will != nil)|bit(connectOwner, op.Owner != ""))
	b = binary.AppendUvarint(b, uint64(op.Expiry))
	if op.Will != nil {
		b = appendWill(b, op.Will, op.Client)
	}
	if op.Owner != "" {
		b = appendText(b, op.Owner)
	}
	return b
}

func appendOff(b []byte, op *Op) []byte {
	b = append(b, bit(offAt, !op.At.IsZero())|bit(offWillAt, !op.WillAt.IsZero())|bit(offEndsAt, !op.EndsAt.IsZero()))
	if !op.At.IsZero() {
		b = appendTime(b, op.At)
	}
	if !op.WillAt.IsZero() {
		b = appendTime(b, op.WillAt)
	}
	if !op.EndsAt.IsZero() {
		b = appendTime(b, op.EndsAt)
	}
	return b
}

func appendSend(b []byte, op *Op) []byte {
	b = append(b, bit(sendDelivery, op.Delivery != nil))
	b = appendID(b, op.ID)
	b = binary.AppendUvarint(b, op.Ref)
	b = appendText(b, op.Share)
	if op.Delivery != nil {
		b = appendDelivery(b, op.Delivery, &past{})
	}
	return b
}

// op reads one op. The branches are here; what they read stands below.
func (o *Ops) op(op *Op) {
	c := &o.c
	at := c.at
	kind := Kind(c.byte("kind"))
	if most := kindsOf(c.version); kind == 0 || kind > most {
		c.failAt(at, "%s: expected 1 to %d", kind, most)
		return
	}
	op.Kind = kind
	op.Client = o.clientID()
	switch kind {
	case Connect:
		c.connect(op)
	case Off:
		c.off(op)
	case Subscribe:
		c.subscription(&op.Subscription)
	case Unsubscribe:
		op.Subscription.Filter = c.filter("Topic Filter")
	case Message:
		op.ID = mqtt.PacketID(c.between("Packet Identifier", 0, math.MaxUint16))
		op.Message = new(mqtt.Message)
		c.message(op.Message, &past{publisher: op.Client}, &o.arena)
		op.Message.Number = op.Number
	case Release, Receive, Complete:
		op.ID = c.id()
	case Send:
		c.send(op)
	case Return:
		if c.send(op); op.Delivery == nil {
			c.failAt(at, "return without a delivery: expected one")
		}
	}
}

// kindsOf is the highest kind that records of the version know.
func kindsOf(version byte) Kind {
	if version == 1 {
		return Complete
	}
	return kindMax
}

func (o *Ops) clientID() mqtt.ClientID {
	if b := o.c.bytes("Client Identifier"); string(b) != string(o.client) {
		o.client = mqtt.ClientID(b)
	}
	return o.client
}

func (c *cursor) connect(op *Op) {
	known := byte(connectClean | connectWill)
	if c.version > 1 {
		known |= connectOwner
	}
	flags := c.flags("flags", known)
	op.Clean = flags&connectClean != 0
	op.Expiry = c.uint32("Session Expiry Interval")
	if flags&connectWill != 0 {
		op.Will = c.will(op.Client)
	}
	if flags&connectOwner != 0 {
		op.Owner = string(c.bytes("owner"))
	}
}

func (c *cursor) off(op *Op) {
	flags := c.flags("flags", offAt|offWillAt|offEndsAt)
	if flags&offAt != 0 {
		op.At = c.time("time")
	}
	if flags&offWillAt != 0 {
		op.WillAt = c.time("time of the Will")
	}
	if flags&offEndsAt != 0 {
		op.EndsAt = c.time("end of the Session")
	}
}

func (c *cursor) send(op *Op) {
	flags := c.flags("flags", sendDelivery)
	op.ID = c.id()
	op.Ref = c.number("number of the message")
	op.Share = c.share()
	if flags&sendDelivery != 0 {
		op.Delivery = new(Delivery)
		c.delivery(op.Delivery, &past{}, &arena{})
	}
}

// id reads a Packet Identifier that must be there.
func (c *cursor) id() mqtt.PacketID {
	return mqtt.PacketID(c.between("Packet Identifier", 1, math.MaxUint16))
}

func (c *cursor) filter(what string) string {
	at := c.at
	filter := string(c.bytes(what))
	if _, err := topic.ParseFilter(filter); err != nil {
		c.failAt(at, "%s: %v", what, err)
		return ""
	}
	return filter
}

// share reads the Topic Filter of a Shared Subscription; empty: none.
func (c *cursor) share() string {
	const what = "Topic Filter of the Shared Subscription"
	at := c.at
	filter := string(c.bytes(what))
	if filter == "" {
		return ""
	}
	f, err := topic.ParseFilter(filter)
	if err != nil {
		c.failAt(at, "%s: %v", what, err)
		return ""
	}
	if !f.Shared() {
		c.failAt(at, "%s %q: expected one that begins with $share/", what, filter)
		return ""
	}
	return filter
}

const willExpiry = 1 << 0

func appendWill(b []byte, w *Will, publisher mqtt.ClientID) []byte {
	b = append(b, bit(willExpiry, w.HasExpiry))
	if w.HasExpiry {
		b = binary.AppendUvarint(b, uint64(w.Expiry))
	}
	b = binary.AppendUvarint(b, uint64(w.Delay))
	return appendMessage(b, &w.Message, &past{publisher: publisher})
}

func (c *cursor) will(publisher mqtt.ClientID) *Will {
	w := new(Will)
	w.HasExpiry = c.flags("flags of the Will", willExpiry) != 0
	if w.HasExpiry {
		w.Expiry = c.uint32("Message Expiry Interval")
	}
	w.Delay = c.uint32("Will Delay Interval")
	c.message(&w.Message, &past{publisher: publisher}, &arena{})
	return w
}

// Flags of a subscription: the first six bits are the Subscription Options of
// SUBSCRIBE, as they stand there (3.8.3.1).
const (
	subscriptionNoLocal           = 1 << 2
	subscriptionRetainAsPublished = 1 << 3
	subscriptionRetainHandling    = 4 // shift
	subscriptionHasID             = 1 << 6
)

func appendSubscription(b []byte, s *Subscription) []byte {
	if s.RetainHandling > 2 {
		panic(fmt.Sprintf("journal: Retain Handling %d is to be written", s.RetainHandling))
	}
	b = append(b, checkQoS(s.QoS)|bit(subscriptionNoLocal, s.NoLocal)|bit(subscriptionRetainAsPublished, s.RetainAsPublished)|
		s.RetainHandling<<subscriptionRetainHandling|bit(subscriptionHasID, s.ID != 0))
	b = appendText(b, s.Filter)
	if s.ID != 0 {
		b = appendSubscriptionID(b, s.ID)
	}
	return b
}

func (c *cursor) subscription(s *Subscription) {
	flags := c.flags("Subscription Options", 0x7F)
	s.QoS = c.qos(flags)
	s.NoLocal = flags&subscriptionNoLocal != 0
	s.RetainAsPublished = flags&subscriptionRetainAsPublished != 0
	if s.RetainHandling = flags >> subscriptionRetainHandling & 3; s.RetainHandling > 2 {
		c.failAt(c.at-1, "Retain Handling 3: expected 0 to 2")
	}
	s.Filter = c.filter("Topic Filter")
	if flags&subscriptionHasID != 0 {
		s.ID = c.subscriptionID()
	}
}

// qos returns the QoS in the lowest two bits of flags, the byte just read.
func (c *cursor) qos(flags byte) mqtt.QoS {
	q := mqtt.QoS(flags & 3)
	if q > mqtt.QoS2 {
		c.failAt(c.at-1, "QoS 3: expected 0 to 2")
		return 0
	}
	return q
}

func (c *cursor) subscriptionID() uint32 {
	return uint32(c.between("Subscription Identifier", 1, subscriptionIDMax))
}
