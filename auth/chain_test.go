package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead/mqtt"
	"fairlead/policy"
)

// says is a Method that gives the same answer always.
type says struct {
	name   string
	answer answer
	asked  int
}

func (s *says) Name() string { return s.name }

func (s *says) judge(*attempt) answer {
	s.asked++
	return s.answer
}

func yes(p proof) *says { return &says{name: p.method, answer: answer{proof: &p}} }

func TestMethodsAreAskedInOrder(t *testing.T) {
	passes := &says{name: "passes"}
	first, second := yes(proof{method: "first", user: "a", vouchedUser: true}), yes(proof{method: "second", user: "b", vouchedUser: true})
	b := newBench(t, passes, first, second)
	if id := b.accept(bare(faraway, "x")); id.Method != "first" || id.User != "a" || id.Client != "x" || passes.asked != 1 || second.asked != 0 {
		t.Fatalf("accepted %+v; passes was asked %d times, second %d times", id.Principal, passes.asked, second.asked)
	}
	never := yes(proof{method: "never", user: "b", vouchedUser: true})
	b = newBench(t, &says{name: "strict", answer: answer{no: &no{code: mqtt.NotAuthorized, why: "because"}}}, never)
	if r := b.refuse(bare(faraway, "x"), mqtt.NotAuthorized); r.Method != "strict" || r.Why != "because" || never.asked != 0 {
		t.Fatalf("told %+v; never was asked %d times", r, never.asked)
	}
}

func TestNobodyIsAnonymous(t *testing.T) {
	b := newBench(t)
	r := b.refuse(bare(here, "sensor-7"), mqtt.NotAuthorized)
	if r.Hint != "fairlead device add sensor-7" || r.ClientID != "sensor-7" || r.Source != "127.0.0.1:50000" || r.Listener != "main" {
		t.Errorf("told %+v", r)
	}
	if n := b.Refused.Load(); n != 1 {
		t.Errorf("Refused = %d, want 1", n)
	}
	if _, v := b.Identify(Credentials{}); v.Code != mqtt.NotAuthorized {
		t.Errorf("without CONNECT: %v", v.Code)
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	for want, o := range map[string]Options{"directory": {}, "method": {Directory: newRegistry(), Methods: []Method{nil}}} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want an error about the %s", err, want)
		}
	}
}

func TestAnonymousOnlyWhereTheListenerSaysSo(t *testing.T) {
	b := newBench(t, Anonymous{Listeners: []string{"main"}})
	if id := b.accept(bare(faraway, "x")); id.Method != "anonymous" || id.User != "" || id.Device != "" {
		t.Errorf("accepted %+v", id.Principal)
	}
	elsewhere := bare(faraway, "x")
	elsewhere.Info.Listener = "lan"
	b.refuse(elsewhere, mqtt.NotAuthorized)
	b.refuse(by(faraway, "x", "admin", "guess"), mqtt.NotAuthorized)

	b = newBench(t, Anonymous{Listeners: []string{"main"}, Anybody: true})
	if id := b.accept(by(faraway, "x", "admin", "whatever")); id.Method != "open" || id.User != "" {
		t.Errorf("open: accepted %+v, want nothing that was not verified", id.Principal)
	}
}

func TestOperatorComesOverTheAdminSocketOnly(t *testing.T) {
	b := newBench(t, Operator{})
	b.reg.user("operator", "", func(u *User) { u.Disabled = true }) // another one, and no matter here
	c := bare(here, "x")
	b.refuse(c, mqtt.NotAuthorized)
	c.Info.Scheme = "unix"
	b.refuse(c, mqtt.NotAuthorized)
	c.Info.Scheme, c.Info.UID = SchemeAdmin, 1000
	id := b.accept(c)
	want := policy.Principal{User: "operator", Groups: []string{"admin"}, Attrs: map[string]string{"uid": "1000"}, Method: "operator"}
	if !samePrincipal(id.Principal, want) {
		t.Errorf("accepted %+v, want %+v", id.Principal, want)
	}
}

func samePrincipal(a, b policy.Principal) bool {
	return a.Device == b.Device && a.User == b.User && a.Method == b.Method && slices.Equal(a.Groups, b.Groups) && maps.Equal(a.Attrs, b.Attrs)
}

