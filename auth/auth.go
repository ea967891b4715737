// Package auth says who is behind a Network Connection: it makes a
// [policy.Principal] of what a CONNECT and its connection show. Begin with
// [New]: a [Chain] asks several methods in a stated order, each of which says
// "not mine", "yes, this one" or "no, because". What nobody says yes to is
// refused: the Client learns a Reason Code and nothing else, the operator gets
// a [Refusal] with everything.
//
// The registry of devices and users is the consumer's view of another package:
// see [Directory].
package auth

import (
	"time"

	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/policy"
)

// Credentials are what a Client shows of itself.
type Credentials struct {
	Connect *packet.Connect
	Info    listen.Info
}

// Exchange is one enhanced authentication: a sequence of AUTH packets.
type Exchange interface {
	// Step takes the Client's Authentication Data, nil if it sent none, and
	// returns the Server's. With a Principal the exchange has succeeded; with a
	// failed Verdict it is over; otherwise the Client has to go on
	// [MQTT-4.12.0-2] [MQTT-4.12.0-3].
	Step(data []byte) (reply []byte, p *policy.Principal, v policy.Verdict)
}

// Identity is a Principal and the grounds on which it was accepted. It belongs to
// one Network Connection; [Chain.Recheck] says whether the grounds still hold.
type Identity struct {
	policy.Principal
	Expires time.Time // when the connection is to end; zero: never
	Serial  string    // of the certificate that showed the identity; empty: none did
	proof   *proof
}

// Identified is what an Exchange of a [Chain] is as well.
type Identified interface {
	// Identity is what the exchange has led to; nil before it has succeeded.
	Identity() *Identity
}

// AssignID makes the Client Identifier for a Client that leaves it to the Server
// [MQTT-3.1.3-6]: within the device's own space, so that no other device can use
// it. The random text keeps two connections apart.
func AssignID(p *policy.Principal, random string) mqtt.ClientID {
	if p.Device != "" {
		return mqtt.ClientID(p.Device + ":" + random)
	}
	return mqtt.ClientID("auto-" + random)
}
