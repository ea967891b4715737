package ca

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openssl runs the command in dir.
func openssl(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: apt-get install openssl")
	}
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestOpenSSLVerify has OpenSSL judge the chains, strictly.
func TestOpenSSLVerify(t *testing.T) {
	f := newFixture(t)
	f.o.Now = time.Now // openssl asks the real clock
	f.open()
	good, revoked := f.issue("d1"), f.issue("d2")
	long := f.issue(strings.Repeat("x", NameMax))
	f.revoke(revoked.Serial)
	f.Maintain()
	for name, data := range map[string][]byte{"good.pem": good.Chain, "revoked.pem": revoked.Chain, "long.pem": long.Chain} {
		f.write(name, string(data))
	}
	verify := func(purpose, name string, more ...string) (string, error) {
		t.Helper()
		args := []string{"verify", "-x509_strict", "-check_ss_sig", "-CAfile", rootCertName, "-untrusted", issuingCertName, "-purpose", purpose}
		return openssl(t, f.path, append(append(args, more...), name)...)
	}
	for _, test := range []struct {
		purpose, file string
		more          []string
		want          string
	}{
		{"sslserver", serverName, []string{"-verify_hostname", "localhost"}, "OK"},
		{"sslserver", serverName, []string{"-verify_ip", "127.0.0.1"}, "OK"},
		{"sslserver", serverName, []string{"-verify_hostname", "elsewhere"}, "hostname mismatch"},
		{"sslclient", serverName, nil, "unsuitable certificate purpose"},
		{"sslclient", "good.pem", []string{"-crl_check", "-CRLfile", crlName}, "OK"},
		{"sslclient", "long.pem", nil, "OK"},
		{"sslclient", "revoked.pem", []string{"-crl_check", "-CRLfile", crlName}, "certificate revoked"},
		{"sslserver", "good.pem", nil, "unsuitable certificate purpose"},
	} {
		out, err := verify(test.purpose, test.file, test.more...)
		if !strings.Contains(out, test.want) || (err == nil) != (test.want == "OK") {
			t.Errorf("openssl verify -purpose %s %s: %v, %s; want %q", test.purpose, test.file, err, out, test.want)
		}
	}
}

// TestOpenSSLClient has OpenSSL connect with a bundle.
func TestOpenSSLClient(t *testing.T) {
	f := newFixture(t)
	f.o.Now = time.Now
	f.open()
	b := f.issue("d1")
	dir := t.TempDir()
	for name, data := range map[string][]byte{"ca.crt": b.Root, "d1.crt": b.Chain, "d1.key": b.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", f.TLS(TLSOptions{ClientCerts: ClientCertRequired}))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, version := range []string{"-tls1_3", "-tls1_2"} {
		type result struct {
			id  Identity
			err error
		}
		got := make(chan result, 1)
		go func() {
			id, err := f.serveOne(ln)
			got <- result{id, err}
		}()
		out, err := openssl(t, dir, "s_client", version, "-connect", ln.Addr().String(), "-servername", "localhost", "-verify_return_error",
			"-verify_hostname", "localhost", "-CAfile", "ca.crt", "-cert", "d1.crt", "-key", "d1.key", "-alpn", "mqtt", "-ign_eof", "-quiet")
		if err != nil || !strings.Contains(out, "welcome") {
			t.Errorf("openssl s_client %s: %v\n%s", version, err, out)
		}
		if r := <-got; r.err != nil || r.id.Device != "d1" {
			t.Errorf("%s: device %q, %v", version, r.id.Device, r.err)
		}
	}
}

// serveOne identifies one client and greets it.
func (f *fixture) serveOne(ln net.Listener) (Identity, error) {
	nc, err := ln.Accept()
	if err != nil {
		return Identity{}, err
	}
	defer nc.Close()
	conn := nc.(*tls.Conn)
	if err := conn.Handshake(); err != nil {
		return Identity{}, err
	}
	state := conn.ConnectionState()
	id, err := f.Identify(&state)
	if _, writeErr := io.WriteString(conn, "welcome\n"); writeErr != nil {
		err = errors.Join(err, writeErr)
	}
	return id, err
}
