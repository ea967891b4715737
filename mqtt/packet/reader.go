package packet

import (
	"errors"

	"fairlead/mqtt"
)

// ErrMore says that the bytes so far hold no whole packet.
var ErrMore = errors.New("packet: more bytes are needed")

// Reader cuts a stream of bytes into packets. Fill it, then call Next until it
// says ErrMore. The zero Reader waits for a CONNECT.
//
// The packets that a Client sends most are kept in the Reader and used again: a
// packet is valid until the next call of any method. Strings in packets are
// copies and may be kept, as may everything in a CONNECT.
//
// A Reader does not know on which side it stands: it reads what clients send
// and what brokers send. Rules that need a direction or a Session are the
// caller's, and so is the syntax of Topic Names and Topic Filters; the text of
// both is checked.
type Reader struct {
	// Version is that of the connection. A CONNECT sets it; while it is 0, only
	// a CONNECT is understood.
	Version mqtt.Version
	// MaxBytes is the Maximum Packet Size, with the fixed header; 0: what the
	// protocol can say. A longer packet is refused by its header.
	MaxBytes int

	buf  *buffer // nil: nothing is held
	r, w int     // the bytes buf.b[r:w] are not consumed yet
	need int     // whole length of the packet that begins at r; 0: not known
	busy bool    // the last read has filled the buffer: take a large one

	publish Publish
	puback  Puback
	pubrec  Pubrec
	pubrel  Pubrel
	pubcomp Pubcomp
	subIDs  []uint32 // Subscription Identifiers of a PUBLISH
}

// Next returns the next packet, or ErrMore. Any other error is an [*Error]: the
// stream can't be read any further.
func (r *Reader) Next() (Packet, error) {
	if r.r == r.w {
		return nil, ErrMore
	}
	b := r.buf.b[r.r:r.w]
	if err := r.checkFirst(b[0]); err != nil {
		return nil, err
	}
	length, header, err := r.header(b)
	if err != nil {
		return nil, err
	}
	if r.need = header + length; len(b) < r.need {
		return nil, ErrMore
	}
	p, err := r.decode(b[0], b[header:r.need], header)
	if err != nil {
		return nil, err
	}
	r.r += r.need
	r.need = 0
	return p, nil
}

// checkFirst checks the type and the flags of the first byte before the rest
// has come.
func (r *Reader) checkFirst(first byte) error {
	t, flags := Type(first>>4), first&0x0F
	if r.Version == 0 && t != CONNECT { // [MQTT-3.1.0-1]
		return &Error{mqtt.ProtocolError, t, 0, "expected CONNECT as the first packet", 0}
	}
	if t == 0 || t == AUTH && r.Version < mqtt.V5 {
		return &Error{mqtt.MalformedPacket, t, 0, "packet type " + itoa(int(t)) + " is reserved", 0}
	}
	if t == PUBLISH {
		return r.checkPublishFlags(flags)
	}
	var want byte
	if t == PUBREL || t == SUBSCRIBE || t == UNSUBSCRIBE {
		want = 0x02
		if r.Version == mqtt.V31 {
			flags &^= DupBit // 3.1 lets them be repeated
		}
	}
	// [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
	// [MQTT-3.14.1-1] [MQTT-3.15.1-1] [v3 MQTT-2.2.2-2]
	if flags != want {
		return &Error{mqtt.MalformedPacket, t, 0, "flags " + itoa(int(flags)) + ": expected " + itoa(int(want)), 0}
	}
	return nil
}

func (r *Reader) checkPublishFlags(flags byte) error {
	const qos = 0x06
	if flags&qos == qos { // [MQTT-3.3.1-4]
		return &Error{mqtt.MalformedPacket, PUBLISH, 0, "QoS 3", 0}
	}
	// [MQTT-3.3.1-2]; 3.1 says only that such a DUP flag means nothing.
	if flags&DupBit != 0 && flags&qos == 0 && r.Version > mqtt.V31 {
		return &Error{mqtt.MalformedPacket, PUBLISH, 0, "DUP flag with QoS 0", 0}
	}
	return nil
}

// header reads the Remaining Length. It returns that and the length of the
// fixed header. A packet that is too large is refused here, before its body has
// come.
func (r *Reader) header(b []byte) (length, header int, err error) {
	t := Type(b[0] >> 4)
	for i := 1; i <= 4; i++ {
		if i >= len(b) {
			return 0, 0, ErrMore
		}
		length |= int(b[i]&0x7F) << (7 * (i - 1))
		if b[i]&0x80 == 0 {
			header = i + 1
			break
		}
	}
	if header == 0 {
		return 0, 0, &Error{mqtt.MalformedPacket, t, 1, "Remaining Length has more than four bytes", 0}
	}
	if r.Version >= mqtt.V5 && header != 1+varintSize(length) {
		return 0, 0, wastefulLength(t, 0)
	}
	if r.MaxBytes > 0 && header+length > r.MaxBytes {
		return 0, 0, &Error{mqtt.PacketTooLarge, t, 1,
			"packet of " + itoa(header+length) + " bytes: expected at most " + itoa(r.MaxBytes), 0}
	}
	return length, header, nil
}

// wastefulLength is the error of [MQTT-1.5.5-1]. 3.1 and 3.1.1 do not ask for the
// shortest form of the Remaining Length.
func wastefulLength(t Type, level byte) *Error {
	return &Error{mqtt.MalformedPacket, t, 1, "Remaining Length takes more bytes than it needs", level}
}

// decode reads the rest of a packet. The body begins header bytes after the
// start of the packet.
func (r *Reader) decode(first byte, body []byte, header int) (Packet, error) {
	c := cursor{b: body, packet: Type(first >> 4), base: header}
	p := r.read(&c, first)
	if c.err == nil && len(c.b) > 0 {
		c.fail(mqtt.MalformedPacket, "bytes left over: "+itoa(len(c.b)))
	}
	if c.err != nil {
		return nil, c.err
	}
	return p, nil
}

// read calls the func that knows the packet type.
func (r *Reader) read(c *cursor, first byte) Packet {
	v := r.Version
	switch c.packet {
	case PUBLISH:
		return r.readPublish(c, first)
	case PUBACK:
		r.puback.ID, r.puback.Reason, r.puback.Properties = c.ack(v)
		return &r.puback
	case PUBREC:
		r.pubrec.ID, r.pubrec.Reason, r.pubrec.Properties = c.ack(v)
		return &r.pubrec
	case PUBREL:
		r.pubrel.ID, r.pubrel.Reason, r.pubrel.Properties = c.ack(v)
		return &r.pubrel
	case PUBCOMP:
		r.pubcomp.ID, r.pubcomp.Reason, r.pubcomp.Properties = c.ack(v)
		return &r.pubcomp
	case PINGREQ:
		return pingreq
	case PINGRESP:
		return pingresp
	case CONNECT:
		return r.readConnect(c)
	case CONNACK:
		return c.connack(v)
	case SUBSCRIBE:
		return c.subscribe(v)
	case SUBACK:
		return c.suback(v)
	case UNSUBSCRIBE:
		return c.unsubscribe(v)
	case UNSUBACK:
		return c.unsuback(v)
	case DISCONNECT:
		return c.disconnect(v)
	}
	return c.auth()
}

var (
	pingreq  = &Pingreq{}
	pingresp = &Pingresp{}
)
