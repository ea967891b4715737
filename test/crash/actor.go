package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// An actor is one client: the client's half of MQTT, with a session state that
// outlives its connections, and a role that says what it does with it. One
// goroutine owns it all.
type actor struct {
	role  role
	stage *stage
	rng   *rand.Rand

	link    *link
	conns   int
	settled bool // the round comes to its end: come back and finish

	// The client's Session State: what is sent and not completely acknowledged,
	// in the order of the first sending, and the operation that waits for its
	// answer. What it has received needs no state here: each repetition is
	// acknowledged like the first, and the model tells them apart.
	out       []*outgoing
	lastID    mqtt.PacketID
	asking    packet.Packet
	held      map[string]mqtt.QoS // subscriptions that are acknowledged
	mustClean bool                // a CONNECT with Clean Start got no answer
	fleeting  bool                // the session ended with its connection

	acks    []packet.Packet // acknowledgements that are to be sent
	ackTime time.Time       // when they are to be sent
}

// outgoing is a QoS 1 or 2 message under way to the broker.
type outgoing struct {
	publish  packet.Publish
	released bool // PUBREC came, PUBREL was sent
}

// stage is what the actors of a round share.
type stage struct {
	ctx      context.Context // ends when the round is over
	h        *history
	addr     string
	up       *gate
	settling chan struct{} // closed when publishing and coming and going end
}

// answerTime is how long an actor waits for an answer before it says so. A broker
// that takes so long is at fault, and the model sees it as unanswered.
const answerTime = 60 * time.Second

// entry is how an actor connects.
type entry struct {
	clean      bool
	expiry     uint32 // 5.0
	receiveMax uint16 // 5.0; 0: not said
	will       *packet.Will
}

// connect waits for the broker and connects, resuming what was under way. It
// reports whether it is connected; if not, the broker died or the round is over.
func (a *actor) connect(how entry) bool {
	if !a.stage.up.wait(a.stage.ctx) {
		return false
	}
	a.conns++
	l, err := dial(a.stage.h, a.stage.addr, a.role.Name, a.conns, a.role.Version)
	if err != nil {
		a.pause(2 * time.Millisecond) // the gate closes as soon as the broker is known to be dead
		return false
	}
	a.link, a.acks = l, nil
	how.clean = how.clean || a.mustClean
	if how.clean || a.fleeting {
		// The client's state goes with the broker's.
		a.out, a.held, a.asking, a.mustClean = nil, nil, nil, how.clean
	}
	l.send(a.connectPacket(how))
	var connack *event
	ok := a.spin(answerTime, idle, func(e event) bool {
		if e.packet == packet.CONNACK {
			connack = &e
		}
		return connack != nil
	})
	if !ok || connack == nil || connack.code != mqtt.Success {
		a.drop(false)
		return false
	}
	a.mustClean = false
	a.fleeting = how.clean && (a.role.Version < mqtt.V5 || how.expiry == 0)
	if !connack.present {
		a.out, a.held, a.asking = nil, nil, nil
	}
	a.resume()
	return a.link != nil
}

func (a *actor) connectPacket(how entry) *packet.Connect {
	p := &packet.Connect{Version: a.role.Version, CleanStart: how.clean, ClientID: a.role.Name, Will: how.will}
	if a.role.Version < mqtt.V5 {
		return p
	}
	p.Properties = &packet.Properties{SessionExpiry: how.expiry, ReceiveMaximum: how.receiveMax}
	if how.expiry > 0 {
		p.Properties.Mark(mqtt.SessionExpiryInterval)
	}
	if how.receiveMax > 0 {
		p.Properties.Mark(mqtt.ReceiveMaximum)
	}
	return p
}

// resume sends again what has no complete acknowledgement: with the original
// Packet Identifiers, in the original order [MQTT-4.4.0-1] [MQTT-4.6.0-1].
func (a *actor) resume() {
	for _, o := range a.out {
		if o.released {
			a.link.send(&packet.Pubrel{ID: o.publish.ID})
			continue
		}
		o.publish.Dup = true
		a.link.send(&o.publish)
	}
	if a.asking != nil {
		a.link.send(a.asking)
	}
}

// endlessly is as long as nothing else happens.
const endlessly = time.Hour

// idle is no work.
func idle() time.Duration { return endlessly }

// spin is where an actor lives: it answers what arrives, and calls work after
// everything that happens and when the time that work returned has passed. It
// ends after d, when until says so, when the connection has ended (false), or
// once, when the round begins to settle.
func (a *actor) spin(d time.Duration, work func() time.Duration, until func(event) bool) bool {
	end := time.Now().Add(d)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for a.link != nil {
		settling := a.stage.settling
		if a.settled {
			settling = nil
		}
		select {
		case e, ok := <-a.link.in:
			if !ok {
				a.link.close(false)
				a.link = nil
				return false
			}
			a.handle(e)
			if until != nil && until(e) {
				return true
			}
			if len(a.link.in) > 0 {
				continue
			}
		case <-timer.C:
		case <-settling:
			a.settled = true
			if until == nil {
				return true
			}
		case <-a.stage.ctx.Done():
			a.drop(false)
			return false
		}
		now := time.Now()
		if !now.Before(end) {
			return true
		}
		a.flush(now)
		wait := work()
		if len(a.acks) > 0 {
			wait = min(wait, a.ackTime.Sub(now))
		}
		timer.Reset(max(0, min(wait, end.Sub(now))))
	}
	return false
}

// stay spins without anything to do but answer.
func (a *actor) stay(d time.Duration) bool {
	return a.spin(d, idle, nil)
}

