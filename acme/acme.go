// Package acme gets certificates for public host names from an ACME CA such as
// Let's Encrypt [RFC 8555] and renews them. Begin with [New]; [Manager.Run] does
// the work, [Manager.Or] is for a tls.Config.
//
// The CA looks whether the host is really ours, in one of two ways: by a TLS
// handshake at port 443 (TLS-ALPN-01), which a TLS listener of ours answers, or by
// HTTP at port 80 (HTTP-01), for which the Manager opens a port. A listener at
// another port needs a forwarding to it. Both are done by certmagic, which Caddy
// uses; it also keeps what it got in a directory, asks for renewal at the time that
// the CA suggests, or else with a third of the time left, and tries again for a
// month at growing intervals.
package acme

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// NextProto is the protocol that a TLS-ALPN-01 challenge asks for [RFC 8737].
const NextProto = "acme-tls/1"

// hostsMax is how many hosts a Manager has at most. Each has a certificate of its
// own, and CAs allow some dozens a week.
const hostsMax = 100

// Options say which certificates are wanted and where from.
type Options struct {
	// Hosts are the public names; no addresses, no wildcards.
	Hosts []string
	// Email is where the CA writes to if something is wrong; empty: nowhere.
	Email string
	// Directory is the CA's URL; empty: Let's Encrypt. Whoever names a CA agrees to
	// its terms of service.
	Directory string
	// Dir is the directory for keys, certificates and the account.
	Dir string
	// TrustedRoots are who the CA's own server may have its certificate from; nil:
	// whom the operating system trusts.
	TrustedRoots *x509.CertPool
	// TLSAddress is the host:port of a TLS listener that answers TLS-ALPN-01 with
	// [Manager.GetCertificate]; empty: there is none. It has to be open before
	// Run is called.
	TLSAddress string
	// HTTPAddress is the host:port at which Run answers HTTP-01; empty: it doesn't.
	HTTPAddress string
	// Report is told what happens; nil: nobody is. It must return soon.
	Report func(Event)
}

// Event is something that happened to a host's certificate.
type Event struct {
	Host string // empty: it is about all
	Text string // "obtained", "renewed"; empty with Err
	Err  error  // what went wrong; it is tried again
}

func (e Event) String() string {
	text := e.Text
	if e.Err != nil {
		text = e.Err.Error()
	}
	if e.Host == "" {
		return text
	}
	return e.Host + ": " + text
}

// Expiry says when a host's certificate ends.
type Expiry struct {
	Host     string
	NotAfter time.Time // zero: there is none yet
}

// Manager has the certificates. Make one with [New].
type Manager struct {
	o       Options
	running atomic.Pointer[running]
}

// running is what Run works with.
type running struct {
	cache  *certmagic.Cache
	config *certmagic.Config
	issuer *certmagic.ACMEIssuer
}

// New checks the options. Nothing is asked of the CA before Run.
func New(o Options) (*Manager, error) {
	o.Hosts = slices.Clone(o.Hosts)
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("acme: %w", err)
	}
	if o.Directory == "" {
		o.Directory = certmagic.LetsEncryptProductionCA
	}
	if o.Report == nil {
		o.Report = func(Event) {}
	}
	return &Manager{o: o}, nil
}

// check brings the hosts into the form that a ClientHello has.
func (o *Options) check() error {
	if len(o.Hosts) == 0 || len(o.Hosts) > hostsMax {
		return fmt.Errorf("%d hosts, expected 1 to %d", len(o.Hosts), hostsMax)
	}
	for i, host := range o.Hosts {
		o.Hosts[i] = strings.ToLower(strings.TrimSuffix(host, "."))
		if err := checkHost(o.Hosts[i]); err != nil {
			return err
		}
	}
	if o.Email != "" {
		if a, err := mail.ParseAddress(o.Email); err != nil || a.Address != o.Email {
			return fmt.Errorf("email %q: expected an address such as ops@example.org", o.Email)
		}
	}
	if u, err := url.Parse(o.Directory); o.Directory != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("directory %q: expected an https URL", o.Directory)
	}
	if o.Dir == "" {
		return errors.New("no directory to keep certificates in")
	}
	if o.TLSAddress == "" && o.HTTPAddress == "" {
		return errors.New("neither a TLS listener nor an HTTP address where the CA could look whether the hosts are ours")
	}
	_, _, err := o.ports()
	return err
}

