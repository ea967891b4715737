package backup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"fairlead/audit"
	"fairlead/store"
	"fairlead/store/backup"
	"fairlead/store/mem"
)

func some(files ...backup.File) func() ([]backup.File, error) {
	return func() ([]backup.File, error) { return files, nil }
}

// dir is a Target's files, in memory.
type dir map[string]string

type file struct {
	bytes.Buffer
	to   dir
	name string
}

func (f *file) Close() error {
	f.to[f.name] = f.String()
	return nil
}

func (d dir) create(name string, secret bool) (io.WriteCloser, error) {
	if secret {
		name += " (secret)"
	}
	return &file{to: d, name: name}, nil
}

// withKeys are two files of a CA, and one beside it.
func withKeys() func() ([]backup.File, error) {
	return some(backup.Bytes("audit/anchor", false, nil), backup.Bytes("ca/root.crt", false, []byte("certificate")), backup.Bytes("ca/root.key", true, []byte("the private key")))
}

func headWith(s backup.Secrets) backup.Head {
	h := head
	h.Secrets = s
	return h
}

func TestFiles(t *testing.T) {
	long := strings.Repeat("many blocks ", 100_000)
	contents := map[string]string{
		"a": "", "b": "short", "c": strings.Repeat("x", 256<<10), "d": strings.Repeat("x", 256<<10+1), "e/f": long,
	}
	var files []backup.File
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		files = append(files, backup.Bytes(name, false, []byte(contents[name])))
	}
	file := writeAll(t, backup.Source{Engine: mem.New(), Files: some(files...)}, head)
	got, commits := dir{}, 0
	sum, err := backup.Restore(t.Context(), iotest.OneByteReader(bytes.NewReader(file)), backup.Target{
		Engine: mem.New(), Create: got.create, Commit: func(s backup.Summary) error { commits += int(s.Files); return nil },
	}, nil)
	if err != nil || sum.Files != 5 || sum.CA || commits != 5 {
		t.Errorf("Restore: %+v, %v, committed with %d files", sum, err, commits)
	}
	if !maps.Equal(got, contents) {
		t.Errorf("other files than were backed up: %d of them", len(got))
	}
}

func TestSecretFiles(t *testing.T) {
	for secrets, want := range map[backup.Secrets]dir{
		backup.SecretsNone:   {"audit/anchor": "", "ca/root.crt": "certificate"},
		backup.SecretsHashed: {"audit/anchor": "", "ca/root.crt": "certificate"},
		backup.SecretsAll:    {"audit/anchor": "", "ca/root.crt": "certificate", "ca/root.key (secret)": "the private key"},
	} {
		var file bytes.Buffer
		wrote, err := backup.Write(t.Context(), &file, backup.Source{Engine: mem.New(), Files: withKeys()}, headWith(secrets), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := dir{}
		sum, err := backup.Restore(t.Context(), bytes.NewReader(file.Bytes()), backup.Target{Engine: mem.New(), Create: got.create}, nil)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: restored %v, %v, want %v", secrets, got, err, want)
		}
		if !reflect.DeepEqual(sum, wrote) {
			t.Errorf("%s: read %+v, written %+v", secrets, sum, wrote)
		}
		in, out := []string{"ca/root.key"}, []string(nil)
		if secrets != backup.SecretsAll {
			in, out = out, in
		}
		if !sum.CA || sum.Secrets != secrets || !slices.Equal(sum.SecretFiles, in) || !slices.Equal(sum.LeftOut, out) {
			t.Errorf("%s: %+v", secrets, sum)
		}
		if strings.Contains(file.String(), "the private key") != (secrets == backup.SecretsAll) {
			t.Errorf("%s: the key is in the file, or is not", secrets)
		}
	}
}

// TestSecretFileIsNotRead leaves a key out that can't be read anyway.
func TestSecretFileIsNotRead(t *testing.T) {
	key := backup.File{Name: "ca/root.key", Secret: true, Open: func() (io.ReadCloser, error) {
		t.Error("a key that is left out was opened")
		return nil, fs.ErrPermission
	}}
	writeAll(t, backup.Source{Engine: mem.New(), Files: some(key)}, head)
}

