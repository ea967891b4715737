package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryOfAProcess(t *testing.T) {
	ourselves, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Process: ourselves}
	now, peak, err := p.memory()
	if err != nil || now < 1<<20 || peak < now/2 {
		t.Errorf("memory %d, at most %d, %v", now, peak, err)
	}
	if _, _, err := (&process{Process: &os.Process{Pid: 1 << 30}}).memory(); err == nil {
		t.Error("a process that can't be there has memory")
	}
	if got := kibOf("VmHWM:\t  12 kB\nVmRSS:\t  3 kB\n", "VmRSS"); got != 3<<10 {
		t.Errorf("kibOf = %d, want 3 KiB", got)
	}
}

func TestCPUOf(t *testing.T) {
	if got, err := cpuOf("7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0"); err != nil || got != 2 {
		t.Errorf("cpuOf = %v, %v, want 2", got, err)
	}
	for _, bad := range []string{"", "7 (x) S 1", "7 (x) S 1 2 3 4 5 6 7 8 9 10 -1 50"} {
		if got, err := cpuOf(bad); err == nil {
			t.Errorf("cpuOf(%q) = %v, want an error", bad, got)
		}
	}
}

func TestDiskUse(t *testing.T) {
	dir := t.TempDir()
	empty, err := diskUse(dir)
	if err != nil || empty != 0 {
		t.Errorf("an empty directory takes %d, %v", empty, err)
	}
	if err := writeFiles(dir, map[string]string{"a": string(make([]byte, 10_000)), "b": "x"}); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	if err := sparse.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if got, err := diskUse(dir); err != nil || got > 1<<20 {
		t.Errorf("10 KB and a hole take %d bytes, %v", got, err)
	}
}

func TestFileSystem(t *testing.T) {
	if got := fileSystem("/dev/shm"); got != "tmpfs, where an fsync does nothing" {
		t.Skipf("/dev/shm is %s", got)
	}
	if got := fileSystem(filepath.Join(t.TempDir(), "none")); got != "unknown" {
		t.Errorf("a directory that is not there is on %s", got)
	}
}

// TestProbeDisk: however short the time, there is enough for quantiles, and nothing is
// left behind.
func TestProbeDisk(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		dir := t.TempDir()
		r, err := probeDisk(t.Context(), dir, 0, ahead)
		if err != nil {
			t.Fatal(err)
		}
		if r.number("ack_us.p50") <= 0 || r.number("ack_us.p99") < r.number("ack_us.p50") || r.number("ack_us.mean") <= 0 || r.number("publish_rate") <= 0 {
			t.Errorf("ahead %v: %v, want quantiles", ahead, r)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestQuantilesOf(t *testing.T) {
	r := quantilesOf([]float64{4, 1, 3, 2}, 2)
	if r.number("ack_us.p50") != 3 || r.number("ack_us.mean") != 2.5 || r.number("ack_us.p99") != 4 || r.number("rate") != 2 {
		t.Errorf("quantilesOf = %v", r)
	}
	if len(quantilesOf(nil, 0)) != 0 {
		t.Error("nothing has quantiles")
	}
}
