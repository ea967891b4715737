package broker

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
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

// A property test: random histories of what clients do, with ends of the broker and
// failures of its store in between. The model in model_test.go, which knows only the
// standard and what was acknowledged, says what the clients may and must see. A
// history that fails is printed with its seed, after all steps are dropped without
// which it fails as well.
var (
	propertyN    = flag.Int("property.n", 300, "how many histories TestProperty plays")
	propertySeed = flag.Uint64("property.seed", 1, "the seed of the first of them")
)

func TestProperty(t *testing.T) {
	for i := range *propertyN {
		seed := *propertySeed + uint64(i)
		h := newHistory(seed)
		err := h.play(t, seed)
		if err == nil {
			continue
		}
		h.shrink(t, seed)
		t.Errorf("go test ./broker -run TestProperty -property.n=1 -property.seed=%d\nat first: %v\nshrunk: %v\n%v",
			seed, err, h.play(t, seed), h)
		return
	}
}

// history is what happens in one world.
type history struct {
	often bool // checkpoints come by themselves
	disk  bool // the engine is that for disks
	tight bool // queues are soon full
	steps []deed
}

// deed is one thing that happens. What makes no sense at the time is left out, so
// that steps may be dropped.
type deed struct {
	do    action
	who   int // the client, if it is one's
	name  string
	qos   mqtt.QoS
	n     int
	clean bool
	other int // expiry, kind, bytes
	will  int // delay in seconds; -1: no Will
}

type action string

const (
	doConnect     action = "connect"
	doDisconnect  action = "disconnect"
	doSubscribe   action = "subscribe"
	doUnsubscribe action = "unsubscribe"
	doPublish     action = "publish"
	doRetain      action = "retain"
	doAcks        action = "acks"
	doPass        action = "pass"
	doCheckpoint  action = "checkpoint"
	doCrash       action = "crash"
	doRestart     action = "restart"
	doHold        action = "hold appends"
	doFailAppends action = "fail appends"
	doFailKV      action = "fail KV"
	doCutKV       action = "cut KV"
	doHeal        action = "heal"
)

const clients = 5

var (
	plainTopics  = []string{"a/a", "a/b", "b/b"}
	sharedTopic  = "s/x/y"
	retainTopics = []string{"r/1", "r/2"}
	filters      = []string{"a/a", "a/#", "+/b", "a/+", "r/#", "r/1", "w/#", "w/+", "$share/g/s/#", "$share/h/s/+/y", "$share/g/s/#"}
)

// taste is what one history has more of than others.
type taste struct {
	*rand.Rand
	active  int        // clients that do most
	qos     []mqtt.QoS // of messages and subscriptions
	topics  []string
	filters []string
}

func newTaste(r *rand.Rand) *taste {
	t := &taste{r, 2 + r.IntN(clients-1), []mqtt.QoS{0, 1, 2}, append([]string{sharedTopic}, plainTopics...), filters}
	if r.IntN(3) == 0 {
		t.qos = []mqtt.QoS{2, 2, 1}
	}
	switch r.IntN(4) {
	case 0:
		t.topics, t.filters = []string{sharedTopic}, []string{"$share/g/s/#", "$share/h/s/+/y"}
	case 1:
		t.topics, t.filters = []string{"a/a", "a/b"}, []string{"a/#", "a/+", "a/a"}
	}
	return t
}

func pick[T any](r *taste, list ...T) T { return list[r.IntN(len(list))] }

func newHistory(seed uint64) *history {
	r := newTaste(rand.New(rand.NewPCG(seed, 0)))
	h := &history{often: r.IntN(2) == 0, disk: seed%10 == 0, tight: seed%7 == 0}
	for who := range clients {
		h.steps = append(h.steps, r.connect(who))
		for range r.IntN(3) {
			h.steps = append(h.steps, r.subscribe(who))
		}
	}
	for range 5 + r.IntN(40) {
		h.steps = append(h.steps, r.steps()...)
	}
	return h
}

