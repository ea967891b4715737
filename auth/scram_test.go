package auth

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"fairlead/mqtt"
	"fairlead/policy"
)

// keysOf gives a user the SCRAM keys of a password.
func keysOf(t *testing.T, name, password string) func(*User) {
	t.Helper()
	k, err := DeriveSCRAM(name, password)
	if err != nil {
		t.Fatal(err)
	}
	return func(u *User) { u.SCRAM = k }
}

// converse runs a client's conversation against an exchange to its end.
func converse(t *testing.T, x Exchange, c *scram.ClientConversation) (*policy.Principal, policy.Verdict) {
	t.Helper()
	challenge := ""
	for range 3 {
		say, err := c.Step(challenge)
		if err != nil {
			t.Fatalf("the client refuses %q: %v", challenge, err)
		}
		reply, p, v := x.Step([]byte(say))
		if p != nil || !v.Allowed() {
			if p != nil {
				if _, err := c.Step(string(reply)); err != nil || !c.Valid() {
					t.Errorf("the client does not accept the broker's proof: %v", err)
				}
			}
			return p, v
		}
		challenge = string(reply)
	}
	t.Fatal("the exchange has no end")
	return nil, policy.Verdict{}
}

func scramClient(t *testing.T, user, password string) *scram.ClientConversation {
	t.Helper()
	c, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	return c.NewConversation()
}

func TestSCRAM(t *testing.T) {
	b := newBench(t, NewSCRAM(nil), cheapPassword())
	b.reg.user("jürgen,=x", "", keysOf(t, "jürgen,=x", "pass word"))
	x := b.Exchange("SCRAM-SHA-256", bare(faraway, "c"))
	p, v := converse(t, x, scramClient(t, "jürgen,=x", "pass word"))
	if p == nil || p.User != "jürgen,=x" || p.Method != "scram" {
		t.Fatalf("Step = %+v, %v: %+v", p, v, b.last())
	}
	id := x.(Identified).Identity()
	if id == nil || id.User != p.User {
		t.Errorf("Identity = %+v", id)
	}
	if _, v, _ := b.Recheck(id, "c"); !v.Allowed() {
		t.Errorf("Recheck = %v", v)
	}
	b.reg.user("jürgen,=x", "", keysOf(t, "jürgen,=x", "another"))
	if _, v, _ := b.Recheck(id, "c"); v.Code != mqtt.NotAuthorized {
		t.Errorf("Recheck after a change of the password = %v", v)
	}
	if _, p, v := x.Step(nil); p != nil || v.Allowed() {
		t.Error("an exchange that is over goes on")
	}
}

func TestSCRAMOfDevices(t *testing.T) {
	b := newBench(t, NewSCRAM(nil))
	k, err := DeriveSCRAM("pump", "s3cret")
	if err != nil {
		t.Fatal(err)
	}
	b.reg.device("pump", func(d *Device) { d.SCRAM = k })
	p, v := converse(t, b.Exchange("SCRAM-SHA-256", bare(faraway, "pump:1")), scramClient(t, "pump", "s3cret"))
	if p == nil || p.Device != "pump" || p.User != "" {
		t.Fatalf("Step = %+v, %v", p, v)
	}
	_, v = converse(t, b.Exchange("SCRAM-SHA-256", bare(faraway, "valve")), scramClient(t, "pump", "s3cret"))
	if v.Code != mqtt.ClientIdentifierNotValid {
		t.Errorf("with another's client identifier: %v", v)
	}
	b.reg.device("pump", func(d *Device) { d.SCRAM, d.State = k, Suspended })
	_, v = converse(t, b.Exchange("SCRAM-SHA-256", bare(faraway, "pump")), scramClient(t, "pump", "s3cret"))
	if v.Code != mqtt.NotAuthorized {
		t.Errorf("suspended: %v", v)
	}
	// A re-authentication that does not say for which Session can't be bound to one.
	_, v = converse(t, b.Exchange("SCRAM-SHA-256", Credentials{Info: from(faraway)}), scramClient(t, "pump", "s3cret"))
	if v.Code != mqtt.NotAuthorized {
		t.Errorf("without CONNECT: %v", v)
	}
}

