package mqtt

import "time"

// Message is an Application Message: what a publisher said, and where.
//
// A Message that has been accepted is shared by every queue that holds it and
// is never changed again.
type Message struct {
	// Topic is the Topic Name, valid and without wildcards.
	Topic string
	// Payload is opaque to the broker.
	Payload []byte
	// Properties are the PUBLISH properties that travel unaltered from the
	// publisher to each subscriber.
	Properties Properties
	// Publisher is the Client Identifier of the sender. No Local compares it
	// [MQTT-3.8.3-3]; it is empty for what the broker itself says.
	Publisher ClientID
	// Received is when the broker took the message over.
	Received time.Time
	// Expires is when the Message Expiry Interval has passed and the message
	// may no longer be sent [MQTT-3.3.2-5]. Zero: it never expires.
	Expires time.Time
	// Number is the message's place in the journal, by which its record and those
	// about it find together. 0: the journal does not hold it.
	Number uint64
	// QoS is the level that the publisher asked for.
	QoS QoS
	// Retain is the publisher's RETAIN flag.
	Retain bool
}

// Expired reports whether the message must no longer be sent at the time now.
func (m *Message) Expired(now time.Time) bool {
	return !m.Expires.IsZero() && !now.Before(m.Expires)
}

// overhead is what a message takes beside its bytes: the struct, and its place in
// a queue.
const overhead = 192

// Size is the memory that the message stands for in queue limits, in bytes:
// topic, properties, payload and what it takes to hold them.
func (m *Message) Size() int {
	return overhead + len(m.Topic) + len(m.Properties) + len(m.Payload)
}

// Keep returns a copy of m that shares no bytes with the buffer it was read
// from. Whoever holds a message longer than the packet that brought it keeps it
// first. The topic is shared: a Topic is a string and never lives in a buffer.
func (m *Message) Keep() *Message {
	k := *m
	if n := len(m.Properties); n+len(m.Payload) > 0 {
		buf := make([]byte, n+len(m.Payload))
		copy(buf, m.Properties)
		copy(buf[n:], m.Payload)
		k.Properties, k.Payload = Properties(buf[:n:n]), buf[n:]
	}
	return &k
}
