package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// trust sets which brokers' certificates are good.
func (t *tlsFlags) trust(config *tls.Config) error {
	roots, err := t.roots()
	if err != nil {
		return err
	}
	config.RootCAs = roots
	if !t.insecure {
		return nil
	}
	config.InsecureSkipVerify = true
	if roots != nil {
		config.VerifyConnection = chainOnly(roots)
	}
	return nil
}

// roots are the CAs of the flags; nil means the system's.
func (t *tlsFlags) roots() (*x509.CertPool, error) {
	if t.caFile == "" && t.caPath == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if t.osCerts {
		system, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("read the system's certificates: %w", err)
		}
		pool = system
	}
	if t.caFile != "" {
		if err := addFile(pool, t.caFile); err != nil {
			return nil, fmt.Errorf("--cafile: %w", err)
		}
	}
	if t.caPath != "" {
		if err := addDir(pool, t.caPath); err != nil {
			return nil, fmt.Errorf("--capath: %w", err)
		}
	}
	return pool, nil
}

func addFile(pool *x509.CertPool, name string) error {
	pem, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: expected PEM certificates, found none", name)
	}
	return nil
}

// addDir adds every file that holds certificates, whatever its name: the hashed
// names of OpenSSL are links to them.
func addDir(pool *x509.CertPool, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := false
	for _, e := range entries {
		pem, err := os.ReadFile(filepath.Join(dir, e.Name()))
		found = err == nil && pool.AppendCertsFromPEM(pem) || found
	}
	if !found {
		return fmt.Errorf("%s: expected files with PEM certificates, found none", dir)
	}
	return nil
}

// chainOnly checks that a CA of roots has signed the broker's certificate, for
// whatever name.
func chainOnly(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the broker showed no certificate")
		}
		between := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
		return err
	}
}
