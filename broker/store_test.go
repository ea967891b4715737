package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/store"
	"fairlead/store/mem"
	"fairlead/store/storetest"
)

// resumed connects the Client again, whose Session must be there.
func (w *world) resumed(v mqtt.Version, id string, change ...func(c *packet.Connect)) *peer {
	w.Helper()
	p := w.dial()
	p.hello(v, id, append([]func(c *packet.Connect){expiry(1000)}, change...)...)
	p.want("CONNACK present=true 0x00 Success")
	return p
}

// TestQoS1Survives keeps acknowledged messages for an absent client, in order,
// with their properties.
func TestQoS1Survives(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a/#", mqtt.QoS1)
		old := w.connect(mqtt.V311, "old", resume)
		old.subscribe("a/+", mqtt.QoS1)
		sub.close()
		old.close()
		pub := w.connect(mqtt.V5, "pub")
		for i := range 3 {
			pub.publish("a/b", fmt.Sprint(i), mqtt.QoS1, func(m *packet.Publish) { m.HasExpiry, m.Expiry = true, 100 })
			pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", i+1))
		}
		again()
		sub = w.resumed(mqtt.V5, "sub")
		for i := range 3 {
			line := sub.next()
			if want := fmt.Sprintf(`PUBLISH a/b "%d" qos=1 id=%d expiry=`, i, i+1); len(line) < len(want) || line[:len(want)] != want {
				t.Errorf("got %q, want %s...", line, want)
			}
		}
		old = w.resumed(mqtt.V311, "old")
		for i := range 3 {
			old.want(fmt.Sprintf(`PUBLISH a/b "%d" qos=1 id=%d`, i, i+1))
		}
		sub.want("silence")
	})
}

// TestAcknowledgedIsGone lets a checkpoint know what has been acknowledged.
func TestAcknowledgedIsGone(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "x", mqtt.QoS1)
		pub.publish("a", "y", mqtt.QoS1)
		sub.want(`PUBLISH a "x" qos=1 id=1`, `PUBLISH a "y" qos=1 id=2`)
		sub.send(&packet.Puback{ID: 1})
		w.checkpoint()
		w.crash()
		sub = w.resumed(mqtt.V5, "sub")
		sub.want(`PUBLISH a "y" qos=1 id=2 dup`, "silence")
	})
}

// TestQoS2FromClientSurvives repeats each packet of a QoS 2 publication after the
// broker has ended: the message is delivered once, and a new message under the
// same Packet Identifier is another one [MQTT-4.3.3-10].
func TestQoS2FromClientSurvives(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		pub := w.connect(mqtt.V5, "pub", expiry(1000))
		send := func(payload string, dup bool) {
			pub.send(&packet.Publish{Topic: []byte("a"), Payload: []byte(payload), QoS: mqtt.QoS2, ID: 7, Dup: dup})
		}
		send("one", false)
		pub.want("PUBREC 7 0x00 Success")
		again()
		pub = w.resumed(mqtt.V5, "pub")
		send("one", true)
		pub.want("PUBREC 7 0x00 Success")
		pub.send(&packet.Pubrel{ID: 7})
		pub.want("PUBCOMP 7 0x00 Success")
		again()
		pub = w.resumed(mqtt.V5, "pub")
		send("two", false)
		pub.want("PUBREC 7 0x00 Success")
		pub.send(&packet.Pubrel{ID: 7})
		pub.want("PUBCOMP 7 0x00 Success")
		sub = w.resumed(mqtt.V5, "sub")
		sub.want(`PUBLISH a "one" qos=1 id=1`, `PUBLISH a "two" qos=1 id=2`, "silence")
	})
}

