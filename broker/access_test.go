package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/auth"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/policy"
	"fairlead/store/storetest"
	"fairlead/trace"
)

// doors let in everybody as the user, or the device "d-…", that the Client Identifier
// names, with what the policies allow; both can change.
type doors struct {
	text    string // of the policies
	set     *policy.Set
	mu      sync.Mutex // guards the fields below, and set
	out     map[string]bool
	groups  []string
	expires time.Duration // of what is shown
}

func (d *doors) Identify(c auth.Credentials) (*auth.Identity, policy.Verdict) {
	id := &auth.Identity{Principal: policy.Principal{Method: "test"}}
	if name := policy.NameOf(c.Connect.ClientID); strings.HasPrefix(name, "d-") {
		id.Device = name
	} else {
		if id.User = name; c.Connect.HasUser {
			id.User = c.Connect.User
		}
		if name == "" {
			id.Device = "d-0"
		}
	}
	if d.expires > 0 {
		id.Expires = time.Now().Add(d.expires)
	}
	return d.look(id)
}

func (d *doors) look(id *auth.Identity) (*auth.Identity, policy.Verdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.out[id.Name()] {
		return nil, policy.Verdict{Code: mqtt.NotAuthorized}
	}
	now := *id
	now.Groups = d.groups
	return &now, allowed
}

func (d *doors) Recheck(id *auth.Identity, _ mqtt.ClientID) (*auth.Identity, policy.Verdict, string) {
	now, v := d.look(id)
	return now, v, "put out"
}

func (d *doors) Exchange(string, auth.Credentials) auth.Exchange { return nil }

func (d *doors) Rights(p *policy.Principal) *policy.Rights {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.set.For(p)
}

func (d *doors) Reserved(id mqtt.ClientID) bool { return strings.HasPrefix(string(id), "d-") }

// change puts other policies in force.
func (d *doors) change(w *world, text string) {
	w.Helper()
	doc, err := policy.Parse("test.yaml", []byte(text))
	if err != nil {
		w.Fatal(err)
	}
	set, err := policy.Compile(doc)
	if err != nil {
		w.Fatal(err)
	}
	d.mu.Lock()
	d.set = set
	d.mu.Unlock()
	if w.b != nil {
		w.b.Reevaluate(func(*auth.Identity) bool { return true })
		synctest.Wait()
	}
}

// playGuarded runs f with a broker behind doors, with and without a store.
func playGuarded(t *testing.T, d *doors, f func(w *world)) {
	t.Helper()
	run := func(w *world) {
		d.out, d.groups = nil, nil
		d.change(w, d.text)
		f(w)
	}
	play(t, Options{Auth: d, Admission: d}, run)
}

const ownTopics = `
policies:
  users read all: {who: every user, allow: [subscribe: "#", publish: "#"]}
`

// TestDeviceKeepsToItself lets devices do what the built-in policies allow.
func TestDeviceKeepsToItself(t *testing.T) {
	playGuarded(t, &doors{text: ownTopics}, func(w *world) {
		user := w.connect(mqtt.V5, "user")
		user.subscribe("devices/#", mqtt.QoS1)
		d := w.connect(mqtt.V5, "d-1")
		d.publish("devices/d-1/temperature", "20", mqtt.QoS1)
		d.want("PUBACK 1 0x00 Success")
		user.want(`PUBLISH devices/d-1/temperature "20" qos=1 id=1`)
		d.publish("devices/d-2/command", "off", mqtt.QoS1)
		d.want("PUBACK 2 0x87 Not authorized")
		d.send(&packet.Subscribe{ID: 9, Subscriptions: []packet.Subscription{{Filter: "devices/d-1/#"}, {Filter: "devices/+/x"}, {Filter: "#"}, {Filter: "$share/g/devices/d-2/#"}}})
		d.want("SUBACK 9 00 87 87 87")
		d.publish("$fairlead/devices/d-1/x", "", mqtt.QoS1)
		d.want("PUBACK 3 0x87 Not authorized")
		other := w.dial()
		other.hello(mqtt.V5, "d-2:second") // a device's own second connection
		other.want("CONNACK present=false 0x00 Success")
		nameless := w.dial()
		nameless.hello(mqtt.V5, "")
		nameless.want("CONNACK present=false 0x00 Success")
		w.b.mu.Lock()
		defer w.b.mu.Unlock()
		for id := range w.b.sessions {
			if strings.HasPrefix(string(id), "d-0:") {
				return
			}
		}
		w.Errorf("the client identifier assigned to device d-0 does not begin with d-0:")
	})
}

