package journal

import (
	"encoding/binary"
	"slices"
	"strings"

	"fairlead/mqtt"
	"fairlead/mqtt/topic"
)

// past is what the next delivery of the same value need not repeat. It begins
// empty, but for the Client where messages are the Client's own.
type past struct {
	number    uint64
	ids       []uint32
	share     string
	message   *mqtt.Message
	topic     string
	publisher mqtt.ClientID
	received  uint64 // nanoseconds since 1970
}

// Flags of a delivery. The first two bits are the QoS.
const (
	deliveryRetain = 1 << 2
	deliveryAgain  = 1 << 3 // the message is that of the delivery before
	deliveryNumber = 1 << 4
	deliveryIDs    = 1 << 5 // other Subscription Identifiers than before
	deliveryShare  = 1 << 6 // another Shared Subscription than before
	deliveryFlags  = 1<<7 - 1
)

func appendDelivery(b []byte, d *Delivery, p *past) []byte {
	if d.Message == nil {
		panic("journal: a Delivery without a Message is to be written")
	}
	again := d.Message == p.message
	number := numberOf(d.Number, d.Message)
	if again {
		number = 0 // it goes with the message
	}
	ids, share := !slices.Equal(d.IDs, p.ids), d.Share != p.share
	b = append(b, checkQoS(d.QoS)|bit(deliveryRetain, d.Retain)|bit(deliveryAgain, again)|
		bit(deliveryNumber, number != 0)|bit(deliveryIDs, ids)|bit(deliveryShare, share))
	if number != 0 {
		b = appendDifference(b, number, p.number)
		p.number = number
	}
	if ids {
		b = binary.AppendUvarint(b, uint64(len(d.IDs)))
		for _, id := range d.IDs {
			b = appendSubscriptionID(b, id)
		}
		p.ids = d.IDs
	}
	if share {
		b = appendText(b, d.Share)
		p.share = d.Share
	}
	if again {
		return b
	}
	p.message = d.Message
	return appendMessage(b, d.Message, p)
}

// numberOf is the number that belongs to the message, which knows it too.
func numberOf(n uint64, m *mqtt.Message) uint64 {
	if n == 0 && m != nil {
		return m.Number
	}
	return n
}

func (c *cursor) delivery(d *Delivery, p *past, a *arena) {
	flags := c.flags("flags of a delivery", deliveryFlags)
	d.QoS = c.qos(flags)
	d.Retain = flags&deliveryRetain != 0
	again := flags&deliveryAgain != 0
	var number uint64
	if flags&deliveryNumber != 0 {
		number = c.deliveryNumber(again, p)
	}
	if flags&deliveryIDs != 0 {
		p.ids = c.subscriptionIDs()
	}
	if flags&deliveryShare != 0 {
		p.share = c.share()
	}
	d.IDs, d.Share = p.ids, p.share
	if !again {
		p.message = a.message(c.left())
		c.message(p.message, p, a)
		p.message.Number = number
	} else if p.message == nil {
		c.failAt(c.at, "the message of the delivery before: expected one before")
		return
	}
	d.Message, d.Number = p.message, p.message.Number
}

func (c *cursor) deliveryNumber(again bool, p *past) uint64 {
	at := c.at
	p.number = c.difference("number of a message", p.number)
	if again {
		c.failAt(at, "a number for the message of the delivery before: expected none")
	}
	if p.number == 0 {
		c.failAt(at, "number 0 of a message: expected numbers from 1")
	}
	return p.number
}

func (c *cursor) subscriptionIDs() []uint32 {
	n := c.count("Subscription Identifiers", 1)
	if n == 0 {
		return nil
	}
	ids := make([]uint32, n)
	for i := range ids {
		if ids[i] = c.subscriptionID(); c.err != nil {
			return nil
		}
	}
	return ids
}

// deliverySizeMin is the shortest delivery: the message before once more.
const deliverySizeMin = 1

func appendDeliveries(b []byte, ds []Delivery, p *past) []byte {
	b = binary.AppendUvarint(b, uint64(len(ds)))
	for i := range ds {
		b = appendDelivery(b, &ds[i], p)
	}
	return b
}

func (c *cursor) deliveries(p *past, a *arena) []Delivery {
	n := c.count("deliveries", deliverySizeMin)
	if n == 0 {
		return nil
	}
	// A delivery is 64 times as large in memory as in its shortest form: room for
	// what the input usually holds, and the rest only once it has been seen.
	ds := make([]Delivery, 0, min(n, 8+c.left()/8))
	for i := range n {
		a.more = n - i
		ds = append(ds, Delivery{})
		if c.delivery(&ds[i], p, a); c.err != nil {
			return nil
		}
	}
	return ds
}

// Flags of a message. The first two bits are the QoS.
const (
	messageRetain     = 1 << 2
	messageTopic      = 1 << 3 // another Topic Name than before
	messagePublisher  = 1 << 4 // another publisher than before
	messageReceived   = 1 << 5
	messageExpires    = 1 << 6
	messageProperties = 1 << 7
)

