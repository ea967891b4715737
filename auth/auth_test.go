package auth

import (
	"net"
	"sync"
	"testing"
	"time"

	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// registry is a Directory in memory.
type registry struct {
	mu      sync.Mutex
	devices map[string]Device
	users   map[string]User
	tokens  map[string]Token
}

func newRegistry() *registry {
	return &registry{devices: map[string]Device{}, users: map[string]User{}, tokens: map[string]Token{}}
}

func (r *registry) Device(name string) (Device, bool) { return lookup(r, r.devices, name) }
func (r *registry) User(name string) (User, bool)     { return lookup(r, r.users, name) }
func (r *registry) Token(id string) (Token, bool)     { return lookup(r, r.tokens, id) }

func lookup[V any](r *registry, m map[string]V, k string) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := m[k]
	return v, ok
}

// device adds an active device.
func (r *registry) device(name string, change ...func(*Device)) {
	d := Device{Name: name, State: Active}
	for _, f := range change {
		f(&d)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.devices[name] = d
}

func (r *registry) user(name, phc string, change ...func(*User)) {
	u := User{Name: name, Secret: Secret{Password: phc}}
	for _, f := range change {
		f(&u)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users[name] = u
}

// clock is a time that tests turn.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// bench is a Chain with what surrounds it.
type bench struct {
	t *testing.T
	*Chain
	reg   *registry
	clock *clock

	mu       sync.Mutex
	refusals []Refusal
}

func newBench(t *testing.T, methods ...Method) *bench {
	t.Helper()
	b := &bench{t: t, reg: newRegistry(), clock: newClock()}
	var err error
	b.Chain, err = New(Options{Directory: b.reg, Methods: methods, Now: b.clock.Now, Refused: func(r Refusal) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.refusals = append(b.refusals, r)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// last is the latest refusal.
func (b *bench) last() Refusal {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.refusals) == 0 {
		b.t.Fatal("no refusal was reported")
	}
	return b.refusals[len(b.refusals)-1]
}

// accept demands that the Client is let in.
func (b *bench) accept(c Credentials) *Identity {
	b.t.Helper()
	id, v := b.Identify(c)
	if id == nil {
		b.t.Fatalf("Identify refuses with %v: %+v", v.Code, b.last())
	}
	return id
}

// refuse demands that the Client is refused, and that it is told nothing beside the
// Reason Code.
func (b *bench) refuse(c Credentials, want mqtt.ReasonCode) Refusal {
	b.t.Helper()
	id, v := b.Identify(c)
	if id != nil {
		b.t.Fatalf("Identify accepts %+v, want %v", id.Principal, want)
	}
	if v.Code != want || v.Reason != "" || v.ServerReference != "" {
		b.t.Fatalf("Identify = %+v, want %v and no more; the operator is told %+v", v, want, b.last())
	}
	r := b.last()
	if r.Code != want || r.Why == "" {
		b.t.Fatalf("the operator is told %+v, want the code %v and why", r, want)
	}
	return r
}

// by is a CONNECT with user name and password, from an address.
func by(address, clientID, user, password string) Credentials {
	return Credentials{
		Connect: &packet.Connect{
			Version: mqtt.V5, CleanStart: true, ClientID: clientID,
			HasUser: true, User: user, HasPassword: true, Password: []byte(password),
		},
		Info: from(address),
	}
}

// bare is a CONNECT without user name and password.
func bare(address, clientID string) Credentials {
	return Credentials{Connect: &packet.Connect{Version: mqtt.V5, CleanStart: true, ClientID: clientID}, Info: from(address)}
}

func from(address string) listen.Info {
	return listen.Info{
		Listener: "main", Scheme: "mqtts", UID: -1,
		Remote: &net.TCPAddr{IP: net.ParseIP(address), Port: 50_000},
	}
}

const (
	faraway = "203.0.113.7"
	here    = "127.0.0.1"
)
