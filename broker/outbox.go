package broker

import (
	"errors"
	"sync"
	"time"

	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/trace"
)

// outbox holds what is encoded for a Client and not yet given to its socket.
// There is no standing writer: whoever puts something in sees to it that it is
// flushed, once per batch. A peer that does not read gets a goroutine of its
// own, drain, until it has caught up.
type outbox struct {
	out       *buffer       // nil: empty
	writing   bool          // somebody writes, and goes on until the outbox is empty
	scheduled bool          // somebody will flush at the end of a batch
	broken    bool          // writing has failed: nothing goes out any more
	closing   bool          // the connection ends: nobody begins to write
	room      chan struct{} // closed when there is room again; nil: nobody waits
	written   chan struct{} // closed when nobody writes any more; nil: nobody waits
}

// buffer is a reused slice of bytes.
type buffer struct{ b []byte }

var bufferPool = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, bufferMin)} }}

const (
	bufferMin = 4 << 10
	// bufferKeep is the largest buffer that is used again; beyond it the memory
	// goes back, so that one burst does not stay for ever.
	bufferKeep = 256 << 10
	// flushAt is how much an outbox may hold before a batch has ended: enough to
	// make the cost of a write small, and little enough to stay in a cache.
	flushAt = 64 << 10
	// highWater stops QoS 1 and 2 messages from being encoded ahead of a socket:
	// they stay in the queue, where they cost a reference.
	highWater = 256 << 10
)

func (o *outbox) len() int {
	if o.out == nil {
		return 0
	}
	return len(o.out.b)
}

// bytes returns what the outbox holds, to be appended to; setBytes puts the
// result back.
func (o *outbox) bytes() []byte {
	if o.out == nil {
		o.out = bufferPool.Get().(*buffer)
	}
	return o.out.b
}

func (o *outbox) setBytes(b []byte) { o.out.b = b }

func (o *outbox) recycle(b *buffer) {
	if cap(b.b) <= bufferKeep {
		b.b = b.b[:0]
		bufferPool.Put(b)
	}
}

// scheduleLocked notes that the connection has something to send in the batch w.
func (c *conn) scheduleLocked(w *work) {
	if !c.scheduled {
		c.scheduled = true
		w.dirty = append(w.dirty, c)
	}
}

// flush writes what is in the outbox.
func (c *conn) flush() {
	mu := &c.session.mu
	mu.Lock()
	c.scheduled = false
	c.flushLocked()
	mu.Unlock()
}

// flushLocked writes the outbox until it is empty or the socket takes no more.
// It releases the lock while it writes, so others may go on to fill the outbox;
// what they put in is written by the same call.
func (c *conn) flushLocked() {
	if c.writing || c.closing {
		return
	}
	c.writing = true
	for c.len() > 0 && !c.broken {
		b := c.out
		c.out = nil
		c.session.mu.Unlock()
		n, err := c.nc.TryWrite(b.b)
		c.flushed(n)
		c.session.mu.Lock()
		if errors.Is(err, listen.ErrWouldBlock) {
			go c.drain(b, n) // ends when the peer has caught up or the socket is closed
			return
		}
		c.wroteLocked(b, err)
	}
	c.doneLocked()
}

// doneLocked ends the time of whoever has been writing.
func (c *conn) doneLocked() {
	c.writing = false
	for _, ch := range []*chan struct{}{&c.room, &c.written} {
		if *ch != nil {
			close(*ch)
			*ch = nil
		}
	}
}

// stopWriting lets the present writer finish, and no other begin.
func (c *conn) stopWriting() {
	mu := &c.session.mu
	mu.Lock()
	c.closing = true
	if !c.writing {
		mu.Unlock()
		return
	}
	c.written = make(chan struct{})
	written := c.written
	mu.Unlock()
	<-written
}