func (r *taste) connect(who int) deed {
	s := deed{do: doConnect, who: who, clean: r.IntN(4) == 0, n: pick(r, 0, 0, 0, 1, 2, 5),
		other: pick(r, 0, 8, 100_000, 100_000, 100_000), will: -1}
	if r.IntN(3) == 0 {
		s.will, s.qos = pick(r, 0, 5), mqtt.QoS(1+r.IntN(2))
	}
	return s
}

func (r *taste) subscribe(who int) deed {
	return deed{do: doSubscribe, who: who, name: pick(r, r.filters...), qos: pick(r, r.qos...)}
}

func (r *taste) publish(who, n, bytes int) deed {
	return deed{do: doPublish, who: who, name: pick(r, r.topics...), qos: pick(r, r.qos...), n: n, other: bytes}
}

// steps is one step, or a few that go together.
func (r *taste) steps() []deed {
	who := r.IntN(r.active)
	var x deed
	switch n := r.IntN(100); {
	case n < 13:
		x = r.connect(who)
	case n < 21:
		x = deed{do: doDisconnect, who: who, n: pick(r, 0, 1, 2, 2)}
	case n < 31:
		x = r.subscribe(who)
	case n < 34:
		x = deed{do: doUnsubscribe, who: who, name: pick(r, r.filters...)}
	case n < 50:
		x = r.publish(who, pick(r, 1, 1, 1, 2, 5), 10)
	case n < 53:
		x = r.publish(who, 20, 1000) // the queue of who is away goes to disk
	case n < 59:
		x = deed{do: doRetain, who: who, name: pick(r, retainTopics...), qos: mqtt.QoS(r.IntN(3)), n: r.IntN(4)}
	case n < 67:
		x = r.acks(who)
	case n < 73:
		x = deed{do: doPass, n: 1 + r.IntN(7)}
	case n < 77:
		x = deed{do: doCheckpoint}
	case n < 80:
		x = deed{do: doCrash, n: r.IntN(2)}
	case n < 82:
		x = deed{do: doRestart}
	case n < 84:
		x = deed{do: doHold}
	case n < 86:
		x = deed{do: doFailAppends, n: 1 + r.IntN(4)}
	case n < 87:
		x = deed{do: doFailKV, n: 1 + r.IntN(4)}
	case n < 88:
		x = deed{do: doCutKV, n: r.IntN(4)}
	case n < 91:
		x = deed{do: doHeal}
	case n < 94: // a crash within a checkpoint
		return []deed{{do: doCutKV, n: r.IntN(3)}, {do: doCheckpoint}, {do: doCrash}}
	case n < 97: // a crash with a record under way that others have led to
		return []deed{r.acks(r.IntN(r.active)), {do: doHold}, r.acks(who), r.publish(who, 1, 10), {do: doCheckpoint}, {do: doCrash, n: r.IntN(2)}}
	case n < 98: // a Session that begins anew while its old queue is on disk
		again := r.connect(who)
		again.clean, again.other = true, 100_000
		gone, other := deed{do: doDisconnect, who: who, n: 2}, r.IntN(clients)
		fill := r.publish(other, 20, pick(r, 1000, 70_000))
		return []deed{gone, fill, {do: doCheckpoint}, again, r.subscribe(who), gone, fill, {do: pick(r, doCheckpoint, doCrash)}}
	case n < 99:
		x = r.publish(who, 20, 70_000) // the queue of who is there goes to disk
	default: // the disk fails and the broker is stopped
		return []deed{{do: pick(r, doFailAppends, doFailKV), n: storetest.All}, r.publish(who, 1, 10), {do: doDisconnect, who: who, n: r.IntN(3)}, {do: doRestart}}
	}
	return []deed{x}
}

func (r *taste) acks(who int) deed {
	return deed{do: doAcks, who: who, n: r.IntN(4), other: r.IntN(3)}
}

func (h *history) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "checkpoints come by themselves: %v, store/pebble: %v, short queues: %v\n", h.often, h.disk, h.tight)
	for i, s := range h.steps {
		fmt.Fprintf(&b, "%2d %s\n", i, s)
	}
	return b.String()
}

