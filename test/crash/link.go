package crash

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// writeTime is how long a write may take; the broker reads as long as it lives.
const writeTime = 20 * time.Second

// inMax is how many packets may wait for the actor: more than the broker may have
// under way to one client, so that its reader never stands still.
const inMax = 8192

// link is one Network Connection of an actor. Every packet is written down
// before it is written, and after it was read.
type link struct {
	h       *history
	client  string
	n       int
	version mqtt.Version
	nc      net.Conn
	in      chan event // what was received; closed at the end of the connection
	closing atomic.Bool
	buf     []byte
}

// dial opens a connection, and reads from it until it ends.
func dial(h *history, addr, client string, n int, v mqtt.Version) (*link, error) {
	l := &link{h: h, client: client, n: n, version: v, in: make(chan event, inMax)}
	l.note(event{kind: opened})
	nc, err := net.DialTimeout("tcp", addr, writeTime)
	if err != nil {
		l.note(event{kind: lost, text: err.Error()})
		return nil, err
	}
	l.nc = nc
	go l.read() // ends with the connection; close waits for it
	return l, nil
}

func (l *link) note(e event) {
	e.client, e.conn = l.client, l.n
	l.h.add(e)
}

// read passes on what arrives.
func (l *link) read() {
	defer close(l.in)
	r := packet.Reader{Version: l.version}
	for {
		p, err := next(&r, l.nc)
		if err != nil {
			if !l.closing.Load() {
				l.note(event{kind: lost, text: err.Error()})
			}
			return
		}
		e := describe(p)
		e.kind = received
		l.note(e)
		l.in <- e
	}
}

// send writes down and writes packets, in one write. An error shows when the
// reader ends.
func (l *link) send(packets ...packet.Packet) {
	l.buf = l.buf[:0]
	for _, p := range packets {
		b, err := packet.Append(l.buf, l.version, p)
		if err != nil {
			panic(fmt.Sprintf("crash: a packet of ours can't be encoded: %v", err))
		}
		l.buf = b
		e := describe(p)
		e.kind = sent
		l.note(e)
	}
	if err := l.nc.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return
	}
	// What could not be written is as if it was lost on the way. A broken
	// connection is left to the reader: something may still stand in it.
	if _, err := l.nc.Write(l.buf); errors.Is(err, os.ErrDeadlineExceeded) {
		l.nc.Close()
	}
}

// close ends the connection and returns what had still arrived. With reset, the
// peer sees a broken connection instead of an orderly end.
func (l *link) close(reset bool) []event {
	l.closing.Store(true)
	l.note(event{kind: closed})
	if tcp, ok := l.nc.(*net.TCPConn); ok && reset {
		tcp.SetLinger(0)
	}
	l.nc.Close()
	var rest []event
	for e := range l.in {
		rest = append(rest, e)
	}
	return rest
}

// describe makes an event of a packet.
func describe(p packet.Packet) event {
	e := event{packet: p.Type()}
	switch p := p.(type) {
	case *packet.Connect:
		e.connect = describeConnect(p)
	case *packet.Connack:
		e.present, e.code = p.SessionPresent, p.Reason
	case *packet.Publish:
		e.id, e.qos, e.dup, e.retain = p.ID, p.QoS, p.Dup, p.Retain
		e.topic, e.message = string(p.Topic), nameOf(p.Payload)
	case *packet.Puback:
		e.id, e.code = p.ID, p.Reason
	case *packet.Pubrec:
		e.id, e.code = p.ID, p.Reason
	case *packet.Pubrel:
		e.id, e.code = p.ID, p.Reason
	case *packet.Pubcomp:
		e.id, e.code = p.ID, p.Reason
	case *packet.Subscribe:
		e.id = p.ID
		for _, s := range p.Subscriptions {
			e.subs = append(e.subs, filterQoS{s.Filter, s.QoS})
		}
	case *packet.Suback:
		e.id, e.codes = p.ID, p.Reasons
	case *packet.Unsubscribe:
		e.id = p.ID
		for _, f := range p.Filters {
			e.subs = append(e.subs, filterQoS{filter: f})
		}
	case *packet.Unsuback:
		e.id, e.codes = p.ID, p.Reasons
	case *packet.Disconnect:
		e.code = p.Reason
		if p.Properties.Has(mqtt.SessionExpiryInterval) {
			e.expiry = &p.Properties.SessionExpiry
		}
	}
	return e
}

func describeConnect(p *packet.Connect) *connectFields {
	c := &connectFields{version: p.Version, clean: p.CleanStart}
	if p.Version < mqtt.V5 && !p.CleanStart {
		c.expiry = forever
	}
	if p.Properties.Has(mqtt.SessionExpiryInterval) {
		c.expiry = p.Properties.SessionExpiry
	}
	if p.Properties.Has(mqtt.ReceiveMaximum) {
		c.receiveMax = p.Properties.ReceiveMaximum
	}
	if w := p.Will; w != nil {
		c.will = &willFields{topic: w.Topic, message: nameOf(w.Payload), qos: w.QoS, delay: w.Delay}
	}
	return c
}
