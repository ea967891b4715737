package broker

import (
	"sync/atomic"

	"fairlead/mqtt"
	"fairlead/trace"
)

// Counters are what the broker counts, named as the steps of the path are. They
// only grow, but for those that say how many there are now.
type Counters struct {
	Accepted atomic.Uint64 // Network Connections
	Closed   atomic.Uint64

	ReadBytes        atomic.Uint64
	ReadPackets      atomic.Uint64
	PublishMessages  atomic.Uint64 // PUBLISH packets from Clients
	PublishBytes     atomic.Uint64 // their payloads
	SentMessages     atomic.Uint64 // PUBLISH packets to Clients
	SentPayloadBytes atomic.Uint64
	SentBytes        atomic.Uint64

	// Outcomes counts by what became of a message for one Session. Sent and
	// Queued are not counted here: see SentMessages and QueuedMessages.
	Outcomes [trace.Outcomes]atomic.Uint64

	Connected      atomic.Int64 // Clients now
	Sessions       atomic.Int64 // Sessions now, with or without a Client
	Subscriptions  atomic.Int64 // now
	QueuedMessages atomic.Int64 // waiting in all Sessions now

	Revoked              atomic.Uint64 // Clients sent away because they may not be connected any more
	RevokedSubscriptions atomic.Uint64 // ended because the Client may not have them any more
	Slowed               atomic.Uint64 // times that a Client had to wait for the rate of its policy

	endedFor   [256]atomic.Uint64 // connections that the broker ended, by Reason Code
	refusedFor [256]atomic.Uint64 // messages and subscriptions refused, by Reason Code
}

// EndedFor is how many connections the broker has ended for the reason r.
func (c *Counters) EndedFor(r mqtt.ReasonCode) uint64 { return c.endedFor[r].Load() }

// RefusedFor is how many messages and subscriptions were refused for the reason r.
func (c *Counters) RefusedFor(r mqtt.ReasonCode) uint64 { return c.refusedFor[r].Load() }

// Dropped is how many QoS 0, 1 and 2 messages some Session did not get.
func (c *Counters) Dropped() (n uint64) {
	for o := range c.Outcomes {
		if o := trace.Outcome(o); o.Dropped() && o != trace.DroppedAbsent {
			n += c.Outcomes[o].Load()
		}
	}
	return n
}

// count adds what a batch has counted.
func (c *Counters) count(t *tally) {
	add(&c.ReadBytes, t.bytes)
	add(&c.ReadPackets, t.packets)
	add(&c.PublishMessages, t.published)
	add(&c.PublishBytes, t.received)
	add(&c.SentMessages, t.sent)
	add(&c.SentPayloadBytes, t.sentBytes)
}

func add(c *atomic.Uint64, n int) {
	if n > 0 {
		c.Add(uint64(n))
	}
}
