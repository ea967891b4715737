package packet

import (
	"encoding/binary"
	"errors"
	"fmt"

	"fairlead/mqtt"
)

// DupBit is the DUP flag in the first byte of a PUBLISH.
const DupBit = 0x08

// readPublish reads a PUBLISH. Its bytes stay where they are. An empty Topic
// Name is read too: whether a Topic Alias stands for it is the Session's to say.
func (r *Reader) readPublish(c *cursor, first byte) *Publish {
	p := &r.publish
	*p = Publish{Dup: first&DupBit != 0, QoS: mqtt.QoS(first >> 1 & 3), Retain: first&1 != 0}
	p.Topic = c.text("Topic Name") // [MQTT-3.3.2-1]
	if p.QoS > mqtt.QoS0 {         // [MQTT-2.2.1-2]
		p.ID = c.id()
	}
	if r.Version >= mqtt.V5 {
		r.readPublishProperties(c, p)
	}
	p.Payload = c.b
	c.b = nil
	return p
}

func (r *Reader) readPublishProperties(c *cursor, p *Publish) {
	if len(c.b) > 0 && c.b[0] == 0 { // none: the usual case
		c.b = c.b[1:]
		c.read++
		return
	}
	m := message{subIDs: r.subIDs[:0]}
	c.messageProperties(&m, allowedProperties[PUBLISH])
	r.subIDs = m.subIDs
	p.HasExpiry, p.Expiry = m.seen&(1<<mqtt.MessageExpiryInterval) != 0, m.expiry
	p.TopicAlias = m.alias
	p.Properties = m.forward
	if len(m.subIDs) > 0 {
		p.SubscriptionIDs = m.subIDs
	}
}

// message is what the properties of a PUBLISH or a Will say.
type message struct {
	forward mqtt.Properties // those that travel on, as they came; nil: none
	expiry  uint32
	delay   uint32
	alias   uint16
	seen    PropertySet
	subIDs  []uint32
}

// messageProperties reads the properties of a PUBLISH or a Will. Those that are
// forwarded stay in their wire form, and where they are: if others stand between
// them, they move together over those, so nothing needs to be copied elsewhere.
func (c *cursor) messageProperties(m *message, allowed PropertySet) {
	s := c.section()
	all := s.b
	kept := 0 // all[:kept] travels on
	for len(s.b) > 0 {
		begin := len(all) - len(s.b)
		if m.own(&s, s.property(allowed, &m.seen)) {
			continue
		}
		end := len(all) - len(s.b)
		if kept != begin {
			copy(all[kept:], all[begin:end])
		}
		kept += end - begin
	}
	if c.join(&s); kept > 0 && c.err == nil {
		m.forward = mqtt.Properties(all[:kept:kept])
	}
}

// own reads the value of a property. It reports whether it is one that belongs
// to this packet, and does not travel on.
func (m *message) own(s *cursor, id mqtt.PropertyID) bool {
	switch id {
	case mqtt.MessageExpiryInterval:
		m.expiry = s.uint32("Message Expiry Interval")
	case mqtt.TopicAlias:
		at := s.read
		if m.alias = s.uint16("Topic Alias"); m.alias == 0 { // [MQTT-3.3.2-8]
			s.failAt(at, mqtt.TopicAliasInvalid, "Topic Alias 0")
		}
	case mqtt.SubscriptionIdentifier:
		m.subIDs = append(m.subIDs, s.positive("Subscription Identifier", (*cursor).varint))
	case mqtt.WillDelayInterval:
		m.delay = s.uint32("Will Delay Interval")
	case mqtt.PayloadFormatIndicator:
		s.bit("Payload Format Indicator")
		return false
	case mqtt.ContentType:
		s.text("Content Type") // [MQTT-3.3.2-19]
		return false
	case mqtt.ResponseTopic:
		s.text("Response Topic") // [MQTT-3.3.2-13]; wildcards are the Session's to find
		return false
	case mqtt.CorrelationData:
		s.binary("Correlation Data")
		return false
	case mqtt.UserPropertyID:
		s.text("User Property name") // [MQTT-1.5.7-1]
		s.text("User Property value")
		return false
	}
	return true
}

