package packet

import (
	"bytes"

	"fairlead/mqtt"
)

// readPublish reads a PUBLISH. Its bytes stay where they are.
func (r *Reader) readPublish(c *cursor, first byte) *Publish {
	p := &r.publish
	*p = Publish{Dup: first&DupBit != 0, QoS: mqtt.QoS(first >> 1 & 3), Retain: first&1 != 0}
	p.Topic = c.text("Topic Name") // [MQTT-3.3.2-1]
	if p.QoS > mqtt.QoS0 {
		p.ID = c.id()
	}
	if r.Version >= mqtt.V5 {
		if len(c.b) > 0 && c.b[0] == 0 { // no properties: the usual case
			c.take(1, "")
		} else {
			r.readPublishProperties(c, p)
		}
	}
	p.Payload = c.b
	c.b = nil
	return p
}

func (r *Reader) readPublishProperties(c *cursor, p *Publish) {
	m := message{scratch: r.scratch, subIDs: r.subIDs[:0]}
	c.messageProperties(&m, allowedProperties[PUBLISH])
	r.scratch, r.subIDs = m.scratch, m.subIDs
	p.HasExpiry, p.Expiry = m.seen&(1<<mqtt.MessageExpiryInterval) != 0, m.expiry
	p.TopicAlias = m.alias
	if len(m.subIDs) > 0 {
		p.SubscriptionIDs = m.subIDs
	}
	if len(m.forward) > 0 {
		p.Properties = m.forward
	}
}

// Which Reason Codes a packet may have (3.4.2.1, 3.6.2.1).
var (
	receivedCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.NoMatchingSubscribers, mqtt.UnspecifiedError,
		mqtt.ImplementationSpecificError, mqtt.NotAuthorized, mqtt.TopicNameInvalid, mqtt.PacketIdentifierInUse,
		mqtt.QuotaExceeded, mqtt.PayloadFormatInvalid}
	releasedCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.PacketIdentifierNotFound}
)

// ack reads what PUBACK, PUBREC, PUBREL and PUBCOMP have in common.
func (c *cursor) ack(v mqtt.Version) (mqtt.PacketID, mqtt.ReasonCode, *Properties) {
	id := c.id()
	if v < mqtt.V5 || len(c.b) == 0 {
		return id, mqtt.Success, nil
	}
	codes := receivedCodes
	if c.packet == PUBREL || c.packet == PUBCOMP {
		codes = releasedCodes
	}
	reason := c.code(codes...)
	if len(c.b) == 0 {
		return id, reason, nil
	}
	return id, reason, c.properties()
}

// The flags of a CONNECT.
const (
	flagReserved   = 0x01
	flagCleanStart = 0x02
	flagWill       = 0x04
	flagWillQoS    = 0x18
	flagWillRetain = 0x20
	flagPassword   = 0x40
	flagUser       = 0x80
)

// readConnect reads a CONNECT and makes its version the connection's.
func (r *Reader) readConnect(c *cursor) *Connect {
	p := &Connect{Version: c.protocol()}
	if c.err != nil {
		return p
	}
	if r.Version == 0 {
		r.Version = p.Version
	}
	flags := c.connectFlags(p.Version)
	p.CleanStart = flags&flagCleanStart != 0
	p.KeepAlive = c.uint16("Keep Alive")
	if p.Version >= mqtt.V5 {
		p.Properties = c.properties()
	}
	p.ClientID = c.string("Client Identifier")
	if flags&flagWill != 0 {
		p.Will = c.will(p.Version, flags)
	}
	if p.HasUser = flags&flagUser != 0; p.HasUser {
		p.User = c.string("User Name")
	}
	if p.HasPassword = flags&flagPassword != 0; p.HasPassword {
		p.Password = bytes.Clone(c.binary("Password"))
	}
	return p
}

// protocol reads the Protocol Name and the level: together they name a version
// [MQTT-3.1.2-1] [MQTT-3.1.2-2].
func (c *cursor) protocol() mqtt.Version {
	name := string(c.text("Protocol Name"))
	if c.err == nil && name != "MQTT" && name != "MQIsdp" {
		c.read = 0
		c.fail(mqtt.UnsupportedProtocolVersion, `Protocol Name: expected "MQTT"`)
		return 0
	}
	at := c.read
	level := c.byte("Protocol Level")
	v := mqtt.Version(level)
	if v == mqtt.V31 && name == "MQIsdp" || (v == mqtt.V311 || v == mqtt.V5) && name == "MQTT" {
		return v
	}
	if c.err == nil {
		c.err = &Error{mqtt.UnsupportedProtocolVersion, CONNECT, c.base + at,
			"Protocol Level " + itoa(int(level)) + ": expected 4 or 5, or 3 with MQIsdp", level}
		c.b = nil
	}
	return 0
}

