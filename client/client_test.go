package client

import (
	"context"
	"errors"
	"fairlead/auth"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/broker"
	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/policy"
)

// house is a broker in a bubble of its own time, and the connections to it.
type house struct {
	*testing.T
	b     *broker.Broker
	conns []net.Conn
	down  atomic.Bool // no new connections
}

func play(t *testing.T, o broker.Options, f func(h *house)) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{T: t, b: broker.New(o)}
		defer func() {
			if err := h.b.Shutdown(context.Background()); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			synctest.Wait()
		}()
		f(h)
	})
}

func (h *house) dial(context.Context) (net.Conn, error) {
	if h.down.Load() {
		return nil, errors.New("the broker is down")
	}
	ours, theirs := net.Pipe()
	go h.b.Serve(listen.Wrap(theirs, listen.Info{}))
	h.conns = append(h.conns, ours)
	return ours, nil
}

// cut breaks the latest connection.
func (h *house) cut() {
	synctest.Wait() // acknowledgements that are on their way arrive
	h.conns[len(h.conns)-1].Close()
	synctest.Wait()
}

func (h *house) client(o Options) *Client {
	h.Helper()
	o.DialContext = h.dial
	c, err := Dial(context.Background(), o)
	if err != nil {
		h.Fatal(err)
	}
	return c
}

func (h *house) receive(c *Client, want string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, err := c.Receive(ctx)
	if err != nil {
		h.Fatalf("want %s: %v", want, err)
	}
	if got := fmt.Sprintf("%s %s qos=%d", m.Topic, m.Payload, m.QoS); got != want {
		h.Errorf("received %s, want %s", got, want)
	}
}

func (h *house) subscribe(c *Client, filter string, q mqtt.QoS) {
	h.Helper()
	if _, err := c.Subscribe(context.Background(), []Subscription{{Filter: filter, QoS: q}}, nil); err != nil {
		h.Fatal(err)
	}
}

func (h *house) publish(c *Client, topic, payload string, q mqtt.QoS) {
	h.Helper()
	if err := c.Publish(context.Background(), Message{Topic: topic, Payload: []byte(payload), QoS: q}); err != nil {
		h.Fatal(err)
	}
}

func TestEachVersionAndQoS(t *testing.T) {
	for _, v := range []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5} {
		t.Run(v.String(), func(t *testing.T) {
			play(t, broker.Options{}, func(h *house) {
				c := h.client(Options{Version: v, CleanStart: true, TopicAliases: true, TopicAliasMaximum: 5})
				h.subscribe(c, "a/+", mqtt.QoS2)
				for q := range mqtt.QoS2 + 1 {
					for i := range 3 {
						h.publish(c, "a/topic", fmt.Sprint(i), q)
						h.receive(c, fmt.Sprintf("a/topic %d qos=%d", i, q))
					}
				}
				if _, err := c.Unsubscribe(context.Background(), []string{"a/+"}, nil); err != nil {
					t.Error(err)
				}
				h.publish(c, "a/topic", "no", mqtt.QoS1)
				if m := c.TryReceive(); m != nil {
					t.Errorf("received %s after UNSUBSCRIBE", m.Payload)
				}
				if err := c.Disconnect(context.Background()); err != nil {
					t.Errorf("Disconnect: %v", err)
				}
			})
		})
	}
}

// TestReconnect breaks the connection again and again while messages go both
// ways: none is lost.
func TestReconnect(t *testing.T) {
	play(t, broker.Options{}, func(h *house) {
		pub := h.client(Options{CleanStart: true})
		sub := h.client(Options{ClientID: "sub", SessionExpiry: time.Hour, Reconnect: true})
		h.subscribe(sub, "a", mqtt.QoS2)
		for i := range 10 {
			h.cut() // sub's: the latest
			h.publish(pub, "a", fmt.Sprint(i), mqtt.QoS(1+i%2))
			h.receive(sub, fmt.Sprintf("a %d qos=%d", i, 1+i%2))
		}
		h.down.Store(true)
		h.cut()
		h.publish(pub, "a", "late", mqtt.QoS1)
		time.Sleep(time.Minute)
		h.down.Store(false)
		h.receive(sub, "a late qos=1")
		pub.Disconnect(context.Background())
		sub.Disconnect(context.Background())
	})
}

