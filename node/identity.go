package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead/access"
	"fairlead/audit"
	"fairlead/auth"
	"fairlead/broker"
	"fairlead/ca"
	"fairlead/config"
	"fairlead/device"
	"fairlead/listen"
	"fairlead/store"
)

// identity is all that says who clients are and what they may do.
type identity struct {
	audit    *audit.Log
	ca       *ca.Authority
	registry *device.Registry
	policies *access.Policies
	refusals *refusals
	chain    *auth.Chain // nil: everybody may do everything
	keys     *auth.Keys  // of a token issuer; nil: there is none
	work     sync.WaitGroup

	changes chan func(*auth.Identity) bool
}

// The directories below the data directory.
const (
	auditDir = "audit"
	caDir    = "ca"
	acmeDir  = "acme"
)

// openIdentity opens the audit log, the CA, the registry and the policies. The caller
// closes it, after the broker.
func openIdentity(ctx context.Context, n Node, kv store.KV) (id *identity, err error) {
	c := n.Config
	id = &identity{changes: make(chan func(*auth.Identity) bool, 64)}
	defer func() {
		if err != nil {
			err = errors.Join(err, id.close())
		}
	}()
	if id.audit, err = audit.Open(filepath.Join(c.Data, auditDir), audit.Options{TotalBytes: int64(c.Audit.Bytes), Age: c.Audit.Age, Logger: n.Logger}); err != nil {
		return id, fmt.Errorf("audit log: %w", err)
	}
	id.refusals = &refusals{log: n.Logger, audit: id.audit, now: time.Now}
	if id.registry, err = device.Open(ctx, kv, device.Options{Logger: n.Logger}); err != nil {
		return id, err
	}
	if id.policies, err = access.Open(ctx, kv, access.Options{
		Registry: id.registry, Files: c.Policies, Own: ownPolicies(c), Logger: n.Logger,
		Changed: func() { id.changed(everybody) },
	}); err != nil {
		return id, err
	}
	if id.ca, err = ca.Open(filepath.Join(c.Data, caDir), ca.Options{
		Names: c.Names, ClientCAs: clientCAs(c), Changed: func() { id.changed(certified) },
		Report: func(e ca.Event) { report(n, e) },
	}); err != nil {
		return id, fmt.Errorf("certificate authority: %w", err)
	}
	if c.Open {
		return id, nil
	}
	methods, err := id.methods(ctx, n, kv)
	if err != nil {
		return id, err
	}
	id.chain, err = auth.New(auth.Options{Directory: id.registry, Methods: methods, Refused: id.refusals.refused})
	return id, err
}

// handshakeFailed hears of TLS handshakes that have failed; those that did because of
// the client's certificate are refusals like others.
func (id *identity) handshakeFailed(listener string, from net.Addr, err error) {
	bad := ca.RefusalOf(err)
	if bad == nil {
		return
	}
	id.refusals.refused(auth.Refusal{Method: "certificate", Identity: bad.Subject, Listener: listener, Source: from.String(), Why: bad.Error()})
}

func report(n Node, e ca.Event) {
	if e.Err != nil {
		n.Logger.Error("certificates", "what", e.What, "err", e.Err)
		return
	}
	n.Logger.Info("certificates", "what", e.What, "done", e.Text)
}

//go:embed home.yaml
var homePolicies string

// ownPolicies are those of the profile.
func ownPolicies(c *config.Config) []access.Document {
	if c.Profile != "home" {
		return nil
	}
	return []access.Document{{Name: "profile: home", Text: homePolicies}}
}

// clientCAs are the others whose certificates identify devices.
func clientCAs(c *config.Config) (list []ca.ClientCA) {
	for _, l := range c.Listeners {
		if l.TLS.ClientCA != "" && !slices.ContainsFunc(list, func(o ca.ClientCA) bool { return o.File == l.TLS.ClientCA }) {
			list = append(list, ca.ClientCA{File: l.TLS.ClientCA, CRL: l.TLS.ClientCRL})
		}
	}
	return list
}

