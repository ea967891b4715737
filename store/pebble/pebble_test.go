package pebble_test

import (
	"testing"

	"fairlead/store"
	"fairlead/store/pebble"
	"fairlead/store/storetest"
)

// options are such that a journal soon has many segments.
var options = pebble.Options{SegmentBytes: 128 << 10}

func mustOpen(t *testing.T, dir string, o pebble.Options) *pebble.Engine {
	t.Helper()
	e, err := pebble.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestEngine(t *testing.T) {
	for _, durability := range []pebble.Durability{pebble.Fsync, pebble.OS} {
		o := options
		o.Durability = durability
		t.Run([]string{"Fsync", "OS"}[durability], func(t *testing.T) {
			dirs := make(map[store.Engine]string)
			storetest.Run(t, func(t *testing.T) store.Engine {
				dir := t.TempDir()
				e := mustOpen(t, dir, o)
				dirs[e] = dir
				return e
			}, func(t *testing.T, e store.Engine) store.Engine {
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				again := mustOpen(t, dirs[e], o)
				dirs[again] = dirs[e]
				if torn := again.Opened().TornBytes; torn != 0 {
					t.Fatalf("%d torn bytes after a Close", torn)
				}
				return again
			})
		})
	}
}