// TestPublishSurvivesReconnect publishes while the broker can't be reached.
func TestPublishSurvivesReconnect(t *testing.T) {
	play(t, broker.Options{}, func(h *house) {
		sub := h.client(Options{CleanStart: true})
		h.subscribe(sub, "a", mqtt.QoS2)
		pub := h.client(Options{ClientID: "pub", SessionExpiry: time.Hour, Reconnect: true})
		h.down.Store(true)
		h.cut()
		time.AfterFunc(5*time.Second, func() { h.down.Store(false) })
		var ds []*Delivery
		for i := range 4 {
			d, err := pub.PublishAsync(context.Background(), Message{Topic: "a", Payload: []byte(fmt.Sprint(i)), QoS: mqtt.QoS(1 + i%2)})
			if err != nil {
				t.Fatal(err)
			}
			ds = append(ds, d)
		}
		for i, d := range ds {
			if err := d.Wait(context.Background()); err != nil {
				t.Errorf("message %d: %v", i, err)
			}
			h.receive(sub, fmt.Sprintf("a %d qos=%d", i, 1+i%2))
		}
		pub.Disconnect(context.Background())
		sub.Disconnect(context.Background())
	})
}

// refuser lets nobody do anything but connect by a name that is not "bad".
type refuser struct{ *policy.Set }