func (s deed) String() string {
	switch s.do {
	case doConnect:
		text := fmt.Sprintf("c%d connect clean=%v expiry=%d receive=%d", s.who, s.clean, s.other, s.n)
		if s.will >= 0 {
			text += fmt.Sprintf(" will after %d qos=%d", s.will, s.qos)
		}
		return text
	case doDisconnect:
		return fmt.Sprintf("c%d %s", s.who, []string{"disconnect", "disconnect with will", "lost"}[s.n])
	case doPublish, doRetain:
		return fmt.Sprintf("c%d %s %s qos=%d n=%d bytes=%d", s.who, s.do, s.name, s.qos, s.n, s.other)
	case doSubscribe, doUnsubscribe:
		return fmt.Sprintf("c%d %s %s qos=%d", s.who, s.do, s.name, s.qos)
	case doAcks:
		return fmt.Sprintf("c%d gives %d acknowledgements, then %s", s.who, s.n, []string{"all at once", "none", "only PUBREC"}[s.other])
	}
	return fmt.Sprintf("%s %d", s.do, s.n)
}

// shrink drops steps as long as the history still fails.
func (h *history) shrink(t *testing.T, seed uint64) {
	for size := len(h.steps) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(h.steps); {
			less := &history{often: h.often, disk: h.disk, tight: h.tight}
			less.steps = append(append(less.steps, h.steps[:at]...), h.steps[at+size:]...)
			if less.play(t, seed) != nil {
				h.steps = less.steps
			} else {
				at += size
			}
		}
	}
}

// play plays the history and returns what is wrong, or nil.
func (h *history) play(t *testing.T, seed uint64) (err error) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, h, seed)
		defer func() {
			switch v := recover().(type) {
			case nil:
			case violated:
				err = v
			default:
				panic(v)
			}
			s.close()
		}()
		for i, step := range h.steps {
			s.model.at = fmt.Sprintf("step %d, %v", i, step)
			s.step(step)
		}
		s.model.at = "the end"
		s.finish()
	})
	return err
}

// violated is what the model panics with.
type violated string

func (v violated) Error() string { return string(v) }

// stage is a broker with its store and the clients around it.
type stage struct {
	t       *testing.T
	o       Options
	b       *Broker
	disk    *cutDisk
	faults  *storetest.Faulty
	release func() // of held Appends; nil: none are
	slept   bool   // time has passed since they are held
	devices []*device
	model   *model
}

func newStage(t *testing.T, h *history, seed uint64) *stage {
	s := &stage{t: t, disk: &cutDisk{Engine: mem.New()}, model: newModel()}
	s.disk.cut(-1)
	if h.disk {
		e, err := pebble.Open("data", pebble.Options{FS: vfs.NewMem()})
		if err != nil {
			t.Fatal(err)
		}
		s.disk.Engine = e
	}
	s.faults = storetest.NewFaulty(s.disk)
	s.o = Options{CheckpointEvery: time.Hour}
	if h.tight {
		s.o.Limits = limits(func(l *Limits) { l.QueueMessages = 3 })
	}
	if h.often {
		s.o.CheckpointEvery = 2 * time.Second
	}
	for i := range clients {
		v := mqtt.V5
		if i == 2 {
			v = mqtt.V311
		}
		s.devices = append(s.devices, newDevice(s, fmt.Sprint("c", i), v))
	}
	s.start()
	return s
}

func (s *stage) start() {
	s.o.Store = s.faults
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
	s.o.Store.Close()
	synctest.Wait()
}

// heal ends all failures but a cut of the KV.
func (s *stage) heal() {
	if s.release != nil {
		s.release()
		s.release = nil
	}
	s.faults.FailAppends(0, nil)
	s.faults.FailKV(0, nil)
	s.disk.cut(-1)
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
	next := s.faults.Crash(keep)
	s.stop()
	s.release = nil
	s.disk.cut(-1)
	s.faults = next
	s.start()
	s.model.calm()
}

