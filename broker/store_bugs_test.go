package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/store"
	"fairlead/store/mem"
	"fairlead/store/storetest"
	"fairlead/trace"
)

// Each test here plays what has once gone wrong.

var errDisk = errors.New("write: input/output error")

// drain takes all that comes, acknowledges it for good, and returns the payloads.
func (p *peer) drain() (got []string) {
	p.w.Helper()
	for {
		line := p.next()
		var topic, payload string
		var q, id int
		switch n, _ := fmt.Sscanf(line, "PUBLISH %s %q qos=%d id=%d", &topic, &payload, &q, &id); {
		case n >= 2:
			got = append(got, payload)
			if q == 1 {
				p.send(&packet.Puback{ID: mqtt.PacketID(id)})
			} else if q == 2 {
				p.send(&packet.Pubrec{ID: mqtt.PacketID(id)})
			}
		case strings.HasPrefix(line, "PUBREL"):
			fmt.Sscanf(line, "PUBREL %d", &id)
			p.send(&packet.Pubcomp{ID: mqtt.PacketID(id)})
		case line == "silence":
			return got
		default:
			p.w.Fatalf("got %q, want a message", line)
		}
	}
}

// wantAll checks all that comes, in any order, each once.
func (p *peer) wantAll(want ...string) {
	p.w.Helper()
	got := p.drain()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		p.w.Errorf("got %q, want %q", got, want)
	}
}

// wantFilled checks that what fill has published comes in its order.
func (p *peer) wantFilled(n int) {
	p.w.Helper()
	got := p.drain()
	if len(got) != n {
		p.w.Errorf("got %d messages, want %d", len(got), n)
	}
	for i, payload := range got {
		if !strings.HasPrefix(payload, fmt.Sprint(i, " ")) {
			p.w.Fatalf("message %d: got %.5q", i, payload)
		}
	}
}

// chunks lists the chunks that are in the KV.
func (w *world) chunks() (keys []string) {
	w.Helper()
	es, err := w.o.Store.KV().List(w.Context(), chunkPrefix, "", 1000)
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range es {
		keys = append(keys, e.Key)
	}
	return keys
}

// fill publishes n messages of a KiB for a session that is to keep them.
func (w *world) fill(topic string, n int) {
	w.Helper()
	pub := w.connect(mqtt.V5, "filler")
	for i := range n {
		pub.publish(topic, fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000)), mqtt.QoS1)
		pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", pub.nextID))
	}
	pub.close()
}

// TestNewSessionKeepsItsChunks begins a Session anew whose queue was on disk: the
// queue of the new one goes to the same keys, and stays there.
func TestNewSessionKeepsItsChunks(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		w.fill("a", 100)
		w.checkpoint()
		if len(w.chunks()) == 0 {
			t.Fatal("nothing is on disk")
		}
		sub = w.connect(mqtt.V5, "sub", expiry(1000), func(c *packet.Connect) { c.CleanStart = true })
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		w.fill("a", 50)
		again()
		w.checkpoint()
		sub = w.resumed(mqtt.V5, "sub")
		sub.wantFilled(50)
		w.checkpoint()
		if keys := w.chunks(); len(keys) > 0 {
			t.Errorf("chunks are left: %q", keys)
		}
	})
}

// TestChunksBeforeCrash spills a queue, and ends before a checkpoint tells of it:
// what is on disk then goes with the queue, or with the Session.
func TestChunksBeforeCrash(t *testing.T) {
	for _, ends := range []bool{false, true} {
		playStored(t, Options{}, func(w *world) {
			sub := w.connect(mqtt.V5, "sub", expiry(1000))
			sub.subscribe("a", mqtt.QoS1)
			sub.close()
			w.checkpoint()
			w.fill("a", 50)
			w.b.keeper.spill(w.Context(), w.b.sessions["sub"])
			if len(w.chunks()) == 0 {
				t.Fatal("nothing is on disk")
			}
			w.crash()
			if ends {
				sub = w.connect(mqtt.V5, "sub")
				sub.want("silence")
			} else {
				sub = w.resumed(mqtt.V5, "sub")
				sub.wantFilled(50)
			}
			w.checkpoint()
			if keys := w.chunks(); len(keys) > 0 {
				t.Errorf("session ended: %v: chunks are left: %q", ends, keys)
			}
		})
	}
}

