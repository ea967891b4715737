package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead/client"
	"fairlead/mqtt"
)

// A castle is a broker that lets in only who can say who they are: the tests of issue
// 4 use and attack it.
type castle struct {
	*server
	t         *testing.T
	dir, data string
	config    string // path of its configuration
	// Where it listens, as HOST:PORT: TLS, WebSocket over TLS, and without TLS.
	tls, wss, plain string
}

// settings are what a castle has beside its three listeners.
type settings struct {
	tls   string   // further lines of the listener for mqtts, as YAML
	plain string   // and of the one without TLS
	more  string   // further sections
	env   []string // variables of the process
}

// build a castle, with its data below a new directory, until the test ends.
func newCastle(t *testing.T, o settings) *castle {
	t.Helper()
	if binary == "" {
		t.Skip("another broker was asked for")
	}
	tlsPort, wssPort, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	plainPort, _, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &castle{
		t: t, dir: dir, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "fairlead.yaml"),
		tls: "127.0.0.1:" + tlsPort, wss: "127.0.0.1:" + wssPort, plain: "127.0.0.1:" + plainPort,
	}
	text := fmt.Sprintf("data: %s\nlisteners:\n  - url: mqtts://%s\n%s\n  - url: wss://%s/mqtt\n  - url: mqtt://%s\n%s\n%s\n",
		c.data, c.tls, indent(o.tls), c.wss, c.plain, indent(o.plain), o.more)
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.serve(o.env...)
	return c
}

// indent puts lines below a listener's url.
func indent(lines string) string {
	if lines == "" {
		return ""
	}
	return "    " + strings.ReplaceAll(lines, "\n", "\n    ")
}

// serve starts the broker, and returns once it takes connections everywhere.
func (c *castle) serve(env ...string) {
	c.t.Helper()
	c.server = &server{log: filepath.Join(c.dir, "serve.log"), done: make(chan struct{})}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	s := c.server
	s.cmd = exec.Command(binary, "serve", "--config", c.config)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(errors.Join(err, out.Close()))
	}
	go func() { // ends with the process
		s.err = errors.Join(s.cmd.Wait(), out.Close())
		close(s.done)
	}()
	c.t.Cleanup(s.kill)
	for _, addr := range []string{c.tls, c.wss, c.plain} {
		if err := s.awaitListener(addr); err != nil {
			c.t.Fatal(err)
		}
	}
	c.await("admin.sock", func() bool { // it opens after the listeners
		conn, err := net.Dial("unix", filepath.Join(c.data, "admin.sock"))
		if err == nil {
			err = conn.Close()
		}
		return err == nil
	})
}

// await asks again and again until ok, with all patience.
func (c *castle) await(what string, ok func() bool) {
	c.t.Helper()
	late := time.After(patience)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-late:
			c.t.Fatalf("waited in vain for %s; the broker says:\n%s", what, c.tail())
		}
	}
}

