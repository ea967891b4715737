package packet

import "fairlead/mqtt"

// Properties are the properties of every packet but PUBLISH and of the CONNECT
// apart from its Will, whose values are fields of [Publish] and [Will]. A value
// counts only if Set says that it is there.
type Properties struct {
	Set                  PropertySet
	RequestProblemInfo   byte
	RequestResponseInfo  byte
	MaximumQoS           byte
	RetainAvailable      byte
	WildcardAvailable    byte
	SubIDAvailable       byte
	SharedAvailable      byte
	ReceiveMaximum       uint16
	TopicAliasMaximum    uint16
	ServerKeepAlive      uint16 // seconds
	SessionExpiry        uint32 // seconds; 0xFFFFFFFF never
	MaximumPacketSize    uint32 // bytes
	SubscriptionID       uint32 // of a SUBSCRIBE, 1 to 268,435,455
	AssignedClientID     string
	AuthenticationMethod string
	ResponseInformation  string
	ServerReference      string
	ReasonString         string
	AuthenticationData   []byte
	User                 []mqtt.UserProperty // in order; needs no bit in Set
}

// PropertySet says which properties are there, one bit a [mqtt.PropertyID].
type PropertySet uint64

// Has reports whether p is not nil and holds the property.
func (p *Properties) Has(id mqtt.PropertyID) bool {
	return p != nil && p.Set&(1<<id) != 0
}

// Mark notes that the property's field holds a value.
func (p *Properties) Mark(id mqtt.PropertyID) { p.Set |= 1 << id }
