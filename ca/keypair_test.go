package ca

import (
	"context"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pairFiles are the operator's files.
type pairFiles struct {
	t         *testing.T
	cert, key string
	mu        sync.Mutex // guards events
	events    []string
}

func newPairFiles(t *testing.T) *pairFiles {
	dir := t.TempDir()
	return &pairFiles{t: t, cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
}

func (p *pairFiles) options(now func() time.Time) KeypairOptions {
	return KeypairOptions{Cert: p.cert, Key: p.key, Now: now, Report: func(e Event) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.events = append(p.events, e.String())
	}}
}

func (p *pairFiles) reported() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := strings.Join(p.events, "\n")
	p.events = nil
	return text
}

// pair is a self-signed certificate and its key.
func pair(t *testing.T, serial int64, from, until time.Time) Bundle {
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: from, NotAfter: until, DNSNames: []string{"localhost"}}
	return signed(t, template, template, nil)
}

func (p *pairFiles) put(cert, key []byte) {
	p.t.Helper()
	for name, data := range map[string][]byte{p.cert: cert, p.key: key} {
		if data == nil {
			continue
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
}

// serial is that of the certificate which new connections get.
func serial(t *testing.T, k *Keypair) Serial {
	t.Helper()
	c, err := k.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return SerialOf(c.Leaf)
}

func TestKeypair(t *testing.T) {
	now := func() time.Time { return start }
	p := newPairFiles(t)
	one, two := pair(t, 1, start, start.Add(day)), pair(t, 2, start, start.Add(2*day))
	p.put(one.Chain, one.Key)
	k, err := LoadKeypair(p.options(now))
	if err != nil {
		t.Fatal(err)
	}
	if got := k.Expiry(); got != (Expiry{What: p.cert, NotAfter: start.Add(day)}) {
		t.Errorf("Expiry() = %v", got)
	}
	expired, early := pair(t, 3, start.Add(-2*day), start.Add(-day)), pair(t, 4, start.Add(day), start.Add(2*day))
	for _, test := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"certificate of another key", two.Chain, nil, "private key does not match public key"},
		{"key of another certificate", one.Chain, two.Key, "private key does not match public key"},
		{"half a certificate", two.Chain[:len(two.Chain)/2], two.Key, "no certificate in PEM"},
		{"half a chain", append(two.Chain, one.Chain[:100]...), two.Key, "the block after certificate 1 is cut off"},
		{"half a key", two.Chain, two.Key[:len(two.Key)/2], "failed to find any PEM data in key"},
		{"empty", []byte{}, []byte{}, "no certificate"},
		{"expired", expired.Chain, expired.Key, "ended on 2026-11-24"},
		{"not yet valid", early.Chain, early.Key, "begins on 2026-11-26"},
	} {
		p.put(one.Chain, one.Key)
		if err := k.Reload(); err != nil {
			t.Fatal(err)
		}
		p.put(test.cert, test.key)
		err := k.Reload()
		wantError(t, err, test.want)
		if got := serial(t, k); got != "1" {
			t.Errorf("%s: serial %s in force, want 1", test.name, got)
		}
		_, err = LoadKeypair(p.options(now))
		wantError(t, err, test.want)
	}
	p.put(two.Chain, two.Key)
	p.reported()
	if err := k.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := serial(t, k); got != "2" {
		t.Errorf("serial %s in force, want 2", got)
	}
	if got := p.reported(); got != p.cert+": taken over, until 2026-11-27 12:00:00" {
		t.Errorf("reported %q", got)
	}
}

// TestKeypairRun replaces the files while Run looks at them.
func TestKeypairRun(t *testing.T) {
	p := newPairFiles(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		one, two := pair(t, 1, began, began.Add(day)), pair(t, 2, began, began.Add(day))
		p.put(one.Chain, one.Key)
		k, err := LoadKeypair(p.options(nil))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		step := func() {
			time.Sleep(watchInterval)
			synctest.Wait()
		}
		step()

		p.put(two.Chain, nil) // half replaced at the time of the look
		step()
		p.put(nil, two.Key)
		step()
		if got := p.reported(); serial(t, k) != "2" || !strings.Contains(got, "taken over") || strings.Contains(got, "match") {
			t.Errorf("serial %s, reported %q; want the new pair and no complaint", serial(t, k), got)
		}

		p.put(one.Chain, nil) // and it stays half replaced
		for range 5 {
			step()
		}
		if got := p.reported(); strings.Count(got, "does not match") != 1 || !strings.Contains(got, "the old certificate stays in force") {
			t.Errorf("reported %q, want one complaint", got)
		}
		if err := os.Remove(p.key); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			step()
		}
		if got := p.reported(); strings.Count(got, "no such file") != 1 || serial(t, k) != "2" {
			t.Errorf("serial %s, reported %q, want one complaint", serial(t, k), got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestKeypairMode(t *testing.T) {
	p := newPairFiles(t)
	one := pair(t, 1, start, start.Add(day))
	p.put(one.Chain, one.Key)
	if err := os.Chmod(p.key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeypair(p.options(func() time.Time { return start })); err != nil {
		t.Fatal(err)
	}
	if got := p.reported(); !strings.Contains(got, "everybody on this host can read") {
		t.Errorf("reported %q, want a warning", got)
	}
}

func TestKeypairMissing(t *testing.T) {
	p := newPairFiles(t)
	_, err := LoadKeypair(p.options(nil))
	wantError(t, err, "certificate: ", "no such file")
	p.put([]byte("x"), nil)
	_, err = LoadKeypair(p.options(nil))
	wantError(t, err, "key: ", "no such file")
}

// TestKeypairServes uses the pair for a listener.
func TestKeypairServes(t *testing.T) {
	f := opened(t)
	p := newPairFiles(t)
	one := pair(t, 1, start, start.Add(day))
	p.put(one.Chain, one.Key)
	k, err := LoadKeypair(p.options(f.o.Now))
	if err != nil {
		t.Fatal(err)
	}
	client := f.client(f.issue("d1"))
	client.RootCAs = x509.NewCertPool()
	client.RootCAs.AppendCertsFromPEM(one.Chain)
	f.handshake(f.TLS(TLSOptions{ClientCerts: ClientCertRequired, Certificate: k.GetCertificate}), client).want("d1")
}

// TestWatchedSameStat replaces a file's content by another of the same size within
// one tick of the file system's clock.
func TestWatchedSameStat(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	put := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	w := watched{name: name}
	if _, err := w.read(); err != nil {
		t.Fatal(err)
	}
	if w.changed() {
		t.Error("changed right after read")
	}
	stat := w.seen
	put("two")
	w.seen = look(name) // as if nothing could be seen from outside
	if !w.changed() {
		t.Error("a new content with the same signature is not seen")
	}
	w.seen = stat
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, old, old); err != nil {
		t.Fatal(err)
	}
	put("one")
	if w.changed() {
		t.Error("the old content counts as a change")
	}
}
