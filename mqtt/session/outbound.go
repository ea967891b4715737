package session

import (
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// Outbound is the half of a Session that sends to the Client: a queue of what
// waits, and a window of what is under way.
//
//	deliver -> queue -> Next -> in flight -> Puback | Pubrec, Pubcomp
//
// The middle of a long queue may be elsewhere (see spill.go).
type Outbound struct {
	queue  queue
	flight flight
	bytes  int // of all messages that wait, wherever
	spill

	resend  uint64 // the in-flight message that is to be sent again next; at flight.tail: none
	quota   int32  // QoS 1 and 2 messages that may still be sent [MQTT-3.3.4-9]
	sendMax int32
	up      bool // there is a Network Connection
	v5      bool

	aliasMax  uint16
	packetMax uint32
	ageMax    time.Duration
	aliases   map[string]uint16
}

// Delivery is a message on its way to one Client.
type Delivery struct {
	Message *mqtt.Message
	Via     *Via
	QoS     mqtt.QoS // the lower one of publisher and subscription [MQTT-3.8.4-8]
	Retain  bool     // the RETAIN flag that the Client sees
}

// Via is the subscription, or the overlapping ones, by which a message reaches
// a Session. It is shared by all deliveries that come the same way and never
// changed. Nil: no Subscription Identifier, not shared.
type Via struct {
	IDs   []uint32 // Subscription Identifiers [MQTT-3.3.4-3] [MQTT-3.3.4-4]
	Share string   // Topic Filter of the Shared Subscription; empty: not shared
}

// Outgoing is what is to be sent next: a PUBLISH of the Delivery, or a PUBREL.
type Outgoing struct {
	Delivery
	Type    packet.Type // PUBLISH or PUBREL
	ID      mqtt.PacketID
	Dup     bool
	Held    bool // not to be sent yet: see [Outbound.Marked]
	Expired bool // not to be sent at all
}

func (o *Outbound) connect(l *Link) {
	o.up, o.v5 = true, l.Version >= mqtt.V5
	o.quota, o.sendMax = int32(l.SendMax), int32(l.SendMax)
	o.aliases, o.aliasMax = nil, l.AliasesOut
	o.packetMax, o.ageMax = l.PacketMax, l.queueAge
	o.resend = o.flight.head // in the order in which they were first sent [MQTT-4.6.0-1]
}

func (o *Outbound) disconnect() {
	o.up, o.quota, o.aliases = false, 0, nil
}

// PacketMax is the Maximum Packet Size of the Client; 0: any.
func (o *Outbound) PacketMax() uint32 { return o.packetMax }

// Queued is how many messages wait, and their size in bytes.
func (o *Outbound) Queued() (messages, bytes int) {
	return o.queue.len() + o.away + o.tail.len(), o.bytes
}

// InFlight is how many messages are sent and not acknowledged for good.
func (o *Outbound) InFlight() int { return o.flight.n }

// Full reports whether the queue has reached one of the limits: from then on no
// message is accepted for this Session.
func (o *Outbound) Full(lim *Limits) bool {
	n, bytes := o.Queued()
	return n >= lim.QueueMessages || bytes >= lim.QueueBytes
}

// Idle reports whether nothing waits to be sent: a QoS 1 or 2 message that
// comes now may be sent at once, without overtaking another, if the quota
// allows it.
func (o *Outbound) Idle() bool {
	return o.queue.len() == 0 && o.resend == o.flight.tail && o.away == 0 && o.tail.len() == 0
}

// Ready reports whether a QoS 1 or 2 message that comes now may be sent at once.
func (o *Outbound) Ready() bool { return o.Idle() && o.Open() }

// Open reports whether a QoS 1 or 2 message may be sent before those that wait in
// the queue, because it is older.
func (o *Outbound) Open() bool {
	return o.up && o.quota > 0 && o.resend == o.flight.tail && !o.flight.full()
}

// Send takes the message into flight and returns its Packet Identifier. Only
// after [Outbound.Ready] or [Outbound.Open] has said yes. With hold, the PUBLISH must not be sent
// before [Outbound.Marked].
func (o *Outbound) Send(d Delivery, hold bool) mqtt.PacketID {
	st := sent
	if hold {
		st = marking
	}
	id := o.flight.push(d, st)
	o.resend = o.flight.tail
	o.quota--
	return id
}

// Marked says that it is on record that the message is under way. If ok, its
// PUBLISH is to be sent now; otherwise [Outbound.Next] will say so.
func (o *Outbound) Marked(id mqtt.PacketID) (d Delivery, ok bool) {
	seq, e := o.flight.find(id)
	if e == nil || e.state != marking {
		return d, false
	}
	if o.up && seq < o.resend {
		e.state = sent
		return e.Delivery, true
	}
	e.state = marked
	return d, false
}

// Queue puts the message behind all others.
func (o *Outbound) Queue(d Delivery) {
	o.bytes += d.Message.Size()
	if d.shared() {
		o.shares++
	}
	if o.away > 0 || o.tail.len() > 0 {
		o.tail.push(d)
		return
	}
	o.queue.push(d)
}

// Next returns what is to be sent next and takes it into flight: first what was
// in flight when the connection began, in its old order [MQTT-4.4.0-1]
// [MQTT-4.6.0-1], then the queue. False: nothing, or the quota is used up, or
// what comes next is elsewhere. Held says that it must wait for
// [Outbound.Marked]; whether a message from the queue has to, hold decides, if it
// is not nil. An expired message is left out [MQTT-3.3.2-5].
func (o *Outbound) Next(now time.Time, hold func(Delivery) bool) (out Outgoing, ok bool) {
	if !o.up {
		return out, false
	}
	if out, ok = o.again(); ok || o.resend != o.flight.tail {
		return out, ok
	}
	o.bringTail()
	if o.queue.len() == 0 || o.quota <= 0 || o.flight.full() {
		return out, false
	}
	d := o.pop()
	if d.Message.Expired(now) || o.ageMax > 0 && now.Sub(d.Message.Received) >= o.ageMax {
		return Outgoing{Delivery: d, Expired: true}, true
	}
	held := hold != nil && hold(d)
	return Outgoing{Delivery: d, Type: packet.PUBLISH, ID: o.Send(d, held), Held: held}, true
}

// pop takes the first message out of the queue.
func (o *Outbound) pop() Delivery {
	d := o.queue.pop()
	o.bytes -= d.Message.Size()
	if d.shared() {
		o.shares--
	}
	return d
}

func (d *Delivery) shared() bool { return d.Via != nil && d.Via.Share != "" }

// again returns the next in-flight message that a new connection sees again.
func (o *Outbound) again() (out Outgoing, ok bool) {
	for ; o.resend != o.flight.tail; o.resend++ {
		e := o.flight.at(o.resend)
		switch e.state {
		case released:
			// A PUBREL needs no quota [MQTT-4.9.0-3], but its PUBCOMP gives one
			// back: taken here, below 0 if need be, the Client never has more
			// messages under way than it allows.
			o.quota--
			out = Outgoing{Type: packet.PUBREL, ID: packetID(o.resend)}
		case sent, marked:
			if o.quota <= 0 {
				return out, false
			}
			o.quota--
			out = Outgoing{Delivery: e.Delivery, Type: packet.PUBLISH, ID: packetID(o.resend), Dup: e.state == sent} // [MQTT-3.3.1-1]
			e.state = sent
		case marking, releasing:
			return out, false // it goes on with Marked or Received
		default:
			continue
		}
		o.resend++
		return out, true
	}
	return out, false
}

// Puback takes the Client's PUBACK and returns the delivery that is complete;
// its Message is nil if the Packet Identifier is not under way, which is no
// error: the answer may have crossed a takeover.
func (o *Outbound) Puback(id mqtt.PacketID) (Delivery, error) {
	seq, e := o.flight.find(id)
	if e == nil {
		return Delivery{}, nil
	}
	if e.QoS != mqtt.QoS1 {
		return Delivery{}, violation(mqtt.ProtocolError, "PUBACK %d for a QoS 2 message: expected PUBREC or PUBCOMP", id)
	}
	d := e.Delivery
	o.finish(seq)
	return d, nil
}

// After is what follows a PUBREC.
type After byte

// What may follow a PUBREC.
const (
	Nothing After = iota
	Answer        // a PUBREL is due
	Record        // a PUBREL is due once the PUBREC is on record: see [Outbound.Received]
	Ended         // the delivery has ended
)

// Pubrec takes the Client's PUBREC with reason r. The message is the Client's
// from now on [MQTT-4.3.3-5], and PUBREL with the Reason Code reply is due; with
// hold not before [Outbound.Received]. A failed reason ends the delivery without
// PUBREL [MQTT-4.3.3-4].
func (o *Outbound) Pubrec(id mqtt.PacketID, r mqtt.ReasonCode, hold bool) (what After, reply mqtt.ReasonCode, err error) {
	seq, e := o.flight.find(id)
	if e == nil || e.state == marking || e.state == marked {
		if r.Failed() {
			return Nothing, 0, nil
		}
		return Answer, mqtt.PacketIdentifierNotFound, nil
	}
	if e.QoS != mqtt.QoS2 {
		return Nothing, 0, violation(mqtt.ProtocolError, "PUBREC %d for a QoS 1 message: expected PUBACK", id)
	}
	switch {
	case r.Failed():
		o.finish(seq)
		return Ended, 0, nil
	case e.state == releasing:
		return Nothing, 0, nil
	case hold && e.state == sent:
		e.Message, e.state = nil, releasing
		return Record, 0, nil
	}
	e.Message, e.state = nil, released
	return Answer, mqtt.Success, nil
}

// Received says that a PUBREC is on record. If ok, its PUBREL is to be sent now;
// otherwise [Outbound.Next] will say so.
func (o *Outbound) Received(id mqtt.PacketID) (ok bool) {
	seq, e := o.flight.find(id)
	if e == nil || e.state != releasing {
		return false
	}
	e.state = released
	return o.up && seq < o.resend
}

// Pubcomp takes the Client's PUBCOMP, which completes the delivery. Known says
// that there was one.
func (o *Outbound) Pubcomp(id mqtt.PacketID) (known bool, err error) {
	seq, e := o.flight.find(id)
	if e == nil {
		return false, nil
	}
	if e.state != released {
		return false, violation(mqtt.ProtocolError, "PUBCOMP %d for a message that is not released: expected %s first", id, firstAnswer(e.QoS))
	}
	o.finish(seq)
	return true, nil
}

func firstAnswer(q mqtt.QoS) packet.Type {
	if q == mqtt.QoS1 {
		return packet.PUBACK
	}
	return packet.PUBREC
}

// Drop gives up on a message that was taken into flight and can't be sent, as
// if the Client had acknowledged it [MQTT-3.1.2-25].
func (o *Outbound) Drop(id mqtt.PacketID) {
	if seq, e := o.flight.find(id); e != nil {
		o.finish(seq)
	}
}

func (o *Outbound) finish(seq uint64) {
	o.flight.remove(seq)
	o.resend = max(o.resend, o.flight.head)
	if o.quota < o.sendMax && o.up { // not above its initial value (4.9)
		o.quota++
	}
}

// Unshare takes those deliveries of Shared Subscriptions out of the Session
// that may go to another Client instead, in their order: what waits, and QoS 1
// that is under way. QoS 2 messages under way stay with the Client
// [MQTT-4.8.2-4] [MQTT-4.8.2-5]. With a share, only those of that Topic Filter.
func (o *Outbound) Unshare(share string) []Delivery {
	if o.shares == 0 && o.flight.n == 0 {
		return nil
	}
	var out []Delivery
	mine := func(d Delivery) bool {
		return d.shared() && (share == "" || d.Via.Share == share)
	}
	for seq := o.flight.head; seq != o.flight.tail && o.flight.n > 0; seq++ {
		if e := o.flight.at(seq); e.state == sent && e.QoS == mqtt.QoS1 && mine(e.Delivery) {
			out = append(out, e.Delivery)
			o.finish(seq)
		}
	}
	if o.shares == 0 {
		return out
	}
	for _, q := range []*queue{&o.queue, &o.tail} { // what is elsewhere holds none
		for n := q.len(); n > 0; n-- {
			d := q.pop()
			if mine(d) {
				o.bytes -= d.Message.Size()
				o.shares--
				out = append(out, d)
				continue
			}
			q.push(d)
		}
	}
	return out
}

// Alias returns the Topic Alias for the Topic Name; known says that the Client
// has seen it with the name, so the name itself can stay away. 0: none is left,
// or the Client wants none [MQTT-3.1.2-26].
func (o *Outbound) Alias(name string) (alias uint16, known bool) {
	if o.aliasMax == 0 || len(name) < aliasWorth {
		return 0, false
	}
	if alias, known = o.aliases[name]; known || len(o.aliases) >= int(o.aliasMax) {
		return alias, known
	}
	if o.aliases == nil {
		o.aliases = make(map[string]uint16)
	}
	alias = uint16(len(o.aliases) + 1)
	o.aliases[name] = alias
	return alias, false
}

// Unalias forgets the alias that the latest PUBLISH may have introduced for the
// Topic Name, because the Client has not got it.
func (o *Outbound) Unalias(name string) {
	if a := o.aliases[name]; a > 0 && int(a) == len(o.aliases) {
		delete(o.aliases, name)
	}
}

// aliasWorth is the shortest Topic Name, in bytes, that an alias makes shorter:
// the property takes three.
const aliasWorth = 4

// Aliases reports whether the Client takes Topic Aliases.
func (o *Outbound) Aliases() bool { return o.aliasMax > 0 }
