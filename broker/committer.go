package broker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/policy"
	"fairlead/store"
)

// committer gathers the ops of all connections into records of the journal, one
// record for each time that the journal is made durable, and carries out what
// each op is about once that is done, in the order of the journal.
//
// Two goroutines work for it: run appends records, carryOut follows one record
// behind, so that the disk and the processor are busy at the same time. There is
// no timer: while one record is being written, the next one gathers.
type committer struct {
	broker  *Broker
	journal store.Journal
	epoch   uint64

	next    uint64 // number of the next op; owned by run
	applied atomic.Uint64
	place   atomic.Uint64 // of the last record that is carried out

	records chan *record
	free    chan *record
	wake    chan struct{} // something has been handed in
	ended   sync.WaitGroup

	mu      sync.Mutex    // guards the fields below
	tickets []*ticket     // handed in, not in a record yet
	marked  []*subscriber // with marks that are not in a record yet
	retryAt time.Time     // what nobody waits for is not tried again before
	failing error         // why the latest record could not be appended; nil: it was
	since   time.Time     // when failing began
	closed  bool
}

const (
	// recordOps and recordBytes bound a record, but for a single ticket.
	recordOps   = 1000
	recordBytes = 256 << 10
	// retryEvery is how long what nobody waits for waits after a failure.
	retryEvery = time.Second
)

// ticket is what one goroutine wants committed at a time.
type ticket struct {
	ops   []byte
	count int
	steps []step
	taken map[mqtt.PacketID]struct{} // QoS 2 messages among the steps
	open  int                        // QoS 1 and 2 messages among the steps
	done  chan error                 // nil: nobody waits
}

// step is something to be done once the record is durable: a message to deliver,
// or whatever apply does. A step without an op only keeps its place in the order.
type step struct {
	op       int // its first op's index in the ticket; -1: none
	message  *mqtt.Message
	route    *route
	from     *subscriber
	id       mqtt.PacketID
	qos      mqtt.QoS
	repeated bool           // PUBREC is all that is owed
	verdict  policy.Verdict // of a message that is refused
	reached  int            // how many Sessions have the message
	apply    func(number uint64)
	will     *subscriber // whose Will the message is, if the next op says so
}

// record is a record on its way.
type record struct {
	bytes   []byte
	ops     int
	first   uint64
	pos     store.Pos
	tickets []*ticket
	marks   []marks
}

var ticketPool = sync.Pool{New: func() any { return new(ticket) }}

// newTicket returns an empty ticket that somebody will wait for.
func newTicket() *ticket {
	t := ticketPool.Get().(*ticket)
	t.done = make(chan error, 1)
	return t
}

func (t *ticket) release() {
	if cap(t.ops) > bufferKeep {
		return
	}
	clear(t.steps)
	clear(t.taken)
	t.ops, t.count, t.open, t.steps = t.ops[:0], 0, 0, t.steps[:0]
	ticketPool.Put(t)
}

// add adds an op and returns its index.
func (t *ticket) add(op *journal.Op) int {
	t.ops = journal.AppendOp(t.ops, op)
	t.count++
	return t.count - 1
}

// take notes that the ticket holds a QoS 2 message with this Packet Identifier, has
// asks for it, and waiting says how many QoS 1 and 2 messages it holds. A nil ticket
// holds none.
func (t *ticket) take(id mqtt.PacketID) {
	if t.taken == nil {
		t.taken = make(map[mqtt.PacketID]struct{})
	}
	t.taken[id] = struct{}{}
}

func (t *ticket) has(id mqtt.PacketID) bool {
	_, ok := t.taken[id]
	return ok
}

func (t *ticket) waiting() int {
	if t == nil {
		return 0
	}
	return t.open
}

// full reports whether the ticket is as large as a record.
func (t *ticket) full() bool { return len(t.steps) >= recordOps || len(t.ops) >= recordBytes }

func newCommitter(b *Broker, j store.Journal) *committer {
	return &committer{
		broker: b, journal: j, next: 1,
		records: make(chan *record, 1), free: make(chan *record, 3), wake: make(chan struct{}, 1),
	}
}

func (c *committer) start() {
	c.ended.Go(c.run) // both end with stop
	c.ended.Go(c.carryOut)
}