// connectFlags reads the Connect Flags and refuses those that contradict each
// other.
func (c *cursor) connectFlags(v mqtt.Version) byte {
	at := c.read
	flags := c.byte("Connect Flags")
	what := ""
	switch {
	case flags&flagReserved != 0 && v > mqtt.V31: // [MQTT-3.1.2-3]
		what = "the reserved bit is set"
	case flags&flagWillQoS == flagWillQoS: // [MQTT-3.1.2-12]
		what = "Will QoS 3"
	case flags&flagWill == 0 && flags&(flagWillQoS|flagWillRetain) != 0: // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
		what = "Will QoS or Will Retain without Will Flag"
	case v < mqtt.V5 && flags&flagPassword != 0 && flags&flagUser == 0: // [v3 MQTT-3.1.2-22]
		what = "Password without User Name"
	}
	if what != "" && c.err == nil {
		c.read = at
		c.fail(mqtt.MalformedPacket, "Connect Flags: "+what)
	}
	return flags
}

func (c *cursor) will(v mqtt.Version, flags byte) *Will {
	w := &Will{QoS: mqtt.QoS(flags >> 3 & 3), Retain: flags&flagWillRetain != 0}
	if v >= mqtt.V5 {
		m := message{}
		c.messageProperties(&m, willProperties)
		w.HasExpiry, w.Expiry = m.seen&(1<<mqtt.MessageExpiryInterval) != 0, m.expiry
		w.Delay = m.delay
		if len(m.forward) > 0 {
			w.Properties = bytes.Clone(m.forward)
		}
	}
	w.Topic = c.string("Will Topic")
	w.Payload = bytes.Clone(c.binary("Will Payload"))
	return w
}

// returnCodes are the Connect Return codes of 3.1 and 3.1.1 in today's words.
var returnCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.UnsupportedProtocolVersion, mqtt.ClientIdentifierNotValid,
	mqtt.ServerUnavailable, mqtt.BadUserNameOrPassword, mqtt.NotAuthorized}

func (c *cursor) connack(v mqtt.Version) *Connack {
	p := &Connack{}
	flags := c.byte("Connect Acknowledge Flags")
	if flags > 1 && v > mqtt.V31 { // [MQTT-3.2.2-1]
		c.fail(mqtt.MalformedPacket, "Connect Acknowledge Flags: a reserved bit is set")
	}
	p.SessionPresent = flags&1 != 0 && v > mqtt.V31
	code := c.byte("Reason Code")
	if v >= mqtt.V5 {
		p.Reason = mqtt.ReasonCode(code)
		p.Properties = c.properties()
		return p
	}
	if int(code) >= len(returnCodes) {
		c.fail(mqtt.MalformedPacket, "Connect Return code "+itoa(int(code))+" is reserved")
		return p
	}
	p.Reason = returnCodes[code]
	return p
}

func (c *cursor) subscribe(v mqtt.Version) *Subscribe {
	p := &Subscribe{ID: c.id()}
	if v >= mqtt.V5 {
		p.Properties = c.properties()
	}
	c.demand("SUBSCRIBE without a Topic Filter") // [MQTT-3.8.3-2]
	for len(c.b) > 0 {
		s := Subscription{Filter: c.string("Topic Filter")}
		at := c.read
		o := c.byte("Subscription Options")
		if c.err != nil {
			return p
		}
		if what, r := badOptions(v, o); what != "" {
			c.read = at
			c.fail(r, "Subscription Options: "+what)
			return p
		}
		s.QoS = mqtt.QoS(o & 3)
		s.NoLocal, s.RetainAsPublished, s.RetainHandling = o&0x04 != 0, o&0x08 != 0, o>>4&3
		p.Subscriptions = append(p.Subscriptions, s)
	}
	return p
}