// TestReevaluate takes rights away from connected clients: they lose what they may not
// have any more, and notice nothing else.
func TestReevaluate(t *testing.T) {
	playGuarded(t, &doors{text: ownTopics}, func(w *world) {
		d := w.o.Admission.(*doors)
		user, other := w.connect(mqtt.V5, "user", receiveMaximum(1)), w.connect(mqtt.V5, "d-1")
		user.subscribe("a/#", mqtt.QoS1)
		user.subscribe("b/#", mqtt.QoS1)
		other.subscribe("devices/d-1/#", mqtt.QoS1)
		pub := w.connect(mqtt.V5, "pub")
		for i, topic := range []string{"a/1", "b/1", "a/2", "b/2"} {
			pub.publish(topic, topic, mqtt.QoS1)
			pub.want(fmt.Sprintf("PUBACK %d 0x00 Success", i+1))
		}
		user.want(`PUBLISH a/1 "a/1" qos=1 id=1`)
		d.change(w, ownTopics+"  not b: {who: every user, deny: [subscribe: b/#]}\n")
		pub.publish("b/3", "b/3", mqtt.QoS1)
		pub.want("PUBACK 5 0x10 No matching subscribers")
		user.send(&packet.Puback{ID: 1})
		user.want(`PUBLISH a/2 "a/2" qos=1 id=3`) // id 2 was that of what it may not see
		user.send(&packet.Puback{ID: 3})
		synctest.Wait()
		if n := w.b.Outcomes[trace.DroppedNotAllowed].Load(); n != 2 {
			w.Errorf("%d messages were counted as not allowed any more, want 2", n)
		}
		if n := w.b.RevokedSubscriptions.Load(); n != 1 {
			w.Errorf("%d subscriptions were counted as revoked, want 1", n)
		}
		pub.publish("a/4", "a/4", mqtt.QoS1)
		user.want(`PUBLISH a/4 "a/4" qos=1 id=5`) // id 4 as well
		pub.publish("devices/d-1/x", "x", mqtt.QoS1)
		other.want(`PUBLISH devices/d-1/x "x" qos=1 id=1`)

		d.mu.Lock()
		d.out = map[string]bool{"user": true}
		d.mu.Unlock()
		w.b.Reevaluate(func(id *auth.Identity) bool { return id.User == "user" })
		user.want("DISCONNECT 0x87 Not authorized", "closed")
		pub.publish("devices/d-1/x", "y", mqtt.QoS1)
		other.want(`PUBLISH devices/d-1/x "y" qos=1 id=2`)
		if n := w.b.Revoked.Load(); n != 1 {
			w.Errorf("%d clients were counted as sent away, want 1", n)
		}
	})
}

// TestRestrictedOnReturn takes rights away while the client is absent, over each end of
// the broker: its old subscriptions and what has waited are not for it any more.
func TestRestrictedOnReturn(t *testing.T) {
	d := &doors{text: ownTopics}
	endings(t, Options{Auth: d, Admission: d}, func(w *world, again func()) {
		d.change(w, ownTopics)
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("a/#", mqtt.QoS2)
		sub.subscribe("b/#", mqtt.QoS2)
		sub.close()
		pub := w.connect(mqtt.V5, "pub")
		for i, topic := range []string{"a/1", "b/1", "a/2"} {
			pub.publish(topic, topic, mqtt.QoS(1+i%2))
			pub.next()
		}
		d.change(w, ownTopics+"  not b: {who: every user, deny: [subscribe: b/#]}\n")
		again()
		sub = w.resumed(mqtt.V5, "sub")
		sub.wantAll("a/1", "a/2")
		sub.close()
		again()
		pub = w.connect(mqtt.V5, "pub")
		pub.publish("b/3", "b/3", mqtt.QoS1)
		pub.want("PUBACK 1 0x10 No matching subscribers")
	})
}

