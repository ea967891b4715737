package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pebbleca "github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"

	"fairlead/ca"
)

const host = "mqtt.example.org"

// pebble is an ACME CA, Let's Encrypt's own for tests.
type pebble struct {
	directory string
	trusted   *x509.CertPool // who its HTTPS server has its certificate from
	issued    *x509.CertPool // who its certificates are from
}

// startPebble runs a CA that finds all hosts on 127.0.0.1, at these ports.
func startPebble(t *testing.T, tlsPort, httpPort int) pebble {
	t.Helper()
	for name, value := range map[string]string{"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"} {
		t.Setenv(name, value)
	}
	quiet, store := log.New(io.Discard, "", 0), db.NewMemoryStore()
	authority := pebbleca.New(quiet, store, "", "ecdsa", 0, 1, map[string]pebbleca.Profile{"default": {Description: "all", ValidityPeriod: 7776000}})
	front := wfe.New(quiet, store, va.New(quiet, httpPort, tlsPort, true, startDNS(t), store), authority, nil, true, false, 1, 1)
	server := httptest.NewTLSServer(front.Handler())
	t.Cleanup(server.Close)
	p := pebble{directory: server.URL + wfe.DirectoryPath, trusted: x509.NewCertPool(), issued: x509.NewCertPool()}
	p.trusted.AddCert(server.Certificate())
	p.issued.AppendCertsFromPEM(authority.GetRootCert(0).PEM())
	return p
}

// startDNS answers every question for an A record with 127.0.0.1, over TCP, and all
// others with nothing.
func startDNS(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go answerDNS(c)
		}
	}()
	return ln.Addr().String()
}

func answerDNS(c net.Conn) {
	defer c.Close()
	var size [2]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		m := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, m); err != nil || len(m) < 16 {
			return
		}
		m[2], m[3] = m[2]|0x80, 0                 // a response, no error [RFC 1035 4.1.1]
		if m[len(m)-4] == 0 && m[len(m)-3] == 1 { // the question ends with type and class
			m[7] = 1
			m = append(m, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1)
		}
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	}
}

// broker is a TLS listener with a CA of its own, as a node has it.
type broker struct {
	t       *testing.T
	ln      net.Listener
	manager atomic.Pointer[Manager]
}

// listen opens a listener whose clients need certificates.
func listen(t *testing.T) *broker {
	t.Helper()
	authority, err := ca.Open(filepath.Join(t.TempDir(), "ca"), ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { authority.Close() })
	b := &broker{t: t}
	late := func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return b.manager.Load().GetCertificate(h) }
	config := authority.TLS(ca.TLSOptions{
		ClientCerts: ca.ClientCertRequired,
		Challenge:   late,
		Certificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return b.manager.Load().Or(authority.GetCertificate)(h)
		},
	})
	if b.ln, err = tls.Listen("tcp", "127.0.0.1:0", config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.ln.Close() })
	go b.serve()
	return b
}

func (b *broker) serve() {
	for {
		c, err := b.ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			c.(*tls.Conn).Handshake()
		}()
	}
}

func (b *broker) port() int { return b.ln.Addr().(*net.TCPAddr).Port }

// leaf is the certificate that a client gets, which trusts roots, or everybody.
func (b *broker) leaf(serverName string, roots *x509.CertPool) *x509.Certificate {
	b.t.Helper()
	var leaf *x509.Certificate
	c, err := tls.Dial("tcp", b.ln.Addr().String(), &tls.Config{ServerName: serverName, RootCAs: roots, InsecureSkipVerify: roots == nil,
		VerifyConnection: func(s tls.ConnectionState) error { leaf = s.PeerCertificates[0]; return nil }})
	if err != nil {
		b.t.Fatal(err)
	}
	c.Close()
	return leaf
}

// run runs a manager until the test ends or stop is called.
func run(t *testing.T, o Options) (m *Manager, events <-chan Event, stop func()) {
	t.Helper()
	told := make(chan Event, 100)
	o.Report = func(e Event) { told <- e }
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v", err)
		}
	}
	t.Cleanup(stop)
	go func() { done <- m.Run(ctx) }()
	return m, told, stop
}