// TestCheckpointBetweenSendAndMark takes a checkpoint while a QoS 2 message waits
// for the record that it is under way, and one behind it is under way already.
func TestCheckpointBetweenSendAndMark(t *testing.T) {
	for _, keep := range []int{0, 1} {
		playStored(t, Options{}, func(w *world) {
			sub := w.connect(mqtt.V5, "sub", expiry(1000), receiveMaximum(2))
			sub.subscribe("a", mqtt.QoS2)
			pub := w.connect(mqtt.V5, "pub")
			for i, q := range []mqtt.QoS{1, 1, 2, 1} {
				pub.publish("a", fmt.Sprint(i), q)
				pub.next()
			}
			sub.want(`PUBLISH a "0" qos=1 id=1`, `PUBLISH a "1" qos=1 id=2`)
			w.faults.HoldAppends()
			sub.send(&packet.Puback{ID: 2})
			synctest.Wait()
			w.b.keeper.checkpoint(w.Context())
			next := w.faults.Crash(keep)
			w.stop()
			w.faults, w.o.Store = next, next
			w.start()
			sub = w.resumed(mqtt.V5, "sub")
			sub.wantAll("0", "2", "3")
		})
	}
}

// TestQueuedSharedQoS2 lets a QoS 2 message wait in a member that ends with its
// connection: that it is sent must be on record, or it is given to another one.
func TestQueuedSharedQoS2(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		durable := w.connect(mqtt.V5, "durable", expiry(1000))
		durable.subscribe("$share/g/a", mqtt.QoS2)
		durable.close()
		member := w.connect(mqtt.V5, "member", receiveMaximum(1))
		member.subscribe("$share/g/a", mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "one", mqtt.QoS2)
		pub.want("PUBREC 1 0x00 Success")
		pub.publish("a", "two", mqtt.QoS2)
		pub.want("PUBREC 2 0x00 Success")
		member.wantAll("one", "two")
		w.crash()
		durable = w.resumed(mqtt.V5, "durable")
		durable.want("silence")
	})
}

// TestSharedQoS0Settles gives a message to a member that takes QoS 0: nobody is to
// acknowledge it, and nothing is owed.
func TestSharedQoS0Settles(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		durable := w.connect(mqtt.V5, "durable", expiry(1000))
		durable.subscribe("$share/g/a", mqtt.QoS2)
		durable.close()
		absent := w.connect(mqtt.V5, "absent", expiry(1000))
		absent.subscribe("$share/g/a", mqtt.QoS0)
		absent.close()
		member := w.connect(mqtt.V5, "member")
		member.subscribe("$share/g/a", mqtt.QoS0)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "one", mqtt.QoS1)
		member.want(`PUBLISH a "one"`)
		if n := w.b.router.share("$share/g/a").pending.len(); n > 0 {
			t.Errorf("the group owes %d messages, want none", n)
		}
		w.checkpoint()
		member.close()
		for i := range 4 { // not to the one that takes only QoS 0 and is away
			pub.publish("a", fmt.Sprint(i), mqtt.QoS1)
		}
		pub.want("PUBACK 1 0x00 Success", "PUBACK 2 0x00 Success", "PUBACK 3 0x00 Success", "PUBACK 4 0x00 Success", "PUBACK 5 0x00 Success")
		w.crash()
		durable = w.resumed(mqtt.V5, "durable")
		durable.wantAll("0", "1", "2", "3")
	})
}

