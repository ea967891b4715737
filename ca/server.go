package ca

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const serverWhat = "server certificate"

// namesMax is how many names and how many addresses the server certificate has at
// most. Those of [Options.Names] come first; of an interface's addresses beyond it
// the rest is left out and reported.
const namesMax = 100

// GetCertificate has the broker's own certificate, for a tls.Config. After a
// renewal new connections get the new one; the old ones go on.
func (a *Authority) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := a.server.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("ca: no server certificate")
}

// loadServer takes over the certificate of an earlier run. One that is missing,
// damaged or from another issuing CA is no loss: Maintain makes a new one.
func (a *Authority) loadServer() {
	text, err := a.dir.read(serverName)
	if err != nil {
		return
	}
	c, err := tls.X509KeyPair(text, text)
	if err != nil {
		a.report.event(Event{What: serverWhat, Err: fmt.Errorf("%s can't be used, a new one is made: %w", serverName, err)})
		return
	}
	if c.Leaf.CheckSignatureFrom(a.issuing.Load().cert) != nil {
		return
	}
	a.server.Store(&c)
}

// renewServer makes a new server certificate if there is none, two thirds of the
// present one's time are over, or this host has a name or address that is not in
// it. One name too many is no reason: an interface that comes and goes would cost
// a certificate each time.
func (a *Authority) renewServer() (string, error) {
	want, err := a.hostNames()
	if err != nil {
		return "", err
	}
	if old := a.server.Load(); old != nil && a.o.Now().Before(share(old.Leaf, 2, 3)) && want.in(old.Leaf) && a.signed(old) {
		return "", nil
	}
	if err := a.issueServer(want); err != nil {
		return "", err
	}
	return fmt.Sprintf("made for %s, until %s", want, a.server.Load().Leaf.NotAfter.Format(time.DateOnly)), nil
}

// signed reports whether the chain that is sent is the present one.
func (a *Authority) signed(c *tls.Certificate) bool {
	return len(c.Certificate) == 2 && bytes.Equal(c.Certificate[1], a.issuing.Load().cert.Raw)
}

func (a *Authority) issueServer(names hostNames) error {
	key, keyText, err := newKey()
	if err != nil {
		return err
	}
	template, err := a.leaf(pkix.Name{Organization: organization, CommonName: names.common()}, ServerValidity)
	if err != nil {
		return err
	}
	template.DNSNames = names.dns
	for _, ip := range names.ips {
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	issuing := a.issuing.Load()
	cert, err := sign(template, &key.PublicKey, issuing.cert, issuing.key)
	if err != nil {
		return err
	}
	text := slices.Concat(keyText, cert.pem, issuing.pem)
	if err := a.dir.write(serverName, text, 0o600); err != nil {
		return err
	}
	a.server.Store(&tls.Certificate{
		Certificate: [][]byte{cert.cert.Raw, issuing.cert.Raw},
		PrivateKey:  key,
		Leaf:        cert.cert,
	})
	return nil
}

// leaf is what all certificates that the issuing CA signs have in common.
func (a *Authority) leaf(subject pkix.Name, validity time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now, issuing := a.o.Now(), a.issuing.Load().cert
	if err := checkClock(now, issuing); err != nil {
		return nil, err
	}
	if !now.Before(issuing.NotAfter) {
		return nil, fmt.Errorf("the issuing CA ended on %s: put %s into the directory, so that it can be renewed", issuing.NotAfter.Format(time.DateOnly), rootKeyName)
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject,
		NotBefore:             later(now.Add(-backdated), issuing.NotBefore),
		NotAfter:              earlier(now.Add(validity), issuing.NotAfter),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}, nil
}

// hostNames are what a server is called.
type hostNames struct {
	dns []string
	ips []netip.Addr
}

// hostNames are the names to be in the server certificate: those that were asked
// for, loopback, the host's name, also in .local, and the interfaces' addresses.
func (a *Authority) hostNames() (hostNames, error) {
	var names hostNames
	for _, n := range a.o.Names {
		if err := names.add(n); err != nil {
			return names, err
		}
	}
	names.dns = append(names.dns, "localhost")
	names.ips = append(names.ips, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	host, err := a.o.Hostname()
	if err != nil {
		return names, fmt.Errorf("this host's name: %w", err)
	}
	if host = strings.ToLower(strings.TrimSuffix(host, ".")); validDNS(host) {
		names.dns = append(names.dns, host)
		if !strings.Contains(host, ".") {
			names.dns = append(names.dns, host+".local")
		}
	}
	found, err := a.interfaceAddrs()
	if err != nil {
		return names, err
	}
	names.ips = append(names.ips, found...)
	return names.limited(), nil
}

// interfaceAddrs are the host's addresses, in order. Link-local ones of IPv6 are not
// among them: they mean something with a zone only, and a certificate has none.
func (a *Authority) interfaceAddrs() ([]netip.Addr, error) {
	addrs, err := a.o.Addresses()
	if err != nil {
		return nil, fmt.Errorf("this host's addresses: %w", err)
	}
	var ips []netip.Addr
	for _, addr := range addrs {
		n, ok := addr.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); ok && !(ip.Is6() && ip.IsLinkLocalUnicast()) && !ip.IsMulticast() && !ip.IsUnspecified() {
			ips = append(ips, ip)
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	return ips, nil
}

// add takes one of the operator's names: a DNS name, with "*." in front for a
// wildcard, or an address.
func (n *hostNames) add(name string) error {
	if ip, err := netip.ParseAddr(name); err == nil && ip.Zone() == "" {
		n.ips = append(n.ips, ip.Unmap())
		return nil
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !validDNS(strings.TrimPrefix(name, "*.")) {
		return fmt.Errorf("server name %q: expected a DNS name or an address", name)
	}
	n.dns = append(n.dns, name)
	return nil
}

// validDNS reports whether a name can be in a certificate [RFC 5280 4.2.1.6].
func validDNS(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !letterOrDigit(c) && c != '-' {
				return false
			}
		}
	}
	return true
}

// limited has each name once and no more than namesMax of a kind.
func (n hostNames) limited() hostNames {
	return hostNames{dns: limited(n.dns), ips: limited(n.ips)}
}

func limited[T comparable](all []T) []T {
	var some []T
	for _, x := range all {
		if !slices.Contains(some, x) && len(some) < namesMax {
			some = append(some, x)
		}
	}
	return some
}

// in reports whether the certificate has all names.
func (n hostNames) in(c *x509.Certificate) bool {
	for _, name := range n.dns {
		if !slices.Contains(c.DNSNames, name) {
			return false
		}
	}
	for _, ip := range n.ips {
		if !slices.ContainsFunc(c.IPAddresses, func(have net.IP) bool { return have.Equal(ip.AsSlice()) }) {
			return false
		}
	}
	return true
}

// common is the name for those who look at the subject only.
func (n hostNames) common() string {
	for _, name := range n.dns {
		if name != "localhost" && len(name) <= commonNameMax {
			return name
		}
	}
	return cmp.Or(n.dns[0], "localhost")
}

func (n hostNames) String() string {
	list := slices.Clone(n.dns)
	for _, ip := range n.ips {
		list = append(list, ip.String())
	}
	return strings.Join(list, ", ")
}
