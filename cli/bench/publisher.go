package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// publisher writes as many messages as its window allows and reads their
// acknowledgements.
type publisher struct {
	*link
	l        *load
	index    uint32
	topic    []byte
	audience []*subscriber
	seq      uint32 // of the next message
	limit    uint32 // seq where it ends
	window   int
	flight   flight
	payload  []byte
	woken    chan struct{} // a subscriber has got on
	next     time.Time     // with --rate: of the next message

	acksAfter histogram
}

func (l *load) publisher(ctx context.Context, i int) (*publisher, error) {
	c, err := l.dial(ctx, l.shape.subs+i, false)
	if err != nil {
		return nil, err
	}
	p := &publisher{
		link: c, l: l, index: uint32(i), topic: []byte(l.topicOf(i)), payload: make([]byte, l.size), woken: make(chan struct{}, 1),
		window: l.window, limit: l.limitOf(i),
	}
	if l.qos > 0 {
		p.window = min(l.window, c.receiveMaximum) // [MQTT-3.3.4-9]
		p.flight = newFlight(p.window)
	}
	binary.BigEndian.PutUint32(p.payload, p.index)
	return p, nil
}

// topicOf is the topic of publisher, or subscriber, i. It is this run's alone: a
// broker may still be busy with those of the last one.
func (l *load) topicOf(i int) string {
	if l.name != "pairs" {
		i = 0
	}
	who, _ := l.loginOf(i)
	return fmt.Sprintf("%s/%08x/%d", strings.ReplaceAll(l.topic, userVariable, who.user), l.runID, i)
}

// limitOf is how many of --count messages are those of publisher i.
func (l *load) limitOf(i int) uint32 {
	if l.count == 0 {
		return countMax
	}
	n := l.count / l.shape.pubs
	if i < l.count%l.shape.pubs {
		n++
	}
	return uint32(n)
}

func (p *publisher) close() {
	if p != nil {
		p.Close()
	}
}

// nudge wakes a publisher that waits for its audience.
func (p *publisher) nudge() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// batchMax is how many messages go in one write.
const batchMax = 64

func (p *publisher) run() {
	for !p.finished() || p.flight.n > 0 {
		p.fill()
		if len(p.out) > 0 {
			if _, err := p.Write(p.out); err != nil {
				p.l.broken.Add(1)
				return
			}
			p.out = p.out[:0]
		}
		if !p.wait() {
			return
		}
	}
}

// finished reports whether nothing more is to be sent.
func (p *publisher) finished() bool { return p.seq == p.limit || p.l.stop.Load() }

// fill appends the messages that may go now.
func (p *publisher) fill() {
	now := time.Now()
	for n := 0; n < batchMax && !p.finished() && p.room() && p.due(now); n++ {
		p.append(now)
	}
}

// room reports whether one more message may be under way.
func (p *publisher) room() bool {
	if p.l.qos > 0 {
		return p.flight.n < p.window
	}
	for _, s := range p.audience {
		if int(p.seq)-int(s.progress(p)) >= p.window {
			return false
		}
	}
	return true
}

// due reports whether the rate allows a message at the time now.
func (p *publisher) due(now time.Time) bool {
	if p.l.rate == 0 {
		return true
	}
	if p.next.IsZero() { // publishers begin spread over one interval
		p.next = now.Add(p.interval() * time.Duration(p.index) / time.Duration(p.l.shape.pubs))
	}
	if now.Before(p.next) {
		return false
	}
	p.next = p.next.Add(p.interval())
	return true
}

func (p *publisher) interval() time.Duration {
	return time.Second * time.Duration(p.l.shape.pubs) / time.Duration(p.l.rate)
}

func (p *publisher) append(now time.Time) {
	at := now.Sub(p.l.begin)
	binary.BigEndian.PutUint32(p.payload[4:], p.seq)
	binary.BigEndian.PutUint64(p.payload[8:], uint64(at))
	m := packet.Publish{QoS: mqtt.QoS(p.l.qos), Topic: p.topic, Payload: p.payload}
	if p.l.qos > 0 {
		m.ID = p.flight.begin(at)
	} else {
		p.l.accepted.Add(1)
	}
	p.out = packet.AppendPublish(p.out, p.reader.Version, &m)
	p.seq++
	p.l.sent.Add(1)
}

