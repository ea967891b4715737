package ca

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// factory is a CA of somebody else: a root, and a CA below it.
type factory struct {
	t         *testing.T
	root, sub *issuer
	certs     string // file
	crl       string // file
	number    int64
}

func newFactory(t *testing.T) *factory {
	dir := t.TempDir()
	fa := &factory{t: t, certs: filepath.Join(dir, "factory.crt"), crl: filepath.Join(dir, "factory.crl")}
	fa.root = fa.authority("Factory root", nil)
	fa.sub = fa.authority("Factory line 1", fa.root)
	fa.put(fa.certs, string(fa.root.pem)+string(fa.sub.pem))
	return fa
}

func (fa *factory) authority(name string, parent *issuer) *issuer {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: start.Add(-day), NotAfter: start.Add(1000 * day), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key, _, err := newKey()
	if err != nil {
		fa.t.Fatal(err)
	}
	i := &issuer{key: key}
	above, aboveKey := template, key
	if parent != nil {
		above, aboveKey = parent.cert, parent.key
	}
	if i.authorityCert, err = sign(template, &key.PublicKey, above, aboveKey); err != nil {
		fa.t.Fatal(err)
	}
	return i
}

// device is a certificate from the factory, with the CA below the root in the chain.
func (fa *factory) device(by *issuer, serial int64, change func(*x509.Certificate)) Bundle {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "m1"},
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(day),
	}
	if change != nil {
		change(template)
	}
	b := signed(fa.t, template, by.cert, by.key)
	b.Chain = append(b.Chain, by.pem...)
	return b
}

// list is a CRL in PEM.
func (fa *factory) list(by *issuer, change func(*x509.RevocationList), serials ...int64) string {
	fa.t.Helper()
	fa.number++
	template := &x509.RevocationList{Number: big.NewInt(fa.number), ThisUpdate: start, NextUpdate: start.Add(30 * day)}
	for _, s := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: start})
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, by.cert, by.key)
	if err != nil {
		fa.t.Fatal(err)
	}
	return string(crlPEM(der))
}

func (fa *factory) put(name, text string) {
	fa.t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		fa.t.Fatal(err)
	}
}

// trusting is a fixture that accepts the factory's certificates.
func (fa *factory) trusting(o ClientCA) *fixture {
	fa.t.Helper()
	o.File = fa.certs
	f := newFixture(fa.t)
	f.o.ClientCAs = []ClientCA{o}
	f.open()
	return f
}

func TestClientCA(t *testing.T) {
	fa := newFactory(t)
	f := fa.trusting(ClientCA{Name: "factory"})
	s := f.show(fa.device(fa.root, 7, nil)).want("m1")
	if s.id.CA != "factory" || s.id.Serial != "7" {
		t.Errorf("identity %+v", s.id)
	}
	f.show(fa.device(fa.sub, 7, nil)).want("m1")
	f.show(f.issue("d1")).want("d1") // our own go on

	stranger := newFactory(t)
	f.show(stranger.device(stranger.sub, 7, nil)).refused(UnknownCA)
	f.show(fa.device(fa.sub, 7, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })).refused(WrongUsage)
	f.show(fa.device(fa.sub, 7, func(c *x509.Certificate) { c.NotAfter = start.Add(-time.Second) })).refused(Expired)
	f.show(fa.device(fa.sub, 7, func(c *x509.Certificate) { c.NotBefore = start.Add(time.Second) })).refused(NotYetValid)
	f.show(fa.device(fa.sub, 7, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = start.Add(-10*day), start.Add(-5*day)
	})).refused(Expired)
	f.ask(fa.device(fa.sub, 7, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = start.Add(2000*day), start.Add(3000*day) // after its CA's end
	}), Expired)
}

// TestClientCAOutlivedByItsCertificate uses a certificate that ends after its CA.
func TestClientCAOutlivedByItsCertificate(t *testing.T) {
	fa := newFactory(t)
	f := fa.trusting(ClientCA{})
	b := fa.device(fa.sub, 7, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = start.Add(-10*day), start.Add(5000*day) })
	if got := f.show(b).want("m1").id.NotAfter; !got.Equal(fa.sub.cert.NotAfter) {
		t.Errorf("until %v, want the CA's end", got)
	}
	f.sleep(1001 * day)
	f.Maintain()
	f.show(b).refused(Expired)
}

