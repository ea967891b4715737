package ca

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Reason is why a client certificate is refused. It can be the label of a metric.
type Reason string

// The reasons. Where several hold, the first of them in this order is given.
const (
	NoCertificate Reason = "no certificate"
	UnknownCA     Reason = "unknown CA"
	WrongUsage    Reason = "wrong usage"
	NotYetValid   Reason = "not yet valid"
	Expired       Reason = "expired"
	Revoked       Reason = "revoked"
	StaleCRL      Reason = "stale CRL" // nobody can say whether it is revoked
	NoName        Reason = "no device name"
)

// CertError says why a client certificate is refused. It is for the operator: the
// client sees no more than a TLS alert.
type CertError struct {
	Reason Reason
	// Subject and Serial are what the certificate says of itself; with UnknownCA
	// anybody may have written them.
	Subject string
	Serial  Serial
	Detail  string
}

func (e *CertError) Error() string {
	text := "client certificate"
	if e.Serial != "" {
		text = fmt.Sprintf("client certificate of %q (serial %s)", e.Subject, e.Serial)
	}
	if e.Reason == NoCertificate {
		text = "client"
	}
	text += ": " + string(e.Reason)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// RefusalOf is what was wrong with the client's certificate, if that is why the
// handshake failed with err, and nil otherwise.
func RefusalOf(err error) *CertError {
	var refusal *CertError
	if errors.As(err, &refusal) {
		return refusal
	}
	if err != nil && strings.Contains(err.Error(), "client didn't provide a certificate") { // crypto/tls has no type for it
		return &CertError{Reason: NoCertificate}
	}
	return nil
}

// Identity is who has a certificate.
type Identity struct {
	Device   string
	Serial   Serial
	CA       string    // the name of the client CA; empty: this Authority
	NotAfter time.Time // when the certificate ends, and a connection has to
}

// Identify says who is at the other end of a TLS connection, by the client
// certificate that was shown, now: a connection that is still open is asked again
// after a change. The error is a [*CertError].
func (a *Authority) Identify(state *tls.ConnectionState) (Identity, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return Identity{}, &CertError{Reason: NoCertificate}
	}
	leaf := state.PeerCertificates[0]
	id, err := a.identify(leaf, state.PeerCertificates[1:])
	if err == nil {
		return id, nil
	}
	err.Subject, err.Serial = claimed(leaf), SerialOf(leaf)
	return Identity{}, err
}

// subjectMax is how much of a claimed subject is told, in bytes.
const subjectMax = 128

// claimed is what a certificate calls its owner, for people to read.
func claimed(c *x509.Certificate) string {
	name := c.Subject.CommonName
	if uris := URI.candidates(c); len(uris) > 0 {
		name = uris[0]
	}
	return name[:min(len(name), subjectMax)]
}

func (a *Authority) identify(leaf *x509.Certificate, others []*x509.Certificate) (Identity, *CertError) {
	v, err := a.verify(leaf, others)
	if err != nil {
		return Identity{}, err
	}
	now := a.o.Now()
	if now.Before(v.from) {
		return Identity{}, refuse(NotYetValid, "it begins on %s, it is %s", stamp(v.from), stamp(now))
	}
	if now.After(v.until) {
		return Identity{}, refuse(Expired, "it ended on %s, it is %s", stamp(v.until), stamp(now))
	}
	serial := SerialOf(leaf)
	if err := a.checkRevoked(v, serial, now); err != nil {
		return Identity{}, err
	}
	if v.noName != nil {
		return Identity{}, refuse(NoName, "%v", v.noName)
	}
	return Identity{Device: v.device, Serial: serial, CA: v.ca.label(), NotAfter: v.until}, nil
}