// readMin is how long a publisher that is behind its rate looks for
// acknowledgements.
const readMin = 100 * time.Microsecond

// wait waits for what lets the next message go: an acknowledgement, the audience
// or the time. False: the connection is over.
func (p *publisher) wait() bool {
	if p.l.qos == 0 {
		return p.waitForAudience()
	}
	switch {
	case p.finished(), p.l.rate > 0 && !p.room():
		p.SetReadDeadline(time.Now().Add(drainTime))
	case p.l.rate > 0 && p.flight.n == 0:
		time.Sleep(time.Until(p.next))
		return true
	case p.l.rate > 0: // with a deadline in the past nothing would be read at all
		p.SetReadDeadline(time.Now().Add(max(time.Until(p.next), readMin)))
	}
	_, err := p.reader.Fill(p.Conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return !p.finished()
	}
	if err != nil {
		p.l.broken.Add(1)
		return false
	}
	return p.acks()
}

func (p *publisher) waitForAudience() bool {
	if p.room() && p.l.rate == 0 {
		return true
	}
	timer := time.NewTimer(100 * time.Millisecond)
	if p.l.rate > 0 {
		timer.Reset(max(time.Until(p.next), 0))
	}
	defer timer.Stop()
	select {
	case <-p.woken:
	case <-timer.C:
	}
	return true
}

// acks takes the acknowledgements that have come.
func (p *publisher) acks() bool {
	now := time.Since(p.l.begin)
	for {
		q, err := p.reader.Next()
		if errors.Is(err, packet.ErrMore) {
			p.l.lastAck.Store(int64(now))
			return true
		}
		if err != nil {
			p.l.broken.Add(1)
			return false
		}
		switch q := q.(type) {
		case *packet.Puback:
			p.done(q.ID, q.Reason, now)
		case *packet.Pubcomp:
			p.done(q.ID, mqtt.Success, now)
		case *packet.Pubrec:
			if q.Reason.Failed() {
				p.done(q.ID, q.Reason, now)
			} else {
				p.out = packet.AppendAck(p.out, p.reader.Version, packet.PUBREL, q.ID, mqtt.Success)
			}
		case *packet.Disconnect:
			p.l.broken.Add(1)
			return false
		}
	}
}

func (p *publisher) done(id mqtt.PacketID, r mqtt.ReasonCode, now time.Duration) {
	sent, ok := p.flight.end(id)
	if !ok {
		return // acknowledged before, or never sent
	}
	p.acksAfter.add(now - sent)
	if r.Failed() {
		p.l.refused.Add(1)
		return
	}
	p.l.accepted.Add(1)
}

// flight is the messages under way: each has a Packet Identifier that no other
// has, and the time when it was sent.
type flight struct {
	n    int             // how many
	free []mqtt.PacketID // a ring: the next to be given away stands at head
	head int
	sent []time.Duration // by Packet Identifier less 1; negative: not under way
}

// newFlight has room for so many messages.
func newFlight(window int) flight {
	f := flight{free: make([]mqtt.PacketID, window), sent: make([]time.Duration, window)}
	for i := range f.free {
		f.free[i], f.sent[i] = mqtt.PacketID(i+1), -1
	}
	return f
}

// begin takes a message in, for which there must be room, and returns its Packet
// Identifier.
func (f *flight) begin(at time.Duration) mqtt.PacketID {
	id := f.free[f.head]
	f.head = (f.head + 1) % len(f.free)
	f.sent[id-1] = at
	f.n++
	return id
}

// end takes the message out and says when it was sent; false: there is none.
func (f *flight) end(id mqtt.PacketID) (sent time.Duration, ok bool) {
	if id == 0 || int(id) > len(f.sent) || f.sent[id-1] < 0 {
		return 0, false
	}
	sent = f.sent[id-1]
	f.sent[id-1] = -1
	f.free[(f.head+len(f.free)-f.n)%len(f.free)] = id
	f.n--
	return sent, true
}