func TestClientIdentifierIsBound(t *testing.T) {
	for _, tt := range []struct {
		device, user, id string
		want             mqtt.ReasonCode
	}{
		{"pump", "", "pump", mqtt.Success},
		{"pump", "", "pump:2", mqtt.Success},
		{"pump", "", "pump:", mqtt.Success},
		{"pump", "", "", mqtt.Success},
		{"pump", "", "pump2", mqtt.ClientIdentifierNotValid},
		{"pump", "", "valve", mqtt.ClientIdentifierNotValid},
		{"pump", "", "valve:pump", mqtt.ClientIdentifierNotValid},
		{"pump", "", "PUMP", mqtt.ClientIdentifierNotValid},
		{"", "ann", "ann", mqtt.Success},
		{"", "ann", "", mqtt.Success},
		{"", "ann", "anything/at/all", mqtt.Success},
		{"", "ann", "pump", mqtt.ClientIdentifierNotValid},
		{"", "ann", "pump:2", mqtt.ClientIdentifierNotValid},
		{"", "", "pump", mqtt.ClientIdentifierNotValid},
	} {
		b := newBench(t, yes(proof{method: "m", device: tt.device, user: tt.user, vouchedUser: true}))
		b.reg.device("pump")
		b.reg.device("valve", func(d *Device) { d.State = Retired })
		c := bare(faraway, tt.id)
		if tt.want.Failed() {
			b.refuse(c, tt.want)
			continue
		}
		b.accept(c)
	}
}

func TestAssignedIDsAreTheDevicesOwn(t *testing.T) {
	if got := AssignID(&policy.Principal{Device: "pump"}, "r4nd0m"); got != "pump:r4nd0m" {
		t.Errorf("AssignID = %q", got)
	}
	if got := AssignID(&policy.Principal{User: "ann"}, "r4nd0m"); got != "auto-r4nd0m" {
		t.Errorf("AssignID = %q", got)
	}
}

func TestNamesThatReachFurther(t *testing.T) {
	long := strings.Repeat("x", nameMax+1)
	for _, name := range []string{"a/b", "+", "#", "a\x00b", "a\nb", "\x1b[2J", "\xff", "a:b", long} {
		b := newBench(t, yes(proof{method: "m", device: name, vouchedDevice: true}))
		b.refuse(bare(faraway, ""), mqtt.NotAuthorized)
		if name == "a:b" { // only a device's name has no colon
			continue
		}
		b = newBench(t, yes(proof{method: "m", user: name, vouchedUser: true}))
		b.refuse(bare(faraway, ""), mqtt.NotAuthorized)
	}
	b := newBench(t, yes(proof{method: "m", user: "ann@example.com:1", vouchedUser: true}))
	b.accept(bare(faraway, ""))
}

// The name stands in a command that the operator is to paste.
func TestHintsCanBePasted(t *testing.T) {
	for id, want := range map[string]string{
		"sensor_7.a-b@c":         "fairlead device add sensor_7.a-b@c",
		"$(reboot)":              "fairlead device add NAME",
		"a b":                    "fairlead device add NAME",
		"--data=x":               "fairlead device add NAME",
		"a';reboot;'":            "fairlead device add NAME",
		"":                       "fairlead device add NAME",
		strings.Repeat("x", 300): "fairlead device add NAME",
	} {
		b := newBench(t)
		if r := b.refuse(bare(here, id), mqtt.NotAuthorized); r.Hint != want {
			t.Errorf("hint for %q = %q, want %q", id, r.Hint, want)
		}
		if r := b.refuse(bare(faraway, id), mqtt.NotAuthorized); r.Hint != "" {
			t.Errorf("hint for a client elsewhere: %q", r.Hint)
		}
	}
	b := newBench(t)
	if r := b.refuse(bare(faraway, strings.Repeat("é", 60_000/2)), mqtt.NotAuthorized); len(r.ClientID) > shown+len("…") {
		t.Errorf("%d bytes of a client identifier are repeated", len(r.ClientID))
	}
}

func certificate(device, serial string, err error) Certificate {
	return Certificate{Identify: func(*tls.ConnectionState) (string, string, time.Time, error) { return device, serial, time.Time{}, err }}
}

// withCertificate adds a certificate to what a Client shows.
func withCertificate(c Credentials) Credentials {
	c.Info.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
	return c
}

