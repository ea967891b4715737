package broker

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A connection that says nothing for a while is parked: its goroutine, with its
// stack, ends, and the listener wakes it when there is something to read. A
// thousand silent devices cost a thousand small structs.

// errParked ends read while the connection goes on.
var errParked = errors.New("the connection is parked")

const (
	// linger is how long a connection that was silent keeps its goroutine: long
	// enough for an answer to come back, so a conversation is not parked in its
	// middle.
	linger = 100 * time.Millisecond
	// lingerBusy is the same for one that has gone on to talk.
	lingerBusy = time.Second
)

// parking is the part of a conn that says who owns it.
type parking struct {
	owner atomic.Int32 // running, leaving or parked
	// The connection's place in the list of silent ones; guarded by silence.mu.
	second     int64
	prev, next *conn
}

const (
	running int32 = iota // its goroutine
	leaving              // its goroutine, which is about to end
	parked               // the poller
)

// lingerUntil is the next deadline of a connection that keeps its goroutine.
func (c *conn) lingerUntil(now time.Time) time.Time {
	at := now.Add(c.linger)
	if until := c.deadline(); c.keepAlive > 0 && until.Before(at) {
		return until
	}
	return at
}

// park gives the connection to the poller. If it returns true, the goroutine
// must end and touch nothing of the connection any more.
func (c *conn) park() bool {
	c.linger = linger
	c.broker.silence.add(c)
	c.owner.Store(leaving)
	if c.nc.Park(c.wake) && c.owner.CompareAndSwap(leaving, parked) {
		return true
	}
	c.owner.Store(running) // it can't be parked, or was woken meanwhile
	c.broker.silence.remove(c)
	return false
}

// wake gives a parked connection a goroutine again. It may be called at any
// time, from anywhere.
func (c *conn) wake() {
	if c.owner.CompareAndSwap(leaving, running) || !c.owner.CompareAndSwap(parked, running) {
		return
	}
	go func() { // ends when the connection does, or is parked again; Shutdown waits for it
		c.broker.silence.remove(c)
		c.nc.SetReadDeadline(time.Now().Add(linger))
		if c.kicked.Load() != nil {
			c.nc.SetReadDeadline(time.Unix(1, 0))
		}
		c.run()
	}()
}

// silence wakes parked connections whose Keep Alive is over. They stand in lists
// by the second in which that is so.
type silence struct {
	mu    sync.Mutex // guards the fields below
	lists map[int64]*conn
	timer *time.Timer
	until int64 // the second for which timer is set
}

// add notes when the connection must be looked after.
func (s *silence) add(c *conn) {
	if c.keepAlive == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lists == nil {
		s.lists = make(map[int64]*conn)
	}
	c.second = c.deadline().Unix() + 1
	head := s.lists[c.second]
	if c.next = head; head != nil {
		head.prev = c
	}
	s.lists[c.second] = c
	s.armLocked(c.second)
}

func (s *silence) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.second == 0 {
		return
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else if c.next != nil {
		s.lists[c.second] = c.next
	} else {
		delete(s.lists, c.second)
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.second, c.prev, c.next = 0, nil, nil
}

// armLocked sees to it that the timer goes off in the given second or before.
func (s *silence) armLocked(second int64) {
	if s.timer != nil && s.until <= second {
		return
	}
	s.until = second
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(time.Unix(second, 0)), s.look)
		return
	}
	s.timer.Reset(time.Until(time.Unix(second, 0)))
}

// look wakes those whose time has come: their goroutine finds out what that
// means.
func (s *silence) look() {
	s.mu.Lock()
	now := time.Now().Unix()
	var due []*conn
	next := int64(0)
	for second, c := range s.lists {
		if second > now {
			if next == 0 || second < next {
				next = second
			}
			continue
		}
		for ; c != nil; c = c.next {
			due = append(due, c)
		}
	}
	s.timer = nil
	if len(due) > 0 {
		next = now + 1 // one that is just being parked is not woken now
	}
	if next != 0 {
		s.armLocked(next)
	}
	s.mu.Unlock()
	for _, c := range due {
		c.wake()
	}
}

// stop ends the timer.
func (s *silence) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
}
