package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"fairlead/access"
	"fairlead/audit"
	"fairlead/ca"
	"fairlead/device"
	"fairlead/store/mem"
)

// fixture is a server with both doors and all real parts, but for the broker.
type fixture struct {
	*Server
	broker   *stub
	registry *device.Registry
	ca       *flakyCA
	audit    *audit.Log
	policies *access.Policies
	log      *safeBuffer
	local    *Client // over the socket
}

// flakyCA is a CA whose disk can fail.
type flakyCA struct {
	*ca.Authority
	fail error
}

func (f *flakyCA) Revoke(list ...ca.Revocation) error {
	if f.fail != nil {
		return f.fail
	}
	return f.Authority.Revoke(list...)
}

// safeBuffer is what the server logs.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{broker: new(stub), log: new(safeBuffer)}
	kv := mem.New().KV()
	var err error
	if f.registry, err = device.Open(t.Context(), kv, device.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.registry.Close() })
	dir := t.TempDir()
	authority, err := ca.Open(filepath.Join(dir, "ca"), ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { authority.Close() })
	f.ca = &flakyCA{Authority: authority}
	if f.audit, err = audit.Open(filepath.Join(dir, "audit"), audit.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.audit.Close() })
	if f.policies, err = access.Open(t.Context(), kv, access.Options{Registry: f.registry}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.policies.Close)
	f.Server, f.local = open(t, f.options(dir))
	return f
}

func (f *fixture) options(dir string) Options {
	return Options{
		Dir: dir, Broker: f.broker, Store: mem.New(), Registry: f.registry, CA: f.ca, Audit: f.audit, Policies: f.policies,
		URLs: func() []string { return []string{"mqtts://host:8883"} },
		Doctor: func(context.Context) []Finding {
			return []Finding{{Severity: Advice, What: "a"}, {Severity: Danger, What: "d"}}
		},
		Listen: "127.0.0.1:0", TLS: f.ca.TLS(ca.TLSOptions{NextProtos: []string{"http/1.1"}}),
		UserCAs: []string{""},
		Logger:  slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// user adds a user and returns a token of its.
func (f *fixture) user(t testing.TB, u device.User) string {
	t.Helper()
	if _, err := f.registry.AddUser(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	return f.token(t, device.Token{User: u.Name})
}

func (f *fixture) token(t testing.TB, tok device.Token) string {
	t.Helper()
	text, _, err := f.registry.AddToken(t.Context(), tok)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (f *fixture) device(t testing.TB, d device.Device) {
	t.Helper()
	if _, err := f.registry.Add(t.Context(), d, device.AddOptions{}); err != nil {
		t.Fatal(err)
	}
}

// remote is a client over HTTPS, with a token, a certificate, or neither.
func (f *fixture) remote(t testing.TB, token string, cert *tls.Certificate) *Client {
	t.Helper()
	c, err := Connect(t.Context(), Target{Server: f.URL(), Token: token, TLS: f.trust(cert)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (f *fixture) trust(cert *tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.ca.Root())
	config := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil } // whatever is asked for
	}
	return config
}

// certificate has the CA make one in a name.
func (f *fixture) certificate(t testing.TB, name string) (*tls.Certificate, ca.Bundle) {
	t.Helper()
	b, err := f.ca.IssueDevice(name, ca.DeviceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(b.Chain, b.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair, b
}

// entries are those of the audit log, oldest first.
func (f *fixture) entries(t testing.TB, q audit.Query) []audit.Entry {
	t.Helper()
	q.OldestFirst, q.Limit = true, audit.LimitMax
	p, err := audit.List(t.Context(), f.audit.Dir(), q)
	if err != nil {
		t.Fatal(err)
	}
	return p.Entries
}

// refusalsWritten closes the audit log, so that all refusals are in it.
func (f *fixture) refusalsWritten(t testing.TB) []audit.Entry {
	t.Helper()
	if err := f.audit.Close(); err != nil {
		t.Fatal(err)
	}
	return f.entries(t, audit.Query{Kind: audit.Refusal})
}

// problemOf is the problem that an error is.
func problemOf(t testing.TB, err error) Problem {
	t.Helper()
	p := (*Problem)(nil)
	if !errors.As(err, &p) {
		t.Fatalf("error %v, expected a problem", err)
	}
	return *p
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