// TestQoS2ToClientSurvives ends the broker after each step of a QoS 2 delivery: it
// goes on where it was.
func TestQoS2ToClientSurvives(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "x", mqtt.QoS2)
		pub.want("PUBREC 1 0x00 Success")
		pub.publish("a", "y", mqtt.QoS2)
		pub.want("PUBREC 2 0x00 Success")
		sub.want(`PUBLISH a "x" qos=2 id=1`, `PUBLISH a "y" qos=2 id=2`)
		again()
		sub = w.resumed(mqtt.V5, "sub")
		sub.want(`PUBLISH a "x" qos=2 id=1 dup`, `PUBLISH a "y" qos=2 id=2 dup`)
		sub.send(&packet.Pubrec{ID: 1})
		sub.want("PUBREL 1")
		again()
		sub = w.resumed(mqtt.V5, "sub")
		sub.want("PUBREL 1", `PUBLISH a "y" qos=2 id=2 dup`)
		sub.send(&packet.Pubcomp{ID: 1}, &packet.Pubrec{ID: 2})
		sub.want("PUBREL 2")
		sub.send(&packet.Pubcomp{ID: 2})
		synctest.Wait()
		again()
		sub = w.resumed(mqtt.V5, "sub")
		sub.want("silence")
		pub = w.connect(mqtt.V5, "pub")
		pub.publish("a", "z", mqtt.QoS2)
		sub.want(`PUBLISH a "z" qos=2 id=3`)
	})
}

// TestSubscriptionsSurvive keeps subscriptions with their options, and does not
// keep those that were given up.
func TestSubscriptionsSurvive(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1, func(s *packet.Subscribe) {
			s.Properties = &packet.Properties{SubscriptionID: 9}
			s.Properties.Mark(mqtt.SubscriptionIdentifier)
		})
		sub.subscribe("b", mqtt.QoS1)
		sub.send(&packet.Unsubscribe{ID: 99, Filters: []string{"b"}})
		sub.want("UNSUBACK 99 00")
		again()
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("b", "no", mqtt.QoS1)
		pub.want("PUBACK 1 0x10 No matching subscribers")
		pub.publish("a", "yes", mqtt.QoS1)
		pub.want("PUBACK 2 0x00 Success")
		sub = w.resumed(mqtt.V5, "sub")
		sub.want(`PUBLISH a "yes" qos=1 id=1 via=[9]`, "silence")
	})
}

// TestSessionsEnd lets Sessions end that have ended, or whose time passes while
// there is no broker.
func TestSessionsEnd(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		for _, id := range []string{"clean", "short", "given up", "stays"} {
			p := w.connect(mqtt.V5, id, expiry(10))
			p.subscribe("a", mqtt.QoS1)
			switch id {
			case "given up":
				d := &packet.Disconnect{Properties: &packet.Properties{}}
				d.Properties.Mark(mqtt.SessionExpiryInterval)
				p.send(d)
				p.want("closed")
			case "clean":
				p.close()
				p = w.connect(mqtt.V5, id) // Clean Start
			}
			if id != "stays" {
				p.close()
			}
		}
		synctest.Wait()
		again()
		time.Sleep(6 * time.Second)
		for _, id := range []string{"clean", "short", "given up"} {
			p := w.dial()
			p.hello(mqtt.V5, id, resume)
			p.want(map[string]string{"clean": "CONNACK present=false 0x00 Success", "given up": "CONNACK present=false 0x00 Success",
				"short": "CONNACK present=true 0x00 Success"}[id])
			p.close()
		}
		time.Sleep(time.Second)
		p := w.dial()
		p.hello(mqtt.V5, "stays", resume)
		p.want("CONNACK present=true 0x00 Success") // its ten seconds began with the end of the broker
	})
}