// stop ends the committer when all that was handed in is done, or has failed.
func (c *committer) stop() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
	c.ended.Wait()
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// commit hands the ticket in and waits until its steps are done. With an error,
// none is. [MQTT-4.3.2-4] [MQTT-4.3.3-8]
func (c *committer) commit(t *ticket) error {
	if !c.put(t) {
		return store.ErrClosed
	}
	return <-t.done
}

// later hands in an op that nobody waits for. It is tried until it succeeds; then is
// called, if it is not nil.
func (c *committer) later(then func(), op *journal.Op) {
	t := &ticket{}
	t.add(op)
	if then != nil {
		t.steps = append(t.steps, step{op: -1, apply: func(uint64) { then() }})
	}
	c.put(t)
}

func (c *committer) put(t *ticket) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	c.tickets = append(c.tickets, t)
	c.mu.Unlock()
	c.signal()
	return true
}

// mark notes that the Session has marks to be committed. It may be called under
// the Session's lock.
func (c *committer) mark(s *subscriber) {
	c.mu.Lock()
	c.marked = append(c.marked, s)
	c.mu.Unlock()
	c.signal()
}

// run appends records until the committer is closed and nothing is left.
func (c *committer) run() {
	defer close(c.records)
	for {
		r := c.gather()
		if r == nil {
			return
		}
		pos, err := c.journal.Append(context.Background(), r.bytes)
		c.note(err)
		if err != nil {
			c.failed(r, err)
			continue
		}
		r.pos = pos
		c.next += uint64(r.ops)
		c.records <- r
	}
}

// gather waits for something to do and packs it: marks first, because what a
// ticket says may follow from them, then tickets as they came. Nil: closed.
func (c *committer) gather() *record {
	for {
		c.mu.Lock()
		if wait := c.idleLocked(); wait >= 0 {
			closed := c.closed && len(c.tickets)+len(c.marked) == 0
			c.mu.Unlock()
			if closed {
				return nil
			}
			c.wait(wait)
			continue
		}
		marked := c.marked
		c.marked = nil
		r := c.blank()
		bytes := 0
		n := 0
		for n < len(c.tickets) && (n == 0 || r.ops < recordOps && bytes < recordBytes) {
			t := c.tickets[n]
			r.tickets = append(r.tickets, t)
			r.ops += t.count
			bytes += len(t.ops)
			n++
		}
		rest := copy(c.tickets, c.tickets[n:])
		clear(c.tickets[rest:])
		c.tickets = c.tickets[:rest]
		c.mu.Unlock()
		r.ops = 0
		for _, s := range marked {
			s.packMarks(r)
		}
		for _, t := range r.tickets {
			r.bytes = append(r.bytes, t.ops...)
			r.ops += t.count
		}
		r.first = c.next
		journal.Seal(r.bytes, journal.Header{Time: c.broker.now(), Epoch: c.epoch, First: r.first, Count: uint32(r.ops)})
		return r
	}
}

// idleLocked says how long there is nothing to do: 0 until it is told otherwise,
// -1 not at all.
func (c *committer) idleLocked() time.Duration {
	if len(c.tickets) == 0 && len(c.marked) == 0 {
		return 0
	}
	if c.retryAt.IsZero() {
		return -1
	}
	for _, t := range c.tickets {
		if t.done != nil {
			return -1 // somebody waits: trying is how we learn that the disk is well again
		}
	}
	if c.closed { // nobody will try again
		c.tickets, c.marked = nil, nil
		return 0
	}
	if left := c.retryAt.Sub(c.broker.now()); left > 0 {
		return left
	}
	return -1
}

func (c *committer) wait(d time.Duration) {
	if d == 0 {
		<-c.wake
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.wake:
	case <-t.C:
	}
}

// blank returns an empty record.
func (c *committer) blank() *record {
	select {
	case r := <-c.free:
		clear(r.tickets)
		clear(r.marks)
		r.tickets, r.marks, r.ops = r.tickets[:0], r.marks[:0], 0
		r.bytes = journal.Begin(r.bytes[:0])
		return r
	default:
		return &record{bytes: journal.Begin(nil)}
	}
}

func (c *committer) recycle(r *record) {
	if cap(r.bytes) > 4*recordBytes {
		r.bytes = nil
	}
	select {
	case c.free <- r:
	default:
	}
}

