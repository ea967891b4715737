package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// ClientCA is another CA whose certificates identify devices.
type ClientCA struct {
	// Name is for logs; empty: File.
	Name string
	// File has the CA's certificates in PEM: a root, and those between it and the
	// devices if they don't send them. One that nothing else in the file has signed is
	// trusted like a root: so a CA can be trusted without all that its root signs.
	File string
	// CRL is a file with revocation lists, PEM or one in DER; empty: nothing of this
	// CA is ever revoked. Each list is signed by a certificate in File. When it has
	// changed it is read again.
	CRL string
	// AllowStaleCRL accepts certificates though the list should have been replaced
	// by now: who forgets to do so lets a revoked device in, and otherwise keeps
	// all out.
	AllowStaleCRL bool
	// NameFrom is where its certificates have the device's name.
	NameFrom NameFrom
}

// intermediatesMax is how many certificates of those that a client sends are looked
// at, to find a way to a client CA.
const intermediatesMax = 8

// externalCA is a ClientCA as it was read. It doesn't change.
type externalCA struct {
	ClientCA
	files *externalFiles
	certs []*x509.Certificate
	roots *x509.CertPool         // of certs those that chains end at
	lists map[string]revokedList // by the issuer's name in DER
}

type externalFiles struct{ certs, crl watched }

type revokedList struct {
	nextUpdate time.Time // zero: it has none
	serials    map[Serial]time.Time
}

// label is its name for logs, and empty for nil, our own CA.
func (c *externalCA) label() string {
	if c == nil {
		return ""
	}
	if c.Name != "" {
		return c.Name
	}
	return c.File
}

// nameFrom is where certificates have the name; nil is our own CA.
func (c *externalCA) nameFrom() NameFrom {
	if c == nil {
		return URI
	}
	return c.NameFrom
}

func (c *externalCA) verifyOptions(others []*x509.Certificate) x509.VerifyOptions {
	o := x509.VerifyOptions{Roots: c.roots, Intermediates: x509.NewCertPool()}
	for _, cert := range c.certs {
		o.Intermediates.AddCert(cert)
	}
	for _, cert := range others[:min(len(others), intermediatesMax)] {
		o.Intermediates.AddCert(cert)
	}
	return o
}

// check looks for a chain's certificates in the revocation lists. The first is the
// client's: about it somebody has to know.
func (c *externalCA) check(chain []link, now time.Time) *CertError {
	if c.CRL == "" {
		return nil
	}
	for i, l := range chain {
		list, ok := c.lists[l.issuer]
		if !ok && i == 0 {
			return refuse(StaleCRL, "%s has no list of its issuer", c.CRL)
		}
		if at, revoked := list.serials[l.serial]; revoked {
			return refuse(Revoked, "by %s, on %s", c.CRL, stamp(at))
		}
		if ok && list.stale(now) && !c.AllowStaleCRL {
			return refuse(StaleCRL, "%s should have been replaced by %s", c.CRL, stamp(list.nextUpdate))
		}
	}
	return nil
}

func (l revokedList) stale(now time.Time) bool {
	return !l.nextUpdate.IsZero() && now.After(l.nextUpdate)
}

func (c *externalCA) expiries() []Expiry {
	end := c.certs[0].NotAfter
	for _, cert := range c.certs {
		end = earlier(end, cert.NotAfter)
	}
	list := []Expiry{{What: c.File, NotAfter: end}}
	if first := c.nextUpdate(); !first.IsZero() {
		list = append(list, Expiry{What: c.CRL, NotAfter: first})
	}
	return list
}

// nextUpdate is when the first of the lists has to be replaced, or zero.
func (c *externalCA) nextUpdate() (first time.Time) {
	for l := range maps.Values(c.lists) {
		if next := l.nextUpdate; !next.IsZero() && (first.IsZero() || next.Before(first)) {
			first = next
		}
	}
	return first
}

// openExternal reads the client CAs for the first time: all have to be in order.
func (a *Authority) openExternal() error {
	for _, o := range a.o.ClientCAs {
		c, err := readExternal(o, &externalFiles{certs: watched{name: o.File}, crl: watched{name: o.CRL}})
		if err != nil {
			return fmt.Errorf("client CA: %w", err)
		}
		a.external = append(a.external, c)
	}
	a.retrust()
	return nil
}

// watch reads again what has changed. A file that is not in order leaves what was
// read before in force.
func (a *Authority) watch() {
	if a.reread() {
		a.o.Changed()
	}
}

func (a *Authority) reread() (changed bool) {
	defer a.report.flush()
	a.maintenance.Lock()
	defer a.maintenance.Unlock()
	next := slices.Clone(a.external)
	for i, c := range next {
		if !c.files.changed() {
			continue
		}
		a.report.outcome(c.label(), func() (string, error) {
			fresh, err := readExternal(c.ClientCA, c.files)
			if err != nil {
				return "", fmt.Errorf("%w; what was read before stays in force", err)
			}
			next[i], changed = fresh, true
			return "read again", nil
		})
	}
	if changed {
		a.external = next
		a.retrust()
	}
	return changed
}

