package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead/client"
	"fairlead/mqtt"
)

// A bystander talks to itself all the time, over one connection, and no change may
// touch it.
type bystander struct {
	c     *castle
	conn  *client.Client
	first member // as the broker saw it at first
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	acked int
	got   int
	err   error
}

// bystand starts one, until check is called for the last time with the test's end.
func (c *castle) bystand() *bystander {
	c.t.Helper()
	b := &bystander{c: c, conn: c.as(c.device("bystander"), "bystander")}
	if got := subscribeTo(c.t, b.conn, "devices/bystander/#"); got.Failed() {
		c.t.Fatal(got)
	}
	b.first = c.client("bystander")[0]
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.done.Go(func() { b.talk(ctx) })   // both end with stop,
	b.done.Go(func() { b.listen(ctx) }) // or when the connection does
	c.t.Cleanup(func() { stop(); b.done.Wait() })
	return b
}

func (b *bystander) talk(ctx context.Context) {
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		err := b.conn.Publish(context.WithoutCancel(ctx), client.Message{Topic: "devices/bystander/n", Payload: fmt.Append(nil, n), QoS: mqtt.QoS1})
		b.mu.Lock()
		b.acked++
		if err != nil && b.err == nil {
			b.err = fmt.Errorf("message %d: %w", n, err)
		}
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (b *bystander) listen(ctx context.Context) {
	for n := 0; ; n++ {
		m, err := b.conn.Receive(ctx)
		if ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		if err == nil && string(m.Payload) != fmt.Sprint(n) {
			err = fmt.Errorf("received message %s, want %d", m.Payload, n)
		}
		if err != nil && b.err == nil {
			b.err = err
		}
		b.got++
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// check demands that all that was acknowledged so far has come, in order, and over the
// connection of the beginning.
func (b *bystander) check(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	acked := b.acked
	b.mu.Unlock()
	b.c.await("the bystander's messages", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.got >= acked+10 || b.err != nil // and it goes on
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.c.client("bystander")
	if b.err != nil || len(now) != 1 || now[0].Remote != b.first.Remote || !now[0].Since.Equal(b.first.Since) {
		t.Errorf("the bystander was disturbed: %v, was %+v, is %+v", b.err, b.first, now)
	}
}

// TestSecurityRightToConnectEnds takes away, one after the other, all that lets somebody
// be connected. Whom it is about is disconnected, nobody else notices.
func TestSecurityRightToConnectEnds(t *testing.T) {
	c := newCastle(t, settings{})
	watch := c.bystand()
	device := func(name string) *client.Client { return c.as(c.device(name), name) }
	user := func(name, password string) *client.Client {
		conn, err := c.login(name, password, name)
		if err != nil {
			t.Fatalf("%v\n%s", err, c.tail())
		}
		return conn
	}
	for _, x := range []struct {
		name   string
		enter  func() *client.Client
		change func()
	}{
		{"suspend", func() *client.Client { return device("a") }, func() { c.do("device", "suspend", "a") }},
		{"retire", func() *client.Client { return device("b") }, func() { c.do("device", "retire", "b") }},
		{"revoke", func() *client.Client { return device("c") }, func() {
			var d struct{ Certificates []struct{ Serial string } }
			c.json(&d, "device", "show", "c")
			c.do("device", "revoke", "c", d.Certificates[0].Serial)
		}},
		{"password of a device", func() *client.Client {
			c.device("d")
			return user("d", strings.TrimSpace(c.do("device", "password", "d", "--generate")))
		}, func() { c.do("device", "password", "d", "--remove") }},
		{"password of a user", func() *client.Client { c.user("e", "correct horse"); return user("e", "correct horse") },
			func() { c.do("user", "set", "e", "--no-password") }},
		{"another password", func() *client.Client { c.user("f", "correct horse"); return user("f", "correct horse") },
			func() { c.doWith("battery staple\n", "user", "set", "f", "--password-stdin") }},
		{"user disabled", func() *client.Client { c.user("g", "correct horse"); return user("g", "correct horse") },
			func() { c.do("user", "set", "g", "--disable") }},
		{"user removed", func() *client.Client { c.user("h", "correct horse"); return user("h", "correct horse") },
			func() { c.do("user", "remove", "h") }},
		{"token removed", func() *client.Client {
			c.do("user", "add", "i")
			return user("i", strings.TrimSpace(c.do("token", "add", "--user", "i")))
		}, func() {
			var tokens []struct{ ID string }
			c.json(&tokens, "token", "list")
			c.do("token", "remove", tokens[0].ID)
		}},
		{"policy denies to connect", func() *client.Client { c.user("j", "correct horse"); return user("j", "correct horse") },
			func() { c.policy("j.yaml", "policies:\n  j:\n    who: {users: j}\n    deny:\n      - connect: '*'\n") }},
	} {
		conn := x.enter()
		x.change()
		ended(t, conn, mqtt.NotAuthorized, x.name, time.Now())
		watch.check(t)
	}
	if found := c.client("a"); len(found) != 0 {
		t.Errorf("the session of a suspended device: %+v", found)
	}
}

// TestSecurityRightsShrink takes rights away from who stays connected: the subscription
// ends, what waits for it is dropped, and everything else goes on.
func TestSecurityRightsShrink(t *testing.T) {
	c := newCastle(t, settings{})
	watch := c.bystand()
	wide := "policies:\n  news:\n    who: {groups: readers}\n    allow:\n      - subscribe: [news/#, weather/#]\n      - publish: news/#\n"
	narrow := "policies:\n  news:\n    who: {groups: readers}\n    allow:\n      - subscribe: weather/#\n"
	for i, x := range []struct {
		name   string
		change func(device string)
		kept   string // a subscription that the change does not touch
	}{
		{"policy shrunk", func(string) { c.policy("news.yaml", narrow) }, "weather/#"},
		{"policy removed", func(string) { c.do("policy", "remove", "news.yaml") }, ""},
		{"denied", func(string) {
			c.policy("deny.yaml", "policies:\n  deny:\n    who: every device\n    deny:\n      - subscribe: news/secret\n      - publish: news/x\n")
		}, "weather/#"},
		{"out of the group", func(name string) { c.do("device", "set", name, "--no-group", "readers") }, ""},
	} {
		c.policy("news.yaml", wide)
		name := fmt.Sprintf("reader%d", i)
		b := c.device(name, "--group", "readers")
		own := "devices/" + name + "/#"
		conn := c.as(b, name)
		absent, err := c.dial(c.trust(b.pair(t)), client.Options{ClientID: name + ":away", SessionExpiry: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		for _, filter := range []string{"news/#", "weather/#", own} {
			for _, s := range []*client.Client{conn, absent} {
				if got := subscribeTo(t, s, filter); got.Failed() {
					t.Fatalf("%s: subscribe %s: %v", x.name, filter, got)
				}
			}
		}
		if err := publishTo(t, conn, "news/x", "before"); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		wantNext(t, conn, "news/x", "before")
		wantNext(t, absent, "news/x", "before")
		leave(t, absent)
		c.do("pub", "-t", "news/secret", "-m", "while away", "-q", "1")
		wantNext(t, conn, "news/secret", "while away")

		x.change(name)
		since := time.Now()
		filters := func(id string) (list []string) {
			for _, m := range c.client(id) {
				for _, s := range m.Subscriptions {
					list = append(list, s.Filter)
				}
			}
			return list
		}
		want := 1
		if x.kept != "" {
			want = 2
		}
		c.await(x.name+": the subscription to end", func() bool { return len(filters(name)) == want && len(filters(name+":away")) == want })
		t.Logf("%s: the subscription was gone %v later, by what the command line shows", x.name, time.Since(since).Round(time.Millisecond))

		c.do("pub", "-t", "news/secret", "-m", "after", "-q", "1")
		last := "devices/" + name + "/end"
		if x.kept != "" {
			c.do("pub", "-t", "weather/x", "-m", "rain", "-q", "1")
			wantNext(t, conn, "weather/x", "rain")
		}
		if err := publishTo(t, conn, last, "end"); err != nil {
			t.Errorf("%s: its own topics: %v", x.name, err)
		}
		wantNext(t, conn, last, "end")
		if err := publishTo(t, conn, "news/x", "after"); code(err) != mqtt.NotAuthorized {
			t.Errorf("%s: publish: %v, want 0x87", x.name, err)
		}
		again := c.as(b, name+":away")
		if x.kept != "" {
			wantNext(t, again, "weather/x", "rain")
		}
		wantNext(t, again, last, "end") // and not what waited for it
		leave(t, again)
		leave(t, conn)
		watch.check(t)
		if x.name == "denied" {
			c.do("policy", "remove", "deny.yaml")
		}
	}
}

// ownPair writes a certificate for 127.0.0.1 that an authority of the operator has signed.
func ownPair(t *testing.T, cert, key string, serial int64, by signer) {
	t.Helper()
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "broker"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, leafKey.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
}

// operatorCA is a CA that an operator brings along.
func operatorCA(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signer{cert, key}
}

// TestSecurityOwnCertificate replaces the operator's certificate while clients are
// connected, by a good one and by bad ones.
func TestSecurityOwnCertificate(t *testing.T) {
	files := t.TempDir()
	cert, key := filepath.Join(files, "server.crt"), filepath.Join(files, "server.key")
	authority := operatorCA(t)
	ownPair(t, cert, key, 1001, authority)
	c := newCastle(t, settings{tls: fmt.Sprintf("tls: {cert: %s, key: %s}", cert, key)})
	b := c.device("pump")
	pool := x509.NewCertPool()
	pool.AddCert(authority.cert)
	trust := func() *tls.Config { return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{b.pair(t)}} }
	shown := func() int64 {
		conn, err := tls.Dial("tcp", c.tls, trust())
		if err != nil {
			t.Fatalf("handshake: %v\n%s", err, c.tail())
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := shown(); got != 1001 {
		t.Fatalf("the broker shows the certificate %d, want 1001", got)
	}
	old := c.enter(trust(), client.Options{ClientID: "pump"})
	ownPair(t, cert, key, 1002, authority)
	c.await("the new certificate", func() bool { return shown() == 1002 })

	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"half a key": good[:len(good)/2], "nothing": nil} {
		before, err := os.ReadFile(c.log)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(key, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c.await(name+" in the log", func() bool {
			log, err := os.ReadFile(c.log)
			return err == nil && strings.Contains(string(log[len(before):]), "level=ERROR msg=certificates") && strings.Contains(string(log[len(before):]), "server.")
		})
		if got := shown(); got != 1002 {
			t.Errorf("%s: the broker shows the certificate %d, want 1002", name, got)
		}
	}
	ownPair(t, cert, key, 1003, authority)
	c.await("the good pair after bad ones", func() bool { return shown() == 1003 })
	if err := publishTo(t, old, "devices/pump/state", "on"); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
	if found := c.client("pump"); len(found) != 1 || !found[0].Connected {
		t.Errorf("the connection from before: %+v", found)
	}
}

// TestSecuritySurvivesKill kills the broker right after each act: what the command line
// has said is done is done.
func TestSecuritySurvivesKill(t *testing.T) {
	c := newCastle(t, settings{})
	fingerprint := func() string {
		var shown struct{ Fingerprint string }
		c.json(&shown, "ca", "show")
		if shown.Fingerprint == "" {
			t.Fatal("ca show --json has no fingerprint")
		}
		return shown.Fingerprint
	}
	root := fingerprint()
	again := func() {
		t.Helper()
		c.kill()
		c.serve()
		if got := fingerprint(); got != root {
			t.Fatalf("the root is %s after a crash, was %s", got, root)
		}
	}
	b := c.device("pump", "--group", "pumps", "--attr", "site=berlin")
	again()
	leave(t, c.enter(bundleTrust(t, b), client.Options{ClientID: "pump"}))

	c.policy("site.yaml", "policies:\n  site:\n    who: {groups: pumps}\n    allow:\n      - publish: \"{attr.site}/{device}\"\n")
	again()
	conn := c.enter(bundleTrust(t, b), client.Options{ClientID: "pump"})
	if err := publishTo(t, conn, "berlin/pump", "on"); err != nil {
		t.Errorf("the policy is gone: %v", err)
	}
	leave(t, conn)

	c.user("anna", "correct horse")
	again()
	conn, err := c.login("anna", "correct horse", "anna")
	if err != nil {
		t.Fatalf("the user is gone: %v", err)
	}
	leave(t, conn)

	c.do("device", "revoke", "pump", "--all")
	again()
	if conn, err := c.dial(bundleTrust(t, b), client.Options{ClientID: "pump"}); err == nil {
		leave(t, conn)
		t.Error("the revocation is gone")
	}
	if out := c.do("audit", "verify"); !strings.Contains(out, "the log is whole") {
		t.Errorf("audit verify: %s", out)
	}
	for _, act := range []string{"device.add", "policy.apply", "user.add"} {
		c.audited("act", act)
	}
}

// TestSecurityAuditLog changes the log behind the broker's back. A chain that was made
// anew does not fit an anchor that was kept elsewhere.
func TestSecurityAuditLog(t *testing.T) {
	c := newCastle(t, settings{})
	c.device("pump")
	c.do("device", "suspend", "pump")
	anchor := filepath.Join(c.dir, "anchor")
	var text []byte
	c.await("the anchor of two entries", func() bool { // it is written once a second
		var err error
		text, err = os.ReadFile(filepath.Join(c.data, "audit", "anchor"))
		return err == nil && strings.Contains(string(text), `"n":2,`)
	})
	if err := os.WriteFile(anchor, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.do("device", "resume", "pump")
	c.do("audit", "verify", "--anchor", anchor)
	c.kill()
	files, err := filepath.Glob(filepath.Join(c.data, "audit", "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files of the audit log: %v, %v", files, err)
	}
	log, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	all := strings.SplitAfter(strings.TrimSuffix(string(log), "\n"), "\n")
	for name, changed := range map[string]string{
		"another name":   strings.Replace(string(log), `"device.suspend"`, `"device.resumed"`, 1),
		"one taken out":  strings.Join(append(append([]string{}, all[:1]...), all[2:]...), "") + "\n",
		"the end is cut": all[0],
	} {
		if changed == string(log) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if err := os.WriteFile(files[0], []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, out, errs := c.try("", "audit", "verify", "--anchor", anchor); code != 1 {
			t.Errorf("%s: exit code %d, want 1\n%s%s", name, code, out, errs)
		}
	}
	if err := os.WriteFile(files[0], log, 0o600); err != nil {
		t.Fatal(err)
	}
	c.do("audit", "verify", "--anchor", anchor)
}
