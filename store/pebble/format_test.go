package pebble

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

func TestFormat(t *testing.T) {
	var ran []string
	step := func(name string, err error) migration {
		return func(vfs.FS, string) error {
			ran = append(ran, name)
			return err
		}
	}
	broken := errors.New("broken")
	for _, test := range []struct {
		name    string
		version int // -1: none is written
		steps   []migration
		ran     []string
		after   int
		err     error
		says    string
	}{
		{name: "new", version: -1, steps: []migration{step("0", nil)}, after: 1},
		{name: "present", version: 1, steps: []migration{step("0", nil)}, after: 1},
		{name: "older", version: 0, steps: []migration{step("0", nil)}, ran: []string{"0"}, after: 1},
		{name: "two older", version: 0, steps: []migration{step("0", nil), step("1", nil)}, ran: []string{"0", "1"}, after: 2},
		{name: "broken off", version: 0, steps: []migration{step("0", nil), step("1", broken)}, ran: []string{"0", "1"}, after: 1, err: broken},
		{name: "newer", version: 7, steps: []migration{step("0", nil)}, after: 7, err: store.ErrNewerFormat, says: "version 7, and this program knows up to 1"},
		{name: "too old", version: 0, steps: []migration{nil, step("1", nil)}, after: 0, says: "reads from version 1 on"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ran = nil
			mem := vfs.NewMem()
			if err := makeDir(mem, "data"); err != nil {
				t.Fatal(err)
			}
			if test.version >= 0 {
				if err := writeFormat(mem, "data", test.version); err != nil {
					t.Fatal(err)
				}
			}
			err := openFormat(mem, "data", test.steps)
			if test.err == nil && test.says == "" && err != nil || !errors.Is(err, test.err) && test.err != nil {
				t.Fatalf("error %v, expected %v", err, test.err)
			}
			if test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Fatalf("error %v, expected %q in it", err, test.says)
			}
			if !slices.Equal(ran, test.ran) {
				t.Fatalf("migrations %q ran, expected %q", ran, test.ran)
			}
			if got, err := readFormat(mem, "data"); got != test.after {
				t.Fatalf("version %d, %v afterwards, expected %d", got, err, test.after)
			}
		})
	}
}

func TestFormatUnreadable(t *testing.T) {
	mem := vfs.NewMem()
	e, err := Open("data", Options{FS: mem})
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	writeFile(t, mem, "data/FORMAT", []byte("fairlead stone 1\n"))
	if _, err := Open("data", Options{FS: mem}); !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("Open with an unreadable FORMAT: %v", err)
	}
	if err := mem.Remove("data/FORMAT"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("data", Options{FS: mem}); !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("Open without FORMAT beside data: %v", err)
	}
}

func TestOpenTwice(t *testing.T) {
	for _, fs := range []vfs.FS{vfs.NewMem(), vfs.Default} {
		dir := t.TempDir()
		e, err := Open(dir, Options{FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{FS: fs}); err == nil || !strings.Contains(err.Error(), "another process") {
			t.Fatalf("a second Open: %v", err)
		}
		if _, err := Check(t.Context(), dir, Options{FS: fs}, nil); err == nil {
			t.Fatal("Check of a directory in use returned no error")
		}
		e.Close()
		e, err = Open(dir, Options{FS: fs})
		if err != nil {
			t.Fatalf("Open after Close: %v", err)
		}
		e.Close()
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Durability: 7}, {SegmentBytes: 1}} {
		if _, err := Open(t.TempDir(), o); err == nil {
			t.Errorf("Open accepted %+v", o)
		}
	}
}