// TestSubscribeWhileRightsShrink changes the policies while a SUBSCRIBE that was allowed
// waits for the disk.
func TestSubscribeWhileRightsShrink(t *testing.T) {
	d := &doors{text: ownTopics}
	playStored(t, Options{Auth: d, Admission: d}, func(w *world) {
		d.change(w, ownTopics)
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		release := w.faults.HoldAppends()
		sub.send(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: "b/#", QoS: 1}}})
		synctest.Wait()
		d.change(w, ownTopics+"  not b: {who: every user, deny: [subscribe: b/#]}\n")
		release()
		sub.want("SUBACK 1 01")
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("b/1", "", mqtt.QoS1)
		pub.want("PUBACK 1 0x10 No matching subscribers")
	})
}

// TestRestrictInTrouble can't put it on record that a subscription has ended: the
// client is sent away, and gets nothing by it.
func TestRestrictInTrouble(t *testing.T) {
	d := &doors{text: ownTopics}
	playStored(t, Options{Auth: d, Admission: d}, func(w *world) {
		d.change(w, ownTopics)
		sub := w.connect(mqtt.V5, "sub", expiry(1000))
		sub.subscribe("b/#", mqtt.QoS1)
		w.faults.FailAppends(storetest.All, syscall.EIO)
		d.change(w, ownTopics+"  not b: {who: every user, deny: [subscribe: b/#]}\n")
		sub.want("DISCONNECT 0x80 Unspecified error", "closed")
		sub = w.dial()
		sub.hello(mqtt.V5, "sub", expiry(1000))
		sub.want("CONNACK present=false 0x88 Server unavailable", "closed")
		w.faults.FailAppends(0, nil)
		w.resumed(mqtt.V5, "sub")
		pub := w.connect(mqtt.V5, "pub")
		pub.publish("b/1", "", mqtt.QoS1)
		pub.want("PUBACK 1 0x10 No matching subscribers")
	})
}

// TestLimitsOfPolicy holds a client to what its policies bound.
func TestLimitsOfPolicy(t *testing.T) {
	playGuarded(t, &doors{text: ownTopics + `
  few: {who: every user, limits: {subscriptions: 1, session_expiry: 60s, messages: 10/s}}
`}, func(w *world) {
		p := w.dial()
		p.hello(mqtt.V5, "p", expiry(1000))
		if line := p.next(); line != "CONNACK present=false 0x00 Success" {
			w.Fatal(line)
		}
		p.send(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: "a"}, {Filter: "b"}}})
		p.want("SUBACK 1 00 97")
		began := time.Now()
		for i := range 40 {
			p.publish("c", fmt.Sprint(i), mqtt.QoS0)
			synctest.Wait() // one batch each
		}
		p.publish("a", "last", mqtt.QoS0)
		p.want(`PUBLISH a "last"`)
		if took := time.Since(began); took < 2*time.Second || took > 5*time.Second {
			w.Errorf("41 messages at 10 a second, the first 10 at once, took %v, want about 3s", took)
		}
		if w.b.Slowed.Load() == 0 {
			w.Error("nobody was counted as slowed")
		}
	})
}

// TestIdentityExpires ends a connection with the identity that it was let in for.
func TestIdentityExpires(t *testing.T) {
	playGuarded(t, &doors{text: ownTopics, expires: time.Minute}, func(w *world) {
		p := w.connect(mqtt.V5, "p")
		old := w.connect(mqtt.V311, "old")
		time.Sleep(59 * time.Second)
		p.send(&packet.Pingreq{})
		p.want("PINGRESP", "DISCONNECT 0xA0 Maximum connect time", "closed")
		old.want("closed")
	})
}