func (s *stage) restart() {
	if s.release != nil {
		s.release()
		s.release = nil
		s.settle()
	}
	for _, d := range s.devices {
		d.deaf()
	}
	s.stop()
	s.heal()
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

func (s *stage) step(x deed) {
	if s.stuck(x) {
		return
	}
	d := s.devices[x.who]
	switch x.do {
	case doConnect:
		d.connect(x)
	case doDisconnect:
		d.disconnect(x.n)
	case doSubscribe:
		d.subscribe(x.name, x.qos)
	case doUnsubscribe:
		d.unsubscribe(x.name)
	case doPublish:
		for range x.n {
			d.publish(x.name, x.qos, false, x.other)
		}
	case doRetain:
		d.publish(x.name, x.qos, true, min(x.n, 1)*10)
	case doAcks:
		d.giveAcks(x.n, patience(x.other))
	case doPass:
		s.slept = true
		time.Sleep(time.Duration(x.n) * time.Second)
	case doCheckpoint:
		s.b.keeper.checkpoint(s.t.Context())
	case doCrash:
		s.crash(x.n)
	case doRestart:
		s.restart()
	case doHold:
		if s.release == nil {
			s.release, s.slept = s.faults.HoldAppends(), false
			s.model.trouble = true
		}
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
	s.settle()
}

// finish lets all clients come and take what waits for them, and looks at what is
// left.
func (s *stage) finish() {
	s.step(deed{do: doHeal})
	time.Sleep(10 * time.Second) // Wills, and Sessions with a short time
	s.settle()
	for again := true; again; time.Sleep(5 * time.Second) {
		again = false
		for _, d := range s.devices {
			if d.link == nil { // again and again, if what it publishes is refused
				again = true
				d.connect(deed{do: doConnect, other: 100_000, will: -1})
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
	reader.subscribe("r/#", mqtt.QoS1)
	s.settle()
	s.model.finalRetained(reader.retained, retainTopics)
	s.drained()
	for _, d := range s.devices {
		d.disconnect(0)
		s.settle()
		d.connect(deed{do: doConnect, clean: true, will: -1})
		s.settle()
		d.disconnect(0)
		s.settle()
	}
	s.empty()
	s.crash(0)
	if n := s.b.Sessions.Load(); n != 0 {
		s.model.fail("%d sessions come back after all have ended", n)
	}
}

// drained checks that nothing is left of what has been delivered.
func (s *stage) drained() {
	s.b.keeper.checkpoint(s.t.Context())
	s.b.keeper.checkpoint(s.t.Context())
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
	if _, inMemory := s.disk.Engine.(*mem.Engine); !inMemory {
		return // on disk it is trimmed by whole files
	}
	if first, next, err := j.Span(s.t.Context(), j.Own()); err != nil || first != next {
		s.model.fail("the journal has the records %d to %d, %v: want none", first, next, err)
	}
}

// empty checks that nothing is left of Sessions that have ended.
func (s *stage) empty() {
	s.b.keeper.checkpoint(s.t.Context())
	for _, prefix := range []string{sessionPrefix, chunkPrefix, sharePrefix} {
		if keys := s.keys(prefix); len(keys) > 0 {
			s.model.fail("left after all sessions have ended: %q", keys)
		}
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
func (s *stage) mayRefuse() bool { return s.model.trouble || s.o.Limits != nil }

// connackOf and others turn packets, which a Reader uses again, into values.
type event struct {
	kind    packet.Type
	id      mqtt.PacketID
	topic   string
	payload string
	qos     mqtt.QoS
	dup     bool
	retain  bool
	present bool
	reasons []mqtt.ReasonCode
}

func eventOf(p packet.Packet) event {
	e := event{kind: p.Type()}
	switch p := p.(type) {
	case *packet.Connack:
		e.present, e.reasons = p.SessionPresent, []mqtt.ReasonCode{p.Reason}
	case *packet.Publish:
		e.id, e.topic, e.payload, e.qos, e.dup, e.retain = p.ID, string(p.Topic), string(p.Payload), p.QoS, p.Dup, p.Retain
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
