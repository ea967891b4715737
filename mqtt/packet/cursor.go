package packet

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unicode/utf8"

	"fairlead/mqtt"
)

func itoa(n int) string { return strconv.Itoa(n) }

// cursor walks through the body of one packet. After the first error it reads
// zeros; who reads to the end looks at err once.
type cursor struct {
	b      []byte // what is left
	read   int    // how much of the body has been read
	base   int    // where the body begins in the packet
	packet Type
	err    error
}

// fail notes the first error, at the place that is to be read next.
func (c *cursor) fail(r mqtt.ReasonCode, what string) {
	if c.err == nil {
		c.err = &Error{Reason: r, Packet: c.packet, At: c.base + c.read, What: what}
	}
	c.b = nil
}

// take cuts off n bytes.
func (c *cursor) take(n int, what string) []byte {
	if len(c.b) < n {
		c.fail(mqtt.MalformedPacket, what+": expected "+itoa(n)+" bytes, found "+itoa(len(c.b)))
		return nil
	}
	b := c.b[:n:n]
	c.b = c.b[n:]
	c.read += n
	return b
}

func (c *cursor) byte(what string) byte {
	if b := c.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16(what string) uint16 {
	if b := c.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint reads a Variable Byte Integer, in no more bytes than it needs
// [MQTT-1.5.5-1].
func (c *cursor) varint(what string) uint32 {
	var n uint32
	for i := range 4 {
		if i >= len(c.b) {
			break
		}
		n |= uint32(c.b[i]&0x7F) << (7 * i)
		if c.b[i]&0x80 != 0 {
			continue
		}
		if i > 0 && c.b[i] == 0 {
			break
		}
		c.b = c.b[i+1:]
		c.read += i + 1
		return n
	}
	c.fail(mqtt.MalformedPacket, what+": not a Variable Byte Integer")
	return 0
}

// binary reads Binary Data: a length in two bytes, and the bytes.
func (c *cursor) binary(what string) []byte {
	return c.take(int(c.uint16(what)), what)
}

// text reads a UTF-8 Encoded String [MQTT-1.5.4-1] [MQTT-1.5.4-2]. A byte order
// mark in it is a character as any other [MQTT-1.5.4-3].
func (c *cursor) text(what string) []byte {
	at := c.read
	b := c.binary(what)
	if c.err == nil && (!utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0) {
		c.read = at
		c.fail(mqtt.MalformedPacket, what+": not valid UTF-8, or with U+0000")
	}
	return b
}

func (c *cursor) string(what string) string { return string(c.text(what)) }

// id reads a Packet Identifier [MQTT-2.2.1-3] [v3 MQTT-2.3.1-1].
func (c *cursor) id() mqtt.PacketID {
	at := c.read
	id := c.uint16("Packet Identifier")
	if id == 0 && c.err == nil {
		c.read = at
		c.fail(mqtt.ProtocolError, "Packet Identifier 0")
	}
	return mqtt.PacketID(id)
}

// code reads a Reason Code that is one of those that the packet may have.
func (c *cursor) code(allowed ...mqtt.ReasonCode) mqtt.ReasonCode {
	at := c.read
	r := mqtt.ReasonCode(c.byte("Reason Code"))
	for _, a := range allowed {
		if a == r {
			return r
		}
	}
	if c.err == nil {
		c.read = at
		c.fail(mqtt.ProtocolError, "Reason Code 0x"+strconv.FormatUint(uint64(r), 16)+" does not belong into "+c.packet.String())
	}
	return r
}
