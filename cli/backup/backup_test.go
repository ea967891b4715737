package backup

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fairlead/ca"
	"fairlead/cli/clitest"
	"fairlead/store/backup"
)

// TestFilesOfTheCA demands that a CA that nobody has open is read as it exports itself.
func TestFilesOfTheCA(t *testing.T) {
	dir := t.TempDir()
	a, err := ca.Open(filepath.Join(dir, "ca"), ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Revoke(ca.Revocation{Serial: "ab"}); err != nil {
		t.Fatal(err)
	}
	exported, err := a.Export()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(exported, func(x, y ca.File) int { return strings.Compare(x.Name, y.Name) })
	files, err := caFiles(dir)
	if err != nil || len(files) != len(exported) {
		t.Fatalf("caFiles: %d files, %v, want %d", len(files), err, len(exported))
	}
	for i, f := range files {
		want := exported[i]
		if f.Name != backup.CA+want.Name || f.Secret != want.Secret {
			t.Errorf("file %d is %s, secret: %v, want %s, %v", i, f.Name, f.Secret, want.Name, want.Secret)
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want.Data) {
			t.Errorf("%s: %d bytes, %v, want %d", f.Name, len(got), err, len(want.Data))
		}
	}
}

func TestNoCA(t *testing.T) {
	dir := t.TempDir()
	if files, err := caFiles(dir); err != nil || len(files) > 0 {
		t.Errorf("caFiles without a CA: %v, %v", files, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ca")); err == nil {
		t.Error("a CA was begun")
	}
	if err := os.MkdirAll(filepath.Join(dir, "ca", "root.crt"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := caFiles(dir); err == nil || !strings.Contains(err.Error(), "root.crt") {
		t.Errorf("a directory in place of a file: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	for _, test := range []struct{ args, want string }{
		{"", "expected one FILE, got 0"},
		{"a b", "expected one FILE, got 2"},
		{"--with-secrets --without-secrets --data " + t.TempDir() + " " + file, "expected one of them"},
		{t.TempDir(), "is there and is no file"},
	} {
		clitest.Run(t, Command, "", strings.Fields(test.args)...).Want(t, 2, "", test.want)
	}
	clitest.Run(t, Command, "", "--data", t.TempDir(), file).Want(t, 1, "", "holds no data of a broker")
	if found, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); err != nil || len(found) > 0 {
		t.Errorf("left behind: %v, %v", found, err)
	}
}

// TestOtherBroker asks a broker that knows nothing of secrets.
func TestOtherBroker(t *testing.T) {
	old, err := os.ReadFile(filepath.FromSlash("../../store/backup/testdata/v1.backup"))
	if err != nil {
		t.Fatal(err)
	}
	b := clitest.NewBroker(t)
	b.On("POST /v1/backup", old)
	file := filepath.Join(t.TempDir(), "file")
	clitest.Run(t, Command, "", "--data", b.Dir, file).Want(t, 1, "", "it is of another version")
	if _, err := os.Stat(file); err == nil {
		t.Error("a backup was kept that is not what was asked for")
	}
}

func TestSecretLines(t *testing.T) {
	key := []string{"ca/issuing.key"}
	for _, test := range []struct {
		sum       backup.Summary
		encrypted bool
		want      []string
	}{
		{backup.Summary{}, true, []string{"certificate authority: there is none"}},
		{backup.Summary{CA: true, SecretFiles: key, Head: backup.Head{Secrets: backup.SecretsAll}}, true, []string{"keys of the CA: in it, encrypted (ca/issuing.key)"}},
		{backup.Summary{CA: true, SecretFiles: key, Head: backup.Head{Secrets: backup.SecretsAll}}, false,
			[]string{"keys of the CA: in it, and not encrypted (ca/issuing.key)", "passwords and tokens: in it, as hashes"}},
		{backup.Summary{CA: true, Head: backup.Head{Secrets: backup.SecretsAll}}, true, []string{"keys of the CA: there are none in its directory"}},
		{backup.Summary{CA: true, LeftOut: key, Head: backup.Head{Secrets: backup.SecretsHashed}}, false,
			[]string{"keys of the CA: left out (ca/issuing.key); give a passphrase", "  Keep them elsewhere", "passwords and tokens: in it, as hashes"}},
		{backup.Summary{CA: true, LeftOut: key, Head: backup.Head{Secrets: backup.SecretsNone}}, true,
			[]string{"keys of the CA: left out, as you say (ca/issuing.key)", "  Keep them elsewhere", "passwords and tokens: left out, as you say"}},
	} {
		got := secretLines(test.sum, test.encrypted)
		if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
			t.Errorf("%+v, encrypted: %v: %q, want %q", test.sum, test.encrypted, got, test.want)
		}
	}
}
