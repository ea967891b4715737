package ca

import (
	"crypto/x509"
	"os"
	"strings"
	"testing"
	"time"
)

func FuzzValidName(f *testing.F) {
	for _, s := range []string{"d1", "", "a/b", "$x", "..", "a:b", "é", "a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := ValidName(name)
		bad := name == "" || len(name) > NameMax || strings.ContainsAny(name, "/+#:$\\ \x00\n") || strings.ContainsAny(name[:1], ".-_")
		if bad && err == nil {
			t.Errorf("ValidName(%q) = nil", name)
		}
		if err == nil && strings.TrimPrefix(deviceURI(name).String(), uriPrefix) != name {
			t.Errorf("the URI of %q is %q", name, deviceURI(name))
		}
	})
}

func FuzzParseSerial(f *testing.F) {
	f.Add("0a:BC")
	f.Fuzz(func(t *testing.T, s string) {
		serial, err := ParseSerial(s)
		if err != nil {
			return
		}
		if again := serialOf(serial.number()); again != serial {
			t.Errorf("ParseSerial(%q) = %q, as a number %q", s, serial, again)
		}
	})
}

func FuzzSignCSR(f *testing.F) {
	a, err := Open(f.TempDir(), Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { a.Close() })
	key, _, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request(f, "d1", key))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, csr []byte) {
		c, err := a.SignCSR("d1", csr, DeviceOptions{})
		if err != nil {
			return
		}
		leaf := certOf(t, c.Chain)
		if leaf.IsCA || leaf.URIs[0].String() != uriPrefix+"d1" || leaf.Subject.CommonName != "d1" || len(leaf.ExtKeyUsage) != 1 {
			t.Errorf("a request got %v", leaf.Subject)
		}
	})
}

// FuzzFiles gives all that is read from files to its parsers.
func FuzzFiles(f *testing.F) {
	dir := f.TempDir()
	a, err := Open(dir, Options{})
	if err != nil {
		f.Fatal(err)
	}
	if err := a.Revoke(Revocation{Serial: "ab", Cause: KeyCompromise, At: time.Unix(1, 0)}); err != nil {
		f.Fatal(err)
	}
	a.Maintain()
	for _, name := range []string{rootCertName, rootKeyName, crlName, revokedName, serverName} {
		data, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	signers := []*x509.Certificate{a.issuing.Load().cert}
	a.Close()
	f.Fuzz(func(t *testing.T, text []byte) {
		if certs, err := parseCerts(text); err == nil && (len(certs) == 0 || len(certs) > certsMax) {
			t.Errorf("%d certificates", len(certs))
		}
		if key, err := parseKey(text); err == nil && key == nil {
			t.Error("neither a key nor an error")
		}
		if lists, err := parseCRLs(text, signers); err == nil && len(lists) == 0 {
			t.Error("neither a list nor an error")
		}
		list, rest, err := parseLog(text)
		if err != nil {
			return
		}
		if again, _, err := parseLog(appendLog(nil, list)); err != nil || len(again) != len(list) {
			t.Errorf("%d lines, written and read again %d (%v)", len(list), len(again), err)
		}
		if len(list) > 0 && len(rest) >= len(text) {
			t.Error("lines out of nothing")
		}
	})
}
