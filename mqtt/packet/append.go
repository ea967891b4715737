package packet

import (
	"encoding/binary"
	"fmt"

	"fairlead/mqtt"
)

// DupBit is the DUP flag in the first byte of a PUBLISH.
const DupBit = 0x08

// BytesMax is the longest packet that MQTT can express, with its fixed header.
const BytesMax = 268_435_455 + 5

// Append appends one packet in the form of version v to dst. An error says what
// the version, or MQTT itself, has no bytes for; dst is returned as it was.
func Append(dst []byte, v mqtt.Version, p Packet) ([]byte, error) {
	if p, ok := p.(*Publish); ok {
		if len(p.Topic) > 65535 || len(p.Payload)+len(p.Properties) > 268_000_000 {
			return dst, fmt.Errorf("append PUBLISH: topic of %d and payload of %d bytes do not fit", len(p.Topic), len(p.Payload))
		}
		return AppendPublish(dst, v, p), nil
	}
	e := encoder{v: v, begin: len(dst)}
	e.b = append(dst, byte(p.Type())<<4, 0, 0, 0, 0)
	e.packet(p)
	if e.err == nil && len(e.b)-e.begin-5 > 268_435_455 {
		e.fail("%d bytes", len(e.b)-e.begin-5)
	}
	if e.err != nil {
		return dst[:e.begin], fmt.Errorf("append %s: %w", p.Type(), e.err)
	}
	e.b = settle(e.b, e.begin+1)
	return e.b, nil
}

// settle writes the number of bytes after the four that are reserved at at into
// as few of them as it needs, and closes the gap.
func settle(b []byte, at int) []byte {
	n := len(b) - at - 4
	size := varintSize(n)
	putVarint(b[at:], n)
	copy(b[at+size:], b[at+4:])
	return b[:at+size+n]
}

func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}

func putVarint(b []byte, n int) {
	for n >= 0x80 {
		b[0] = byte(n) | 0x80
		n >>= 7
		b = b[1:]
	}
	b[0] = byte(n)
}

