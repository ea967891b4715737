package packet

import (
	"bytes"
	"math/bits"

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

// section cuts off the properties of a packet: a length, and as many bytes.
func (c *cursor) section() cursor {
	at := c.read
	n := int(c.varint("Property Length"))
	if n > len(c.b) {
		c.failAt(at, mqtt.MalformedPacket, "Property Length "+itoa(n)+": only "+itoa(len(c.b))+" bytes are left")
		n = 0
	}
	s := cursor{base: c.base + c.read, packet: c.packet, level: c.level, err: c.err}
	s.b = c.take(n, "properties")
	return s
}

// join takes over the error of a section.
func (c *cursor) join(s *cursor) {
	if s.err != nil && c.err == nil {
		c.err, c.b = s.err, nil
	}
}

// property reads the identifier of the next property: one that is allowed here,
// and has not been before unless it may be repeated (2.2.2.2).
func (c *cursor) property(allowed PropertySet, seen *PropertySet) mqtt.PropertyID {
	at := c.read
	n := c.varint("Property Identifier")
	if c.err != nil {
		return 0
	}
	if n > 63 || allowed&(1<<n) == 0 {
		c.failAt(at, mqtt.MalformedPacket, "property "+itoa(int(n))+" does not belong in "+c.packet.String())
		return 0
	}
	id := mqtt.PropertyID(n)
	repeatable := id == mqtt.UserPropertyID || id == mqtt.SubscriptionIdentifier && c.packet == PUBLISH
	if *seen&(1<<n) != 0 && !repeatable {
		c.failAt(at, mqtt.ProtocolError, "property "+itoa(int(n))+" twice")
		return 0
	}
	*seen |= 1 << n
	return id
}

// properties reads the properties of any packet but PUBLISH. Nil: there are
// none.
func (c *cursor) properties() *Properties {
	at := c.read
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
	c.join(&s)
	if p.Has(mqtt.AuthenticationData) && !p.Has(mqtt.AuthenticationMethod) { // 3.1.2.11.10
		c.failAt(at, mqtt.ProtocolError, "Authentication Data without Authentication Method")
	}
	return p
}

// value reads the value of one property.
func (c *cursor) value(p *Properties, id mqtt.PropertyID) {
	switch id {
	case mqtt.SessionExpiryInterval:
		p.SessionExpiry = c.uint32("Session Expiry Interval")
	case mqtt.ReceiveMaximum:
		p.ReceiveMaximum = uint16(c.positive("Receive Maximum", readUint16))
	case mqtt.MaximumPacketSize:
		p.MaximumPacketSize = c.positive("Maximum Packet Size", (*cursor).uint32)
	case mqtt.SubscriptionIdentifier:
		p.SubscriptionID = c.positive("Subscription Identifier", (*cursor).varint)
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
		p.AuthenticationData = bytes.Clone(c.binary("Authentication Data"))
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

// positive reads a number that must not be 0.
func (c *cursor) positive(what string, read func(*cursor, string) uint32) uint32 {
	at := c.read
	n := read(c, what)
	if n == 0 {
		c.failAt(at, mqtt.ProtocolError, what+" 0")
	}
	return n
}

func readUint16(c *cursor, what string) uint32 { return uint32(c.uint16(what)) }

// bit reads a byte that is 0 or 1.
func (c *cursor) bit(what string) byte {
	at := c.read
	b := c.byte(what)
	if b > 1 {
		c.failAt(at, mqtt.ProtocolError, what+" "+itoa(int(b))+": expected 0 or 1")
	}
	return b
}

// empty reports whether there is nothing to write.
func (p *Properties) empty() bool { return p == nil || p.Set == 0 && len(p.User) == 0 }

// properties appends the properties with their length, by rising identifier;
// User Properties come last, in their order.
func (e *encoder) properties(p *Properties) {
	if p.empty() {
		e.byte(0) // [MQTT-2.2.2-1]
		return
	}
	if stray := p.Set &^ allowedProperties[e.packet]; stray != 0 {
		e.fail("property %d does not belong there", bits.TrailingZeros64(uint64(stray)))
	}
	if p.Has(mqtt.AuthenticationData) && !p.Has(mqtt.AuthenticationMethod) {
		e.fail("Authentication Data without Authentication Method")
	}
	at := len(e.b)
	e.b = append(e.b, 0, 0, 0, 0)
	for set := uint64(p.Set &^ (1 << mqtt.UserPropertyID)); set != 0; set &= set - 1 {
		e.value(p, mqtt.PropertyID(bits.TrailingZeros64(set)))
	}
	for _, u := range p.User {
		e.byte(byte(mqtt.UserPropertyID))
		e.text(u.Name)
		e.text(u.Value)
	}
	e.b = settle(e.b, at)
}

// value appends one property.
func (e *encoder) value(p *Properties, id mqtt.PropertyID) {
	e.byte(byte(id))
	switch id {
	case mqtt.SessionExpiryInterval:
		e.uint32(p.SessionExpiry)
	case mqtt.MaximumPacketSize:
		e.uint32(e.positive(p.MaximumPacketSize, "Maximum Packet Size"))
	case mqtt.ReceiveMaximum:
		e.uint16(uint16(e.positive(uint32(p.ReceiveMaximum), "Receive Maximum")))
	case mqtt.TopicAliasMaximum:
		e.uint16(p.TopicAliasMaximum)
	case mqtt.ServerKeepAlive:
		e.uint16(p.ServerKeepAlive)
	case mqtt.SubscriptionIdentifier:
		e.subscriptionID(p.SubscriptionID)
	case mqtt.RequestProblemInformation:
		e.bit(p.RequestProblemInfo)
	case mqtt.RequestResponseInformation:
		e.bit(p.RequestResponseInfo)
	case mqtt.MaximumQoS:
		e.bit(p.MaximumQoS)
	case mqtt.RetainAvailable:
		e.bit(p.RetainAvailable)
	case mqtt.WildcardSubscriptionAvailable:
		e.bit(p.WildcardAvailable)
	case mqtt.SubscriptionIdentifierAvailable:
		e.bit(p.SubIDAvailable)
	case mqtt.SharedSubscriptionAvailable:
		e.bit(p.SharedAvailable)
	case mqtt.AssignedClientIdentifier:
		e.text(p.AssignedClientID)
	case mqtt.AuthenticationMethod:
		e.text(p.AuthenticationMethod)
	case mqtt.ResponseInformation:
		e.text(p.ResponseInformation)
	case mqtt.ServerReference:
		e.text(p.ServerReference)
	case mqtt.ReasonString:
		e.text(p.ReasonString)
	case mqtt.AuthenticationData:
		e.binary(p.AuthenticationData)
	}
}

func (e *encoder) positive(n uint32, what string) uint32 {
	if n == 0 {
		e.fail("%s 0", what)
	}
	return n
}

func (e *encoder) subscriptionID(id uint32) {
	if id == 0 || id > varintMax {
		e.fail("Subscription Identifier %d: expected 1 to %d", id, varintMax)
		return
	}
	e.b = appendVarint(e.b, int(id))
}

func (e *encoder) bit(b byte) {
	if b > 1 {
		e.fail("%d in a property that is 0 or 1", b)
	}
	e.byte(b)
}
