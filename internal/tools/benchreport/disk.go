package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

const (
	appendBytes = 4 << 10 // a small record of any log ends up as one block
	appendsMax  = 20_000
	appendsMin  = 50 // what quantiles need, however slow the disk
)

// probeDisk appends 4 KiB to a file in dir again and again, with an fdatasync after
// each, for so many seconds, and says how long one of them takes: the floor for
// whoever promises to have a message on disk. ahead: the file's blocks are there,
// filled with zeros, before it begins, so that an fdatasync need not commit the file
// system's own journal.
func probeDisk(ctx context.Context, dir string, seconds float64, ahead bool) (result, error) {
	f, err := os.OpenFile(filepath.Join(dir, "probe"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	most := appendsMax
	if ahead {
		if err := fill(f, appendsMax); err != nil {
			return nil, fmt.Errorf("fill %s ahead: %w", f.Name(), err)
		}
	}
	var took []float64
	begin, block := time.Now(), make([]byte, appendBytes)
	for i := range most {
		before := time.Now()
		if i >= appendsMin && before.Sub(begin).Seconds() > seconds || ctx.Err() != nil {
			break
		}
		block[0] = byte(i + 1)
		if _, err := f.WriteAt(block, int64(i)*appendBytes); err != nil {
			return nil, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return nil, fmt.Errorf("fdatasync %s: %w", f.Name(), err)
		}
		took = append(took, time.Since(before).Seconds()*1e6)
	}
	return quantilesOf(took, time.Since(begin).Seconds()), ctx.Err()
}

// fill writes so many blocks of zeros, and waits until they are on disk.
func fill(f *os.File, blocks int) error {
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < int64(blocks)*appendBytes; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// quantilesOf are the figures that a broker has for its acknowledgements.
func quantilesOf(micros []float64, seconds float64) result {
	n := len(micros)
	if n == 0 {
		return result{}
	}
	slices.Sort(micros)
	sum := 0.0
	for _, m := range micros {
		sum += m
	}
	at := func(q float64) float64 { return micros[min(n-1, int(q*float64(n)))] }
	return result{
		"ack_us.p50": at(0.5), "ack_us.mean": sum / float64(n), "ack_us.p99": at(0.99),
		"publish_rate": float64(n) / seconds, "rate": float64(n) / seconds,
	}
}
