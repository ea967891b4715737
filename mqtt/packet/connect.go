package packet

import (
	"bytes"

	"fairlead/mqtt"
)

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

// readConnect reads a CONNECT and, if it is the first, makes its version the
// connection's. The fields come in a fixed order [MQTT-3.1.3-1], and the flags
// say which [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18] [MQTT-3.1.2-19].
func (r *Reader) readConnect(c *cursor) *Connect {
	shortest := c.base == 1+varintSize(len(c.b))
	p := &Connect{Version: c.protocol()}
	if c.err != nil {
		return p
	}
	if p.Version >= mqtt.V5 && !shortest { // could not be known in header
		c.err = wastefulLength(CONNECT, c.level)
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
	p.ClientID = c.string("Client Identifier") // [MQTT-3.1.3-3] [MQTT-3.1.3-4]
	if flags&flagWill != 0 {
		p.Will = c.will(p.Version, flags)
	}
	if c.present(p.Version, flags&flagUser) {
		p.HasUser, p.User = true, c.string("User Name") // [MQTT-3.1.3-12]
	}
	if c.present(p.Version, flags&flagPassword) {
		p.HasPassword, p.Password = true, bytes.Clone(c.binary("Password"))
	}
	return p
}

// present reports whether a field is to be read that a flag announces. In 3.1 it
// may be missing at the end of the packet even so, for the sake of the clients
// that were there before it.
func (c *cursor) present(v mqtt.Version, flag byte) bool {
	return flag != 0 && (v > mqtt.V31 || len(c.b) > 0)
}

// protocol reads the Protocol Name and the Protocol Level: together they name a
// version. Anything else is refused as a version that is not known, so that the
// broker can show that it is an MQTT Server [MQTT-3.1.2-1] [MQTT-3.1.2-2]
// [v3 MQTT-3.1.2-1] [v3 MQTT-3.1.2-2].
func (c *cursor) protocol() mqtt.Version {
	name := string(c.text("Protocol Name"))
	at := c.read
	c.level = c.byte("Protocol Level")
	v := mqtt.Version(c.level)
	switch {
	case name != "MQTT" && name != "MQIsdp":
		c.failAt(0, mqtt.UnsupportedProtocolVersion, `Protocol Name: expected "MQTT"`)
	case v == mqtt.V31 && name == "MQIsdp", (v == mqtt.V311 || v == mqtt.V5) && name == "MQTT":
		return v
	}
	c.failAt(at, mqtt.UnsupportedProtocolVersion,
		"Protocol Level "+itoa(int(c.level))+" of "+name+": expected 4 or 5 of MQTT, or 3 of MQIsdp")
	return 0
}

// connectFlags reads the Connect Flags and refuses those that contradict each
// other.
func (c *cursor) connectFlags(v mqtt.Version) byte {
	at := c.read
	flags := c.byte("Connect Flags")
	what := ""
	switch {
	case flags&flagReserved != 0 && v > mqtt.V31: // [MQTT-3.1.2-3]; 3.1 does not use it
		what = "the reserved bit is set"
	case flags&flagWillQoS == flagWillQoS: // [MQTT-3.1.2-12]
		what = "Will QoS 3"
	case flags&flagWill == 0 && flags&(flagWillQoS|flagWillRetain) != 0: // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
		what = "Will QoS or Will Retain without Will Flag"
	case v < mqtt.V5 && flags&flagPassword != 0 && flags&flagUser == 0: // [v3 MQTT-3.1.2-22]
		what = "Password without User Name"
	}
	if what != "" {
		c.failAt(at, mqtt.MalformedPacket, "Connect Flags: "+what)
	}
	return flags
}

// willProperties are the properties of a Will, section 3.1.3.2.
const willProperties PropertySet = publishProperties | 1<<mqtt.WillDelayInterval

// will reads the Will Properties, the Will Topic and the Will Payload
// [MQTT-3.1.2-9] [MQTT-3.1.3-11].
func (c *cursor) will(v mqtt.Version, flags byte) *Will {
	w := &Will{QoS: mqtt.QoS(flags >> 3 & 3), Retain: flags&flagWillRetain != 0}
	if v >= mqtt.V5 {
		m := message{}
		c.messageProperties(&m, willProperties)
		w.HasExpiry, w.Expiry = m.seen&(1<<mqtt.MessageExpiryInterval) != 0, m.expiry
		w.Delay = m.delay
		w.Properties = bytes.Clone(m.forward)
	}
	w.Topic = c.string("Will Topic")
	w.Payload = bytes.Clone(c.binary("Will Payload"))
	return w
}

func (e *encoder) connect(p *Connect) {
	switch p.Version {
	case mqtt.V31:
		e.text("MQIsdp")
	case mqtt.V311, mqtt.V5:
		e.text("MQTT")
	default:
		e.fail("%v", p.Version)
	}
	e.v = p.Version
	e.byte(byte(p.Version))
	e.byte(e.connectFlags(p))
	e.uint16(p.KeepAlive)
	if e.v >= mqtt.V5 {
		e.properties(p.Properties)
	}
	e.text(p.ClientID)
	if p.Will != nil {
		e.will(p.Will)
	}
	if p.HasUser {
		e.text(p.User)
	}
	if p.HasPassword {
		e.binary(p.Password)
	}
}

func (e *encoder) connectFlags(p *Connect) (f byte) {
	set := func(on bool, bits byte) {
		if on {
			f |= bits
		}
	}
	set(p.CleanStart, flagCleanStart)
	set(p.HasUser, flagUser)
	set(p.HasPassword, flagPassword)
	if p.HasPassword && !p.HasUser && p.Version < mqtt.V5 { // [v3 MQTT-3.1.2-22]
		e.fail("Password without User Name in MQTT %v", p.Version)
	}
	if w := p.Will; w != nil {
		if w.QoS > mqtt.QoS2 {
			e.fail("Will with %v", w.QoS)
		}
		set(true, flagWill|byte(w.QoS)<<3&flagWillQoS)
		set(w.Retain, flagWillRetain)
	}
	return f
}

// will appends the Will. A Will Delay Interval of 0 is the same as none and is
// left out.
func (e *encoder) will(w *Will) {
	if e.v >= mqtt.V5 {
		at := len(e.b)
		e.b = append(e.b, 0, 0, 0, 0)
		if w.Delay > 0 {
			e.byte(byte(mqtt.WillDelayInterval))
			e.uint32(w.Delay)
		}
		if w.HasExpiry {
			e.byte(byte(mqtt.MessageExpiryInterval))
			e.uint32(w.Expiry)
		}
		e.b = settle(append(e.b, w.Properties...), at)
	}
	e.text(w.Topic)
	e.binary(w.Payload)
}
