package admin

import (
	"io"
	"slices"
	"strings"
	"testing"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/device"
	"fairlead/store/backup"
)

func backUp(t *testing.T, c *Client, secrets backup.Secrets) (sum backup.Summary, err error) {
	t.Helper()
	err = c.Backup(t.Context(), secrets, func(r io.Reader) (err error) {
		sum, err = backup.Verify(t.Context(), r, nil)
		return err
	})
	return sum, err
}

// TestBackupOfIdentity demands that the CA and the audit log are in a backup, and which
// secrets are.
func TestBackupOfIdentity(t *testing.T) {
	f := newFixture(t)
	keys := []string{"ca/issuing.key", "ca/root.key"}
	for _, secrets := range []backup.Secrets{backup.SecretsAll, backup.SecretsHashed, backup.SecretsNone, ""} {
		sum, err := backUp(t, f.local, secrets)
		if err != nil {
			t.Fatal(err)
		}
		in, out, want := keys, []string(nil), secrets
		if secrets != backup.SecretsAll {
			in, out = out, in
		}
		if want == "" {
			want = backup.SecretsHashed
		}
		if !sum.CA || sum.Secrets != want || !slices.Equal(sum.SecretFiles, in) || !slices.Equal(sum.LeftOut, out) {
			t.Errorf("secrets=%s: %+v", secrets, sum)
		}
		// The anchor, the log, and of the CA two certificates and the revocation list.
		if sum.Files < uint64(len(in))+5 {
			t.Errorf("secrets=%s: %d files", secrets, sum.Files)
		}
	}
	acts := f.entries(t, audit.Query{Action: "backup.make"})
	if len(acts) != 4 || !strings.Contains(string(rawOf(acts[0].After)), `"all"`) {
		t.Errorf("the audit log: %+v", acts)
	}
	_, err := backUp(t, f.local, "some")
	if p := problemOf(t, err); p.Status != 422 || !strings.Contains(p.Detail, "expected none, hashed or all") {
		t.Errorf("secrets=some: %+v", p)
	}
}

// TestKeysLeaveOverTheSocketOnly asks for private keys with an admin's token.
func TestKeysLeaveOverTheSocketOnly(t *testing.T) {
	f := newFixture(t)
	c := f.remote(t, f.user(t, device.User{Name: "anna", Role: auth.RoleAdmin}), nil)
	_, err := backUp(t, c, backup.SecretsAll)
	if p := problemOf(t, err); p.Status != 403 || !strings.Contains(p.Detail, Socket) {
		t.Errorf("secrets=all over HTTPS: %+v", p)
	}
	if sum, err := backUp(t, c, backup.SecretsHashed); err != nil || len(sum.LeftOut) != 2 {
		t.Errorf("secrets=hashed over HTTPS: %+v, %v", sum, err)
	}
	refused := f.refusalsWritten(t)
	if !slices.ContainsFunc(refused, func(e audit.Entry) bool { return e.Action == "backup.make" && e.Actor.Name == "anna" }) {
		t.Errorf("the refusal is not in the audit log: %+v", refused)
	}
}
