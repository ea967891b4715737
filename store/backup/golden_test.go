package backup_test

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"fairlead/store"
	"fairlead/store/backup"
	"fairlead/store/mem"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/v2.backup, if the format is meant to change")

// anna is a user in the KV.
const anna = `{"v":1,"user":{"password":"$argon2id$x","created":"2026-11-25T12:00:00Z","updated":"2026-11-25T12:00:00Z"}}`

// small is what the files in testdata have been written of.
func small(t *testing.T) backup.Source {
	t.Helper()
	e := mem.New()
	err := e.KV().Batch(t.Context(), []store.Op{
		{Key: "node/ckpt", Value: checkpoint(1, 1001)}, {Key: "registry/user/anna", Value: []byte(anna)}, {Key: "s/a", Value: []byte("a session")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range []string{"one", "two"} {
		if _, err := e.Journal().Append(t.Context(), []byte(record)); err != nil {
			t.Fatal(err)
		}
	}
	return backup.Source{Engine: e, From: 1, Files: withKeys()}
}

// TestBytesOfTheFormat demands that this version writes the bytes it has always written.
func TestBytesOfTheFormat(t *testing.T) {
	name := filepath.Join("testdata", "v2.backup")
	got := writeAll(t, small(t), head)
	if *rewrite {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("Write makes\n%q\nwant\n%q", got, want)
	}
}

// TestVersions reads the files of all versions that there have been.
func TestVersions(t *testing.T) {
	for name, want := range map[string]struct {
		secrets backup.Secrets
		files   dir
		leftOut []string
	}{
		"v1.backup": {"", dir{}, nil},
		"v2.backup": {backup.SecretsHashed, dir{"audit/anchor": "", "ca/root.crt": "certificate"}, []string{"ca/root.key"}},
	} {
		file, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		e, files := mem.New(), dir{}
		sum, err := backup.Restore(t.Context(), bytes.NewReader(file), backup.Target{Engine: e, Create: files.create}, nil)
		if err != nil || sum.Keys != 3 || sum.Records != 1 || sum.Secrets != want.secrets || sum.CA != (len(want.files) > 0) ||
			!slices.Equal(sum.LeftOut, want.leftOut) || !sum.Made.Equal(head.Made) || sum.Bytes != int64(len(file)) {
			t.Errorf("%s: %+v, %v", name, sum, err)
		}
		if !maps.Equal(files, want.files) {
			t.Errorf("%s: files %v, want %v", name, files, want.files)
		}
		keys, records := contents(t, e)
		if !maps.Equal(keys, map[string]string{"node/ckpt": string(checkpoint(0, 1001)), "registry/user/anna": anna, "s/a": "a session"}) || !slices.Equal(records, []string{"two"}) {
			t.Errorf("%s: %v, %v", name, keys, records)
		}
	}
}