// wait takes events until one is as it should be.
func wait(t *testing.T, events <-chan Event, want func(Event) bool) Event {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case e := <-events:
			if want(e) {
				return e
			}
			t.Logf("event: %v", e)
		case <-deadline:
			t.Fatal("nothing happened for a minute")
		}
	}
}

func inForce(e Event) bool { return e.Host == host && strings.HasPrefix(e.Text, "in force until ") }
func failed(e Event) bool  { return e.Err != nil }

// TestTLSALPN gets a certificate by the listener that uses it, which asks clients
// for certificates, and starts again without a CA.
func TestTLSALPN(t *testing.T) {
	b := listen(t)
	p := startPebble(t, b.port(), 1)
	o := Options{Hosts: []string{"MQTT.Example.org."}, Email: "ops@example.org", Directory: p.directory, Dir: filepath.Join(t.TempDir(), "acme"), TrustedRoots: p.trusted, TLSAddress: b.ln.Addr().String()}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.manager.Store(m) // not running: clients get our own CA's certificate
	own := b.leaf(host, nil)

	m, events, stop := run(t, o)
	b.manager.Store(m)
	wait(t, events, inForce)
	leaf := b.leaf(host, p.issued)
	if !b.leaf("other.example.org", nil).Equal(own) || !b.leaf("", nil).Equal(own) {
		t.Error("other names don't get our own CA's certificate")
	}
	if got := m.Expiries(); len(got) != 1 || got[0] != (Expiry{host, leaf.NotAfter}) {
		t.Errorf("Expiries() = %v", got)
	}
	if info, err := os.Stat(o.Dir); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("others can look into the directory: %v, %v", info.Mode(), err)
	}
	stop()

	o.Directory = "https://127.0.0.1:1/dir" // nobody there
	moveCertificates(t, o.Dir)
	m, events, _ = run(t, o)
	b.manager.Store(m)
	wait(t, events, inForce)
	if !b.leaf(host, nil).Equal(leaf) {
		t.Error("after a restart another certificate is in force")
	}
}

// moveCertificates gives what one CA has issued to the other: certmagic keeps them
// apart by the CA's address.
func moveCertificates(t *testing.T, dir string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "certificates", "*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("certificates of %q, want one CA (%v)", found, err)
	}
	if err := os.Rename(found[0], filepath.Join(dir, "certificates", "127.0.0.1-1-dir")); err != nil {
		t.Fatal(err)
	}
}

func TestHTTP01(t *testing.T) {
	address := freeAddress(t)
	_, text, _ := net.SplitHostPort(address)
	httpPort, _ := strconv.Atoi(text)
	p := startPebble(t, 1, httpPort)
	m, events, stop := run(t, Options{Hosts: []string{host}, Directory: p.directory, Dir: t.TempDir(), TrustedRoots: p.trusted, HTTPAddress: address})
	wait(t, events, inForce)
	c, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: host})
	if err != nil {
		t.Fatal(err)
	}
	intermediates := x509.NewCertPool()
	for _, der := range c.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		intermediates.AddCert(cert)
	}
	if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: p.issued, Intermediates: intermediates, DNSName: host}); err != nil {
		t.Errorf("the chain that is sent: %v", err)
	}
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get("http://" + address + "/anything")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("the HTTP port answers with %s, want 404 for all but challenges", response.Status)
	}
	stop()
	if _, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: host}); err == nil {
		t.Error("a certificate after the end")
	}
}

// freeAddress is one that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// TestRefused has a CA that does not find the host at our place.
func TestRefused(t *testing.T) {
	b := listen(t)
	other := listen(t) // where the CA looks; it has no manager that runs
	p := startPebble(t, other.port(), 1)
	o := Options{Hosts: []string{host}, Directory: p.directory, Dir: t.TempDir(), TrustedRoots: p.trusted, TLSAddress: b.ln.Addr().String()}
	idle, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	other.manager.Store(idle)
	m, events, _ := run(t, o)
	e := wait(t, events, failed)
	if e.Host != host || !strings.Contains(e.String(), host+": ") {
		t.Errorf("reported %v", e)
	}
	if got := m.Expiries(); got[0] != (Expiry{Host: host}) {
		t.Errorf("Expiries() = %v", got)
	}
}