func appendVarint(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

// AppendPublish is [Append] for a PUBLISH whose Topic is at most 65,535 bytes and
// which fits into a packet. It does not allocate but to grow dst.
func AppendPublish(dst []byte, v mqtt.Version, p *Publish) []byte {
	n := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > mqtt.QoS0 {
		n += 2
	}
	props := 0
	if v >= mqtt.V5 {
		props = p.propertyBytes()
		n += varintSize(props) + props
	}
	first := byte(PUBLISH)<<4 | byte(p.QoS)<<1
	if p.Dup {
		first |= DupBit
	}
	if p.Retain {
		first |= 1
	}
	dst = appendVarint(append(dst, first), n)
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

// IDOffset is where the Packet Identifier stands in an encoded PUBLISH of QoS 1
// or 2, so that one encoding can serve several subscribers.
func IDOffset(publish []byte) int {
	at := 1
	for publish[at]&0x80 != 0 {
		at++
	}
	at++
	return at + 2 + int(binary.BigEndian.Uint16(publish[at:]))
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP without properties, in
// its shortest form.
func AppendAck(dst []byte, v mqtt.Version, t Type, id mqtt.PacketID, r mqtt.ReasonCode) []byte {
	first := byte(t) << 4
	if t == PUBREL {
		first |= 0x02
	}
	if v < mqtt.V5 || r == mqtt.Success {
		return append(dst, first, 2, byte(id>>8), byte(id))
	}
	return append(dst, first, 3, byte(id>>8), byte(id), byte(r))
}

// encoder appends the body of one packet.
type encoder struct {
	b     []byte
	begin int
	v     mqtt.Version
	err   error
}

func (e *encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}

func (e *encoder) packet(p Packet) {
	switch p := p.(type) {
	case *Connect:
		e.connect(p)
	case *Connack:
		e.connack(p)
	case *Puback:
		e.ack(p.ID, p.Reason, p.Properties)
	case *Pubrec:
		e.ack(p.ID, p.Reason, p.Properties)
	case *Pubrel:
		e.b[e.begin] |= 0x02
		e.ack(p.ID, p.Reason, p.Properties)
	case *Pubcomp:
		e.ack(p.ID, p.Reason, p.Properties)
	case *Subscribe:
		e.subscribe(p)
	case *Suback:
		e.suback(p)
	case *Unsubscribe:
		e.unsubscribe(p)
	case *Unsuback:
		e.id(p.ID)
		if e.v >= mqtt.V5 {
			e.properties(p.Properties)
			e.reasons(p.Reasons)
		}
	case *Disconnect:
		e.ending(p.Reason, p.Properties)
	case *Auth:
		if e.v < mqtt.V5 {
			e.fail("MQTT %s has no AUTH", e.v)
		}
		e.ending(p.Reason, p.Properties)
	}
}

func (e *encoder) uint16(n uint16) { e.b = binary.BigEndian.AppendUint16(e.b, n) }
func (e *encoder) uint32(n uint32) { e.b = binary.BigEndian.AppendUint32(e.b, n) }
func (e *encoder) byte(b byte)     { e.b = append(e.b, b) }

func (e *encoder) id(id mqtt.PacketID) {
	if id == 0 {
		e.fail("Packet Identifier 0")
	}
	e.uint16(uint16(id))
}

func (e *encoder) text(s string) {
	if len(s) > 65535 {
		e.fail("%d bytes of text: expected at most 65535", len(s))
		return
	}
	e.uint16(uint16(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) binary(b []byte) {
	if len(b) > 65535 {
		e.fail("%d bytes of data: expected at most 65535", len(b))
		return
	}
	e.uint16(uint16(len(b)))
	e.b = append(e.b, b...)
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
	e.byte(connectFlags(p))
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

func connectFlags(p *Connect) (f byte) {
	set := func(on bool, bits byte) {
		if on {
			f |= bits
		}
	}
	set(p.CleanStart, flagCleanStart)
	set(p.HasUser, flagUser)
	set(p.HasPassword, flagPassword)
	if w := p.Will; w != nil {
		set(true, flagWill|byte(w.QoS)<<3)
		set(w.Retain, flagWillRetain)
	}
	return f
}

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

func (e *encoder) connack(p *Connack) {
	present := byte(0)
	if p.SessionPresent && e.v > mqtt.V31 {
		present = 1
	}
	e.byte(present)
	if e.v >= mqtt.V5 {
		e.byte(byte(p.Reason))
		e.properties(p.Properties)
		return
	}
	e.byte(returnCode(p.Reason))
}

// returnCode is the Connect Return code of 3.1 and 3.1.1 that says the same, or
// nearly so.
func returnCode(r mqtt.ReasonCode) byte {
	switch r {
	case mqtt.Success:
		return 0
	case mqtt.UnsupportedProtocolVersion:
		return 1
	case mqtt.ClientIdentifierNotValid:
		return 2
	case mqtt.BadUserNameOrPassword:
		return 4
	case mqtt.NotAuthorized, mqtt.Banned, mqtt.BadAuthenticationMethod:
		return 5
	}
	return 3
}

func (e *encoder) ack(id mqtt.PacketID, r mqtt.ReasonCode, p *Properties) {
	e.id(id)
	if e.v < mqtt.V5 || r == mqtt.Success && p == nil {
		return
	}
	e.byte(byte(r))
	if p != nil {
		e.properties(p)
	}
}

func (e *encoder) subscribe(p *Subscribe) {
	e.b[e.begin] |= 0x02
	e.id(p.ID)
	if e.v >= mqtt.V5 {
		e.properties(p.Properties)
	}
	if len(p.Subscriptions) == 0 {
		e.fail("no Topic Filter")
	}
	for _, s := range p.Subscriptions {
		e.text(s.Filter)
		o := byte(s.QoS)
		if e.v >= mqtt.V5 {
			o |= s.RetainHandling << 4
			if s.NoLocal {
				o |= 0x04
			}
			if s.RetainAsPublished {
				o |= 0x08
			}
		}
		e.byte(o)
	}
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
			r = 0x80 // the one failure that 3.1.1 knows
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
	e.b[e.begin] |= 0x02
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

// ending appends what DISCONNECT and AUTH have in common.
func (e *encoder) ending(r mqtt.ReasonCode, p *Properties) {
	if e.v < mqtt.V5 || r == mqtt.Success && p == nil {
		return
	}
	e.byte(byte(r))
	if p != nil {
		e.properties(p)
	}
}

// properties appends the properties with their length; User Properties come
// last, in their order.
func (e *encoder) properties(p *Properties) {
	if p == nil {
		e.byte(0)
		return
	}
	at := len(e.b)
	e.b = append(e.b, 0, 0, 0, 0)
	for set, id := p.Set, mqtt.PropertyID(0); set != 0; set, id = set>>1, id+1 {
		if set&1 != 0 {
			e.value(p, id)
		}
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
		e.uint32(p.MaximumPacketSize)
	case mqtt.ReceiveMaximum:
		e.uint16(p.ReceiveMaximum)
	case mqtt.TopicAliasMaximum:
		e.uint16(p.TopicAliasMaximum)
	case mqtt.ServerKeepAlive:
		e.uint16(p.ServerKeepAlive)
	case mqtt.SubscriptionIdentifier:
		e.b = appendVarint(e.b, int(p.SubscriptionID))
	case mqtt.RequestProblemInformation:
		e.byte(p.RequestProblemInfo)
	case mqtt.RequestResponseInformation:
		e.byte(p.RequestResponseInfo)
	case mqtt.MaximumQoS:
		e.byte(p.MaximumQoS)
	case mqtt.RetainAvailable:
		e.byte(p.RetainAvailable)
	case mqtt.WildcardSubscriptionAvailable:
		e.byte(p.WildcardAvailable)
	case mqtt.SubscriptionIdentifierAvailable:
		e.byte(p.SubIDAvailable)
	case mqtt.SharedSubscriptionAvailable:
		e.byte(p.SharedAvailable)
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
	default:
		e.fail("property 0x%02x has no field", byte(id))
	}
}