func refuse(r Reason, format string, args ...any) *CertError {
	return &CertError{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

func (a *Authority) checkRevoked(v *verdict, serial Serial, now time.Time) *CertError {
	if v.ca != nil {
		return v.ca.check(v.links, now)
	}
	if r, ok := a.revoked.get(serial); ok {
		return refuse(Revoked, "%s, on %s", r.Cause, stamp(r.At))
	}
	return nil
}

// trust is what client certificates are verified with. It is replaced as a whole.
type trust struct {
	own      x509.VerifyOptions
	external []*externalCA
	hints    *x509.CertPool // the CAs that clients are told of
}

// retrust puts what is known by now in force.
func (a *Authority) retrust() {
	t := &trust{external: a.external, hints: x509.NewCertPool()}
	t.own = x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	issuing := a.issuing.Load().cert
	t.own.Roots.AddCert(a.root.cert)
	// Only this one, whatever the client sends: so nothing from an issuing CA that
	// was given up is accepted.
	t.own.Intermediates.AddCert(issuing)
	t.hints.AddCert(a.root.cert)
	t.hints.AddCert(issuing) // some clients look for the direct issuer
	for _, c := range t.external {
		for _, cert := range c.certs {
			t.hints.AddCert(cert)
		}
	}
	a.trust.Store(t)
}

// verdict is what doesn't change about a certificate as long as the trust doesn't:
// who signed it, for what, for whom, and for how long the whole chain is valid.
type verdict struct {
	trust  *trust
	ca     *externalCA // nil: our own
	device string
	noName error // why there is no device
	from   time.Time
	until  time.Time
	links  []link // for the CRLs of ca
}

// link is a certificate of a chain as a CRL names it.
type link struct {
	issuer string // the issuer's name in DER
	serial Serial
}

// verify finds the CA that signed the certificate. The signatures of one that
// connects again are not computed again.
func (a *Authority) verify(leaf *x509.Certificate, others []*x509.Certificate) (*verdict, *CertError) {
	t := a.trust.Load()
	key := sha256.Sum256(leaf.Raw)
	if v := a.verified.get(key, t); v != nil {
		return v, nil
	}
	v, err := t.verify(leaf, others, a.o.Now())
	if err == nil {
		a.verified.put(key, v)
	}
	return v, err
}

func (t *trust) verify(leaf *x509.Certificate, others []*x509.Certificate, now time.Time) (*verdict, *CertError) {
	chain, err := chainOf(leaf, t.own, now)
	if err == nil {
		return t.verdict(chain, nil)
	}
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		return nil, wrong(err)
	}
	for _, c := range t.external {
		chain, external := chainOf(leaf, c.verifyOptions(others), now)
		if external == nil {
			return t.verdict(chain, c)
		}
		if !errors.As(external, &unknown) {
			return nil, wrong(external)
		}
	}
	return nil, refuse(UnknownCA, "issued by %.*q", subjectMax, leaf.Issuer.String())
}

// chainOf verifies everything but the time: now, or else at a moment when the
// certificate was valid. The caller looks at the time, and at revocations.
func chainOf(leaf *x509.Certificate, o x509.VerifyOptions, now time.Time) (chain []*x509.Certificate, err error) {
	o.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, o.CurrentTime = range []time.Time{now, leaf.NotAfter, leaf.NotBefore} {
		var chains [][]*x509.Certificate
		if chains, err = leaf.Verify(o); err == nil {
			return chains[0], nil
		}
		if !ofTime(err) {
			break
		}
	}
	return nil, err
}

// ofTime reports whether a verification failed because of the time only.
func ofTime(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// wrong says what is wrong with a certificate whose CA is known.
func wrong(err error) *CertError {
	if ofTime(err) {
		return refuse(Expired, "it and its CA were never valid together: %v", err)
	}
	return refuse(WrongUsage, "%v", err)
}

func (t *trust) verdict(chain []*x509.Certificate, c *externalCA) (*verdict, *CertError) {
	leaf := chain[0]
	if leaf.IsCA {
		return nil, refuse(WrongUsage, "it is the certificate of a CA")
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, refuse(WrongUsage, "its key is not for signatures")
	}
	v := &verdict{trust: t, ca: c, from: leaf.NotBefore, until: leaf.NotAfter}
	for _, cert := range chain[1:] {
		v.from, v.until = later(v.from, cert.NotBefore), earlier(v.until, cert.NotAfter)
	}
	v.device, v.noName = c.nameFrom().name(leaf)
	if c != nil {
		for _, cert := range chain[:len(chain)-1] {
			v.links = append(v.links, link{string(cert.RawIssuer), SerialOf(cert)})
		}
	}
	return v, nil
}

// verifiedMax is how many verdicts are remembered, about 16 MB. Beyond it all are
// forgotten and come again as their owners connect. Only certificates of a CA that
// is trusted get here.
const verifiedMax = 65536

// verified remembers verdicts.
type verified struct {
	mu sync.RWMutex // guards m
	m  map[[sha256.Size]byte]*verdict
}

// get has a verdict that was given under the same trust.
func (c *verified) get(key [sha256.Size]byte, t *trust) *verdict {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if v := c.m[key]; v != nil && v.trust == t {
		return v
	}
	return nil
}

func (c *verified) put(key [sha256.Size]byte, v *verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= verifiedMax {
		c.m = make(map[[sha256.Size]byte]*verdict)
	}
	c.m[key] = v
}
