package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead/client"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// A signer is a CA in the hands of whoever has its key.
type signer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// stolen is the broker's issuing CA, taken from its files: what it has signed is good but
// for what a test makes wrong.
func (c *castle) stolen() signer {
	c.t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.data, "ca", "issuing.crt"), filepath.Join(c.data, "ca", "issuing.key"))
	if err != nil {
		c.t.Fatal(err)
	}
	return signer{pair.Leaf, pair.PrivateKey.(crypto.Signer)}
}

// stranger is a CA of the same name that the broker has never heard of.
func (c *castle) stranger() signer {
	c.t.Helper()
	model := c.stolen()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: model.cert.Subject, NotBefore: model.cert.NotBefore, NotAfter: model.cert.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return signer{cert, key}
}

// sign makes a certificate like the bundle's, for the same key, but for a change.
func (s signer) sign(t *testing.T, b bundle, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	pair := b.pair(t)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pair.Leaf.Subject, URIs: pair.Leaf.URIs, NotBefore: pair.Leaf.NotBefore, NotAfter: pair.Leaf.NotAfter,
		KeyUsage: pair.Leaf.KeyUsage, ExtKeyUsage: pair.Leaf.ExtKeyUsage,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.cert, pair.Leaf.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, s.cert.Raw}, PrivateKey: pair.PrivateKey}
}

// TestSecurityCertificates shows certificates that must get nobody in.
func TestSecurityCertificates(t *testing.T) {
	c := newCastle(t, settings{})
	b := c.device("pump")
	for _, attack := range []struct {
		name   string
		by     signer
		change func(*x509.Certificate)
		reason string
	}{
		{"wrong CA", c.stranger(), nil, "unknown CA"},
		{"self-signed", signer{b.pair(t).Leaf, b.pair(t).PrivateKey.(crypto.Signer)}, nil, "unknown CA"},
		{"expired", c.stolen(), func(x *x509.Certificate) {
			x.NotBefore, x.NotAfter = c.stolen().cert.NotBefore, time.Now().Add(-time.Minute)
		}, "expired"},
		{"not yet valid", c.stolen(), func(x *x509.Certificate) { x.NotBefore = time.Now().Add(time.Hour) }, "not yet valid"},
		{"wrong usage", c.stolen(), func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "wrong usage"},
	} {
		t.Run(attack.name, func(t *testing.T) {
			show := attack.by.sign(t, b, attack.change)
			conn, err := c.dial(c.trust(show), client.Options{ClientID: "pump"})
			if err == nil {
				leave(t, conn)
				t.Fatal("gets in")
			}
			leaf, parse := x509.ParseCertificate(show.Certificate[0])
			if parse != nil {
				t.Fatal(parse)
			}
			e := c.audited("refusal", attack.reason, fmt.Sprintf("%x", leaf.SerialNumber))
			t.Logf("the client sees: %v; the audit log: %s", err, e.Reason)
			if said := err.Error(); strings.Contains(said, "revoked") || strings.Contains(said, "expired") {
				t.Errorf("the client learns why: %v", err)
			}
		})
	}
	// The same hands can sign what is right: it was the defect that was refused.
	leave(t, c.enter(c.trust(c.stolen().sign(t, b, nil)), client.Options{ClientID: "pump"}))
}

// TestSecurityNoCertificate comes without a certificate, where one may be shown and where
// one must be.
func TestSecurityNoCertificate(t *testing.T) {
	for _, mode := range []string{"optional", "required"} {
		t.Run(mode, func(t *testing.T) {
			c := newCastle(t, settings{tls: "tls: {client_certificates: " + mode + "}"})
			c.device("pump")
			conn, err := c.dial(c.trust(), client.Options{ClientID: "pump"})
			if err == nil {
				leave(t, conn)
				t.Fatal("gets in")
			}
			if mode == "optional" {
				if code(err) != mqtt.NotAuthorized {
					t.Errorf("%v, want 0x87", err)
				}
				c.audited("refusal", "connect", "pump", "no credentials")
				return
			}
			c.audited("refusal", "connect", "no certificate")
		})
	}
}