func appendMessage(b []byte, m *mqtt.Message, p *past) []byte {
	if m == nil {
		panic("journal: no Message is to be written")
	}
	named, published := m.Topic != p.topic, m.Publisher != p.publisher
	received, expires := !m.Received.IsZero(), !m.Expires.IsZero()
	b = append(b, checkQoS(m.QoS)|bit(messageRetain, m.Retain)|bit(messageTopic, named)|bit(messagePublisher, published)|
		bit(messageReceived, received)|bit(messageExpires, expires)|bit(messageProperties, len(m.Properties) > 0))
	if named {
		b = appendText(b, m.Topic)
		p.topic = m.Topic
	}
	if published {
		b = appendText(b, m.Publisher)
		p.publisher = m.Publisher
	}
	if received {
		at := uint64(nano(m.Received))
		b = appendDifference(b, at, p.received)
		p.received = at
	}
	if expires {
		b = appendDifference(b, uint64(nano(m.Expires)), p.received)
	}
	if len(m.Properties) > 0 {
		b = appendText(b, m.Properties)
	}
	return appendText(b, m.Payload)
}

func (c *cursor) message(m *mqtt.Message, p *past, a *arena) {
	flags := c.byte("flags of a message")
	m.QoS = c.qos(flags)
	m.Retain = flags&messageRetain != 0
	if flags&messageTopic != 0 {
		p.topic = c.name(a)
	} else if p.topic == "" {
		c.failAt(c.at, "the Topic Name of the message before: expected one before")
	}
	if flags&messagePublisher != 0 {
		p.publisher = mqtt.ClientID(a.text(c.bytes("publisher"), c.left()))
	}
	m.Topic, m.Publisher = p.topic, p.publisher
	if flags&messageReceived != 0 {
		p.received = c.difference("time of receipt", p.received)
		m.Received = fromNano(int64(p.received))
	}
	if flags&messageExpires != 0 {
		m.Expires = fromNano(int64(c.difference("time of expiry", p.received)))
	}
	if flags&messageProperties != 0 {
		m.Properties = c.properties()
	}
	m.Payload = c.bytes("payload")
}

func (c *cursor) name(a *arena) string {
	at := c.at
	b := c.bytes("Topic Name")
	if len(b) > 0 && string(b) == a.name {
		return a.name
	}
	name := a.text(b, c.left())
	if err := topic.CheckName(name); err != nil {
		c.failAt(at, "%v", err)
		return ""
	}
	a.name = name
	return name
}

// properties reads Properties and checks that they are a row of those that a
// broker forwards: they go to subscribers as they are.
func (c *cursor) properties() mqtt.Properties {
	b := c.bytes("Properties")
	begin := c.at - len(b)
	if len(b) == 0 {
		c.failAt(begin, "no Properties, where some were announced")
	}
	for rest := b; len(rest) > 0; {
		n := propertySize(rest)
		if n == 0 || n > len(rest) {
			c.failAt(begin+len(b)-len(rest), "property %#02x: expected one that is forwarded, and all of its bytes", rest[0])
			return nil
		}
		rest = rest[n:]
	}
	return b
}

// propertySize is how long the property at the start of b is, or says that it is;
// 0: it is none that is forwarded.
func propertySize(b []byte) int {
	switch mqtt.PropertyID(b[0]) {
	case mqtt.PayloadFormatIndicator:
		return 2
	case mqtt.ContentType, mqtt.ResponseTopic, mqtt.CorrelationData:
		return fieldEnd(b, 1)
	case mqtt.UserPropertyID:
		return fieldEnd(b, fieldEnd(b, 1))
	}
	return 0
}

// fieldEnd is where the field with a length in two bytes at at ends.
func fieldEnd(b []byte, at int) int {
	if len(b) < at+2 {
		return at + 2
	}
	return at + 2 + int(binary.BigEndian.Uint16(b[at:]))
}

// arena gives the messages of a chunk, and their texts, memory in blocks: they
// wait, and go, together. Its zero value makes each on its own.
type arena struct {
	more     int // deliveries to come, with the present one
	messages []mqtt.Message
	texts    strings.Builder
	name     string // the Topic Name that was read last, and is valid
}

const (
	blockMessages = 128
	blockText     = 4096 // bytes
	messageMin    = 3    // bytes of the shortest message: its flags, delivery's flags, no payload
)

// message returns an empty message; left bytes of input hold the ones to come.
func (a *arena) message(left int) *mqtt.Message {
	if len(a.messages) == 0 {
		a.messages = make([]mqtt.Message, max(1, min(a.more, blockMessages, left/messageMin)))
	}
	m := &a.messages[0]
	a.messages = a.messages[1:]
	return m
}

// text returns b as a string.
func (a *arena) text(b []byte, left int) string {
	if a.more <= 1 || len(b) > blockText/4 {
		return string(b)
	}
	if a.texts.Cap()-a.texts.Len() < len(b) {
		a.texts.Reset() // the strings keep the block that they are in
		a.texts.Grow(max(len(b), min(blockText, left)))
	}
	from := a.texts.Len()
	a.texts.Write(b)
	return a.texts.String()[from:]
}
