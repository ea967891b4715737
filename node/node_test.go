package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/admin"
	"fairlead/audit"
	"fairlead/auth"
	"fairlead/client"
	"fairlead/config"
	"fairlead/mqtt"
	"fairlead/policy"
	"fairlead/store/mem"
)

// house is a node that runs until the test ends.
type house struct {
	*testing.T
	dir   string
	urls  []string
	admin *admin.Client
	log   *bytes.Buffer // to be read once the node has ended
}

// serve runs a node with the configuration, as changed by f.
func serve(t *testing.T, f func(c *config.Config)) *house {
	t.Helper()
	h := &house{T: t, dir: t.TempDir(), log: new(bytes.Buffer)}
	c := config.Default()
	c.Data, c.Durability = h.dir, "os"
	c.Listeners = []config.Listener{{URL: "mqtts://127.0.0.1:0"}, {URL: "mqtt://127.0.0.1:0"}}
	f(c)
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan []string, 1), make(chan error, 1)
	go func() {
		ended <- Run(ctx, Node{Config: c, Logger: slog.New(slog.NewTextHandler(h.log, nil)), Version: "test", Ready: func(urls []string) { ready <- urls }})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case h.urls = <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("Run: %v", err)
	}
	var err error
	if h.admin, err = admin.Dial(t.Context(), h.dir); err != nil {
		t.Fatal(err)
	}
	return h
}

// device adds a device and returns what it connects with.
func (h *house) device(name string, groups ...string) *tls.Config {
	h.Helper()
	issued, err := h.admin.AddDevice(h.Context(), admin.DeviceSpec{Name: name, Groups: groups})
	if err != nil {
		h.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(issued.Bundle.Cert), []byte(issued.Bundle.Key))
	if err != nil {
		h.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(issued.Bundle.CA)) {
		h.Fatal("no CA in the bundle")
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}
}

// dial connects to the listener of the scheme.
func (h *house) dial(scheme string, o client.Options) (*client.Client, error) {
	h.Helper()
	for _, u := range h.urls {
		if strings.HasPrefix(u, scheme+":") {
			o.URL = u
		}
	}
	o.CleanStart = true
	c, err := client.Dial(h.Context(), o)
	if err == nil {
		h.Cleanup(func() { c.Disconnect(context.Background()) })
	}
	return c, err
}

