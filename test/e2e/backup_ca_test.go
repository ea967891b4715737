package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDevicesOutliveTheirBroker loses a data directory and restores a backup: a device
// goes on with the certificate and the rights it had. Without the keys of the CA the
// broker says what is missing, and begins no other CA.
func TestDevicesOutliveTheirBroker(t *testing.T) {
	c := newCastle(t, settings{})
	pump := c.device("pump")
	passphrase := filepath.Join(c.dir, "passphrase")
	if err := os.WriteFile(passphrase, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole, keyless := filepath.Join(c.dir, "whole.backup"), filepath.Join(c.dir, "keyless.backup")
	c.do("backup", "--passphrase-file", passphrase, whole)
	if out := c.do("backup", keyless); !strings.Contains(out, "keys of the CA: left out") {
		t.Errorf("backup without a passphrase:\n%s", out)
	}
	c.kill()
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	lose := func() {
		if err := os.RemoveAll(c.data); err != nil {
			t.Fatal(err)
		}
	}

	lose()
	if out := c.do("restore", keyless); !strings.Contains(out, "keys of the CA: not in it") {
		t.Errorf("restore without keys:\n%s", out)
	}
	if code, out, errs := c.try("", "serve", "--config", c.config); code == 0 || !strings.Contains(out+errs, "issuing.key is missing: put it back from a backup") {
		t.Errorf("serve without the keys of the CA: exit code %d\n%s%s", code, out, errs)
	}

	lose()
	c.do("restore", "--passphrase-file", passphrase, whole)
	c.serve()
	if !slices.Equal(read(filepath.Join(c.data, "ca", "root.crt")), read(pump.ca)) {
		t.Fatal("the device does not trust the root that was restored")
	}
	d := c.as(pump, "pump")
	if code := subscribeTo(t, d, "devices/pump/#"); code >= 0x80 {
		t.Errorf("SUBSCRIBE to its own topics: %v", code)
	}
	if code := subscribeTo(t, d, "devices/other/#"); code < 0x80 {
		t.Errorf("SUBSCRIBE to another's topics: %v", code)
	}
	if err := publishTo(t, d, "devices/pump/state", "on"); err != nil {
		t.Error(err)
	}
	wantNext(t, d, "devices/pump/state", "on")
	c.audited("act", "backup.restore")
	c.audited("act", "device.add", "pump")
}