// methods are the ways to show who one is, in their order.
func (id *identity) methods(ctx context.Context, n Node, kv store.KV) (list []auth.Method, err error) {
	c := n.Config
	names := c.Auth.Methods
	if len(names) == 0 {
		names = slices.DeleteFunc(slices.Clone(config.AuthMethods), func(m string) bool {
			return m == "jwt" && c.Auth.JWT.Keys == "" || m == "hook" && c.Auth.Hook.URL == ""
		})
	}
	list = append(list, auth.Operator{})
	for _, name := range names {
		m, err := id.method(ctx, n, kv, name)
		if err != nil {
			return nil, fmt.Errorf("auth.%s: %w", name, err)
		}
		list = append(list, m)
	}
	var anonymous []string
	for _, l := range c.Listeners {
		if l.Anonymous {
			anonymous = append(anonymous, l.Called())
		}
	}
	if len(anonymous) > 0 {
		list = append(list, auth.Anonymous{Listeners: anonymous})
	}
	return list, nil
}

func (id *identity) method(ctx context.Context, n Node, kv store.KV, name string) (auth.Method, error) {
	switch name {
	case "certificate":
		return auth.Certificate{Identify: id.identify, ProxyListeners: proxied(n.Config)}, nil
	case "token":
		return auth.Tokens{}, nil
	case "jwt":
		return id.jwt(n)
	case "password":
		return auth.NewPassword(auth.PasswordOptions{}), nil
	case "hook":
		return id.hook(&n.Config.Auth.Hook)
	case "scram":
		decoy, err := decoy(ctx, kv)
		if err != nil {
			return nil, err
		}
		return auth.NewSCRAM(decoy), nil
	}
	panic("node: auth method " + name) // the configuration has been checked
}

// identify says what a client certificate is worth.
func (id *identity) identify(s *tls.ConnectionState) (device, serial string, until time.Time, err error) {
	who, err := id.ca.Identify(s)
	return who.Device, string(who.Serial), who.NotAfter, err
}

func proxied(c *config.Config) (names []string) {
	for _, l := range c.Listeners {
		if l.ProxyIdentity {
			names = append(names, l.Called())
		}
	}
	return names
}

func (id *identity) jwt(n Node) (auth.Method, error) {
	j := &n.Config.Auth.JWT
	o := auth.KeysOptions{Failed: func(err error) { n.Logger.Warn("the keys of the token issuer can't be read", "err", err) }}
	if strings.Contains(j.Keys, "://") {
		o.URL = j.Keys
	} else {
		o.File = j.Keys
	}
	var err error
	if id.keys, err = auth.NewKeys(o); err != nil {
		return nil, err
	}
	attrs := make(map[string]string)
	for _, pair := range j.AttrClaims {
		attr, claim, _ := strings.Cut(pair, "=")
		attrs[attr] = claim
	}
	return auth.NewJWT(auth.JWTOptions{
		Keys: id.keys, Issuer: j.Issuer, Audience: j.Audience, Algorithms: j.Algorithms, Leeway: j.Leeway, Unregistered: j.Unregistered,
		Claims: auth.Mapping{Device: j.DeviceClaim, User: j.UserClaim, Groups: j.GroupsClaim, Attrs: attrs, Only: j.Groups},
	})
}

func (id *identity) hook(h *config.Hook) (auth.Method, error) {
	o := auth.HookOptions{
		URL: h.URL, Timeout: h.Timeout, AllowFor: h.AllowFor, DenyFor: h.DenyFor, Only: h.Groups, Unregistered: h.Unregistered,
		Device: func(info *listen.Info) string {
			if info.TLS == nil {
				return ""
			}
			who, err := id.ca.Identify(info.TLS)
			if err != nil {
				return ""
			}
			return who.Device
		},
	}
	if h.Authorization != "" {
		o.Header = http.Header{"Authorization": {h.Authorization}}
	}
	if h.CA != "" {
		pem, err := os.ReadFile(h.CA)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: no certificate in %s: expected PEM", h.CA)
		}
		o.TLS = &tls.Config{RootCAs: pool}
	}
	return auth.NewHook(o)
}

// decoyKey has the secret from which SCRAM makes up salts for users that are not
// there: they must not change from one start to the next.
const decoyKey = "node/decoy"