func (f *externalFiles) changed() bool {
	certs, crl := f.certs.changed(), f.crl.changed()
	return certs || crl
}

func readExternal(o ClientCA, f *externalFiles) (*externalCA, error) {
	text, err := f.certs.read()
	if err != nil {
		return nil, err
	}
	c := &externalCA{ClientCA: o, files: f, roots: x509.NewCertPool()}
	if c.certs, err = parseCerts(text); err != nil {
		return nil, fmt.Errorf("%s: %w", o.File, err)
	}
	for _, cert := range c.certs {
		if selfSigned(cert) || !signedWithin(cert, c.certs) {
			c.roots.AddCert(cert)
		}
	}
	if o.CRL == "" {
		return c, nil
	}
	if text, err = f.crl.read(); err != nil {
		return nil, err
	}
	if c.lists, err = parseCRLs(text, c.certs); err != nil {
		return nil, fmt.Errorf("%s: %w", o.CRL, err)
	}
	return c, nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

// signedWithin reports whether another one of the certificates has signed this one.
func signedWithin(cert *x509.Certificate, all []*x509.Certificate) bool {
	return slices.ContainsFunc(all, func(c *x509.Certificate) bool {
		return !c.Equal(cert) && bytes.Equal(c.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(c) == nil
	})
}

// parseCRLs reads revocation lists and checks who signed them. Of two by the same
// issuer the one with the higher number counts.
func parseCRLs(text []byte, signers []*x509.Certificate) (map[string]revokedList, error) {
	blocks, err := crlBlocks(text)
	if err != nil {
		return nil, err
	}
	lists := make(map[string]revokedList)
	latest := make(map[string]*x509.RevocationList)
	for i, der := range blocks {
		crl, err := x509.ParseRevocationList(der)
		if err == nil {
			err = checkCRL(crl, signers)
		}
		if err != nil {
			return nil, fmt.Errorf("list %d: %w", i+1, err)
		}
		issuer := string(crl.RawIssuer)
		if before := latest[issuer]; before != nil && !newer(crl, before) {
			continue
		}
		latest[issuer], lists[issuer] = crl, revokedIn(crl)
	}
	return lists, nil
}

func newer(a, b *x509.RevocationList) bool {
	if a.Number == nil || b.Number == nil {
		return a.ThisUpdate.After(b.ThisUpdate)
	}
	return a.Number.Cmp(b.Number) > 0
}

func revokedIn(crl *x509.RevocationList) revokedList {
	l := revokedList{nextUpdate: crl.NextUpdate, serials: make(map[Serial]time.Time, len(crl.RevokedCertificateEntries))}
	for _, e := range crl.RevokedCertificateEntries {
		l.serials[serialOf(e.SerialNumber)] = e.RevocationTime
	}
	return l
}

// crlBlocks takes a file apart. One that is not PEM is one list in DER.
func crlBlocks(text []byte) ([][]byte, error) {
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		return [][]byte{text}, nil
	}
	var blocks [][]byte
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if text = rest; block.Type == crlBlock {
			blocks = append(blocks, block.Bytes)
		}
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("no %q in PEM", crlBlock)
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("the block after list %d is cut off or damaged", len(blocks))
	}
	return blocks, nil
}

// The extensions of lists and entries that may be marked critical and change
// nothing here: CRL number, authority key, reason, invalidity date [RFC 5280 5.2].
var harmless = []asn1.ObjectIdentifier{{2, 5, 29, 20}, {2, 5, 29, 35}, {2, 5, 29, 21}, {2, 5, 29, 24}}

// checkCRL refuses a list of a stranger, and one that says less than it seems to:
// a delta, one for some certificates only, one about other CAs' certificates. All
// these have a critical extension.
func checkCRL(crl *x509.RevocationList, signers []*x509.Certificate) error {
	signed := slices.ContainsFunc(signers, func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawSubject, crl.RawIssuer) && crl.CheckSignatureFrom(c) == nil
	})
	if !signed {
		return fmt.Errorf("it is not signed by a certificate of this client CA, but by %.*q", subjectMax, crl.Issuer.String())
	}
	for _, e := range crl.Extensions {
		if e.Critical && !slices.ContainsFunc(harmless, e.Id.Equal) {
			return fmt.Errorf("critical extension %v: only complete lists of one CA can be used", e.Id)
		}
	}
	for _, entry := range crl.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			if e.Critical && !slices.ContainsFunc(harmless, e.Id.Equal) {
				return errors.New("an entry is about a certificate of another CA")
			}
		}
	}
	return nil
}
