package ca

import (
	"crypto/tls"
	"errors"
	"slices"
	"sync/atomic"
)

// ClientCerts says whether a listener asks for client certificates.
type ClientCerts int

// What a client may or must show. A certificate that is shown has to be good in
// both cases: a bad one doesn't make its client anonymous.
const (
	ClientCertOptional ClientCerts = iota
	ClientCertRequired
	ClientCertIgnored // none is asked for
)

// TLSOptions say what a listener's TLS is like. The zero value works.
type TLSOptions struct {
	ClientCerts ClientCerts
	// Certificate is what the server shows; nil: [Authority.GetCertificate].
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// NextProtos are the protocols that a client may ask for by ALPN; nil: "mqtt".
	// One that asks for others only is refused, one that doesn't use ALPN is not.
	NextProtos []string
	// Challenge answers ACME's TLS-ALPN-01 [RFC 8737]; nil: nobody does. Such a
	// connection is not asked for a certificate, and fails with [ErrChallenge] once
	// the question is answered.
	Challenge func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// ErrChallenge ends the handshake of a connection that only was an ACME challenge.
var ErrChallenge = errors.New("ca: the connection was an ACME challenge, which has been answered")

const challengeProto = "acme-tls/1"

// mqttProto is the ALPN name of MQTT as IANA lists it.
const mqttProto = "mqtt"

// suites are those of TLS 1.2 with forward secrecy and authenticated encryption.
// TLS 1.3 has no others.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// TLS is the configuration of a listener: TLS 1.3, or 1.2 with good suites, the
// hybrid key exchanges that a quantum computer can't break, which Go prefers by
// itself, and resumption. It follows what changes: certificates, client CAs,
// revocations. Each listener needs one of its own, or a session begun where no
// certificate is asked for could be resumed where one is.
//
// crypto/tls only hands over what the client shows and checks that the client has
// the key; [Authority.Identify] decides, on each handshake, also on one that
// resumes a session. So the error of a handshake says exactly what was wrong (see
// [RefusalOf]), and the client learns no more than "bad certificate".
func (a *Authority) TLS(o TLSOptions) *tls.Config {
	if o.Certificate == nil {
		o.Certificate = a.GetCertificate
	}
	if o.NextProtos == nil {
		o.NextProtos = []string{mqttProto}
	}
	base := &tls.Config{
		MinVersion:       tls.VersionTLS12,
		CipherSuites:     suites,
		NextProtos:       o.NextProtos,
		GetCertificate:   o.Certificate,
		ClientAuth:       o.ClientCerts.auth(),
		VerifyConnection: a.verifyConnection(o.ClientCerts),
		Time:             a.o.Now,
	}
	l := &listenerTLS{authority: a, base: base, challenge: o.challenge(a)}
	config := base.Clone()
	config.GetConfigForClient = l.config
	return config
}

func (c ClientCerts) auth() tls.ClientAuthType {
	switch c {
	case ClientCertRequired:
		return tls.RequireAnyClientCert
	case ClientCertIgnored:
		return tls.NoClientCert
	}
	return tls.RequestClientCert
}

// verifyConnection is called by crypto/tls at the end of each handshake.
func (a *Authority) verifyConnection(c ClientCerts) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if c == ClientCertIgnored || c == ClientCertOptional && len(state.PeerCertificates) == 0 {
			return nil
		}
		_, err := a.Identify(&state)
		return err
	}
}

func (o TLSOptions) challenge(a *Authority) *tls.Config {
	if o.Challenge == nil {
		return nil
	}
	return &tls.Config{
		// In 1.3 the other side has finished before it learns that we don't go on.
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{challengeProto},
		GetCertificate:         o.Challenge,
		SessionTicketsDisabled: true,
		VerifyConnection:       func(tls.ConnectionState) error { return ErrChallenge },
		Time:                   a.o.Now,
	}
}

// listenerTLS chooses a connection's configuration.
type listenerTLS struct {
	authority *Authority
	base      *tls.Config
	challenge *tls.Config // nil: none is answered
	hinting   atomic.Pointer[hinting]
}

// hinting is the configuration under one trust.
type hinting struct {
	trust  *trust
	config *tls.Config
}

// config tells the client of the CAs that count by now: browsers and some libraries
// choose by them which certificate to show. The keys of session tickets stay with
// the listener's configuration, whatever is returned here.
func (l *listenerTLS) config(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if l.challenge != nil && slices.Equal(hello.SupportedProtos, []string{challengeProto}) {
		return l.challenge, nil
	}
	t := l.authority.trust.Load()
	if h := l.hinting.Load(); h != nil && h.trust == t {
		return h.config, nil
	}
	config := l.base.Clone()
	config.ClientCAs = t.hints
	l.hinting.Store(&hinting{t, config})
	return config, nil
}
