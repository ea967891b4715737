package packet

import (
	"encoding/binary"
	"errors"
	"fmt"

	"fairlead/mqtt"
)

// varintMax is the largest Variable Byte Integer (1.5.5), and so the largest
// Remaining Length, in bytes.
const varintMax = 268_435_455

// BytesMax is the longest packet that MQTT can express, with its fixed header.
const BytesMax = 1 + 4 + varintMax

// textMax is the longest UTF-8 Encoded String and the longest Binary Data, in
// bytes.
const textMax = 65_535

// Append appends one packet in the form of version v to dst. What v has no place
// for, such as properties before 5.0, is left out; a CONNECT takes the form of
// its own Version. An error says what can't be encoded: text that is too long or
// not UTF-8, a Packet Identifier 0, a property in a packet that has none such,
// AUTH before 5.0, a packet above [BytesMax]. Then dst is returned as it was.
// Reason Codes, Topic Names and Topic Filters are the caller's to choose.
func Append(dst []byte, v mqtt.Version, p Packet) ([]byte, error) {
	if p, ok := p.(*Publish); ok {
		if err := p.check(v); err != nil {
			return dst, fmt.Errorf("append PUBLISH: %w", err)
		}
		return AppendPublish(dst, v, p), nil
	}
	e := encoder{v: v, packet: p.Type(), begin: len(dst)}
	e.b = append(dst, byte(e.packet)<<4, 0, 0, 0, 0) // four bytes for the Remaining Length
	e.body(p)
	if n := len(e.b) - e.begin - 5; n > varintMax {
		e.fail("%d bytes: expected at most %d", n, varintMax)
	}
	if e.err != nil {
		return dst, fmt.Errorf("append %s: %w", e.packet, e.err)
	}
	return settle(e.b, e.begin+1), nil
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

// varintSize is how many bytes a Variable Byte Integer takes.
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

// encoder appends the body of one packet. It goes on after the first error; who
// asks for the bytes looks at err.
type encoder struct {
	b      []byte
	begin  int // where the packet begins in b
	v      mqtt.Version
	packet Type
	err    error
}

func (e *encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}

// body calls the method that knows the packet.
func (e *encoder) body(p Packet) {
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
		e.flags(0x02)
		e.ack(p.ID, p.Reason, p.Properties)
	case *Pubcomp:
		e.ack(p.ID, p.Reason, p.Properties)
	case *Subscribe:
		e.flags(0x02)
		e.subscribe(p)
	case *Suback:
		e.suback(p)
	case *Unsubscribe:
		e.flags(0x02)
		e.unsubscribe(p)
	case *Unsuback:
		e.unsuback(p)
	case *Disconnect:
		e.ending(p.Reason, p.Properties)
	case *Auth:
		e.auth(p)
	case *Pingreq, *Pingresp:
	default:
		e.fail("%T is not a packet of this package", p)
	}
}

// flags sets the low bits of the first byte [MQTT-2.1.3-1].
func (e *encoder) flags(f byte) { e.b[e.begin] |= f }

func (e *encoder) uint16(n uint16) { e.b = binary.BigEndian.AppendUint16(e.b, n) }
func (e *encoder) uint32(n uint32) { e.b = binary.BigEndian.AppendUint32(e.b, n) }
func (e *encoder) byte(b byte)     { e.b = append(e.b, b) }

var errNoID = errors.New("Packet Identifier 0")

func (e *encoder) id(id mqtt.PacketID) {
	if id == 0 && e.err == nil {
		e.err = errNoID
	}
	e.uint16(uint16(id))
}

func (e *encoder) text(s string) {
	if len(s) > textMax {
		e.fail("%d bytes of text: expected at most %d", len(s), textMax)
		return
	}
	at := len(e.b) + 2
	e.uint16(uint16(len(s)))
	e.b = append(e.b, s...)
	if wrong := badText(e.b[at:]); wrong != "" {
		e.fail("text %q: %s", s, wrong)
	}
}

func (e *encoder) binary(b []byte) {
	if len(b) > textMax {
		e.fail("%d bytes of data: expected at most %d", len(b), textMax)
		return
	}
	e.uint16(uint16(len(b)))
	e.b = append(e.b, b...)
}
