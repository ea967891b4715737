// Package ca is a certificate authority of our own, in a directory: it gives the
// broker and its devices their certificates, and says who is behind one that a
// client shows. Begin with [Open].
//
// Two keys are at work. The root is what devices trust, for ten years; it signs
// nothing but the issuing CA, which signs everything else. So root.key can be
// taken out of the directory and kept in a safe: all goes on until the issuing CA
// has to be renewed, which [Authority.Expiries] and a report announce long before.
// An issuing CA is renewed with the key it has, so that neither certificates nor
// revocation lists depend on which of its certificates somebody knows. It can sign
// for servers and clients only, and no further CA. It has no name constraints: a
// server may get any name tomorrow, and a device's URI has no host to constrain.
//
// A device's certificate names it in a URI, urn:fairlead:device:NAME, and for
// those who look there in the Common Name as well, unless it is too long for one.
// The URI is what counts. Certificates of another CA count once it is named in
// [Options.ClientCAs].
//
// The directory holds:
//
//	root.key     secret, may be taken away   root.crt     what devices trust
//	issuing.key  secret                      issuing.crt  signed by the root
//	revoked      one line for each certificate that was revoked
//	server.pem   secret; the broker's certificate and key, made anew when they are gone
//	crl.pem      the revocation list, for other programs
//	lock         held by the process that uses the directory
//
// If issuing.key has been stolen: put root.key back, remove issuing.key and
// issuing.crt, start again. Devices go on trusting the root, no certificate from
// the old key is accepted any more, and each device needs a new one.
package ca

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How long certificates are valid. A leaf never outlives its issuer.
const (
	RootValidity    = 10 * 365 * day
	IssuingValidity = 5 * 365 * day // renewed at half of it, so that a device gets its full time
	DeviceValidity  = 2 * 365 * day // unless DeviceOptions say otherwise
	ServerValidity  = 90 * day      // renewed at two thirds
	CRLValidity     = 7 * day       // signed anew at half of it

	day = 24 * time.Hour
	// backdated is how far back a certificate's validity begins, for devices
	// whose clock is behind.
	backdated = time.Hour
)

// How often [Authority.Run] and [Keypair.Run] look.
const (
	watchInterval = time.Second // at files: what they revoke has to end within a second or two
	renewInterval = 10 * time.Second
)

// plausible is the earliest time at which a root may be made. A computer without a
// battery for its clock starts somewhere in the past, and a root from then would
// end years too early on each device that trusts it.
var plausible = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Options say what an Authority does. The zero value works.
type Options struct {
	// Names are further names and addresses for the server certificate. This
	// host's own are always in it.
	Names []string
	// ClientCAs are further CAs whose certificates identify devices.
	ClientCAs []ClientCA
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Report is told what happens in the background, by several goroutines; nil:
	// nobody is.
	Report func(Event)
	// Changed is called when certificates that were good may no longer be: after a
	// revocation, and when a client CA or its CRL has changed. Whoever keeps
	// connections asks [Authority.Identify] again. It must return soon.
	Changed func()
	// Hostname and Addresses are where this host's names come from; nil: the
	// operating system.
	Hostname  func() (string, error)
	Addresses func() ([]net.Addr, error)

	// fault fails a step on the disk, in tests.
	fault func(step string) error
}

// Event is something that happened in the background: done, or gone wrong.
type Event struct {
	What string // "server certificate", "issuing CA", a file's name, ...
	Text string // what was done; empty with Err
	Err  error  // what is wrong, and with what consequence
}

func (e Event) String() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.What, e.Err)
	}
	return e.What + ": " + e.Text
}

// Authority is a CA in its directory. Make one with [Open]. Its methods may be
// called by several goroutines at once.
type Authority struct {
	o      Options
	dir    *dir
	root   authorityCert
	report reporter

	issuing  atomic.Pointer[issuer]
	server   atomic.Pointer[tls.Certificate]
	trust    atomic.Pointer[trust]
	revoked  revocations
	verified verified
	crl      crl

	maintenance sync.Mutex // held while something is renewed or read again
	external    []*externalCA
}

