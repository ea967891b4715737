package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// GetCertificate has the certificate of the host that the client names, or the
// answer to a TLS-ALPN-01 challenge. Until there is one, and for other hosts, it
// returns an error.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	r, host := m.running.Load(), normal(hello.ServerName)
	if r == nil || !slices.Contains(m.o.Hosts, host) {
		return nil, fmt.Errorf("acme: no certificate for host %.255q", hello.ServerName)
	}
	if slices.Equal(hello.SupportedProtos, []string{NextProto}) {
		return r.config.GetCertificate(hello)
	}
	if c := r.newest(host); c != nil {
		return &c.Certificate, nil
	}
	return nil, fmt.Errorf("acme: no certificate for host %s yet", host)
}

// Or has the certificate of the host that the client names if there is one, answers
// challenges, and leaves all others to next. It is for a tls.Config.
func (m *Manager) Or(next func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := m.GetCertificate(hello)
		if err != nil && !slices.Equal(hello.SupportedProtos, []string{NextProto}) {
			return next(hello)
		}
		return c, err
	}
}

// normal is a name as in Options.Hosts.
func normal(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// newest is the certificate of the host that ends last, or nil. certmagic would
// also look for one on disk if a stranger names a host that it doesn't know.
func (r *running) newest(host string) *certmagic.Certificate {
	var newest *certmagic.Certificate
	for _, c := range r.cache.AllMatchingCertificates(host) {
		if c.Leaf != nil && (newest == nil || c.Leaf.NotAfter.After(newest.Leaf.NotAfter)) {
			newest = &c
		}
	}
	return newest
}

// Expiries are the ends of the certificates, in the order of the hosts.
func (m *Manager) Expiries() []Expiry {
	list := make([]Expiry, len(m.o.Hosts))
	r := m.running.Load()
	for i, host := range m.o.Hosts {
		list[i].Host = host
		if r == nil {
			continue
		}
		if c := r.newest(host); c != nil {
			list[i].NotAfter = c.Leaf.NotAfter
		}
	}
	return list
}

// event translates what certmagic tells. It is called while a certificate is
// obtained.
func (m *Manager) event(ctx context.Context, name string, data map[string]any) error {
	host, _ := data["identifier"].(string)
	switch name {
	case "cert_obtained":
		text := "obtained"
		if renewal, _ := data["renewal"].(bool); renewal {
			text = "renewed"
		}
		m.o.Report(Event{Host: host, Text: text})
	case "cached_managed_cert":
		m.inForce(data)
	case "cert_failed":
		err, _ := data["error"].(error)
		if ctx.Err() == nil && err != nil {
			m.o.Report(Event{Host: host, Err: err})
		}
	}
	return nil
}

// inForce is told when new connections get a certificate, one from disk as well.
func (m *Manager) inForce(data map[string]any) {
	hosts, _ := data["sans"].([]string)
	for _, host := range hosts {
		text := "in force"
		if r := m.running.Load(); r != nil {
			if c := r.newest(host); c != nil {
				text += " until " + c.Leaf.NotAfter.UTC().Format(time.DateTime)
			}
		}
		m.o.Report(Event{Host: host, Text: text})
	}
}

// errLog is an error that certmagic only writes to its log.
func errLog(message, detail string) error {
	if detail == "" {
		return errors.New(message)
	}
	return errors.New(message + ": " + detail)
}
