package broker

import (
	"time"
	"unsafe"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
)

// fanout is one message on its way to any number of Sessions. It belongs to the
// goroutine that publishes.
type fanout struct {
	scratch mqtt.Message  // as read, its bytes still in the read buffer
	kept    *mqtt.Message // the same to be held by queues; nil until one does
	from    *subscriber   // the publisher's Session; nil: none
	work    *work         // the batch that will flush what is filled
	now     time.Time
	fresh   *route    // what took the place of a route that went stale meanwhile
	frames  [4][]byte // the PUBLISH encoded once for each kind of subscriber; empty: not yet
	once    bool      // there is one subscriber: no need to keep a frame
}

func (f *fanout) begin(from *subscriber, w *work) {
	f.kept, f.from, f.work, f.now, f.fresh = nil, from, w, w.now, nil
	for i := range f.frames {
		f.frames[i] = f.frames[i][:0]
	}
}

// reset forgets the message, so that the scratch holds nothing alive.
func (f *fanout) reset() {
	f.scratch, f.kept, f.from, f.work, f.fresh = mqtt.Message{}, nil, nil, nil, nil
	for i := range f.frames {
		if cap(f.frames[i]) > bufferKeep {
			f.frames[i] = nil
		}
	}
}

// message is the message as it is now: kept, or still in the read buffer.
func (f *fanout) message() *mqtt.Message {
	if f.kept != nil {
		return f.kept
	}
	return &f.scratch
}

// keep returns the message for whoever holds it longer than this batch. All
// share one copy.
func (f *fanout) keep() *mqtt.Message {
	if f.kept == nil {
		f.kept = f.scratch.Keep()
	}
	return f.kept
}

func (f *fanout) qos() mqtt.QoS { return f.scratch.QoS }

// moved looks after a target whose route went stale between match and deliver:
// the Session may have unsubscribed, and after UNSUBACK it must not get the
// message [MQTT-3.10.4-2]. It reports whether the target is gone, or replaces it
// by the one that counts now.
func (f *fanout) moved(b *Broker, old *route, t **target) bool {
	if f.fresh == nil || f.fresh.stale.Load() {
		fresh, err := b.router.route(stringBytes(old.topic))
		if err != nil {
			return true
		}
		f.fresh = fresh
	}
	to := (*t).to
	for i := range f.fresh.targets {
		n := &f.fresh.targets[i]
		if n.to != to {
			continue
		}
		if *t = n; n.noLocal && to == f.from {
			*t = n.self
		}
		return *t == nil
	}
	return true
}

// append appends the message to dst as the PUBLISH that the subscriber sees. It
// is encoded once for all that see the same but for QoS, RETAIN flag and Packet
// Identifier, which are patched.
func (f *fanout) append(dst []byte, c *conn, d session.Delivery, id mqtt.PacketID) []byte {
	if f.once || d.Via != nil && len(d.Via.IDs) > 0 || c.session.state.Aliases() {
		return c.appendPublish(dst, d, id, false, f.now)
	}
	kind := 0
	if c.v5() {
		kind = 1
	}
	if d.QoS > mqtt.QoS0 {
		kind += 2
	}
	if len(f.frames[kind]) == 0 {
		f.frames[kind] = c.appendPublish(f.frames[kind], d, id, false, f.now)
	}
	n := len(dst)
	dst = append(dst, f.frames[kind]...)
	frame := dst[n:]
	frame[0] = byte(packet.PUBLISH)<<4 | byte(d.QoS)<<1 | bit(d.Retain)
	if d.QoS > mqtt.QoS0 {
		at := packet.IDOffset(frame)
		frame[at], frame[at+1] = byte(id>>8), byte(id)
	}
	return dst
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// appendPublish encodes one PUBLISH for this Client.
func (c *conn) appendPublish(dst []byte, d session.Delivery, id mqtt.PacketID, dup bool, now time.Time) []byte {
	m := d.Message
	p := packet.Publish{
		Dup: dup, QoS: d.QoS, Retain: d.Retain, ID: id,
		Topic: stringBytes(m.Topic), Payload: m.Payload,
	}
	if c.v5() {
		p.Properties = m.Properties
		if d.Via != nil {
			p.SubscriptionIDs = d.Via.IDs
		}
		if !m.Expires.IsZero() {
			p.HasExpiry, p.Expiry = true, remaining(m.Expires, now) // [MQTT-3.3.2-6]
		}
		if d.QoS < mqtt.QoS2 {
			c.alias(&p, m.Topic)
		}
	}
	return packet.AppendPublish(dst, c.version, &p)
}

// alias lets a Topic Alias stand for the Topic Name if the Client takes one. QoS
// 2 messages go without: clients that keep them until PUBREL, as MQTT.js 5 does,
// would find no name there.
func (c *conn) alias(p *packet.Publish, name string) {
	alias, known := c.session.state.Alias(name)
	if p.TopicAlias = alias; known {
		p.Topic = nil
	}
}

// remaining is what is left of a Message Expiry Interval, in whole seconds,
// rounded up: a message that may still be sent never says 0.
func remaining(expires, now time.Time) uint32 {
	left := expires.Sub(now)
	if left <= 0 {
		return 0
	}
	return uint32((left + time.Second - 1) / time.Second)
}

// stringBytes returns the bytes of s without a copy. They must not be changed.
func stringBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