// drain is flushLocked for a peer that does not keep up: it waits.
func (c *conn) drain(b *buffer, n int) {
	mu := &c.session.mu
	_, err := c.nc.Write(b.b[n:])
	c.flushed(len(b.b) - n)
	mu.Lock()
	defer mu.Unlock()
	c.wroteLocked(b, err)
	for c.len() > 0 && !c.broken {
		b := c.out
		c.out = nil
		mu.Unlock()
		_, err := c.nc.Write(b.b)
		c.flushed(len(b.b))
		mu.Lock()
		c.wroteLocked(b, err)
	}
	c.doneLocked()
}

// wroteLocked takes note of a write: there is room for what waits in the queue,
// or the connection is over.
func (c *conn) wroteLocked(b *buffer, err error) {
	c.recycle(b)
	if err != nil {
		c.broken = true
		c.out = nil
		c.nc.Close() // ends read, which ends the rest
		c.wake()
		return
	}
	if s := c.session; s.conn == c && s.waitingLocked() {
		s.pumpLocked(time.Now())
	}
	if c.room != nil && c.len() < c.broker.limits.OutboxBytes/2 {
		close(c.room)
		c.room = nil
	}
}

func (c *conn) flushed(n int) {
	c.broker.SentBytes.Add(uint64(n))
	if flush := c.broker.trace.Flush; flush != nil {
		flush(trace.Flush{Client: c.id(), Bytes: n})
	}
}

// waitForReader stops reading from a Client whose outbox is full of answers to
// what it sends: it has to read before it may go on.
func (c *conn) waitForReader() error {
	s := c.session
	if s == nil {
		return nil
	}
	s.mu.Lock()
	if c.len() < c.broker.limits.OutboxBytes || !c.writing || c.broken {
		s.mu.Unlock()
		return nil
	}
	if c.room == nil {
		c.room = make(chan struct{})
	}
	room := c.room
	s.mu.Unlock()
	<-room // closed by drain at the latest when the connection breaks
	return nil
}

// work is the scratch of one batch of packets. Between batches a connection has
// none.
type work struct {
	now     time.Time
	replies []byte
	dirty   []*conn // others that have something to send
	ticket  *ticket // what must be committed before it is delivered; nil: nothing
	fan     fanout
	tally
}

// tally counts within a batch, so that the shared counters are touched once.
type tally struct {
	bytes, packets      int
	published, received int // PUBLISH packets in, and their payload bytes
	sent, sentBytes     int // PUBLISH packets out, and their payload bytes
}

var workPool = sync.Pool{New: func() any { return new(work) }}

// repliesLocked moves the replies of the batch so far into the outbox.
func (c *conn) repliesLocked(w *work) {
	if len(w.replies) > 0 && !c.broken {
		c.setBytes(append(c.bytes(), w.replies...))
		c.scheduleLocked(w)
	}
	w.replies = w.replies[:0]
}

// flushBatch sends the replies of the batch and flushes whatever it has filled.
func (c *conn) flushBatch() {
	w := c.work
	c.work = nil
	if len(w.replies) > 0 && c.session != nil {
		c.session.mu.Lock()
		c.repliesLocked(w)
		c.session.mu.Unlock()
	}
	w.finish(c.broker)
}

// newWork returns the scratch of a batch that begins at the time now.
func newWork(now time.Time) *work {
	w := workPool.Get().(*work)
	w.now = now
	return w
}

// finish flushes what the batch has filled, counts, and gives the scratch back.
func (w *work) finish(b *Broker) {
	w.flushDirty()
	w.replies = w.replies[:0]
	b.count(&w.tally)
	w.tally = tally{}
	w.fan.reset()
	if cap(w.replies) <= bufferKeep {
		workPool.Put(w)
	}
}

// flushDirty flushes what the batch has filled so far.
func (w *work) flushDirty() {
	for i, c := range w.dirty {
		c.flush()
		w.dirty[i] = nil
	}
	w.dirty = w.dirty[:0]
}

// v5 reports whether the Client speaks 5.0.
func (c *conn) v5() bool { return c.version >= mqtt.V5 }
