package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/client"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// load is one run of a scenario.
type load struct {
	*settings
	options client.Options
	result  *result
	bar     *bar

	begin    time.Time
	stop     atomic.Bool // publishers stop
	over     atomic.Bool // subscribers do, too
	accepted atomic.Uint64
	sent     atomic.Uint64
	refused  atomic.Uint64
	received atomic.Uint64
	broken   atomic.Uint64
	last     atomic.Int64 // when the latest message arrived, in nanoseconds after begin
}

// link is one connection, without a goroutine of its own: the bench's clients
// write many packets at once and read many at once.
type link struct {
	net.Conn
	reader packet.Reader
	out    []byte
}

// dial connects the client with the number n.
func (l *load) dial(ctx context.Context, n int) (*link, error) {
	timeout := l.options.ConnectTimeout
	if timeout <= 0 {
		timeout = client.ConnectTimeoutDefault
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	nc, err := client.DialTransport(ctx, l.options.URL, l.options.TLS)
	if err != nil {
		return nil, err
	}
	c := &link{Conn: nc}
	c.reader.Version = l.version()
	deadline, _ := ctx.Deadline()
	nc.SetDeadline(deadline)
	connect := &packet.Connect{
		Version: l.version(), CleanStart: true, ClientID: fmt.Sprintf("b%d-%d", os.Getpid(), n),
		HasUser: l.options.User != "", User: l.options.User,
		HasPassword: l.options.Password != nil, Password: l.options.Password,
	}
	if err := c.ask(connect); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nc.SetDeadline(time.Time{})
}

// ask sends a packet and reads the answer, which must not be a failure.
func (c *link) ask(p packet.Packet) error {
	b, err := packet.Append(nil, c.reader.Version, p)
	if err != nil {
		return err
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	for {
		answer, err := c.reader.Next()
		if errors.Is(err, packet.ErrMore) {
			if _, err := c.reader.Fill(c.Conn); err != nil {
				return fmt.Errorf("wait for the answer to %s: %w", p.Type(), err)
			}
			continue
		}
		if err != nil {
			return err
		}
		switch a := answer.(type) {
		case *packet.Connack:
			if a.Reason.Failed() {
				return &client.ReasonError{Packet: packet.CONNACK, Code: a.Reason}
			}
			return nil
		case *packet.Suback:
			for _, r := range a.Reasons {
				if r.Failed() {
					return &client.ReasonError{Packet: packet.SUBACK, Code: r}
				}
			}
			return nil
		}
	}
}

// each runs f for 0 to n-1, a hundred at a time, and returns the first error.
func each(n int, f func(i int) error) error {
	var wg sync.WaitGroup
	var first atomic.Pointer[error]
	slots := make(chan struct{}, 100)
	for i := 0; i < n && first.Load() == nil; i++ {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(i); err != nil {
				first.CompareAndSwap(nil, &err)
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}

// messages runs the scenarios that publish and subscribe.
func (l *load) messages(ctx context.Context) error {
	subs, pubs := make([]*subscriber, l.shape.subs), make([]*publisher, l.shape.pubs)
	defer func() {
		for _, s := range subs {
			s.close()
		}
		for _, p := range pubs {
			p.close()
		}
	}()
	err := each(len(subs), func(i int) (err error) {
		subs[i], err = l.subscriber(ctx, i)
		return err
	})
	if err == nil {
		err = each(len(pubs), func(i int) (err error) {
			pubs[i], err = l.publisher(ctx, i)
			return err
		})
	}
	if err != nil {
		return err
	}
	l.result.Connected = len(subs) + len(pubs)
	for i, p := range pubs {
		p.audience = subs
		if l.name == "pairs" {
			p.audience = subs[i : i+1]
		}
	}
	for i, s := range subs {
		s.from = pubs
		if l.name == "pairs" {
			s.from = pubs[i : i+1]
		}
	}
	return l.drive(ctx, pubs, subs)
}

// drive lets the clients run for the time that was asked for, and then until all
// that was accepted has arrived or nothing arrives any more.
func (l *load) drive(ctx context.Context, pubs []*publisher, subs []*subscriber) error {
	l.begin = time.Now()
	l.bar.run(l.received.Load)
	var reading, writing sync.WaitGroup
	for _, s := range subs {
		reading.Go(func() { s.run() }) // ends when its connection is closed
	}
	for _, p := range pubs {
		writing.Go(func() { p.run() }) // ends with stop, and its acknowledgements
	}
	select {
	case <-time.After(l.duration):
	case <-ctx.Done():
	}
	l.stop.Store(true)
	for _, p := range pubs {
		p.nudge()
		p.SetReadDeadline(time.Now().Add(drainTime))
	}
	writing.Wait()
	expected := l.accepted.Load() * uint64(len(subs)) / uint64(max(1, l.audiences()))
	l.drain(ctx, expected)
	l.over.Store(true)
	for _, s := range subs {
		s.Close()
	}
	reading.Wait()
	l.sum(subs, expected)
	return nil
}

// audiences is among how many the subscribers of the scenario are split.
func (l *load) audiences() int {
	if l.name == "pairs" {
		return l.shape.subs
	}
	return 1
}

// drainTime is how long nothing may arrive before the bench gives up.
const drainTime = 3 * time.Second

func (l *load) drain(ctx context.Context, expected uint64) {
	before, at := l.received.Load(), time.Now()
	for l.received.Load() < expected && time.Since(at) < drainTime && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
		if now := l.received.Load(); now != before {
			before, at = now, time.Now()
		}
	}
}

func (l *load) sum(subs []*subscriber, expected uint64) {
	r := l.result
	var all histogram
	for _, s := range subs {
		all.merge(&s.latency)
		r.Duplicates += s.duplicates
		r.Disordered += s.disordered
	}
	r.Sent, r.Accepted, r.Refused, r.Received = l.sent.Load(), l.accepted.Load(), l.refused.Load(), l.received.Load()
	r.Broken = l.broken.Load()
	if r.Received < expected {
		r.Lost = expected - r.Received
	}
	r.Seconds = time.Duration(l.last.Load()).Seconds()
	if r.Seconds > 0 {
		r.Rate = float64(r.Received) / r.Seconds
	}
	r.Latency = all.quantiles()
}

// publisher writes as many messages as its window allows and reads their
// acknowledgements.
type publisher struct {
	*link
	l        *load
	index    uint32
	topic    []byte
	audience []*subscriber
	seq      uint32 // of the next message
	inFlight int
	payload  []byte
	woken    chan struct{} // a subscriber has got on
	next     time.Time     // with --rate: of the next message
}

func (l *load) publisher(ctx context.Context, i int) (*publisher, error) {
	c, err := l.dial(ctx, l.shape.subs+i)
	if err != nil {
		return nil, err
	}
	name := l.topic + "/0"
	if l.name == "pairs" {
		name = l.topic + "/" + strconv.Itoa(i)
	}
	p := &publisher{link: c, l: l, index: uint32(i), topic: []byte(name), payload: make([]byte, l.size), woken: make(chan struct{}, 1)}
	binary.BigEndian.PutUint32(p.payload, p.index)
	return p, nil
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
	for !p.l.stop.Load() || p.inFlight > 0 {
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

// fill appends the messages that may go now.
func (p *publisher) fill() {
	if p.l.stop.Load() {
		return
	}
	now := time.Now()
	for n := 0; n < batchMax && p.room() && p.due(now); n++ {
		p.append(now)
	}
}

// room reports whether one more message may be under way.
func (p *publisher) room() bool {
	if p.l.qos > 0 {
		return p.inFlight < p.l.window
	}
	for _, s := range p.audience {
		if int(p.seq)-int(s.progress(p)) >= p.l.window {
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
	binary.BigEndian.PutUint32(p.payload[4:], p.seq)
	binary.BigEndian.PutUint64(p.payload[8:], uint64(now.Sub(p.l.begin)))
	m := packet.Publish{QoS: mqtt.QoS(p.l.qos), Topic: p.topic, Payload: p.payload}
	if p.l.qos > 0 {
		m.ID = mqtt.PacketID(p.seq%65535 + 1)
		p.inFlight++
	} else {
		p.l.accepted.Add(1)
	}
	p.out = packet.AppendPublish(p.out, p.reader.Version, &m)
	p.seq++
	p.l.sent.Add(1)
}

// wait waits for what lets the next message go: an acknowledgement, the audience
// or the time. False: the connection is over.
func (p *publisher) wait() bool {
	if p.l.qos == 0 {
		return p.waitForAudience()
	}
	if p.l.rate > 0 && !p.l.stop.Load() {
		if p.inFlight == 0 {
			time.Sleep(time.Until(p.next))
			return true
		}
		p.SetReadDeadline(p.next)
	}
	_, err := p.reader.Fill(p.Conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return !p.l.stop.Load()
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
	for {
		q, err := p.reader.Next()
		if errors.Is(err, packet.ErrMore) {
			return true
		}
		if err != nil {
			p.l.broken.Add(1)
			return false
		}
		switch q := q.(type) {
		case *packet.Puback:
			p.done(q.Reason)
		case *packet.Pubcomp:
			p.done(mqtt.Success)
		case *packet.Pubrec:
			if q.Reason.Failed() {
				p.done(q.Reason)
			} else {
				p.out = packet.AppendAck(p.out, p.reader.Version, packet.PUBREL, q.ID, mqtt.Success)
			}
		case *packet.Disconnect:
			p.l.broken.Add(1)
			return false
		}
	}
}

func (p *publisher) done(r mqtt.ReasonCode) {
	p.inFlight--
	if r.Failed() {
		p.l.refused.Add(1)
		return
	}
	p.l.accepted.Add(1)
}

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

// book is what a subscriber knows of one publisher.
type book struct {
	next uint32        // the number after the highest that has come
	seen atomic.Uint32 // next, for the publisher
	bits []uint64      // which of the latest numbers have come
}

// recall is how many of the latest messages a book remembers.
const recall = 1 << 16

func (l *load) subscriber(ctx context.Context, i int) (*subscriber, error) {
	c, err := l.dial(ctx, i)
	if err != nil {
		return nil, err
	}
	filter := l.topic + "/0"
	books := l.shape.pubs
	if l.name == "pairs" {
		filter, books = l.topic+"/"+strconv.Itoa(i), 1
	}
	err = c.ask(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: filter, QoS: mqtt.QoS(l.qos)}}})
	if err != nil {
		c.Close()
		return nil, err
	}
	return &subscriber{link: c, l: l, books: make([]book, books)}, nil
}

func (s *subscriber) close() {
	if s != nil {
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
	for {
		if n, err := s.reader.Fill(s.Conn); n == 0 || err != nil {
			if !s.l.over.Load() {
				s.l.broken.Add(1)
			}
			return
		}
		if !s.packets() {
			s.l.broken.Add(1)
			return
		}
		if len(s.out) > 0 {
			if _, err := s.Write(s.out); err != nil {
				return
			}
			s.out = s.out[:0]
		}
		for _, p := range s.from {
			p.nudge()
		}
	}
}

func (s *subscriber) packets() bool {
	now := time.Since(s.l.begin)
	n := uint64(0)
	for {
		q, err := s.reader.Next()
		if err != nil {
			s.l.received.Add(n)
			if n > 0 {
				s.l.last.Store(int64(now))
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

// note remembers that the message has come: was it the first time, and did a
// later one come before?
func (b *book) note(seq uint32) (fresh, late bool) {
	if b.bits == nil {
		b.bits = make([]uint64, recall/64)
	}
	if seq < b.next {
		if b.next-seq > recall {
			return true, true // too long ago to know
		}
		fresh = b.bits[seq%recall/64]&(1<<(seq%64)) == 0
		b.bits[seq%recall/64] |= 1 << (seq % 64)
		return fresh, true
	}
	for ; b.next < seq; b.next++ {
		b.bits[b.next%recall/64] &^= 1 << (b.next % 64)
	}
	b.bits[seq%recall/64] |= 1 << (seq % 64)
	b.next++
	b.seen.Store(b.next)
	return true, false
}

// connects runs the scenario connect.
func (l *load) connects(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.duration)
	defer cancel()
	l.begin = time.Now()
	l.bar.run(l.received.Load)
	goodbye, _ := packet.Append(nil, l.version(), &packet.Disconnect{})
	histograms := make([]histogram, l.shape.pubs)
	var wg sync.WaitGroup
	var first atomic.Pointer[error]
	for i := range l.shape.pubs {
		wg.Go(func() { // ends with ctx
			for ctx.Err() == nil {
				before := time.Now()
				c, err := l.dial(ctx, i)
				if err != nil {
					if ctx.Err() == nil {
						l.broken.Add(1)
						first.CompareAndSwap(nil, &err)
					}
					continue
				}
				histograms[i].add(time.Since(before))
				l.received.Add(1)
				c.Write(goodbye)
				c.part()
			}
		})
	}
	wg.Wait()
	var all histogram
	for i := range histograms {
		all.merge(&histograms[i])
	}
	r := l.result
	r.Seconds, r.Connected, r.Broken = time.Since(l.begin).Seconds(), int(l.received.Load()), l.broken.Load()
	r.Rate = float64(r.Connected) / r.Seconds
	r.Latency = all.quantiles()
	if err := first.Load(); r.Connected == 0 && err != nil {
		return *err
	}
	return nil
}

// part waits until the broker has closed the connection, and gives its port back
// at once: thousands a second would use up all ports otherwise.
func (c *link) part() {
	c.SetReadDeadline(time.Now().Add(time.Second))
	c.Read(make([]byte, 1))
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// idle runs the scenario idle.
func (l *load) idle(ctx context.Context) error {
	links := make([]*link, l.shape.pubs)
	defer func() {
		for _, c := range links {
			if c != nil {
				c.Close()
			}
		}
	}()
	err := each(len(links), func(i int) (err error) {
		links[i], err = l.dial(ctx, i)
		return err
	})
	if err != nil {
		return err
	}
	l.begin = time.Now()
	l.bar.run(func() uint64 { return uint64(len(links)) })
	select {
	case <-time.After(l.duration):
	case <-ctx.Done():
	}
	ping, _ := packet.Append(nil, l.version(), &packet.Pingreq{})
	var alive atomic.Int64
	_ = each(len(links), func(i int) error { // who answers is still there
		c := links[i]
		c.SetDeadline(time.Now().Add(drainTime))
		if _, err := c.Write(ping); err != nil {
			return nil
		}
		if n, _ := c.Read(make([]byte, 2)); n == 2 {
			alive.Add(1)
		}
		return nil
	})
	r := l.result
	r.Seconds, r.Connected = time.Since(l.begin).Seconds(), len(links)
	r.Broken = uint64(len(links) - int(alive.Load()))
	return nil
}
