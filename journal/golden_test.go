package journal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
)

// testdata/v<n>.txt holds what version n of each form writes for the samples that it
// knows. The files are never rewritten: disks are full of these bytes.
func golden(version byte) string { return fmt.Sprintf("testdata/v%d.txt", version) }

// sampled is a sample as the present version writes it, and what it is read as.
type sampled struct {
	name    string
	version byte
	written []byte
	read    func([]byte) (any, error)
	want    any
}

// goldens are the samples in the order of the files.
func goldens() (all []sampled) {
	for _, s := range opSamples() {
		ops := numberOps([]Op{s.value}, 41)
		all = append(all, sampled{"record " + s.name, recordForm.version, appendRecord(header(ops), ops), func(b []byte) (any, error) {
			_, ops, err := readRecord(b)
			return ops, err
		}, ops})
	}
	for _, s := range sessionSamples() {
		all = append(all, sampled{"session " + s.name, sessionForm.version, AppendSession(nil, s.value), func(b []byte) (any, error) { return ReadSession(b) }, s.value})
	}
	for _, s := range chunkSamples() {
		all = append(all, sampled{"chunk " + s.name, chunkForm.version, AppendChunk(nil, s.value), func(b []byte) (any, error) { return ReadChunk(b) }, s.value})
	}
	for _, s := range retainedSamples() {
		all = append(all, sampled{"retained " + s.name, retainedForm.version, AppendRetained(nil, s.value), func(b []byte) (any, error) { return ReadRetained(b) }, s.value})
	}
	return all
}

const whatToDo = `
If the format is meant to change: nobody can read what was written before, unless you
  1. raise the version of the form in frame.go,
  2. keep the reader of the version before, and choose by the version in the frame,
  3. keep the files in testdata as they are, for that reader, and put the new bytes
     into one of their own,
  4. say so in docs/design/journal.md and in changelog/unreleased.
If it is not meant to change, undo what changed it.`

// TestGolden holds the format still, and lets every version be read for ever.
func TestGolden(t *testing.T) {
	lines := make(map[byte]map[string]string)
	for version := byte(1); ; version++ {
		text, err := os.ReadFile(golden(version))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		lines[version] = make(map[string]string)
		for line := range strings.Lines(string(text)) {
			if name, bytes, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.HasPrefix(line, "#") {
				lines[version][name] = bytes
			}
		}
	}
	for _, s := range goldens() {
		switch now := lines[s.version][s.name]; {
		case now == "":
			t.Errorf("%s lacks a sample. Add the line\n%s: %x", golden(s.version), s.name, s.written)
		case now != hex.EncodeToString(s.written):
			t.Errorf("the bytes of %q have changed:\n got %x\nwant %s%s", s.name, s.written, now, whatToDo)
		}
		for version, known := range lines {
			line := known[s.name]
			if line == "" {
				continue
			}
			delete(known, s.name)
			b, err := hex.DecodeString(line)
			if err != nil {
				t.Fatalf("%s: %q: %v", golden(version), s.name, err)
			}
			if got, err := s.read(b); err != nil || !reflect.DeepEqual(got, s.want) {
				t.Errorf("the bytes of %q in version %d are read as\n     %+v, %v\nwant %+v%s", s.name, version, got, err, s.want, whatToDo)
			}
		}
	}
	for version, known := range lines {
		for name := range known {
			t.Errorf("%s: %q is no sample any more: put it back, its bytes stand on disks", golden(version), name)
		}
	}
}