// TestSharedGoesToFullMember ends a member with an acknowledged message, when the
// queue of the only other one is full.
func TestSharedGoesToFullMember(t *testing.T) {
	o := Options{Limits: limits(func(l *Limits) { l.QueueMessages = 1 })}
	playStored(t, o, func(w *world) {
		durable := w.connect(mqtt.V5, "durable", expiry(1000))
		durable.subscribe("$share/g/a", mqtt.QoS1)
		durable.close()
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "one", mqtt.QoS1)
		pub.want("PUBACK 1 0x00 Success")
		member := w.connect(mqtt.V5, "member", receiveMaximum(1))
		member.subscribe("$share/g/a", mqtt.QoS1)
		member.want(`PUBLISH a "one" qos=1 id=1`)
		pub.publish("a", "two", mqtt.QoS1)
		pub.want("PUBACK 2 0x00 Success")
		pub.publish("a", "three", mqtt.QoS1)
		pub.want("PUBACK 3 0x00 Success")
		member.close()
		durable = w.resumed(mqtt.V5, "durable")
		durable.wantAll("one", "two", "three")
	})
}

// TestTroubleAnswersAll lets more clients leave than a record has room for while
// the journal can't be written: who publishes is told so all the same.
func TestTroubleAnswersAll(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		pub := w.connect(mqtt.V5, "pub")
		w.faults.FailAppends(2, errDisk)
		pub.publish("a", "x", mqtt.QoS1)
		pub.want("PUBACK 1 0x80 Unspecified error")
		for i := range recordOps + 10 {
			w.b.committer.later(nil, &journal.Op{Kind: journal.Off, Client: mqtt.ClientID(fmt.Sprint(i))})
		}
		pub.publish("a", "y", mqtt.QoS1)
		pub.want("PUBACK 2 0x80 Unspecified error")
		pub.publish("a", "z", mqtt.QoS1)
		pub.want("PUBACK 3 0x00 Success")
	})
}

// TestWillOnceBeforeEnd ends the broker when the Will is on record, and the end of
// its Session is not.
func TestWillOnceBeforeEnd(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		watch := w.connect(mqtt.V5, "watch", expiry(1000))
		watch.subscribe("will", mqtt.QoS1)
		watch.close()
		sick := w.connect(mqtt.V5, "sick", will("will", "gone", 0))
		w.faults.HoldAppends()
		sick.close()
		next := w.faults.Crash(1)
		w.stop()
		w.faults, w.o.Store = next, next
		w.start()
		watch = w.resumed(mqtt.V5, "watch")
		watch.wantAll("gone")
	})
}

// TestEndDelayedByTrouble lets the time of a Session pass while its Will can't be
// committed: who comes then does not find it.
func TestEndDelayedByTrouble(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		watch := w.connect(mqtt.V5, "watch", expiry(1000))
		watch.subscribe("will", mqtt.QoS1)
		p := w.connect(mqtt.V5, "sick", will("will", "gone", 0))
		w.faults.FailAppends(2, errDisk)
		p.close()
		p = w.dial()
		p.hello(mqtt.V5, "sick", expiry(1000))
		p.want("CONNACK present=false 0x88 Server unavailable")
		p = w.dial()
		p.hello(mqtt.V5, "sick", expiry(1000))
		p.want("CONNACK present=false 0x00 Success")
		watch.wantAll("gone")
	})
}

// TestCheckpointBetweenDeliverAndTake takes a checkpoint when a QoS 2 message has
// been delivered to its own publisher.
func TestCheckpointBetweenDeliverAndTake(t *testing.T) {
	var w *world
	var once sync.Once
	hooks := &trace.Hooks{Deliver: func(trace.Deliver) { once.Do(func() { w.b.keeper.checkpoint(w.Context()) }) }}
	playStored(t, Options{Trace: hooks}, func(play *world) {
		w = play
		self := w.connect(mqtt.V5, "self", expiry(1000))
		self.subscribe("a", mqtt.QoS1)
		self.publish("a", "x", mqtt.QoS2)
		synctest.Wait()
		w.crash()
		self = w.resumed(mqtt.V5, "self")
		self.wantAll("x")
		self.send(&packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: mqtt.QoS2, ID: 2, Dup: true})
		self.want("PUBREC 2 0x00 Success", "silence")
	})
}

