package session

import "fairlead/mqtt"

// queue is a first in, first out ring of deliveries. It takes memory as it
// grows and gives most of it back when it is empty.
type queue struct {
	ring []Delivery // length 0 or a power of two
	head uint64
	tail uint64
}

func (q *queue) len() int { return int(q.tail - q.head) }

func (q *queue) push(d Delivery) {
	if q.len() == len(q.ring) {
		q.ring = grown(q.ring, q.head, q.tail)
	}
	q.ring[q.tail&uint64(len(q.ring)-1)] = d
	q.tail++
}

func (q *queue) pop() Delivery {
	at := &q.ring[q.head&uint64(len(q.ring)-1)]
	d := *at
	*at = Delivery{}
	q.head++
	if q.head == q.tail && len(q.ring) > ringKeep {
		q.ring = nil
	}
	return d
}

// at is the i-th element from the front.
func (q *queue) at(i int) *Delivery { return &q.ring[(q.head+uint64(i))&uint64(len(q.ring)-1)] }

// cut takes the i-th element out; those before it move up.
func (q *queue) cut(i int) Delivery {
	d := *q.at(i)
	for ; i > 0; i-- {
		*q.at(i) = *q.at(i - 1)
	}
	q.pop()
	return d
}

// ringMin is the first size of a ring.
const ringMin = 8

// grown returns a ring of twice the size in which each element from head to
// tail has its place.
func grown[T any](ring []T, head, tail uint64) []T {
	bigger := make([]T, max(2*len(ring), ringMin))
	for seq := head; seq != tail; seq++ {
		bigger[seq&uint64(len(bigger)-1)] = ring[seq&uint64(len(ring)-1)]
	}
	return bigger
}

// flight is the window of messages under way. Packet Identifiers are taken in
// turn, so a message is found by its place and the window is in the order of
// sending. It spans at most 65,535 identifiers: one that the Client never
// acknowledges stops the window when all others have been used.
type flight struct {
	ring []inFlight // length 0 or a power of two
	head uint64     // the oldest message
	tail uint64     // the number of the next one
	n    int        // messages between head and tail; the others are done
}

type inFlight struct {
	Delivery
	state state
}

type state byte

const (
	done      state = iota // acknowledged, or never used
	sent                   // PUBLISH sent
	released               // PUBREC received, PUBREL sent
	marking                // PUBLISH must wait until it is on record that it is under way
	marked                 // on record, and to be sent for the first time
	releasing              // PUBREC received; PUBREL must wait until that is on record
)

// ids is how many Packet Identifiers there are: 1 to 65,535.
const ids = 65535

func packetID(seq uint64) mqtt.PacketID { return mqtt.PacketID(seq%ids + 1) }

func (f *flight) full() bool { return f.tail-f.head >= ids }

func (f *flight) at(seq uint64) *inFlight { return &f.ring[seq&uint64(len(f.ring)-1)] }

func (f *flight) push(d Delivery, st state) mqtt.PacketID {
	if f.tail-f.head == uint64(len(f.ring)) {
		f.ring = grown(f.ring, f.head, f.tail)
	}
	*f.at(f.tail) = inFlight{Delivery: d, state: st}
	f.n++
	f.tail++
	return packetID(f.tail - 1)
}

// find returns the message under way with the identifier, or nil.
func (f *flight) find(id mqtt.PacketID) (uint64, *inFlight) {
	if id == 0 {
		return 0, nil
	}
	ahead := (uint64(id) - 1 + ids - f.head%ids) % ids
	seq := f.head + ahead
	if seq >= f.tail {
		return 0, nil
	}
	if e := f.at(seq); e.state != done {
		return seq, e
	}
	return 0, nil
}

func (f *flight) remove(seq uint64) {
	*f.at(seq) = inFlight{}
	f.n--
	for f.head != f.tail && f.at(f.head).state == done {
		f.head++
	}
	if f.head == f.tail && len(f.ring) > ringKeep {
		f.ring = nil
	}
}

// ringKeep is the largest ring that is kept while it is empty: most Clients have
// a few messages waiting and under way, again and again.
const ringKeep = 64
