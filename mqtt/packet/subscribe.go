package packet

import "fairlead/mqtt"

// The Reason Codes of SUBACK [MQTT-3.9.3-2] and UNSUBACK [MQTT-3.11.3-2].
var (
	subackCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.GrantedQoS1, mqtt.GrantedQoS2, mqtt.UnspecifiedError,
		mqtt.ImplementationSpecificError, mqtt.NotAuthorized, mqtt.TopicFilterInvalid, mqtt.PacketIdentifierInUse,
		mqtt.QuotaExceeded, mqtt.SharedSubscriptionsNotSupported, mqtt.SubscriptionIdentifiersNotSupported,
		mqtt.WildcardSubscriptionsNotSupported}
	unsubackCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.NoSubscriptionExisted, mqtt.UnspecifiedError,
		mqtt.ImplementationSpecificError, mqtt.NotAuthorized, mqtt.TopicFilterInvalid, mqtt.PacketIdentifierInUse}
	// subackCodesV3 are the return codes of 3.1.1 [v3 MQTT-3.9.3-2].
	subackCodesV3 = subackCodes[:4]
)

func (c *cursor) subscribe(v mqtt.Version) *Subscribe {
	p := &Subscribe{ID: c.id()}
	if v >= mqtt.V5 {
		p.Properties = c.properties()
	}
	c.demandFilter() // [MQTT-3.8.3-2] [v3 MQTT-3.8.3-3]
	for len(c.b) > 0 {
		p.Subscriptions = append(p.Subscriptions, c.subscription(v))
	}
	return p
}

// demandFilter refuses an empty payload.
func (c *cursor) demandFilter() {
	if len(c.b) == 0 {
		c.fail(mqtt.ProtocolError, "no Topic Filter")
	}
}

func (c *cursor) subscription(v mqtt.Version) Subscription {
	s := Subscription{Filter: c.string("Topic Filter")} // [MQTT-3.8.3-1]
	at := c.read
	o := c.byte("Subscription Options")
	if what, r := badOptions(v, o); what != "" {
		c.failAt(at, r, "Subscription Options: "+what)
	}
	s.QoS = mqtt.QoS(o & 3)
	if v >= mqtt.V5 {
		s.NoLocal, s.RetainAsPublished, s.RetainHandling = o&0x04 != 0, o&0x08 != 0, o>>4&3
	}
	return s
}

// badOptions says what is wrong with Subscription Options, or "". What the rest
// of the byte means to 3.1 is not said there: it is ignored.
func badOptions(v mqtt.Version, o byte) (string, mqtt.ReasonCode) {
	switch {
	case v >= mqtt.V5 && o&0xC0 != 0, v == mqtt.V311 && o&0xFC != 0: // [MQTT-3.8.3-5] [v3 MQTT-3.8.3-4]
		return "a reserved bit is set", mqtt.MalformedPacket
	case v >= mqtt.V5 && o&3 == 3:
		return "QoS 3", mqtt.ProtocolError
	case o&3 == 3:
		return "QoS 3", mqtt.MalformedPacket
	case v >= mqtt.V5 && o>>4&3 == 3:
		return "Retain Handling 3", mqtt.ProtocolError
	}
	return "", 0
}

func (c *cursor) suback(v mqtt.Version) *Suback {
	p := &Suback{ID: c.id()}
	switch v {
	case mqtt.V31:
		p.Reasons = c.grants()
	case mqtt.V311:
		p.Reasons = c.codes(subackCodesV3)
	default:
		p.Properties = c.properties()
		p.Reasons = c.codes(subackCodes)
	}
	return p
}

// grants reads the payload of a SUBACK of 3.1, which has only QoS levels. Brokers
// say 0x80 all the same where they refuse.
func (c *cursor) grants() []mqtt.ReasonCode {
	if len(c.b) == 0 {
		return nil
	}
	rs := make([]mqtt.ReasonCode, len(c.b))
	for i, b := range c.take(len(c.b), "granted QoS") {
		switch {
		case b&0x80 != 0:
			rs[i] = mqtt.UnspecifiedError
		case b&3 == 3:
			c.failAt(c.read-len(rs)+i, mqtt.MalformedPacket, "granted QoS 3")
		default:
			rs[i] = mqtt.ReasonCode(b & 3)
		}
	}
	return rs
}

func (c *cursor) unsubscribe(v mqtt.Version) *Unsubscribe {
	p := &Unsubscribe{ID: c.id()}
	if v >= mqtt.V5 {
		p.Properties = c.properties()
	}
	c.demandFilter() // [MQTT-3.10.3-2]
	for len(c.b) > 0 {
		p.Filters = append(p.Filters, c.string("Topic Filter")) // [MQTT-3.10.3-1]
	}
	return p
}

func (c *cursor) unsuback(v mqtt.Version) *Unsuback {
	p := &Unsuback{ID: c.id()}
	if v >= mqtt.V5 {
		p.Properties = c.properties()
		p.Reasons = c.codes(unsubackCodes)
	}
	return p
}

func (e *encoder) subscribe(p *Subscribe) {
	e.id(p.ID)
	if e.v >= mqtt.V5 {
		e.properties(p.Properties)
	}
	if len(p.Subscriptions) == 0 {
		e.fail("no Topic Filter")
	}
	for _, s := range p.Subscriptions {
		e.text(s.Filter)
		e.byte(e.options(s))
	}
}

func (e *encoder) options(s Subscription) byte {
	o := byte(s.QoS)
	if s.QoS > mqtt.QoS2 {
		e.fail("subscription to %q: %v", s.Filter, s.QoS)
	}
	if e.v < mqtt.V5 {
		return o
	}
	if s.RetainHandling > 2 {
		e.fail("subscription to %q: Retain Handling %d", s.Filter, s.RetainHandling)
	}
	o |= s.RetainHandling << 4
	if s.NoLocal {
		o |= 0x04
	}
	if s.RetainAsPublished {
		o |= 0x08
	}
	return o
}

func (e *encoder) suback(p *Suback) {
	e.id(p.ID)
	if e.v >= mqtt.V5 {
		e.properties(p.Properties)
		e.reasons(p.Reasons)
		return
	}
	for _, r := range p.Reasons {
		if r.Failed() {
			// The one failure of 3.1.1. A 3.1 client that knows nothing of it
			// finds QoS 0 in the bits that it looks at.
			r = mqtt.UnspecifiedError
		}
		e.byte(byte(r))
	}
}

func (e *encoder) reasons(rs []mqtt.ReasonCode) {
	for _, r := range rs {
		e.byte(byte(r))
	}
}

func (e *encoder) unsubscribe(p *Unsubscribe) {
	e.id(p.ID)
	if e.v >= mqtt.V5 {
		e.properties(p.Properties)
	}
	if len(p.Filters) == 0 {
		e.fail("no Topic Filter")
	}
	for _, f := range p.Filters {
		e.text(f)
	}
}

func (e *encoder) unsuback(p *Unsuback) {
	e.id(p.ID)
	if e.v >= mqtt.V5 {
		e.properties(p.Properties)
		e.reasons(p.Reasons)
	}
}