// checkHost refuses what a CA gives no certificate for by these challenges. So a
// host is safe as the name of a file as well.
func checkHost(host string) error {
	labels := strings.Split(host, ".")
	if len(host) > 253 || len(labels) < 2 || net.ParseIP(host) != nil {
		return fmt.Errorf("host %q: expected a full DNS name such as mqtt.example.org", host)
	}
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.Trim(label, letters) != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("host %q: label %q: expected up to 63 letters, digits and -, no wildcard", host, label)
		}
	}
	return nil
}

const letters = "abcdefghijklmnopqrstuvwxyz0123456789-"

// ports are those of the two addresses, 0 for none.
func (o *Options) ports() (tlsPort, httpPort int, err error) {
	if tlsPort, err = port(o.TLSAddress); err == nil {
		httpPort, err = port(o.HTTPAddress)
	}
	return tlsPort, httpPort, err
}

func port(address string) (int, error) {
	if address == "" {
		return 0, nil
	}
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return 0, fmt.Errorf("address %q: expected host:port", address)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("address %q: expected a port of 1 to 65535", address)
	}
	return n, nil
}

// Run gets the certificates and renews them until ctx ends; then it returns nil. It
// returns an error if the port for HTTP-01 can't be opened or Run is running
// already. What the CA refuses is reported and tried again.
func (m *Manager) Run(ctx context.Context) error {
	r := m.start()
	if !m.running.CompareAndSwap(nil, r) {
		r.cache.Stop()
		return errors.New("acme: it is running already")
	}
	defer r.cache.Stop()
	defer m.running.Store(nil)
	if m.o.HTTPAddress == "" {
		return m.manage(ctx, r)
	}
	ln, err := net.Listen("tcp", m.o.HTTPAddress)
	if err != nil {
		return fmt.Errorf("acme: %w", err)
	}
	server := challengeServer(r.issuer)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }() // until Close
	err = m.manage(ctx, r)
	server.Close()
	if served := <-done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// manage waits for the end. certmagic's own goroutines end with ctx, too.
func (m *Manager) manage(ctx context.Context, r *running) error {
	// Not ManageSync: it asks on the terminal.
	if err := r.config.ManageAsync(ctx, m.o.Hosts); err != nil {
		return fmt.Errorf("acme: %w", err)
	}
	<-ctx.Done()
	return nil
}

// challengeServer answers HTTP-01 and nothing else. certmagic would open a server
// of its own for it, without time limits; it doesn't when the port is in use.
func challengeServer(issuer *certmagic.ACMEIssuer) *http.Server {
	return &http.Server{
		Handler:           issuer.HTTPChallengeHandler(http.NotFoundHandler()),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		MaxHeaderBytes:    8 << 10,
	}
}

func (m *Manager) start() *running {
	logger := zap.New(logCore{report: m.o.Report})
	r := &running{}
	r.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return r.config, nil },
		Logger:           logger,
	})
	r.config = certmagic.New(r.cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: m.o.Dir},
		OnEvent: m.event,
		Logger:  logger,
	})
	tlsPort, httpPort, _ := m.o.ports() // checked by New
	host, _, _ := net.SplitHostPort(cmp.Or(m.o.TLSAddress, m.o.HTTPAddress))
	r.issuer = certmagic.NewACMEIssuer(r.config, certmagic.ACMEIssuer{
		CA:                      m.o.Directory,
		Email:                   m.o.Email,
		Agreed:                  true,
		TrustedRoots:            m.o.TrustedRoots,
		DisableHTTPChallenge:    httpPort == 0,
		DisableTLSALPNChallenge: tlsPort == 0,
		// The ports are those that we have open, so certmagic opens none.
		ListenHost:     host,
		AltHTTPPort:    httpPort,
		AltTLSALPNPort: tlsPort,
		// The answers stay in this process's memory: no stranger's question makes
		// it read files.
		DisableDistributedSolvers: true,
		Logger:                    logger,
	})
	r.config.Issuers = []certmagic.Issuer{r.issuer}
	return r
}
