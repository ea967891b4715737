package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
)

// csrMax is the size in bytes of the largest certificate request that is read; one
// with an RSA key of 8192 bits has 3 KB in PEM.
const csrMax = 16 << 10

// The sizes of RSA keys that a device may have, in bits.
const (
	rsaMin = 2048
	rsaMax = 8192 // crypto/tls verifies no larger ones
)

// DeviceOptions say what certificate a device gets.
type DeviceOptions struct {
	// Validity is how long; 0: DeviceValidity. It ends with the issuing CA in any
	// case: see [Certificate.NotAfter].
	Validity time.Duration
}

// Certificate is what a device got.
type Certificate struct {
	Device    string
	Serial    Serial
	NotBefore time.Time
	NotAfter  time.Time
	// Chain is PEM: the device's certificate, then the issuing CA's. It is what the
	// device sends.
	Chain []byte
	// Root is PEM: what the device trusts, if the broker shows a certificate of
	// this CA.
	Root []byte
}

// Bundle is a certificate with the key that was made for it.
type Bundle struct {
	Certificate
	Key []byte // PEM, PKCS #8; secret, and kept nowhere else
}

// IssueDevice makes a key and a certificate for a device. Nothing is remembered of
// it: whoever may want to revoke it keeps its Serial and NotAfter.
func (a *Authority) IssueDevice(name string, o DeviceOptions) (Bundle, error) {
	key, text, err := newKey()
	if err != nil {
		return Bundle{}, err
	}
	c, err := a.certify(name, &key.PublicKey, o)
	return Bundle{Certificate: c, Key: text}, err
}

// SignCSR makes a certificate for a key that the device keeps for itself. The
// request is PKCS #10 in PEM or DER; it has to be signed with the key, which is
// ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits. Its Common
// Name is the device's name or empty; nothing else of it is taken over.
func (a *Authority) SignCSR(name string, csr []byte, o DeviceOptions) (Certificate, error) {
	request, err := parseCSR(csr)
	if err != nil {
		return Certificate{}, fmt.Errorf("certificate request: %w", err)
	}
	if cn := request.Subject.CommonName; cn != "" && cn != name {
		return Certificate{}, fmt.Errorf("certificate request: it is for %.*q, expected %q", NameMax, cn, name)
	}
	return a.certify(name, request.PublicKey, o)
}

// parseCSR reads a request and checks that whoever made it has the key.
func parseCSR(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > csrMax {
		return nil, fmt.Errorf("%d bytes, more than %d", len(text), csrMax)
	}
	der := text
	if block, _ := pem.Decode(text); block != nil {
		// Older programs write NEW in front; the content is the same.
		if block.Type != csrBlock && block.Type != "NEW "+csrBlock {
			return nil, fmt.Errorf("a PEM block %.40q, expected %q", block.Type, csrBlock)
		}
		der = block.Bytes
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	if err := checkPublicKey(request.PublicKey); err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, err
	}
	return request, nil
}

func checkPublicKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if bits := key.Curve.Params().BitSize; bits < 256 {
			return fmt.Errorf("an ECDSA key of %d bits, expected 256 or more", bits)
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < rsaMin || bits > rsaMax {
			return fmt.Errorf("an RSA key of %d bits, expected %d to %d", bits, rsaMin, rsaMax)
		}
	case ed25519.PublicKey:
	default:
		return errors.New("neither an ECDSA, RSA nor Ed25519 key")
	}
	return nil
}

func (a *Authority) certify(name string, key crypto.PublicKey, o DeviceOptions) (Certificate, error) {
	if err := ValidName(name); err != nil {
		return Certificate{}, err
	}
	if o.Validity == 0 {
		o.Validity = DeviceValidity
	}
	if o.Validity < 0 {
		return Certificate{}, fmt.Errorf("certificate of %s: validity %v, expected more than 0", name, o.Validity)
	}
	template, err := a.leaf(deviceSubject(name), o.Validity)
	if err != nil {
		return Certificate{}, fmt.Errorf("certificate of %s: %w", name, err)
	}
	template.URIs = []*url.URL{deviceURI(name)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	issuing := a.issuing.Load()
	cert, err := sign(template, key, issuing.cert, issuing.key)
	if err != nil {
		return Certificate{}, fmt.Errorf("certificate of %s: %w", name, err)
	}
	return Certificate{
		Device:    name,
		Serial:    SerialOf(cert.cert),
		NotBefore: cert.cert.NotBefore,
		NotAfter:  cert.cert.NotAfter,
		Chain:     slices.Concat(cert.pem, issuing.pem),
		Root:      a.Root(),
	}, nil
}

// deviceSubject has the name if it is short enough for a Common Name.
func deviceSubject(name string) pkix.Name {
	subject := pkix.Name{Organization: organization}
	if len(name) <= commonNameMax {
		subject.CommonName = name
	}
	return subject
}