func TestBadFiles(t *testing.T) {
	broken := func(open func() (io.ReadCloser, error)) backup.File { return backup.File{Name: "b", Open: open} }
	for name, test := range map[string]struct {
		files []backup.File
		want  string
	}{
		"order":       {[]backup.File{backup.Bytes("b", false, nil), backup.Bytes("a", false, nil)}, `"a" after "b"`},
		"twice":       {[]backup.File{backup.Bytes("b", false, nil), backup.Bytes("b", false, nil)}, `"b" after "b"`},
		"path":        {[]backup.File{backup.Bytes("../b", false, nil)}, "expected a path below"},
		"rooted":      {[]backup.File{backup.Bytes("/b", false, nil)}, "expected a path below"},
		"directory":   {[]backup.File{backup.Bytes(".", false, nil)}, "expected a path below"},
		"backslash":   {[]backup.File{backup.Bytes(`a\b`, false, nil)}, "expected a path below"},
		"unprintable": {[]backup.File{backup.Bytes("a\x1b[2J", false, nil)}, "expected a path below"},
		"long":        {[]backup.File{backup.Bytes(strings.Repeat("a", 256), false, nil)}, "at most 255"},
		"open":        {[]backup.File{broken(func() (io.ReadCloser, error) { return nil, syscall.EACCES })}, "b: permission denied"},
		"read":        {[]backup.File{broken(func() (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(syscall.EIO)), nil })}, "b: input/output error"},
	} {
		_, err := backup.Write(t.Context(), io.Discard, backup.Source{Engine: mem.New(), Files: some(test.files...)}, head, nil)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	list := func() ([]backup.File, error) { return nil, syscall.EIO }
	if _, err := backup.Write(t.Context(), io.Discard, backup.Source{Engine: mem.New(), Files: list}, head, nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("a list that fails: %v, want EIO", err)
	}
	if _, err := backup.Write(t.Context(), io.Discard, backup.Source{Engine: mem.New()}, headWith("some"), nil); err == nil || !strings.Contains(err.Error(), "expected none, hashed or all") {
		t.Errorf(`secrets "some": %v`, err)
	}
}

// TestRestoreOfFilesFails lets each step on the files fail: the store stays unfinished.
func TestRestoreOfFilesFails(t *testing.T) {
	backedUp := writeAll(t, backup.Source{Engine: mem.New(), Files: withKeys()}, headWith(backup.SecretsAll))
	for name, to := range map[string]backup.Target{
		"create": {Create: func(string, bool) (io.WriteCloser, error) { return nil, syscall.ENOSPC }},
		"write":  {Create: func(string, bool) (io.WriteCloser, error) { return full{}, nil }},
		"close":  {Create: func(string, bool) (io.WriteCloser, error) { return unclosable{io.Discard}, nil }},
		"commit": {Create: dir{}.create, Commit: func(backup.Summary) error { return syscall.ENOSPC }},
	} {
		to.Engine = mem.New()
		if _, err := backup.Restore(t.Context(), bytes.NewReader(backedUp), to, nil); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v, want ENOSPC", name, err)
		}
		if u, err := backup.Unfinished(t.Context(), to.Engine); !u || err != nil {
			t.Errorf("%s: Unfinished: %v, %v", name, u, err)
		}
	}
}

type full struct{ failing }

func (full) Close() error { return nil }

type unclosable struct{ io.Writer }

func (unclosable) Close() error { return syscall.ENOSPC }

// block is one block, with its checksum.
func block(kind byte, body string) string {
	head := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), kind)
	table := crc32.MakeTable(crc32.Castagnoli)
	return string(binary.BigEndian.AppendUint32(head, crc32.Update(crc32.Checksum(head, table), table, []byte(body)))) + body
}

// begin is the beginning of a file of that version.
func begin(version byte) string {
	return "fairlead backup\n\x00\x00\x00" + string(version) + block('H', `{"made":"2026-11-25T12:00:00Z","program":"test","secrets":"all"}`)
}

func aFile(name string, flags byte, content string) string {
	return block('F', string(rune(len(name)))+name+string(flags)+content)
}

