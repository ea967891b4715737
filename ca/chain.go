package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// What the two CAs are called in reports and expiries.
const (
	rootWhat    = "root CA"
	issuingWhat = "issuing CA"
)

// authorityCert is a CA's certificate in both forms.
type authorityCert struct {
	cert *x509.Certificate
	pem  []byte
}

// issuer is the issuing CA: what signs.
type issuer struct {
	authorityCert
	key *ecdsa.PrivateKey
}

// loadRoot reads the root's certificate, or makes a root on first use. The key is
// written first: with it alone a crash has left nothing that anybody trusts yet, so
// the certificate can still be made.
func (a *Authority) loadRoot() error {
	if a.dir.has(rootCertName) {
		return a.readRoot()
	}
	for _, name := range []string{issuingCertName, issuingKeyName, revokedName, crlName, serverName} {
		if a.dir.has(name) { // all of them come later
			return fmt.Errorf("%s is missing, though %s is there: devices trust exactly that certificate, so it can't be made again; put it back from a backup or from a device's ca.crt, or restore the whole directory again", rootCertName, name)
		}
	}
	now := a.o.Now()
	if now.Before(plausible) {
		return fmt.Errorf("the clock says %s: set it first, or the new CA would end too early", now.UTC().Format(time.DateOnly))
	}
	key, err := a.keyFile(rootKeyName)
	if err != nil {
		return err
	}
	a.root, err = newRoot(key, now)
	if err != nil {
		return err
	}
	return a.dir.write(rootCertName, a.root.pem, 0o644)
}

// readRoot reads the certificate and compares it with the key, if that is there.
func (a *Authority) readRoot() error {
	var err error
	if a.root, err = a.readAuthority(rootCertName); err != nil {
		return err
	}
	if err := a.root.cert.CheckSignatureFrom(a.root.cert); err != nil {
		return fmt.Errorf("%s: not a root: %w", rootCertName, err)
	}
	if now := a.o.Now(); now.After(a.root.cert.NotAfter) {
		return fmt.Errorf("%s ended on %s: no device accepts it any more; begin a new CA in another directory and give the devices its root.crt", rootCertName, a.root.cert.NotAfter.Format(time.DateOnly))
	}
	if !a.dir.has(rootKeyName) {
		return nil
	}
	key, err := a.readKey(rootKeyName)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(a.root.cert.PublicKey) {
		return fmt.Errorf("%s does not belong to %s: put the right one back, or take it away", rootKeyName, rootCertName)
	}
	return nil
}

// loadIssuing reads the issuing CA. What is missing is made with the root's key.
func (a *Authority) loadIssuing() error {
	if !a.dir.has(issuingCertName) {
		return a.createIssuing()
	}
	if !a.dir.has(issuingKeyName) {
		return fmt.Errorf("%s is missing: put it back from a backup; or, with %s here, remove %s, and each device needs a new certificate", issuingKeyName, rootKeyName, issuingCertName)
	}
	cert, err := a.readAuthority(issuingCertName)
	if err != nil {
		return err
	}
	if err := cert.cert.CheckSignatureFrom(a.root.cert); err != nil {
		return fmt.Errorf("%s is not signed by %s: put back the two that belong together: %w", issuingCertName, rootCertName, err)
	}
	key, err := a.readKey(issuingKeyName)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(cert.cert.PublicKey) {
		return fmt.Errorf("%s does not belong to %s: put back the two that belong together", issuingKeyName, issuingCertName)
	}
	a.setIssuing(&issuer{cert, key})
	if now := a.o.Now(); now.After(cert.cert.NotAfter) && !a.dir.has(rootKeyName) {
		return fmt.Errorf("%s ended on %s: put %s into the directory, so that it can be renewed", issuingCertName, cert.cert.NotAfter.Format(time.DateOnly), rootKeyName)
	}
	return nil
}

func (a *Authority) createIssuing() error {
	if !a.dir.has(rootKeyName) {
		return fmt.Errorf("%s is missing: put it back from a backup; or put %s into the directory, so that a new one can be made", issuingCertName, rootKeyName)
	}
	key, err := a.keyFile(issuingKeyName)
	if err != nil {
		return err
	}
	name, err := authorityName("Fairlead issuing CA ", key)
	if err != nil {
		return err
	}
	if err := a.signIssuing(key, name); err != nil {
		return err
	}
	a.report.event(Event{What: issuingWhat, Text: "made, until " + a.issuing.Load().cert.NotAfter.Format(time.DateOnly)})
	return nil
}

