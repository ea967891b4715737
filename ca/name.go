package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// NameMax is the length of the longest device name in bytes.
const NameMax = 128

// commonNameMax is the upper bound of a Common Name [RFC 5280 A.1].
const commonNameMax = 64

// uriPrefix begins the URI that names a device in a certificate.
const uriPrefix = "urn:fairlead:device:"

// ValidName says what is wrong with a device name. One is 1 to [NameMax] letters of
// ASCII, digits and the characters . _ - and begins with a letter or digit. So it is
// one level of a topic and no wildcard, a file name that leads nowhere else, no
// flag of a command, and the part of a client identifier before the colon.
func ValidName(name string) error {
	if name == "" {
		return errors.New("device name: empty")
	}
	if len(name) > NameMax {
		return fmt.Errorf("device name: %d bytes, more than %d", len(name), NameMax)
	}
	if !letterOrDigit(name[0]) {
		return fmt.Errorf("device name %q: begins with %q, expected a letter or digit", name, rune(name[0]))
	}
	for i := range len(name) {
		if !letterOrDigit(name[i]) && !strings.ContainsRune("._-", rune(name[i])) {
			return fmt.Errorf("device name %q: byte %d is %q, expected letters, digits and . _ - only", name, i+1, rune(name[i]))
		}
	}
	return nil
}

func letterOrDigit(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// deviceURI is the name as it stands in a certificate.
func deviceURI(name string) *url.URL {
	return &url.URL{Scheme: "urn", Opaque: strings.TrimPrefix(uriPrefix, "urn:") + name}
}

// NameFrom says where a certificate of a client CA has the device's name.
type NameFrom int

// Where a name can be.
const (
	CommonName NameFrom = iota // the subject's Common Name
	DNSName                    // the one DNS name
	URI                        // the one URI of the form urn:fairlead:device:NAME
)

func (f NameFrom) String() string {
	switch f {
	case DNSName:
		return "dns"
	case URI:
		return "uri"
	}
	return "cn"
}

// ParseNameFrom reads "cn", "dns" or "uri".
func ParseNameFrom(s string) (NameFrom, error) {
	for _, f := range []NameFrom{CommonName, DNSName, URI} {
		if s == f.String() {
			return f, nil
		}
	}
	return 0, fmt.Errorf("name from %q: expected cn, dns or uri", s)
}

// name is the device's name in the certificate. Two names are none: whoever wrote
// them may have meant the other one.
func (f NameFrom) name(c *x509.Certificate) (string, error) {
	names := f.candidates(c)
	if len(names) != 1 {
		return "", fmt.Errorf("%d device names (%s), expected one", len(names), f)
	}
	return names[0], ValidName(names[0])
}

func (f NameFrom) candidates(c *x509.Certificate) []string {
	switch f {
	case DNSName:
		return c.DNSNames
	case URI:
		var names []string
		for _, u := range c.URIs {
			if name, ok := strings.CutPrefix(u.String(), uriPrefix); ok {
				names = append(names, name)
			}
		}
		return names
	}
	var names []string
	for _, attribute := range c.Subject.Names { // Subject.CommonName is only the last of them
		if name, ok := attribute.Value.(string); ok && attribute.Type.Equal(commonNameID) {
			names = append(names, name)
		}
	}
	return names
}

var commonNameID = asn1.ObjectIdentifier{2, 5, 4, 3} // [RFC 5280 A.1]
