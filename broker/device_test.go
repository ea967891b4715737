package broker

import (
	"cmp"
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
	stage     *stage
	name      string
	v         mqtt.Version
	link      *wire   // nil: no connection
	wires     []*wire // all there have been
	session   *past   // what the model knows of the Session; nil: there is none
	asked     deed    // the latest CONNECT
	returning bool    // the client has connected as before, of its own accord
	anew      bool    // it wants a new Session, and does not know whether it has got one
	asksWill  *message

	// The client's part of the Session State.
	received  map[mqtt.PacketID]string // QoS 2 messages that are not released
	releasing map[mqtt.PacketID]string // those that are, and wait for PUBCOMP
	out       []*outgoing
	// refused are those of QoS 2 messages that were refused and not used again since.
	refused map[mqtt.PacketID]bool

	patience patience
	owed     []answer
	given    map[given]bool
	waiting  map[mqtt.PacketID]func(mqtt.ReasonCode) // SUBACK, UNSUBACK
	retained map[string]string
	view     []sight
}

// answer is an acknowledgement that the client owes for the message with the key.
type answer struct {
	packet.Packet
	key string
}

// given says that an acknowledgement of this type has been given for the message.
type given struct {
	key  string
	kind packet.Type
}

// sight is something that the client has seen: a message, or what an answer says.
type sight struct {
	event
	by  string   // the publisher
	key string   // of the message
	of  mqtt.QoS // at which it was published
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
	released bool
}

// wire is a connection of a device.
type wire struct {
	nc       net.Conn
	out      chan []byte
	accepted bool // CONNACK has come
	deaf     bool // nothing more arrives
	stalled  bool // nothing more arrives but the end
	flight   map[mqtt.PacketID]bool
	most     int // Receive Maximum

	mu   sync.Mutex // guards the fields below
	in   []event
	over bool
}

func newDevice(s *stage, name string, v mqtt.Version) *device {
	return &device{stage: s, name: name, v: v,
		received: map[mqtt.PacketID]string{}, releasing: map[mqtt.PacketID]string{}, given: map[given]bool{}, refused: map[mqtt.PacketID]bool{},
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
		w.in = append(w.in, eventOf(p, v))
		w.mu.Unlock()
	}
}

func (d *device) send(p packet.Packet) {
	b, err := packet.Append(nil, d.v, p)
	if err != nil {
		panic(err)
	}
	d.link.out <- b
	switch p.Type() {
	case packet.PUBLISH, packet.SUBSCRIBE, packet.UNSUBSCRIBE:
		if d.stage.model.trouble {
			d.session.hears = notYet // the broker may not notice soon that the client has gone
		}
	}
}

// up reports whether the client may send what it likes.
func (d *device) up() bool { return d.link != nil && d.link.accepted }

func (d *device) connect(x deed) {
	x.clean = x.clean || d.anew
	hears := notYet
	if x.clean && d.session != nil { // the Session ends with the connection
		hears = d.session.hears
	}
	d.lose() // of two connections the broker ends the older
	if d.session != nil {
		d.session.hears = hears
	}
	if d.v < mqtt.V5 {
		x.n = 0
		if x.expiry = forever; x.clean {
			x.expiry = 0
		}
		x.will = min(x.will, 0)
	}
	d.asksWill, d.returning = nil, false
	if x.will >= 0 {
		d.asksWill = d.stage.model.will(d.name, x.qos)
	}
	if s := d.session; x.clean && s != nil && s.pending != nil {
		s.pending.due = time.Now() // the Session ends
	}
	d.ask(x)
}

// again connects as before, as a client does that has lost its connection.
func (d *device) again() {
	x := d.asked
	x.clean, d.returning = false, true
	d.ask(x)
}

func (d *device) ask(x deed) {
	c := &packet.Connect{Version: d.v, ClientID: d.name, CleanStart: x.clean}
	if d.v >= mqtt.V5 {
		c.Properties = &packet.Properties{SessionExpiry: uint32(x.expiry)}
		c.Properties.Mark(mqtt.SessionExpiryInterval)
		if x.n > 0 {
			c.Properties.Mark(mqtt.ReceiveMaximum)
			c.Properties.ReceiveMaximum = uint16(x.n)
		}
	}
	if w := d.asksWill; w != nil {
		c.Will = &packet.Will{Topic: w.topic, Payload: []byte(w.key), QoS: w.qos, Delay: uint32(x.will)}
	}
	if might, _ := d.session.present(time.Now(), false); !might {
		d.reset()
	}
	d.asked, d.anew = x, x.clean
	d.link = d.dial()
	d.link.most = x.n
	d.send(c)
}

// reset begins a Session anew.
func (d *device) reset() {
	clear(d.received)
	clear(d.releasing)
	clear(d.given)
	clear(d.refused)
	d.out = nil
}

func (d *device) disconnect(x deed) {
	if !d.up() {
		return
	}
	if x.expiry >= 0 && (x.n == 2 || d.v < mqtt.V5 || d.asked.expiry == 0) { // [MQTT-3.14.2-2]
		x.expiry = -1
	}
	p := &packet.Disconnect{Reason: mqtt.Success}
	if x.n == 1 && d.v >= mqtt.V5 {
		p.Reason = mqtt.DisconnectWithWill
	}
	if x.expiry >= 0 {
		p.Properties = &packet.Properties{SessionExpiry: uint32(x.expiry)}
		p.Properties.Mark(mqtt.SessionExpiryInterval)
	}
	if x.n == 2 {
		d.link.nc.Close()
	} else {
		d.send(p)
	}
	d.stage.model.lost(d, x.n < 2 && p.Reason == mqtt.Success, x.expiry)
	d.forget()
}

