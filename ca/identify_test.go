package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// shown is what a handshake with a client certificate came to.
type shown struct {
	f      *fixture
	id     Identity
	state  tls.ConnectionState // as the server has it
	server error
	client error
}

// client is a client that trusts this CA and has the bundle, which may be none.
func (f *fixture) client(b Bundle) *tls.Config {
	f.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(f.Root())
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", Time: f.o.Now}
	if b.Key == nil {
		return config
	}
	pair, err := tls.X509KeyPair(b.Chain, b.Key)
	if err != nil {
		f.t.Fatal(err)
	}
	// Whatever the server says it accepts.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return config
}

// show connects with a device's certificate where one is required.
func (f *fixture) show(b Bundle) shown {
	f.t.Helper()
	return f.handshake(f.TLS(TLSOptions{ClientCerts: ClientCertRequired}), f.client(b))
}

func (f *fixture) handshake(server, client *tls.Config) shown {
	f.t.Helper()
	s := shown{f: f}
	s.state, s.server, s.client = handshake(f.t, server, client)
	if s.server == nil {
		s.id, _ = f.Identify(&s.state)
	}
	return s
}

// handshake has a server and a client meet, on a socket: with net.Pipe they would
// wait for each other, since both write before they read. The error of the client is
// what it sees until the server has closed.
func handshake(t testing.TB, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	ours, theirs := sockets(t)
	done := make(chan error, 1)
	go func() {
		defer theirs.Close()
		conn := tls.Client(theirs, client)
		err := conn.Handshake()
		if err == nil {
			_, err = io.ReadAll(conn) // session tickets, or an alert
		}
		done <- err
	}()
	conn := tls.Server(ours, server)
	if serverErr = conn.HandshakeContext(context.Background()); serverErr == nil {
		state = conn.ConnectionState()
		conn.CloseWrite()
	}
	ours.CloseWrite()
	io.Copy(io.Discard, ours) // or the kernel drops our alert with what wasn't read
	ours.Close()
	return state, serverErr, <-done
}

// sockets are two ends of a connection.
func sockets(t testing.TB) (ours, theirs *net.TCPConn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return accepted.(*net.TCPConn), dialed.(*net.TCPConn)
}

func (s shown) want(device string) shown {
	s.f.t.Helper()
	if s.server != nil || s.client != nil || s.id.Device != device {
		s.f.t.Errorf("device %q (server: %v, client: %v), want %q", s.id.Device, s.server, s.client, device)
	}
	return s
}

// refused checks that the operator learns the reason and the client doesn't.
func (s shown) refused(want Reason) {
	s.f.t.Helper()
	refusal := RefusalOf(s.server)
	if refusal == nil || refusal.Reason != want {
		s.f.t.Errorf("refused with %v, want %q", s.server, want)
		return
	}
	alert := "remote error: tls: bad certificate"
	if want == NoCertificate {
		alert = "remote error: tls: certificate required"
	}
	if s.client == nil || s.client.Error() != alert {
		s.f.t.Errorf("the client sees %v, want %q", s.client, alert)
	}
}

// ask shows a certificate without a handshake: clients whose clock is wrong as well
// accept no server.
func (f *fixture) ask(b Bundle, want Reason) {
	f.t.Helper()
	_, err := f.Identify(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{certOf(f.t, b.Chain)}})
	if refusal := RefusalOf(err); refusal == nil || refusal.Reason != want {
		f.t.Errorf("refused with %v, want %q", err, want)
	}
}

// forge signs a certificate of any kind with the issuing CA.
func (f *fixture) forge(change func(*x509.Certificate)) Bundle {
	f.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(4711), Subject: pkix.Name{CommonName: "d1"}, URIs: []*url.URL{deviceURI("d1")},
		NotBefore: f.o.Now().Add(-time.Hour), NotAfter: f.o.Now().Add(day),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(template)
	issuing := f.issuing.Load()
	return signed(f.t, template, issuing.cert, issuing.key)
}