// TestRetainedSurvives keeps what is retained, at any QoS, and what is removed
// stays removed.
func TestRetainedSurvives(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		pub := w.connect(mqtt.V5, "pub")
		for i := range 3 {
			pub.publish(fmt.Sprint("a/", i), "old", mqtt.QoS1, asRetained)
			pub.next()
		}
		pub.publish("a/0", "new", mqtt.QoS0, asRetained)
		pub.publish("a/1", "new", mqtt.QoS2, asRetained)
		pub.publish("a/2", "", mqtt.QoS1, asRetained)
		pub.want("PUBREC 4 0x10 No matching subscribers", "PUBACK 5 0x10 No matching subscribers")
		again()
		sub := w.connect(mqtt.V5, "sub")
		sub.subscribe("a/0", mqtt.QoS1)
		sub.want(`PUBLISH a/0 "new" retain`)
		sub.subscribe("a/1", mqtt.QoS1)
		sub.want(`PUBLISH a/1 "new" qos=1 id=1 retain`)
		sub.subscribe("a/2", mqtt.QoS1)
		sub.want("silence")
	})
}

// TestRetainedIsOwed ends the broker while a new subscription is being sent what is
// retained, one message after the other: the rest comes afterwards, at QoS 2 each
// message once, and without what has been replaced meanwhile.
func TestRetainedIsOwed(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		const n = 12
		pub := w.connect(mqtt.V5, "pub")
		for i := range n {
			pub.publish(fmt.Sprint("r/", i), fmt.Sprint(i), mqtt.QoS(1+i%2), asRetained)
			pub.next()
		}
		sub := w.connect(mqtt.V5, "sub", expiry(1000), receiveMaximum(1))
		sub.send(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: "r/#", QoS: mqtt.QoS2}, {Filter: "r/+", QoS: mqtt.QoS1}}})
		sub.want("SUBACK 1 02 01")
		times, held := make(map[string]int), make(map[int]bool) // held: QoS 2, not released
		take := func(most int) {
			for most > 0 {
				var topic, payload string
				var q, id int
				line := sub.next()
				if _, err := fmt.Sscanf(line, "PUBREL %d", &id); err == nil {
					delete(held, id)
					sub.send(&packet.Pubcomp{ID: mqtt.PacketID(id)})
					continue
				}
				if _, err := fmt.Sscanf(line, "PUBLISH %s %q qos=%d id=%d", &topic, &payload, &q, &id); err != nil {
					return
				}
				most--
				if q == 1 {
					sub.send(&packet.Puback{ID: mqtt.PacketID(id)})
				} else {
					sub.send(&packet.Pubrec{ID: mqtt.PacketID(id)})
				}
				if q == 1 || !held[id] {
					times[fmt.Sprint(payload, " qos ", q)]++
				}
				held[id] = q == 2
			}
		}
		take(3)
		again()
		pub = w.connect(mqtt.V5, "pub")
		pub.publish("r/9", "new", mqtt.QoS2, asRetained)
		pub.next()
		sub = w.resumed(mqtt.V5, "sub", receiveMaximum(1))
		take(4)
		again()
		sub = w.resumed(mqtt.V5, "sub", receiveMaximum(1))
		take(100)
		for i := range n {
			first := fmt.Sprint(i, " qos ", 1+i%2)
			second := fmt.Sprint(i, " qos 1")
			switch {
			case i == 9:
				if times["9 qos 2"]+times["9 qos 1"] > 0 {
					w.Errorf("the message that was replaced came %d times", times["9 qos 2"]+times["9 qos 1"])
				}
				if times["new qos 2"] != 1 {
					w.Errorf("the message that replaced one came %d times at QoS 2, want 1", times["new qos 2"])
				}
			case i%2 == 1 && (times[first] != 1 || times[second] == 0), i%2 == 0 && times[first] < 2:
				w.Errorf("message %d came %d times at QoS %d and %d times at QoS 1", i, times[first], 1+i%2, times[second])
			}
		}
	})
}