// badOptions says what is wrong with Subscription Options, or "".
func badOptions(v mqtt.Version, o byte) (string, mqtt.ReasonCode) {
	reserved := byte(0xC0) // [MQTT-3.8.3-5]
	if v == mqtt.V311 {
		reserved = 0xFC // [v3 MQTT-3.8.3-4]
	}
	if v == mqtt.V31 {
		reserved = 0 // 3.1 does not use the other bits
	}
	switch {
	case o&reserved != 0:
		return "a reserved bit is set", mqtt.MalformedPacket
	case o&3 == 3 && v >= mqtt.V5:
		return "QoS 3", mqtt.ProtocolError
	case o&3 == 3:
		return "QoS 3", mqtt.MalformedPacket
	case o>>4&3 == 3 && v >= mqtt.V5:
		return "Retain Handling 3", mqtt.ProtocolError
	}
	return "", 0
}

// demand refuses an empty payload.
func (c *cursor) demand(what string) {
	if len(c.b) == 0 && c.err == nil {
		c.fail(mqtt.ProtocolError, what)
	}
}

func (c *cursor) suback(v mqtt.Version) *Suback {
	p := &Suback{ID: c.id()}
	if v >= mqtt.V5 {
		p.Properties = c.properties()
	}
	p.Reasons = c.reasons()
	return p
}

// reasons reads Reason Codes up to the end of the packet.
func (c *cursor) reasons() []mqtt.ReasonCode {
	rs := make([]mqtt.ReasonCode, len(c.b))
	for i, b := range c.take(len(c.b), "Reason Codes") {
		rs[i] = mqtt.ReasonCode(b)
	}
	return rs
}

func (c *cursor) unsubscribe(v mqtt.Version) *Unsubscribe {
	p := &Unsubscribe{ID: c.id()}
	if v >= mqtt.V5 {
		p.Properties = c.properties()
	}
	c.demand("UNSUBSCRIBE without a Topic Filter") // [MQTT-3.10.3-2]
	for len(c.b) > 0 {
		p.Filters = append(p.Filters, c.string("Topic Filter"))
	}
	return p
}

func (c *cursor) unsuback(v mqtt.Version) *Unsuback {
	p := &Unsuback{ID: c.id()}
	if v >= mqtt.V5 {
		p.Properties = c.properties()
		p.Reasons = c.reasons()
	}
	return p
}

// disconnectCodes are the Reason Codes of a DISCONNECT, table 3-10.
var disconnectCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.DisconnectWithWill, mqtt.UnspecifiedError,
	mqtt.MalformedPacket, mqtt.ProtocolError, mqtt.ImplementationSpecificError, mqtt.NotAuthorized, mqtt.ServerBusy,
	mqtt.ServerShuttingDown, mqtt.BadAuthenticationMethod, mqtt.KeepAliveTimeout, mqtt.SessionTakenOver,
	mqtt.TopicFilterInvalid, mqtt.TopicNameInvalid, mqtt.ReceiveMaximumExceeded, mqtt.TopicAliasInvalid,
	mqtt.PacketTooLarge, mqtt.MessageRateTooHigh, mqtt.QuotaExceeded, mqtt.AdministrativeAction,
	mqtt.PayloadFormatInvalid, mqtt.RetainNotSupported, mqtt.QoSNotSupported, mqtt.UseAnotherServer, mqtt.ServerMoved,
	mqtt.SharedSubscriptionsNotSupported, mqtt.ConnectionRateExceeded, mqtt.MaximumConnectTime,
	mqtt.SubscriptionIdentifiersNotSupported, mqtt.WildcardSubscriptionsNotSupported}

func (c *cursor) disconnect(v mqtt.Version) *Disconnect {
	p := &Disconnect{}
	if v < mqtt.V5 || len(c.b) == 0 {
		return p
	}
	p.Reason = c.code(disconnectCodes...)
	if len(c.b) > 0 {
		p.Properties = c.properties()
	}
	return p
}

func (c *cursor) auth() *Auth {
	p := &Auth{}
	if len(c.b) == 0 {
		return p
	}
	p.Reason = c.code(mqtt.Success, mqtt.ContinueAuthentication, mqtt.ReAuthenticate)
	if len(c.b) > 0 {
		p.Properties = c.properties()
	}
	if c.err == nil && !p.Properties.Has(mqtt.AuthenticationMethod) { // 3.15.2.2.2
		c.fail(mqtt.ProtocolError, "AUTH without Authentication Method")
	}
	return p
}