// TestDevice lets a device in with its certificate, keeps it to its own topics, and puts
// it out again.
func TestDevice(t *testing.T) {
	h := serve(t, func(*config.Config) {})
	mine := h.device("pump")
	c, err := h.dial("mqtts", client.Options{ClientID: "pump", TLS: mine})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), client.Message{Topic: "devices/pump/x", QoS: mqtt.QoS1}); err != nil {
		t.Errorf("publish below its own topic: %v", err)
	}
	if err := c.Publish(t.Context(), client.Message{Topic: "devices/lamp/x", QoS: mqtt.QoS1}); err == nil {
		t.Error("it may publish below another device's topic")
	}
	if _, err := h.dial("mqtts", client.Options{ClientID: "lamp", TLS: mine}); err == nil {
		t.Error("it may use another client identifier")
	}
	if _, err := h.dial("mqtt", client.Options{ClientID: "pump"}); err == nil {
		t.Error("the name alone lets somebody in")
	}
	other, err := h.dial("mqtts", client.Options{ClientID: "lamp", TLS: h.device("lamp")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.admin.SuspendDevice(t.Context(), "pump", admin.Change{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Error("the suspended device is still connected")
	}
	if err := other.Publish(t.Context(), client.Message{Topic: "devices/lamp/x", QoS: mqtt.QoS1}); err != nil {
		t.Errorf("the other device: %v", err)
	}
	page, err := h.admin.Audit(t.Context(), admin.AuditQuery{Kind: "refusal"}, admin.Page{})
	if err != nil || len(page.Items) == 0 {
		t.Errorf("refusals in the audit log: %v, %v", page, err)
	}
}

// TestPoliciesAtOnce widens and narrows what connected devices may do.
func TestPoliciesAtOnce(t *testing.T) {
	h := serve(t, func(*config.Config) {})
	c, err := h.dial("mqtts", client.Options{ClientID: "pump", TLS: h.device("pump", "pumps")})
	if err != nil {
		t.Fatal(err)
	}
	may := func() bool {
		return c.Publish(t.Context(), client.Message{Topic: "hall/pumps", QoS: mqtt.QoS1}) == nil
	}
	wait := func(want bool) {
		t.Helper()
		for began := time.Now(); may() != want; {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("may it publish: %v, want %v", !want, want)
			}
		}
	}
	wait(false)
	text := "policies: {hall: {who: {groups: pumps}, allow: [publish: hall/pumps]}}"
	if _, err := h.admin.ApplyPolicy(t.Context(), "hall", []byte(text), -1); err != nil {
		t.Fatal(err)
	}
	wait(true)
	none := []string{}
	if _, err := h.admin.UpdateDevice(t.Context(), "pump", admin.DevicePatch{Groups: &none}); err != nil {
		t.Fatal(err)
	}
	wait(false)
}

// TestOperatorNeedsNothing connects through the socket in the data directory.
func TestOperatorNeedsNothing(t *testing.T) {
	h := serve(t, func(*config.Config) {})
	c, err := client.Dial(t.Context(), client.Options{CleanStart: true, DialContext: func(ctx context.Context) (net.Conn, error) {
		return admin.DialMQTT(ctx, h.dir)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect(context.Background())
	if _, err := c.Subscribe(t.Context(), []client.Subscription{{Filter: "#"}}, nil); err != nil {
		t.Error(err)
	}
	if err := c.Publish(t.Context(), client.Message{Topic: "devices/any/x", QoS: mqtt.QoS1}); err != nil {
		t.Error(err)
	}
	if err := c.Publish(t.Context(), client.Message{Topic: "$SYS/x", QoS: mqtt.QoS1}); err == nil {
		t.Error("the operator may publish what is the broker's own")
	}
}

// TestCertificatesInSys reads from $SYS when certificates end.
func TestCertificatesInSys(t *testing.T) {
	h := serve(t, func(c *config.Config) {
		c.Sys.Interval = time.Hour
		c.Listeners[1].URL = "mqtt://127.0.0.1:0"
	})
	got := make(chan string, 100)
	c, err := client.Dial(t.Context(), client.Options{CleanStart: true,
		DialContext: func(ctx context.Context) (net.Conn, error) { return admin.DialMQTT(ctx, h.dir) },
		Handler:     func(m *client.Message) { got <- m.Topic + " " + string(m.Payload) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect(context.Background())
	if _, err := c.Subscribe(t.Context(), []client.Subscription{{Filter: "$SYS/broker/certificates/#"}}, nil); err != nil {
		t.Fatal(err)
	}
	for late := time.After(10 * time.Second); ; {
		select {
		case line := <-got:
			if strings.HasPrefix(line, "$SYS/broker/certificates/server certificate/expires_at 1") || strings.HasPrefix(line, "$SYS/broker/certificates/server certificate/expires_at 2") {
				return
			}
		case <-late:
			t.Fatal("$SYS does not say when the server certificate ends")
		}
	}
}

// TestHome serves people at home: passwords without TLS on an address that is named.
func TestHome(t *testing.T) {
	h := serve(t, func(c *config.Config) { c.Profile = "home" })
	if _, err := h.admin.AddUser(t.Context(), admin.UserSpec{Name: "ha", Password: "correct horse battery staple"}); err != nil {
		t.Fatal(err)
	}
	c, err := h.dial("mqtt", client.Options{ClientID: "homeassistant-1", User: "ha", Password: []byte("correct horse battery staple"), Version: mqtt.V311})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(t.Context(), []client.Subscription{{Filter: "#"}}, nil); err != nil {
		t.Errorf("a user at home may not read everything: %v", err)
	}
	if _, err := h.dial("mqtt", client.Options{ClientID: "x", User: "ha", Password: []byte("wrong")}); err == nil {
		t.Error("a wrong password lets somebody in")
	}
}

// TestDoctorFinds has a finding for each thing that is insecure.
func TestDoctorFinds(t *testing.T) {
	h := serve(t, func(c *config.Config) {
		c.Policies = []string{filepath.Join(t.TempDir(), "p.yaml")}
		os.WriteFile(c.Policies[0], []byte(`policies: {all: {who: everyone, allow: [publish: "#", subscribe: "#"]}}`), 0o600)
		c.Listeners = append(c.Listeners, config.Listener{URL: "mqtt://0.0.0.0:0", Plaintext: "allowed", Anonymous: true},
			config.Listener{URL: "mqtts://127.0.0.1:0", TLS: config.TLS{ClientCertificates: "off"}})
	})
	found, err := h.admin.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range found {
		fmt.Fprintf(&all, "%s: %s\n", f.Severity, f.What)
	}
	for _, want := range []string{
		"danger: mqtt://[::]:", "danger: every device may read every topic", "danger: every device may publish to any topic",
		"danger: every anonymous client may read", "warning: clients need not say who they are", "warning: a loss of power takes acknowledged messages",
		"advice: devices can't show certificates", "advice: the key of the root CA is on this machine",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("doctor does not find %q:\n%s", want, all.String())
		}
	}
	for i := 1; i < len(found); i++ {
		if rank(found[i-1].Severity) > rank(found[i].Severity) {
			t.Errorf("%q stands before %q", found[i-1].Severity, found[i].Severity)
		}
	}
}

// TestRefusalsAreLimited logs as many refusals as somebody can read, and counts the rest.
func TestRefusalsAreLimited(t *testing.T) {
	var log bytes.Buffer
	a, err := audit.Open(t.TempDir(), audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	now := time.Now()
	r := &refusals{log: slog.New(slog.NewTextHandler(&log, nil)), audit: a, now: func() time.Time { return now }}
	for range 3 * refusalsLogged {
		r.refused(auth.Refusal{Why: "wrong", Hint: "try this"})
	}
	if n := strings.Count(log.String(), "client refused"); n != refusalsLogged {
		t.Errorf("%d refusals were logged in a minute, want %d", n, refusalsLogged)
	}
	now = now.Add(time.Minute)
	r.refused(auth.Refusal{Why: "wrong"})
	if want := fmt.Sprintf("others_not_shown=%d", 2*refusalsLogged); !strings.Contains(log.String(), want) {
		t.Errorf("the log does not say %s", want)
	}
}

// TestDecoyStays keeps the secret from which SCRAM makes up salts.
func TestDecoyStays(t *testing.T) {
	kv := mem.New().KV()
	one, err := decoy(t.Context(), kv)
	if err != nil || len(one) != 32 {
		t.Fatalf("decoy = %x, %v", one, err)
	}
	two, err := decoy(t.Context(), kv)
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("the second one is another: %x, %v", two, err)
	}
}

// TestHomePolicies are a document without errors.
func TestHomePolicies(t *testing.T) {
	if _, err := policy.Parse("home.yaml", []byte(homePolicies)); err != nil {
		t.Error(err)
	}
}
