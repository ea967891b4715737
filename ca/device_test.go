package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

func TestValidName(t *testing.T) {
	for _, name := range []string{"a", "7", "kitchen.sensor_1-a", "A.B", strings.Repeat("x", NameMax)} {
		if err := ValidName(name); err != nil {
			t.Errorf("ValidName(%q) = %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"":                             "empty",
		strings.Repeat("x", NameMax+1): "129 bytes",
		".":                            "begins with '.'",
		"..":                           "begins with",
		"../x":                         "begins with",
		"-rf":                          "begins with '-'",
		"_x":                           "begins with",
		"$SYS":                         "begins with '$'",
		"a/b":                          "byte 2 is '/'",
		"a+":                           "byte 2 is '+'",
		"a#":                           "byte 2 is '#'",
		"a:b":                          "byte 2 is ':'",
		"a b":                          "byte 2 is ' '",
		"a\x00":                        `byte 2 is '\x00'`,
		"a\\b":                         "byte 2",
		"aé":                           "byte 2",
	} {
		wantError(t, ValidName(name), "device name", want)
	}
}

func TestIssueDevice(t *testing.T) {
	f := opened(t)
	b := f.issue("d1")
	leaf := certOf(t, b.Chain)
	if leaf.Subject.CommonName != "d1" || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "urn:fairlead:device:d1" {
		t.Errorf("subject %v, URIs %v", leaf.Subject, leaf.URIs)
	}
	if len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || leaf.IsCA {
		t.Errorf("usage %v, CA %v", leaf.ExtKeyUsage, leaf.IsCA)
	}
	if leaf.SerialNumber.BitLen() <= 120 || SerialOf(leaf) != b.Serial {
		t.Errorf("serial %s, in the bundle %s", SerialOf(leaf), b.Serial)
	}
	if !b.NotAfter.Equal(start.Add(DeviceValidity)) || string(b.Root) != f.read(rootCertName) {
		t.Errorf("until %v, root %s", b.NotAfter, b.Root)
	}
	if other := f.issue("d1"); other.Serial == b.Serial || string(other.Key) == string(b.Key) {
		t.Error("two certificates have the same serial or key")
	}
	_, err := f.IssueDevice("a/b", DeviceOptions{})
	wantError(t, err, "device name")
	_, err = f.IssueDevice("d1", DeviceOptions{Validity: -time.Hour})
	wantError(t, err, "validity -1h0m0s, expected more than 0")
}

// request is a CSR in DER.
func request(t testing.TB, cn string, key crypto.Signer) []byte {
	t.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, DNSNames: []string{"evil.example"}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestSignCSR(t *testing.T) {
	f := opened(t)
	p256, _, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cut := request(t, "d1", p256)
	cut[len(cut)-1] ^= 1
	for _, test := range []struct {
		name string
		csr  []byte
		want string
	}{
		{"P-256", request(t, "d1", p256), ""},
		{"no name", request(t, "", p256), ""},
		{"Ed25519", request(t, "d1", ed), ""},
		{"RSA", request(t, "d1", rsaKey), ""},
		{"PEM", pem.EncodeToMemory(&pem.Block{Type: csrBlock, Bytes: request(t, "d1", p256)}), ""},
		{"PEM of old programs", pem.EncodeToMemory(&pem.Block{Type: "NEW " + csrBlock, Bytes: request(t, "d1", p256)}), ""},
		{"for another device", request(t, "d2", p256), `it is for "d2", expected "d1"`},
		{"weak curve", request(t, "d1", p224), "an ECDSA key of 224 bits"},
		{"signature changed", cut, "certificate request"},
		{"a certificate", f.issue("d1").Chain, `a PEM block "CERTIFICATE"`},
		{"nothing", nil, "certificate request"},
		{"too large", make([]byte, csrMax+1), "more than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := f.SignCSR("d1", test.csr, DeviceOptions{Validity: day})
			if test.want != "" {
				wantError(t, err, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			leaf := certOf(t, c.Chain)
			if leaf.DNSNames != nil || !c.NotAfter.Equal(start.Add(day)) {
				t.Errorf("DNS names %v, until %v", leaf.DNSNames, c.NotAfter)
			}
		})
	}
}

func TestCheckPublicKey(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, checkPublicKey(&weak.PublicKey), "an RSA key of 1024 bits, expected 2048 to 8192")
	wantError(t, checkPublicKey("x"), "neither an ECDSA, RSA nor Ed25519 key")
}

func TestSerial(t *testing.T) {
	for in, want := range map[string]Serial{"0a": "a", "AB:CD:00": "abcd00", strings.Repeat("f", 40): Serial(strings.Repeat("f", 40))} {
		if got, err := ParseSerial(in); err != nil || got != want {
			t.Errorf("ParseSerial(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "00:00", "xyz", "-1", strings.Repeat("f", 41), "a b"} {
		if got, err := ParseSerial(in); err == nil {
			t.Errorf("ParseSerial(%q) = %q, want an error", in, got)
		}
	}
}

func TestNameFrom(t *testing.T) {
	for _, f := range []NameFrom{CommonName, DNSName, URI} {
		if got, err := ParseNameFrom(f.String()); err != nil || got != f {
			t.Errorf("ParseNameFrom(%q) = %v, %v", f, got, err)
		}
	}
	_, err := ParseNameFrom("email")
	wantError(t, err, "expected cn, dns or uri")
}
