// Package mqtt holds the words of the MQTT standards as Go types: versions,
// Quality of Service, Reason Codes, Packet Identifiers and the Application
// Message. It decides nothing; begin with [Message].
package mqtt

import "fmt"

// Version is an MQTT protocol version, with the value that a CONNECT carries
// as its Protocol Level. Versions are ordered: v >= V5 asks for properties.
type Version byte

// The versions that Fairlead speaks.
const (
	V31  Version = 3 // MQTT 3.1, protocol name "MQIsdp"
	V311 Version = 4 // MQTT 3.1.1
	V5   Version = 5 // MQTT 5.0
)

// String names the version as people write it: "3.1", "3.1.1", "5.0".
func (v Version) String() string {
	switch v {
	case V31:
		return "3.1"
	case V311:
		return "3.1.1"
	case V5:
		return "5.0"
	}
	return fmt.Sprintf("unknown version %d", byte(v))
}

// QoS is a Quality of Service level.
type QoS byte

// The three levels of delivery.
const (
	QoS0 QoS = 0 // at most once
	QoS1 QoS = 1 // at least once
	QoS2 QoS = 2 // exactly once
)

// String says what the level promises: "at most once".
func (q QoS) String() string {
	switch q {
	case QoS0:
		return "at most once"
	case QoS1:
		return "at least once"
	case QoS2:
		return "exactly once"
	}
	return fmt.Sprintf("unknown QoS %d", byte(q))
}

// PacketID is a Packet Identifier. Zero is never valid on the wire [MQTT-2.2.1-3].
type PacketID uint16

// ClientID is a Client Identifier.
type ClientID string

// UserProperty is one name and value pair. Pairs keep their order, and a name
// may appear more than once.
type UserProperty struct {
	Name, Value string
}
