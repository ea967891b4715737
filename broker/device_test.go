package broker

import (
	"net"
	"slices"
	"sync"
	"time"

	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// device is a client as the standard describes it: it remembers what a client has to
// remember, and tells the model what it does and sees.
type device struct {
	stage    *stage
	name     string
	v        mqtt.Version
	link     *wire   // nil: no connection
	wires    []*wire // all there have been
	session  *past   // what the model knows of the Session; nil: there is none
	asked    deed    // the latest CONNECT
	asksWill *message

	// The client's part of the Session State.
	received map[mqtt.PacketID]string // QoS 2 messages that are not released
	out      []*outgoing
	// burnt are those of QoS 2 messages that were refused: a record that failed may
	// be on disk after a crash, and then a new message would be taken for them.
	burnt map[mqtt.PacketID]bool

	patience patience
	owed     []packet.Packet
	waiting  map[mqtt.PacketID]func(mqtt.ReasonCode) // SUBACK, UNSUBACK
	retained map[string]string
}

type patience int

const (
	atOnce     patience = iota // each acknowledgement is given at once
	never                      // none is
	onlyPubrec                 // PUBACK and PUBCOMP are not
)

// outgoing is a message that the client publishes.
type outgoing struct {
	*message
	id       mqtt.PacketID
	bytes    int
	released bool
}

// wire is a connection of a device.
type wire struct {
	nc       net.Conn
	out      chan []byte
	accepted bool // CONNACK has come
	deaf     bool // nothing more arrives
	flight   map[mqtt.PacketID]bool
	most     int // Receive Maximum

	mu   sync.Mutex // guards the fields below
	in   []event
	over bool
}

func newDevice(s *stage, name string, v mqtt.Version) *device {
	return &device{stage: s, name: name, v: v, received: map[mqtt.PacketID]string{}, burnt: map[mqtt.PacketID]bool{},
		waiting: map[mqtt.PacketID]func(mqtt.ReasonCode){}, retained: map[string]string{}}
}

func (d *device) dial() *wire {
	ours, theirs := net.Pipe()
	w := &wire{nc: ours, out: make(chan []byte, 1<<14), flight: map[mqtt.PacketID]bool{}}
	d.stage.serve(listen.Wrap(theirs, listen.Info{Remote: theirs.RemoteAddr()}))
	done := make(chan struct{})
	go func() { // ends with the connection
		defer close(done)
		w.read(d.v)
	}()
	go func() { // ends with read
		for {
			select {
			case b := <-w.out:
				ours.Write(b)
			case <-done:
				return
			}
		}
	}()
	d.wires = append(d.wires, w)
	return w
}

func (w *wire) read(v mqtt.Version) {
	r := packet.Reader{Version: v}
	for {
		p, err := r.Next()
		if err == packet.ErrMore {
			if _, err = r.Fill(w.nc); err == nil {
				continue
			}
		}
		w.mu.Lock()
		if err != nil {
			w.over = true
			w.mu.Unlock()
			w.nc.Close()
			return
		}
		w.in = append(w.in, eventOf(p))
		w.mu.Unlock()
	}
}

func (d *device) send(p packet.Packet) {
	b, err := packet.Append(nil, d.v, p)
	if err != nil {
		panic(err)
	}
	d.link.out <- b
}

// up reports whether the client may send what it likes.
func (d *device) up() bool { return d.link != nil && d.link.accepted }

func (d *device) connect(x deed) {
	d.lose() // of two connections the broker ends the older
	if d.v < mqtt.V5 {
		x.n = 0
		if x.other = 100_000; x.clean {
			x.other = 0
		}
		x.will = min(x.will, 0)
	}
	c := &packet.Connect{Version: d.v, ClientID: d.name, CleanStart: x.clean}
	if d.v >= mqtt.V5 {
		c.Properties = &packet.Properties{SessionExpiry: uint32(x.other)}
		c.Properties.Mark(mqtt.SessionExpiryInterval)
		if x.n > 0 {
			c.Properties.Mark(mqtt.ReceiveMaximum)
			c.Properties.ReceiveMaximum = uint16(x.n)
		}
	}
	d.asksWill = nil
	if x.will >= 0 {
		d.asksWill = d.stage.model.will(d.name, x.qos)
		c.Will = &packet.Will{Topic: d.asksWill.topic, Payload: []byte(d.asksWill.key), QoS: x.qos, Delay: uint32(x.will)}
	}
	if s := d.session; x.clean && s != nil && s.pending != nil {
		s.pending.due = time.Now() // the Session ends
	}
	if might, _ := d.session.present(time.Now(), x.clean); !might {
		d.reset()
	}
	d.asked = x
	d.link = d.dial()
	d.link.most = x.n
	d.send(c)
}

// reset begins a Session anew.
func (d *device) reset() {
	clear(d.received)
	clear(d.burnt)
	d.out = nil
}

func (d *device) disconnect(how int) {
	if !d.up() {
		return
	}
	switch {
	case how == 2:
		d.link.nc.Close()
	case how == 1 && d.v >= mqtt.V5:
		d.send(&packet.Disconnect{Reason: mqtt.DisconnectWithWill})
	default:
		how = 0
		d.send(&packet.Disconnect{})
	}
	d.stage.model.lost(d, how == 0)
	d.forget()
}

// lose is the end of a connection that the client does not want.
func (d *device) lose() {
	if d.link == nil {
		return
	}
	if d.link.accepted {
		d.stage.model.lost(d, false)
	} else {
		d.stage.model.unanswered(d)
	}
	d.forget()
}

func (d *device) forget() {
	d.link.deaf = true
	d.link, d.owed = nil, nil
	clear(d.waiting)
}

// deaf lets nothing more arrive.
func (d *device) deaf() {
	if d.link != nil {
		d.link.deaf = true
	}
}

// cut ends all connections.
func (d *device) cut() {
	for _, w := range d.wires {
		w.nc.Close()
	}
}

// freeID is the lowest one: what uses one again too early shows.
func (d *device) freeID() mqtt.PacketID {
	for id := mqtt.PacketID(1); ; id++ {
		if d.waiting[id] == nil && !d.burnt[id] && !slices.ContainsFunc(d.out, func(o *outgoing) bool { return o.id == id }) {
			return id
		}
	}
}

func (d *device) publish(topic string, q mqtt.QoS, retain bool, bytes int) {
	if !d.up() || len(d.out) > 300 {
		return
	}
	o := &outgoing{message: d.stage.model.publish(d.name, topic, q, retain && bytes == 0), bytes: bytes}
	o.retain = retain
	if q > 0 {
		o.id = d.freeID()
		d.out = append(d.out, o)
	}
	d.transmit(o, false)
}

func (d *device) transmit(o *outgoing, dup bool) {
	p := &packet.Publish{Topic: []byte(o.topic), QoS: o.qos, ID: o.id, Retain: o.retain, Dup: dup}
	if o.bytes > 0 {
		p.Payload = append([]byte(o.key+" "), make([]byte, o.bytes)...)
	}
	d.send(p)
}

func (d *device) subscribe(filter string, q mqtt.QoS) {
	if !d.up() {
		return
	}
	if d.session.isShared(filter) {
		q = max(q, 1) // what a member takes at QoS 0 may be lost with its connection
	}
	id := d.freeID()
	d.waiting[id] = d.stage.model.subscribe(d.session, filter, q)
	d.send(&packet.Subscribe{ID: id, Subscriptions: []packet.Subscription{{Filter: filter, QoS: q}}})
}

func (d *device) unsubscribe(filter string) {
	if !d.up() {
		return
	}
	id := d.freeID()
	d.waiting[id] = d.stage.model.unsubscribe(d.session, filter)
	d.send(&packet.Unsubscribe{ID: id, Filters: []string{filter}})
}

func (d *device) giveAcks(n int, p patience) {
	d.patience = p
	if !d.up() {
		return
	}
	if p == atOnce {
		n = len(d.owed)
	}
	for range min(n, len(d.owed)) {
		d.give(d.owed[0])
		d.owed = d.owed[1:]
	}
}

func (d *device) owe(p packet.Packet) {
	if d.patience == atOnce || d.patience == onlyPubrec && p.Type() == packet.PUBREC {
		d.give(p)
		return
	}
	d.owed = append(d.owed, p)
}

func (d *device) give(p packet.Packet) {
	switch p := p.(type) {
	case *packet.Puback:
		delete(d.link.flight, p.ID)
	case *packet.Pubcomp:
		delete(d.link.flight, p.ID)
	}
	d.send(p)
}

// ended reports whether the broker has ended the connection.
func (d *device) ended() bool {
	if d.link == nil {
		return false
	}
	d.link.mu.Lock()
	defer d.link.mu.Unlock()
	return d.link.over
}

// work does what has arrived, and reports whether anything has.
func (d *device) work() bool {
	w := d.link
	if w == nil {
		return false
	}
	w.mu.Lock()
	in, over := w.in, w.over
	w.in = nil
	w.mu.Unlock()
	for _, e := range in {
		if !w.deaf {
			d.event(e)
		}
	}
	if over && d.link == w && !w.deaf {
		if !d.stage.mayRefuse() {
			d.stage.model.fail("%s: the broker has ended the connection", d.name)
		}
		d.lose()
		return true
	}
	return len(in) > 0
}

func (d *device) event(e event) {
	m := d.stage.model
	switch e.kind {
	case packet.CONNACK:
		d.connack(e)
	case packet.PUBLISH:
		d.message(e)
	case packet.PUBREL:
		delete(d.received, e.id)
		d.owe(&packet.Pubcomp{ID: e.id})
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
		d.answer(e)
	case packet.SUBACK, packet.UNSUBACK:
		done := d.waiting[e.id]
		if done == nil {
			m.fail("%s: %v %d, which nobody waits for", d.name, e.kind, e.id)
		}
		delete(d.waiting, e.id)
		r := mqtt.Success
		if len(e.reasons) > 0 {
			r = e.reasons[0]
		}
		done(r)
	case packet.DISCONNECT:
		if !d.stage.mayRefuse() {
			m.fail("%s: DISCONNECT %v", d.name, e.reasons)
		}
	default:
		m.fail("%s: unexpected %v", d.name, e.kind)
	}
}

func (d *device) connack(e event) {
	if e.reasons[0] != mqtt.Success {
		if !d.stage.model.trouble {
			d.stage.model.fail("%s: CONNACK %v", d.name, e.reasons[0])
		}
		d.stage.model.unanswered(d)
		d.link.nc.Close()
		d.forget()
		return
	}
	d.link.accepted = true
	d.stage.model.connected(d, e.present)
	if !e.present {
		d.reset()
		return
	}
	for _, o := range d.out { // [MQTT-4.4.0-1]
		if o.released {
			d.send(&packet.Pubrel{ID: o.id})
		} else {
			o.resent = true
			d.transmit(o, true)
		}
	}
}

func (d *device) message(e event) {
	m := d.stage.model
	if e.qos > 0 {
		d.link.flight[e.id] = true
		if most := d.link.most; most > 0 && len(d.link.flight) > most {
			m.fail("%s has %d messages under way, allowed are %d", d.name, len(d.link.flight), most)
		}
	}
	key := keyOf(e.payload)
	switch e.qos {
	case mqtt.QoS1:
		d.owe(&packet.Puback{ID: e.id})
	case mqtt.QoS2:
		d.owe(&packet.Pubrec{ID: e.id})
		before, again := d.received[e.id]
		if again && before != key {
			m.fail("%s: message %s has packet id %d of %s, which is not released", d.name, key, e.id, before)
		}
		if again {
			return
		}
		d.received[e.id] = key
	}
	if e.retain {
		d.retained[e.topic] = key
		return
	}
	if e.payload == "" {
		return // it only removes what is retained
	}
	m.received(d.session, key, e)
}

// answer takes what the broker says about a message that the client publishes.
func (d *device) answer(e event) {
	m := d.stage.model
	i := slices.IndexFunc(d.out, func(o *outgoing) bool { return o.id == e.id })
	if i < 0 {
		if e.kind == packet.PUBCOMP {
			return
		}
		m.fail("%s: %v %d for nothing", d.name, e.kind, e.id)
	}
	o, failed := d.out[i], e.reasons[0].Failed()
	switch {
	case e.kind == packet.PUBCOMP:
		if !o.released {
			m.fail("%s: PUBCOMP %d before PUBREL", d.name, e.id)
		}
		d.out = slices.Delete(d.out, i, i+1)
	case failed:
		if !d.stage.mayRefuse() {
			m.fail("%s: %s is refused: %v", d.name, o.key, e.reasons[0])
		}
		if e.kind == packet.PUBREC {
			d.burnt[e.id] = true
		}
		d.out = slices.Delete(d.out, i, i+1)
	case e.kind == packet.PUBACK:
		m.acknowledged(o.message)
		d.out = slices.Delete(d.out, i, i+1)
	default:
		m.acknowledged(o.message)
		o.released = true
		d.send(&packet.Pubrel{ID: e.id})
	}
}
