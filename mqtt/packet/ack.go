package packet

import "fairlead/mqtt"

// The Reason Codes that the four acknowledgements may have [MQTT-3.4.2-1]
// [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1].
var (
	receivedCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.NoMatchingSubscribers, mqtt.UnspecifiedError,
		mqtt.ImplementationSpecificError, mqtt.NotAuthorized, mqtt.TopicNameInvalid, mqtt.PacketIdentifierInUse,
		mqtt.QuotaExceeded, mqtt.PayloadFormatInvalid} // PUBACK, PUBREC
	releasedCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.PacketIdentifierNotFound} // PUBREL, PUBCOMP
)

// ack reads what PUBACK, PUBREC, PUBREL and PUBCOMP have in common. A Reason Code
// and properties that are left out stand for success and none.
func (c *cursor) ack(v mqtt.Version) (mqtt.PacketID, mqtt.ReasonCode, *Properties) {
	id := c.id()
	if v < mqtt.V5 || len(c.b) == 0 {
		return id, mqtt.Success, nil
	}
	codes := receivedCodes
	if c.packet == PUBREL || c.packet == PUBCOMP {
		codes = releasedCodes
	}
	reason := c.code(codes)
	if len(c.b) == 0 {
		return id, reason, nil
	}
	return id, reason, c.properties()
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP without properties, in
// its shortest form. Before 5.0 there is no place for the Reason Code.
func AppendAck(dst []byte, v mqtt.Version, t Type, id mqtt.PacketID, r mqtt.ReasonCode) []byte {
	first := byte(t) << 4
	if t == PUBREL {
		first |= 0x02 // [MQTT-3.6.1-1]
	}
	if v < mqtt.V5 || r == mqtt.Success {
		return append(dst, first, 2, byte(id>>8), byte(id))
	}
	return append(dst, first, 3, byte(id>>8), byte(id), byte(r))
}

func (e *encoder) ack(id mqtt.PacketID, r mqtt.ReasonCode, p *Properties) {
	e.id(id)
	e.ending(r, p)
}

// ending appends the Reason Code and the properties that may be left out at the
// end of an acknowledgement, a DISCONNECT and an AUTH.
func (e *encoder) ending(r mqtt.ReasonCode, p *Properties) {
	if e.v < mqtt.V5 || r == mqtt.Success && p.empty() {
		return
	}
	e.byte(byte(r))
	if !p.empty() {
		e.properties(p)
	}
}