// TestWrongFileBlocks reads blocks that no Write makes.
func TestWrongFileBlocks(t *testing.T) {
	for name, test := range map[string]struct{ blocks, want string }{
		"version 1":           {begin(1) + aFile("a", 0, ""), `a block 'F' after 'H'`},
		"before keys":         {begin(2) + aFile("a", 0, "") + block('K', "\x01k\x01v"), `a block 'K' after 'F'`},
		"second head":         {begin(2) + block('H', "{}"), `a block 'H' after 'H'`},
		"unknown kind":        {begin(2) + block('X', ""), `a block 'X' after 'H'`},
		"no body":             {begin(2) + block('F', ""), "longer than the block"},
		"no flags":            {begin(2) + block('F', "\x01a"), "without flags"},
		"unknown flags":       {begin(2) + aFile("a", 8, ""), "flags 0x8"},
		"left out, public":    {begin(2) + aFile("a", 2, ""), "is not secret"},
		"left out, content":   {begin(2) + aFile("a", 3, "x"), "has content"},
		"left out, more":      {begin(2) + aFile("a", 7, ""), "left out"},
		"path":                {begin(2) + aFile("../a", 0, ""), "expected a path below"},
		"order":               {begin(2) + aFile("b", 0, "") + aFile("a", 0, ""), `"a" after "b"`},
		"again, left out":     {begin(2) + aFile("b", 3, "") + aFile("b", 0, ""), `"b" after "b"`},
		"within another":      {begin(2) + aFile("a", 4, "x") + aFile("b", 0, ""), `the file "b" within "a"`},
		"secret on the way":   {begin(2) + aFile("a", 4, "x") + aFile("a", 1, ""), `the file "a" within "a"`},
		"left out on the way": {begin(2) + aFile("a", 5, "x") + aFile("a", 3, ""), `the file "a" within "a"`},
		"incomplete":          {begin(2) + aFile("a", 4, "x") + block('E', strings.Repeat("\x00", 56)), `"a" is not complete`},
		"short end":           {begin(2) + block('E', strings.Repeat("\x00", 48)), "its end has 48 bytes, expected 56"},
		"unknown secrets":     {"fairlead backup\n\x00\x00\x00\x02" + block('H', `{"secrets":"few"}`), `secrets "few"`},
		"no secrets":          {"fairlead backup\n\x00\x00\x00\x02" + block('H', `{}`), `secrets ""`},
	} {
		_, err := backup.Verify(t.Context(), strings.NewReader(test.blocks), nil)
		if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want ErrDamaged and %q", name, err, test.want)
		}
	}
	many := begin(2)
	for i := range 1001 {
		many += aFile(fmt.Sprintf("k%04d", i), 3, "")
	}
	if _, err := backup.Verify(t.Context(), strings.NewReader(many), nil); err == nil || !strings.Contains(err.Error(), "more than 1000 files that are secret") {
		t.Errorf("1001 files left out: %v", err)
	}
}

