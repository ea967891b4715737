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
type Outbound struct {
	queue  queue
	flight flight
	bytes  int // of the messages in queue

	resend  uint64 // the in-flight message that is to be sent again next; at flight.tail: none
	quota   int32  // QoS 1 and 2 messages that may still be sent [MQTT-3.3.4-9]
	sendMax int32
	up      bool // there is a Network Connection
	v5      bool

	aliasMax  uint16
	packetMax uint32
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
	Type packet.Type // PUBLISH or PUBREL
	ID   mqtt.PacketID
	Dup  bool
}

func (o *Outbound) connect(l *Link) {
	o.up, o.v5 = true, l.Version >= mqtt.V5
	o.quota, o.sendMax = int32(l.SendMax), int32(l.SendMax)
	o.aliases, o.aliasMax = nil, l.AliasesOut
	o.packetMax = l.PacketMax
	o.resend = o.flight.head // in the order in which they were first sent [MQTT-4.6.0-1]
}

func (o *Outbound) disconnect() {
	o.up, o.quota, o.aliases = false, 0, nil
}

// PacketMax is the Maximum Packet Size of the Client; 0: any.
func (o *Outbound) PacketMax() uint32 { return o.packetMax }

// Queued is how many messages wait, and their size in bytes.
func (o *Outbound) Queued() (messages, bytes int) { return o.queue.len(), o.bytes }

// InFlight is how many messages are sent and not acknowledged for good.
func (o *Outbound) InFlight() int { return o.flight.n }

// Full reports whether the queue has reached one of the limits: from then on no
// message is accepted for this Session.
func (o *Outbound) Full(lim *Limits) bool {
	return o.queue.len() >= lim.QueueMessages || o.bytes >= lim.QueueBytes
}

// Idle reports whether nothing waits to be sent: a QoS 1 or 2 message that
// comes now may be sent at once, without overtaking another, if the quota
// allows it.
func (o *Outbound) Idle() bool { return o.queue.len() == 0 && o.resend == o.flight.tail }

// Ready reports whether a QoS 1 or 2 message that comes now may be sent at once.
func (o *Outbound) Ready() bool {
	return o.up && o.quota > 0 && o.Idle() && !o.flight.full()
}

// Send takes the message into flight and returns its Packet Identifier. Only
// after [Outbound.Ready] has said yes.
func (o *Outbound) Send(d Delivery) mqtt.PacketID {
	id := o.flight.push(d)
	o.resend = o.flight.tail
	o.quota--
	return id
}

// Queue puts the message behind all others.
func (o *Outbound) Queue(d Delivery) {
	o.queue.push(d)
	o.bytes += d.Message.Size()
}

// Next returns what is to be sent next and takes it into flight: first what was
// in flight when the connection began, in its old order [MQTT-4.4.0-1]
// [MQTT-4.6.0-1], then the queue. False: nothing, or the quota is used up. An
// expired message is left out [MQTT-3.3.2-5]; expired counts them.
func (o *Outbound) Next(now time.Time) (out Outgoing, expired int, ok bool) {
	if !o.up {
		return out, 0, false
	}
	if out, ok = o.again(); ok || o.resend != o.flight.tail {
		return out, 0, ok
	}
	for o.queue.len() > 0 && o.quota > 0 && !o.flight.full() {
		d := o.queue.pop()
		o.bytes -= d.Message.Size()
		if d.Message.Expired(now) {
			expired++
			continue
		}
		return Outgoing{Delivery: d, Type: packet.PUBLISH, ID: o.Send(d)}, expired, true
	}
	return out, expired, false
}

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
		case sent:
			if o.quota <= 0 {
				return out, false
			}
			o.quota--
			out = Outgoing{Delivery: e.Delivery, Type: packet.PUBLISH, ID: packetID(o.resend), Dup: true} // [MQTT-3.3.1-1]
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

// Pubrec takes the Client's PUBREC with reason r. The message is the Client's
// from now on [MQTT-4.3.3-5]; if answer is true, PUBREL with the Reason Code
// reply is due. A failed reason ends the delivery without PUBREL [MQTT-4.3.3-4].
func (o *Outbound) Pubrec(id mqtt.PacketID, r mqtt.ReasonCode) (answer bool, reply mqtt.ReasonCode, err error) {
	seq, e := o.flight.find(id)
	if e == nil {
		return !r.Failed(), mqtt.PacketIdentifierNotFound, nil
	}
	if e.QoS != mqtt.QoS2 {
		return false, 0, violation(mqtt.ProtocolError, "PUBREC %d for a QoS 1 message: expected PUBACK", id)
	}
	if r.Failed() {
		o.finish(seq)
		return false, 0, nil
	}
	e.Message, e.state = nil, released
	return true, mqtt.Success, nil
}

// Pubcomp takes the Client's PUBCOMP, which completes the delivery.
func (o *Outbound) Pubcomp(id mqtt.PacketID) error {
	seq, e := o.flight.find(id)
	if e == nil {
		return nil
	}
	if e.state != released {
		return violation(mqtt.ProtocolError, "PUBCOMP %d for a message that is not released: expected %s first", id, firstAnswer(e.QoS))
	}
	o.finish(seq)
	return nil
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
	var out []Delivery
	mine := func(d Delivery) bool {
		return d.Via != nil && d.Via.Share != "" && (share == "" || d.Via.Share == share)
	}
	for seq := o.flight.head; seq != o.flight.tail && o.flight.n > 0; seq++ {
		if e := o.flight.at(seq); e.state == sent && e.QoS == mqtt.QoS1 && mine(e.Delivery) {
			out = append(out, e.Delivery)
			o.finish(seq)
		}
	}
	for n := o.queue.len(); n > 0; n-- {
		d := o.queue.pop()
		if mine(d) {
			o.bytes -= d.Message.Size()
			out = append(out, d)
			continue
		}
		o.queue.push(d)
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

// aliasWorth is the shortest Topic Name, in bytes, that an alias makes shorter:
// the property takes three.
const aliasWorth = 4

// Aliases reports whether the Client takes Topic Aliases.
func (o *Outbound) Aliases() bool { return o.aliasMax > 0 }