func decoy(ctx context.Context, kv store.KV) ([]byte, error) {
	e, err := kv.Get(ctx, decoyKey)
	if err == nil && len(e.Value) == 32 {
		return e.Value, nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	_, err = kv.Put(ctx, decoyKey, secret, store.PutOptions{})
	return secret, err
}

// auther and admission are for the broker: nil if nobody is asked.
func (id *identity) auther() broker.Authenticator {
	if id.chain == nil {
		return nil
	}
	return id.chain
}

func (id *identity) admission() broker.Admission {
	if id.chain == nil {
		return nil
	}
	return id.policies
}

func everybody(*auth.Identity) bool { return true }

func certified(i *auth.Identity) bool { return i.Serial != "" }

// changed has the sessions looked at again that the func points out. It does not wait;
// when many changes come at once, all sessions are looked at.
func (id *identity) changed(touched func(*auth.Identity) bool) {
	select {
	case id.changes <- touched:
	default: // so many wait that one of them is told to look at everybody, see watch
	}
}

// run does in the background what identity needs while the broker b works, until ctx
// ends: certificates are renewed, keys are read, changes are carried to the sessions.
func (id *identity) run(ctx context.Context, n Node, b *broker.Broker) {
	id.work.Go(func() { // all of them end with ctx
		if err := id.ca.Run(ctx); err != nil && ctx.Err() == nil {
			n.Logger.Error("certificates are not renewed any more", "err", err)
		}
	})
	id.work.Go(func() { warnOfExpiry(ctx, n, id.ca.Expiries) })
	if id.keys != nil {
		id.work.Go(func() { id.keys.Run(ctx) })
	}
	if id.chain == nil {
		return
	}
	id.work.Go(func() { id.carry(ctx, b) })
	id.work.Go(func() {
		for c := range id.registry.Changes(ctx) {
			id.changed(touchedBy(c))
		}
	})
}

// carry has the broker look at the sessions that a change touches.
func (id *identity) carry(ctx context.Context, b *broker.Broker) {
	for {
		select {
		case <-ctx.Done():
			return
		case touched := <-id.changes:
			all := []func(*auth.Identity) bool{touched}
			for more := true; more; {
				select {
				case f := <-id.changes:
					all = append(all, f)
				default:
					more = false
				}
			}
			if len(all) == cap(id.changes) { // some may have found no room
				all = []func(*auth.Identity) bool{everybody}
			}
			b.Reevaluate(func(i *auth.Identity) bool {
				return slices.ContainsFunc(all, func(f func(*auth.Identity) bool) bool { return f(i) })
			})
		}
	}
}

// touchedBy says whose sessions a change of the registry is about.
func touchedBy(c device.Change) func(*auth.Identity) bool {
	switch c.Kind {
	case device.KindDevice:
		return func(i *auth.Identity) bool { return i.Device == c.Name }
	case device.KindUser:
		return func(i *auth.Identity) bool { return i.User == c.Name }
	case device.KindGroup:
		return func(i *auth.Identity) bool { return slices.Contains(i.Groups, c.Name) }
	}
	return everybody
}

// warnDays and warnEvery say when a certificate that nobody renews is warned of.
const (
	warnDays  = 21
	warnEvery = 12 * time.Hour
)

func warnOfExpiry(ctx context.Context, n Node, expiries func() []ca.Expiry) {
	tick := time.NewTicker(warnEvery)
	defer tick.Stop()
	for {
		for _, e := range expiries() {
			left := time.Until(e.NotAfter)
			if left < warnDays*24*time.Hour && (!e.Renews || left < 24*time.Hour) {
				n.Logger.Warn("a certificate is about to end", "what", e.What, "not_after", e.NotAfter, "days_left", int(left.Hours()/24))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// wait waits until what run has started has ended.
func (id *identity) wait() { id.work.Wait() }

func (id *identity) close() error {
	var errs []error
	if id.policies != nil {
		id.policies.Close()
	}
	if id.registry != nil {
		errs = append(errs, id.registry.Close())
	}
	if id.ca != nil {
		errs = append(errs, id.ca.Close())
	}
	if id.audit != nil {
		errs = append(errs, id.audit.Close())
	}
	return errors.Join(errs...)
}