// TestWillSurvives publishes the Wills of those whose connection the end of the
// broker has cut, once, and not those of who had said goodbye.
func TestWillSurvives(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		watch := w.connect(mqtt.V5, "watch", expiry(1000))
		watch.subscribe("will/#", mqtt.QoS1)
		watch.close()
		w.connect(mqtt.V5, "durable", expiry(100), will("will/durable", "gone", 0))
		w.connect(mqtt.V5, "transient", will("will/transient", "gone", 0))
		w.connect(mqtt.V311, "old", will("will/old", "gone", 0))
		bye := w.connect(mqtt.V5, "bye", expiry(100), will("will/bye", "wrong", 0))
		bye.send(&packet.Disconnect{})
		bye.want("closed")
		w.connect(mqtt.V5, "late", expiry(100), will("will/late", "gone", 20))
		w.connect(mqtt.V5, "back", expiry(100), will("will/back", "wrong", 20))
		synctest.Wait()
		again()
		w.resumed(mqtt.V5, "back")
		time.Sleep(5 * time.Second)
		watch = w.resumed(mqtt.V5, "watch")
		seen := map[string]int{}
		for range 3 {
			seen[watch.next()[:len("PUBLISH will/xxx")]]++
		}
		if len(seen) != 3 {
			t.Errorf("wills: %v", seen)
		}
		watch.want("silence")
		time.Sleep(10 * time.Second)
		watch.want(`PUBLISH will/late "gone" qos=1 id=4`, "silence")
		for id := range 4 {
			watch.send(&packet.Puback{ID: mqtt.PacketID(id + 1)})
		}
		again()
		watch = w.resumed(mqtt.V5, "watch")
		for line := watch.next(); line != "silence"; line = watch.next() {
			if want := " dup"; line[len(line)-len(want):] != want && line[:len(`PUBLISH will/`)] != `PUBLISH will/` {
				t.Errorf("after the second end: %s", line)
			}
		}
	})
}

// TestSharedSurvives gives a message that a transient member had not acknowledged
// to the durable one.
func TestSharedSurvives(t *testing.T) {
	endings(t, Options{}, func(w *world, again func()) {
		durable := w.connect(mqtt.V5, "durable", expiry(1000))
		durable.subscribe("$share/g/a", mqtt.QoS2)
		durable.close()
		transient := w.connect(mqtt.V5, "transient")
		transient.subscribe("$share/g/a", mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "one", mqtt.QoS1)
		pub.publish("a", "two", mqtt.QoS2)
		pub.publish("a", "three", mqtt.QoS1)
		got := []string{transient.next(), transient.next(), transient.next()}
		slices.Sort(got) // the QoS 2 message waits for the journal once more
		if want := []string{`PUBLISH a "one" qos=1 id=1`, `PUBLISH a "three" qos=1 id=3`, `PUBLISH a "two" qos=2 id=2`}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		transient.send(&packet.Puback{ID: 3})
		pub.want("PUBACK 1 0x00 Success", "PUBREC 2 0x00 Success", "PUBACK 3 0x00 Success")
		synctest.Wait()
		again()
		durable = w.resumed(mqtt.V5, "durable")
		durable.want(`PUBLISH a "one" qos=1 id=1`)
		if line := durable.next(); line != "silence" && line != `PUBLISH a "three" qos=1 id=2` {
			t.Errorf("got %s: a QoS 2 message under way stays with its Client [MQTT-4.8.2-5]", line)
		}
	})
}

