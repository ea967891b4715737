package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"fairlead/acme"
	"fairlead/ca"
	"fairlead/config"
	"fairlead/listen"
)

// doors are the places where clients come in, and the certificates that they show.
type doors struct {
	listeners []*listen.Listener
	pairs     []*ca.Keypair // the operator's own certificates
	acme      *acme.Manager // nil: no public names
	work      sync.WaitGroup
}

// openDoors opens all listeners, or none.
func openDoors(ctx context.Context, n Node, id *identity) (d *doors, err error) {
	d = &doors{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.acme, err = openACME(n); err != nil {
		return d, err
	}
	for _, lc := range n.Config.Listeners {
		l, err := d.open(ctx, n, id, &lc)
		if err != nil {
			return d, fmt.Errorf("listener %s: %w", lc.URL, err)
		}
		d.listeners = append(d.listeners, l)
	}
	return d, nil
}

func (d *doors) open(ctx context.Context, n Node, id *identity, lc *config.Listener) (*listen.Listener, error) {
	u, err := listen.ParseURL(lc.URL)
	if err != nil {
		return nil, err
	}
	var tc *tls.Config
	if u.TLS() {
		if tc, err = d.tls(n, id, lc, u); err != nil {
			return nil, err
		}
	}
	return listen.Listen(ctx, listen.Options{
		Name: lc.Name, URL: u, TLS: tc, ProxyProtocol: lc.ProxyProtocol, Origins: lc.Origins,
		HandshakeTime: n.Config.Limits.ConnectTimeout, MaxConnections: lc.MaxConnections,
		Rate: n.Config.Limits.ConnectRate, Logger: n.Logger, Refused: id.handshakeFailed,
	})
}

// tls is what the listener's TLS is like: the operator's certificate, one for a public
// name, or the broker's own, in this order; and which certificates clients show.
func (d *doors) tls(n Node, id *identity, lc *config.Listener, u listen.URL) (*tls.Config, error) {
	o := ca.TLSOptions{ClientCerts: clientCerts(lc)}
	if u.WebSocket() {
		o.NextProtos = []string{"http/1.1"}
	}
	if lc.TLS.Cert != "" {
		pair, err := ca.LoadKeypair(ca.KeypairOptions{Cert: lc.TLS.Cert, Key: lc.TLS.Key, Report: func(e ca.Event) { report(n, e) }})
		if err != nil {
			return nil, err
		}
		d.pairs = append(d.pairs, pair)
		o.Certificate = pair.GetCertificate
	} else if d.acme != nil {
		o.Certificate, o.Challenge = d.acme.Or(id.ca.GetCertificate), d.acme.GetCertificate
	}
	c := id.ca.TLS(o)
	if lc.TLS.MinVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	return c, nil
}

func clientCerts(lc *config.Listener) ca.ClientCerts {
	switch {
	case lc.TLS.ClientCertificates == "required", lc.TLS.ClientCertificates == "" && lc.TLS.ClientCA != "":
		return ca.ClientCertRequired
	case lc.TLS.ClientCertificates == "off":
		return ca.ClientCertIgnored
	}
	return ca.ClientCertOptional
}

func openACME(n Node) (*acme.Manager, error) {
	a := &n.Config.ACME
	if len(a.Hosts) == 0 {
		return nil, nil
	}
	o := acme.Options{
		Hosts: a.Hosts, Email: a.Email, Directory: a.Directory, HTTPAddress: a.HTTP, Dir: filepath.Join(n.Config.Data, acmeDir),
		Report: func(e acme.Event) {
			if e.Err != nil {
				n.Logger.Error("ACME", "host", e.Host, "err", e.Err)
				return
			}
			n.Logger.Info("ACME", "host", e.Host, "done", e.Text)
		},
	}
	for _, lc := range n.Config.Listeners {
		u, err := listen.ParseURL(lc.URL)
		if err != nil || !u.TLS() || lc.TLS.Cert != "" {
			continue
		}
		if _, port, err := net.SplitHostPort(u.Host); err == nil && port == "443" { // where the CA asks
			o.TLSAddress = u.Host
		}
	}
	m, err := acme.New(o)
	if err != nil {
		return nil, fmt.Errorf("acme: %w", err)
	}
	return m, nil
}

// run keeps the certificates up to date until ctx ends.
func (d *doors) run(ctx context.Context, n Node) {
	for _, p := range d.pairs {
		d.work.Go(func() { p.Run(ctx) })
	}
	if len(d.pairs) > 0 {
		d.work.Go(func() { warnOfExpiry(ctx, n, d.expiries) })
	}
	if d.acme == nil {
		return
	}
	d.work.Go(func() {
		if err := d.acme.Run(ctx); err != nil && ctx.Err() == nil {
			n.Logger.Error("no certificates by ACME any more", "err", err)
		}
	})
}

// expiries are when the operator's own certificates end, and those by ACME.
func (d *doors) expiries() (all []ca.Expiry) {
	for _, p := range d.pairs {
		all = append(all, p.Expiry())
	}
	if d.acme != nil {
		for _, e := range d.acme.Expiries() {
			all = append(all, ca.Expiry{What: e.Host, NotAfter: e.NotAfter, Renews: true})
		}
	}
	return all
}

func (d *doors) urls() (list []string) {
	for _, l := range d.listeners {
		list = append(list, l.URL())
	}
	return list
}

// best lists the URLs that devices are told: those with TLS, MQTT before WebSocket. A
// listener on all addresses is called by the first name of the certificate.
func (d *doors) best(n Node) (list []string) {
	name := "localhost"
	if host, err := os.Hostname(); err == nil && host != "" {
		name = host
	}
	if len(n.Config.Names) > 0 {
		name = n.Config.Names[0]
	}
	for _, scheme := range []listen.Scheme{listen.MQTTS, listen.WSS} {
		for _, l := range d.listeners {
			u, err := listen.ParseURL(l.URL())
			if err != nil || u.Scheme != scheme {
				continue
			}
			if _, port, err := net.SplitHostPort(u.Host); err == nil && !u.Named() {
				u.Host = net.JoinHostPort(name, port)
			}
			list = append(list, u.String())
		}
	}
	return list
}

// sysOf is what $SYS says of certificates and refusals: when each ends, in seconds since
// 1970, and how many clients were not let in.
func sysOf(id *identity, d *doors) map[string]string {
	more := make(map[string]string)
	for _, e := range append(id.ca.Expiries(), d.expiries()...) {
		if !e.NotAfter.IsZero() {
			more["certificates/"+topicLevel(e.What)+"/expires_at"] = strconv.FormatInt(e.NotAfter.Unix(), 10)
		}
	}
	if id.chain != nil {
		more["clients/refused"] = strconv.FormatUint(id.chain.Refused.Load(), 10)
	}
	return more
}

// topicLevel makes one level of a topic of what may be a path.
func topicLevel(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("/+#\x00", r) {
			return '_'
		}
		return r
	}, s)
}

// shout names what is not protected, at each start.
func (d *doors) shout(n Node) {
	c := n.Config
	if c.Open {
		n.Logger.Warn("anonymous clients on this machine may do everything (--open)")
	}
	for i, lc := range c.Listeners {
		u, err := listen.ParseURL(lc.URL)
		if err != nil {
			continue
		}
		if !u.TLS() && !u.Loopback() {
			n.Logger.Warn("PLAINTEXT: passwords and messages can be read and changed by anybody on the way", "url", d.listeners[i].URL())
		}
		if lc.Anonymous {
			n.Logger.Warn("clients need not say who they are here", "url", d.listeners[i].URL())
		}
	}
}

func (d *doors) close() error {
	var errs []error
	for _, l := range d.listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