// TestIntermediateFromTheClient shows that a CA file with the root alone will do.
func TestIntermediateFromTheClient(t *testing.T) {
	fa := newFactory(t)
	fa.put(fa.certs, string(fa.root.pem))
	f := fa.trusting(ClientCA{})
	b := fa.device(fa.sub, 7, nil)
	f.show(b).want("m1")
	b.Chain = certPEM(certOf(t, b.Chain).Raw)
	f.show(b).want("m1") // it is known by now
	f.retrust()
	f.show(b).refused(UnknownCA)
}

// TestRenewedClientRoot has two certificates of one root in the file, as during a
// renewal with the same key; each has signed the other.
func TestRenewedClientRoot(t *testing.T) {
	fa := newFactory(t)
	template := *fa.root.cert
	template.NotAfter = start.Add(2000 * day)
	renewed, err := sign(&template, &fa.root.key.PublicKey, &template, fa.root.key)
	if err != nil {
		t.Fatal(err)
	}
	fa.put(fa.certs, string(fa.root.pem)+string(renewed.pem))
	fa.trusting(ClientCA{}).show(fa.device(fa.root, 7, nil)).want("m1")
}

// TestClientCABelowARoot trusts one line of the factory and not the other.
func TestClientCABelowARoot(t *testing.T) {
	fa := newFactory(t)
	fa.put(fa.certs, string(fa.sub.pem))
	f := fa.trusting(ClientCA{})
	f.show(fa.device(fa.sub, 7, nil)).want("m1")
	f.show(fa.device(fa.authority("Factory line 2", fa.root), 7, nil)).refused(UnknownCA)
	f.show(fa.device(fa.root, 7, nil)).refused(UnknownCA)
}

func TestNamesOfClientCA(t *testing.T) {
	named := func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames, c.URIs = "by-cn", []string{"by-dns"}, []*url.URL{deviceURI("by-uri")}
	}
	fa := newFactory(t)
	for from, want := range map[NameFrom]string{CommonName: "by-cn", DNSName: "by-dns", URI: "by-uri"} {
		f := fa.trusting(ClientCA{NameFrom: from})
		f.show(fa.device(fa.sub, 7, named)).want(want)
		f.show(fa.device(fa.sub, 8, func(c *x509.Certificate) { c.Subject = pkix.Name{Organization: []string{"x"}} })).refused(NoName)
	}
	f := fa.trusting(ClientCA{})
	f.show(fa.device(fa.sub, 7, func(c *x509.Certificate) { c.Subject.CommonName = "$SYS" })).refused(NoName)
	f.show(fa.device(fa.sub, 8, func(c *x509.Certificate) {
		c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: commonNameID, Value: "m1"}, {Type: commonNameID, Value: "m2"}}
	})).refused(NoName)
	// Nobody but this Authority can use its URI, unless that was said.
	s := f.show(fa.device(fa.sub, 9, named))
	s.want("by-cn")
}

func TestClientCRL(t *testing.T) {
	fa := newFactory(t)
	one, two := fa.device(fa.sub, 7, nil), fa.device(fa.sub, 8, nil)
	fa.put(fa.crl, fa.list(fa.sub, nil, 7)+fa.list(fa.root, nil))
	f := fa.trusting(ClientCA{CRL: fa.crl})
	f.show(one).refused(Revoked)
	f.show(two).want("m1")

	fa.put(fa.crl, fa.list(fa.sub, nil, 7, 8)+fa.list(fa.root, nil))
	f.watch()
	f.show(two).refused(Revoked)
	if f.changes != 1 {
		t.Errorf("Changed was called %d times, want 1", f.changes)
	}
	f.watch()
	if f.changes != 1 {
		t.Errorf("Changed was called though nothing has changed")
	}

	fa.put(fa.crl, fa.list(fa.root, nil, fa.sub.cert.SerialNumber.Int64())+fa.list(fa.sub, nil))
	f.watch()
	f.show(two).refused(Revoked) // the CA between them was revoked

	fa.put(fa.crl, fa.list(fa.root, nil))
	f.watch()
	f.show(two).refused(StaleCRL) // no list of its issuer
}

func TestClientCRLInDER(t *testing.T) {
	fa := newFactory(t)
	blocks, err := crlBlocks([]byte(fa.list(fa.sub, nil, 7)))
	if err != nil {
		t.Fatal(err)
	}
	fa.put(fa.crl, string(blocks[0]))
	f := fa.trusting(ClientCA{CRL: fa.crl})
	f.show(fa.device(fa.sub, 7, nil)).refused(Revoked)
}