// TestSharedBetweenTwoWrites lets a QoS 2 message of a Shared Subscription go to
// its member between the moments at which a checkpoint looks at the two.
func TestSharedBetweenTwoWrites(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		member := w.connect(mqtt.V5, "member", expiry(1000), receiveMaximum(1))
		member.subscribe("$share/g/a", mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "one", mqtt.QoS2)
		pub.want("PUBREC 1 0x00 Success")
		pub.publish("a", "two", mqtt.QoS2)
		pub.want("PUBREC 2 0x00 Success")
		member.want(`PUBLISH a "one" qos=2 id=1`)
		kw := &kvWriter{ctx: w.Context(), kv: w.o.Store.KV()}
		w.b.mu.Lock()
		s := w.b.sessions["member"]
		w.b.mu.Unlock()
		s.write(kw)
		member.send(&packet.Pubrec{ID: 1})
		member.want("PUBREL 1")
		member.send(&packet.Pubcomp{ID: 1})
		member.want(`PUBLISH a "two" qos=2 id=2`)
		w.b.router.share("$share/g/a").write(kw, w.b)
		if kw.flush(); kw.err != nil {
			t.Fatal(kw.err)
		}
		w.crash()
		member = w.resumed(mqtt.V5, "member")
		member.want(`PUBLISH a "two" qos=2 id=2 dup`)
	})
}

// TestGroupAnew ends a Shared Subscription and begins it again while the KV can't
// be written: the end of the old one is written last, and takes nothing away.
func TestGroupAnew(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		member := w.connect(mqtt.V5, "member", expiry(1000))
		member.subscribe("$share/g/a", mqtt.QoS1)
		old := w.b.router.share("$share/g/a")
		member.send(&packet.Unsubscribe{ID: 9, Filters: []string{"$share/g/a"}})
		member.want("UNSUBACK 9 00")
		member.subscribe("$share/g/a", mqtt.QoS1)
		member.close()
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "one", mqtt.QoS1)
		pub.want("PUBACK 1 0x00 Success")
		old.mu.Lock()
		old.dirty = false
		old.dirtyLocked(w.b.keeper)
		old.mu.Unlock()
		w.checkpoint()
		w.crash()
		member = w.resumed(mqtt.V5, "member")
		member.want(`PUBLISH a "one" qos=1 id=1`)
	})
}

// TestGroupOfEndedMember ends the only member of a Shared Subscription by the end
// of the broker: nothing is left of the group.
func TestGroupOfEndedMember(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		w.connect(mqtt.V5, "member", expiry(1000)).subscribe("$share/g/a", mqtt.QoS1)
		w.connect(mqtt.V5, "member", expiry(0))
		w.checkpoint()
		w.crash()
		w.checkpoint()
		if es, err := w.o.Store.KV().List(w.Context(), sharePrefix, "", 10); err != nil || len(es) > 0 {
			t.Errorf("%d groups are left, %v", len(es), err)
		}
	})
}

// TestCleanStartInTrouble begins a Session anew while the journal can't be written,
// first one that is to last, which is refused, then one that needs no journal: the
// old one does not come back.
func TestCleanStartInTrouble(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		w.connect(mqtt.V5, "c", expiry(1000)).close()
		w.faults.FailAppends(3, errDisk)
		c := w.dial()
		c.hello(mqtt.V5, "c", expiry(1000), func(c *packet.Connect) { c.CleanStart = true })
		c.want("CONNACK present=false 0x88 Server unavailable")
		for line := ""; line != "CONNACK present=false 0x00 Success"; {
			c = w.dial()
			c.hello(mqtt.V5, "c")
			line = c.next()
		}
		w.crash()
		c = w.dial()
		c.hello(mqtt.V5, "c", resume)
		c.want("CONNACK present=false 0x00 Success")
		if len(w.b.ending) > 0 {
			t.Errorf("still ending: %v", w.b.ending)
		}
	})
}

// TestChunksReadBeforeCrash ends the broker when a Session is written that has read
// from disk, and what it has read is not deleted.
func TestChunksReadBeforeCrash(t *testing.T) {
	playStored(t, Options{CheckpointEvery: time.Hour}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		w.fill("a", 20)
		w.b.keeper.checkpoint(w.Context())
		sub = w.resumed(mqtt.V5, "sub")
		sub.wantFilled(20)
		kw := &kvWriter{ctx: w.Context(), kv: w.o.Store.KV()}
		w.b.sessions["sub"].write(kw)
		kw.ops = kw.ops[:1]
		if kw.flush(); kw.err != nil || len(w.chunks()) == 0 {
			t.Fatalf("%v, %d chunks", kw.err, len(w.chunks()))
		}
		w.crash()
		w.b.keeper.checkpoint(w.Context())
		if keys := w.chunks(); len(keys) > 0 {
			t.Errorf("chunks are left: %q", keys)
		}
	})
}