// Unknown names, names without keys and wrong passwords look the same until the end,
// whenever one asks.
func TestSCRAMTellsNoNames(t *testing.T) {
	decoy := bytes.Repeat([]byte{7}, 32)
	for _, name := range []string{"unknown", "keyless", "ann"} {
		salts := map[string]bool{}
		for range 2 { // the broker is started again in between
			b := newBench(t, NewSCRAM(decoy))
			b.reg.user("keyless", "")
			b.reg.user("ann", "", func(u *User) {
				u.SCRAM = &SCRAMKeys{Salt: []byte("0123456789abcdef"), Iterations: scramIterations, StoredKey: make([]byte, 32), ServerKey: make([]byte, 32)}
			})
			x := b.Exchange("SCRAM-SHA-256", bare(here, "c"))
			c := scramClient(t, name, "wrong")
			say, _ := c.Step("")
			reply, _, v := x.Step([]byte(say))
			if !v.Allowed() || !strings.HasSuffix(string(reply), ",i=15000") {
				t.Fatalf("%s: the first reply is %q, %v", name, reply, v)
			}
			salts[strings.Split(string(reply), ",")[1]] = true
			say, err := c.Step(string(reply))
			if err != nil {
				t.Fatal(err)
			}
			reply, p, v := x.Step([]byte(say))
			if reply != nil || p != nil || v.Code != mqtt.BadUserNameOrPassword || v.Reason != "" {
				t.Errorf("%s: the end is %q, %v, %+v", name, reply, p, v)
			}
			if r := b.last(); (r.Hint == "") != (name == "ann") || r.Identity != name {
				t.Errorf("%s: the operator is told %+v", name, r)
			}
		}
		if len(salts) != 1 {
			t.Errorf("%s has another salt after a restart", name)
		}
	}
	a, b := NewSCRAM(decoy).decoyKeys("a"), NewSCRAM(decoy).decoyKeys("b")
	if bytes.Equal(a.Salt, b.Salt) || bytes.Equal(a.Salt, NewSCRAM(nil).decoyKeys("a").Salt) {
		t.Error("decoys of different names, or of different brokers, are equal")
	}
}

func TestSCRAMGuessingIsSlowed(t *testing.T) {
	b := newBench(t, NewSCRAM(nil))
	b.reg.user("ann", "", keysOf(t, "ann", "right"))
	for range freeFailures {
		if _, v := converse(t, b.Exchange("SCRAM-SHA-256", bare(faraway, "c")), scramClient(t, "ann", "wrong")); v.Code != mqtt.BadUserNameOrPassword {
			t.Fatalf("wrong: %v", v)
		}
	}
	if _, v := converse(t, b.Exchange("SCRAM-SHA-256", bare(faraway, "c")), scramClient(t, "ann", "right")); v.Code != mqtt.ConnectionRateExceeded {
		t.Errorf("after %d failures: %v", freeFailures, v)
	}
}

func TestSCRAMBadMessages(t *testing.T) {
	for _, first := range []string{
		"", "x", "n,,", "n,,n=ann", "n,,n=,r=abc", "n,,n=ann,m=ext,r=abc", "n,,m=ext,n=ann,r=abc", "n,a=root,n=ann,r=abc",
		"p=tls-exporter,,n=ann,r=abc", "n,,n=a=XX,r=abc", strings.Repeat("n", scramMessageMax+1), "n,,n=" + strings.Repeat("a", nameMax+1) + ",r=abc",
	} {
		b := newBench(t, NewSCRAM(nil))
		b.reg.user("ann", "", keysOf(t, "ann", "right"))
		reply, p, v := b.Exchange("SCRAM-SHA-256", bare(faraway, "c")).Step([]byte(first))
		if reply != nil || p != nil || v.Code != mqtt.NotAuthorized || v.Reason != "" || b.last().Why == "" {
			t.Errorf("first message %q: %q, %v, %+v", first, reply, p, v)
		}
	}
	for _, final := range []string{"", "x", "c=biws,r=wrong,p=AAAA", "c=biws", strings.Repeat("c", scramMessageMax+1)} {
		b := newBench(t, NewSCRAM(nil))
		x := b.Exchange("SCRAM-SHA-256", bare(faraway, "c"))
		if _, _, v := x.Step([]byte("n,,n=ann,r=abc")); !v.Allowed() {
			t.Fatal(v)
		}
		if reply, p, v := x.Step([]byte(final)); reply != nil || p != nil || v.Allowed() {
			t.Errorf("final message %q: %q, %v, %+v", final, reply, p, v)
		}
	}
}

