package auth_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/xdg-go/scram"

	"fairlead/auth"
	"fairlead/broker"
	"fairlead/listen"
)

var _ broker.Authenticator = (*auth.Chain)(nil)

// one is a registry of one user.
type one struct{ user auth.User }

func (o one) Device(string) (auth.Device, bool)  { return auth.Device{}, false }
func (o one) User(name string) (auth.User, bool) { return o.user, name == o.user.Name }
func (o one) Token(string) (auth.Token, bool)    { return auth.Token{}, false }

// start runs a broker with a Chain on loopback and returns its address.
func start(t *testing.T, c *auth.Chain) string {
	t.Helper()
	u, err := listen.ParseURL("mqtt://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen.Listen(t.Context(), listen.Options{URL: u})
	if err != nil {
		t.Fatal(err)
	}
	b := broker.New(broker.Options{Auth: c})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Serve(ctx, func(_ context.Context, nc listen.Conn) { b.Serve(nc) }) })
	t.Cleanup(func() {
		if err := b.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		cancel()
		wg.Wait()
	})
	return l.Addr().String()
}

// scramAuther is the client's side of SCRAM for paho.
type scramAuther struct {
	talk *scram.ClientConversation
}

func (a scramAuther) Authenticate(p *paho.Auth) *paho.Auth {
	say, err := a.talk.Step(string(p.Properties.AuthData))
	if err != nil {
		say = "e=other-error"
	}
	return &paho.Auth{ReasonCode: 0x18, Properties: &paho.AuthProperties{AuthMethod: "SCRAM-SHA-256", AuthData: []byte(say)}}
}

func (scramAuther) Authenticated() {}

// connect makes a SCRAM-SHA-256 exchange with paho.golang.
func connect(t *testing.T, address, user, password string) (*paho.Connack, *scram.ClientConversation, error) {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	talk := s.NewConversation()
	first, err := talk.Step("")
	if err != nil {
		t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{Conn: nc, AuthHandler: scramAuther{talk}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ack, err := c.Connect(ctx, &paho.Connect{ClientID: "c", KeepAlive: 30, CleanStart: true, Properties: &paho.ConnectProperties{
		AuthMethod: "SCRAM-SHA-256", AuthData: []byte(first),
	}})
	if err == nil {
		t.Cleanup(func() { c.Disconnect(&paho.Disconnect{}) })
	}
	return ack, talk, err
}

// A real client, a real socket, a real broker.
func TestSCRAMWithPaho(t *testing.T) {
	keys, err := auth.DeriveSCRAM("ann", "right")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan auth.Refusal, 1)
	c, err := auth.New(auth.Options{
		Directory: one{auth.User{Name: "ann", Secret: auth.Secret{SCRAM: keys}}},
		Methods:   []auth.Method{auth.NewSCRAM(nil)},
		Refused:   func(r auth.Refusal) { refused <- r },
	})
	if err != nil {
		t.Fatal(err)
	}
	address := start(t, c)

	ack, talk, err := connect(t, address, "ann", "right")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := talk.Step(string(ack.Properties.AuthData)); err != nil || !talk.Valid() {
		t.Errorf("the broker has not proven itself: %v", err)
	}
	ack, _, err = connect(t, address, "ann", "wrong")
	if err == nil || ack == nil || ack.ReasonCode != 0x86 || ack.Properties.ReasonString != "" {
		t.Errorf("wrong password: %+v, %v", ack, err)
	}
	if r := <-refused; r.Identity != "ann" || r.Method != "scram" || r.ClientID != "c" {
		t.Errorf("the operator is told %+v", r)
	}
}