// meanwhile is an Engine that does something else before the next Batch of its KV.
type meanwhile struct {
	store.Engine
	do func()
}

func (m *meanwhile) KV() store.KV { return meanwhileKV{m.Engine.KV(), m} }

type meanwhileKV struct {
	store.KV
	m *meanwhile
}

func (k meanwhileKV) Batch(ctx context.Context, ops []store.Op) error {
	if do := k.m.do; do != nil {
		k.m.do = nil
		do()
	}
	return k.KV.Batch(ctx, ops)
}

// TestEndDuringCheckpoint ends a Session with a queue on disk between the moments at
// which a checkpoint deletes what has ended and writes what has not.
func TestEndDuringCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &meanwhile{Engine: mem.New()}
		w := &world{T: t, o: Options{CheckpointEvery: time.Hour, Store: storetest.NewFaulty(m)}}
		w.faults = w.o.Store.(*storetest.Faulty)
		defer func() { w.o.Store.Close() }()
		w.run(func(w *world) {
			w.connect(mqtt.V5, "other", expiry(1)).close()
			time.Sleep(2 * time.Second)
			sub := w.connect(mqtt.V5, "sub", expiry(1000))
			sub.subscribe("a", mqtt.QoS1)
			sub.close()
			w.fill("a", 50)
			w.b.keeper.spill(w.Context(), w.b.sessions["sub"])
			w.connect(mqtt.V5, "other", expiry(1)).close()
			time.Sleep(2 * time.Second)
			m.do = func() {
				w.connect(mqtt.V5, "sub").close() // Clean Start
			}
			w.b.keeper.checkpoint(w.Context())
			w.crash()
			w.b.keeper.checkpoint(w.Context())
			if keys := w.chunks(); len(keys) > 0 {
				t.Errorf("chunks are left: %q", keys)
			}
		})
	})
}

// TestSpillFailsQuietly lets a long queue grow while the KV can't be written: it is
// tried each second, not with each message.
func TestSpillFailsQuietly(t *testing.T) {
	var log bytes.Buffer
	playStored(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		w.faults.FailKV(storetest.All, errDisk)
		w.fill("a", 1500)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		w.faults.FailKV(0, nil)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := strings.Count(log.String(), "could not be moved"); n == 0 || n > 5 {
			t.Errorf("%d warnings, want a few", n)
		}
		if w.b.inMemory() > 0 {
			t.Errorf("%d bytes of the queue are in memory", w.b.inMemory())
		}
		sub = w.resumed(mqtt.V5, "sub")
		sub.wantFilled(1500)
	})
}

// TestEndDuringSpill ends a Session, and all that is known of it, while its queue is
// written to disk.
func TestEndDuringSpill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &meanwhile{Engine: mem.New()}
		w := &world{T: t, o: Options{CheckpointEvery: time.Hour, Store: storetest.NewFaulty(m)}}
		w.faults = w.o.Store.(*storetest.Faulty)
		defer func() { w.o.Store.Close() }()
		w.run(func(w *world) {
			sub := w.connect(mqtt.V5, "sub", expiry(1000))
			sub.subscribe("a", mqtt.QoS1)
			sub.close()
			w.fill("a", 10)
			s := w.b.sessions["sub"]
			w.b.keeper.checkpoint(w.Context())
			w.fill("a", 50)
			m.do = func() {
				w.connect(mqtt.V5, "sub").close() // Clean Start
				if err := w.b.keeper.bury(w.Context()); err != nil {
					t.Error(err)
				}
			}
			w.b.keeper.spill(w.Context(), s)
			w.crash()
			w.b.keeper.checkpoint(w.Context())
			if keys := w.chunks(); len(keys) > 0 {
				t.Errorf("chunks are left: %q", keys)
			}
		})
	})
}