// auditLog writes a log of several files, with as many acts.
func auditLog(t *testing.T, dir string, acts int) *audit.Log {
	t.Helper()
	l, err := audit.Open(dir, audit.Options{FileBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for i := range acts {
		if err := l.Act(t.Context(), audit.Entry{Action: "device.add", Object: fmt.Sprint(i), Reason: strings.Repeat("x", 500)}); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// restoreAudit restores the files of an audit log into a directory.
func restoreAudit(t *testing.T, files []backup.File) (to string) {
	t.Helper()
	to = filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(filepath.Join(to, "audit"), 0o700); err != nil {
		t.Fatal(err)
	}
	backedUp := writeAll(t, backup.Source{Engine: mem.New(), Files: some(files...)}, head)
	_, err := backup.Restore(t.Context(), bytes.NewReader(backedUp), backup.Target{Engine: mem.New(), Create: func(name string, _ bool) (io.WriteCloser, error) {
		return os.Create(filepath.Join(to, filepath.FromSlash(name)))
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(to, "audit")
}

// TestAuditLog backs a log up that is open, with an entry half written behind it.
func TestAuditLog(t *testing.T) {
	from := filepath.Join(t.TempDir(), "audit")
	l := auditLog(t, from, 30)
	latest := slices.Max(glob(t, from))
	f, err := os.OpenFile(latest, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"n":31,"time":"2026`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := backup.AuditLog(l.Dir())
	if err != nil || len(files) < 5 {
		t.Fatalf("AuditLog: %d files, %v, want an anchor and at least four more", len(files), err)
	}
	to := restoreAudit(t, files)
	r, err := audit.Verify(t.Context(), to, audit.VerifyOptions{})
	if err != nil || !r.OK() || r.Last != 30 || r.Torn != 0 {
		t.Errorf("Verify of the restored log: %+v, %v, want 30 entries and no torn one", r, err)
	}
	restored := auditLog(t, to, 1) // it goes on
	if s := restored.Stats(); s.Last != 31 {
		t.Errorf("the next entry is %d, want 31", s.Last)
	}
}

// TestAuditLogGrows reads what was listed, though more has come since.
func TestAuditLogGrows(t *testing.T) {
	from := filepath.Join(t.TempDir(), "audit")
	l := auditLog(t, from, 3)
	files, err := backup.AuditLog(from)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Act(t.Context(), audit.Entry{Action: "device.add", Object: "later"}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := audit.Verify(t.Context(), restoreAudit(t, files), audit.VerifyOptions{}); err != nil || !r.OK() || r.Last != 3 {
		t.Errorf("Verify: %+v, %v, want 3 entries", r, err)
	}
}

func TestAuditLogRemoved(t *testing.T) {
	from := filepath.Join(t.TempDir(), "audit")
	auditLog(t, from, 20)
	files, err := backup.AuditLog(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(slices.Min(glob(t, from))); err != nil {
		t.Fatal(err)
	}
	_, err = backup.Write(t.Context(), io.Discard, backup.Source{Engine: mem.New(), Files: some(files...)}, head, nil)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "try again") {
		t.Errorf("Write: %v, want ErrNotExist and advice", err)
	}
}

// TestAuditLogOdd is about what is no log, or a damaged one, which is backed up as it is.
func TestAuditLogOdd(t *testing.T) {
	from := t.TempDir()
	if files, err := backup.AuditLog(filepath.Join(from, "missing")); err != nil || len(files) > 0 {
		t.Errorf("no directory: %v, %v", files, err)
	}
	sizes := map[string]int{ // of what is backed up
		"audit-00000000000000000001.jsonl": 2 << 20, "audit-00000000000000000002.jsonl": 0, "audit-00000000000000000003.jsonl": 6,
	}
	for name, content := range map[string]string{
		"audit-00000000000000000001.jsonl": strings.Repeat("x", 2<<20), "audit-00000000000000000002.jsonl": "half",
		"audit-00000000000000000003.jsonl": "entry\nhalf", "notes.txt": "not ours", "anchor.new": "half",
	} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := backup.AuditLog(from)
	if err != nil || len(files) != len(sizes) {
		t.Fatalf("AuditLog: %d files, %v, want %d", len(files), err, len(sizes))
	}
	to := restoreAudit(t, files)
	for name, size := range sizes {
		if info, err := os.Stat(filepath.Join(to, name)); err != nil || info.Size() != int64(size) {
			t.Errorf("%s: %v, want %d bytes", name, err, size)
		}
	}
}

func glob(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "audit-*.jsonl"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files of a log: %v", err)
	}
	return names
}

func FuzzVerify(f *testing.F) {
	for _, name := range []string{"v1.backup", "v2.backup"} {
		file, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file)
		f.Add(file[:len(file)/2])
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		// Whatever the bytes are, it neither panics nor reports an EOF of its own, and a
		// restore finds what Verify does.
		_, err := backup.Verify(t.Context(), bytes.NewReader(file), nil)
		if err != nil && errors.Is(err, io.EOF) {
			t.Errorf("an EOF of its own: %v", err)
		}
		_, other := backup.Restore(t.Context(), bytes.NewReader(file), backup.Target{Engine: mem.New(), Create: dir{}.create}, nil)
		if (err == nil) != (other == nil) {
			t.Errorf("Verify: %v, Restore: %v", err, other)
		}
	})
}

// FuzzBlocks reads blocks of any kinds and bodies, whose checksums are right.
func FuzzBlocks(f *testing.F) {
	f.Add("K", []byte("\x01a\x01b"), "R", []byte("\x01r"), "F", []byte("\x04ca/x\x00content"))
	f.Add("F", []byte("\x01a\x04begin"), "F", []byte("\x01a\x00end"), "F", []byte("\x01b\x03"))
	f.Add("H", []byte("{}"), "E", make([]byte, 56), "", []byte(nil))
	f.Fuzz(func(t *testing.T, kind1 string, body1 []byte, kind2 string, body2 []byte, kind3 string, body3 []byte) {
		file := begin(2)
		for _, b := range []struct {
			kind string
			body []byte
		}{{kind1, body1}, {kind2, body2}, {kind3, body3}} {
			if b.kind != "" {
				file += block(b.kind[0], string(b.body))
			}
		}
		last, got := "", dir{}
		_, err := backup.Restore(context.Background(), strings.NewReader(file), backup.Target{Engine: mem.New(), Create: func(name string, secret bool) (io.WriteCloser, error) {
			if !fs.ValidPath(name) || name <= last {
				t.Errorf("a file %q after %q", name, last)
			}
			last = name
			return got.create(name, secret)
		}}, nil)
		if !errors.Is(err, store.ErrDamaged) {
			t.Errorf("without a right end: %v, want ErrDamaged", err)
		}
	})
}