// Open opens the CA in the directory, and creates it on first use. Only one
// process can have it open. What a crash has left half done is completed; where
// something is missing that can't be made again without harm, or others can read a
// key, the error says how to go on, and nothing is changed.
func Open(path string, o Options) (*Authority, error) {
	o = o.withDefaults()
	a := &Authority{o: o, report: reporter{to: o.Report}}
	var err error
	if a.dir, err = openDir(path, o.fault); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if err := a.load(); err != nil {
		a.Close()
		return nil, fmt.Errorf("ca %s: %w", path, err)
	}
	return a, nil
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Report == nil {
		o.Report = func(Event) {}
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Hostname == nil {
		o.Hostname = os.Hostname
	}
	if o.Addresses == nil {
		o.Addresses = net.InterfaceAddrs
	}
	return o
}

// load reads what is in the directory and makes what is not.
func (a *Authority) load() error {
	defer a.report.flush()
	if err := a.dir.checkModes(func(err error) { a.report.problem("permissions", err) }); err != nil {
		return err
	}
	if err := a.loadRoot(); err != nil {
		return err
	}
	if err := a.loadIssuing(); err != nil {
		return err
	}
	if err := a.openRevocations(); err != nil {
		return err
	}
	if err := a.openExternal(); err != nil {
		return err
	}
	a.crl.number = a.lastCRLNumber()
	a.loadServer()
	a.Maintain()
	if a.server.Load() == nil {
		return fmt.Errorf("no server certificate: %w", a.report.last(serverWhat))
	}
	return nil
}

// Close lets another process open the directory.
func (a *Authority) Close() error {
	return errors.Join(a.revoked.close(), a.dir.close())
}

// Run renews and watches until ctx ends: the server certificate when it grows old
// or this host gets another name or address, the issuing CA while root.key is
// there, crl.pem, and the files of the client CAs. It returns nil.
func (a *Authority) Run(ctx context.Context) error {
	files, renewals := time.NewTicker(watchInterval), time.NewTicker(renewInterval)
	defer files.Stop()
	defer renewals.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-files.C:
			a.watch()
		case <-renewals.C:
			a.Maintain()
		}
	}
}

// Maintain does at once what [Authority.Run] does from time to time. What goes
// wrong is reported, and what was in force stays so.
func (a *Authority) Maintain() {
	a.watch()
	defer a.report.flush()
	a.maintenance.Lock()
	defer a.maintenance.Unlock()
	a.report.outcome(issuingWhat, a.renewIssuing)
	a.report.outcome(serverWhat, a.renewServer)
	a.report.outcome(crlName, a.publishCRL)
}

// Root is the PEM of the certificate that devices trust.
func (a *Authority) Root() []byte { return slices.Clone(a.root.pem) }

// Fingerprint is the SHA-256 of the root's certificate, as `openssl x509
// -fingerprint -sha256` has it but without colons, to compare by eye.
func (a *Authority) Fingerprint() string {
	return fmt.Sprintf("%x", sha256.Sum256(a.root.cert.Raw))
}

// Expiry says when something ends.
type Expiry struct {
	What     string // "root CA", "server certificate", a file's name, ...
	NotAfter time.Time
	// Renews says that it is renewed before, without anybody's help.
	Renews bool
}

// Expiries are the ends of all that this Authority works with, for metrics and
// warnings.
func (a *Authority) Expiries() []Expiry {
	list := []Expiry{
		{rootWhat, a.root.cert.NotAfter, false},
		{issuingWhat, a.issuing.Load().cert.NotAfter, a.dir.has(rootKeyName)},
		{serverWhat, a.server.Load().Leaf.NotAfter, true},
	}
	for _, c := range a.trust.Load().external {
		list = append(list, c.expiries()...)
	}
	return list
}

// reporter tells of a problem when it begins or changes, and not at each look. What
// it is given while a lock is held it tells at the next flush.
type reporter struct {
	to     func(Event)
	mu     sync.Mutex // guards what follows
	told   map[string]error
	events []Event
}

// outcome runs a job and reports what it did, or what is wrong with it.
func (r *reporter) outcome(what string, job func() (done string, err error)) {
	done, err := job()
	if err != nil {
		r.problem(what, err)
		return
	}
	r.mu.Lock()
	delete(r.told, what)
	r.mu.Unlock()
	if done != "" {
		r.event(Event{What: what, Text: done})
	}
}

func (r *reporter) problem(what string, err error) {
	r.mu.Lock()
	before := r.told[what]
	if r.told == nil {
		r.told = make(map[string]error)
	}
	r.told[what] = err
	r.mu.Unlock()
	if before == nil || before.Error() != err.Error() {
		r.event(Event{What: what, Err: err})
	}
}

func (r *reporter) event(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// flush tells what has gathered. No lock of the Authority is held meanwhile.
func (r *reporter) flush() {
	r.mu.Lock()
	events := r.events
	r.events = nil
	r.mu.Unlock()
	for _, e := range events {
		r.to(e)
	}
}

// last is the problem that stands, or nil.
func (r *reporter) last(what string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told[what]
}