func signed(t *testing.T, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) Bundle {
	t.Helper()
	key, text, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	if parentKey == nil {
		parentKey = key
	}
	cert, err := sign(template, &key.PublicKey, parent, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return Bundle{Certificate: Certificate{Chain: cert.pem, Serial: SerialOf(cert.cert)}, Key: text}
}

func TestGoodCertificate(t *testing.T) {
	f := opened(t)
	b := f.issue("kitchen.sensor_1-a")
	s := f.show(b).want("kitchen.sensor_1-a")
	if s.id.Serial != b.Serial || s.id.CA != "" || !s.id.NotAfter.Equal(b.NotAfter) {
		t.Errorf("identity %+v of bundle with serial %s until %v", s.id, b.Serial, b.NotAfter)
	}
	long := strings.Repeat("x", NameMax)
	f.show(f.issue(long)).want(long)

	b.Chain = certPEM(certOf(t, b.Chain).Raw) // many clients don't send the issuing CA
	f.show(b).want("kitchen.sensor_1-a")
}

func TestBadCertificates(t *testing.T) {
	other := opened(t)
	for _, test := range []struct {
		name string
		of   func(f *fixture) Bundle
		want Reason
	}{
		{"none", func(*fixture) Bundle { return Bundle{} }, NoCertificate},
		{"expired", func(f *fixture) Bundle {
			return f.forge(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = start.Add(-2*time.Hour), start.Add(-time.Minute) })
		}, Expired},
		{"not yet valid", func(f *fixture) Bundle {
			return f.forge(func(c *x509.Certificate) { c.NotBefore = start.Add(time.Minute) })
		}, NotYetValid},
		{"revoked", func(f *fixture) Bundle {
			b := f.issue("d1")
			if err := f.Revoke(Revocation{Serial: b.Serial, Cause: KeyCompromise, At: start}); err != nil {
				f.t.Fatal(err)
			}
			return b
		}, Revoked},
		{"other CA", func(*fixture) Bundle { return other.issue("d1") }, UnknownCA},
		{"other CA and expired", func(*fixture) Bundle {
			return other.forge(func(c *x509.Certificate) { c.NotAfter = start.Add(-time.Minute) })
		}, UnknownCA},
		{"self-signed", func(f *fixture) Bundle {
			template := certOf(f.t, f.issue("d1").Chain)
			template.PublicKey = nil // its own is not known yet
			return signed(f.t, template, template, nil)
		}, UnknownCA},
		{"server certificate", func(f *fixture) Bundle {
			text := []byte(f.read(serverName))
			return Bundle{Certificate: Certificate{Chain: text}, Key: text}
		}, WrongUsage},
		{"server's usage, expired", func(f *fixture) Bundle {
			return f.forge(func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
				c.NotAfter = start.Add(-time.Minute)
			})
		}, WrongUsage},
		{"key for agreement only", func(f *fixture) Bundle {
			return f.forge(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })
		}, WrongUsage},
		{"issuing CA", func(f *fixture) Bundle {
			return Bundle{Certificate: Certificate{Chain: []byte(f.read(issuingCertName))}, Key: []byte(f.read(issuingKeyName))}
		}, WrongUsage},
		{"critical extension", func(f *fixture) Bundle {
			return f.forge(func(c *x509.Certificate) {
				c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
			})
		}, WrongUsage},
		{"no name", func(f *fixture) Bundle { return f.forge(func(c *x509.Certificate) { c.URIs = nil }) }, NoName},
		{"two names", func(f *fixture) Bundle {
			return f.forge(func(c *x509.Certificate) { c.URIs = []*url.URL{deviceURI("d1"), deviceURI("d2")} })
		}, NoName},
		{"a wildcard for a name", func(f *fixture) Bundle {
			return f.forge(func(c *x509.Certificate) { c.URIs = []*url.URL{deviceURI("+")} })
		}, NoName},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := opened(t)
			b := test.of(f)
			f.show(b).refused(test.want)
			if b.Key != nil { // a bad certificate is not as good as none
				f.handshake(f.TLS(TLSOptions{}), f.client(b)).refused(test.want)
			}
			f.handshake(f.TLS(TLSOptions{ClientCerts: ClientCertIgnored}), f.client(b)).want("")
		})
	}
}

func TestOptionalCertificate(t *testing.T) {
	f := opened(t)
	config := f.TLS(TLSOptions{})
	f.handshake(config, f.client(Bundle{})).want("")
	f.handshake(config, f.client(f.issue("d1"))).want("d1")
}

// TestWithoutTheKey shows that a copied certificate alone is of no use.
func TestWithoutTheKey(t *testing.T) {
	f := opened(t)
	client := f.client(f.issue("d1"))
	thief, err := client.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if thief.PrivateKey, _, err = newKey(); err != nil {
		t.Fatal(err)
	}
	s := f.handshake(f.TLS(TLSOptions{ClientCerts: ClientCertRequired}), client)
	if s.server == nil || RefusalOf(s.server) != nil {
		t.Errorf("server: %v, want a bad signature", s.server)
	}
}