func newRefuser(t *testing.T) refuser {
	t.Helper()
	doc, err := policy.Parse("test.yaml", []byte(`{builtin: off, policies: {p: {who: everyone, allow: [connect: "*"], deny: [connect: bad]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	set, err := policy.Compile(doc)
	if err != nil {
		t.Fatal(err)
	}
	return refuser{set}
}

func (r refuser) Identify(c auth.Credentials) (*auth.Identity, policy.Verdict) {
	return &auth.Identity{Principal: policy.Principal{User: c.Connect.ClientID}}, policy.Verdict{}
}

func (r refuser) Exchange(string, auth.Credentials) auth.Exchange { return nil }

func (r refuser) Recheck(id *auth.Identity, _ mqtt.ClientID) (*auth.Identity, policy.Verdict, string) {
	return id, policy.Verdict{}, ""
}

func (r refuser) Rights(p *policy.Principal) *policy.Rights { return r.For(p) }
func (r refuser) Reserved(mqtt.ClientID) bool               { return false }

// TestRefusals wants the broker's no as an error with its Reason Code.
func TestRefusals(t *testing.T) {
	play(t, broker.Options{Auth: newRefuser(t), Admission: newRefuser(t)}, func(h *house) {
		ctx := context.Background()
		c := h.client(Options{CleanStart: true})
		_, dialErr := Dial(ctx, Options{ClientID: "bad", DialContext: h.dial})
		_, subErr := c.Subscribe(ctx, []Subscription{{Filter: "a"}}, nil)
		for _, test := range []struct {
			what string
			err  error
			want ReasonError
		}{
			{"Dial", dialErr, ReasonError{Packet: packet.CONNACK, Code: mqtt.NotAuthorized, Reason: "this client id is not granted"}},
			{"Publish at QoS 1", c.Publish(ctx, Message{Topic: "a", QoS: mqtt.QoS1}), ReasonError{Packet: packet.PUBACK, Code: mqtt.NotAuthorized, Reason: "this topic is not granted"}},
			{"Publish at QoS 2", c.Publish(ctx, Message{Topic: "a", QoS: mqtt.QoS2}), ReasonError{Packet: packet.PUBREC, Code: mqtt.NotAuthorized, Reason: "this topic is not granted"}},
			{"Subscribe", subErr, ReasonError{Packet: packet.SUBACK, Code: mqtt.NotAuthorized, Filter: "a"}},
		} {
			var got *ReasonError
			if !errors.As(test.err, &got) || *got != test.want {
				t.Errorf("%s = %v, want %v", test.what, test.err, &test.want)
			}
		}
		c.Disconnect(ctx)
	})
}

// TestKeepAlive stays connected through silence, and notices a broker that is gone.
func TestKeepAlive(t *testing.T) {
	play(t, broker.Options{}, func(h *house) {
		c := h.client(Options{CleanStart: true, KeepAlive: 10 * time.Second})
		time.Sleep(10 * time.Minute)
		if err := c.Err(); err != nil {
			t.Errorf("after ten silent minutes: %v", err)
		}
		c.Disconnect(context.Background())

		deaf := func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { // a broker that accepts and then says nothing
				defer theirs.Close()
				b := make([]byte, 1000)
				theirs.Read(b)
				theirs.Write([]byte{0x20, 3, 0, 0, 0})
				for {
					if _, err := theirs.Read(b); err != nil {
						return
					}
				}
			}()
			return ours, nil
		}
		c, err := Dial(context.Background(), Options{DialContext: deaf, KeepAlive: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		<-c.Done()
		if !errors.Is(c.Err(), ErrPingTimeout) {
			t.Errorf("a broker that does not answer: %v, want %v", c.Err(), ErrPingTimeout)
		}
	})
}

// TestNamedAliases publishes with Topic Aliases that the messages name themselves,
// beside those that the client chooses.
func TestNamedAliases(t *testing.T) {
	limits := broker.DefaultLimits()
	limits.TopicAliasMaximum = 3
	play(t, broker.Options{Limits: &limits}, func(h *house) {
		ctx := context.Background()
		sub := h.client(Options{CleanStart: true})
		h.subscribe(sub, "#", mqtt.QoS1)
		pub := h.client(Options{CleanStart: true, TopicAliases: true})
		for i, m := range []Message{
			{Topic: "a", TopicAlias: 2}, {Topic: "a", TopicAlias: 2}, {Topic: "b"}, {Topic: "b"}, {Topic: "c"}, {Topic: "d"},
			{Topic: "d", TopicAlias: 2}, {Topic: "a"}, {Topic: "d"}, {Topic: "a", TopicAlias: 1}, {Topic: "b"}, {Topic: "a"},
		} {
			m.Payload, m.QoS = fmt.Append(nil, i), mqtt.QoS1
			if err := pub.Publish(ctx, m); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			h.receive(sub, fmt.Sprintf("%s %d qos=1", m.Topic, i))
		}
		var limit *LimitError
		if err := pub.Publish(ctx, Message{Topic: "a", TopicAlias: 4}); !errors.As(err, &limit) || limit.Code != mqtt.TopicAliasInvalid {
			t.Errorf("alias 4 of 3: %v, want %v", err, mqtt.TopicAliasInvalid)
		}
		pub.Disconnect(ctx)
		sub.Disconnect(ctx)
	})
}

// TestReceiveMaximum lets the application be slow: the broker sends no more than
// the client has said.
func TestReceiveMaximum(t *testing.T) {
	play(t, broker.Options{}, func(h *house) {
		sub := h.client(Options{CleanStart: true, ReceiveMaximum: 2, ManualAck: true})
		h.subscribe(sub, "a", mqtt.QoS1)
		pub := h.client(Options{CleanStart: true})
		for i := range 5 {
			h.publish(pub, "a", fmt.Sprint(i), mqtt.QoS1)
		}
		synctest.Wait()
		var held []*Message
		for m := sub.TryReceive(); m != nil; m = sub.TryReceive() {
			held = append(held, m)
		}
		if len(held) != 2 {
			t.Fatalf("%d messages before an acknowledgement, want 2", len(held))
		}
		for i := 0; i < 5; i++ {
			if i >= len(held) {
				m, err := sub.Receive(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, m)
			}
			if got := string(held[i].Payload); got != fmt.Sprint(i) {
				t.Errorf("message %d is %q", i, got)
			}
			held[i].Ack()
		}
		pub.Disconnect(context.Background())
		sub.Disconnect(context.Background())
	})
}

func TestBadOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no URL":    {},
		"scheme":    {URL: "http://x"},
		"will":      {URL: "mqtt://x", Will: &packet.Will{Topic: "a/#"}},
		"keepalive": {URL: "mqtt://x", KeepAlive: 100_000 * time.Second},
	} {
		if _, err := Dial(context.Background(), o); err == nil || strings.Contains(err.Error(), "dial tcp") {
			t.Errorf("%s: %v, want an error before anything is dialled", name, err)
		}
	}
}