// lose is the end of a connection that the client does not want.
func (d *device) lose() {
	if d.link == nil {
		return
	}
	if d.link.accepted {
		d.stage.model.lost(d, false, -1)
	} else {
		d.stage.model.unanswered(d)
	}
	d.forget()
}

// stall lets nothing more arrive that the broker sends. What the client sends does.
func (d *device) stall() {
	if d.up() {
		d.link.stalled = true
		d.session.hears = notYet
	}
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
		if d.waiting[id] == nil && !slices.ContainsFunc(d.out, func(o *outgoing) bool { return o.id == id }) {
			return id
		}
	}
}

func (d *device) publish(x deed) {
	if !d.up() || len(d.out) > 300 {
		return
	}
	o := &outgoing{message: d.stage.model.publish(d.name, x)}
	if x.qos > 0 {
		o.id = d.freeID()
		d.out = append(d.out, o)
	}
	d.transmit(o, false)
}

func (d *device) transmit(o *outgoing, dup bool) {
	p := &packet.Publish{Topic: []byte(o.topic), QoS: o.qos, ID: o.id, Retain: o.retain, Dup: dup}
	if !o.empty {
		p.Payload = append([]byte(o.key+" "), make([]byte, o.bytes)...)
	}
	if d.v < mqtt.V5 {
		o.expiry = 0
	}
	if o.expiry > 0 {
		p.HasExpiry, p.Expiry = true, uint32(o.expiry/time.Second)
	}
	o.last = time.Now()
	d.send(p)
}

func (d *device) subscribe(x deed) {
	if !d.up() || len(d.waiting) > 0 {
		return
	}
	w := &wish{options: x.sub, filter: x.name, qos: x.qos}
	if isShared(x.name) {
		w.qos = max(w.qos, 1) // what a member takes at QoS 0 may be lost with its connection
	}
	p := &packet.Subscribe{ID: d.freeID()}
	if d.v < mqtt.V5 {
		w.options = options{}
	} else {
		w.id = filterID(x.name)
		p.Properties = &packet.Properties{SubscriptionID: w.id}
		p.Properties.Mark(mqtt.SubscriptionIdentifier)
	}
	p.Subscriptions = []packet.Subscription{{Filter: x.name, QoS: w.qos,
		NoLocal: w.noLocal, RetainAsPublished: w.asPublished, RetainHandling: w.handling}}
	d.waiting[p.ID] = d.stage.model.subscribe(d.session, w)
	d.send(p)
}

func (d *device) unsubscribe(filter string) {
	if !d.up() || len(d.waiting) > 0 {
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
		a := d.owed[0]
		d.owed = d.owed[1:]
		d.give(a)
	}
}

// owe answers the message with the key at once, or when its time has come. In a steady
// history a client answers at once what it has answered before, so that repetitions
// change nothing, and for the same reason the rest in the order in which the messages
// came first.
func (d *device) owe(p packet.Packet, key string) {
	a := answer{p, key}
	if d.patience == atOnce || d.patience == onlyPubrec && p.Type() == packet.PUBREC ||
		d.stage.steady && (key == "" || d.given[given{key, p.Type()}]) {
		d.give(a)
		return
	}
	d.owed = append(d.owed, a)
	if d.stage.steady {
		slices.SortStableFunc(d.owed, func(a, b answer) int { return cmp.Compare(d.place(a.key), d.place(b.key)) })
	}
}

// place is when the message came first.
func (d *device) place(key string) int {
	return slices.IndexFunc(d.view, func(s sight) bool { return s.key == key })
}

func (d *device) give(a answer) {
	d.given[given{a.key, a.Type()}] = true
	switch p := a.Packet.(type) {
	case *packet.Puback:
		delete(d.link.flight, p.ID)
	case *packet.Pubcomp:
		delete(d.link.flight, p.ID)
		delete(d.releasing, p.ID)
	}
	d.send(a.Packet)
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
		if !w.deaf && !w.stalled {
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
		if key, ok := d.received[e.id]; ok {
			delete(d.received, e.id)
			d.releasing[e.id] = key
		}
		d.owe(&packet.Pubcomp{ID: e.id}, d.releasing[e.id])
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
		d.view = append(d.view, sight{event: e})
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
	d.link.accepted, d.anew = true, false
	d.stage.model.connected(d, e.present)
	if !d.returning {
		d.view = append(d.view, sight{event: e})
	}
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
	x := m.messages[key]
	if x != nil {
		d.view = append(d.view, sight{e, x.by, key, x.qos})
	}
	switch e.qos {
	case mqtt.QoS1:
		d.owe(&packet.Puback{ID: e.id}, key)
	case mqtt.QoS2:
		before, again := d.received[e.id]
		d.received[e.id] = key
		d.owe(&packet.Pubrec{ID: e.id}, key)
		if again && before != key {
			m.fail("%s: message %s has packet id %d of %s, which is not released", d.name, key, e.id, before)
		}
		if again {
			d.view = d.view[:len(d.view)-1]
			return
		}
	}
	if e.retain {
		d.retained[e.topic] = key
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
		delete(d.refused, e.id)
		d.out = slices.Delete(d.out, i, i+1)
	case failed:
		if !d.stage.mayRefuse() {
			m.fail("%s: %s is refused: %v", d.name, o.key, e.reasons[0])
		}
		d.refused[e.id] = e.kind == packet.PUBREC
		d.out = slices.Delete(d.out, i, i+1)
	case e.kind == packet.PUBACK:
		m.acknowledged(o.message)
		d.out = slices.Delete(d.out, i, i+1)
	default:
		if repeatIsTaken || !o.resent || !d.refused[e.id] {
			m.acknowledged(o.message)
		}
		o.released = true
		d.send(&packet.Pubrel{ID: e.id})
	}
}