// TestResumption resumes a session: the certificate is looked at again each time.
func TestResumption(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, mode := range []ClientCerts{ClientCertOptional, ClientCertRequired} {
			for name, test := range map[string]struct {
				change func(f *fixture, b Bundle)
				want   Reason
			}{
				"revoked": {func(f *fixture, b Bundle) {
					if err := f.Revoke(Revocation{Serial: b.Serial, At: start}); err != nil {
						f.t.Fatal(err)
					}
				}, Revoked},
				"expired": {func(f *fixture, b Bundle) { f.set(b.NotAfter.Add(time.Second)); f.Maintain() }, Expired},
			} {
				t.Run(tls.VersionName(version)+" "+name, func(t *testing.T) {
					f := opened(t)
					b, err := f.IssueDevice("d1", DeviceOptions{Validity: time.Hour})
					if err != nil {
						t.Fatal(err)
					}
					server, client := f.TLS(TLSOptions{ClientCerts: mode}), f.client(b)
					client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
					client.MaxVersion = version
					if f.handshake(server, client).want("d1").state.DidResume {
						t.Fatal("the first handshake resumes")
					}
					if !f.handshake(server, client).want("d1").state.DidResume {
						t.Fatal("the second handshake doesn't resume")
					}
					test.change(f, b)
					s := f.handshake(server, client)
					if refusal := RefusalOf(s.server); refusal == nil || refusal.Reason != test.want {
						t.Errorf("refused with %v, want %q", s.server, test.want)
					}
					if s.client == nil {
						t.Error("the client got in")
					}
				})
			}
		}
	}
}

// TestResumptionElsewhere shows that a session without a certificate can't be
// resumed at a listener that requires one.
func TestResumptionElsewhere(t *testing.T) {
	f := opened(t)
	client := f.client(Bundle{})
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	f.handshake(f.TLS(TLSOptions{ClientCerts: ClientCertIgnored}), client).want("")
	f.handshake(f.TLS(TLSOptions{ClientCerts: ClientCertRequired}), client).refused(NoCertificate)
}

// TestAskedAgain asks about an open connection.
func TestAskedAgain(t *testing.T) {
	f := opened(t)
	b := f.issue("d1")
	state := f.show(b).want("d1").state
	if err := f.Revoke(Revocation{Serial: b.Serial, Cause: CessationOfOperation, At: start}); err != nil {
		t.Fatal(err)
	}
	_, err := f.Identify(&state)
	wantError(t, err, `client certificate of "d1" (serial `+string(b.Serial)+`): revoked: cessation of operation, on 2026-11-25 12:00:00`)
	_, err = f.Identify(nil)
	wantError(t, err, "client: no certificate")
}

func TestRefusalOf(t *testing.T) {
	if got := RefusalOf(nil); got != nil {
		t.Errorf("RefusalOf(nil) = %v", got)
	}
	if got := RefusalOf(io.EOF); got != nil {
		t.Errorf("RefusalOf(EOF) = %v", got)
	}
}

func TestTLSVersions(t *testing.T) {
	f := opened(t)
	b := f.issue("d1")
	server := f.TLS(TLSOptions{ClientCerts: ClientCertRequired})
	state := f.handshake(server, f.client(b)).want("d1").state
	if state.Version != tls.VersionTLS13 || state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("%s with %v, want 1.3 with X25519MLKEM768", tls.VersionName(state.Version), state.CurveID)
	}
	for _, test := range []struct {
		version uint16
		suites  []uint16
		good    bool
	}{
		{tls.VersionTLS12, nil, true},
		{tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}, false},
		{tls.VersionTLS11, nil, false},
	} {
		client := f.client(b)
		client.MinVersion, client.MaxVersion, client.CipherSuites = test.version, test.version, test.suites
		if s := f.handshake(server, client); (s.server == nil) != test.good {
			t.Errorf("%s with %v: %v", tls.VersionName(test.version), test.suites, s.server)
		}
	}
}

