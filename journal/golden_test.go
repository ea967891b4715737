package journal

import (
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// testdata/v1.txt holds what version 1 of each form writes for the samples. It is
// never rewritten: disks are full of these bytes.
const golden = "testdata/v1.txt"

// goldens are the samples in the order of the file, each with what it is read as.
func goldens() (names []string, written map[string][]byte, read map[string]func([]byte) (any, error), want map[string]any) {
	written, read, want = make(map[string][]byte), make(map[string]func([]byte) (any, error)), make(map[string]any)
	add := func(name string, b []byte, value any, r func([]byte) (any, error)) {
		names = append(names, name)
		written[name], read[name], want[name] = b, r, value
	}
	for _, s := range opSamples() {
		ops := numberOps([]Op{s.value}, 41)
		add("record "+s.name, appendRecord(header(ops), ops), ops, func(b []byte) (any, error) {
			_, ops, err := readRecord(b)
			return ops, err
		})
	}
	for _, s := range sessionSamples() {
		add("session "+s.name, AppendSession(nil, s.value), s.value, func(b []byte) (any, error) { return ReadSession(b) })
	}
	for _, s := range chunkSamples() {
		add("chunk "+s.name, AppendChunk(nil, s.value), s.value, func(b []byte) (any, error) { return ReadChunk(b) })
	}
	for _, s := range retainedSamples() {
		add("retained "+s.name, AppendRetained(nil, s.value), s.value, func(b []byte) (any, error) { return ReadRetained(b) })
	}
	return names, written, read, want
}

const whatToDo = `
If the format is meant to change: nobody can read what was written before, unless you
  1. raise the version of the form in frame.go,
  2. keep the reader of the version before, and choose by the version in the frame,
  3. keep testdata/v1.txt as it is, for that reader, and put the new bytes into a file
     of their own,
  4. say so in docs/design/journal.md and in changelog/unreleased.
If it is not meant to change, undo what changed it.`

// TestGolden holds the format still.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if name, bytes, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.HasPrefix(line, "#") {
			lines[name] = bytes
		}
	}
	names, written, read, want := goldens()
	for _, name := range names {
		line := fmt.Sprintf("%s: %x", name, written[name])
		if lines[name] == "" {
			t.Errorf("%s lacks a sample. Add the line\n%s", golden, line)
			continue
		}
		if got := hex.EncodeToString(written[name]); got != lines[name] {
			t.Errorf("the bytes of %q have changed:\n got %s\nwant %s%s", name, got, lines[name], whatToDo)
		}
		b, err := hex.DecodeString(lines[name])
		if err != nil {
			t.Fatalf("%s: %q: %v", golden, name, err)
		}
		if got, err := read[name](b); err != nil || !reflect.DeepEqual(got, want[name]) {
			t.Errorf("the bytes of %q are read as\n     %+v, %v\nwant %+v%s", name, got, err, want[name], whatToDo)
		}
		delete(lines, name)
	}
	for name := range lines {
		t.Errorf("%s: %q is no sample any more: put it back, its bytes stand on disks", golden, name)
	}
}
