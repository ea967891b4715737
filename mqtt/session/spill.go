package session

import (
	"iter"

	"fairlead/mqtt"
)

// spill lets the middle of a queue be elsewhere, on a disk say: before it stands
// queue, behind it tail. The messages of Shared Subscriptions never go there,
// because others may want them.
//
//	flight | queue | away | tail
type spill struct {
	tail      queue
	away      int // messages that are elsewhere
	awayBytes int
	shares    int  // messages of Shared Subscriptions among those that wait
	leaving   bool // the first messages of tail are on their way elsewhere
}

// Away is how many messages are elsewhere, and their size in bytes.
func (o *Outbound) Away() (messages, bytes int) { return o.away, o.awayBytes }

// Leaving appends the next messages that may go elsewhere, of about the given
// size in bytes, to dst: those behind the first keep, in their order. Until
// [Outbound.Left] they stay where they are.
func (o *Outbound) Leaving(dst []Delivery, keep, bytes int) []Delivery {
	if o.leaving || o.shares > 0 {
		return dst
	}
	if o.away == 0 && o.tail.len() == 0 && o.queue.len() > keep {
		o.split(keep)
	}
	for i := 0; i < o.tail.len() && bytes > 0; i++ {
		d := *o.tail.at(i)
		dst = append(dst, d)
		bytes -= d.Message.Size()
	}
	o.leaving = o.tail.len() > 0
	return dst
}

// split makes what is behind the first keep messages of the queue the tail.
func (o *Outbound) split(keep int) {
	var first queue
	for range keep {
		first.push(o.queue.pop())
	}
	o.tail, o.queue = o.queue, first
}

// Left says that the first n messages that [Outbound.Leaving] gave are elsewhere;
// 0: they could not be brought there.
func (o *Outbound) Left(n int) {
	o.leaving = false
	for range n {
		d := o.tail.pop()
		o.away++
		o.awayBytes += d.Message.Size()
	}
}

// Wants reports whether messages that are elsewhere will soon be needed.
func (o *Outbound) Wants() bool { return o.away > 0 && o.queue.len() < wantsBelow && o.up }

// wantsBelow is how many messages are at hand when more are fetched: enough to
// keep a Client busy meanwhile.
const wantsBelow = 64

// Back brings messages from elsewhere, in their order.
func (o *Outbound) Back(ds []Delivery) {
	for _, d := range ds {
		o.queue.push(d)
		o.away--
		o.awayBytes -= d.Message.Size()
	}
}

// Forget gives up all messages that are elsewhere, because they can't be had, and
// returns how many that are.
func (o *Outbound) Forget() (n int) {
	n = o.away
	o.bytes -= o.awayBytes
	o.away, o.awayBytes = 0, 0
	return n
}

// bringTail makes the tail the queue once nothing is before it.
func (o *Outbound) bringTail() {
	if o.queue.len() == 0 && o.away == 0 && o.tail.len() > 0 && !o.leaving {
		o.queue, o.tail = o.tail, queue{}
	}
}

// DropOldest takes the message out that has waited longest of those that are
// here. False: none is.
func (o *Outbound) DropOldest() (d Delivery, ok bool) {
	o.bringTail()
	if o.queue.len() > 0 {
		return o.pop(), true
	}
	return d, false
}

// Held is a message under way, as [State.Restore] takes it and [Outbound.Flight]
// gives it.
type Held struct {
	Seq      uint64 // its place in the order of sending
	Released bool   // only a PUBREL is owed
	Delivery
}

// Flight yields what is under way and on record, in the order of sending. What is
// not on record yet comes as [Outbound.Unmarked].
func (o *Outbound) Flight() iter.Seq[Held] {
	return func(yield func(Held) bool) {
		for seq := o.flight.head; seq != o.flight.tail; seq++ {
			e := o.flight.at(seq)
			if e.state == done || e.state == marking {
				continue
			}
			h := Held{Seq: seq, Released: e.state == released || e.state == releasing, Delivery: e.Delivery}
			if !yield(h) {
				return
			}
		}
	}
}

// Unmarked yields the messages that wait for [Outbound.Marked], in order: for
// those who must not rely on it, they still wait in front of the queue.
func (o *Outbound) Unmarked() iter.Seq[Delivery] {
	return func(yield func(Delivery) bool) {
		for seq := o.flight.head; seq != o.flight.tail; seq++ {
			if e := o.flight.at(seq); e.state == marking && !yield(e.Delivery) {
				return
			}
		}
	}
}

