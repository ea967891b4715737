package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	paho3lib "github.com/eclipse/paho.mqtt.golang"

	"fairlead/client"
	"fairlead/mqtt"
)

// shell runs a command to its end, in dir, and returns all that it printed.
func shell(t *testing.T, dir, stdin, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is shell for what has to succeed and say the words.
func must(t *testing.T, words, dir, stdin, name string, args ...string) string {
	t.Helper()
	out, err := shell(t, dir, stdin, name, args...)
	if err != nil || !strings.Contains(out, words) {
		t.Fatalf("%s %s: %v, want %q in\n%s", name, strings.Join(args, " "), err, words, out)
	}
	return out
}

// waiting starts a command that waits for messages, and returns once it says that it
// is subscribed.
func waiting(t *testing.T, dir, subscribed string, argv ...string) *lines {
	t.Helper()
	out := &lines{changed: make(chan struct{})}
	cmd := exec.Command("stdbuf", append([]string{"-oL"}, argv...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	if !out.await(func(all []string) bool { return strings.Contains(strings.Join(all, "\n"), subscribed) }) {
		t.Fatalf("%v does not say %q:\n%s", argv, subscribed, out)
	}
	return out
}

// wantLine waits for a line that ends so.
func wantLine(t *testing.T, out *lines, end string) {
	t.Helper()
	if !out.await(func(all []string) bool {
		for _, line := range all {
			if strings.HasSuffix(line, end) {
				return true
			}
		}
		return false
	}) {
		t.Fatalf("no line ends with %q:\n%s", end, out)
	}
}

// TestSecurityClients has a bundle made by `fairlead device add` used by all the clients
// that people have.
func TestSecurityClients(t *testing.T) {
	c := newCastle(t, settings{})
	t.Run("mosquitto", c.run(mosquittoBundle))
	t.Run("fairlead", c.run(fairleadBundle))
	t.Run("MQTT.js", c.run(mqttjsBundle))
	t.Run("paho.mqtt.golang", c.run(paho3Bundle))
	t.Run("paho.golang", c.run(paho5Bundle))
	t.Run("connect.md", c.run(connectMD))
	t.Run("openssl", c.run(openssl))
	t.Run("admin.sock", c.run(withoutSetUp))
}

// run gives a part of a test the castle, with its own testing.T.
func (c *castle) run(part func(*testing.T, *castle)) func(*testing.T) {
	return func(t *testing.T) {
		mine := *c
		mine.t = t
		part(t, &mine)
	}
}

func at(addr string) []string {
	host, port, _ := strings.Cut(addr, ":")
	return []string{"-h", host, "-p", port}
}

func mosquittoBundle(t *testing.T, c *castle) {
	for _, version := range mosquittoVersions {
		b := c.device("m-" + version)
		flags := append(append(at(c.tls), b.files()...), "-V", version, "-q", "1")
		out := waiting(t, c.dir, "Subscribed", append([]string{"mosquitto_sub", "-d", "-v", "-i", b.name + ":sub", "-t", "devices/" + b.name + "/#"}, flags...)...)
		must(t, "", c.dir, "", "mosquitto_pub", append([]string{"-i", b.name, "-t", "devices/" + b.name + "/state", "-m", "on"}, flags...)...)
		wantLine(t, out, "devices/"+b.name+"/state on")
	}
}

func fairleadBundle(t *testing.T, c *castle) {
	b := c.device("own")
	host, wssPort, _ := strings.Cut(c.wss, ":")
	for _, where := range [][]string{append(at(c.tls), "--tls"), {"-h", host, "-p", wssPort, "--ws", "--tls"}} {
		flags := append(where, b.files()...)
		out := waiting(t, c.dir, "received SUBACK", append([]string{binary, "sub", "-d", "-v", "-q", "1", "-i", "own:sub", "-t", "devices/own/#"}, flags...)...)
		must(t, "", c.dir, "", binary, append([]string{"pub", "-q", "1", "-i", "own", "-t", "devices/own/state", "-m", where[3]}, flags...)...)
		wantLine(t, out, "devices/own/state "+where[3])
	}
}

// mqttjsScript connects with a bundle and sends itself a message.
const mqttjsScript = `
import fs from 'node:fs'
import mqtt from 'mqtt'
const [url, name] = process.argv.slice(2)
const client = await mqtt.connectAsync(url, {
  clientId: name, protocolVersion: 5, reconnectPeriod: 0,
  ca: fs.readFileSync('ca.crt'), cert: fs.readFileSync(name + '.crt'), key: fs.readFileSync(name + '.key')
})
client.on('message', async (topic, payload) => { console.log(topic, String(payload)); await client.endAsync() })
await client.subscribeAsync('devices/' + name + '/#', { qos: 1 })
await client.publishAsync('devices/' + name + '/state', 'from MQTT.js', { qos: 1 })
`

// script puts a file for Node.js beside a bundle.
func script(t *testing.T, b bundle, name, text string) {
	t.Helper()
	modules, err := filepath.Abs(filepath.Join(repository, "test", "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(modules, filepath.Join(b.dir, "node_modules")), os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func mqttjsBundle(t *testing.T, c *castle) {
	b := c.device("js")
	script(t, b, "device.mjs", mqttjsScript)
	for _, url := range []string{"mqtts://" + c.tls, "wss://" + c.wss + "/mqtt"} {
		must(t, "devices/js/state from MQTT.js\n", b.dir, "", "node", "device.mjs", url, b.name)
	}
}

func paho3Bundle(t *testing.T, c *castle) {
	b := c.device("paho3")
	for _, url := range []string{"mqtts://" + c.tls, "wss://" + c.wss + "/mqtt"} {
		got := make(chan string, 1)
		p := paho3lib.NewClient(paho3lib.NewClientOptions().AddBroker(url).SetClientID(b.name).
			SetTLSConfig(c.trust(b.pair(t))).SetAutoReconnect(false).SetConnectTimeout(patience).
			SetDefaultPublishHandler(func(_ paho3lib.Client, m paho3lib.Message) { got <- m.Topic() + " " + string(m.Payload()) }))
		for _, step := range []func() paho3lib.Token{
			p.Connect,
			func() paho3lib.Token { return p.Subscribe("devices/paho3/#", 1, nil) },
			func() paho3lib.Token { return p.Publish("devices/paho3/state", 1, false, "on") },
		} {
			if token := step(); !token.WaitTimeout(patience) || token.Error() != nil {
				t.Fatalf("%s: %v", url, token.Error())
			}
		}
		wantText(t, got, "devices/paho3/state on")
		p.Disconnect(quiesce)
	}
}

func wantText(t *testing.T, got <-chan string, want string) {
	t.Helper()
	select {
	case s := <-got:
		if s != want {
			t.Fatalf("received %q, want %q", s, want)
		}
	case <-time.After(patience):
		t.Fatalf("nothing came, want %q", want)
	}
}

// dialPaho5TLS connects a paho.golang client; it returns its CONNACK.
func dialPaho5TLS(t *testing.T, addr string, config *tls.Config, got chan<- string, connect *paho.Connect, auth paho.Auther) (*paho.Client, *paho.Connack, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p := paho.NewClient(paho.ClientConfig{
		ClientID: connect.ClientID, Conn: conn, PacketTimeout: patience, AuthHandler: auth,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			got <- r.Packet.Topic + " " + string(r.Packet.Payload)
			return true, nil
		}},
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	connack, err := p.Connect(ctx, connect)
	return p, connack, err
}

func paho5Bundle(t *testing.T, c *castle) {
	b := c.device("paho5")
	got := make(chan string, 1)
	p, _, err := dialPaho5TLS(t, c.tls, c.trust(b.pair(t)), got, &paho.Connect{ClientID: b.name, CleanStart: true, KeepAlive: 60}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "devices/paho5/#", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(t.Context(), &paho.Publish{Topic: "devices/paho5/state", Payload: []byte("on"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	wantText(t, got, "devices/paho5/state on")
	if err := p.Disconnect(&paho.Disconnect{}); err != nil {
		t.Fatal(err)
	}
}

// connectMD runs what a bundle's page says, as it stands there.
func connectMD(t *testing.T, c *castle) {
	b := c.device("page")
	page, err := os.ReadFile(b.commands)
	if err != nil {
		t.Fatal(err)
	}
	watch := c.as(b, "page:test")
	if got := subscribeTo(t, watch, "devices/page/#"); got != mqtt.ReasonCode(1) {
		t.Fatalf("subscribe: %v", got)
	}
	real, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	path := "PATH=" + filepath.Dir(real) + ":" + os.Getenv("PATH")
	ran := map[string]int{}
	for _, block := range parseBlocks(string(page)) {
		switch block.lang {
		case "sh":
			for line := range strings.Lines(block.text) {
				line = strings.TrimSpace(line)
				tool := strings.Fields(line)[0]
				if strings.HasSuffix(tool, "_sub") || strings.HasPrefix(line, "fairlead sub") {
					subscribed := map[bool]string{true: "received SUBACK", false: "Subscribed"}[tool == "fairlead"]
					defer wantLine(t, waiting(t, b.dir, subscribed, "env", path, "sh", "-c", "exec stdbuf -oL "+line+" -d -v"), "devices/page/state hello")
				} else {
					must(t, "", b.dir, "", "env", path, "sh", "-c", line)
					wantNext(t, watch, "devices/page/state", "hello")
				}
				ran[tool]++
			}
		case "js":
			script(t, b, "page.mjs", block.text)
			must(t, "", b.dir, "", "node", "page.mjs")
			wantNext(t, watch, "devices/page/state", "hello")
			ran["js"]++
		case "go":
			file, program := filepath.Join(b.dir, "main.go"), filepath.Join(b.dir, "program")
			if err := os.WriteFile(file, []byte(block.text), 0o600); err != nil {
				t.Fatal(err)
			}
			must(t, "", repository, "", "go", "build", "-buildvcs=false", "-o", program, file)
			must(t, "", b.dir, "", program)
			wantNext(t, watch, "devices/page/state", "hello")
			ran["go"]++
		default:
			t.Errorf("connect.md:%d: a block of %q, which nothing runs", block.line, block.lang)
		}
	}
	for tool, want := range map[string]int{"fairlead": 2, "mosquitto_sub": 1, "mosquitto_pub": 1, "js": 1, "go": 1} {
		if ran[tool] != want {
			t.Errorf("connect.md has %d of %s, want %d:\n%s", ran[tool], tool, want, page)
		}
	}
}

// openssl has the judge that everybody trusts look at the chains and at the handshake.
func openssl(t *testing.T, c *castle) {
	b := c.device("ssl")
	must(t, ": OK", b.dir, "", "openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "ca.crt", "-untrusted", "ssl.crt", "ssl.crt")
	if out, err := shell(t, b.dir, "", "openssl", "verify", "-purpose", "sslserver", "-CAfile", "ca.crt", "-untrusted", "ssl.crt", "ssl.crt"); err == nil {
		t.Errorf("a device's certificate serves for a server:\n%s", out)
	}
	client := []string{"s_client", "-connect", c.tls, "-CAfile", "ca.crt", "-verify_return_error", "-verify_ip", "127.0.0.1", "-cert", "ssl.crt", "-key", "ssl.key"}
	out := must(t, "Verify return code: 0 (ok)", b.dir, "", "openssl", client...)
	if !strings.Contains(out, "TLSv1.3") {
		t.Errorf("not TLS 1.3:\n%s", out)
	}
	must(t, "TLSv1.2", b.dir, "", "openssl", append(client, "-tls1_2")...)
	for _, bad := range [][]string{{"-tls1_1"}, {"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"}, {"-tls1_2", "-cipher", "AES128-GCM-SHA256"}} {
		// SECLEVEL 0 lets OpenSSL offer what it would not by itself.
		if out, err := shell(t, b.dir, "", "openssl", append(append(client, "-cipher", "ALL:@SECLEVEL=0"), bad...)...); err == nil {
			t.Errorf("%v gets in:\n%s", bad, out)
		}
	}
	wrongName := append(client, "-verify_hostname", "broker.example")
	if out, err := shell(t, b.dir, "", "openssl", wrongName...); err == nil {
		t.Errorf("the broker's certificate is good for any name:\n%s", out)
	}
	conn, err := tls.Dial("tcp", c.tls, c.trust(b.pair(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.ConnectionState().CurveID; got != tls.X25519MLKEM768 {
		t.Errorf("key exchange %v, want the hybrid %v", got, tls.X25519MLKEM768)
	}
}

// withoutSetUp exchanges the first message with nothing but a running broker.
func withoutSetUp(t *testing.T, c *castle) {
	out := waiting(t, c.dir, "received SUBACK", binary, "sub", "--data", c.data, "-d", "-v", "-t", "hello/#")
	c.do("pub", "-t", "hello/world", "-m", "first", "-q", "1")
	wantLine(t, out, "hello/world first")
}

// TestSecurityPasswords has users and devices come with passwords and tokens, by clients
// that know nothing else.
func TestSecurityPasswords(t *testing.T) {
	c := newCastle(t, settings{})
	c.user("anna", "correct horse", "--group", "home")
	c.policy("home.yaml", "policies:\n  home:\n    who: {groups: home}\n    allow:\n      - publish: home/#\n        subscribe: home/#\n")
	token := strings.TrimSpace(c.do("token", "add", "--user", "anna"))
	c.device("sensor")
	sensor := strings.TrimSpace(c.do("device", "password", "sensor", "--generate"))

	out := waiting(t, c.dir, "Subscribed", append([]string{"mosquitto_sub", "-d", "-v", "-u", "anna", "-P", "correct horse", "-t", "home/#"}, at(c.plain)...)...)
	for _, by := range []string{"correct horse", token} {
		must(t, "", c.dir, "", "mosquitto_pub", append([]string{"-u", "anna", "-P", by, "-t", "home/light", "-m", by[:4], "-q", "1"}, at(c.plain)...)...)
		wantLine(t, out, "home/light "+by[:4])
	}
	must(t, "", c.dir, "", "mosquitto_pub", append([]string{"-i", "sensor", "-u", "sensor", "-P", sensor, "-V", "5", "-t", "devices/sensor/t", "-m", "21", "-q", "1"}, at(c.plain)...)...)
	for _, secrets := range [][2]string{{"anna", "wrong horse"}, {"anna", ""}, {"nobody", "correct horse"}, {"sensor", "correct horse"}, {"anna", token[:len(token)-1] + "x"}} {
		refused(t, c, secrets[0], secrets[1], "sensor")
	}
	if said := c.do("user", "show", "anna", "--json") + c.do("audit", "list", "--json"); strings.Contains(said, "correct horse") || strings.Contains(said, token) {
		t.Errorf("a secret is shown again:\n%s", said)
	}
}

// refused demands that these credentials get the client nowhere, and learns nothing.
func refused(t *testing.T, c *castle, user, password, id string) {
	t.Helper()
	if user != "sensor" {
		id = "c-" + id
	}
	conn, err := c.login(user, password, id)
	if err == nil {
		leave(t, conn)
		t.Fatalf("%s gets in with %q", user, password)
	}
	var no *client.ReasonError
	if !errors.As(err, &no) || no.Code != mqtt.BadUserNameOrPassword && no.Code != mqtt.NotAuthorized || no.Reason != "" {
		t.Errorf("%s with %q: %v, want a bare 0x86 or 0x87", user, password, err)
	}
	c.audited("refusal", "connect", id)
}

// TestSecurityAnonymous has a listener that lets in who does not say who they are, with
// what policies grant everyone.
func TestSecurityAnonymous(t *testing.T) {
	c := newCastle(t, settings{plain: "anonymous: true"})
	c.policy("all.yaml", "policies:\n  all:\n    who: everyone\n    allow:\n      - publish: public/#\n        subscribe: public/#\n")
	out := waiting(t, c.dir, "Subscribed", append([]string{"mosquitto_sub", "-d", "-v", "-t", "public/#"}, at(c.plain)...)...)
	must(t, "", c.dir, "", "mosquitto_pub", append([]string{"-t", "public/a", "-m", "b", "-q", "1"}, at(c.plain)...)...)
	wantLine(t, out, "public/a b")
	got := must(t, "not authorized", c.dir, "", "sh", "-c", "mosquitto_pub -V 5 -q 1 -t private/a -m b "+strings.Join(at(c.plain), " ")+" 2>&1 | tr A-Z a-z")
	t.Logf("a topic that nobody granted: %s", got)
	if _, err := c.dial(c.trust(), client.Options{ClientID: "anon"}); code(err) != mqtt.NotAuthorized {
		t.Errorf("the listener beside it: %v, want 0x87", err)
	}
	if out := c.do("doctor"); !strings.Contains(out, "clients need not say who they are") {
		t.Errorf("doctor has no word about it:\n%s", out)
	}
}

// An issuer signs tokens, and a real JWKS server shows its keys.
type issuer struct {
	*httptest.Server
	t *testing.T

	mu   sync.Mutex // guards what follows
	keys map[string]*ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{t: t, keys: map[string]*ecdsa.PrivateKey{}}
	i.Server = httptest.NewServer(i)
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var keys []map[string]string
	for id, key := range i.keys {
		point, err := key.PublicKey.Bytes()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		keys = append(keys, map[string]string{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": b64(point[1:33]), "y": b64(point[33:])})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys}) // the broker may have gone
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// key makes a key and publishes it.
func (i *issuer) key(id string) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys[id] = key
	return key
}

// token signs claims.
func token(t *testing.T, key *ecdsa.PrivateKey, head map[string]string, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := b64(h) + "." + b64(body)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + b64(signature)
}

// TestSecurityJWT has a token issuer with a JWKS server say who clients are.
func TestSecurityJWT(t *testing.T) {
	i := newIssuer(t)
	first := i.key("one")
	c := newCastle(t, settings{more: `auth:
  jwt:
    keys: ` + i.URL + `/jwks.json
    issuer: https://issuer.example
    audience: [mqtt]
    leeway: 1s
    user_claim: sub
    groups_claim: groups
`})
	c.policy("staff.yaml", "policies:\n  staff:\n    who: {groups: staff}\n    allow:\n      - publish: staff/#\n        subscribe: staff/#\n")
	head := map[string]string{"alg": "ES256", "typ": "JWT", "kid": "one"}
	claims := func(change string, value any) map[string]any {
		all := map[string]any{"iss": "https://issuer.example", "aud": "mqtt", "sub": "ann", "groups": []string{"staff", "admin"}, "exp": time.Now().Add(time.Hour).Unix()}
		if change != "" {
			all[change] = value
		}
		return all
	}
	conn, err := c.login("any", token(t, first, head, claims("", nil)), "jwt")
	if err != nil {
		t.Fatal(err)
	}
	if err := publishTo(t, conn, "staff/a", "b"); err != nil {
		t.Error(err)
	}
	if got := subscribeTo(t, conn, "#"); got != mqtt.NotAuthorized {
		t.Errorf("the group admin, which nobody let tokens give, subscribes to everything: %v", got)
	}
	leave(t, conn)

	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, forged := range map[string]string{
		"another's signature": token(t, stranger, head, claims("", nil)),
		"ended":               token(t, first, head, claims("exp", time.Now().Add(-time.Hour).Unix())),
		"never ends":          token(t, first, head, claims("exp", nil)),
		"another service's":   token(t, first, head, claims("aud", "mail")),
		"another issuer's":    token(t, first, head, claims("iss", "https://evil.example")),
		"no algorithm":        token(t, first, map[string]string{"alg": "none", "kid": "one"}, claims("", nil)),
		"the key as a secret": token(t, first, map[string]string{"alg": "HS256", "kid": "one"}, claims("", nil)),
	} {
		if conn, err := c.login("any", forged, "jwt"); err == nil {
			leave(t, conn)
			t.Errorf("%s: gets in", name)
		} else if got := code(err); got != mqtt.NotAuthorized && got != mqtt.BadUserNameOrPassword {
			t.Errorf("%s: %v, want 0x86 or 0x87", name, err)
		}
	}
	c.audited("refusal", "jwt", "connect")

	// The issuer's next key is found when a token names it, and a connection ends with
	// its token.
	second := i.key("two")
	end := time.Now().Add(3 * time.Second)
	conn, err = c.login("any", token(t, second, map[string]string{"alg": "ES256", "kid": "two"}, claims("exp", end.Unix())), "jwt2")
	if err != nil {
		t.Fatalf("the issuer's next key: %v\n%s", err, c.tail())
	}
	ended(t, conn, mqtt.MaximumConnectTime, "the token's end", end)
}

// ended waits for the broker's DISCONNECT and logs how long after since it came.
func ended(t *testing.T, c *client.Client, want mqtt.ReasonCode, by string, since time.Time) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(patience):
		t.Fatalf("%s: the connection goes on", by)
	}
	var no *client.ReasonError
	if !errors.As(c.Err(), &no) || no.Code != want || no.Reason == "" {
		t.Fatalf("%s: ended by %v, want %v with a Reason String", by, c.Err(), want)
	}
	t.Logf("%s: the connection ended %v later: %v", by, time.Since(since).Round(time.Millisecond), no)
}

// scram is the client's side of RFC 5802 for paho.golang.
type scram struct {
	user, password string
	nonce          string
	first          string
	server         []byte // the proof that the broker has to give
}

func (s *scram) begin() []byte {
	s.nonce = b64([]byte(unique()))
	s.first = "n=" + s.user + ",r=" + s.nonce
	return []byte("n,," + s.first)
}

// Authenticate answers the broker's challenge.
func (s *scram) Authenticate(a *paho.Auth) *paho.Auth {
	challenge := string(a.Properties.AuthData)
	fields := map[string]string{}
	for field := range strings.SplitSeq(challenge, ",") {
		name, value, _ := strings.Cut(field, "=")
		fields[name] = value
	}
	salt, err := base64.StdEncoding.DecodeString(fields["s"])
	var rounds int
	if _, scan := fmt.Sscan(fields["i"], &rounds); err != nil || scan != nil || !strings.HasPrefix(fields["r"], s.nonce) {
		return &paho.Auth{ReasonCode: byte(mqtt.ProtocolError)}
	}
	salted, err := pbkdf2.Key(sha256.New, s.password, salt, rounds, sha256.Size)
	if err != nil {
		return &paho.Auth{ReasonCode: byte(mqtt.ProtocolError)}
	}
	bare := "c=" + base64.StdEncoding.EncodeToString([]byte("n,,")) + ",r=" + fields["r"]
	message := s.first + "," + challenge + "," + bare
	key := sum(salted, "Client Key")
	stored := sha256.Sum256(key)
	for i, b := range sum(stored[:], message) {
		key[i] ^= b
	}
	s.server = sum(sum(salted, "Server Key"), message)
	return &paho.Auth{ReasonCode: byte(mqtt.ContinueAuthentication), Properties: &paho.AuthProperties{
		AuthMethod: "SCRAM-SHA-256", AuthData: []byte(bare + ",p=" + base64.StdEncoding.EncodeToString(key)),
	}}
}

// Authenticated is called at the end.
func (s *scram) Authenticated() {}

func sum(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	io.WriteString(h, text)
	return h.Sum(nil)
}

// TestSecuritySCRAM has paho.golang log in without showing its password.
func TestSecuritySCRAM(t *testing.T) {
	c := newCastle(t, settings{})
	c.user("anna", "correct horse")
	for _, try := range []struct {
		user, password string
		in             bool
	}{{"anna", "correct horse", true}, {"anna", "wrong horse", false}, {"nobody", "correct horse", false}} {
		s := &scram{user: try.user, password: try.password}
		_, connack, err := dialPaho5TLS(t, c.tls, c.trust(), nil, &paho.Connect{
			ClientID: "scram-" + try.user, CleanStart: true, KeepAlive: 60,
			Properties: &paho.ConnectProperties{AuthMethod: "SCRAM-SHA-256", AuthData: s.begin()},
		}, s)
		if !try.in {
			if err == nil || connack == nil || connack.ReasonCode < 0x80 {
				t.Errorf("%s with %q: %v, want a refusal", try.user, try.password, err)
			}
			c.audited("refusal", "connect", "scram-"+try.user)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(connack.Properties.AuthData), "v="+base64.StdEncoding.EncodeToString(s.server); got != want {
			t.Errorf("the broker's proof is %q, want %q", got, want)
		}
	}
}

// A userBase is an HTTP server that the broker asks who clients are. What it answers is
// set by the test.
type userBase struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

func newUserBase(t *testing.T) *userBase {
	u := &userBase{}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.asked.Add(1)
		(*u.answer.Load())(w, r)
	}))
	t.Cleanup(u.Close)
	return u
}

func (u *userBase) says(text string) {
	f := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, text)
	})
	u.answer.Store(&f)
}

// TestSecurityHook asks an existing user base: nobody gets in by one that is slow, down
// or lying.
func TestSecurityHook(t *testing.T) {
	u := newUserBase(t)
	u.says(`{"result":"allow","user":"ann","groups":["staff"]}`)
	c := newCastle(t, settings{more: "auth:\n  hook:\n    url: " + u.URL + "\n    timeout: 500ms\n    allow_for: -1s\n    deny_for: -1s\n"})
	c.policy("staff.yaml", "policies:\n  staff:\n    who: {groups: staff}\n    allow:\n      - publish: staff/#\n")
	in := func() *client.Client {
		conn, err := c.login("ann", "secret", "hooked")
		if err != nil {
			t.Fatalf("%v\n%s", err, c.tail())
		}
		return conn
	}
	conn := in()
	if err := publishTo(t, conn, "staff/a", "b"); err != nil {
		t.Error(err)
	}
	leave(t, conn)
	if u.asked.Load() == 0 {
		t.Error("nobody asked the user base")
	}
	out := func(what string) {
		t.Helper()
		if conn, err := c.login("ann", "secret", "hooked"); err == nil {
			leave(t, conn)
			t.Errorf("%s: the client gets in", what)
		} else if code(err) == 0 {
			t.Errorf("%s: %v, want the broker's no", what, err)
		}
	}
	u.says(`{"result":"deny"}`)
	out("no")
	for _, lie := range []string{
		"", "yes", `{"result":"allow"`, `{"RESULT":"allow"}`, `{"result":"allow","result":"deny"}`, `{"result":"allow","expires":"never"}`,
		`{"result":"allow","device":"../x"}`, `{"result":"allow","device":"unknown-device"}`, `{"result":"allow","user":"ann","expires":1}`,
		`{"result":"allow","user":"ann","superuser":true}`,
	} {
		u.says(lie)
		out(fmt.Sprintf("the lie %q", lie))
		u.says(`{"result":"allow","user":"ann"}`) // not five bad answers in a row, or it would be left alone
		leave(t, in())
	}
	u.says(`{"result":"allow","user":"ann","groups":["admin"]}`)
	conn = in()
	if got := subscribeTo(t, conn, "#"); got != mqtt.NotAuthorized {
		t.Errorf("a user base makes an operator: subscribe to everything says %v", got)
	}
	leave(t, conn)

	released := make(chan struct{})
	defer close(released)
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		select {
		case <-r.Context().Done():
		case <-released:
		}
	})
	u.answer.Store(&slow)
	out("slow")
	u.CloseClientConnections()
	u.Close()
	out("down")
	c.audited("refusal", "hook", "hooked")

	// Whom other methods know gets in all the same.
	b := c.device("pump")
	if err := publishTo(t, c.as(b, "pump"), "devices/pump/t", "21"); err != nil {
		t.Error(err)
	}
	if got := c.do("audit", "list", "--kind", "refusal", "--json"); bytes.Contains([]byte(got), []byte("secret")) {
		t.Error("the audit log has the password")
	}
}
