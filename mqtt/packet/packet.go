// Package packet reads and appends the fifteen MQTT Control Packets. MQTT 3.1,
// 3.1.1 and 5.0 share one codec in which the version is a value.
//
// A [Reader] cuts a stream of bytes into packets; [Append] writes one. Both are
// strict: what the standard calls malformed is an [*Error] with the Reason Code
// that belongs to it.
package packet

import (
	"fmt"

	"fairlead/mqtt"
)

// Type is a Control Packet type, table 2-1 of MQTT 5.
type Type byte

// The fifteen Control Packet types.
const (
	CONNECT     Type = 1
	CONNACK     Type = 2
	PUBLISH     Type = 3
	PUBACK      Type = 4
	PUBREC      Type = 5
	PUBREL      Type = 6
	PUBCOMP     Type = 7
	SUBSCRIBE   Type = 8
	SUBACK      Type = 9
	UNSUBSCRIBE Type = 10
	UNSUBACK    Type = 11
	PINGREQ     Type = 12
	PINGRESP    Type = 13
	DISCONNECT  Type = 14
	AUTH        Type = 15
)

var typeNames = [16]string{"reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
	"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}

// String names the type as the standard does: "PUBLISH".
func (t Type) String() string { return typeNames[t&15] }

// Packet is one Control Packet: a pointer to one of the structs of this package.
type Packet interface {
	Type() Type
}

// Error says why bytes are not a Control Packet that may be processed.
type Error struct {
	Reason mqtt.ReasonCode // MalformedPacket, ProtocolError, or what the standard names for the case
	Packet Type            // the packet that was read; 0 if the first byte was wrong
	At     int             // where, in bytes from the start of the packet
	What   string          // what was found and what was expected: "QoS 3"
	Level  byte            // of a CONNECT: its Protocol Level, as far as it was read; it says in which form to answer
}

// Error reads like "read PUBLISH: byte 0: QoS 3 (0x81 Malformed Packet)".
func (e *Error) Error() string {
	return fmt.Sprintf("read %s: byte %d: %s (%s)", e.Packet, e.At, e.What, e.Reason)
}

// Connect asks the broker for a Network Connection's session. 3.1 and 3.1.1 say
// Clean Session for CleanStart.
type Connect struct {
	Version     mqtt.Version
	CleanStart  bool
	KeepAlive   uint16 // seconds; 0 turns it off
	HasUser     bool
	HasPassword bool
	ClientID    string
	User        string
	Password    []byte
	Will        *Will       // nil: none
	Properties  *Properties // nil: none; always nil before 5.0
}

// Will is the Will Message of a CONNECT.
type Will struct {
	QoS        mqtt.QoS
	Retain     bool
	HasExpiry  bool
	Expiry     uint32 // Message Expiry Interval in seconds, if HasExpiry
	Delay      uint32 // Will Delay Interval in seconds
	Topic      string
	Payload    []byte
	Properties mqtt.Properties // what the Will Message carries to subscribers
}

// Connack answers a Connect. For 3.1 and 3.1.1 the Reason is written as the
// Connect Return code that says the same.
type Connack struct {
	SessionPresent bool
	Reason         mqtt.ReasonCode
	Properties     *Properties
}

// Publish carries an Application Message. Read by a [Reader], its Topic,
// Properties and Payload point into the reader's buffer and are valid only
// until the next call to it.
type Publish struct {
	Dup             bool
	QoS             mqtt.QoS
	Retain          bool
	HasExpiry       bool
	ID              mqtt.PacketID // 0 if QoS is 0
	TopicAlias      uint16        // 0: none
	Expiry          uint32        // Message Expiry Interval in seconds, if HasExpiry
	SubscriptionIDs []uint32
	Topic           []byte          // valid UTF-8; empty if a Topic Alias stands for it
	Properties      mqtt.Properties // those that are forwarded unaltered
	Payload         []byte
}

// Puback acknowledges a QoS 1 Publish.
type Puback struct {
	ID         mqtt.PacketID
	Reason     mqtt.ReasonCode
	Properties *Properties
}

// Pubrec acknowledges a QoS 2 Publish, part 1.
type Pubrec struct {
	ID         mqtt.PacketID
	Reason     mqtt.ReasonCode
	Properties *Properties
}

// Pubrel releases a QoS 2 Publish, part 2.
type Pubrel struct {
	ID         mqtt.PacketID
	Reason     mqtt.ReasonCode
	Properties *Properties
}

// Pubcomp completes a QoS 2 Publish, part 3.
type Pubcomp struct {
	ID         mqtt.PacketID
	Reason     mqtt.ReasonCode
	Properties *Properties
}

// Subscription is one Topic Filter of a Subscribe with its Subscription Options.
// The codec checks the filter's UTF-8, not its syntax.
type Subscription struct {
	Filter            string
	QoS               mqtt.QoS // Maximum QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0 send, 1 send if the subscription is new, 2 do not send
}

// Subscribe creates subscriptions.
type Subscribe struct {
	ID            mqtt.PacketID
	Subscriptions []Subscription // at least one
	Properties    *Properties
}

// Suback answers a Subscribe: one Reason a filter, in its order. For 3.1.1 a
// failure is written as 0x80; 3.1 knows no failure.
type Suback struct {
	ID         mqtt.PacketID
	Reasons    []mqtt.ReasonCode
	Properties *Properties
}

// Unsubscribe ends subscriptions.
type Unsubscribe struct {
	ID         mqtt.PacketID
	Filters    []string // at least one
	Properties *Properties
}

// Unsuback answers an Unsubscribe. Before 5.0 it has no Reasons.
type Unsuback struct {
	ID         mqtt.PacketID
	Reasons    []mqtt.ReasonCode
	Properties *Properties
}

// Pingreq asks for a sign of life.
type Pingreq struct{}

// Pingresp gives it.
type Pingresp struct{}

// Disconnect is the last packet of a connection. Before 5.0 only clients send
// it, and it carries nothing.
type Disconnect struct {
	Reason     mqtt.ReasonCode
	Properties *Properties
}

// Auth carries a step of enhanced authentication. 5.0 only.
type Auth struct {
	Reason     mqtt.ReasonCode
	Properties *Properties
}

// Type implements [Packet].
func (*Connect) Type() Type     { return CONNECT }
func (*Connack) Type() Type     { return CONNACK }
func (*Publish) Type() Type     { return PUBLISH }
func (*Puback) Type() Type      { return PUBACK }
func (*Pubrec) Type() Type      { return PUBREC }
func (*Pubrel) Type() Type      { return PUBREL }
func (*Pubcomp) Type() Type     { return PUBCOMP }
func (*Subscribe) Type() Type   { return SUBSCRIBE }
func (*Suback) Type() Type      { return SUBACK }
func (*Unsubscribe) Type() Type { return UNSUBSCRIBE }
func (*Unsuback) Type() Type    { return UNSUBACK }
func (*Pingreq) Type() Type     { return PINGREQ }
func (*Pingresp) Type() Type    { return PINGRESP }
func (*Disconnect) Type() Type  { return DISCONNECT }
func (*Auth) Type() Type        { return AUTH }