// TestSecurityUnknownDevice shows a certificate that the broker's CA has signed, of a
// device that is not registered, or is not any more.
func TestSecurityUnknownDevice(t *testing.T) {
	c := newCastle(t, settings{})
	b := c.device("pump")
	ghost := c.stolen().sign(t, b, func(x *x509.Certificate) {
		uri := *x.URIs[0]
		uri.Opaque = strings.Replace(uri.Opaque, "pump", "ghost", 1)
		x.URIs[0], x.Subject.CommonName = &uri, "ghost"
	})
	if conn, err := c.dial(c.trust(ghost), client.Options{ClientID: "ghost"}); err == nil {
		leave(t, conn)
		t.Error("a device that nobody has added gets in")
	}
	c.audited("refusal", "connect", "ghost")
	for _, act := range [][2]string{{"suspend", "is suspended"}, {"retire", "cessation of operation"}} {
		c.do("device", act[0], "pump")
		if conn, err := c.dial(c.trust(b.pair(t)), client.Options{ClientID: "pump"}); err == nil {
			leave(t, conn)
			t.Errorf("gets in after %s", act[0])
		}
		c.audited("refusal", "connect", "pump", act[1])
	}
	if code, out, errs := c.try("", "device", "add", "pump", "--out", c.dir); code != 1 {
		t.Errorf("the name of a retired device can be taken: exit code %d\n%s%s", code, out, errs)
	}
}

// TestSecurityRevoked shows a revoked certificate: in a new handshake, and in one that
// resumes a TLS session from before.
func TestSecurityRevoked(t *testing.T) {
	c := newCastle(t, settings{})
	b := c.device("pump")
	config := c.trust(b.pair(t))
	config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	var state tls.ConnectionState
	dial := func(config *tls.Config) (*client.Client, error) {
		return client.Dial(t.Context(), client.Options{ClientID: "pump", ConnectTimeout: patience, DialContext: func(context.Context) (net.Conn, error) {
			conn, err := tls.Dial("tcp", c.tls, config)
			if err == nil {
				state = conn.ConnectionState()
			}
			return conn, err
		}})
	}
	for _, resumed := range []bool{false, true} {
		conn, err := dial(config)
		if err != nil {
			t.Fatal(err)
		}
		if state.DidResume != resumed {
			t.Fatalf("resumed %t, want %t", state.DidResume, resumed)
		}
		leave(t, conn)
	}
	c.do("device", "revoke", "pump", "--all", "--reason", "key published")
	state = tls.ConnectionState{}
	conn, err := dial(config)
	if err == nil {
		leave(t, conn)
		t.Fatal("a session from before the revocation is resumed")
	}
	if !state.DidResume {
		t.Errorf("the client was not taken at its session, so nothing was shown: %v", err)
	}
	first := c.audited("refusal", "connect", "revoked")
	if conn, err := dial(c.trust(b.pair(t))); err == nil {
		leave(t, conn)
		t.Fatal("a revoked certificate gets in")
	}
	t.Logf("the audit log: %s", first.Reason)
	if crl := c.do("ca", "crl"); !strings.Contains(crl, "BEGIN X509 CRL") {
		t.Errorf("ca crl prints %q", crl)
	}
	pemFile := filepath.Join(c.dir, "crl.pem")
	if err := os.WriteFile(pemFile, []byte(c.do("ca", "crl")), 0o600); err != nil {
		t.Fatal(err)
	}
	serial := strings.ToUpper(fmt.Sprintf("%x", b.pair(t).Leaf.SerialNumber))
	must(t, serial, c.dir, "", "openssl", "crl", "-in", pemFile, "-noout", "-text")
	c.do("device", "renew", "pump", "--out", filepath.Join(b.dir, "new"))
	b.cert, b.key = filepath.Join(b.dir, "new", "pump.crt"), filepath.Join(b.dir, "new", "pump.key")
	leave(t, c.as(b, "pump"))
}

// TestSecurityClientIdentifiers takes Client Identifiers that are somebody else's.
func TestSecurityClientIdentifiers(t *testing.T) {
	c := newCastle(t, settings{})
	pump, lamp := c.device("pump"), c.device("lamp")
	c.user("anna", "correct horse")
	c.user("bob", "battery staple")
	victim := c.as(lamp, "lamp")
	phone, err := c.login("anna", "correct horse", "phone")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"lamp", "lamp:1", "pumpx", "PUMP", "pump/1", "phone"} {
		conn, err := c.dial(c.trust(pump.pair(t)), client.Options{ClientID: id})
		if err == nil {
			leave(t, conn)
		}
		if code(err) != mqtt.ClientIdentifierNotValid {
			t.Errorf("the device pump with the identifier %s: %v, want 0x85", id, err)
		}
		c.audited("refusal", "connect", "pump", id)
	}
	for _, id := range []string{"lamp", "pump", "pump:1", "phone"} {
		conn, err := c.login("bob", "battery staple", id)
		if err == nil {
			leave(t, conn)
		}
		if code(err) != mqtt.ClientIdentifierNotValid {
			t.Errorf("the user bob with the identifier %s: %v, want 0x85", id, err)
		}
	}
	c.audited("refusal", "connect", "bob", "lamp")
	for name, conn := range map[string]*client.Client{"lamp": victim, "phone": phone} {
		if found := c.client(name); len(found) != 1 || !found[0].Connected || conn.Err() != nil {
			t.Errorf("%s has suffered: %+v, %v", name, found, conn.Err())
		}
	}
	leave(t, phone)
	if err := publishTo(t, victim, "devices/lamp/state", "on"); err != nil {
		t.Error(err)
	}
}