// TestSpilledQueue lets a long queue go to disk, and come back in order, over an
// end of the broker in its middle.
func TestSpilledQueue(t *testing.T) {
	const messages = 5000
	endings(t, Options{}, func(w *world, again func()) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		pub := w.connect(mqtt.V5, "pub")
		publish := func(from, to int) {
			for i := from; i < to; i++ {
				pub.publish("a", fmt.Sprint(i), mqtt.QoS1)
				pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", pub.nextID))
			}
		}
		publish(0, messages/2)
		w.checkpoint()
		if here := w.b.inMemory(); here > spillAbsent {
			t.Errorf("%d bytes of the queue are in memory, want at most %d", here, spillAbsent)
		}
		publish(messages/2, messages*3/4)
		again()
		pub = w.connect(mqtt.V5, "pub")
		publish(messages*3/4, messages)
		sub = w.resumed(mqtt.V5, "sub", receiveMaximum(100))
		for i := range messages {
			id := mqtt.PacketID(i + 1)
			sub.want(fmt.Sprintf(`PUBLISH a "%d" qos=1 id=%d`, i, id))
			sub.send(&packet.Puback{ID: id})
		}
		sub.want("silence")
		w.checkpoint()
		if n := w.b.queued.Load(); n != 0 || w.b.away.Load() != 0 {
			t.Errorf("%d bytes queued, %d of them on disk: want none", n, w.b.away.Load())
		}
		es, err := w.o.Store.KV().List(w.Context(), chunkPrefix, "", 10)
		if err != nil || len(es) > 0 {
			t.Errorf("%d chunks are left, %v", len(es), err)
		}
	})
}

// TestNothingBeforeTheJournal holds the journal back: nothing is acknowledged or
// delivered before it is written.
func TestNothingBeforeTheJournal(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub", expiry(1000))
		for _, send := range []func(){
			func() { pub.publish("a", "x", mqtt.QoS1) },
			func() { pub.publish("a", "x", mqtt.QoS2) },
			func() { pub.send(&packet.Pubrel{ID: 2}) },
			func() { pub.send(&packet.Subscribe{ID: 9, Subscriptions: []packet.Subscription{{Filter: "b"}}}) },
			func() { pub.send(&packet.Unsubscribe{ID: 9, Filters: []string{"b"}}) },
		} {
			release := w.faults.HoldAppends()
			send()
			pub.want("silence")
			sub.want("silence")
			release()
			if line := pub.next(); line == "silence" {
				t.Error("no answer once the journal is written")
			}
			if pub.nextID < 3 {
				for line := sub.next(); line != "silence"; line = sub.next() {
				}
			}
		}
		release := w.faults.HoldAppends()
		late := w.dial()
		late.hello(mqtt.V5, "late", expiry(10))
		late.want("silence")
		quick := w.connect(mqtt.V5, "quick") // needs no journal
		quick.publish("c", "x", mqtt.QoS1)
		quick.want("PUBACK 1 0x10 No matching subscribers")
		release()
		late.want("CONNACK present=false 0x00 Success")
	})
}

// TestDiskTrouble lets the journal fail: what can't be kept is refused, QoS 0 goes
// on, and all goes on when the journal does.
func TestDiskTrouble(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub", expiry(1000))
		old := w.connect(mqtt.V311, "old", resume)

		w.faults.FailAppends(1, fmt.Errorf("write: %w", syscall.ENOSPC))
		pub.publish("a", "no", mqtt.QoS1)
		pub.want("PUBACK 1 0x97 Quota exceeded")
		w.faults.FailAppends(1, errors.New("write: input/output error"))
		pub.publish("a", "later", mqtt.QoS2)
		pub.want("PUBREC 2 0x80 Unspecified error")
		w.faults.FailAppends(1, errors.New("write: input/output error"))
		old.publish("a", "no", mqtt.QoS1)
		old.want("closed")
		w.faults.FailAppends(1, errors.New("write: input/output error"))
		pub.send(&packet.Subscribe{ID: 9, Subscriptions: []packet.Subscription{{Filter: "b"}, {Filter: "c"}}})
		pub.want("SUBACK 9 80 80")
		w.faults.FailAppends(1, errors.New("write: input/output error"))
		new := w.dial()
		new.hello(mqtt.V5, "new", expiry(10))
		new.want("CONNACK present=false 0x88 Server unavailable")

		w.faults.FailAppends(1, errors.New("write: input/output error"))
		pub.send(&packet.Publish{Topic: []byte("a"), Payload: []byte("kept"), QoS: mqtt.QoS1, ID: 3},
			&packet.Publish{Topic: []byte("a"), Payload: []byte("zero")})
		pub.want("PUBACK 3 0x80 Unspecified error")
		sub.want(`PUBLISH a "zero"`, "silence")

		pub.nextID = 1
		pub.publish("a", "later", mqtt.QoS2)
		pub.want("PUBREC 2 0x00 Success")
		sub.want(`PUBLISH a "later" qos=2 id=1`)
		new = w.dial()
		new.hello(mqtt.V5, "new", expiry(10))
		new.want("CONNACK present=false 0x00 Success")
	})
}

// TestTroubleMeansPatience lets the journal fail while QoS 2 deliveries are under
// way and clients come and go: what nobody can be told is tried again.
func TestTroubleMeansPatience(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "x", mqtt.QoS2)
		sub.want(`PUBLISH a "x" qos=2 id=1`)
		w.faults.FailAppends(3, errors.New("write: input/output error"))
		sub.send(&packet.Pubrec{ID: 1})
		synctest.Wait()
		sub.nc.Close()
		time.Sleep(5 * time.Second)
		sub = w.resumed(mqtt.V5, "sub")
		sub.want("PUBREL 1")
		w.crash()
		sub = w.resumed(mqtt.V5, "sub")
		sub.want("PUBREL 1", "silence")
	})
}

// TestCheckpointFails lets the KV fail: nothing is lost, and the journal is kept
// until a checkpoint succeeds.
func TestCheckpointFails(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "x", mqtt.QoS1)
		pub.want("PUBACK 1 0x00 Success")
		pub.publish("r", "x", mqtt.QoS1, asRetained)
		pub.want("PUBACK 2 0x10 No matching subscribers")
		w.faults.FailKV(2, errors.New("write: input/output error"))
		w.checkpoint()
		w.checkpoint()
		w.crash()
		w.checkpoint()
		w.crash()
		sub = w.resumed(mqtt.V5, "sub")
		sub.want(`PUBLISH a "x" qos=1 id=1`)
		sub.subscribe("r", mqtt.QoS0)
		sub.want(`PUBLISH r "x" retain`)
	})
}

// TestGaugeOfRefusedClients lets clients in whose CONNACK is above what they take:
// they count neither in nor out.
func TestGaugeOfRefusedClients(t *testing.T) {
	play(t, Options{}, func(w *world) {
		for range 3 {
			p := w.dial()
			p.hello(mqtt.V5, "", func(c *packet.Connect) {
				c.Properties.Mark(mqtt.MaximumPacketSize)
				c.Properties.MaximumPacketSize = 20
			})
			p.want("closed")
		}
		synctest.Wait()
		if n := w.b.Connected.Load(); n != 0 {
			t.Errorf("%d clients connected, want 0", n)
		}
	})
}

// TestOwnTopicsTakeNoRoom counts no $SYS topic against the limit of Retained Messages.
func TestOwnTopicsTakeNoRoom(t *testing.T) {
	play(t, Options{SysEvery: time.Second, Limits: limits(func(l *Limits) { l.RetainedMessages = 1 })}, func(w *world) {
		time.Sleep(2 * time.Second)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "x", mqtt.QoS1, asRetained)
		pub.publish("b", "x", mqtt.QoS1, asRetained)
		pub.want("PUBACK 1 0x10 No matching subscribers", "PUBACK 2 0x97 Quota exceeded")
	})
}

// TestRetainedBeforeTheQueue subscribes while a queue waits for a slow client: the
// Retained Messages do not wait until it is empty, which may be never.
func TestRetainedBeforeTheQueue(t *testing.T) {
	play(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000), receiveMaximum(1))
		sub.subscribe("a", mqtt.QoS1)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("r", "kept", mqtt.QoS1, asRetained)
		for i := range 3 {
			pub.publish("a", fmt.Sprint(i), mqtt.QoS1)
		}
		sub.want(`PUBLISH a "0" qos=1 id=1`)
		synctest.Wait()
		sub.subscribe("r", mqtt.QoS1)
		sub.send(&packet.Puback{ID: 1})
		sub.want(`PUBLISH r "kept" qos=1 id=2 retain`)
		sub.send(&packet.Puback{ID: 2})
		sub.want(`PUBLISH a "1" qos=1 id=3`)
		sub.send(&packet.Puback{ID: 3})
		sub.want(`PUBLISH a "2" qos=1 id=4`)
	})
}

// TestCleanStartOutlivesCrash ends a durable Session by a Clean Start that needs no
// record itself: once CONNACK has said so, the old Session does not come back.
func TestCleanStartOutlivesCrash(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		w.connect(mqtt.V5, "c", expiry(1000)).close()
		release := w.faults.HoldAppends()
		c := w.dial()
		c.hello(mqtt.V5, "c")
		c.want("silence")
		release()
		c.want("CONNACK present=false 0x00 Success")
		w.crash()
		c = w.dial()
		c.hello(mqtt.V5, "c", resume)
		c.want("CONNACK present=false 0x00 Success")
	})
}

// TestJournalWithoutItsEnd starts on a store whose journal has lost what the latest
// checkpoint knows, as after a loss of power without fsync: nothing of the checkpoint
// is lost, and no number is given twice, or new messages would be taken for old ones.
func TestJournalWithoutItsEnd(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		pub := w.connect(mqtt.V5, "pub")
		for i := range 3 {
			pub.publish("a", fmt.Sprint(i), mqtt.QoS1)
			pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", i+1))
		}
		w.checkpoint()
		es, err := w.o.Store.KV().List(w.Context(), "", "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		w.stop()
		w.o.Store.Close()
		w.faults = storetest.NewFaulty(mem.New()) // with an empty journal
		w.o.Store = w.faults
		for _, e := range es {
			if _, err := w.o.Store.KV().Put(w.Context(), e.Key, e.Value, store.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		w.start()
		pub = w.connect(mqtt.V5, "pub")
		pub.publish("a", "3", mqtt.QoS1)
		pub.want("PUBACK 1 0x00 Success")
		w.crash()
		sub = w.resumed(mqtt.V5, "sub")
		for i := range 4 {
			sub.want(fmt.Sprintf(`PUBLISH a "%d" qos=1 id=%d`, i, i+1))
		}
	})
}

// TestSpillWhileHeld lets a queue grow while checkpoints are held for a backup: it
// goes to disk all the same.
func TestSpillWhileHeld(t *testing.T) {
	playStored(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		pub := w.connect(mqtt.V5, "pub")
		err := w.b.Hold(w.Context(), func(store.Pos) error {
			w.checkpoint() // its time comes, and it is left out
			payload := strings.Repeat("x", 100<<10)
			for i := range 20 {
				pub.publish("a", payload, mqtt.QoS1)
				pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", i+1))
			}
			synctest.Wait()
			if w.b.away.Load() == 0 {
				t.Error("nothing of 2 MB is on disk")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestSubscribeStaysBehind sends a retained message and a SUBSCRIBE for it at once: the
// message waits for the journal, and the SUBSCRIBE with it.
func TestSubscribeStaysBehind(t *testing.T) {
	play(t, Options{}, func(w *world) {
		c := w.connect(mqtt.V5, "c")
		c.send(&packet.Publish{Topic: []byte("a"), Payload: []byte("kept"), Retain: true},
			&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: "a"}}})
		c.want("SUBACK 1 00", `PUBLISH a "kept" retain`, "silence")
		c.send(&packet.Publish{Topic: []byte("a"), Payload: []byte("new"), Retain: true},
			&packet.Unsubscribe{ID: 2, Filters: []string{"a"}})
		c.want(`PUBLISH a "new"`, "UNSUBACK 2 00", "silence")
	})
}
