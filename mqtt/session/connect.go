package session

import (
	"time"
	"unicode/utf8"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/topic"
)

// Limits are what the Server grants at most. Where the standard lets a Client
// be told, CONNACK tells it.
type Limits struct {
	ReceiveMaximum    uint16        // QoS 1 and 2 messages that a Client may have under way to us; at least 1
	TopicAliasMaximum uint16        // aliases that a Client may use; 0: none
	PacketBytes       uint32        // Maximum Packet Size from Clients; 0: what the protocol can say
	KeepAliveMax      uint16        // seconds; 0: as the Client says
	ExpiryMax         uint32        // Session Expiry Interval, seconds
	WillDelayMax      uint32        // seconds
	InFlight          uint16        // QoS 1 and 2 messages under way to a Client that can't name a Receive Maximum
	AliasesOut        uint16        // Topic Aliases towards a Client, however many it allows
	Subscriptions     int           // of one Session; beyond it SUBACK says 0x97
	QueueMessages     int           // waiting in one Session; see Outbound.Full
	QueueBytes        int           // the same in bytes
	QueueAge          time.Duration // how long a message may wait; 0: as long as the Session
}

// Link is what a CONNECT asks for and is granted: the terms of one Network
// Connection.
type Link struct {
	Version    mqtt.Version
	CleanStart bool
	ID         mqtt.ClientID // empty: the Server is to assign one
	Expiry     uint32        // Session Expiry Interval granted, seconds
	KeepAlive  uint16        // granted, seconds; 0: none
	SendMax    uint16        // QoS 1 and 2 messages under way to the Client
	PacketMax  uint32        // Maximum Packet Size that the Client takes; 0: any
	AliasesOut uint16        // Topic Aliases that we may use
	AliasesIn  uint16        // Topic Aliases that the Client may use
	ReceiveMax uint16        // QoS 1 and 2 messages that the Client may have under way
	Problem    bool          // Reason Strings and User Properties are welcome [MQTT-3.1.2-29]
	Response   bool          // Response Information is asked for
	Method     string        // Authentication Method; empty: none
	Will       *Will

	queueAge                time.Duration
	keepAliveSet, expirySet bool // the grant differs from what was asked
}

// Will is a Will Message that waits for its hour.
type Will struct {
	Message   mqtt.Message // without Received and Expires, which its publication sets
	HasExpiry bool
	Expiry    uint32 // Message Expiry Interval in seconds, counted from publication
	Delay     uint32 // Will Delay Interval, seconds
}

// clientIDMax31 is the longest Client Identifier of MQTT 3.1, in characters
// (3.1, section 3.1); later versions have no such rule for the Server.
const clientIDMax31 = 23

// Open checks a CONNECT and returns the terms that the Server grants. The error
// is an [*Error] whose Reason belongs into the CONNACK.
func Open(c *packet.Connect, lim *Limits) (*Link, error) {
	if err := checkClientID(c); err != nil {
		return nil, err
	}
	l := &Link{
		Version: c.Version, CleanStart: c.CleanStart, ID: mqtt.ClientID(c.ClientID), KeepAlive: c.KeepAlive,
		Problem: true, queueAge: lim.QueueAge, SendMax: max(lim.InFlight, 1), ReceiveMax: max(lim.ReceiveMaximum, 1),
	}
	if most := lim.KeepAliveMax; c.Version >= mqtt.V5 && most > 0 && (l.KeepAlive == 0 || l.KeepAlive > most) {
		l.KeepAlive, l.keepAliveSet = most, true // before 5.0 the Client can't be told
	}
	if c.Version >= mqtt.V5 {
		l.AliasesIn = lim.TopicAliasMaximum
		l.askedFor(c.Properties, lim)
	} else if !c.CleanStart {
		l.Expiry = min(ExpiryNever, lim.ExpiryMax)
	}
	var err error
	l.Will, err = openWill(c, lim)
	return l, err
}

// LimitExpiry bounds the Session Expiry Interval; CONNACK will say so [MQTT-3.2.2-8].
func (l *Link) LimitExpiry(most uint32) {
	if l.Expiry > most {
		l.Expiry, l.expirySet = most, true
	}
}