func TestCertificate(t *testing.T) {
	b := newBench(t, certificate("pump", "0A", nil))
	b.reg.device("pump", func(d *Device) { d.Groups, d.Attrs = []string{"north"}, map[string]string{"site": "a"} })
	c := by(faraway, "pump:1", "nobody has verified this", "nor this")
	id := b.accept(withCertificate(c))
	want := policy.Principal{Device: "pump", Groups: []string{"north"}, Attrs: map[string]string{"site": "a"}, Method: "certificate"}
	if !samePrincipal(id.Principal, want) || id.Serial != "0A" || !id.Expires.IsZero() {
		t.Errorf("accepted %+v with serial %q, want %+v", id.Principal, id.Serial, want)
	}
	b.refuse(c, mqtt.NotAuthorized) // without it

	for state, hint := range map[State]string{Pending: "", Suspended: "fairlead device resume pump", Retired: "", "": ""} {
		b.reg.device("pump", func(d *Device) { d.State = state })
		c := withCertificate(bare(here, "pump"))
		if r := b.refuse(c, mqtt.NotAuthorized); r.Hint != hint || r.Identity != "pump" {
			t.Errorf("%q: told %+v, want the hint %q", state, r, hint)
		}
	}
	delete(b.reg.devices, "pump")
	if r := b.refuse(withCertificate(bare(here, "pump")), mqtt.NotAuthorized); r.Hint != "fairlead device add pump" {
		t.Errorf("unknown: told %+v", r)
	}
}

func TestCertificateThatIsNotAccepted(t *testing.T) {
	open := Anonymous{Listeners: []string{"main"}, Anybody: true}
	b := newBench(t, certificate("pump", "0A", errors.New("certificate 0A: revoked")), open)
	b.reg.device("pump")
	if r := b.refuse(withCertificate(bare(faraway, "pump")), mqtt.NotAuthorized); r.Why != "certificate 0A: revoked" || r.Method != "certificate" {
		t.Errorf("told %+v", r)
	}
	b = newBench(t, certificate("", "0A", nil), open)
	b.refuse(withCertificate(bare(faraway, "pump")), mqtt.NotAuthorized)
}

func TestProxyCommonNameOnlyFromATrustedProxy(t *testing.T) {
	m := certificate("", "", errors.New("there is none"))
	m.ProxyListeners = []string{"behind-proxy"}
	b := newBench(t, m)
	b.reg.device("pump")
	c := bare(faraway, "pump")
	c.Info.CommonName = "pump"
	b.refuse(c, mqtt.NotAuthorized)
	c.Info.Listener = "behind-proxy"
	if id := b.accept(c); id.Device != "pump" || id.Method != "certificate" {
		t.Errorf("accepted %+v", id.Principal)
	}
}

// What a session stands on is looked at again after a change: what is touched ends,
// what is not goes on with the groups of now.
func TestRecheck(t *testing.T) {
	var revoked error
	device, until := "pump", newClock().now.Add(30*time.Minute)
	cert := Certificate{Identify: func(*tls.ConnectionState) (string, string, time.Time, error) { return device, "0A", until, revoked }}
	b := newBench(t, cert, Tokens{}, cheapPassword(), yes(proof{method: "vouches", user: "eve", vouchedUser: true, expires: newClock().now.Add(time.Hour)}))
	b.reg.device("pump")
	b.reg.user("ann", HashSecret("s"))
	text, token := NewToken()
	token.User = "bob"
	b.reg.tokens[token.ID] = token
	b.reg.user("bob", "")

	pump := b.accept(withCertificate(bare(faraway, "pump")))
	ann := b.accept(by(faraway, "a", "ann", "s"))
	bob := b.accept(by(faraway, "b", "", text))
	eve := b.accept(bare(faraway, "e"))
	check := func(id *Identity, client mqtt.ClientID, want mqtt.ReasonCode) *Identity {
		t.Helper()
		now, v, why := b.Recheck(id, client)
		if v.Code != want || (now == nil) != want.Failed() || (why == "") == want.Failed() {
			t.Errorf("Recheck(%s) = %v, %v, %q, want %v", name(&id.Principal), now, v, why, want)
		}
		return now
	}
	check(pump, "pump", mqtt.Success)
	check(ann, "a", mqtt.Success)
	check(bob, "b", mqtt.Success)
	check(eve, "e", mqtt.Success)

	b.reg.device("pump", func(d *Device) { d.Groups = []string{"south"} })
	if now := check(pump, "pump", mqtt.Success); now != nil && (!slices.Equal(now.Groups, []string{"south"}) || now.Client != "pump") {
		t.Errorf("after the change: %+v", now.Principal)
	}
	revoked = errors.New("revoked")
	check(pump, "pump", mqtt.NotAuthorized)
	revoked, device = nil, "valve"
	check(pump, "pump", mqtt.NotAuthorized)
	device = "pump"
	b.clock.advance(30 * time.Minute)
	check(pump, "pump", mqtt.MaximumConnectTime)
	b.clock.advance(-30 * time.Minute)
	b.reg.device("pump", func(d *Device) { d.State = Suspended })
	check(pump, "pump", mqtt.NotAuthorized)

	b.reg.device("a") // a new device of this name: its identifier is nobody else's any more
	check(ann, "a", mqtt.ClientIdentifierNotValid)
	delete(b.reg.devices, "a")
	b.reg.user("ann", HashSecret("s")) // the same password again has another salt
	check(ann, "a", mqtt.NotAuthorized)

	delete(b.reg.tokens, token.ID)
	check(bob, "b", mqtt.NotAuthorized)
	b.reg.tokens[token.ID] = token
	check(bob, "b", mqtt.Success)
	delete(b.reg.users, "bob")
	check(bob, "b", mqtt.NotAuthorized)

	b.reg.user("eve", "", func(u *User) { u.Disabled = true })
	check(eve, "e", mqtt.NotAuthorized)
	delete(b.reg.users, "eve")
	b.clock.advance(time.Hour)
	check(eve, "e", mqtt.MaximumConnectTime)
}