// failed gives a record back that could not be appended: those who wait are told,
// the rest is tried again. Those who wait for their turn are told as well: what is
// tried again stands before them, and may fill one record after the other.
func (c *committer) failed(r *record, err error) {
	c.mu.Lock()
	var again, told []*ticket
	for _, t := range slices.Concat(r.tickets, c.tickets) {
		if t.done == nil {
			again = append(again, t)
		} else {
			told = append(told, t)
		}
	}
	c.tickets = again
	c.retryAt = c.broker.now().Add(retryEvery)
	c.mu.Unlock()
	for _, m := range r.marks {
		m.to.unpackMarks(m.list)
	}
	for _, t := range told {
		t.done <- err
	}
	c.recycle(r)
}

// note takes note of whether the journal works, and logs when that changes.
func (c *committer) note(err error) {
	c.mu.Lock()
	was, since := c.failing, c.since
	c.failing = err
	if err != nil && was == nil {
		c.since = c.broker.now()
	}
	if err == nil {
		c.retryAt = time.Time{}
	}
	c.mu.Unlock()
	log := c.broker.logger
	switch {
	case err != nil && was == nil:
		log.Error("the journal can't be written: QoS 1 and 2 messages for durable sessions are refused until it can", "err", err)
	case err == nil && was != nil:
		log.Warn("the journal can be written again", "after", c.broker.now().Sub(since).Round(time.Millisecond))
	}
}

// trouble is why nothing can be committed at present, and since when; nil: all is
// well.
func (c *committer) trouble() (since time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, c.failing
}

// carryOut does what the records are about, in their order.
func (c *committer) carryOut() {
	b := c.broker
	for r := range c.records {
		w := newWork(b.now())
		number := r.first
		for _, m := range r.marks {
			m.to.applyMarks(w, m.list, number)
			number += uint64(len(m.list))
		}
		for _, t := range r.tickets {
			for i := range t.steps {
				b.take(w, &t.steps[i], number)
			}
			number += uint64(t.count)
		}
		c.applied.Store(number - 1)
		c.place.Store(uint64(r.pos))
		w.finish(b)
		for _, t := range r.tickets {
			if t.done != nil {
				t.done <- nil
			}
		}
		c.recycle(r)
	}
}

// take does one step; number is that of its ticket's first op.
func (b *Broker) take(w *work, s *step, number uint64) {
	if s.op >= 0 {
		number += uint64(s.op)
	} else {
		number = 0
	}
	if s.apply != nil {
		s.apply(number)
		return
	}
	if s.message == nil {
		return
	}
	s.message.Number = number
	if s.qos == mqtt.QoS2 && s.id != 0 {
		s.from.take(s.id) // first: a checkpoint may see that its Session has the message
	}
	s.reached = b.carry(w, s)
	if s.will != nil {
		s.will.mu.Lock()
		s.will.rest.will, s.will.rest.willAt = nil, time.Time{}
		s.will.number = number + 1
		s.will.dirtyLocked()
		s.will.mu.Unlock()
	}
}

// carry delivers the message of a step, which is ours by now.
func (b *Broker) carry(w *work, s *step) (reached int) {
	r := s.route
	// What the journal does not hold goes to those only who wanted it when it came:
	// a durable subscription made since could not keep it.
	if r.stale.Load() && s.op >= 0 {
		fresh, err := b.router.route(stringBytes(r.topic))
		if err != nil {
			return 0 // can't be: the name was good before
		}
		r = fresh
	}
	f := &w.fan
	f.begin(s.from, w)
	f.scratch, f.kept = *s.message, s.message
	if s.message.Retain {
		b.retain(f)
	}
	if commit := b.trace.Commit; commit != nil {
		commit(tracedCommit(s.message))
	}
	return b.deliver(f, r)
}

// commitOps commits ops and has apply done with the number of the first one, or
// returns why not. Without a store it is done at once, with number 0.
func (b *Broker) commitOps(apply func(number uint64), ops ...*journal.Op) error {
	if b.committer == nil {
		apply(0)
		return nil
	}
	t := newTicket()
	defer t.release()
	t.steps = append(t.steps, step{apply: apply})
	for _, op := range ops {
		t.add(op)
	}
	return b.committer.commit(t)
}

// unkept is the verdict on what could not be made durable.
func unkept(err error) policy.Verdict {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return policy.Verdict{Code: mqtt.QuotaExceeded, Reason: "the disk of the broker is full: try again later"}
	}
	return policy.Verdict{Code: mqtt.UnspecifiedError, Reason: "the broker can't write to its disk at present: try again later"}
}