// checkClientID keeps the rules of each version for the Client Identifier.
func checkClientID(c *packet.Connect) error {
	switch {
	case c.Version == mqtt.V31 && (c.ClientID == "" || utf8.RuneCountInString(c.ClientID) > clientIDMax31):
		return violation(mqtt.ClientIdentifierNotValid, "MQTT 3.1 Client Identifier has %d characters: expected 1 to %d",
			utf8.RuneCountInString(c.ClientID), clientIDMax31)
	case c.Version == mqtt.V311 && c.ClientID == "" && !c.CleanStart: // [v3 MQTT-3.1.3-8]
		return violation(mqtt.ClientIdentifierNotValid, "empty Client Identifier without Clean Session")
	}
	return nil
}

// askedFor takes the properties of a 5.0 CONNECT into account.
func (l *Link) askedFor(p *packet.Properties, lim *Limits) {
	l.SendMax = 0xFFFF
	if p == nil {
		return
	}
	if p.Has(mqtt.SessionExpiryInterval) {
		l.Expiry = min(p.SessionExpiry, lim.ExpiryMax)
		l.expirySet = l.Expiry != p.SessionExpiry
	}
	if p.Has(mqtt.ReceiveMaximum) {
		l.SendMax = p.ReceiveMaximum
	}
	if p.Has(mqtt.MaximumPacketSize) {
		l.PacketMax = p.MaximumPacketSize
	}
	if p.Has(mqtt.TopicAliasMaximum) {
		l.AliasesOut = min(p.TopicAliasMaximum, lim.AliasesOut)
	}
	l.Problem = !p.Has(mqtt.RequestProblemInformation) || p.RequestProblemInfo == 1
	l.Response = p.Has(mqtt.RequestResponseInformation) && p.RequestResponseInfo == 1
	l.Method = p.AuthenticationMethod
}

func openWill(c *packet.Connect, lim *Limits) (*Will, error) {
	w := c.Will
	if w == nil {
		return nil, nil
	}
	if err := topic.CheckName(w.Topic); err != nil {
		return nil, violation(mqtt.TopicNameInvalid, "will %v", err)
	}
	if err := checkResponseTopic(w.Properties); err != nil {
		return nil, err
	}
	return &Will{
		Message: mqtt.Message{
			Topic: w.Topic, Payload: w.Payload, Properties: w.Properties,
			Publisher: mqtt.ClientID(c.ClientID), QoS: w.QoS, Retain: w.Retain,
		},
		HasExpiry: w.HasExpiry, Expiry: w.Expiry, Delay: min(w.Delay, lim.WillDelayMax),
	}, nil
}

// checkResponseTopic refuses a Response Topic that is no Topic Name
// [MQTT-3.3.2-14] [MQTT-3.3.2-13].
func checkResponseTopic(p mqtt.Properties) error {
	if len(p) == 0 {
		return nil
	}
	name, ok := p.ResponseTopic()
	if !ok {
		return nil
	}
	if err := topic.CheckName(name); err != nil {
		return violation(mqtt.ProtocolError, "Response Topic: %v", err)
	}
	return nil
}

// Connack returns the answer that accepts the CONNECT. The Client must have an
// identifier by now; assigned says that the Server gave it.
func (l *Link) Connack(present, assigned bool, lim *Limits) *packet.Connack {
	ack := &packet.Connack{SessionPresent: present}
	if l.Version < mqtt.V5 {
		return ack
	}
	p := &packet.Properties{}
	if l.expirySet {
		p.Mark(mqtt.SessionExpiryInterval)
		p.SessionExpiry = l.Expiry
	}
	if l.ReceiveMax < 0xFFFF {
		p.Mark(mqtt.ReceiveMaximum)
		p.ReceiveMaximum = l.ReceiveMax
	}
	if lim.PacketBytes > 0 {
		p.Mark(mqtt.MaximumPacketSize)
		p.MaximumPacketSize = lim.PacketBytes
	}
	if assigned { // [MQTT-3.2.2-16]
		p.Mark(mqtt.AssignedClientIdentifier)
		p.AssignedClientID = string(l.ID)
	}
	if l.AliasesIn > 0 {
		p.Mark(mqtt.TopicAliasMaximum)
		p.TopicAliasMaximum = l.AliasesIn
	}
	if l.keepAliveSet { // [MQTT-3.2.2-21]
		p.Mark(mqtt.ServerKeepAlive)
		p.ServerKeepAlive = l.KeepAlive
	}
	if l.Response {
		p.Mark(mqtt.ResponseInformation)
		p.ResponseInformation = "response/" + string(l.ID)
	}
	if p.Set != 0 {
		ack.Properties = p
	}
	return ack
}