// AppendPublish is [Append] for a PUBLISH that is known to be right: its Topic at
// most 65,535 bytes, its Properties well-formed, the whole at most [BytesMax]. It
// allocates nothing but to grow dst. A Packet Identifier of 0 is written for the
// caller to replace, see [IDOffset].
//
// In 5.0 the properties are Message Expiry Interval, Topic Alias, Subscription
// Identifiers, then p.Properties as they are.
func AppendPublish(dst []byte, v mqtt.Version, p *Publish) []byte {
	remaining, props := p.size(v)
	first := byte(PUBLISH)<<4 | byte(p.QoS)<<1
	if p.Dup {
		first |= DupBit
	}
	if p.Retain {
		first |= 1
	}
	dst = appendVarint(append(dst, first), remaining)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(p.Topic)))
	dst = append(dst, p.Topic...)
	if p.QoS > mqtt.QoS0 {
		dst = binary.BigEndian.AppendUint16(dst, uint16(p.ID))
	}
	if v >= mqtt.V5 {
		dst = p.appendProperties(appendVarint(dst, props))
	}
	return append(dst, p.Payload...)
}

// size returns the Remaining Length and, in it, the Property Length.
func (p *Publish) size(v mqtt.Version) (remaining, props int) {
	remaining = 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > mqtt.QoS0 {
		remaining += 2
	}
	if v >= mqtt.V5 {
		props = p.propertyBytes()
		remaining += varintSize(props) + props
	}
	return remaining, props
}

func (p *Publish) propertyBytes() int {
	n := len(p.Properties)
	if p.HasExpiry {
		n += 5
	}
	if p.TopicAlias != 0 {
		n += 3
	}
	for _, id := range p.SubscriptionIDs {
		n += 1 + varintSize(int(id))
	}
	return n
}

func (p *Publish) appendProperties(dst []byte) []byte {
	if p.HasExpiry {
		dst = binary.BigEndian.AppendUint32(append(dst, byte(mqtt.MessageExpiryInterval)), p.Expiry)
	}
	if p.TopicAlias != 0 {
		dst = binary.BigEndian.AppendUint16(append(dst, byte(mqtt.TopicAlias)), p.TopicAlias)
	}
	for _, id := range p.SubscriptionIDs {
		dst = appendVarint(append(dst, byte(mqtt.SubscriptionIdentifier)), int(id))
	}
	return append(dst, p.Properties...)
}

// check says why a PUBLISH can't be encoded. Its Properties are taken as they
// are.
func (p *Publish) check(v mqtt.Version) error {
	if len(p.Topic) > textMax {
		return fmt.Errorf("topic of %d bytes: expected at most %d", len(p.Topic), textMax)
	}
	if wrong := badText(p.Topic); wrong != "" {
		return fmt.Errorf("topic %q: %s", p.Topic, wrong)
	}
	if p.QoS > mqtt.QoS2 {
		return errors.New(p.QoS.String())
	}
	if p.QoS > mqtt.QoS0 && p.ID == 0 {
		return errNoID
	}
	for _, id := range p.SubscriptionIDs {
		if id == 0 || id > varintMax {
			return fmt.Errorf("Subscription Identifier %d: expected 1 to %d", id, varintMax)
		}
	}
	if n, _ := p.size(v); n > varintMax {
		return fmt.Errorf("%d bytes: expected at most %d", n, varintMax)
	}
	return nil
}

// IDOffset is where the Packet Identifier stands in an encoded PUBLISH of QoS 1
// or 2, so that one encoding can serve several subscribers. The bytes must be a
// whole PUBLISH that this package has encoded.
func IDOffset(publish []byte) int {
	at := 1
	for publish[at]&0x80 != 0 {
		at++
	}
	at++
	return at + 2 + int(binary.BigEndian.Uint16(publish[at:]))
}