// TestManyReevaluations changes the policies while clients come and go, subscribe and
// publish: the race detector looks on.
func TestManyReevaluations(t *testing.T) {
	playGuarded(t, &doors{text: ownTopics}, func(w *world) {
		d := w.o.Admission.(*doors)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for j := range 20 {
					p := w.dial()
					p.hello(mqtt.V5, fmt.Sprint("u", i), expiry(uint32(j%2)*100))
					p.next()
					p.send(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: "b/#", QoS: 1}}})
					p.send(&packet.Publish{Topic: []byte("b/x"), QoS: 1, ID: 1})
					p.next()
					p.nc.Close()
				}
			})
		}
		for i := range 20 {
			text := ownTopics
			if i%2 == 0 {
				text += "  not b: {who: every user, deny: [subscribe: b/#]}\n"
			}
			d.change(w, text)
		}
		wg.Wait()
		d.change(w, ownTopics+"  not b: {who: every user, deny: [subscribe: b/#]}\n")
		w.b.mu.Lock()
		defer w.b.mu.Unlock()
		var left []string
		for id, s := range w.b.sessions {
			s.mu.Lock()
			if s.state.Has("b/#") {
				left = append(left, string(id))
			}
			s.mu.Unlock()
		}
		if slices.Sort(left); len(left) > 0 {
			w.Errorf("sessions %q still have the subscription", left)
		}
	})
}

// TestSessionIsItsOwners keeps a session for the user that made it, over each end of
// the broker: another one is refused its client identifier, with Clean Start as well.
func TestSessionIsItsOwners(t *testing.T) {
	d := &doors{text: ownTopics}
	endings(t, Options{Auth: d, Admission: d}, func(w *world, again func()) {
		d.change(w, ownTopics)
		as := func(user string) func(c *packet.Connect) {
			return func(c *packet.Connect) { c.HasUser, c.User = true, user }
		}
		mine := w.connect(mqtt.V5, "panel", expiry(1000), as("anna"))
		mine.subscribe("a", mqtt.QoS1)
		for range 2 {
			for _, clean := range []bool{true, false} {
				thief := w.dial()
				thief.hello(mqtt.V5, "panel", expiry(1000), as("ben"), func(c *packet.Connect) { c.CleanStart = clean })
				thief.want("CONNACK present=false 0x85 Client Identifier not valid", "closed")
			}
			again()
		}
		mine = w.dial()
		mine.hello(mqtt.V5, "panel", as("anna"), expiry(1000))
		mine.want("CONNACK present=true 0x00 Success")
	})
}

// TestMembers looks at who is there, and sends one of them away.
func TestMembers(t *testing.T) {
	playGuarded(t, &doors{text: ownTopics}, func(w *world) {
		d := w.connect(mqtt.V5, "d-1", expiry(1000))
		d.subscribe("devices/d-1/#", mqtt.QoS1)
		for i := range publishedMost + 10 {
			d.publish(fmt.Sprint("devices/d-1/", i), "x", mqtt.QoS0, asRetained)
		}
		away := w.connect(mqtt.V311, "away", resume)
		away.close()
		synctest.Wait()
		members := w.b.Members()
		if len(members) != 2 || members[0].Client != "away" || members[0].Connected || members[0].Owner != "user:away" {
			w.Fatalf("Members = %+v", members)
		}
		m := members[1]
		if !m.Connected || m.Identity.Device != "d-1" || m.Owner != "device:d-1" || m.Remote == "" || len(m.Subscriptions) != 1 || m.Version != mqtt.V5 {
			w.Errorf("Members = %+v", m)
		}
		if len(m.Published) != publishedMost || !slices.ContainsFunc(m.Published, func(p policy.Publication) bool {
			return p == policy.Publication{Topic: fmt.Sprint("devices/d-1/", publishedMost+9), Retain: true, PayloadBytes: 1}
		}) {
			w.Errorf("published lately: %+v", m.Published)
		}
		if names := w.b.RetainedNames(10); len(names) != 10 || names[0] != "devices/d-1/0" {
			w.Errorf("RetainedNames = %q", names)
		}
		if w.b.Disconnect("away", mqtt.AdministrativeAction, "") || !w.b.Disconnect("d-1", mqtt.AdministrativeAction, "bye") {
			w.Error("Disconnect has not told who was connected")
		}
		d.want("PUBLISH devices/d-1/0 \"x\"")
	})
}