// renewIssuing gives the issuing CA a new certificate for the same key and name
// when half of its time is over.
func (a *Authority) renewIssuing() (string, error) {
	old, now := a.issuing.Load(), a.o.Now()
	if now.Before(share(old.cert, 1, 2)) || !old.cert.NotAfter.Before(a.root.cert.NotAfter) {
		return "", nil
	}
	if !a.dir.has(rootKeyName) {
		return "", fmt.Errorf("it ends on %s and can't be renewed without %s: put that into the directory for a minute", old.cert.NotAfter.Format(time.DateOnly), rootKeyName)
	}
	if err := a.signIssuing(old.key, old.cert.Subject); err != nil {
		return "", err
	}
	return "renewed until " + a.issuing.Load().cert.NotAfter.Format(time.DateOnly), nil
}

func (a *Authority) signIssuing(key *ecdsa.PrivateKey, name pkix.Name) error {
	rootKey, err := a.readKey(rootKeyName)
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	now := a.o.Now()
	if err := checkClock(now, a.root.cert); err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               name,
		NotBefore:             later(now.Add(-backdated), a.root.cert.NotBefore),
		NotAfter:              earlier(now.Add(IssuingValidity), a.root.cert.NotAfter),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	cert, err := sign(template, &key.PublicKey, a.root.cert, rootKey)
	if err != nil {
		return err
	}
	if err := a.dir.write(issuingCertName, cert.pem, 0o644); err != nil {
		return err
	}
	a.setIssuing(&issuer{cert, key})
	return nil
}

func (a *Authority) setIssuing(i *issuer) {
	a.issuing.Store(i)
	a.retrust()
}

// newRoot makes a root's certificate.
func newRoot(key *ecdsa.PrivateKey, now time.Time) (authorityCert, error) {
	serial, err := newSerial()
	if err != nil {
		return authorityCert{}, err
	}
	name, err := authorityName("Fairlead root CA ", key)
	if err != nil {
		return authorityCert{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               name,
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(RootValidity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return sign(template, &key.PublicKey, template, key)
}

var organization = []string{"Fairlead"}

// authorityName has a part that comes from the key: programs look for an issuer by
// its name, so the CAs of two installations must not have the same, and a CA whose
// certificate is made again must have the one it had.
func authorityName(kind string, key *ecdsa.PrivateKey) (pkix.Name, error) {
	public, err := key.PublicKey.Bytes()
	sum := sha256.Sum256(public)
	return pkix.Name{Organization: organization, CommonName: fmt.Sprintf("%s%x", kind, sum[:4])}, err
}

// keyFile reads a key, or makes it.
func (a *Authority) keyFile(name string) (*ecdsa.PrivateKey, error) {
	if a.dir.has(name) {
		return a.readKey(name)
	}
	key, text, err := newKey()
	if err != nil {
		return nil, err
	}
	return key, a.dir.write(name, text, 0o600)
}

func (a *Authority) readKey(name string) (*ecdsa.PrivateKey, error) {
	text, err := a.dir.read(name)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: put it back from a backup", name, err)
	}
	return key, nil
}

func (a *Authority) readAuthority(name string) (authorityCert, error) {
	text, err := a.dir.read(name)
	if err != nil {
		return authorityCert{}, err
	}
	certs, err := parseCerts(text)
	if err == nil && (len(certs) != 1 || !certs[0].IsCA) {
		err = errors.New("not exactly one certificate, of a CA")
	}
	if err != nil {
		return authorityCert{}, fmt.Errorf("%s: %w: put it back from a backup", name, err)
	}
	return authorityCert{certs[0], certPEM(certs[0].Raw)}, nil
}

// sign makes a certificate.
func sign(template *x509.Certificate, public any, parent *x509.Certificate, key *ecdsa.PrivateKey) (authorityCert, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return authorityCert{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return authorityCert{cert, certPEM(der)}, err
}

// newSerial is a random number of 128 bits; nobody can guess the next one, and none
// comes twice.
func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] |= 1 // never zero, never shorter [RFC 5280 4.1.2.2]
	return new(big.Int).SetBytes(b), nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	text, err := keyPEM(key)
	return key, text, err
}

// checkClock refuses to sign anything at a time when the signer was not there yet: a
// computer without a battery for its clock has not been told the time.
func checkClock(now time.Time, signer *x509.Certificate) error {
	if now.Before(signer.NotBefore) {
		return fmt.Errorf("the clock says %s, before the CA was made: set it", stamp(now))
	}
	return nil
}

// share is the moment when a part of a certificate's time is over.
func share(c *x509.Certificate, part, of time.Duration) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / of * part)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
