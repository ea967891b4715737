package audit_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"fairlead/audit"
)

// FuzzLine reads any line. What is accepted has the hash it states.
func FuzzLine(f *testing.F) {
	l, err := audit.Open(f.TempDir(), audit.Options{})
	if err != nil {
		f.Fatal(err)
	}
	if err := l.Act(context.Background(), suspend("door-1")); err != nil {
		f.Fatal(err)
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(l.Dir(), audit.FileName(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.TrimSuffix(text, []byte("\n")))
	f.Add([]byte(`,"hash":"0000000000000000000000000000000000000000000000000000000000000000"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := audit.ParseLine(line)
		if err != nil {
			return
		}
		if e.Number == 0 || !bytes.HasSuffix(line, []byte(`,"hash":"`+e.Hash.String()+`"}`)) {
			t.Errorf("accepted %q as %+v", line, e)
		}
	})
}

// FuzzFiles opens a log of any bytes. It must be usable, whole lines must stay, and
// what was wrong must stay wrong.
func FuzzFiles(f *testing.F) {
	dir := f.TempDir()
	l, err := audit.Open(dir, audit.Options{})
	if err != nil {
		f.Fatal(err)
	}
	for range 3 {
		if err := l.Act(context.Background(), suspend("door-1")); err != nil {
			f.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	name := audit.FileName(1)
	text, _ := os.ReadFile(filepath.Join(dir, name))
	anchor, _ := os.ReadFile(filepath.Join(dir, audit.AnchorName))
	f.Add(text, anchor)
	f.Add(text[:len(text)-10], []byte("{\"n\":0,\"hash\":\"0000000000000000000000000000000000000000000000000000000000000000\"}\n"))
	f.Add(append(bytes.Clone(text), "\x00\x00"...), anchor)
	f.Add([]byte("\n"), []byte("{}"))
	f.Fuzz(func(t *testing.T, text, anchor []byte) {
		dir := fill(t, map[string][]byte{name: text, audit.AnchorName: anchor})
		before := verify(t, dir)
		l, err := audit.Open(dir, audit.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Act(context.Background(), suspend("after")); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		after := verify(t, dir)
		if after.Last <= before.Last {
			t.Errorf("entry %d was followed by %d", before.Last, after.Last)
		}
		lines := bytes.LastIndexByte(text, '\n') + 1
		if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.HasPrefix(now, text[:lines]) {
			t.Errorf("whole lines were changed: %v", err)
		}
		for _, w := range before.Wrong {
			if w.File == name && after.OK() {
				t.Errorf("Verify found %v, and nothing after Open", w)
			}
		}
		for _, oldest := range []bool{true, false} {
			if _, err := audit.List(t.Context(), dir, audit.Query{OldestFirst: oldest}); err != nil {
				t.Error(err)
			}
		}
	})
}
