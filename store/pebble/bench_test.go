package pebble

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

// BenchmarkFdatasync is what the disk can do: 4 KiB written over blocks that are
// there, and made durable. Compare BenchmarkAppend of the same run with it.
func BenchmarkFdatasync(b *testing.B) {
	f, err := vfs.Default.OpenReadWrite(filepath.Join(b.TempDir(), "f"), vfs.WriteCategoryUnspecified)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const size = 16 << 20
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, block)
	off := int64(0)
	for b.Loop() {
		if _, err := f.WriteAt(buf, off); err != nil {
			b.Fatal(err)
		}
		if err := f.SyncData(); err != nil {
			b.Fatal(err)
		}
		off = (off + block) % size
	}
}

// BenchmarkAppend trims as a broker does, so that segments are recycled. written/B
// is how many bytes go to the file for each byte of payload, by write calls: the
// seals in it are mostly written over before they reach the disk.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{64, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e, err := Open(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			rec := make([]byte, n)
			before := e.journal.written.Load()
			b.SetBytes(int64(n))
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				at, err := e.Journal().Append(b.Context(), rec)
				if err != nil {
					b.Fatal(err)
				}
				if i++; i%1000 == 0 {
					if err := e.Journal().Trim(b.Context(), Own, at-100); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(e.journal.written.Load()-before)/float64(i*n), "written/B")
			s := e.Stats()
			b.ReportMetric(float64(s.SyncLatency.Quantile(0.99).Microseconds()), "p99-sync-µs")
		})
	}
}

// BenchmarkPut is one caller, and many who share an fsync.
func BenchmarkPut(b *testing.B) {
	e, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	value := make([]byte, 1024)
	b.Run("1", func(b *testing.B) {
		for b.Loop() {
			if _, err := e.KV().Put(b.Context(), "key", value, store.PutOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := e.KV().Put(b.Context(), "key", value, store.PutOptions{}); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkOpen(b *testing.B) {
	mem := vfs.NewMem()
	j, _, err := testJournal(mem, Fsync)
	if err != nil {
		b.Fatal(err)
	}
	j.segmentMax = segmentDefault
	rec := make([]byte, 16<<10)
	const n = 2000
	for range n {
		if _, err := j.Append(b.Context(), rec); err != nil {
			b.Fatal(err)
		}
	}
	j.close()
	b.SetBytes(n * int64(len(rec)))
	for b.Loop() {
		if _, err := surveyJournal(b.Context(), mem, "data/journal", nil); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	e, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	rec := make([]byte, 10_000)
	appendOne := func() {
		if _, err := e.Journal().Append(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	appendOne() // the segment, and the buffer
	// Housekeeping allocates a little beside it.
	if n := testing.AllocsPerRun(200, appendOne); n >= 1 {
		t.Errorf("%v allocations for an Append, expected none", n)
	}
}