// TestRefusedButWritten refuses QoS 2 messages because the disk fails, in whose record
// nothing is missing after the crash. A new message under the same Packet Identifier is
// another one; a Client that does not know of the refusal repeats the old one.
func TestRefusedButWritten(t *testing.T) {
	for name, again := range map[string]func(w *world){
		"crash":                  func(*world) {},
		"crash after checkpoint": func(w *world) { w.checkpoint(); w.crash() },
		"two crashes":            func(w *world) { w.crash() },
		"crash after another": func(w *world) {
			w.connect(mqtt.V5, "other", expiry(1000)).close() // writes a record behind it
			w.crash()
		},
	} {
		t.Run(name, func(t *testing.T) {
			playStored(t, Options{}, func(w *world) {
				sub := w.connect(mqtt.V5, "sub", expiry(1000))
				sub.subscribe("#", mqtt.QoS1)
				sub.close()
				pub := w.connect(mqtt.V5, "pub", expiry(1000))
				send := func(id mqtt.PacketID, payload string, dup bool) {
					pub.send(&packet.Publish{Topic: []byte("a"), Payload: []byte(payload), QoS: mqtt.QoS2, ID: id, Dup: dup})
				}
				w.faults.FailAppends(storetest.All, syscall.EIO)
				pub.send(
					&packet.Publish{Topic: []byte("a"), Payload: []byte("one"), QoS: mqtt.QoS2, ID: 7},
					&packet.Publish{Topic: []byte("a"), Payload: []byte("ten"), QoS: mqtt.QoS2, ID: 8})
				pub.want("PUBREC 7 0x80 Unspecified error",
					"PUBREC 8 0x80 Unspecified error")
				next := w.faults.Crash(1)
				w.stop()
				w.faults, w.o.Store = next, next
				w.start()
				again(w)
				pub = w.resumed(mqtt.V5, "pub")
				send(7, "two", false) // it has been told that one is refused
				pub.want("PUBREC 7 0x00 Success")
				send(8, "ten", true) // as if it had not been told
				pub.want("PUBREC 8 0x00 Success")
				w.crash()
				pub = w.resumed(mqtt.V5, "pub")
				send(7, "two", true)
				pub.want("PUBREC 7 0x00 Success")
				sub = w.resumed(mqtt.V5, "sub")
				sub.want(`PUBLISH a "one" qos=1 id=1`, `PUBLISH a "ten" qos=1 id=2`, `PUBLISH a "two" qos=1 id=3`, "silence")
			})
		})
	}
}

// TestMemberEndsBeforeSend ends the session of a Shared Subscription's member while
// QoS 2 messages wait for the record that they are under way to it: nothing has been
// sent, so another member gets them, once, whatever happens then [MQTT-4.8.2-5].
func TestMemberEndsBeforeSend(t *testing.T) {
	type end struct {
		name string
		then func(w *world, release func())
	}
	for _, e := range []end{
		{"on record", func(w *world, release func()) { release() }},
		{"on record, crash", func(w *world, release func()) { release(); synctest.Wait(); w.crash() }},
		{"on record, checkpoint, crash", func(w *world, release func()) { release(); w.checkpoint(); w.crash() }},
		{"not on record, crash", func(w *world, release func()) { w.crash() }},
		{"disk trouble", func(w *world, release func()) { w.faults.FailAppends(2, syscall.EIO); release(); w.checkpoint() }},
		{"disk trouble, crash", func(w *world, release func()) {
			w.faults.FailAppends(2, syscall.EIO)
			release()
			w.checkpoint()
			w.crash()
		}},
	} {
		for _, q := range []mqtt.QoS{1, 2} {
			t.Run(fmt.Sprint(e.name, " qos ", q), func(t *testing.T) {
				playStored(t, Options{}, func(w *world) {
					durable := w.connect(mqtt.V5, "durable", expiry(1000))
					durable.subscribe("$share/g/a", q)
					durable.close()
					member := w.connect(mqtt.V5, "member", receiveMaximum(2))
					member.subscribe("$share/g/a", mqtt.QoS2)
					pub := w.connect(mqtt.V5, "pub")
					for i, payload := range []string{"0", "1", "two", "three"} {
						pub.publish("a", payload, mqtt.QoS(1+i/2))
						pub.next()
					}
					member.want(`PUBLISH a "0" qos=1 id=1`, `PUBLISH a "1" qos=1 id=2`)
					release := w.faults.HoldAppends()
					member.send(&packet.Puback{ID: 1})
					synctest.Wait() // the mark of two is in a record
					member.send(&packet.Puback{ID: 2})
					synctest.Wait() // the mark of three waits for its turn
					if w.faults.Held() != 1 {
						w.Fatalf("%d records are being written, want 1", w.faults.Held())
					}
					member.send(&packet.Disconnect{})
					member.close()
					e.then(w, release)
					synctest.Wait()
					durable = w.resumed(mqtt.V5, "durable")
					got := durable.drain()
					slices.Sort(got)
					if want := []string{"three", "two"}; !slices.Equal(slices.DeleteFunc(got, func(s string) bool { return len(s) == 1 }), want) {
						w.Errorf("the other member got %q, want %q", got, want)
					}
					w.crash()
					durable = w.resumed(mqtt.V5, "durable")
					for _, payload := range durable.drain() {
						if len(payload) > 1 && q == mqtt.QoS2 {
							w.Errorf("%q came again", payload)
						}
					}
				})
			})
		}
	}
}

