package packet

import (
	"slices"

	"fairlead/mqtt"
)

// connackCodes are the Connect Reason Codes of 5.0 [MQTT-3.2.2-8].
var connackCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.UnspecifiedError, mqtt.MalformedPacket, mqtt.ProtocolError,
	mqtt.ImplementationSpecificError, mqtt.UnsupportedProtocolVersion, mqtt.ClientIdentifierNotValid,
	mqtt.BadUserNameOrPassword, mqtt.NotAuthorized, mqtt.ServerUnavailable, mqtt.ServerBusy, mqtt.Banned,
	mqtt.BadAuthenticationMethod, mqtt.TopicNameInvalid, mqtt.PacketTooLarge, mqtt.QuotaExceeded,
	mqtt.PayloadFormatInvalid, mqtt.RetainNotSupported, mqtt.QoSNotSupported, mqtt.UseAnotherServer, mqtt.ServerMoved,
	mqtt.ConnectionRateExceeded}

// returnCodes are the Connect Return codes 0 to 5 of 3.1 and 3.1.1, in the words
// of 5.0.
var returnCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.UnsupportedProtocolVersion, mqtt.ClientIdentifierNotValid,
	mqtt.ServerUnavailable, mqtt.BadUserNameOrPassword, mqtt.NotAuthorized}

// connack reads a CONNACK. 3.1 has nothing to say in the first byte.
func (c *cursor) connack(v mqtt.Version) *Connack {
	p := &Connack{}
	at := c.read
	flags := c.byte("Connect Acknowledge Flags")
	if flags > 1 && v > mqtt.V31 { // [MQTT-3.2.2-1]
		c.failAt(at, mqtt.MalformedPacket, "Connect Acknowledge Flags: a reserved bit is set")
	}
	p.SessionPresent = flags&1 != 0 && v > mqtt.V31
	if v >= mqtt.V5 {
		p.Reason = c.code(connackCodes)
		p.Properties = c.properties()
		return p
	}
	at = c.read
	code := int(c.byte("Connect Return code"))
	if code >= len(returnCodes) {
		c.failAt(at, mqtt.MalformedPacket, "Connect Return code "+itoa(code)+" is reserved")
		return p
	}
	p.Reason = returnCodes[code]
	return p
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

// returnCode is the Connect Return code of 3.1 and 3.1.1 that says the same as a
// Reason Code, or comes nearest to it. Whether to answer at all where nothing
// fits is the broker's to decide [v3 MQTT-3.2.2-6].
func returnCode(r mqtt.ReasonCode) byte {
	if code := slices.Index(returnCodes, r); code >= 0 {
		return byte(code)
	}
	if r == mqtt.Banned || r == mqtt.BadAuthenticationMethod {
		return 5 // not authorized
	}
	return 3 // server unavailable
}
