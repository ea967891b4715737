// Package journal is the language of what must survive: the ops of the journal,
// the records that pack them, and the values that a checkpoint writes. It turns
// them into bytes and back and decides nothing. Begin with [Op], [Begin] and
// [Open].
//
// What is written is meant to be read: a value that can't be, such as a QoS 3 or a
// Delivery without a Message, panics, because a record that can't be read again
// would be found only after the next start. Topics and Topic Filters are not
// looked at when they are written; the broker has parsed them.
//
// What is read may share its bytes with what it was read from, and deliveries with
// each other: nothing of either is changed afterwards. Times are read in UTC.
//
// The format is described in docs/design/journal.md.
package journal

import (
	"errors"
	"fmt"
	"time"

	"fairlead/mqtt"
)

// Kind says what an Op is about. The values are part of the format.
type Kind byte

// The kinds of ops.
const (
	// Connect: the Session of Client has a Network Connection, with Expiry and
	// Will. Clean: what there was of it before is gone.
	Connect Kind = 1
	// Off: the connection of Client has ended at At. Its Will is due at WillAt, if
	// that is not zero, and the Session ends at EndsAt, if that is not zero.
	Off Kind = 2
	// End: the Session of Client has ended.
	End Kind = 3
	// Subscribe: Client has the subscription Subscription, in the place of one with
	// the same Topic Filter.
	Subscribe Kind = 4
	// Unsubscribe: Client has no subscription with the Topic Filter
	// Subscription.Filter any more.
	Unsubscribe Kind = 5
	// Message: Client has published Message. ID is not 0 if it is a QoS 2 message
	// whose Packet Identifier belongs to the Session State of Client.
	Message Kind = 6
	// Release: Client has sent PUBREL for ID.
	Release Kind = 7
	// Send: the message with the number Ref is under way to Client at QoS 2, as ID.
	// Share is the Topic Filter of the Shared Subscription by which it goes, or
	// empty. Delivery, if not nil, is the whole of it, for a message that no op
	// holds.
	Send Kind = 8
	// Receive: Client has sent PUBREC for ID; the message is its own from now on.
	Receive Kind = 9
	// WillDone: the Will of Client is not to be published any more, because it has
	// been, by the op before in the same record.
	WillDone Kind = 10
	// Complete: Client has sent PUBCOMP for ID, or the delivery under way as ID has
	// ended in another way.
	Complete Kind = 11
	// Return: the message of a Send has not been sent to Client, whose Session has
	// ended before; the Shared Subscription Share owes it to somebody again. The other
	// fields are those of the Send, with the whole Delivery.
	Return Kind = 12
	// kindMax is the highest kind known.
	kindMax = Return
)

var kindNames = [...]string{
	Connect: "connect", Off: "off", End: "end", Subscribe: "subscribe", Unsubscribe: "unsubscribe",
	Message: "message", Release: "release", Send: "send", Receive: "receive", WillDone: "will done",
	Complete: "complete", Return: "return",
}

// String names the kind: "will done".
func (k Kind) String() string {
	if k == 0 || k > kindMax {
		return fmt.Sprintf("unknown kind %d", byte(k))
	}
	return kindNames[k]
}

// Op is one thing that must survive. Which fields count depends on Kind.
type Op struct {
	Kind Kind
	// Number of the op in its journal: dense, from 1. It is not part of the op's
	// bytes: it follows from the record and the op's place in it.
	Number uint64

	Client mqtt.ClientID
	ID     mqtt.PacketID // Message, Release, Send, Receive, Complete, Return

	Clean  bool   // Connect
	Owner  string // Connect: whose Session it is, in the broker's words; empty: nobody's
	Expiry uint32 // Connect: Session Expiry Interval in seconds
	Will   *Will  // Connect; nil: none

	At     time.Time // Off
	WillAt time.Time // Off
	EndsAt time.Time // Off

	Subscription Subscription // Subscribe; Unsubscribe: Filter only

	Message *mqtt.Message // Message

	Ref      uint64    // Send, Return
	Share    string    // Send, Return
	Delivery *Delivery // Send, where it may be nil; Return
}

// Will is a Will Message with what its publication needs.
type Will struct {
	Message   mqtt.Message // without Received and Expires
	HasExpiry bool
	Expiry    uint32 // Message Expiry Interval, seconds
	Delay     uint32 // Will Delay Interval, seconds
}

// Subscription is a Topic Filter with its options, as SUBSCRIBE gave them.
type Subscription struct {
	Filter            string // with $share/<ShareName>/
	QoS               mqtt.QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
	ID                uint32 // Subscription Identifier; 0: none
}

// Delivery is a message that waits for, or is under way to, one Client.
type Delivery struct {
	Number  uint64 // of the Message op; 0: none
	Message *mqtt.Message
	QoS     mqtt.QoS
	Retain  bool
	IDs     []uint32 // Subscription Identifiers
	Share   string   // Topic Filter of the Shared Subscription; empty: not shared
}

// Header is what a record says of itself.
type Header struct {
	Time  time.Time // of the node's clock
	Epoch uint64    // how many times the node has started
	First uint64    // the number of its first op
	Count uint32    // of its ops
}

// Session is the Session State of a Client as a checkpoint keeps it.
type Session struct {
	Client mqtt.ClientID
	Upto   uint64 // ops up to this number have been taken into account
	Expiry uint32 // Session Expiry Interval, seconds
	Online bool   // has a Network Connection; then the two times below are zero
	WillAt time.Time
	EndsAt time.Time
	Will   *Will

	Subscriptions []Subscription
	Taken         []mqtt.PacketID // QoS 2 messages accepted from the Client and not released
	NextID        uint64          // from which the next Packet Identifier follows
	Flight        []InFlight      // in the order of sending
	Queue         []Delivery      // what waits, in order, before the chunks
	FirstChunk    uint64          // chunks FirstChunk to NextChunk-1 hold what waits after Queue
	NextChunk     uint64
	Spilled       uint64     // messages in the chunks
	SpilledBytes  uint64     // their size as limits count it
	Tail          []Delivery // what waits after the chunks

	// Doubtful are those of Taken whose message may have been refused: the node went
	// down right after it was written.
	Doubtful []mqtt.PacketID
	Owed     []Owed
	Owner    string // whose Session it is, in the broker's words; empty: nobody's
}

// Owed are the Retained Messages that a new subscription is still to be sent, in the
// order of their ops.
type Owed struct {
	Subscription Subscription
	UpTo         uint64 // those of later ops have come live
	From         uint64 // those up to this op have been sent
	Sent         uint64 // those that go at QoS 2 have been sent up to this op
}

// InFlight is a message under way to the Client.
type InFlight struct {
	Seq      uint64 // its place in the order of Packet Identifiers, from which its own follows
	Released bool   // PUBREC has come: only PUBREL is owed, and Delivery is empty
	Delivery Delivery
}

// Chunk is a run of deliveries that wait on disk for one Session or one Shared
// Subscription.
type Chunk struct {
	Deliveries []Delivery
}

// Retained is a Retained Message as a checkpoint keeps it.
type Retained struct {
	Number  uint64 // of the Message op that set it
	Message *mqtt.Message
}

// Error says that bytes are not what this package writes.
type Error struct {
	What string // what was found and what was expected
	At   int    // offset in the value
}

// Error reads like "byte 41: QoS 3: expected 0 to 2".
func (e *Error) Error() string { return fmt.Sprintf("byte %d: %s", e.At, e.What) }

// ErrNewer says that the bytes are whole and in a version of the format that this
// program does not know. It is no [Error]: nothing is damaged.
var ErrNewer = errors.New("written by a newer version of the program")