func TestALPN(t *testing.T) {
	f := opened(t)
	b := f.issue("d1")
	for _, test := range []struct {
		server, client []string
		want           string
		good           bool
	}{
		{nil, nil, "", true},
		{nil, []string{"mqtt"}, "mqtt", true},
		{nil, []string{"x-amzn-mqtt-ca", "mqtt"}, "mqtt", true},
		{nil, []string{"h2"}, "", false},
		{[]string{"http/1.1"}, []string{"h2", "http/1.1"}, "http/1.1", true},
	} {
		client := f.client(b)
		client.NextProtos = test.client
		s := f.handshake(f.TLS(TLSOptions{NextProtos: test.server}), client)
		if (s.server == nil) != test.good || s.state.NegotiatedProtocol != test.want {
			t.Errorf("server %q, client %q: protocol %q, %v", test.server, test.client, s.state.NegotiatedProtocol, s.server)
		}
	}
}

// TestChallenge answers ACME where client certificates are required, and lets
// nobody in by that.
func TestChallenge(t *testing.T) {
	f := opened(t)
	server := f.TLS(TLSOptions{ClientCerts: ClientCertRequired, Challenge: f.GetCertificate})
	client := f.client(Bundle{})
	client.NextProtos = []string{"acme-tls/1"}
	answered := false
	client.VerifyConnection = func(s tls.ConnectionState) error {
		answered = s.NegotiatedProtocol == "acme-tls/1"
		return nil
	}
	if s := f.handshake(server, client); !errors.Is(s.server, ErrChallenge) || !answered {
		t.Errorf("server: %v, answered: %v", s.server, answered)
	}
	client.NextProtos = []string{"acme-tls/1", "mqtt"} // no challenge
	f.handshake(server, client).refused(NoCertificate)
}

// TestHints shows that clients are told of the CAs that count by now.
func TestHints(t *testing.T) {
	f := opened(t)
	client := f.client(Bundle{})
	var told [][]byte
	client.GetClientCertificate = func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		told = i.AcceptableCAs
		return &tls.Certificate{}, nil
	}
	server := f.TLS(TLSOptions{})
	f.handshake(server, client).want("")
	if len(told) != 2 {
		t.Errorf("%d CAs, want the root and the issuing CA", len(told))
	}
}

func TestVerifiedIsBounded(t *testing.T) {
	f := opened(t)
	tr := f.trust.Load()
	var key [32]byte
	for i := range verifiedMax + 10 {
		key[0], key[1], key[2] = byte(i), byte(i>>8), byte(i>>16)
		f.verified.put(key, &verdict{trust: tr})
	}
	if got := len(f.verified.m); got > verifiedMax {
		t.Errorf("%d verdicts, want at most %d", got, verifiedMax)
	}
	if f.verified.get(key, tr) == nil {
		t.Error("the latest verdict is forgotten")
	}
	f.retrust()
	if f.verified.get(key, f.trust.Load()) != nil {
		t.Error("a verdict outlives the trust it was given under")
	}
}

func BenchmarkIssueDevice(b *testing.B) {
	f := benchmark(b)
	for b.Loop() {
		if _, err := f.IssueDevice("d1", DeviceOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHandshake is both ends of an mTLS connection in this process, from the
// dial to the close.
func BenchmarkHandshake(b *testing.B) {
	f := benchmark(b)
	bundle, err := f.IssueDevice("d1", DeviceOptions{})
	if err != nil {
		b.Fatal(err)
	}
	pair, err := tls.X509KeyPair(bundle.Chain, bundle.Key)
	if err != nil {
		b.Fatal(err)
	}
	for name, cache := range map[string]tls.ClientSessionCache{"full": nil, "resumed": tls.NewLRUClientSessionCache(1)} {
		b.Run(name, func(b *testing.B) {
			server := f.TLS(TLSOptions{ClientCerts: ClientCertRequired})
			roots := x509.NewCertPool()
			roots.AddCert(f.root.cert)
			client := &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{pair}, ClientSessionCache: cache}
			for b.Loop() {
				if _, serverErr, clientErr := handshake(b, server, client); serverErr != nil || clientErr != nil {
					b.Fatal(serverErr, clientErr)
				}
			}
		})
	}
}

// BenchmarkIdentify is what asking about an open connection costs.
func BenchmarkIdentify(b *testing.B) {
	f := benchmark(b)
	bundle, err := f.IssueDevice("d1", DeviceOptions{})
	if err != nil {
		b.Fatal(err)
	}
	certs, err := parseCerts(bundle.Chain)
	if err != nil {
		b.Fatal(err)
	}
	state := &tls.ConnectionState{PeerCertificates: certs}
	for name, forget := range map[string]bool{"first": true, "again": false} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if forget {
					f.verified.m = nil
				}
				if _, err := f.Identify(state); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchmark(b *testing.B) *Authority {
	a, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { a.Close() })
	return a
}