// TestCAIsDown reports, and goes on serving what others have.
func TestCAIsDown(t *testing.T) {
	b := listen(t)
	m, events, _ := run(t, Options{Hosts: []string{host}, Directory: "https://" + freeAddress(t) + "/dir", Dir: t.TempDir(), TLSAddress: b.ln.Addr().String()})
	b.manager.Store(m)
	e := wait(t, events, failed)
	if !strings.Contains(e.String(), "connection refused") {
		t.Errorf("reported %v", e)
	}
	if leaf := b.leaf(host, nil); leaf.VerifyHostname("localhost") != nil {
		t.Errorf("the certificate is for %q", leaf.DNSNames)
	}
}

func TestRunTwice(t *testing.T) {
	b := listen(t)
	m, events, _ := run(t, Options{Hosts: []string{host}, Directory: "https://" + freeAddress(t) + "/dir", Dir: t.TempDir(), TLSAddress: b.ln.Addr().String()})
	wait(t, events, failed)
	if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("the second Run() = %v", err)
	}
}

func TestHTTPPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	m, err := New(Options{Hosts: []string{host}, Dir: t.TempDir(), HTTPAddress: ln.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("Run() = %v", err)
	}
}

func TestOptions(t *testing.T) {
	good := Options{Hosts: []string{host}, Dir: "acme", TLSAddress: ":443"}
	if m, err := New(good); err != nil || m.o.Directory != "https://acme-v02.api.letsencrypt.org/directory" {
		t.Errorf("New() = %v, %v", m, err)
	}
	for want, change := range map[string]func(*Options){
		"0 hosts":                          func(o *Options) { o.Hosts = nil },
		"101 hosts":                        func(o *Options) { o.Hosts = make([]string, 101) },
		`host "*.example.org"`:             func(o *Options) { o.Hosts = []string{"*.example.org"} },
		`host "192.0.2.1"`:                 func(o *Options) { o.Hosts = []string{"192.0.2.1"} },
		`host "localhost"`:                 func(o *Options) { o.Hosts = []string{"localhost"} },
		`host "../../x"`:                   func(o *Options) { o.Hosts = []string{"../../x"} },
		`host "a..b"`:                      func(o *Options) { o.Hosts = []string{"a..b"} },
		`email "ops"`:                      func(o *Options) { o.Email = "ops" },
		`email "Ops <ops@example.org>"`:    func(o *Options) { o.Email = "Ops <ops@example.org>" },
		`directory "http://x/dir"`:         func(o *Options) { o.Directory = "http://x/dir" },
		"no directory to keep":             func(o *Options) { o.Dir = "" },
		"neither a TLS listener":           func(o *Options) { o.TLSAddress = "" },
		`address "443": expected host`:     func(o *Options) { o.TLSAddress = "443" },
		`address ":http": expected a port`: func(o *Options) { o.HTTPAddress = ":http" },
		`address ":0": expected a port`:    func(o *Options) { o.HTTPAddress = ":0" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v) = %v, want %q", o, err, want)
		}
	}
}

// TestStrangers shows that a name which is not ours is nothing to look for.
func TestStrangers(t *testing.T) {
	m, err := New(Options{Hosts: []string{host}, Dir: t.TempDir(), TLSAddress: ":443"})
	if err != nil {
		t.Fatal(err)
	}
	own := errors.New("our own")
	next := m.Or(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, own })
	for _, name := range []string{"", "other.example.org", "../../etc/passwd", host} {
		if _, err := next(&tls.ClientHelloInfo{ServerName: name}); err != own {
			t.Errorf("%q: %v, want the next one asked", name, err)
		}
		if _, err := next(&tls.ClientHelloInfo{ServerName: name, SupportedProtos: []string{NextProto}}); err == nil || err == own {
			t.Errorf("%q: a challenge was answered with %v", name, err)
		}
	}
}

func FuzzCheckHost(f *testing.F) {
	for _, s := range []string{host, "*.a.b", "a..b", "../x", "192.0.2.1", "::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkHost(name) == nil && (strings.ContainsAny(name, "/\\*: \x00") || strings.Contains(name, "..") || net.ParseIP(name) != nil) {
			t.Errorf("checkHost(%q) = nil", name)
		}
	})
}
