package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// start is when the tests begin.
var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// fixture is a CA with a clock, names and reports of the test's own.
type fixture struct {
	t    *testing.T
	path string
	o    Options
	*Authority

	mu      sync.Mutex // guards what follows
	now     time.Time
	host    string
	addrs   []string
	events  []Event
	changes int
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, path: filepath.Join(t.TempDir(), "ca"), now: start, host: "kiosk", addrs: []string{"192.0.2.7/24", "fe80::1/64", "2001:db8::7/64"}}
	f.o = Options{
		Now:       func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.now },
		Report:    func(e Event) { f.mu.Lock(); defer f.mu.Unlock(); f.events = append(f.events, e) },
		Changed:   func() { f.mu.Lock(); defer f.mu.Unlock(); f.changes++ },
		Hostname:  func() (string, error) { f.mu.Lock(); defer f.mu.Unlock(); return f.host, nil },
		Addresses: f.addresses,
	}
	return f
}

func (f *fixture) addresses() ([]net.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []net.Addr
	for _, s := range f.addrs {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			return nil, err
		}
		list = append(list, &net.IPNet{IP: ip, Mask: n.Mask})
	}
	return list, nil
}

// opened is a fixture with its CA open.
func opened(t *testing.T) *fixture {
	f := newFixture(t)
	f.open()
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	if err := f.tryOpen(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) tryOpen() error {
	a, err := Open(f.path, f.o)
	if err == nil {
		f.Authority = a
		f.t.Cleanup(func() { a.Close() })
	}
	return err
}

// reopen is a restart.
func (f *fixture) reopen() {
	f.t.Helper()
	if err := f.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.open()
}

func (f *fixture) sleep(d time.Duration) { f.set(f.o.Now().Add(d)) }

func (f *fixture) set(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = now
}

// reported takes the events so far.
func (f *fixture) reported() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, e := range f.events {
		lines = append(lines, e.String())
	}
	f.events = nil
	return strings.Join(lines, "\n")
}

func (f *fixture) issue(name string) Bundle {
	f.t.Helper()
	b, err := f.IssueDevice(name, DeviceOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (f *fixture) read(name string) string {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join(f.path, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

func (f *fixture) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.path, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) remove(names ...string) {
	f.t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(f.path, name)); err != nil {
			f.t.Fatal(err)
		}
	}
}

// certOf is the first certificate in PEM.
func certOf(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	certs, err := parseCerts(text)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q, want one with %q", err, part)
		}
	}
}

