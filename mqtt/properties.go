package mqtt

import (
	"encoding/binary"
	"iter"
)

// PropertyID is the identifier of an MQTT 5 property. All that are defined fit
// in one byte.
type PropertyID byte

// The properties of MQTT 5, table 2-4.
const (
	PayloadFormatIndicator          PropertyID = 0x01
	MessageExpiryInterval           PropertyID = 0x02
	ContentType                     PropertyID = 0x03
	ResponseTopic                   PropertyID = 0x08
	CorrelationData                 PropertyID = 0x09
	SubscriptionIdentifier          PropertyID = 0x0B
	SessionExpiryInterval           PropertyID = 0x11
	AssignedClientIdentifier        PropertyID = 0x12
	ServerKeepAlive                 PropertyID = 0x13
	AuthenticationMethod            PropertyID = 0x15
	AuthenticationData              PropertyID = 0x16
	RequestProblemInformation       PropertyID = 0x17
	WillDelayInterval               PropertyID = 0x18
	RequestResponseInformation      PropertyID = 0x19
	ResponseInformation             PropertyID = 0x1A
	ServerReference                 PropertyID = 0x1C
	ReasonString                    PropertyID = 0x1F
	ReceiveMaximum                  PropertyID = 0x21
	TopicAliasMaximum               PropertyID = 0x22
	TopicAlias                      PropertyID = 0x23
	MaximumQoS                      PropertyID = 0x24
	RetainAvailable                 PropertyID = 0x25
	UserPropertyID                  PropertyID = 0x26
	MaximumPacketSize               PropertyID = 0x27
	WildcardSubscriptionAvailable   PropertyID = 0x28
	SubscriptionIdentifierAvailable PropertyID = 0x29
	SharedSubscriptionAvailable     PropertyID = 0x2A
)

// Properties are those properties of a PUBLISH that a broker forwards as they
// came: Payload Format Indicator, Content Type, Response Topic, Correlation
// Data and User Properties [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16]
// [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20].
//
// The value is their wire form, in the order received, already checked: each
// one an identifier byte and its value, with no length in front. It is kept as
// bytes because a broker copies it far more often than it reads it. What the
// broker itself decides (Topic Alias, Message Expiry Interval, Subscription
// Identifiers) is never in it. Nil means none.
type Properties []byte

// property cuts the first property off p. It relies on p being checked, and
// returns nil for rest where it is not.
func (p Properties) property() (id PropertyID, value []byte, second []byte, rest Properties) {
	if len(p) == 0 {
		return 0, nil, nil, nil
	}
	id, b := PropertyID(p[0]), []byte(p[1:])
	switch id {
	case PayloadFormatIndicator:
		if len(b) < 1 {
			return 0, nil, nil, nil
		}
		return id, b[:1], nil, Properties(b[1:])
	case UserPropertyID:
		name, b, ok := cutBytes(b)
		if !ok {
			return 0, nil, nil, nil
		}
		val, b, ok := cutBytes(b)
		if !ok {
			return 0, nil, nil, nil
		}
		return id, name, val, Properties(b)
	default:
		val, b, ok := cutBytes(b)
		if !ok {
			return 0, nil, nil, nil
		}
		return id, val, nil, Properties(b)
	}
}

func cutBytes(b []byte) (field, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// find returns the value of the first property with the identifier want.
func (p Properties) find(want PropertyID) ([]byte, bool) {
	for len(p) > 0 {
		id, val, _, rest := p.property()
		if id == want {
			return val, true
		}
		p = rest
	}
	return nil, false
}

// PayloadIsUTF8 reports whether the Payload Format Indicator says that the
// payload is UTF-8 text.
func (p Properties) PayloadIsUTF8() bool {
	v, ok := p.find(PayloadFormatIndicator)
	return ok && v[0] == 1
}

// ContentType returns the Content Type and whether there is one.
func (p Properties) ContentType() (string, bool) {
	v, ok := p.find(ContentType)
	return string(v), ok
}

// ResponseTopic returns the Response Topic and whether there is one.
func (p Properties) ResponseTopic() (string, bool) {
	v, ok := p.find(ResponseTopic)
	return string(v), ok
}

// CorrelationData returns the Correlation Data and whether there is any. The
// bytes belong to p.
func (p Properties) CorrelationData() ([]byte, bool) {
	return p.find(CorrelationData)
}

// User yields the User Properties in their order.
func (p Properties) User() iter.Seq[UserProperty] {
	return func(yield func(UserProperty) bool) {
		for p := p; len(p) > 0; {
			id, name, val, rest := p.property()
			if id == UserPropertyID && !yield(UserProperty{string(name), string(val)}) {
				return
			}
			p = rest
		}
	}
}

// AppendPayloadFormat appends a Payload Format Indicator: 1 for UTF-8 text, 0
// for unspecified bytes.
func (p Properties) AppendPayloadFormat(utf8 bool) Properties {
	if utf8 {
		return append(p, byte(PayloadFormatIndicator), 1)
	}
	return append(p, byte(PayloadFormatIndicator), 0)
}

// AppendContentType appends a Content Type. The value is at most 65,535 bytes
// of UTF-8.
func (p Properties) AppendContentType(s string) Properties {
	return appendField(append(p, byte(ContentType)), s)
}

// AppendResponseTopic appends a Response Topic, a Topic Name.
func (p Properties) AppendResponseTopic(s string) Properties {
	return appendField(append(p, byte(ResponseTopic)), s)
}

// AppendCorrelationData appends Correlation Data, at most 65,535 bytes.
func (p Properties) AppendCorrelationData(b []byte) Properties {
	return appendField(append(p, byte(CorrelationData)), string(b))
}

// AppendUser appends one User Property.
func (p Properties) AppendUser(u UserProperty) Properties {
	return appendField(appendField(append(p, byte(UserPropertyID)), u.Name), u.Value)
}

func appendField(p Properties, s string) Properties {
	p = binary.BigEndian.AppendUint16(p, uint16(len(s)))
	return append(p, s...)
}
