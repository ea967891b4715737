package packet

import (
	"bytes"
	"encoding/binary"
	"slices"
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
	level  byte // Protocol Level of a CONNECT, once it has been read
	err    error
}

// fail notes the first error, at the place that is to be read next.
func (c *cursor) fail(r mqtt.ReasonCode, what string) { c.failAt(c.read, r, what) }

// failAt is fail for what has been read already: it began at at.
func (c *cursor) failAt(at int, r mqtt.ReasonCode, what string) {
	if c.err == nil {
		c.err = &Error{Reason: r, Packet: c.packet, At: c.base + at, What: what, Level: c.level}
	}
	c.b = nil
}

// take cuts off n bytes.
func (c *cursor) take(n int, what string) []byte {
	if len(c.b) < n {
		c.fail(mqtt.MalformedPacket, what+": found "+itoa(len(c.b))+" of "+itoa(n)+" bytes")
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
	for i, b := range c.b[:min(4, len(c.b))] {
		n |= uint32(b&0x7F) << (7 * i)
		if b&0x80 != 0 {
			continue
		}
		if i > 0 && b == 0 {
			c.fail(mqtt.MalformedPacket, what+" takes more bytes than it needs")
			return 0
		}
		c.b = c.b[i+1:]
		c.read += i + 1
		return n
	}
	c.fail(mqtt.MalformedPacket, what+": expected a Variable Byte Integer")
	return 0
}

// binary reads Binary Data: a length in two bytes, and the bytes.
func (c *cursor) binary(what string) []byte {
	if len(c.b) < 2 {
		c.fail(mqtt.MalformedPacket, what+": found "+itoa(len(c.b))+" of 2 bytes of length")
		return nil
	}
	n := int(binary.BigEndian.Uint16(c.b))
	if len(c.b) < 2+n {
		c.fail(mqtt.MalformedPacket, what+": found "+itoa(len(c.b)-2)+" of "+itoa(n)+" bytes")
		return nil
	}
	b := c.b[2 : 2+n : 2+n]
	c.b = c.b[2+n:]
	c.read += 2 + n
	return b
}

// text reads a UTF-8 Encoded String. A byte order mark in it is a character as
// any other [MQTT-1.5.4-3]; control characters and non-characters, which one MAY
// refuse, are accepted.
func (c *cursor) text(what string) []byte {
	at := c.read
	b := c.binary(what)
	if wrong := badText(b); wrong != "" {
		c.failAt(at, mqtt.MalformedPacket, what+": "+wrong)
		return nil
	}
	return b
}

// badText says what is wrong with the bytes of a UTF-8 Encoded String, or "".
func badText(b []byte) string {
	if !utf8.Valid(b) { // refuses surrogates too [MQTT-1.5.4-1] [v3 MQTT-1.5.3-1]
		return "not well-formed UTF-8"
	}
	if bytes.IndexByte(b, 0) >= 0 { // [MQTT-1.5.4-2] [v3 MQTT-1.5.3-2]
		return "null character U+0000"
	}
	return ""
}

func (c *cursor) string(what string) string { return string(c.text(what)) }

// id reads a Packet Identifier; 0 is none [MQTT-2.2.1-3] [v3 MQTT-2.3.1-1].
func (c *cursor) id() mqtt.PacketID {
	at := c.read
	id := c.uint16("Packet Identifier")
	if id == 0 {
		c.failAt(at, mqtt.ProtocolError, "Packet Identifier 0")
	}
	return mqtt.PacketID(id)
}

// code reads a Reason Code that is one of those that the packet may have.
func (c *cursor) code(allowed []mqtt.ReasonCode) mqtt.ReasonCode {
	at := c.read
	r := mqtt.ReasonCode(c.byte("Reason Code"))
	c.checkCode(at, r, allowed)
	return r
}

func (c *cursor) checkCode(at int, r mqtt.ReasonCode, allowed []mqtt.ReasonCode) {
	if !slices.Contains(allowed, r) {
		c.failAt(at, mqtt.ProtocolError, "Reason Code "+r.String()+" does not belong in "+c.packet.String())
	}
}

// codes reads Reason Codes up to the end of the packet.
func (c *cursor) codes(allowed []mqtt.ReasonCode) []mqtt.ReasonCode {
	if len(c.b) == 0 {
		return nil
	}
	rs := make([]mqtt.ReasonCode, len(c.b))
	for i := range rs {
		rs[i] = c.code(allowed)
	}
	return rs
}