// TestSecurityTopics has a device try everything that is not its own.
func TestSecurityTopics(t *testing.T) {
	c := newCastle(t, settings{})
	pump, lamp := c.device("pump"), c.device("lamp")
	c.user("watch", "correct horse")
	c.policy("watch.yaml", "policies:\n  watch:\n    who: {users: watch}\n    allow:\n      - subscribe: ['#', '$fairlead/#', '$SYS/#']\n")
	watch, err := c.login("watch", "correct horse", "watch")
	if err != nil {
		t.Fatal(err)
	}
	defer leave(t, watch)
	for _, filter := range []string{"#", "$fairlead/#", "$SYS/evil/#"} {
		if got := subscribeTo(t, watch, filter); got.Failed() {
			t.Fatalf("the watch subscribes to %s: %v", filter, got)
		}
	}
	victim := c.as(lamp, "lamp")
	if got := subscribeTo(t, victim, "devices/lamp/#"); got.Failed() {
		t.Fatal(got)
	}
	thief := c.as(pump, "pump")
	topics := []string{
		"$fairlead/devices/pump/state", "$fairlead/devices/lamp/state", "$fairlead/x", "$SYS/broker/uptime", "$SYS/evil/x",
		"devices/lamp/command", "devices/lamp", "devices", "devices/pumpx/a", "devices/PUMP/a", "/devices/pump/a", "devices//pump", "x",
	}
	before := c.refusedSoFar(mqtt.NotAuthorized)
	for _, topic := range topics {
		if err := publishTo(t, thief, topic, "off"); code(err) != mqtt.NotAuthorized {
			t.Errorf("publish %s: %v, want 0x87", topic, err)
		}
		if err := thief.Publish(t.Context(), client.Message{Topic: topic, Payload: []byte("off"), Retain: true}); err != nil { // QoS 0 has no answer
			t.Error(err)
		}
	}
	filters := []string{
		"#", "+/#", "+/+/#", "devices/#", "devices/+/x", "devices/+/#", "devices/lamp/#", "devices/lamp/x", "devices/+", "$SYS/#", "$SYS/broker/uptime",
		"$fairlead/#", "$fairlead/devices/+/#", "$fairlead/devices/lamp/#",
		"$share/g/#", "$share/g/devices/+/x", "$share/g/devices/lamp/#", "$share/g/$SYS/#", "$share/devices/pump/#",
	}
	for _, filter := range filters {
		if got := subscribeTo(t, thief, filter); got != mqtt.NotAuthorized {
			t.Errorf("subscribe %s: %v, want 0x87", filter, got)
		}
	}
	_, err = c.dial(c.trust(pump.pair(t)), client.Options{ClientID: "pump:will", Will: &packet.Will{Topic: "devices/lamp/command", Payload: []byte("off")}})
	if code(err) != mqtt.NotAuthorized {
		t.Errorf("a will for somebody else: %v, want 0x87", err)
	}
	// A QoS 1 message after those of QoS 0 is answered when all have been judged.
	if err := publishTo(t, thief, "devices/pump/end", "of it"); err != nil {
		t.Fatal(err)
	}
	if got, least := c.refusedSoFar(mqtt.NotAuthorized)-before, 2*len(topics)+len(filters); got < least {
		t.Errorf("%d refusals were counted, want at least %d", got, least)
	}
	if found := c.client("pump"); len(found) != 1 || len(found[0].Subscriptions) != 0 {
		t.Errorf("the thief has subscriptions: %+v", found)
	}
	wantNext(t, watch, "devices/pump/end", "of it")
	c.do("pub", "-t", "devices/lamp/command", "-m", "on", "-q", "1")
	wantNext(t, victim, "devices/lamp/command", "on")
	// What is its own stays its own, by every form of subscription.
	for _, filter := range []string{"devices/pump/#", "devices/pump/+/x", "$share/g/devices/pump/#", "$fairlead/devices/pump/#"} {
		if got := subscribeTo(t, thief, filter); got.Failed() {
			t.Errorf("subscribe %s: %v", filter, got)
		}
	}
	if err := publishTo(t, thief, "devices/pump/end", "again"); err != nil {
		t.Fatal(err)
	}
	wantNext(t, thief, "devices/pump/end", "again")
}

