package audit_test

import (
	"context"
	"os"
	"testing"

	"fairlead/audit"
)

// BenchmarkAct writes acts of many goroutines, which share writes.
func BenchmarkAct(b *testing.B) {
	dir, err := os.MkdirTemp(".", "bench") // on a disk
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := audit.Open(dir, audit.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(16)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := l.Act(context.Background(), suspend("door-1")); err != nil {
				b.Error(err)
			}
		}
	})
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRefuse is what a refused connection waits for.
func BenchmarkRefuse(b *testing.B) {
	l, err := audit.Open(b.TempDir(), audit.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	e := refusal("a", 1)
	for b.Loop() {
		l.Refuse(e)
	}
}

func BenchmarkVerify(b *testing.B) {
	l, err := audit.Open(b.TempDir(), audit.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for range 2000 {
		if err := l.Act(context.Background(), suspend("door-1")); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(l.Stats().Bytes)
	for b.Loop() {
		if r, err := audit.Verify(context.Background(), l.Dir(), audit.VerifyOptions{}); err != nil || !r.OK() {
			b.Fatal(r.Wrong, err)
		}
	}
}
