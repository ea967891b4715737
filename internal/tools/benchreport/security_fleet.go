package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/ca"
	"fairlead/device"
	"fairlead/store/pebble"
)

// A fleet is what is there before a broker of the group security starts: a data
// directory with a CA and a registry. It is written without the broker, whose API waits
// for the disk with each of 100,000 devices.
type fleet struct {
	dir      string // all that follows, and nothing else
	data     string // Fairlead's data directory
	policies string // file with policies; empty: there are none but the built-in ones
	logins   string // file for `fairlead bench --logins`; empty: there is none
	// What other brokers and the clients need of the CA. The key can be read by
	// everybody, because Debian's mosquitto gives up root; it lives as long as the fleet.
	root, cert, key string
	trusted         *x509.CertPool
	certs           map[string]tls.Certificate // by device
	serials         map[string]ca.Serial       // of these
	secret          []byte                     // of which passwords are made
}

// fleetSpec says what a fleet has.
type fleetSpec struct {
	devices   int
	device    func(i int) device.Device // name, groups, attributes
	passwords int                       // the first so many devices have one
	logins    int                       // the first so many of those are in a file
	certified int                       // the first so many devices have a certificate
	policies  string
}

// fleetOf makes the fleet of a scenario when it is asked for the first time.
func (b *bench) fleetOf(ctx context.Context, name string, spec func() fleetSpec) (*fleet, error) {
	if f, ok := b.fleets[name]; ok {
		return f, nil
	}
	f, err := newFleet(ctx, b.dir, spec())
	if err != nil {
		return nil, fmt.Errorf("make the devices: %w", err)
	}
	if b.fleets == nil {
		b.fleets = make(map[string]*fleet)
	}
	b.fleets[name] = f
	return f, nil
}

// removeFleets ends what fleetOf has begun.
func (b *bench) removeFleets() error {
	var errs []error
	for _, f := range b.fleets {
		errs = append(errs, f.remove())
	}
	b.fleets = nil
	return errors.Join(errs...)
}

func (f *fleet) remove() error { return os.RemoveAll(f.dir) }

func newFleet(ctx context.Context, dir string, spec fleetSpec) (f *fleet, err error) {
	dir, err = os.MkdirTemp(dir, "fairlead-fleet-")
	if err != nil {
		return nil, err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	f = &fleet{
		dir: dir, data: in("data"), root: in("ca.crt"), cert: in("server.crt"), key: in("server.key"),
		trusted: x509.NewCertPool(), certs: make(map[string]tls.Certificate), serials: make(map[string]ca.Serial), secret: make([]byte, 32),
	}
	rand.Read(f.secret)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.remove())
		}
	}()
	// Debian's mosquitto gives up root and must still read its files.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(f.data, 0o700)); err != nil {
		return nil, err
	}
	if spec.policies != "" {
		f.policies = in("policies.yaml")
		if err := os.WriteFile(f.policies, []byte(spec.policies), 0o644); err != nil {
			return nil, err
		}
	}
	return f, f.fill(ctx, spec)
}

// fill writes the CA, then the registry.
func (f *fleet) fill(ctx context.Context, spec fleetSpec) error {
	certificates, err := f.certify(spec)
	if err != nil {
		return err
	}
	// A crash here loses nothing that somebody relies on, so nobody waits for the disk.
	engine, err := pebble.Open(f.data, pebble.Options{Durability: pebble.OS})
	if err != nil {
		return err
	}
	err = f.register(ctx, engine, spec, certificates)
	if err := errors.Join(err, engine.Close()); err != nil {
		return err
	}
	return f.writeLogins(spec)
}

func (f *fleet) register(ctx context.Context, engine *pebble.Engine, spec fleetSpec, certificates map[string]device.Certificate) error {
	registry, err := device.Open(ctx, engine.KV(), device.Options{})
	if err != nil {
		return err
	}
	for i := range spec.devices {
		d := spec.device(i)
		if i < spec.passwords {
			d.Password = audit.Secret(auth.HashSecret(f.password(d.Name)))
		}
		if c, ok := certificates[d.Name]; ok {
			d.Certificates = []device.Certificate{c}
		}
		if _, err = registry.Add(ctx, d, device.AddOptions{}); err != nil {
			break
		}
	}
	return errors.Join(err, registry.Close())
}

// certify makes the CA, its server certificate and those of the devices.
func (f *fleet) certify(spec fleetSpec) (map[string]device.Certificate, error) {
	authority, err := ca.Open(filepath.Join(f.data, "ca"), ca.Options{})
	if err != nil {
		return nil, err
	}
	made := make(map[string]device.Certificate)
	for i := range spec.certified {
		name := spec.device(i).Name
		c, err := authority.IssueDevice(name, ca.DeviceOptions{})
		if err == nil {
			f.certs[name], err = tls.X509KeyPair(c.Chain, c.Key)
		}
		if err != nil {
			return nil, errors.Join(err, authority.Close())
		}
		f.serials[name] = c.Serial
		made[name] = device.Certificate{Serial: c.Serial, NotAfter: c.NotAfter, Fingerprint: sha256.Sum256(f.certs[name].Certificate[0])}
	}
	err = f.writeServer(authority)
	return made, errors.Join(err, authority.Close())
}

// writeServer writes what other brokers need to show the same certificate.
func (f *fleet) writeServer(authority *ca.Authority) error {
	server, err := authority.GetCertificate(nil)
	if err != nil {
		return err
	}
	var chain strings.Builder
	for _, der := range server.Certificate {
		chain.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		return err
	}
	if !f.trusted.AppendCertsFromPEM(authority.Root()) {
		return errors.New("the CA has no root in PEM")
	}
	return writeFiles("", map[string]string{
		f.root: string(authority.Root()), f.cert: chain.String(),
		f.key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	})
}

func (f *fleet) writeLogins(spec fleetSpec) error {
	if spec.logins == 0 {
		return nil
	}
	var text strings.Builder
	for i := range spec.logins {
		name := spec.device(i).Name
		fmt.Fprintf(&text, "%s %s\n", name, f.password(name))
	}
	f.logins = filepath.Join(f.dir, "logins")
	return os.WriteFile(f.logins, []byte(text.String()), 0o600)
}

// password is that of a device: 128 bits that nobody can guess, so no slow hash is
// needed, see [auth.HashSecret].
func (f *fleet) password(name string) string {
	h := hmac.New(sha256.New, f.secret)
	h.Write([]byte(name))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// byPassword is how a device connects that shows its password.
func (f *fleet) byPassword(name, suffix string) login {
	return login{id: name + suffix, user: name, password: f.password(name)}
}

// byCertificate is how a device connects that shows its certificate. With sessions,
// later handshakes are shorter.
func (f *fleet) byCertificate(name, suffix string, sessions tls.ClientSessionCache) login {
	return login{id: name + suffix, tls: &tls.Config{
		Certificates: []tls.Certificate{f.certs[name]}, RootCAs: f.trusted, ServerName: "127.0.0.1",
		MinVersion: tls.VersionTLS13, ClientSessionCache: sessions,
	}}
}