func TestFirstUse(t *testing.T) {
	f := opened(t)
	for name, want := range map[string]os.FileMode{
		"": 0o700, rootKeyName: 0o600, issuingKeyName: 0o600, serverName: 0o600, revokedName: 0o600, lockName: 0o600,
		rootCertName: 0o644, issuingCertName: 0o644, crlName: 0o644,
	} {
		info, err := os.Stat(filepath.Join(f.path, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %q = %04o, want %04o", name, got, want)
		}
	}
	issuing := certOf(t, []byte(f.read(issuingCertName)))
	if !issuing.MaxPathLenZero || issuing.MaxPathLen != 0 {
		t.Error("the issuing CA may sign CAs")
	}
	if f.root.cert.NotAfter.Sub(start) != RootValidity {
		t.Errorf("the root ends on %v", f.root.cert.NotAfter)
	}
	if got := f.Fingerprint(); len(got) != 64 {
		t.Errorf("Fingerprint() = %q", got)
	}
}

func TestReopenChangesNothing(t *testing.T) {
	f := opened(t)
	names := []string{rootKeyName, rootCertName, issuingKeyName, issuingCertName, serverName, revokedName}
	before := make(map[string]string)
	for _, name := range names {
		before[name] = f.read(name)
	}
	f.reopen()
	for _, name := range names {
		if f.read(name) != before[name] {
			t.Errorf("%s is another one after a restart", name)
		}
	}
}

func TestOneProcess(t *testing.T) {
	f := opened(t)
	_, err := Open(f.path, f.o)
	wantError(t, err, "another process uses this CA")
	f.reopen()
}

// TestCrashWhileOpening cuts the power at each step on the disk of a first use, and
// of a renewal. What devices may trust already never changes, and the next start
// completes the rest.
func TestCrashWhileOpening(t *testing.T) {
	crashes := 0
	for n := 0; ; n++ {
		f := newFixture(t)
		step := 0
		f.o.fault = func(what string) error {
			if step++; step == n+1 {
				return errors.New("power cut at " + what)
			}
			return nil
		}
		err := f.tryOpen()
		if step <= n {
			if err != nil {
				t.Fatalf("without a crash: %v", err)
			}
			break
		}
		crashes++
		if err == nil { // crl.pem comes last and can wait
			f.Close()
		}
		root, _ := os.ReadFile(filepath.Join(f.path, rootCertName))
		f.o.fault = nil
		f.open()
		if root != nil && string(root) != f.read(rootCertName) {
			t.Errorf("crash at step %d: the root was replaced", n+1)
		}
		f.checkWhole()
	}
	if crashes < 20 {
		t.Errorf("%d crashes, want more than 20: the steps are not seen", crashes)
	}
}

// checkWhole checks that the CA works and has nothing left over.
func (f *fixture) checkWhole() {
	f.t.Helper()
	f.show(f.issue("probe")).want("probe")
	if left, _ := filepath.Glob(filepath.Join(f.path, "*"+unfinished)); len(left) > 0 {
		f.t.Errorf("left over: %q", left)
	}
}

// TestCrashWhileRenewing does so while the issuing CA, the server certificate and
// the CRL are renewed.
func TestCrashWhileRenewing(t *testing.T) {
	for n := range 12 {
		f := opened(t)
		f.sleep(IssuingValidity/2 - day)
		device := f.issue("d1")
		f.sleep(2 * day)
		f.reported()
		step := 0
		f.dir.fault = func(what string) error {
			if step++; step > n {
				return errors.New("power cut at " + what)
			}
			return nil
		}
		f.Maintain()
		if !strings.Contains(f.reported(), "power cut") {
			t.Fatalf("there is no step %d", n+1)
		}
		f.reopen()
		f.show(device).want("d1")
		f.checkWhole()
	}
}

func TestWhatIsMissing(t *testing.T) {
	for _, test := range []struct {
		name   string
		remove []string
		write  map[string]string
		want   string // in the error; empty: it opens
	}{
		{name: "root key in a safe", remove: []string{rootKeyName}},
		{name: "root certificate", remove: []string{rootCertName}, want: "root.crt is missing, though issuing.crt is there"},
		{name: "all but the revocations", remove: []string{rootCertName, rootKeyName, issuingCertName, issuingKeyName, crlName, serverName}, want: "though revoked is there"},
		{name: "issuing key", remove: []string{issuingKeyName}, want: "issuing.key is missing: put it back from a backup; or, with root.key here, remove issuing.crt"},
		{name: "issuing certificate", remove: []string{issuingCertName}},
		{name: "issuing certificate, no root key", remove: []string{issuingCertName, rootKeyName}, want: "put root.key into the directory"},
		{name: "server certificate", remove: []string{serverName}},
		{name: "revocations", remove: []string{revokedName}},
		{name: "root certificate cut off", write: map[string]string{rootCertName: "-----BEGIN CERTIFICATE-----\nMIIB"}, want: "root.crt: no certificate in PEM: put it back"},
		{name: "root key cut off", write: map[string]string{rootKeyName: "-----BEGIN"}, want: "root.key: no private key in PEM: put it back"},
		{name: "issuing key empty", write: map[string]string{issuingKeyName: ""}, want: "issuing.key: no private key in PEM"},
		{name: "issuing certificate is no certificate", write: map[string]string{issuingCertName: "x"}, want: "issuing.crt: no certificate"},
		{name: "server certificate cut off", write: map[string]string{serverName: "-----BEGIN"}},
		{name: "temporary file", write: map[string]string{rootKeyName + unfinished: "half a k"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := opened(t)
			device := f.issue("d1")
			root := f.read(rootCertName)
			f.Close()
			f.remove(test.remove...)
			for name, text := range test.write {
				f.write(name, text)
			}
			err := f.tryOpen()
			if test.want != "" {
				wantError(t, err, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if f.read(rootCertName) != root {
				t.Error("the root was replaced")
			}
			f.show(device).want("d1")
			f.checkWhole()
		})
	}
}

func TestForeignParts(t *testing.T) {
	other := opened(t)
	for _, test := range []struct{ file, want string }{
		{rootKeyName, "root.key does not belong to root.crt"},
		{rootCertName, "root.key does not belong to root.crt"},
		{issuingKeyName, "issuing.key does not belong to issuing.crt"},
		{issuingCertName, "issuing.crt is not signed by root.crt"},
	} {
		f := opened(t)
		f.Close()
		f.write(test.file, other.read(test.file))
		wantError(t, f.tryOpen(), test.want)
	}
}

// TestStolenIssuingKey is the way out that the package comment gives.
func TestStolenIssuingKey(t *testing.T) {
	f := opened(t)
	old, root := f.issue("d1"), f.read(rootCertName)
	stolen := *f.issuing.Load()
	f.Close()
	f.remove(issuingKeyName, issuingCertName)
	f.open()
	if f.read(rootCertName) != root {
		t.Error("the root was replaced")
	}
	// The thief sends the old issuing CA along.
	f.show(old).refused(UnknownCA)
	now := f.issuing.Load()
	f.issuing.Store(&stolen)
	forged := f.issue("d2")
	f.issuing.Store(now)
	f.show(forged).refused(UnknownCA)
	f.checkWhole()
}

func TestModes(t *testing.T) {
	for _, test := range []struct {
		file    string
		mode    os.FileMode
		err     string
		warning string
	}{
		{rootKeyName, 0o644, "root.key: mode 0644: everybody on this host can read or change it; run chmod 0600", ""},
		{issuingKeyName, 0o604, "issuing.key: mode 0604", ""},
		{serverName, 0o602, "server.pem: mode 0602", ""},
		{issuingKeyName, 0o640, "", "issuing.key: mode 0640: its group"},
		{"", 0o777, "mode 0777: everybody can change", ""},
		{"", 0o770, "", "mode 0770: its group"},
		{"", 0o755, "", ""},
	} {
		f := opened(t)
		f.Close()
		if err := os.Chmod(filepath.Join(f.path, test.file), test.mode); err != nil {
			t.Fatal(err)
		}
		f.reported()
		err := f.tryOpen()
		if test.err != "" {
			wantError(t, err, test.err)
			continue
		}
		if err != nil {
			t.Errorf("%q with mode %04o: %v", test.file, test.mode, err)
		}
		if got := f.reported(); !strings.Contains(got, test.warning) || test.warning == "" && got != "" {
			t.Errorf("%q with mode %04o: reported %q, want %q", test.file, test.mode, got, test.warning)
		}
	}
}

func TestWrongClock(t *testing.T) {
	f := newFixture(t)
	f.set(time.Unix(0, 0))
	wantError(t, f.tryOpen(), "the clock says 1970-01-01: set it first")
	f.set(start)
	f.open()
	device := f.issue("d1")

	f.set(time.Unix(0, 0)) // a reboot without a battery
	f.reopen()
	_, err := f.IssueDevice("d2", DeviceOptions{})
	wantError(t, err, "the clock says 1970-01-01 00:00:00, before the CA was made")
	f.ask(device, NotYetValid)
	f.set(start)
	f.show(device).want("d1")
}

func TestIssuingRenewal(t *testing.T) {
	f := opened(t)
	f.sleep(IssuingValidity/2 - 2*day)
	f.Maintain()
	device := f.issue("d1")
	before := f.issuing.Load()
	if got := device.NotAfter.Sub(f.o.Now()); got != DeviceValidity {
		t.Errorf("a device's certificate is valid for %v, want %v: it is cut short by the issuing CA", got, DeviceValidity)
	}
	f.reported()
	f.sleep(4 * day)
	f.Maintain()
	after := f.issuing.Load()
	if after.cert.NotAfter.Equal(before.cert.NotAfter) || !after.key.Equal(before.key) {
		t.Fatal("the issuing CA was not renewed with the same key")
	}
	if got := f.reported(); !strings.Contains(got, "issuing CA: renewed until 2034-") {
		t.Errorf("reported %q", got)
	}
	f.show(device).want("d1")
	f.reopen()
	f.show(device).want("d1")
}

func TestIssuingRenewalWithoutRootKey(t *testing.T) {
	f := opened(t)
	safe := f.read(rootKeyName)
	f.remove(rootKeyName)
	f.sleep(IssuingValidity/2 + day)
	f.reported()
	f.Maintain()
	f.Maintain()
	if got := f.reported(); strings.Count(got, "can't be renewed without root.key") != 1 {
		t.Errorf("reported %q, want one warning", got)
	}
	f.show(f.issue("d1")).want("d1") // all goes on until then

	f.sleep(IssuingValidity)
	_, err := f.IssueDevice("d2", DeviceOptions{})
	wantError(t, err, "the issuing CA ended on", "put root.key into the directory")
	f.Close()
	wantError(t, f.tryOpen(), "issuing.crt ended on", "put root.key into the directory")
	f.write(rootKeyName, safe)
	f.open()
	f.checkWhole()
}

func TestRootEnds(t *testing.T) {
	f := opened(t)
	f.sleep(RootValidity - 30*day)
	f.Maintain()
	device := f.issue("d1")
	if !device.NotAfter.Equal(f.root.cert.NotAfter) {
		t.Errorf("a certificate ends on %v, the root on %v", device.NotAfter, f.root.cert.NotAfter)
	}
	f.sleep(31 * day)
	f.ask(device, Expired)
	f.Close()
	wantError(t, f.tryOpen(), "root.crt ended on", "begin a new CA")
}

func TestExpiries(t *testing.T) {
	f := opened(t)
	want := []Expiry{
		{"root CA", start.Add(RootValidity), false},
		{"issuing CA", start.Add(IssuingValidity), true},
		{"server certificate", start.Add(ServerValidity), true},
	}
	if got := fmt.Sprint(f.Expiries()); got != fmt.Sprint(want) {
		t.Errorf("Expiries() = %v, want %v", got, want)
	}
	f.remove(rootKeyName)
	if f.Expiries()[1].Renews {
		t.Error("the issuing CA is renewed without the root's key")
	}
}

// TestRun shows that the background work happens by itself.
func TestRun(t *testing.T) {
	f := newFixture(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		f.o.Now = func() time.Time { return start.Add(time.Since(began)) }
		f.open()
		first := f.server.Load().Leaf
		began = began.Add(-share(first, 2, 3).Sub(start) + time.Minute) // it is nearly due

		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if !f.server.Load().Leaf.Equal(first) {
			t.Error("the server certificate was renewed before two thirds of its time")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if f.server.Load().Leaf.Equal(first) {
			t.Error("the server certificate was not renewed at two thirds of its time")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
