package broker

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/store"
	"fairlead/store/mem"
	"fairlead/store/pebble"
	"fairlead/store/storetest"
)

// stage is a broker with its store and the clients around it.
type stage struct {
	*history
	t       *testing.T
	o       Options
	b       *Broker
	disk    *cutDisk          // nil: no store
	faults  *storetest.Faulty // nil: no store
	release func()            // of held Appends; nil: none are
	slept   bool              // time has passed since they are held
	devices []*device
	model   *model
}

func newStage(t *testing.T, h *history) *stage {
	s := &stage{history: h, t: t, model: newModel(h.limit)}
	s.o = Options{CheckpointEvery: time.Hour, Limits: h.limit.limits()}
	if h.often {
		s.o.CheckpointEvery = 2 * time.Second
	}
	if h.engine != noStore {
		s.disk = &cutDisk{Engine: h.engine.open(t)}
		s.disk.cut(-1)
		s.faults = storetest.NewFaulty(s.disk)
	}
	for i := range clients {
		v := mqtt.V5
		if i == oldClient {
			v = mqtt.V311
		}
		s.devices = append(s.devices, newDevice(s, fmt.Sprint("c", i), v))
	}
	s.start()
	return s
}

func (e engine) open(t *testing.T) store.Engine {
	if e == inMemory {
		return mem.New()
	}
	p, err := pebble.Open("data", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (l limit) limits() *Limits {
	return limits(func(o *Limits) {
		switch l {
		case short, drops:
			o.QueueMessages, o.DropOldest = shortQueue, l == drops
		case aging:
			o.QueueAge = queueAge * time.Second
		}
	})
}

func (s *stage) start() {
	if s.faults != nil {
		s.o.Store = s.faults
	}
	b, err := Open(s.t.Context(), s.o)
	if err != nil {
		panic(violated("Open: " + err.Error()))
	}
	s.b = b
	synctest.Wait()
}

func (s *stage) close() {
	s.heal()
	for _, d := range s.devices {
		d.cut()
	}
	if s.b != nil {
		s.b.Shutdown(context.Background())
	}
	if s.faults != nil {
		s.faults.Close()
	}
	synctest.Wait()
}

// heal ends all failures but a cut of the KV.
func (s *stage) heal() {
	if s.release != nil {
		s.release()
		s.release = nil
	}
	if s.faults != nil {
		s.faults.FailAppends(0, nil)
		s.faults.FailKV(0, nil)
		s.disk.cut(-1)
	}
}

// stop ends the broker. Clients see nothing more of it.
func (s *stage) stop() {
	for _, d := range s.devices {
		d.lose()
	}
	if err := s.b.Shutdown(context.Background()); err != nil {
		panic(violated("Shutdown: " + err.Error()))
	}
	s.b = nil
	synctest.Wait()
}

func (s *stage) crash(keep int) {
	for _, d := range s.devices {
		d.deaf()
	}
	s.model.gone(keep)
	next := s.faults.Crash(keep)
	s.stop()
	s.release = nil
	s.disk.cut(-1)
	s.faults = next
	s.start()
	s.model.calm()
}

// restart ends the broker properly. What could not be written to the journal may stand
// there all the same: keep is as for a crash.
func (s *stage) restart(keep int) {
	if s.release != nil {
		s.release()
		s.release = nil
		s.settle()
	}
	for _, d := range s.devices {
		d.deaf()
	}
	s.stop()
	s.model.gone(keep)
	next := s.faults.Crash(keep)
	s.heal()
	s.faults = next
	s.start()
	s.model.calm()
}

// settle lets everybody do what they have to do.
func (s *stage) settle() {
	for again := true; again; {
		synctest.Wait()
		again = false
		for _, ended := range []bool{true, false} { // Wills come after what they follow from
			for _, d := range s.devices {
				if d.ended() == ended {
					again = d.work() || again
				}
			}
		}
	}
}

// stuck reports whether the step would wait for a lock that somebody holds who waits
// for the journal: a bubble can't tell that from work.
func (s *stage) stuck(x deed) bool {
	if s.release == nil {
		return false
	}
	asks := func(d *device) bool { return d.link != nil && !d.link.accepted }
	return x.do == doConnect && (s.slept || asks(s.devices[x.who])) || x.do == doPass && slices.ContainsFunc(s.devices, asks)
}

// play takes the steps.
func (s *stage) play(steps []deed) {
	for i, x := range steps {
		s.model.at = fmt.Sprintf("step %d, %v", i, x)
		s.step(x)
	}
	s.model.at = "the end"
}

func (s *stage) step(x deed) {
	if s.stuck(x) {
		return
	}
	s.act(s.devices[x.who], x)
	s.settle()
}

func (s *stage) act(d *device, x deed) {
	switch x.do {
	case doConnect:
		d.connect(x)
	case doDisconnect:
		d.disconnect(x)
	case doStall:
		d.stall()
	case doSubscribe:
		if shareBeginsAgain || !s.beginsAgain(x.name) {
			d.subscribe(x)
		}
	case doUnsubscribe:
		d.unsubscribe(x.name)
	case doPublish, doRetain:
		for range x.n {
			d.publish(x)
		}
	case doAcks:
		d.giveAcks(x.n, x.patience)
	default:
		s.happen(x)
	}
}

// beginsAgain reports whether the Shared Subscription would begin when it might not be
// written yet that another one of that name has ended.
func (s *stage) beginsAgain(filter string) bool {
	k := s.b.keeper
	if k == nil || !isShared(filter) || s.b.router.share(filter) != nil {
		return false
	}
	s.checkpoint()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failing != nil
}

// happen does what no client does.
func (s *stage) happen(x deed) {
	switch x.do {
	case doPass:
		s.slept = true
		time.Sleep(time.Duration(x.n) * time.Second)
	case doCheckpoint:
		s.checkpoint()
	case doCrash:
		s.crash(x.n)
	case doRestart:
		s.restart(x.n)
	case doHold:
		s.hold()
	case doFailAppends:
		s.faults.FailAppends(x.n, errDisk)
		s.model.trouble = true
	case doFailKV:
		s.faults.FailKV(x.n, errDisk)
	case doCutKV:
		s.disk.cut(x.n)
	case doHeal:
		s.heal()
		s.settle()
		time.Sleep(2 * time.Second)
		s.settle()
		s.model.calm()
	}
}

func (s *stage) checkpoint() {
	if s.b.keeper != nil {
		s.b.keeper.checkpoint(s.t.Context())
	}
}

// hold lets Appends wait.
func (s *stage) hold() {
	if s.release == nil {
		s.release, s.slept = s.faults.HoldAppends(), false
		s.model.trouble = true
	}
}

// finish lets all clients come and take what waits for them, and looks at what is
// left.
func (s *stage) finish() {
	s.step(deed{do: doHeal})
	for _, d := range s.devices {
		if d.link != nil && d.link.stalled {
			d.disconnect(deed{n: 2, expiry: -1})
		}
	}
	time.Sleep(10 * time.Second) // Wills, and Sessions with a short time
	s.settle()
	for again := true; again; time.Sleep(5 * time.Second) {
		again = false
		for _, d := range s.devices {
			if d.link == nil { // again and again, if what it publishes is refused
				again = true
				d.connect(deed{do: doConnect, expiry: forever, will: -1})
				s.settle()
			}
			d.giveAcks(1<<20, atOnce)
			s.settle()
		}
	}
	s.settle()
	s.model.final()
	reader := newDevice(s, "reader", mqtt.V5)
	s.devices = append(s.devices, reader)
	reader.connect(deed{do: doConnect, clean: true, will: -1})
	s.settle()
	reader.subscribe(deed{name: "r/#", qos: 1})
	s.settle()
	s.model.finalRetained(reader.retained, retainTopics)
}

// over ends all Sessions, and checks that nothing is left of them, not even after a
// crash.
func (s *stage) over() {
	for _, d := range s.devices {
		d.disconnect(deed{expiry: -1})
		s.settle()
		d.connect(deed{do: doConnect, clean: true, will: -1})
		s.settle()
		d.disconnect(deed{expiry: -1})
		s.settle()
	}
	s.checkpoint()
	for _, prefix := range []string{sessionPrefix, chunkPrefix, sharePrefix} {
		if keys := s.keys(prefix); len(keys) > 0 {
			s.model.fail("left after all sessions have ended: %q", keys)
		}
	}
	s.crash(0)
	if n := s.b.Sessions.Load(); n != 0 {
		s.model.fail("%d sessions come back after all have ended", n)
	}
}

// drained checks that nothing is left of what has been delivered.
func (s *stage) drained() {
	s.checkpoint()
	s.checkpoint()
	if q, a, n := s.b.queued.Load(), s.b.away.Load(), s.b.QueuedMessages.Load(); q != 0 || a != 0 || n != 0 {
		s.model.fail("%d bytes of %d messages count as queued, %d bytes as on disk: want none", q, n, a)
	}
	if keys := s.keys(chunkPrefix); len(keys) > 0 {
		s.model.fail("chunks are left: %q", keys)
	}
	for filter, g := range s.b.router.shares {
		if g.pending.len() > 0 {
			s.model.fail("%s owes %d messages", filter, g.pending.len())
		}
	}
	for _, key := range s.keys(sessionPrefix) {
		if s.b.sessions[mqtt.ClientID(key[len(sessionPrefix):])] == nil {
			s.model.fail("%q is left", key)
		}
	}
	j := s.faults.Journal()
	if s.engine == onDisk {
		return // on disk it is trimmed by whole files
	}
	if first, next, err := j.Span(s.t.Context(), j.Own()); err != nil || first != next {
		s.model.fail("the journal has the records %d to %d, %v: want none", first, next, err)
	}
}

func (s *stage) keys(prefix string) (keys []string) {
	es, err := s.faults.KV().List(s.t.Context(), prefix, "", 1000)
	if err != nil {
		panic(violated("List: " + err.Error()))
	}
	for _, e := range es {
		keys = append(keys, e.Key)
	}
	return keys
}

// cutDisk is an Engine whose KV takes a number of changes and then none.
type cutDisk struct {
	store.Engine
	left atomic.Int64 // changes that still go through; negative: all
}

func (d *cutDisk) cut(after int) { d.left.Store(int64(after)) }
func (d *cutDisk) KV() store.KV  { return &cutKV{d.Engine.KV(), d} }

type cutKV struct {
	store.KV
	disk *cutDisk
}

func (k *cutKV) take() error {
	switch left := k.disk.left.Load(); {
	case left == 0:
		return errDisk
	case left > 0:
		k.disk.left.Add(-1)
	}
	return nil
}

func (k *cutKV) Put(ctx context.Context, key string, value []byte, o store.PutOptions) (store.Rev, error) {
	if err := k.take(); err != nil {
		return 0, err
	}
	return k.KV.Put(ctx, key, value, o)
}

func (k *cutKV) Batch(ctx context.Context, ops []store.Op) error {
	if err := k.take(); err != nil {
		return err
	}
	return k.KV.Batch(ctx, ops)
}

// serve gives a connection to the broker.
func (s *stage) serve(nc listen.Conn) { go s.b.Serve(nc) }

// mayRefuse reports whether a message that is refused is no surprise, or that the
// broker ends a connection.
func (s *stage) mayRefuse() bool { return s.model.trouble || s.limit == short }

// event is a packet that a client gets. A Reader uses packets again.
type event struct {
	at      time.Time
	kind    packet.Type
	id      mqtt.PacketID
	topic   string
	payload string
	qos     mqtt.QoS
	dup     bool
	retain  bool
	expiry  int // -1: none
	via     []uint32
	present bool
	reasons []mqtt.ReasonCode
	v5      bool // a client of 5.0 sees it
}

func (e event) String() string {
	return fmt.Sprintf("%v id=%d %s %.20q qos=%d dup=%v retain=%v expiry=%d via=%v", e.kind, e.id, e.topic, e.payload, e.qos, e.dup, e.retain, e.expiry, e.via)
}

func eventOf(p packet.Packet, v mqtt.Version) event {
	e := event{at: time.Now(), kind: p.Type(), expiry: -1, v5: v >= mqtt.V5}
	switch p := p.(type) {
	case *packet.Connack:
		e.present, e.reasons = p.SessionPresent, []mqtt.ReasonCode{p.Reason}
	case *packet.Publish:
		e.id, e.topic, e.payload, e.qos, e.dup, e.retain = p.ID, string(p.Topic), string(p.Payload), p.QoS, p.Dup, p.Retain
		if e.via = slices.Clone(p.SubscriptionIDs); p.HasExpiry {
			e.expiry = int(p.Expiry)
		}
	case *packet.Puback:
		e.id, e.reasons = p.ID, []mqtt.ReasonCode{p.Reason}
	case *packet.Pubrec:
		e.id, e.reasons = p.ID, []mqtt.ReasonCode{p.Reason}
	case *packet.Pubrel:
		e.id = p.ID
	case *packet.Pubcomp:
		e.id, e.reasons = p.ID, []mqtt.ReasonCode{p.Reason}
	case *packet.Suback:
		e.id, e.reasons = p.ID, append(e.reasons, p.Reasons...)
	case *packet.Unsuback:
		e.id, e.reasons = p.ID, append(e.reasons, p.Reasons...)
	case *packet.Disconnect:
		e.reasons = []mqtt.ReasonCode{p.Reason}
	}
	return e
}
