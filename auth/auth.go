// Package auth says who is behind a Network Connection: it makes a
// [policy.Principal] of what a CONNECT and its connection show. Begin with
// [Credentials].
package auth

import (
	"fairlead/listen"
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
