package broker

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// bystanders are two clients that exchange messages and want to notice nothing.
type bystanders struct {
	w        *world
	pub, sub *peer
	n        int
}

func (w *world) bystanders() *bystanders {
	b := &bystanders{w: w, pub: w.connect(mqtt.V5, "bystander-pub"), sub: w.connect(mqtt.V311, "bystander-sub")}
	b.sub.subscribe("bystander/+", mqtt.QoS1)
	return b
}

// exchange sends one message from one to the other.
func (b *bystanders) exchange() {
	b.w.Helper()
	b.n++
	b.pub.publish("bystander/topic", fmt.Sprint(b.n), mqtt.QoS1)
	b.sub.want(fmt.Sprintf(`PUBLISH bystander/topic "%d" qos=1 id=%d`, b.n, b.n))
	b.sub.send(&packet.Puback{ID: mqtt.PacketID(b.n)})
	b.pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", b.n))
}

// TestRandomBytes throws random bytes and damaged packets at the broker, before
// and after CONNECT.
func TestRandomBytes(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.PacketBytes = 10_000 })}, func(w *world) {
		by := w.bystanders()
		random := rand.New(rand.NewPCG(1, 2))
		good := frames(mqtt.V5,
			&packet.Publish{Topic: []byte("a/b"), QoS: 1, ID: 1, Payload: []byte("x"), Properties: mqtt.Properties(nil).AppendContentType("text")},
			&packet.Subscribe{ID: 2, Subscriptions: []packet.Subscription{{Filter: "a/#"}}},
			&packet.Pubrel{ID: 3}, &packet.Puback{ID: 4}, &packet.Unsubscribe{ID: 5, Filters: []string{"a/#"}}, &packet.Pingreq{})
		for i := range 300 {
			p := w.dial()
			if i%2 == 0 {
				p.hello(mqtt.V5, fmt.Sprint("random", i))
				p.next()
			}
			b := append([]byte(nil), good...)
			for range 1 + random.IntN(4) {
				b[random.IntN(len(b))] = byte(random.Uint32())
			}
			if i%3 == 0 {
				b = b[:random.IntN(len(b))]
			}
			go func() { // reads whatever comes, so that the broker can't wait for it
				for p.next() != "closed" {
				}
			}()
			p.raw(b)
			p.close()
			if i%50 == 0 {
				by.exchange()
			}
		}
	})
}

// TestManySubscriptions lets one client subscribe as often as it may, and once
// more; when it leaves nothing is left of them.
func TestManySubscriptions(t *testing.T) {
	const most = 100_000
	play(t, Options{Limits: limits(func(l *Limits) { l.Subscriptions = most })}, func(w *world) {
		by := w.bystanders()
		greedy := w.connect(mqtt.V5, "greedy")
		for i := 0; i < most; i += 1000 {
			s := &packet.Subscribe{ID: 1}
			for j := range 1000 {
				s.Subscriptions = append(s.Subscriptions, packet.Subscription{Filter: fmt.Sprintf("g/+/%d/#", i+j)})
			}
			greedy.send(s)
			if got := greedy.next(); strings.Contains(got, " 97") {
				t.Fatalf("subscriptions %d and on: refused", i)
			}
		}
		greedy.send(&packet.Subscribe{ID: 2, Subscriptions: []packet.Subscription{{Filter: "one/more"}, {Filter: "g/+/7/#"}}})
		greedy.want("SUBACK 2 97 00")
		by.exchange()
		by.pub.publish("g/x/99999", "", mqtt.QoS0)
		greedy.want(`PUBLISH g/x/99999 ""`)
		greedy.close()
		if n := w.b.router.subs.Len(); n != 1 {
			t.Errorf("%d subscriptions are left, want the bystander's only", n)
		}
		by.exchange()
	})
}

// TestTopicBombs uses the longest names and filters, with as many levels as fit.
func TestTopicBombs(t *testing.T) {
	play(t, Options{}, func(w *world) {
		by := w.bystanders()
		bomber := w.connect(mqtt.V5, "bomber")
		slashes := strings.Repeat("/", 65535)
		plusses := strings.Repeat("+/", 32767) + "+"
		for _, filter := range []string{slashes, plusses, slashes[:65534] + "#", strings.Repeat("a/", 30000) + "#"} {
			bomber.subscribe(filter, mqtt.QoS0)
		}
		by.exchange()
		// Every filter of n levels that are "a" or "+".
		for i := range 1 << 10 {
			levels := make([]string, 10)
			for j := range levels {
				levels[j] = "a"
				if i>>j&1 == 1 {
					levels[j] = "+"
				}
			}
			bomber.subscribe(strings.Join(levels, "/"), mqtt.QoS0)
		}
		for range 5 {
			bomber.publish("a/a/a/a/a/a/a/a/a/a", "", mqtt.QoS0)
			for bomber.next() != `PUBLISH a/a/a/a/a/a/a/a/a/a ""` {
			}
		}
		bomber.publish(slashes, "boom", mqtt.QoS1)
		for range 20 {
			if strings.HasPrefix(bomber.next(), "PUBACK") {
				break
			}
		}
		by.exchange()
		limited := New(Options{Limits: limits(func(l *Limits) { l.TopicLevels = 3 })})
		if _, err := limited.router.route([]byte("a/b/c/d")); err == nil {
			t.Error("a name of four levels is taken where three are the limit")
		}
	})
}

// TestSubscribeToEverythingInManyWays makes the broker look for Retained Messages
// again and again for a client that does not read: it holds one list at a time.
func TestSubscribeToEverythingInManyWays(t *testing.T) {
	play(t, Options{Limits: limits(func(l *Limits) { l.OutboxBytes = 10_000 })}, func(w *world) {
		by := w.bystanders()
		const n = 5000
		for i := range n {
			by.pub.publish(fmt.Sprint("r/", i), strings.Repeat("x", 100), mqtt.QoS0, asRetained)
		}
		deaf := w.connect(mqtt.V5, "deaf")
		s := &packet.Subscribe{ID: 1}
		for i := range 300 {
			s.Subscriptions = append(s.Subscriptions, packet.Subscription{Filter: "#", QoS: mqtt.QoS(i % 3)}, packet.Subscription{Filter: "+/#"})
		}
		deaf.send(s)
		synctest.Wait()
		w.b.mu.Lock()
		d := w.b.sessions["deaf"]
		w.b.mu.Unlock()
		d.mu.Lock()
		held := 0
		for _, sc := range d.scans {
			held += len(sc.items)
		}
		d.mu.Unlock()
		if held > n {
			t.Errorf("%d references are held, want at most %d", held, n)
		}
		by.exchange()
		deaf.close()
	})
}

// TestHalfPackets sends the beginning of packets and goes silent: Keep Alive or
// the time to CONNECT ends that.
func TestHalfPackets(t *testing.T) {
	play(t, Options{}, func(w *world) {
		by := w.bystanders()
		var half []*peer
		for i := range 20 {
			p := w.connect(mqtt.V5, fmt.Sprint("half", i), func(c *packet.Connect) { c.KeepAlive = 5 })
			p.raw([]byte{0x30, 0xFF, 0x7F, 0, 5, 'a'})
			half = append(half, p, w.dial())
		}
		by.exchange()
		time.Sleep(11 * time.Second)
		for _, p := range half {
			p.want("closed") // a last DISCONNECT has waited for half a second, no longer
		}
		if n := w.b.EndedFor(mqtt.KeepAliveTimeout); n != 20 {
			t.Errorf("%d connections counted as silent for too long, want 20", n)
		}
		by.exchange()
	})
}