func TestProofThatHasEnded(t *testing.T) {
	b := newBench(t, yes(proof{method: "m", user: "ann", vouchedUser: true, expires: newClock().now}))
	b.refuse(bare(faraway, "c"), mqtt.NotAuthorized)
}

func TestRoleIsAGroup(t *testing.T) {
	b := newBench(t, yes(proof{method: "m", user: "ann", groups: []string{"ops", "x"}, vouchedUser: true}))
	b.reg.user("ann", "", func(u *User) { u.Groups, u.Role = []string{"x", "y"}, RoleViewer })
	if id := b.accept(bare(faraway, "c")); !slices.Equal(id.Groups, []string{"ops", "viewer", "x", "y"}) {
		t.Errorf("groups = %v", id.Groups)
	}
}

func TestRegistryWinsOverGivenAttributes(t *testing.T) {
	given := map[string]string{"site": "b", "unit": "7"}
	b := newBench(t, yes(proof{method: "m", device: "pump", attrs: given}))
	b.reg.device("pump", func(d *Device) { d.Attrs = map[string]string{"site": "a"} })
	if id := b.accept(bare(faraway, "pump")); id.Attrs["site"] != "a" || id.Attrs["unit"] != "7" || given["site"] != "b" {
		t.Errorf("attributes = %v, given %v", id.Attrs, given)
	}
}

func TestTokens(t *testing.T) {
	b := newBench(t, Tokens{})
	text, token := NewToken()
	token.Device, token.Expires = "pump", b.clock.now.Add(time.Hour)
	b.reg.tokens[token.ID] = token
	b.reg.device("pump")
	id := b.accept(by(faraway, "pump", "anything", text))
	if id.Device != "pump" || id.User != "" || !id.Expires.Equal(token.Expires) {
		t.Errorf("accepted %+v until %v", id.Principal, id.Expires)
	}
	b.refuse(by(faraway, "pump", "anything", text+"x"), mqtt.BadUserNameOrPassword)
	b.refuse(by(faraway, "pump", "anything", "fl_nosuchid_"+text), mqtt.BadUserNameOrPassword)
	b.refuse(by(faraway, "pump", "anything", "fl_"), mqtt.NotAuthorized) // no token
	b.clock.advance(time.Hour)
	b.refuse(by(faraway, "pump", "anything", text), mqtt.NotAuthorized)

	text, token = NewToken() // of nobody
	b.reg.tokens[token.ID] = token
	b.refuse(by(faraway, "x", "", text), mqtt.NotAuthorized)
	token.Hash = "$argon2id$"
	b.reg.tokens[token.ID] = token
	b.refuse(by(faraway, "x", "", text), mqtt.BadUserNameOrPassword)
}