// from dials from another address of this machine.
func (c *castle) from(source, user, password, id string) error {
	c.t.Helper()
	config := c.trust()
	config.ServerName = "127.0.0.1"
	conn, err := client.Dial(c.t.Context(), client.Options{ClientID: id, User: user, Password: []byte(password), ConnectTimeout: patience,
		DialContext: func(ctx context.Context) (net.Conn, error) {
			d := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}, Config: config}
			return d.DialContext(ctx, "tcp", c.tls)
		}})
	if err == nil {
		leave(c.t, conn)
	}
	return err
}

// TestSecurityBruteForce guesses a password. The guesser is slowed, the user is not.
func TestSecurityBruteForce(t *testing.T) {
	c := newCastle(t, settings{})
	c.user("anna", "correct horse")
	c.user("bob", "battery staple")
	const home, evil, elsewhere = "127.0.0.1", "127.0.0.2", "127.0.0.3"
	if err := c.from(home, "anna", "correct horse", "anna"); err != nil {
		t.Fatal(err)
	}
	looked, slowed := 0, 0
	for n := range 40 {
		switch err := c.from(evil, "anna", fmt.Sprintf("guess %d", n), "evil"); code(err) {
		case mqtt.BadUserNameOrPassword:
			looked++
		case mqtt.ConnectionRateExceeded:
			slowed++
		default:
			t.Fatalf("guess %d: %v, want 0x86 or 0x9F", n, err)
		}
		if n%10 == 9 {
			if err := c.from(home, "anna", "correct horse", "anna"); err != nil {
				t.Errorf("after %d guesses anna can't get in where she was before: %v", n+1, err)
			}
		}
	}
	t.Logf("of 40 guesses %d were looked at", looked)
	if slowed < 20 {
		t.Errorf("only %d of 40 guesses were slowed", slowed)
	}
	if err := c.from(elsewhere, "bob", "battery staple", "bob"); err != nil {
		t.Errorf("bob, whom nobody guessed at, can't get in: %v", err)
	}
	c.audited("refusal", "connect", "evil", evil)
}

// TestSecurityPolicyErrors has documents with errors refused as a whole, with their
// places, when they are applied and when the broker starts with them.
func TestSecurityPolicyErrors(t *testing.T) {
	c := newCastle(t, settings{})
	c.policy("good.yaml", "policies:\n  good:\n    who: every device\n    allow:\n      - subscribe: news\n")
	bad := filepath.Join(c.dir, "bad.yaml")
	for _, x := range []struct{ text, place, words string }{
		{"policies:\n  a:\n    who: every device\n    alow:\n      - publish: x\n", "bad.yaml:4:5", `expected "allow"`},
		{"policies:\n  a:\n    who: every device\n    allow:\n      - publish: a/{name}\n", "bad.yaml:5:18", "expected {device}"},
		{"policies:\n  a:\n    who: every device\n    allow:\n      - publish: a/#/b\n", "bad.yaml:5:18", "#"},
		{"policies:\n  a:\n    who: nobody at all\n    allow:\n      - publish: a\n", "bad.yaml:3:10", "expected"},
		{"policies:\n  a: &x\n    who: every device\n    allow:\n      - publish: [a\n", "bad.yaml:", "expected"},
		{"policies:\n  good:\n    who: every device\n    allow:\n      - publish: '#'\n", "bad.yaml:2:3", "good"},
	} {
		if err := os.WriteFile(bad, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, act := range []string{"apply", "diff"} {
			code, out, errs := c.try("", "policy", act, bad)
			if code != 1 || !strings.Contains(errs, x.place) || !strings.Contains(errs, x.words) {
				t.Errorf("policy %s: exit code %d, want 1, %s and %q:\n%s%s\nfor\n%s", act, code, x.place, x.words, out, errs, x.text)
			}
		}
	}
	var shown []struct{ Name string }
	c.json(&shown, "policy", "show")
	if len(shown) != 1 || shown[0].Name != "good.yaml" {
		t.Errorf("policies in force: %+v, want good.yaml", shown)
	}
	config := filepath.Join(c.dir, "other.yaml")
	if err := os.WriteFile(config, []byte("data: "+filepath.Join(c.dir, "other")+"\npolicies: ["+bad+"]\nlisteners: [mqtt://127.0.0.1:0]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, []byte("policies:\n  a:\n    who: every device\n    alow: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := shell(t, c.dir, "", binary, "serve", "--config", config)
	if err == nil || !strings.Contains(out, "bad.yaml:4:5") {
		t.Errorf("serve with a bad policy: %v, want bad.yaml:4:5 in\n%s", err, out)
	}
}

// TestSecurityNames gives devices names that lead elsewhere: into other directories,
// other topics, other flags.
func TestSecurityNames(t *testing.T) {
	c := newCastle(t, settings{})
	out := filepath.Join(c.dir, "bundles", "out")
	if err := os.MkdirAll(out, 0o700); err != nil {
		t.Fatal(err)
	}
	before := tree(t, c.dir)
	api := http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(c.data, "admin.sock"))
	}}}
	defer api.CloseIdleConnections()
	for _, name := range []string{
		"../x", "..", ".", "", "a/b", "/etc/x", "a\\b", "-x", "--out", "a b", "a+", "#", "+", "$SYS", "pump:1", "a\nb", "a\x7fb", "ü", ".hidden", strings.Repeat("a", 200),
	} {
		code, said, errs := c.try("", "device", "add", "--out", out, "--", name)
		if code == 0 {
			t.Errorf("device add %q: %s", name, said)
		} else if errs == "" {
			t.Errorf("device add %q is refused without a word", name)
		}
		body := fmt.Sprintf(`{"name":%q}`, name)
		resp, err := api.Post("http://admin.sock/v1/devices", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("POST /v1/devices %s: %s, want a refusal", body, resp.Status)
		}
	}
	if after := tree(t, c.dir); !slices.Equal(before, after) {
		t.Errorf("files have come or gone: %v, were %v", after, before)
	}
	var devices []any
	c.json(&devices, "device", "list")
	if len(devices) != 0 {
		t.Errorf("devices: %v", devices)
	}
}