func TestMethodThatIsNotOffered(t *testing.T) {
	b := newBench(t, NewSCRAM(nil))
	for _, method := range []string{"", "JWT", "SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "scram-sha-256"} {
		if x := b.Exchange(method, bare(faraway, "c")); x != nil {
			t.Errorf("Exchange(%q) = %v, want nil", method, x)
		}
		if r := b.last(); r.Code != mqtt.BadAuthenticationMethod {
			t.Errorf("told %+v", r)
		}
	}
	if id, v := b.Identify(bare(faraway, "c")); id != nil || v.Code != mqtt.NotAuthorized {
		t.Errorf("without a method: %v, %v", id, v)
	}
}

// overTLS returns both ends' view of a TLS connection.
func overTLS(t *testing.T) (client, server tls.ConnectionState) {
	t.Helper()
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	defer web.Close()
	near, far := net.Pipe()
	c := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	s := tls.Server(far, web.TLS)
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState(), s.ConnectionState()
}

// With channel binding, a man in the middle of the TLS connection gets nowhere.
func TestSCRAMIsBoundToTheChannel(t *testing.T) {
	b := newBench(t, NewSCRAM(nil))
	b.reg.user("ann", "", keysOf(t, "ann", "right"))
	client, err := scram.SHA256.NewClient("ann", "right", "")
	if err != nil {
		t.Fatal(err)
	}
	clientEnd, serverEnd := overTLS(t)
	binding, err := scram.NewTLSExporterBinding(&clientEnd)
	if err != nil {
		t.Fatal(err)
	}
	c := bare(faraway, "c")
	c.Info.TLS = &serverEnd
	if p, v := converse(t, b.Exchange("SCRAM-SHA-256-PLUS", c), client.NewConversationWithChannelBinding(binding)); p == nil {
		t.Fatalf("refused: %v, %+v", v, b.last())
	}
	_, another := overTLS(t)
	c.Info.TLS = &another
	if p, v := converse(t, b.Exchange("SCRAM-SHA-256-PLUS", c), client.NewConversationWithChannelBinding(binding)); p != nil || v.Allowed() {
		t.Error("accepted on another connection than the client's")
	}
	if p, v := converse(t, b.Exchange("SCRAM-SHA-256-PLUS", c), client.NewConversation()); p != nil || v.Allowed() {
		t.Error("accepted without binding")
	}
}

func TestDeriveSCRAMRefusesWhatClientsCantSend(t *testing.T) {
	if k, err := DeriveSCRAM("ann", "a\u0007b"); err == nil {
		t.Errorf("DeriveSCRAM = %v, want an error about the control character", k)
	}
}

func FuzzSCRAM(f *testing.F) {
	f.Add("n,,n=ann,r=fyko+d2lbbFgONRv9qkxdawL", "c=biws,r=fyko,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=")
	f.Add("y,a=ann,n=a=2Cb,r=x", "c=eSw=,r=x,p=")
	f.Add("p=tls-unique,,n=ann,r=x", "")
	k, err := DeriveSCRAM("ann", "right")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, final string) {
		b := newBench(t, NewSCRAM(nil))
		b.reg.user("ann", "", func(u *User) { u.SCRAM = k })
		x := b.Exchange("SCRAM-SHA-256", bare(faraway, "c"))
		for _, say := range []string{first, final} {
			if _, p, v := x.Step([]byte(say)); p != nil {
				t.Fatalf("let in by %q, %q", first, final)
			} else if !v.Allowed() {
				return
			}
		}
		t.Fatalf("%q, %q: the exchange goes on", first, final)
	})
}
