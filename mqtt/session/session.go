// Package session is the MQTT session as a pure state machine: no I/O, no
// clock, no lock, no goroutine. Each thing that can happen to a Session is a
// method of [State]; do what it returns, in the order in which it says so.
//
// Begin with [Open], which turns a CONNECT into a [Link], and with
// [State.Connect]. A Link belongs to one Network Connection, the State outlives
// it [MQTT-4.1.0-1]. Versions are a value: 3.1, 3.1.1 and 5.0 run through the
// same code.
package session

import (
	"fmt"
	"time"

	"fairlead/mqtt"
)

// State is the Session State of one Client and what the present Network
// Connection has agreed on.
//
// It has two halves that share nothing, so that two goroutines may each own
// one: [Inbound] is touched by what the Client publishes, [Outbound] by what it
// receives. All other fields and methods belong to whoever handles CONNECT,
// SUBSCRIBE and the end of the connection.
type State struct {
	ID mqtt.ClientID
	Inbound
	Outbound

	// Expiry is the Session Expiry Interval in seconds; ExpiryNever never ends
	// the Session, 0 ends it with the Network Connection.
	Expiry uint32
	// Will is published when the connection ends without a DISCONNECT that
	// forbids it [MQTT-3.1.2-8]. Nil: none.
	Will *Will

	startedWithExpiry bool // the CONNECT had a Session Expiry Interval above 0
	subscriptions     map[string]*Subscription
}

// ExpiryNever is the Session Expiry Interval of a Session that does not expire.
const ExpiryNever = 0xFFFFFFFF

// New returns the State of a Session that has just begun.
func New(id mqtt.ClientID) *State { return &State{ID: id} }

// Connect gives the Session to the Network Connection l. Aliases and quotas
// start anew; what is in flight will be sent again by [Outbound.Next].
func (s *State) Connect(l *Link) {
	s.Expiry, s.startedWithExpiry = l.Expiry, l.Expiry > 0
	s.Will = l.Will
	s.Inbound.connect(l)
	s.Outbound.connect(l)
}

// Error is a violation of the protocol that ends the Network Connection.
type Error struct {
	Reason mqtt.ReasonCode // what a DISCONNECT or CONNACK tells the Client
	What   string          // what was found and what was expected
}

// Error reads like "0x82 Protocol Error: Topic Name is empty ...".
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.What) }

func violation(r mqtt.ReasonCode, format string, args ...any) *Error {
	return &Error{Reason: r, What: fmt.Sprintf(format, args...)}
}

// Ending says how a Network Connection ended.
type Ending struct {
	// Said is true if the Client sent DISCONNECT, and Reason is what it gave.
	Said   bool
	Reason mqtt.ReasonCode
}

// Plan is what follows the end of a Network Connection.
type Plan struct {
	// Will is to be published when WillAfter has passed, or when the Session
	// ends if that is sooner, unless the Client is back before [MQTT-3.1.3-9].
	// Nil: nothing is to be published.
	Will      *Will
	WillAfter time.Duration
	// Ends is false if the Session stays until its Client comes back; else it
	// ends when EndsAfter has passed [MQTT-3.1.2-23].
	Ends      bool
	EndsAfter time.Duration
}

// Disconnect takes the Session from its Network Connection.
func (s *State) Disconnect(e Ending) Plan {
	s.Inbound.disconnect()
	s.Outbound.disconnect()
	var p Plan
	if s.Expiry != ExpiryNever {
		p.Ends, p.EndsAfter = true, seconds(s.Expiry)
	}
	if s.Will != nil && (!e.Said || e.Reason != mqtt.Success) { // [MQTT-3.14.4-3]
		p.Will, p.WillAfter = s.Will, seconds(min(s.Will.Delay, s.Expiry))
	}
	s.Will = nil // [MQTT-3.1.2-10]
	return p
}

// SetExpiry changes the Session Expiry Interval as a DISCONNECT asks. A Session
// that began with 0 can't be prolonged [MQTT-3.14.2-2].
func (s *State) SetExpiry(interval, most uint32) error {
	if interval > 0 && !s.startedWithExpiry {
		return violation(mqtt.ProtocolError, "Session Expiry Interval %d in DISCONNECT after 0 in CONNECT", interval)
	}
	s.Expiry = min(interval, most)
	return nil
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }
