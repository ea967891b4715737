package broker

import (
	"context"
	"fairlead/auth"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/policy"
	"fairlead/trace"
)

var versions = []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}

// TestEachQoSBetweenVersions carries a message from each version to each, at
// each QoS, and retained.
func TestEachQoSBetweenVersions(t *testing.T) {
	for _, from := range versions {
		for _, to := range versions {
			t.Run(fmt.Sprintf("%s to %s", from, to), func(t *testing.T) {
				play(t, Options{}, func(w *world) {
					pub, sub := w.connect(from, "pub"), w.connect(to, "sub")
					sub.subscribe("a/+", mqtt.QoS2)
					pub.publish("a/b", "0", mqtt.QoS0)
					sub.want(`PUBLISH a/b "0"`)
					pub.publish("a/b", "1", mqtt.QoS1)
					pub.want("PUBACK 1 0x00 Success")
					sub.want(`PUBLISH a/b "1" qos=1 id=1`)
					sub.send(&packet.Puback{ID: 1})
					pub.publish("a/b", "2", mqtt.QoS2, asRetained)
					pub.want("PUBREC 2 0x00 Success")
					pub.send(&packet.Pubrel{ID: 2})
					pub.want("PUBCOMP 2 0x00 Success")
					sub.want(`PUBLISH a/b "2" qos=2 id=2`)
					sub.send(&packet.Pubrec{ID: 2})
					sub.want("PUBREL 2")
					sub.send(&packet.Pubcomp{ID: 2})
					late := w.connect(to, "late")
					late.subscribe("#", mqtt.QoS1)
					late.want(`PUBLISH a/b "2" qos=1 id=1 retain`)
					sub.send(&packet.Pingreq{})
					sub.want("PINGRESP")
				})
			})
		}
	}
}

func TestNoMatchingSubscribers(t *testing.T) {
	play(t, Options{}, func(w *world) {
		p := w.connect(mqtt.V5, "p")
		p.publish("nobody", "", mqtt.QoS1)
		p.want("PUBACK 1 0x10 No matching subscribers")
		p.publish("nobody", "", mqtt.QoS2)
		p.want("PUBREC 2 0x10 No matching subscribers")
	})
}

// TestRepeatedQoS2 sends the same QoS 2 PUBLISH twice: it arrives once
// [MQTT-4.3.3-10].
func TestRepeatedQoS2(t *testing.T) {
	play(t, Options{}, func(w *world) {
		pub, sub := w.connect(mqtt.V311, "pub", resume), w.connect(mqtt.V5, "sub")
		sub.subscribe("a", mqtt.QoS0)
		once := func(m *packet.Publish) { m.ID = 9 }
		pub.publish("a", "x", mqtt.QoS2, once)
		pub.want("PUBREC 9 0x00 Success")
		pub.close()
		pub = w.connect(mqtt.V311, "pub", resume)
		pub.publish("a", "x", mqtt.QoS2, once, func(m *packet.Publish) { m.Dup = true })
		pub.want("PUBREC 9 0x00 Success")
		sub.want(`PUBLISH a "x"`, "silence")
	})
}

func TestSessionWaitsAndExpires(t *testing.T) {
	play(t, Options{}, func(w *world) {
		pub := w.connect(mqtt.V5, "pub")
		sub := w.connect(mqtt.V5, "sub", expiry(60))
		sub.subscribe("a", mqtt.QoS1)
		sub.close()
		pub.publish("a", "1", mqtt.QoS1)
		pub.want("PUBACK 1 0x00 Success")
		pub.publish("a", "gone", mqtt.QoS0)
		time.Sleep(59 * time.Second)

		sub = w.dial()
		sub.hello(mqtt.V5, "sub", expiry(60))
		sub.want("CONNACK present=true 0x00 Success", `PUBLISH a "1" qos=1 id=1`)
		sub.close()
		sub = w.dial()
		sub.hello(mqtt.V5, "sub", expiry(60))
		sub.want("CONNACK present=true 0x00 Success", `PUBLISH a "1" qos=1 id=1 dup`)
		sub.send(&packet.Puback{ID: 1})
		sub.close()
		time.Sleep(61 * time.Second)

		sub = w.dial()
		sub.hello(mqtt.V5, "sub", expiry(60))
		sub.want("CONNACK present=false 0x00 Success")
		pub.publish("a", "2", mqtt.QoS1)
		pub.want("PUBACK 2 0x10 No matching subscribers")
	})
}

// TestMessageExpiry waits with a message that expires: in time it says what is
// left [MQTT-3.3.2-6], later it does not come [MQTT-3.3.2-5].
func TestMessageExpiry(t *testing.T) {
	play(t, Options{SysEvery: time.Minute}, func(w *world) {
		pub := w.connect(mqtt.V5, "pub")
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a/#", mqtt.QoS1)
		sub.close()
		lasts := func(n uint32) func(m *packet.Publish) {
			return func(m *packet.Publish) { m.HasExpiry, m.Expiry = true, n }
		}
		pub.publish("a/1", "short", mqtt.QoS1, lasts(5))
		pub.publish("a/2", "long", mqtt.QoS1, lasts(50))
		pub.publish("a/kept", "r", mqtt.QoS0, asRetained, lasts(200))
		pub.want("PUBACK 1 0x00 Success", "PUBACK 2 0x00 Success")
		time.Sleep(20 * time.Second)
		sub = w.dial()
		sub.hello(mqtt.V5, "sub", expiry(1000))
		sub.want("CONNACK present=true 0x00 Success", `PUBLISH a/2 "long" qos=1 id=1 expiry=30`, "silence")
		if n := w.b.Outcomes[trace.DroppedExpired].Load(); n != 1 {
			t.Errorf("%d messages counted as expired, want 1", n)
		}
		sub.subscribe("+/kept", mqtt.QoS1)
		sub.want(`PUBLISH a/kept "r" retain expiry=170`)
		time.Sleep(5 * time.Minute)
		w.b.retained.mu.Lock()
		if _, ok := w.b.retained.names.Get("a/kept"); ok {
			t.Error("an expired Retained Message is still held")
		}
		w.b.retained.mu.Unlock()
		late := w.connect(mqtt.V5, "late")
		late.subscribe("a/kept", mqtt.QoS1)
		late.want("silence")
	})
}

func TestTakeover(t *testing.T) {
	play(t, Options{}, func(w *world) {
		watch := w.connect(mqtt.V311, "watch")
		watch.subscribe("will/#", mqtt.QoS0)
		first := w.connect(mqtt.V5, "c", expiry(100), will("will/c", "gone", 0))
		first.subscribe("a", mqtt.QoS1)
		second := w.dial()
		second.hello(mqtt.V311, "c", resume)
		first.want("DISCONNECT 0x8E Session taken over", "closed")
		second.want("CONNACK present=true 0x00 Success")
		watch.want(`PUBLISH will/c "gone"`) // the Network Connection was closed by the Server
		second.publish("a", "self", mqtt.QoS1)
		second.want(`PUBLISH a "self" qos=1 id=1`, `PUBACK 1 0x00 Success`)
		third := w.dial()
		third.hello(mqtt.V5, "c")
		second.want("closed")
		third.want("CONNACK present=false 0x00 Success") // Clean Start
	})
}

func TestWill(t *testing.T) {
	play(t, Options{}, func(w *world) {
		watch := w.connect(mqtt.V5, "watch")
		watch.subscribe("will", mqtt.QoS1)
		c := w.connect(mqtt.V5, "c", will("will", "said goodbye", 0))
		c.send(&packet.Disconnect{})
		c.want("closed")
		c = w.connect(mqtt.V5, "c", will("will", "lost", 0))
		c.close()
		watch.want(`PUBLISH will "lost" qos=1 id=1`)

		// A delay, and a return within it [MQTT-3.1.3-9].
		c = w.connect(mqtt.V5, "c", expiry(100), will("will", "late", 10))
		c.close()
		time.Sleep(9 * time.Second)
		c = w.connect(mqtt.V5, "c", expiry(100), will("will", "later", 10))
		time.Sleep(time.Minute)
		c.close()
		time.Sleep(11 * time.Second)
		watch.want(`PUBLISH will "later" qos=1 id=2`)

		// The Session ends before the delay is over.
		c = w.connect(mqtt.V5, "c", expiry(5), will("will", "ended", 1000))
		c.close()
		time.Sleep(6 * time.Second)
		watch.want(`PUBLISH will "ended" qos=1 id=3`)

		// DISCONNECT with Will Message, and a Session that is replaced.
		c = w.connect(mqtt.V5, "c", will("will", "asked for", 0))
		c.send(&packet.Disconnect{Reason: mqtt.DisconnectWithWill})
		watch.want(`PUBLISH will "asked for" qos=1 id=4`)
		c = w.connect(mqtt.V5, "c", expiry(100), will("will", "cut", 50))
		c.close()
		w.connect(mqtt.V5, "c")
		watch.want(`PUBLISH will "cut" qos=1 id=5`)
	})
}

func TestKeepAlive(t *testing.T) {
	play(t, Options{}, func(w *world) {
		c := w.connect(mqtt.V5, "c", func(c *packet.Connect) { c.KeepAlive = 10 })
		for range 5 {
			time.Sleep(12 * time.Second)
			c.send(&packet.Pingreq{})
			c.want("PINGRESP")
		}
		time.Sleep(14 * time.Second)
		c.want("DISCONNECT 0x8D Keep Alive timeout", "closed")
		forever := w.connect(mqtt.V311, "forever")
		time.Sleep(100 * time.Hour)
		forever.send(&packet.Pingreq{})
		forever.want("PINGRESP")
	})
}

func TestSlowConnect(t *testing.T) {
	play(t, Options{}, func(w *world) {
		slow := w.dial()
		slow.raw([]byte{0x10})
		time.Sleep(9 * time.Second)
		slow.raw([]byte{0x0C})
		time.Sleep(2 * time.Second)
		slow.want("closed")
	})
}

// TestFullQueue fills the queue of an absent client. A 5.0 publisher is told, and
// nobody gets the message; one that can't be told loses its connection. What was
// acknowledged stays.
func TestFullQueue(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.QueueMessages = 2 })}, func(w *world) {
		full := w.connect(mqtt.V5, "full", expiry(1000))
		full.subscribe("a", mqtt.QoS1)
		full.close()
		other := w.connect(mqtt.V5, "other")
		other.subscribe("a", mqtt.QoS1)
		pub := w.connect(mqtt.V5, "pub")
		for i := range 2 {
			pub.publish("a", fmt.Sprint(i), mqtt.QoS1)
			pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", i+1))
			other.want(fmt.Sprintf(`PUBLISH a "%d" qos=1 id=%d`, i, i+1))
		}
		pub.publish("a", "no", mqtt.QoS1)
		pub.publish("a", "no", mqtt.QoS2)
		pub.want("PUBACK 3 0x97 Quota exceeded", "PUBREC 4 0x97 Quota exceeded")
		other.want("silence")
		if n := w.b.RefusedFor(mqtt.QuotaExceeded); n != 2 {
			t.Errorf("%d messages counted as refused, want 2", n)
		}

		old := w.connect(mqtt.V311, "old")
		old.publish("a", "no", mqtt.QoS1)
		old.want("closed")
		other.want("silence")
		full = w.dial()
		full.hello(mqtt.V5, "full", resume)
		full.want("CONNACK present=true 0x00 Success", `PUBLISH a "0" qos=1 id=1`, `PUBLISH a "1" qos=1 id=2`)
	})
}

// TestDropOldest fills the queue of an absent client of a broker that is told to
// give up the oldest message then.
func TestDropOldest(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.QueueMessages = 2; l.DropOldest = true })}, func(w *world) {
		full := w.connect(mqtt.V5, "full", expiry(1000))
		full.subscribe("a", mqtt.QoS1)
		full.close()
		pub := w.connect(mqtt.V311, "pub")
		for i := range 4 {
			pub.publish("a", fmt.Sprint(i), mqtt.QoS1)
			pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", i+1))
		}
		if n := w.b.Outcomes[trace.DroppedOldest].Load(); n != 2 {
			t.Errorf("%d messages counted as dropped, want 2", n)
		}
		full = w.dial()
		full.hello(mqtt.V5, "full", resume)
		full.want("CONNACK present=true 0x00 Success", `PUBLISH a "2" qos=1 id=1`, `PUBLISH a "3" qos=1 id=2`)
	})
}

// TestFullQueueOfConnectedClient lets a client that wants nothing kept stop to
// acknowledge: it is sent away, and the publisher notices nothing.
func TestFullQueueOfConnectedClient(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.QueueMessages = 2 })}, func(w *world) {
		slow := w.connect(mqtt.V5, "slow", receiveMaximum(1))
		slow.subscribe("a", mqtt.QoS1)
		pub := w.connect(mqtt.V5, "pub")
		for i := range 4 {
			pub.publish("a", "x", mqtt.QoS1)
			got := pub.next()
			if want := fmt.Sprintf("PUBACK %d 0x00 Success", i+1); i < 3 && got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		slow.want(`PUBLISH a "x" qos=1 id=1`, "DISCONNECT 0x97 Quota exceeded", "closed")
	})
}

// TestNodeLimit fills the queues of all Sessions together.
func TestNodeLimit(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.QueuedBytes = 200 })}, func(w *world) {
		for _, id := range []string{"s", "t"} {
			s := w.connect(mqtt.V5, id, expiry(1000))
			s.subscribe(id, mqtt.QoS1)
			s.close()
		}
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("s", "123456789", mqtt.QoS1)
		pub.publish("s", "no", mqtt.QoS1)
		pub.want("PUBACK 1 0x00 Success", "PUBACK 2 0x97 Quota exceeded")
		s := w.connect(mqtt.V5, "s", resume)
		s.want(`PUBLISH s "123456789" qos=1 id=1`)
		s.send(&packet.Puback{ID: 1})
		s.send(&packet.Pingreq{})
		s.want("PINGRESP")
		if n := w.b.queued.Load(); n != 0 {
			t.Errorf("%d bytes counted in empty queues", n)
		}
	})
}

// TestClientThatNeverReads floods a client that does not read with QoS 0: its
// outbox stops growing, what is dropped is counted, and another client gets all.
func TestClientThatNeverReads(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.OutboxBytes = 10_000 })}, func(w *world) {
		deaf, good := w.connect(mqtt.V5, "deaf"), w.connect(mqtt.V5, "good")
		deaf.subscribe("a", mqtt.QoS0)
		good.subscribe("a", mqtt.QoS0)
		pub := w.connect(mqtt.V5, "pub")
		payload := strings.Repeat("x", 1000)
		for range 100 {
			pub.publish("a", payload, mqtt.QoS0)
			good.want(fmt.Sprintf("PUBLISH a %q", payload))
		}
		if n := w.b.Outcomes[trace.DroppedOutboxFull].Load(); n < 80 || n > 95 {
			t.Errorf("%d messages dropped, want about 90", n)
		}
		// Its own requests are answered only as far as it reads, and not read beyond.
		var many []byte
		for range 20_000 {
			many, _ = packet.Append(many, mqtt.V5, &packet.Pingreq{})
		}
		deaf.nc.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := deaf.nc.Write(many); err == nil {
			t.Errorf("the broker has read %d bytes from a client that reads no answers", n)
		}
		deaf.close()
	})
}

func TestOverlappingSubscriptions(t *testing.T) {
	play(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub")
		with := func(id uint32, change func(s *packet.Subscription)) func(s *packet.Subscribe) {
			return func(s *packet.Subscribe) {
				s.Properties = &packet.Properties{SubscriptionID: id}
				s.Properties.Mark(mqtt.SubscriptionIdentifier)
				if change != nil {
					change(&s.Subscriptions[0])
				}
			}
		}
		sub.subscribe("a/#", mqtt.QoS0, with(1, nil))
		sub.subscribe("a/+", mqtt.QoS2, with(2, nil))
		sub.subscribe("+/b", mqtt.QoS1, with(3, func(s *packet.Subscription) { s.NoLocal = true }))
		w.connect(mqtt.V311, "pub").publish("a/b", "x", mqtt.QoS1)
		got := sub.next()
		if !strings.HasPrefix(got, `PUBLISH a/b "x" qos=1 id=1 via=[`) || len(got) != len(`PUBLISH a/b "x" qos=1 id=1 via=[1 2 3]`) {
			t.Errorf("got %s, want one message with three identifiers", got)
		}
		// Its own message does not come by the subscription with No Local [MQTT-3.8.3-3].
		sub.publish("a/b", "own", mqtt.QoS0)
		if got := sub.next(); got != `PUBLISH a/b "own" via=[1 2]` && got != `PUBLISH a/b "own" via=[2 1]` {
			t.Errorf("got %s, want it without the identifier 3", got)
		}
		sub.publish("z/b", "own", mqtt.QoS0)
		sub.want("silence")
	})
}

func TestRetainOptions(t *testing.T) {
	play(t, Options{}, func(w *world) {
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "kept", mqtt.QoS0, asRetained)
		synctest.Wait()
		opt := func(handling byte, asPublished bool) func(s *packet.Subscribe) {
			return func(s *packet.Subscribe) {
				s.Subscriptions[0].RetainHandling, s.Subscriptions[0].RetainAsPublished = handling, asPublished
			}
		}
		sub := w.connect(mqtt.V5, "sub")
		sub.subscribe("a", mqtt.QoS0, opt(1, false))
		sub.want(`PUBLISH a "kept" retain`)
		sub.subscribe("a", mqtt.QoS0, opt(1, true)) // existed: nothing [MQTT-3.3.1-10]
		sub.want("silence")
		pub.publish("a", "new", mqtt.QoS0, asRetained)
		sub.want(`PUBLISH a "new" retain`) // as published [MQTT-3.3.1-13]
		sub.subscribe("a", mqtt.QoS0, opt(2, false))
		pub.publish("a", "newer", mqtt.QoS0, asRetained)
		sub.want(`PUBLISH a "newer"`)
		pub.publish("a", "", mqtt.QoS0, asRetained)
		sub.want(`PUBLISH a ""`)
		late := w.connect(mqtt.V311, "late")
		late.subscribe("a", mqtt.QoS0)
		late.want("silence")
	})
}

// TestManyRetained subscribes to more than an outbox holds, at QoS 0 and 1:
// nothing is dropped, and what is replaced meanwhile comes in its newest form.
func TestManyRetained(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.OutboxBytes = 20_000 })}, func(w *world) {
		const n = 5000
		pub := w.connect(mqtt.V5, "pub")
		for i := range n {
			pub.publish(fmt.Sprintf("r/%d", i), strings.Repeat("x", 100), mqtt.QoS1, asRetained)
			pub.next()
		}
		for q := range mqtt.QoS2 {
			sub := w.connect(mqtt.V5, fmt.Sprint("sub", q), receiveMaximum(10))
			sub.subscribe("r/#", q)
			for i := range n {
				got := sub.next()
				if !strings.HasPrefix(got, "PUBLISH r/") || !strings.HasSuffix(got, "retain") {
					t.Fatalf("message %d: %s", i, got)
				}
				if q > 0 {
					sub.send(&packet.Puback{ID: mqtt.PacketID(i + 1)})
				}
			}
			sub.want("silence")
		}
	})
}

func TestRetainedLimit(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.RetainedMessages = 1 })}, func(w *world) {
		pub, old := w.connect(mqtt.V5, "pub"), w.connect(mqtt.V311, "old")
		pub.publish("a", "1", mqtt.QoS1, asRetained)
		pub.publish("b", "2", mqtt.QoS1, asRetained)
		pub.publish("a", "3", mqtt.QoS1, asRetained)
		pub.want("PUBACK 1 0x10 No matching subscribers", "PUBACK 2 0x97 Quota exceeded", "PUBACK 3 0x10 No matching subscribers")
		old.publish("b", "2", mqtt.QoS1, asRetained)
		old.want("closed") // 3.1.1 has no other no
	})
}

func TestSessionLimit(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.Sessions = 1 })}, func(w *world) {
		w.connect(mqtt.V5, "one", expiry(100)).close()
		two := w.dial()
		two.hello(mqtt.V5, "two")
		two.want("CONNACK present=false 0x97 Quota exceeded", "closed")
		w.connect(mqtt.V5, "one", expiry(100))
	})
}

func TestSharedSubscription(t *testing.T) {
	play(t, Options{}, func(w *world) {
		const share = "$share/g/job/#"
		one, two := w.connect(mqtt.V5, "one", receiveMaximum(2)), w.connect(mqtt.V311, "two")
		one.subscribe(share, mqtt.QoS2)
		two.subscribe(share, mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub")
		for i := range 4 {
			pub.publish("job/x", fmt.Sprint(i), mqtt.QoS1)
			pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", i+1))
		}
		got := []string{one.next(), one.next(), two.next(), two.next()}
		for i := range got {
			got[i], _, _ = strings.Cut(got[i], " qos")
		}
		slices.Sort(got)
		if want := []string{`PUBLISH job/x "0"`, `PUBLISH job/x "1"`, `PUBLISH job/x "2"`, `PUBLISH job/x "3"`}; !slices.Equal(got, want) {
			t.Errorf("together they got %q, want %q", got, want)
		}
		// One goes without having acknowledged: its messages go to the other.
		one.close()
		more := []string{two.next(), two.next()}
		for _, m := range more {
			if !strings.HasPrefix(m, "PUBLISH job/x") {
				t.Errorf("the other member got %q, want an unacknowledged message", m)
			}
		}
		two.want("silence")
	})
}

// TestSharedInTurn gives QoS 1 messages to two members in turn.
func TestSharedInTurn(t *testing.T) {
	play(t, Options{}, func(w *world) {
		one, two := w.connect(mqtt.V5, "one"), w.connect(mqtt.V311, "two")
		one.subscribe("$share/g/a", mqtt.QoS1)
		two.subscribe("$share/g/a", mqtt.QoS1)
		pub := w.connect(mqtt.V5, "pub")
		for i := range 10 {
			pub.publish("a", "x", mqtt.QoS1)
			pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", i+1))
		}
		for i := range 5 {
			one.want(fmt.Sprintf(`PUBLISH a "x" qos=1 id=%d`, i+1))
			two.want(fmt.Sprintf(`PUBLISH a "x" qos=1 id=%d`, i+1))
		}
	})
}

// TestSharedQoS2Stays keeps a QoS 2 message that is under way with its client
// [MQTT-4.8.2-4].
func TestSharedQoS2Stays(t *testing.T) {
	play(t, Options{}, func(w *world) {
		one := w.connect(mqtt.V5, "one", expiry(100))
		one.subscribe("$share/g/a", mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "x", mqtt.QoS2)
		one.want(`PUBLISH a "x" qos=2 id=1`)
		two := w.connect(mqtt.V5, "two")
		two.subscribe("$share/g/a", mqtt.QoS2)
		one.close()
		two.want("silence")
		one = w.dial()
		one.hello(mqtt.V5, "one", expiry(100))
		one.want("CONNACK present=true 0x00 Success", `PUBLISH a "x" qos=2 id=1 dup`)
	})
}

// TestSharedWaitsForMember keeps messages while all members are away, and gives
// them to the first that comes, even if it is another.
func TestSharedWaitsForMember(t *testing.T) {
	play(t, Options{}, func(w *world) {
		one := w.connect(mqtt.V5, "one", expiry(100))
		one.subscribe("$share/g/a", mqtt.QoS1)
		one.close()
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "x", mqtt.QoS1)
		pub.want("PUBACK 1 0x00 Success")
		two := w.connect(mqtt.V5, "two")
		two.subscribe("$share/g/a", mqtt.QoS1)
		two.want(`PUBLISH a "x" qos=1 id=1`)
		two.send(&packet.Puback{ID: 1}, &packet.Disconnect{})
		two.want("closed")
		pub.publish("a", "y", mqtt.QoS1)
		pub.want("PUBACK 2 0x00 Success")
		one = w.connect(mqtt.V5, "one", expiry(100))
		one.want(`PUBLISH a "y" qos=1 id=1`, "silence")
	})
}

func TestPacketAboveTheClientsMaximum(t *testing.T) {
	play(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", func(c *packet.Connect) {
			c.Properties.Mark(mqtt.MaximumPacketSize)
			c.Properties.MaximumPacketSize = 50
		})
		sub.subscribe("a", mqtt.QoS1)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", strings.Repeat("x", 60), mqtt.QoS1)
		pub.publish("a", "short", mqtt.QoS1)
		sub.want(`PUBLISH a "short" qos=1 id=2`) // [MQTT-3.1.2-25]
		if n := w.b.Outcomes[trace.DroppedTooLarge].Load(); n != 1 {
			t.Errorf("%d messages counted as too large, want 1", n)
		}
	})
}

func TestTopicAliases(t *testing.T) {
	play(t, Options{}, func(w *world) {
		sub := w.connect(mqtt.V5, "sub", func(c *packet.Connect) {
			c.Properties.Mark(mqtt.TopicAliasMaximum)
			c.Properties.TopicAliasMaximum = 1
		})
		sub.subscribe("#", mqtt.QoS2)
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("long/name", "1", mqtt.QoS0, func(m *packet.Publish) { m.TopicAlias = 7 })
		pub.publish("", "2", mqtt.QoS0, func(m *packet.Publish) { m.TopicAlias = 7 })
		pub.publish("other/name", "3", mqtt.QoS0)
		pub.publish("", "4", mqtt.QoS2, func(m *packet.Publish) { m.TopicAlias = 7 })
		sub.want(`PUBLISH long/name "1" alias=1`, `PUBLISH  "2" alias=1`, `PUBLISH other/name "3"`, `PUBLISH long/name "4" qos=2 id=1`)
		pub.want("PUBREC 1 0x00 Success")
		pub.publish("", "5", mqtt.QoS0, func(m *packet.Publish) { m.TopicAlias = 65 })
		pub.want("DISCONNECT 0x94 Topic Alias invalid", "closed")
	})
}

func TestAdmission(t *testing.T) {
	doors := &doors{text: `
policies:
  everything: {who: everyone, allow: [connect: "*", publish: "#", subscribe: "#"]}
  not that: {who: everyone, deny: [connect: secret, publish: secret, subscribe: secret]}
`}
	playGuarded(t, doors, func(w *world) {
		p, old := w.connect(mqtt.V5, "p"), w.connect(mqtt.V311, "old")
		p.publish("secret", "", mqtt.QoS0)
		p.publish("secret", "", mqtt.QoS1)
		p.publish("secret", "", mqtt.QoS2)
		p.want("PUBACK 1 0x87 Not authorized", "PUBREC 2 0x87 Not authorized")
		p.publish("$SYS/broker/version", "", mqtt.QoS1)
		p.want("PUBACK 3 0x87 Not authorized")
		p.send(&packet.Subscribe{ID: 9, Subscriptions: []packet.Subscription{{Filter: "secret"}, {Filter: "a/#/b"}, {Filter: "open", QoS: 1}, {Filter: "#"}}})
		p.want("SUBACK 9 87 8f 01 87")
		old.send(&packet.Subscribe{ID: 9, Subscriptions: []packet.Subscription{{Filter: "secret"}, {Filter: "open", QoS: 1}}})
		old.want("SUBACK 9 80 01")
		old.publish("secret", "", mqtt.QoS0)
		old.publish("secret", "", mqtt.QoS1)
		old.want("closed") // [v3 MQTT-3.3.5-2]
		refused := w.dial()
		refused.hello(mqtt.V5, "secret")
		refused.want("CONNACK present=false 0x87 Not authorized", "closed")
		refused = w.dial()
		refused.hello(mqtt.V5, "with a will", will("secret", "x", 0))
		refused.want("CONNACK present=false 0x87 Not authorized", "closed")
		refused = w.dial()
		refused.hello(mqtt.V311, "secret")
		refused.want("CONNACK present=false 0x87 Not authorized", "closed")
		if n := w.b.RefusedFor(mqtt.NotAuthorized); n != 9 {
			t.Errorf("%d refusals counted, want 9", n)
		}
	})
}

// doorkeeper knows one password, sends one client elsewhere, and has a method of
// enhanced authentication that wants "open sesame" in two steps.
type doorkeeper struct{}

func (doorkeeper) Identify(c auth.Credentials) (*auth.Identity, policy.Verdict) {
	if c.Connect.ClientID == "moved" {
		return nil, policy.Verdict{Code: mqtt.UseAnotherServer, Reason: "elsewhere", ServerReference: "other.example"}
	}
	if string(c.Connect.Password) != "right" {
		return nil, policy.Verdict{Code: mqtt.BadUserNameOrPassword, Reason: "no"}
	}
	return &auth.Identity{Principal: policy.Principal{User: c.Connect.User}}, allowed
}

func (doorkeeper) Recheck(id *auth.Identity, _ mqtt.ClientID) (*auth.Identity, policy.Verdict, string) {
	return id, allowed, ""
}

func (doorkeeper) Exchange(method string, _ auth.Credentials) auth.Exchange {
	if method != "SESAME" {
		return nil
	}
	return &sesame{}
}

type sesame struct{ said string }

func (s *sesame) Step(data []byte) ([]byte, *policy.Principal, policy.Verdict) {
	s.said += string(data)
	switch s.said {
	case "open":
		return []byte("go on"), nil, allowed
	case "opensesame":
		return []byte("welcome"), &policy.Principal{User: "ali"}, allowed
	}
	return nil, nil, policy.Verdict{Code: mqtt.NotAuthorized, Reason: "wrong word"}
}

func TestAuthentication(t *testing.T) {
	play(t, Options{Auth: doorkeeper{}}, func(w *world) {
		password := func(p string) func(c *packet.Connect) {
			return func(c *packet.Connect) {
				c.HasUser, c.User, c.HasPassword, c.Password = true, "u", true, []byte(p)
			}
		}
		w.connect(mqtt.V311, "a", password("right"))
		p := w.dial()
		p.hello(mqtt.V311, "b", password("wrong"))
		p.want("CONNACK present=false 0x86 Bad User Name or Password", "closed")
		p = w.dial()
		p.hello(mqtt.V5, "moved")
		p.want("CONNACK present=false 0x9C Use another server", "closed")
		p = w.dial()
		p.hello(mqtt.V311, "moved")
		p.want("CONNACK present=false 0x88 Server unavailable", "closed")

		auth := func(r mqtt.ReasonCode, method, data string) *packet.Auth {
			props := &packet.Properties{AuthenticationMethod: method, AuthenticationData: []byte(data)}
			props.Mark(mqtt.AuthenticationMethod)
			props.Mark(mqtt.AuthenticationData)
			return &packet.Auth{Reason: r, Properties: props}
		}
		method := func(method, data string) func(c *packet.Connect) {
			return func(c *packet.Connect) { c.Properties = auth(0, method, data).Properties }
		}
		p = w.dial()
		p.hello(mqtt.V5, "c", method("OTHER", ""))
		p.want("CONNACK present=false 0x8C Bad authentication method", "closed")
		p = w.dial()
		p.hello(mqtt.V5, "c", method("SESAME", "shut"))
		p.want("CONNACK present=false 0x87 Not authorized", "closed")
		p = w.dial()
		p.hello(mqtt.V5, "c", method("SESAME", "open"))
		p.want(`AUTH 0x18 Continue authentication SESAME "go on"`)
		p.publish("a", "", mqtt.QoS0)
		p.want("CONNACK present=false 0x82 Protocol Error", "closed") // [MQTT-3.1.2-30]
		p = w.dial()
		p.hello(mqtt.V5, "c", method("SESAME", "open"))
		p.want(`AUTH 0x18 Continue authentication SESAME "go on"`)
		p.send(auth(mqtt.ContinueAuthentication, "SESAME", "sesame"))
		p.want("CONNACK present=false 0x00 Success")

		// Again, while connected (4.12.1).
		p.send(auth(mqtt.ReAuthenticate, "SESAME", "open"))
		p.want(`AUTH 0x18 Continue authentication SESAME "go on"`)
		p.send(&packet.Pingreq{})
		p.want("PINGRESP")
		p.send(auth(mqtt.ContinueAuthentication, "SESAME", "sesame"))
		p.want(`AUTH 0x00 Success SESAME "welcome"`)
		p.send(auth(mqtt.ReAuthenticate, "SESAME", "wrong"))
		p.want("DISCONNECT 0x87 Not authorized", "closed")
	})
}

func TestShutdownTellsClients(t *testing.T) {
	play(t, Options{}, func(w *world) {
		v5, v3 := w.connect(mqtt.V5, "v5", will("will", "no", 0)), w.connect(mqtt.V311, "v3")
		done := make(chan error)
		go func() { done <- w.b.Shutdown(context.Background()) }()
		v5.want("DISCONNECT 0x8B Server shutting down", "closed")
		v3.want("closed")
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		late := w.dial()
		late.want("closed")
	})
}

// TestTrace follows one message by the names of the functions it passes.
func TestTrace(t *testing.T) {
	var got []string
	note := func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) }
	hooks := &trace.Hooks{
		Admit:   func(e trace.Admit) { note("admit %s %v", e.Message.Topic, e.Code) },
		Step:    func(e trace.Step) { note("step id=%d", e.ID) },
		Commit:  func(e trace.Commit) { note("commit %s", e.Message.Payload) },
		Match:   func(e trace.Match) { note("match %d %d", e.Sessions, e.Shares) },
		Deliver: func(e trace.Deliver) { note("deliver %s %s", e.Client, e.Outcome) },
	}
	play(t, Options{Trace: hooks}, func(w *world) {
		got = nil
		sub, away := w.connect(mqtt.V5, "sub"), w.connect(mqtt.V5, "away", expiry(10))
		sub.subscribe("a", mqtt.QoS1)
		away.subscribe("a", mqtt.QoS1)
		away.close()
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("a", "x", mqtt.QoS1)
		pub.want("PUBACK 1 0x00 Success")
	})
	want := []string{"step id=1", "admit a 0x00 Success", "commit x", "match 2 0", "deliver sub sent", "deliver away queued"}
	slices.Sort(want[4:])
	if len(got) > 4 {
		slices.Sort(got[4:])
	}
	if !slices.Equal(got, want) {
		t.Errorf("trace = %q, want %q", got, want)
	}
}

func TestSysTopics(t *testing.T) {
	play(t, Options{SysEvery: 10 * time.Second, Version: "1.2.3"}, func(w *world) {
		p := w.connect(mqtt.V311, "p")
		p.subscribe("$SYS/broker/version", mqtt.QoS0)
		p.want(`PUBLISH $SYS/broker/version "fairlead version 1.2.3" retain`)
		p.subscribe("#", mqtt.QoS0)
		p.subscribe("+/broker/#", mqtt.QoS0)
		time.Sleep(15 * time.Second)
		p.want("silence") // wildcards in front do not match $ [MQTT-4.7.2-1]
		p.subscribe("$SYS/broker/clients/connected", mqtt.QoS0)
		p.want(`PUBLISH $SYS/broker/clients/connected "1" retain`)
	})
}

// TestViolations sends what no client may, and wants the right last word.
func TestViolations(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(p *peer)
		want string
	}{
		{"second CONNECT", func(p *peer) { p.hello(mqtt.V5, "again") }, "DISCONNECT 0x82 Protocol Error"},
		{"PINGRESP", func(p *peer) { p.send(&packet.Pingresp{}) }, "DISCONNECT 0x82 Protocol Error"},
		{"wildcard", func(p *peer) { p.publish("a/#", "", 0) }, "DISCONNECT 0x90 Topic Name invalid"},
		{"no topic", func(p *peer) { p.publish("", "", 0) }, "DISCONNECT 0x82 Protocol Error"},
		{"AUTH", func(p *peer) {
			a := &packet.Auth{Reason: mqtt.ReAuthenticate, Properties: &packet.Properties{AuthenticationMethod: "x"}}
			a.Properties.Mark(mqtt.AuthenticationMethod)
			p.send(a)
		}, "DISCONNECT 0x82 Protocol Error"},
		{"garbage", func(p *peer) { p.raw([]byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF}) }, "DISCONNECT 0x81 Malformed Packet"},
		{"256 MB", func(p *peer) { p.raw([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}) }, "DISCONNECT 0x95 Packet too large"},
		{"too many QoS 2", func(p *peer) {
			for range 3 {
				p.publish("a", "", mqtt.QoS2)
			}
			p.want("PUBREC 1 0x10 No matching subscribers", "PUBREC 2 0x10 No matching subscribers")
		}, "DISCONNECT 0x93 Receive Maximum exceeded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			play(t, Options{Limits: limits(func(l *Limits) { l.ReceiveMaximum = 2 })}, func(w *world) {
				p, bystander := w.connect(mqtt.V5, "p"), w.connect(mqtt.V5, "bystander")
				go func() { // the broker may close before it has read all
					test.do(p)
				}()
				if test.name == "too many QoS 2" {
					synctest.Wait()
				}
				p.want(test.want, "closed")
				bystander.send(&packet.Pingreq{})
				bystander.want("PINGRESP")
			})
		})
	}
}

// TestRetainedAtEachQoS sends Retained Messages at the QoS that they and the subscription
// have, with and without a store.
func TestRetainedAtEachQoS(t *testing.T) {
	play(t, Options{}, func(w *world) {
		pub := w.connect(mqtt.V5, "pub")
		for q := range mqtt.QoS(3) {
			pub.publish(fmt.Sprintf("r/%d", q), "x", q, asRetained)
		}
		pub.want("PUBACK 1 0x10 No matching subscribers", "PUBREC 2 0x10 No matching subscribers")
		for _, id := range []string{"ends", "stays"} {
			sub := w.connect(mqtt.V5, id, expiry(uint32(len(id)-4)*100))
			sub.subscribe("r/+", mqtt.QoS2)
			sub.want(`PUBLISH r/0 "x" retain`, `PUBLISH r/1 "x" qos=1 id=1 retain`, `PUBLISH r/2 "x" qos=2 id=2 retain`)
		}
	})
}