// tree lists the files below dir, but those of the data directory's store.
func tree(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && (d.Name() == "kv" || d.Name() == "journal" || d.Name() == "audit") {
			return filepath.SkipDir
		}
		list = append(list, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestSecurityHalfWrittenCA starts a broker on what a crash may have left of its CA. It
// goes on with the same root, or it says which file is broken and does not start: it
// never begins a new CA that no device knows.
func TestSecurityHalfWrittenCA(t *testing.T) {
	c := newCastle(t, settings{})
	b, out := c.device("pump"), c.device("lamp")
	c.do("device", "revoke", "lamp", "--all")
	c.kill()
	dir := filepath.Join(c.data, "ca")
	whole := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if whole[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	half := func(name string) func() error {
		return func() error { return os.Truncate(filepath.Join(dir, name), int64(len(whole[name])/2)) }
	}
	remove := func(name string) func() error { return func() error { return os.Remove(filepath.Join(dir, name)) } }
	for _, x := range []struct {
		name   string
		damage func() error
		says   string // why it does not start; empty: it does
	}{
		{"an unfinished new file", func() error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "server.pem.new"), whole["server.pem"][:100], 0o600), os.WriteFile(filepath.Join(dir, "root.key.new"), nil, 0o600))
		}, ""},
		{"half a server certificate", half("server.pem"), ""},
		{"half a revocation list", half("crl.pem"), ""},
		{"no server certificate", remove("server.pem"), ""},
		{"half a root certificate", half("root.crt"), "root.crt"},
		{"half an issuing key", half("issuing.key"), "issuing.key"},
		{"half an issuing certificate", half("issuing.crt"), "issuing.crt"},
		{"no root certificate", remove("root.crt"), "root.crt"},
	} {
		for name, text := range whole {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := x.damage(); err != nil {
			t.Fatal(err)
		}
		if x.says != "" {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			said, err := exec.CommandContext(ctx, binary, "serve", "--config", c.config).CombinedOutput()
			cancel()
			if err == nil || !strings.Contains(string(said), x.says) {
				t.Errorf("%s: %v, want %s in\n%s", x.name, err, x.says, said)
			}
			continue
		}
		c.serve()
		leave(t, c.enter(bundleTrust(t, b), client.Options{ClientID: "pump"}))
		if conn, err := c.dial(bundleTrust(t, out), client.Options{ClientID: "lamp"}); err == nil {
			leave(t, conn)
			t.Errorf("%s: a revoked certificate gets in", x.name)
		}
		c.kill()
	}
}

// bundleTrust is the TLS of a device that knows its bundle and nothing else.
func bundleTrust(t *testing.T, b bundle) *tls.Config {
	t.Helper()
	root, err := os.ReadFile(b.ca)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(root)
	if block == nil {
		t.Fatalf("%s holds no PEM", b.ca)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{b.pair(t)}}
}
