package ca

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func (f *fixture) revoke(serials ...Serial) {
	f.t.Helper()
	var list []Revocation
	for _, s := range serials {
		list = append(list, Revocation{Serial: s, Cause: KeyCompromise, At: f.o.Now(), NotAfter: f.o.Now().Add(DeviceValidity)})
	}
	if err := f.Revoke(list...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) list() *x509.RevocationList {
	f.t.Helper()
	der, err := f.CRL()
	if err != nil {
		f.t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := crl.CheckSignatureFrom(f.issuing.Load().cert); err != nil {
		f.t.Fatal(err)
	}
	return crl
}

func TestRevoke(t *testing.T) {
	f := opened(t)
	one, two, three := f.issue("d1"), f.issue("d2"), f.issue("d3")
	f.revoke(one.Serial)
	f.revoke(two.Serial, "ab", "cd")
	if f.changes != 2 {
		t.Errorf("Changed was called %d times, want 2", f.changes)
	}
	for range 2 {
		f.show(one).refused(Revoked)
		f.show(two).refused(Revoked)
		f.show(three).want("d3")
		if got := len(f.Revocations()); got != 4 {
			t.Errorf("%d revocations, want 4", got)
		}
		r, ok := f.Revoked(one.Serial)
		if want := (Revocation{one.Serial, KeyCompromise, start, start.Add(DeviceValidity)}); !ok || r != want {
			t.Errorf("Revoked() = %v, want %v", r, want)
		}
		f.reopen()
	}
	f.revoke(three.Serial) // after a rewrite and a restart the log goes on
	f.reopen()
	f.show(three).refused(Revoked)
}

func TestRevokeTwice(t *testing.T) {
	f := opened(t)
	f.revoke("ab")
	size := len(f.read(revokedName))
	f.sleep(time.Hour)
	if err := f.Revoke(Revocation{Serial: "00:AB", Cause: Superseded, At: f.o.Now()}); err != nil {
		t.Fatal(err)
	}
	if r, _ := f.Revoked("ab"); r.Cause != KeyCompromise || !r.At.Equal(start) {
		t.Errorf("the first revocation became %v", r)
	}
	if got := len(f.read(revokedName)); got != size {
		t.Errorf("the log has %d bytes, want %d", got, size)
	}
}

func TestBadRevocations(t *testing.T) {
	f := opened(t)
	wantError(t, f.Revoke(Revocation{Serial: "x"}), `serial number "x"`)
	wantError(t, f.Revoke(Revocation{Serial: "a", Cause: 6}), "cause 6 is none that applies")
	if got := f.Revocations(); len(got) != 0 {
		t.Errorf("revoked %v", got)
	}
}

// TestRevokeWithoutDisk shows that nobody gets in because of a full disk, and that
// the same call can be repeated.
func TestRevokeWithoutDisk(t *testing.T) {
	for _, fails := range []int{1, 2, 3, 4} { // append; create, write, rename of a rewrite
		f := opened(t)
		b := f.issue("d1")
		serials := []Revocation{{Serial: b.Serial, At: start}}
		if fails > 1 {
			serials = append(serials, Revocation{Serial: "ab", At: start})
		}
		step := 0
		f.dir.fault = func(what string) error {
			if step++; step == max(fails-1, 1) {
				return errors.New("disk full at " + what)
			}
			return nil
		}
		wantError(t, f.Revoke(serials...), "revoke: ", "disk full")
		f.show(b).refused(Revoked)
		if err := f.Revoke(serials...); err != nil {
			t.Fatal(err)
		}
		f.reopen()
		f.show(b).refused(Revoked)
		if got := len(f.Revocations()); got != len(serials) {
			t.Errorf("%d revocations, want %d", got, len(serials))
		}
	}
}

// TestCrashWhileRevoking cuts the last line at each byte: what was confirmed before
// holds, and the log can be used.
func TestCrashWhileRevoking(t *testing.T) {
	f := opened(t)
	f.revoke("ab")
	before := f.read(revokedName)
	f.revoke("cd")
	whole := f.read(revokedName)
	f.Close()
	var torn []string
	for n := len(before); n < len(whole); n++ {
		torn = append(torn, whole[:n])
	}
	hole := strings.Repeat("\x00", 10)
	torn = append(torn, before+hole+whole[len(before)+10:], before+hole)
	for _, text := range torn {
		f.write(revokedName, text)
		f.open()
		if _, ok := f.Revoked("ab"); !ok {
			t.Fatalf("%q: a confirmed revocation is lost", text)
		}
		f.revoke("ef")
		f.reopen()
		if got := len(f.Revocations()); got != 2 {
			t.Fatalf("%q: %d revocations, want 2", text, got)
		}
		f.Close()
	}
	if got := f.reported(); strings.Count(got, "of a revocation that a crash cut off") != len(torn)-1 {
		t.Errorf("reported %q", got)
	}
}

// TestDamagedLog shows that a revocation is never dropped silently.
func TestDamagedLog(t *testing.T) {
	f := opened(t)
	f.revoke("ab")
	f.revoke("cd")
	good := f.read(revokedName)
	f.Close()
	for i := range len(good) {
		if good[i] == '\n' && i == len(good)-1 {
			continue // then the last line looks cut off
		}
		damaged := []byte(good)
		damaged[i] ^= 0x01
		f.write(revokedName, string(damaged))
		if err := f.tryOpen(); err == nil {
			t.Fatalf("byte %d changed in %q, and it opens", i, good)
		} else {
			wantError(t, err, "revoked: line ", "put it back from a backup")
		}
	}
}

// TestRevocationsEnd shows that what nobody needs any more is forgotten.
func TestRevocationsEnd(t *testing.T) {
	f := opened(t)
	f.revoke("ab")
	if err := f.Revoke(Revocation{Serial: "cd", At: start}); err != nil { // its end is not known
		t.Fatal(err)
	}
	f.sleep(DeviceValidity + day)
	f.reopen()
	if got := len(f.Revocations()); got != 2 {
		t.Errorf("%d revocations at the end, want 2", got)
	}
	f.sleep(CRLValidity)
	if got := len(f.list().RevokedCertificateEntries); got != 1 {
		t.Errorf("%d entries after the end, want 1", got)
	}
	f.reopen()
	if got := fmt.Sprint(f.Revocations()[0].Serial); got != "cd" || len(f.Revocations()) != 1 {
		t.Errorf("revocations %v, want cd only", f.Revocations())
	}
}

func TestCRL(t *testing.T) {
	f := opened(t)
	first := f.list()
	if len(first.RevokedCertificateEntries) != 0 || !first.NextUpdate.Equal(start.Add(CRLValidity)) {
		t.Errorf("first list: %v until %v", first.RevokedCertificateEntries, first.NextUpdate)
	}
	f.revoke("ab")
	second := f.list()
	if e := second.RevokedCertificateEntries; len(e) != 1 || serialOf(e[0].SerialNumber) != "ab" || e[0].ReasonCode != int(KeyCompromise) || !e[0].RevocationTime.Equal(start) {
		t.Errorf("second list: %v", e)
	}
	if second.Number.Cmp(first.Number) <= 0 {
		t.Errorf("number %v after %v", second.Number, first.Number)
	}
	f.sleep(CRLValidity/2 - time.Second)
	if got := f.list().Number; got.Cmp(second.Number) != 0 {
		t.Error("signed anew though nothing has changed")
	}
	f.sleep(time.Second)
	if got := f.list(); got.Number.Cmp(second.Number) <= 0 || !got.NextUpdate.Equal(f.o.Now().Add(CRLValidity)) {
		t.Error("not signed anew at half of its time")
	}
}

func TestCRLFile(t *testing.T) {
	f := opened(t)
	f.revoke("ab")
	f.Maintain()
	block, _ := pem.Decode([]byte(f.read(crlName)))
	onDisk, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := f.CRLPEM(); err != nil || string(text) != f.read(crlName) {
		t.Errorf("CRLPEM() is not what is on disk (%v)", err)
	}
	if len(onDisk.RevokedCertificateEntries) != 1 {
		t.Errorf("on disk: %v", onDisk.RevokedCertificateEntries)
	}
	f.reopen() // at the same second
	if got := f.list().Number; got.Cmp(onDisk.Number) <= 0 {
		t.Errorf("number %v after %v", got, onDisk.Number)
	}
	f.Close()
	f.write(crlName, "damaged")
	f.open()
	if got := len(f.list().RevokedCertificateEntries); got != 1 {
		t.Errorf("%d entries after the file was damaged, want 1", got)
	}
}

func TestNextCRLNumber(t *testing.T) {
	now := time.Unix(1000, 0)
	for last, want := range map[int64]int64{0: 1000, 999: 1000, 1000: 1001, 5000: 5001} {
		if got := nextCRLNumber(big.NewInt(last), now); got.Int64() != want {
			t.Errorf("nextCRLNumber(%d) = %v, want %d", last, got, want)
		}
	}
}

func TestCauses(t *testing.T) {
	if got := KeyCompromise.String() + ", " + Cause(6).String(); got != "key compromise, cause 6" {
		t.Errorf("causes %q", got)
	}
}

func TestLargeFile(t *testing.T) {
	f := opened(t)
	f.Close()
	if err := os.Truncate(filepath.Join(f.path, revokedName), fileMax+1); err != nil {
		t.Fatal(err)
	}
	wantError(t, f.tryOpen(), "more than")
}