// TestUnsubscribedFromShare lets the last lasting member leave a Shared Subscription
// with messages under way and waiting: they are still its own [MQTT-3.10.4-3].
func TestUnsubscribedFromShare(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000), receiveMaximum(2))
		sub.subscribe("$share/g/a", mqtt.QoS2)
		other := w.connect(mqtt.V5, "other")
		other.subscribe("$share/g/b", mqtt.QoS1)
		pub := w.connect(mqtt.V5, "pub")
		for i := range 5 {
			pub.publish("a", fmt.Sprint(i), mqtt.QoS(1+i%2))
			pub.next()
		}
		sub.want(`PUBLISH a "0" qos=1 id=1`, `PUBLISH a "1" qos=2 id=2`)
		sub.send(&packet.Unsubscribe{ID: 9, Filters: []string{"$share/g/a"}})
		sub.want("UNSUBACK 9 00")
		sub.close()
		again()
		sub = w.resumed(mqtt.V5, "sub")
		sub.wantAll("0", "1", "2", "3", "4")
	})
}

// TestGroupIsWrittenInPages has a Shared Subscription owe many messages: a checkpoint
// writes what has changed of them, and a restart finds the rest.
func TestGroupIsWrittenInPages(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		const n = 3 * pageNumbers
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("$share/g/a", mqtt.QoS1)
		sub.close()
		pages := func() map[string]store.Rev {
			w.checkpoint()
			es, err := w.o.Store.KV().List(w.Context(), sharePrefix, "", 1000)
			if err != nil {
				w.Fatal(err)
			}
			revs := make(map[string]store.Rev)
			for _, e := range es {
				if _, page := splitPageKey(e.Key[len(sharePrefix):]); page {
					revs[e.Key] = e.Rev
				}
			}
			return revs
		}
		w.fill("a", n)
		before := pages()
		w.fill("a", 1)
		after := pages()
		same := 0
		for key, rev := range before {
			if after[key] == rev {
				same++
			}
		}
		if len(before) < 3 || same < len(before)-1 {
			t.Errorf("of %d pages %d stayed as they were when one message came, want all but one", len(before), same)
		}
		w.crash()
		sub = w.resumed(mqtt.V5, "sub")
		if got := sub.drain(); len(got) != n+1 || !strings.HasPrefix(got[n-1], fmt.Sprint(n-1, " ")) {
			t.Errorf("got %d messages, want %d in their order", len(got), n+1)
		}
		if left := pages(); len(left) > 0 {
			t.Errorf("%d pages are left of what has been acknowledged", len(left))
		}
		w.crash()
		w.resumed(mqtt.V5, "sub").want("silence")
	})
}
