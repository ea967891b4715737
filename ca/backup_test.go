package ca

import (
	"path/filepath"
	"slices"
	"testing"
)

func TestExportAndRestore(t *testing.T) {
	f := opened(t)
	kept, revoked := f.issue("d1"), f.issue("d2")
	f.revoke(revoked.Serial)
	f.Maintain()
	number := f.list().Number
	files, err := f.Export()
	if err != nil {
		t.Fatal(err)
	}
	root := f.read(rootCertName)
	f.Close()

	slices.Reverse(files) // any order will do
	f.path = filepath.Join(t.TempDir(), "restored", "ca")
	if err := Restore(f.path, files); err != nil {
		t.Fatal(err)
	}
	f.open()
	if f.read(rootCertName) != root {
		t.Error("another root")
	}
	f.show(kept).want("d1")
	f.show(revoked).refused(Revoked)
	if got := f.list().Number; got.Cmp(number) <= 0 {
		t.Errorf("CRL number %v after %v", got, number)
	}
	f.checkWhole()
}

func TestExportNamesSecrets(t *testing.T) {
	f := opened(t)
	secrets := func() (names []string) {
		files, err := f.Export()
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if file.Secret {
				names = append(names, file.Name)
			}
		}
		return names
	}
	if got := secrets(); !slices.Equal(got, []string{issuingKeyName, rootKeyName}) {
		t.Errorf("secrets %q", got)
	}
	f.remove(rootKeyName)
	if got := secrets(); !slices.Equal(got, []string{issuingKeyName}) {
		t.Errorf("secrets %q without the root's key", got)
	}
}

func TestRestoreWithoutSecrets(t *testing.T) {
	f := opened(t)
	files, err := f.Export()
	if err != nil {
		t.Fatal(err)
	}
	f.path = filepath.Join(t.TempDir(), "ca")
	files = slices.DeleteFunc(files, func(file File) bool { return file.Secret })
	if err := Restore(f.path, files); err != nil {
		t.Fatal(err)
	}
	wantError(t, f.tryOpen(), "issuing.key is missing: put it back from a backup")
}

// TestRestoreCutShort stops after each file: Open never begins a new CA.
func TestRestoreCutShort(t *testing.T) {
	f := opened(t)
	f.revoke("ab")
	f.Maintain()
	files, err := f.Export()
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(files); n++ {
		f.path = filepath.Join(t.TempDir(), "ca")
		if err := Restore(f.path, files[:n]); err != nil {
			t.Fatal(err)
		}
		wantError(t, f.tryOpen(), "root.crt is missing", "restore the whole directory again")
	}
}

func TestRestoreRefuses(t *testing.T) {
	f := opened(t)
	for _, name := range []string{"../x", "lock", "/etc/passwd", "", "root.key/x"} {
		wantError(t, Restore(filepath.Join(t.TempDir(), "ca"), []File{{Name: name}}), "is not a file of a CA")
	}
	files, err := f.Export()
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, Restore(f.path, files), "another process uses this CA")
	f.Close()
	wantError(t, Restore(f.path, files), "has files already")
}