func TestTwoListsOfOneCA(t *testing.T) {
	fa := newFactory(t)
	older, newer := fa.list(fa.sub, nil), fa.list(fa.sub, nil, 7)
	for _, text := range []string{older + newer, newer + older} {
		fa.put(fa.crl, text)
		f := fa.trusting(ClientCA{CRL: fa.crl})
		f.show(fa.device(fa.sub, 7, nil)).refused(Revoked)
	}
}

func TestStaleCRL(t *testing.T) {
	fa := newFactory(t)
	b := fa.device(fa.sub, 7, func(c *x509.Certificate) { c.NotAfter = start.Add(100 * day) })
	fa.put(fa.crl, fa.list(fa.sub, nil, 8))
	strict, lenient := fa.trusting(ClientCA{CRL: fa.crl}), fa.trusting(ClientCA{CRL: fa.crl, AllowStaleCRL: true})
	var last Expiry
	for _, e := range strict.Expiries() {
		last = e
	}
	if want := (Expiry{fa.crl, start.Add(30 * day), false}); last != want {
		t.Errorf("expiry %v, want %v", last, want)
	}
	for _, f := range []*fixture{strict, lenient} {
		f.sleep(30 * day)
		f.show(b).want("m1")
		f.sleep(time.Second)
	}
	strict.show(b).refused(StaleCRL)
	lenient.show(b).want("m1")
}

// TestBadClientFiles replaces good files by bad ones: what was read before stays in
// force, and at a start nothing opens.
func TestBadClientFiles(t *testing.T) {
	fa, stranger := newFactory(t), newFactory(t)
	goodCerts, goodList := string(fa.root.pem)+string(fa.sub.pem), fa.list(fa.sub, nil, 7)
	delta := func(l *x509.RevocationList) {
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
	}
	indirect := func(l *x509.RevocationList) {
		l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{48, 0}}}
	}
	for _, test := range []struct{ name, certs, crl, want string }{
		{"no certificates", "x", goodList, "no certificate in PEM"},
		{"cut off", goodCerts[:len(goodCerts)-100], goodList, "the block after certificate 1 is cut off"},
		{"no list", goodCerts, "", "list 1"},
		{"a list cut off", goodCerts, goodList + goodList[:100], "the block after list 1 is cut off"},
		{"certificates for a list", goodCerts, goodCerts, `no "X509 CRL" in PEM`},
		{"a stranger's list", goodCerts, stranger.list(stranger.sub, nil), "not signed by a certificate of this client CA"},
		{"a delta", goodCerts, fa.list(fa.sub, delta, 7), "critical extension 2.5.29.27"},
		{"an indirect list", goodCerts, fa.list(fa.sub, indirect, 7), "an entry is about a certificate of another CA"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fa.put(fa.certs, goodCerts)
			fa.put(fa.crl, goodList)
			f := fa.trusting(ClientCA{Name: "factory", CRL: fa.crl})
			f.reported()
			fa.put(fa.certs, test.certs)
			fa.put(fa.crl, test.crl)
			f.watch()
			f.watch()
			got := f.reported()
			if strings.Count(got, "factory: ") != 1 || !strings.Contains(got, test.want) || !strings.Contains(got, "stays in force") {
				t.Errorf("reported %q, want once %q", got, test.want)
			}
			f.show(fa.device(fa.sub, 7, nil)).refused(Revoked)
			f.show(fa.device(fa.sub, 8, nil)).want("m1")
			f.Close()
			wantError(t, f.tryOpen(), "client CA: ", test.want)

			fa.put(fa.certs, goodCerts)
			fa.put(fa.crl, goodList)
			f.open()
		})
	}
}

func TestMissingClientFiles(t *testing.T) {
	fa := newFactory(t)
	f := newFixture(t)
	f.o.ClientCAs = []ClientCA{{File: fa.certs, CRL: fa.crl}}
	wantError(t, f.tryOpen(), "client CA", "no such file")
	fa.put(fa.crl, fa.list(fa.sub, nil))
	f.open()
	if err := os.Remove(fa.certs); err != nil {
		t.Fatal(err)
	}
	f.reported()
	f.watch()
	f.watch()
	if got := f.reported(); strings.Count(got, "no such file") != 1 {
		t.Errorf("reported %q, want one problem", got)
	}
	f.show(fa.device(fa.sub, 7, nil)).want("m1")
	fa.put(fa.certs, string(fa.root.pem)) // no list of this one, so its own are refused
	fa.put(fa.crl, fa.list(fa.root, nil))
	f.watch()
	f.show(fa.device(fa.root, 7, nil)).want("m1")
}
