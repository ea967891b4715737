package ca

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// KeypairOptions name a server certificate of the operator's own.
type KeypairOptions struct {
	Cert   string           // a PEM file: the certificate, then the CAs between it and the root
	Key    string           // a PEM file with the key; it may be the same file
	Now    func() time.Time // nil: time.Now
	Report func(Event)      // told of takeovers and of pairs that can't be used; nil: nobody is
}

// Keypair is a certificate and its key in files that others replace. Make one with
// [LoadKeypair]. Its methods may be called by several goroutines at once.
type Keypair struct {
	o       KeypairOptions
	current atomic.Pointer[tls.Certificate]

	mu        sync.Mutex // guards the two
	cert, key watched
}

// LoadKeypair reads the pair. It has to be valid now.
func LoadKeypair(o KeypairOptions) (*Keypair, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Report == nil {
		o.Report = func(Event) {}
	}
	k := &Keypair{o: o, cert: watched{name: o.Cert}, key: watched{name: o.Key}}
	if err := checkSecret(o.Key, k.warn); err != nil {
		k.warn(err) // the operator's file and decision
	}
	c, err := k.read()
	if err != nil {
		return nil, err
	}
	k.current.Store(c)
	return k, nil
}

func (k *Keypair) warn(err error) { k.o.Report(Event{What: k.o.Key, Err: err}) }

// GetCertificate has the pair in force, for a tls.Config.
func (k *Keypair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return k.current.Load(), nil
}

// Expiry says when the certificate in force ends.
func (k *Keypair) Expiry() Expiry {
	return Expiry{What: k.o.Cert, NotAfter: k.current.Load().Leaf.NotAfter}
}

// Run looks at the files until ctx ends and takes over what is new: connections go
// on, new ones get the new certificate. A pair that can't be used leaves the old one
// in force and is reported, unless it is gone at the next look: then it only was
// half written. Run returns nil.
func (k *Keypair) Run(ctx context.Context) error {
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	var doubt error
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		changed, err := k.look()
		if !changed {
			err, doubt = doubt, nil
			k.report(err)
			continue
		}
		doubt = err
	}
}

// Reload looks at the files at once. With an error the old pair stays in force.
func (k *Keypair) Reload() error {
	_, err := k.look()
	return err
}

func (k *Keypair) report(err error) {
	if err != nil {
		k.o.Report(Event{What: k.o.Cert, Err: fmt.Errorf("%w; the old certificate stays in force, until %s", err, stamp(k.Expiry().NotAfter))})
	}
}

func (k *Keypair) look() (changed bool, err error) {
	k.mu.Lock()
	cert, key := k.cert.changed(), k.key.changed()
	if !cert && !key {
		k.mu.Unlock()
		return false, nil
	}
	c, err := k.read()
	if err == nil {
		k.current.Store(c)
	}
	k.mu.Unlock()
	if err == nil {
		k.o.Report(Event{What: k.o.Cert, Text: "taken over, until " + stamp(c.Leaf.NotAfter)})
	}
	return true, err
}

func (k *Keypair) read() (*tls.Certificate, error) {
	certText, err := k.cert.read()
	keyText, keyErr := k.key.read()
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if keyErr != nil {
		return nil, fmt.Errorf("key: %w", keyErr)
	}
	if _, err := parseCerts(certText); err != nil {
		return nil, fmt.Errorf("%s: %w", k.o.Cert, err)
	}
	c, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", k.o.Cert, k.o.Key, err)
	}
	if now := k.o.Now(); now.Before(c.Leaf.NotBefore) {
		return nil, fmt.Errorf("%s: begins on %s only", k.o.Cert, stamp(c.Leaf.NotBefore))
	} else if now.After(c.Leaf.NotAfter) {
		return nil, fmt.Errorf("%s: ended on %s", k.o.Cert, stamp(c.Leaf.NotAfter))
	}
	return &c, nil
}