// pause is time without a connection.
func (a *actor) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	settling := a.stage.settling
	if a.settled {
		settling = nil
	}
	select {
	case <-timer.C:
	case <-settling:
		a.settled = true
	case <-a.stage.ctx.Done():
	}
}

// drop ends the connection without a DISCONNECT.
func (a *actor) drop(reset bool) {
	if a.link == nil {
		return
	}
	rest := a.link.close(reset)
	l := a.link
	a.link = nil
	for _, e := range rest {
		a.note(e, l)
	}
}

// leave ends the connection with a DISCONNECT and waits for the broker to end it
// too.
func (a *actor) leave(p *packet.Disconnect) {
	if a.link == nil {
		return
	}
	a.link.send(p)
	a.acks = nil // nothing may follow a DISCONNECT [MQTT-3.14.4-2]
	l := a.link
	timer := time.NewTimer(answerTime)
	defer timer.Stop()
	for {
		select {
		case e, ok := <-l.in:
			if ok {
				a.note(e, nil)
				continue
			}
		case <-timer.C:
		case <-a.stage.ctx.Done():
		}
		break
	}
	a.drop(false)
}

// handle answers a packet.
func (a *actor) handle(e event) {
	a.note(e, a.link)
	var ack packet.Packet
	switch {
	case e.packet == packet.PUBLISH && e.qos == mqtt.QoS1:
		ack = &packet.Puback{ID: e.id}
	case e.packet == packet.PUBLISH && e.qos == mqtt.QoS2:
		ack = &packet.Pubrec{ID: e.id}
	case e.packet == packet.PUBREL:
		ack = &packet.Pubcomp{ID: e.id}
	default:
		return
	}
	if len(a.acks) == 0 {
		a.ackTime = time.Now().Add(a.role.AckLag)
	}
	if a.acks = append(a.acks, ack); len(a.acks) >= 64 {
		a.flush(a.ackTime)
	}
}

// flush sends the acknowledgements that are due, in the order of what they
// acknowledge [MQTT-4.6.0-2].
func (a *actor) flush(now time.Time) {
	if len(a.acks) == 0 || now.Before(a.ackTime) && !a.settled {
		return
	}
	a.link.send(a.acks...)
	a.acks = nil
}

// note changes the client's state as an acknowledgement asks; l may be closed
// or nil, and then a PUBREL goes out with the next connection.
func (a *actor) note(e event, l *link) {
	switch e.packet {
	case packet.PUBACK, packet.PUBCOMP:
		a.out = slices.DeleteFunc(a.out, func(o *outgoing) bool {
			return o.publish.ID == e.id && (o.released || o.publish.QoS == mqtt.QoS1)
		})
	case packet.PUBREC:
		if e.code.Failed() {
			a.out = slices.DeleteFunc(a.out, func(o *outgoing) bool { return o.publish.ID == e.id })
			return
		}
		a.release(e.id, l)
	case packet.SUBACK:
		if p, ok := a.asking.(*packet.Subscribe); ok && p.ID == e.id {
			for _, s := range p.Subscriptions {
				if a.held == nil {
					a.held = make(map[string]mqtt.QoS)
				}
				a.held[s.Filter] = s.QoS
			}
			a.asking = nil
		}
	case packet.UNSUBACK:
		if p, ok := a.asking.(*packet.Unsubscribe); ok && p.ID == e.id {
			for _, f := range p.Filters {
				delete(a.held, f)
			}
			a.asking = nil
		}
	}
}

// release answers a PUBREC.
func (a *actor) release(id mqtt.PacketID, l *link) {
	for i, o := range a.out {
		if o.publish.ID != id {
			continue
		}
		if !o.released {
			// PUBRELs are repeated in the order of the PUBRECs [MQTT-4.6.0-4]; those
			// come in the order of the messages, so what is released stands in front.
			o.released = true
			a.out = slices.Delete(a.out, i, i+1)
			at := slices.IndexFunc(a.out, func(o *outgoing) bool { return !o.released })
			if at < 0 {
				at = len(a.out)
			}
			a.out = slices.Insert(a.out, at, o)
		}
		break
	}
	if l != nil && l == a.link {
		l.send(&packet.Pubrel{ID: id})
	}
}

// publish sends a message.
func (a *actor) publish(p packet.Publish) {
	p.ID = a.id()
	o := &outgoing{publish: p}
	a.out = append(a.out, o)
	a.link.send(&o.publish)
}

// subscribe and unsubscribe ask for one change at a time.
func (a *actor) subscribe(subs []filterQoS) {
	p := &packet.Subscribe{ID: a.id()}
	for _, s := range subs {
		p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: s.filter, QoS: s.qos})
	}
	a.asking = p
	a.link.send(p)
}

func (a *actor) unsubscribe(filter string) {
	a.asking = &packet.Unsubscribe{ID: a.id(), Filters: []string{filter}}
	a.link.send(a.asking)
}

// id is a Packet Identifier that is not in use: as the role likes it, the lowest,
// so that each is used again as soon as it may be, or the next.
func (a *actor) id() mqtt.PacketID {
	if a.role.LowIDs {
		a.lastID = 0
	}
	for {
		a.lastID++
		id := a.lastID
		used := slices.ContainsFunc(a.out, func(o *outgoing) bool { return o.publish.ID == id })
		switch p := a.asking.(type) {
		case *packet.Subscribe:
			used = used || p.ID == id
		case *packet.Unsubscribe:
			used = used || p.ID == id
		}
		if id > 0 && !used {
			return id
		}
	}
}

// serial names the nth message of the actor.
func (a *actor) serial(n int) string { return fmt.Sprintf("%s.%d", a.role.Name, n) }