// try runs a command line for this broker.
func (c *castle) try(stdin string, args ...string) (code int, stdout, stderr string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "--data", c.data)...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.dir, strings.NewReader(stdin), &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("fairlead %v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// do runs a command line that must succeed, and returns what it printed.
func (c *castle) do(args ...string) string {
	c.t.Helper()
	return c.doWith("", args...)
}

func (c *castle) doWith(stdin string, args ...string) string {
	c.t.Helper()
	code, out, errs := c.try(stdin, args...)
	if code != 0 {
		c.t.Fatalf("fairlead %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// json runs a command line with --json and decodes what it printed.
func (c *castle) json(into any, args ...string) {
	c.t.Helper()
	out := c.do(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		c.t.Fatalf("fairlead %s --json: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// policy applies a document.
func (c *castle) policy(name, text string) {
	c.t.Helper()
	c.doWith(text, "policy", "apply", "-", "--name", name)
}

// user adds a user with a password.
func (c *castle) user(name, password string, flags ...string) {
	c.t.Helper()
	c.doWith(password+"\n", append([]string{"user", "add", name, "--password-stdin"}, flags...)...)
}

// A bundle is what `fairlead device add` has written.
type bundle struct {
	name, dir    string
	cert, key    string // files
	ca, commands string
}

// device adds a device and returns its bundle.
func (c *castle) device(name string, flags ...string) bundle {
	c.t.Helper()
	dir := filepath.Join(c.dir, "bundles", name)
	c.do(append([]string{"device", "add", name, "--out", dir}, flags...)...)
	return bundle{
		name: name, dir: dir, cert: filepath.Join(dir, name+".crt"), key: filepath.Join(dir, name+".key"),
		ca: filepath.Join(dir, "ca.crt"), commands: filepath.Join(dir, "connect.md"),
	}
}

// pair is the bundle's certificate with its key.
func (b bundle) pair(t *testing.T) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(b.cert, b.key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// files are the flags by which Mosquitto's commands and ours find the bundle.
func (b bundle) files() []string {
	return []string{"--cafile", b.ca, "--cert", b.cert, "--key", b.key}
}

// trust is the TLS of a client that trusts the broker's CA and shows those
// certificates, whatever the broker says which it likes.
func (c *castle) trust(show ...tls.Certificate) *tls.Config {
	c.t.Helper()
	root, err := os.ReadFile(filepath.Join(c.data, "ca", "root.crt"))
	if err != nil {
		c.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		c.t.Fatal("root.crt holds no certificate")
	}
	config := &tls.Config{RootCAs: pool}
	if len(show) > 0 {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &show[0], nil }
	}
	return config
}

// dial connects over TLS; o says how, but for the URL.
func (c *castle) dial(config *tls.Config, o client.Options) (*client.Client, error) {
	o.URL, o.TLS, o.ConnectTimeout = "mqtts://"+c.tls, config, patience
	return client.Dial(context.Background(), o)
}

// enter connects, which must succeed, until the test ends.
func (c *castle) enter(config *tls.Config, o client.Options) *client.Client {
	c.t.Helper()
	got, err := c.dial(config, o)
	if err != nil {
		c.t.Fatalf("connect as %s: %v\n%s", o.ClientID, err, c.tail())
	}
	c.t.Cleanup(func() { _ = got.Disconnect(context.Background()) }) // it may have ended
	return got
}

// as connects with the bundle's certificate.
func (c *castle) as(b bundle, id string) *client.Client {
	c.t.Helper()
	return c.enter(c.trust(b.pair(c.t)), client.Options{ClientID: id})
}

// login connects with a password, over TLS.
func (c *castle) login(user, password, id string) (*client.Client, error) {
	c.t.Helper()
	return c.dial(c.trust(), client.Options{ClientID: id, User: user, Password: []byte(password)})
}

// code is the Reason Code of the broker's no; 0: err is nil or something else.
func code(err error) mqtt.ReasonCode {
	var no *client.ReasonError
	if !errors.As(err, &no) {
		return 0
	}
	return no.Code
}

// subscribeTo subscribes at QoS 1 and returns the broker's Reason Code.
func subscribeTo(t *testing.T, c *client.Client, filter string) mqtt.ReasonCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	codes, err := c.Subscribe(ctx, []client.Subscription{{Filter: filter, QoS: mqtt.QoS1}}, nil)
	if len(codes) != 1 {
		t.Fatalf("subscribe %s: %v", filter, err)
	}
	return codes[0]
}

// publishTo publishes at QoS 1; the error is the broker's no.
func publishTo(t *testing.T, c *client.Client, topic, payload string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return c.Publish(ctx, client.Message{Topic: topic, Payload: []byte(payload), QoS: mqtt.QoS1})
}

// next is the message that the client gets next.
func next(t *testing.T, c *client.Client) *client.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := c.Receive(ctx)
	if err != nil {
		t.Fatalf("no message came: %v", err)
	}
	return m
}

// wantNext ends the test unless the next message is this one.
func wantNext(t *testing.T, c *client.Client, topic, payload string) {
	t.Helper()
	if m := next(t, c); m.Topic != topic || string(m.Payload) != payload {
		t.Fatalf("received %s %q, want %s %q", m.Topic, m.Payload, topic, payload)
	}
}

// An entry is a line of `fairlead audit list --json`.
type entry struct {
	Number uint64 `json:"n"`
	Kind   string
	Actor  struct{ Name, How string }
	Source string
	Action string
	Object string
	Reason string
	Count  uint64
}

// audited waits for an entry of the audit log that has those words in what it says.
func (c *castle) audited(kind string, words ...string) entry {
	c.t.Helper()
	var found entry
	c.await(fmt.Sprintf("the audit log to have a %s with %q", kind, words), func() bool {
		var all []entry
		c.json(&all, "audit", "list", "--kind", kind)
		for _, e := range all {
			said := strings.Join([]string{e.Actor.Name, e.Actor.How, e.Source, e.Action, e.Object, e.Reason}, "\n")
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(said, w) }) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// A member is a line of `fairlead client list --json`.
type member struct {
	Client, Device, User, Method, Remote string
	Connected                            bool
	Since                                time.Time
	Subscriptions                        []struct{ Filter string }
}

// client finds one by its Client Identifier.
func (c *castle) client(id string) (found []member) {
	c.t.Helper()
	c.json(&found, "client", "list", "--prefix", id)
	return slices.DeleteFunc(found, func(m member) bool { return m.Client != id })
}

// refusedSoFar is how many publications and subscriptions were refused with a code.
func (c *castle) refusedSoFar(code mqtt.ReasonCode) int {
	c.t.Helper()
	var st struct{ Refused map[string]int }
	c.json(&st, "status")
	for name, n := range st.Refused {
		if strings.HasPrefix(name, fmt.Sprintf("0x%02X ", byte(code))) {
			return n
		}
	}
	return 0
}