// Waiting yields what waits before (tail false) or behind what is elsewhere.
func (o *Outbound) Waiting(tail bool) iter.Seq[Delivery] {
	q := &o.queue
	if tail {
		q = &o.tail
	}
	return func(yield func(Delivery) bool) {
		for i := range q.len() {
			if !yield(*q.at(i)) {
				return
			}
		}
	}
}

// NextSeq is the place in the order of sending that the next message will have.
func (o *Outbound) NextSeq() uint64 { return o.flight.tail }

// Past is what was of an Outbound before the broker was started.
type Past struct {
	NextSeq          uint64
	Flight           []Held
	Queue, Tail      []Delivery
	Away, AwayBytes  int
	TakenIdentifiers []mqtt.PacketID
	Doubtful         []mqtt.PacketID
}

// Restore puts the past of a Session into a State that has none.
func (s *State) Restore(p *Past) {
	o := &s.Outbound
	for _, d := range p.Queue {
		o.Queue(d)
	}
	o.away, o.awayBytes = p.Away, p.AwayBytes
	o.bytes += p.AwayBytes
	for _, d := range p.Tail {
		o.Queue(d)
	}
	for _, h := range p.Flight {
		o.restoreFlight(h)
	}
	if o.flight.n == 0 {
		o.flight.head, o.flight.tail = p.NextSeq, p.NextSeq
	} else if p.NextSeq-o.flight.head < ids {
		o.flight.skipTo(max(p.NextSeq, o.flight.tail))
	}
	o.resend = o.flight.tail
	for _, id := range p.TakenIdentifiers {
		s.Take(id)
	}
	for _, id := range p.Doubtful {
		s.Doubt(id)
	}
}

// restoreFlight puts a message into flight at its old place. One whose place is
// not ahead is left out.
func (o *Outbound) restoreFlight(h Held) bool {
	f := &o.flight
	if f.n == 0 {
		f.head, f.tail = h.Seq, h.Seq
	}
	if h.Seq < f.tail || h.Seq-f.head >= ids {
		return false
	}
	f.skipTo(h.Seq)
	f.push(h.Delivery, sent)
	if h.Released {
		e := f.at(h.Seq)
		e.Message, e.state = nil, released
	}
	o.resend = f.tail
	return true
}

// skipTo leaves places unused up to seq.
func (f *flight) skipTo(seq uint64) {
	for f.tail < seq {
		f.push(Delivery{}, done)
		f.n--
	}
}

// Resumed takes the message with the number ref, which waits, into flight with
// the Packet Identifier that it had before; d is used instead if its Message is
// not nil. False: no such message waits here, or the identifier is in use.
func (o *Outbound) Resumed(id mqtt.PacketID, ref uint64, d Delivery) bool {
	if id == 0 {
		return false
	}
	if seq, e := o.flight.find(id); e != nil {
		o.finish(seq) // its end was not on record
	}
	if d.Message == nil {
		i := 0
		for i < o.queue.len() && o.queue.at(i).Message.Number != ref {
			i++
		}
		if i == o.queue.len() {
			if o.away > 0 || o.tail.len() == 0 {
				return false
			}
			for o.tail.len() > 0 {
				o.queue.push(o.tail.pop())
			}
			return o.Resumed(id, ref, d)
		}
		d = o.queue.cut(i)
		o.bytes -= d.Message.Size()
		if d.shared() {
			o.shares--
		}
	}
	if o.flight.fill(id, d) {
		return true
	}
	next := o.flight.tail
	return o.restoreFlight(Held{Seq: next + (uint64(id)-1+ids-next%ids)%ids, Delivery: d})
}

// fill puts a message into the place within the window that its Packet Identifier
// had: those behind it may have been written down before it was on record. False:
// there is no such place.
func (f *flight) fill(id mqtt.PacketID, d Delivery) bool {
	seq := f.head + (uint64(id)-1+ids-f.head%ids)%ids
	if f.n == 0 || seq >= f.tail {
		return false
	}
	*f.at(seq) = inFlight{Delivery: d, state: sent}
	f.n++
	return true
}

// Cut takes the message with the number ref out of what waits here.
func (o *Outbound) Cut(ref uint64) (d Delivery, ok bool) {
	for _, q := range []*queue{&o.queue, &o.tail} {
		for i := range q.len() {
			if q.at(i).Message.Number == ref {
				d = q.cut(i)
				o.bytes -= d.Message.Size()
				if d.shared() {
					o.shares--
				}
				return d, true
			}
		}
	}
	return d, false
}
