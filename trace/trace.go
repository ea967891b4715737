// Package trace says what happens to an Application Message on its way through
// the broker. [Hooks] has one func for each step of the path, named as the
// function that takes it: read, admit, step, commit, match, deliver, flush. A
// nil func costs one comparison.
//
// A hook runs in the goroutine that does the work, often under a lock: it
// returns quickly, calls nothing of the broker and keeps no bytes of the
// message, which may still lie in a read buffer.
package trace

import (
	"fairlead/mqtt"
)

// Hooks are what an observer wants to hear of. The zero Hooks hears nothing.
type Hooks struct {
	Read    func(Read)
	Admit   func(Admit)
	Step    func(Step)
	Commit  func(Commit)
	Match   func(Match)
	Deliver func(Deliver)
	Flush   func(Flush)
}

// Read is a batch of bytes from a Client.
type Read struct {
	Client mqtt.ClientID
	Bytes  int
}

// Admit is the decision about a message, before anything is done with it.
type Admit struct {
	Message *mqtt.Message
	Code    mqtt.ReasonCode
	Reason  string // why it was refused, for operators; empty if it was not
}

// Step is what the publisher's Session made of a PUBLISH.
type Step struct {
	Message  *mqtt.Message
	ID       mqtt.PacketID // 0 for QoS 0
	Repeated bool          // a QoS 2 message that was accepted before
}

// Commit is a message that the broker has taken over: from here on it may be
// acknowledged [MQTT-4.3.2-4].
type Commit struct{ Message *mqtt.Message }

// Match is the result of matching a Topic Name.
type Match struct {
	Message  *mqtt.Message
	Sessions int // Sessions with a matching subscription that is not shared
	Shares   int // matching Shared Subscriptions, each of which takes one copy
}

// Deliver is what became of a message for one Session.
type Deliver struct {
	Message *mqtt.Message
	Client  mqtt.ClientID
	QoS     mqtt.QoS
	Outcome Outcome
}

// Flush is a write to a Client's Network Connection.
type Flush struct {
	Client mqtt.ClientID
	Bytes  int
}

// Outcome is what became of a message for one Session, or why a broker did not
// keep it.
type Outcome byte

// The outcomes. From DroppedAbsent on, the message is lost for that Session.
const (
	Sent               Outcome = iota // in the outbox
	Queued                            // waits for the Client, its acknowledgements or its socket
	Moved                             // from a Shared Subscription's member to another
	DroppedAbsent                     // QoS 0, and the Client is not connected
	DroppedOutboxFull                 // QoS 0, and the Client does not read
	DroppedExpired                    // the Message Expiry Interval has passed
	DroppedTooLarge                   // above the Client's Maximum Packet Size [MQTT-3.1.2-24]
	DroppedSessionFull                // the Session is ended because it took no more
	DroppedSessionGone                // the Session ended with the message in its queue
	DroppedRefused                    // the publisher was told no
	DroppedNotRetained                // delivered, but not retained for want of room
	DroppedOldest                     // the queue was full, and its oldest message had to go
	DroppedDamaged                    // what the disk has of the queue can't be read
	DroppedNotAllowed                 // waited, and the Client may not see it any more
	Outcomes                          // how many there are
)

var outcomeNames = [Outcomes]string{"sent", "queued", "moved", "absent", "outbox full", "expired",
	"packet too large", "session full", "session ended", "refused", "retained store full", "oldest of a full queue", "damaged on disk", "not allowed any more"}

// String names the outcome: "outbox full".
func (o Outcome) String() string {
	if o < Outcomes {
		return outcomeNames[o]
	}
	return "unknown"
}

// Dropped reports whether the message is lost for the Session.
func (o Outcome) Dropped() bool { return o >= DroppedAbsent }
