package packet

import (
	"fairlead/mqtt"
)

// Which properties a packet may carry, table 2-4.
const (
	reasonProperties  = 1<<mqtt.ReasonString | 1<<mqtt.UserPropertyID
	publishProperties = 1<<mqtt.PayloadFormatIndicator | 1<<mqtt.MessageExpiryInterval | 1<<mqtt.ContentType |
		1<<mqtt.ResponseTopic | 1<<mqtt.CorrelationData | 1<<mqtt.UserPropertyID
)

var allowedProperties = [16]PropertySet{
	CONNECT: 1<<mqtt.SessionExpiryInterval | 1<<mqtt.AuthenticationMethod | 1<<mqtt.AuthenticationData |
		1<<mqtt.RequestProblemInformation | 1<<mqtt.RequestResponseInformation | 1<<mqtt.ReceiveMaximum |
		1<<mqtt.TopicAliasMaximum | 1<<mqtt.UserPropertyID | 1<<mqtt.MaximumPacketSize,
	CONNACK: reasonProperties | 1<<mqtt.SessionExpiryInterval | 1<<mqtt.AssignedClientIdentifier |
		1<<mqtt.ServerKeepAlive | 1<<mqtt.AuthenticationMethod | 1<<mqtt.AuthenticationData |
		1<<mqtt.ResponseInformation | 1<<mqtt.ServerReference | 1<<mqtt.ReceiveMaximum | 1<<mqtt.TopicAliasMaximum |
		1<<mqtt.MaximumQoS | 1<<mqtt.RetainAvailable | 1<<mqtt.MaximumPacketSize |
		1<<mqtt.WildcardSubscriptionAvailable | 1<<mqtt.SubscriptionIdentifierAvailable |
		1<<mqtt.SharedSubscriptionAvailable,
	PUBLISH:     publishProperties | 1<<mqtt.TopicAlias | 1<<mqtt.SubscriptionIdentifier,
	PUBACK:      reasonProperties,
	PUBREC:      reasonProperties,
	PUBREL:      reasonProperties,
	PUBCOMP:     reasonProperties,
	SUBSCRIBE:   1<<mqtt.SubscriptionIdentifier | 1<<mqtt.UserPropertyID,
	SUBACK:      reasonProperties,
	UNSUBSCRIBE: 1 << mqtt.UserPropertyID,
	UNSUBACK:    reasonProperties,
	DISCONNECT:  reasonProperties | 1<<mqtt.SessionExpiryInterval | 1<<mqtt.ServerReference,
	AUTH:        reasonProperties | 1<<mqtt.AuthenticationMethod | 1<<mqtt.AuthenticationData,
}

// willProperties are those of a Will, section 3.1.3.2.
const willProperties PropertySet = publishProperties | 1<<mqtt.WillDelayInterval

// section cuts off the properties of a packet: a length, and as many bytes.
func (c *cursor) section() cursor {
	n := c.varint("Property Length")
	if int(n) > len(c.b) {
		c.fail(mqtt.MalformedPacket, "Property Length "+itoa(int(n))+": only "+itoa(len(c.b))+" bytes are left")
	}
	s := cursor{base: c.base + c.read, packet: c.packet, err: c.err}
	s.b = c.take(min(int(n), len(c.b)), "properties")
	return s
}

// join takes over the error of a section.
func (c *cursor) join(s *cursor) {
	if s.err != nil && c.err == nil {
		c.err, c.b = s.err, nil
	}
}

// property reads the identifier of the next property: one that is allowed here
// and has not been before.
func (c *cursor) property(allowed PropertySet, seen *PropertySet) mqtt.PropertyID {
	at := c.read
	n := c.varint("Property Identifier")
	if c.err != nil {
		return 0
	}
	if n > 63 || allowed&(1<<n) == 0 {
		c.read = at
		c.fail(mqtt.MalformedPacket, "property "+itoa(int(n))+" does not belong into "+c.packet.String()) // 2.2.2.2
		return 0
	}
	id := mqtt.PropertyID(n)
	repeatable := id == mqtt.UserPropertyID || id == mqtt.SubscriptionIdentifier && c.packet == PUBLISH
	if *seen&(1<<n) != 0 && !repeatable {
		c.read = at
		c.fail(mqtt.ProtocolError, "property "+itoa(int(n))+" twice")
		return 0
	}
	*seen |= 1 << n
	return id
}

// properties reads the properties of any packet but PUBLISH. Nil: there are
// none.
func (c *cursor) properties() *Properties {
	s := c.section()
	if len(s.b) == 0 {
		c.join(&s)
		return nil
	}
	p := &Properties{}
	for len(s.b) > 0 {
		s.value(p, s.property(allowedProperties[c.packet], &p.Set))
	}
	p.Set &^= 1 << mqtt.UserPropertyID
	if s.err == nil && p.Has(mqtt.AuthenticationData) && !p.Has(mqtt.AuthenticationMethod) {
		s.fail(mqtt.ProtocolError, "Authentication Data without Authentication Method")
	}
	c.join(&s)
	return p
}

// value reads the value of one property.
func (c *cursor) value(p *Properties, id mqtt.PropertyID) {
	switch id {
	case mqtt.SessionExpiryInterval:
		p.SessionExpiry = c.uint32("Session Expiry Interval")
	case mqtt.ReceiveMaximum:
		p.ReceiveMaximum = uint16(c.positive(uint32(c.uint16("Receive Maximum")), "Receive Maximum"))
	case mqtt.MaximumPacketSize:
		p.MaximumPacketSize = c.positive(c.uint32("Maximum Packet Size"), "Maximum Packet Size")
	case mqtt.SubscriptionIdentifier:
		p.SubscriptionID = c.positive(c.varint("Subscription Identifier"), "Subscription Identifier")
	case mqtt.TopicAliasMaximum:
		p.TopicAliasMaximum = c.uint16("Topic Alias Maximum")
	case mqtt.ServerKeepAlive:
		p.ServerKeepAlive = c.uint16("Server Keep Alive")
	case mqtt.RequestProblemInformation:
		p.RequestProblemInfo = c.bit("Request Problem Information")
	case mqtt.RequestResponseInformation:
		p.RequestResponseInfo = c.bit("Request Response Information")
	case mqtt.MaximumQoS:
		p.MaximumQoS = c.bit("Maximum QoS")
	case mqtt.RetainAvailable:
		p.RetainAvailable = c.bit("Retain Available")
	case mqtt.WildcardSubscriptionAvailable:
		p.WildcardAvailable = c.bit("Wildcard Subscription Available")
	case mqtt.SubscriptionIdentifierAvailable:
		p.SubIDAvailable = c.bit("Subscription Identifier Available")
	case mqtt.SharedSubscriptionAvailable:
		p.SharedAvailable = c.bit("Shared Subscription Available")
	case mqtt.AssignedClientIdentifier:
		p.AssignedClientID = c.string("Assigned Client Identifier")
	case mqtt.AuthenticationMethod:
		p.AuthenticationMethod = c.string("Authentication Method")
	case mqtt.AuthenticationData:
		p.AuthenticationData = append([]byte{}, c.binary("Authentication Data")...)
	case mqtt.ResponseInformation:
		p.ResponseInformation = c.string("Response Information")
	case mqtt.ServerReference:
		p.ServerReference = c.string("Server Reference")
	case mqtt.ReasonString:
		p.ReasonString = c.string("Reason String")
	case mqtt.UserPropertyID:
		p.User = append(p.User, mqtt.UserProperty{Name: c.string("User Property"), Value: c.string("User Property")})
	}
}

// positive refuses 0.
func (c *cursor) positive(n uint32, what string) uint32 {
	if n == 0 && c.err == nil {
		c.fail(mqtt.ProtocolError, what+" 0")
	}
	return n
}

// bit reads a byte that is 0 or 1.
func (c *cursor) bit(what string) byte {
	b := c.byte(what)
	if b > 1 {
		c.fail(mqtt.ProtocolError, what+" "+itoa(int(b))+": expected 0 or 1")
	}
	return b
}

// message is what the properties of a PUBLISH or a Will say.
type message struct {
	forward  []byte // those that travel on, as they came
	stripped bool   // forward is not the whole section: the others are cut out
	expiry   uint32
	delay    uint32
	alias    uint16
	seen     PropertySet
	subIDs   []uint32
	scratch  []byte
}

// messageProperties reads the properties of a PUBLISH or a Will. Those that are
// forwarded stay in their wire form: as a view of the packet if they are all
// there is, else copied one by one to m.scratch.
func (c *cursor) messageProperties(m *message, allowed PropertySet) {
	s := c.section()
	all := s.b
	m.scratch = m.scratch[:0]
	for len(s.b) > 0 {
		rest := s.b
		id := s.property(allowed, &m.seen)
		own := true
		switch id {
		case mqtt.MessageExpiryInterval:
			m.expiry = s.uint32("Message Expiry Interval")
		case mqtt.TopicAlias:
			if m.alias = s.uint16("Topic Alias"); m.alias == 0 && s.err == nil {
				s.fail(mqtt.TopicAliasInvalid, "Topic Alias 0") // [MQTT-3.3.2-8]
			}
		case mqtt.SubscriptionIdentifier:
			m.subIDs = append(m.subIDs, s.positive(s.varint("Subscription Identifier"), "Subscription Identifier"))
		case mqtt.WillDelayInterval:
			m.delay = s.uint32("Will Delay Interval")
		default:
			own = false
			s.forwarded(id)
		}
		if s.err != nil {
			break
		}
		if own && !m.stripped {
			m.stripped = true
			m.scratch = append(m.scratch, all[:len(all)-len(rest)]...)
		} else if !own && m.stripped {
			m.scratch = append(m.scratch, rest[:len(rest)-len(s.b)]...)
		}
	}
	if m.forward = all; m.stripped {
		m.forward = m.scratch
	}
	c.join(&s)
}

// forwarded checks the value of a property that travels on.
func (c *cursor) forwarded(id mqtt.PropertyID) {
	switch id {
	case mqtt.PayloadFormatIndicator:
		c.bit("Payload Format Indicator")
	case mqtt.ContentType:
		c.text("Content Type")
	case mqtt.ResponseTopic:
		c.text("Response Topic")
	case mqtt.CorrelationData:
		c.binary("Correlation Data")
	case mqtt.UserPropertyID:
		c.text("User Property")
		c.text("User Property")
	}
}
