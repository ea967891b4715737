package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// subscriber reads messages, acknowledges them and keeps book.
type subscriber struct {
	*link
	l          *load
	from       []*publisher
	books      []book // by publisher
	latency    histogram
	duplicates uint64
	disordered uint64
}

func (l *load) subscriber(ctx context.Context, i int) (*subscriber, error) {
	c, err := l.dial(ctx, i, l.durable())
	if err != nil {
		return nil, err
	}
	if err := c.subscribe(l.topicOf(i), mqtt.QoS(l.qos)); err != nil {
		c.Close()
		return nil, err
	}
	books := l.shape.pubs
	if l.name == "pairs" {
		books = 1
	}
	s := &subscriber{link: c, l: l, books: make([]book, books)}
	for i := range s.books {
		s.books[i].recall = l.recall()
	}
	return s, nil
}

// recallMin is how many of a publisher's latest messages a subscriber remembers
// at least.
const recallMin = 1 << 16

// recall is how many of a publisher's latest messages are remembered: a queue
// that was long may come back in any order.
func (l *load) recall() uint32 {
	n := uint32(recallMin)
	for l.name == "offline" && n < l.limitOf(0) {
		n *= 2
	}
	return n
}

func (s *subscriber) close() {
	if s != nil && s.link != nil {
		s.Close()
	}
}

// book finds the book of the publisher with the index.
func (s *subscriber) book(index uint32) *book {
	if len(s.books) == 1 {
		return &s.books[0]
	}
	if int(index) < len(s.books) {
		return &s.books[index]
	}
	return nil
}

// progress is how many messages of p have come.
func (s *subscriber) progress(p *publisher) uint32 { return s.book(p.index).seen.Load() }

func (s *subscriber) run() {
	for s.packets() { // some may have come with the acknowledgement of CONNECT
		if len(s.out) > 0 {
			if _, err := s.Write(s.out); err != nil {
				break
			}
			s.out = s.out[:0]
		}
		for _, p := range s.from {
			p.nudge()
		}
		if n, err := s.reader.Fill(s.Conn); n == 0 || err != nil {
			break
		}
	}
	if !s.l.over.Load() {
		s.l.broken.Add(1)
	}
}

// packets takes what has come. False: the connection is over.
func (s *subscriber) packets() bool {
	now := time.Since(s.l.begin)
	n := uint64(0)
	for {
		q, err := s.reader.Next()
		if err != nil {
			if n > 0 {
				s.l.last.Store(int64(now))
				s.l.received.Add(n)
			}
			return errors.Is(err, packet.ErrMore)
		}
		switch q := q.(type) {
		case *packet.Publish:
			if s.take(q, now) {
				n++
			}
		case *packet.Pubrel:
			s.out = packet.AppendAck(s.out, s.reader.Version, packet.PUBCOMP, q.ID, mqtt.Success)
		case *packet.Disconnect:
			return false
		}
	}
}

// take keeps book of a message and acknowledges it. It reports whether it is a
// new one.
func (s *subscriber) take(q *packet.Publish, now time.Duration) bool {
	switch q.QoS {
	case mqtt.QoS1:
		s.out = packet.AppendAck(s.out, s.reader.Version, packet.PUBACK, q.ID, mqtt.Success)
	case mqtt.QoS2:
		s.out = packet.AppendAck(s.out, s.reader.Version, packet.PUBREC, q.ID, mqtt.Success)
	}
	if len(q.Payload) < sizeMin-4 {
		return false // not ours
	}
	b := s.book(binary.BigEndian.Uint32(q.Payload))
	if b == nil {
		return false
	}
	s.latency.add(now - time.Duration(binary.BigEndian.Uint64(q.Payload[8:])))
	fresh, late := b.note(binary.BigEndian.Uint32(q.Payload[4:]))
	if !fresh {
		s.duplicates++
	} else if late {
		s.disordered++
	}
	return fresh
}

// book is what a subscriber knows of one publisher.
type book struct {
	recall uint32        // how many of the latest messages are remembered; a power of two, 64 at least
	next   uint32        // the number after the highest that has come
	seen   atomic.Uint32 // next, for the publisher
	bits   []uint64      // which of the latest numbers have come
}

// note remembers that the message has come: was it the first time, and did a
// later one come before?
func (b *book) note(seq uint32) (fresh, late bool) {
	if b.bits == nil {
		b.bits = make([]uint64, b.recall/64)
	}
	if seq < b.next {
		if b.next-seq > b.recall {
			return true, true // too long ago to know
		}
		fresh = b.bits[seq%b.recall/64]&(1<<(seq%64)) == 0
		b.bits[seq%b.recall/64] |= 1 << (seq % 64)
		return fresh, true
	}
	for ; b.next < seq; b.next++ {
		b.bits[b.next%b.recall/64] &^= 1 << (b.next % 64)
	}
	b.bits[seq%b.recall/64] |= 1 << (seq % 64)
	b.next++
	b.seen.Store(b.next)
	return true, false
}
