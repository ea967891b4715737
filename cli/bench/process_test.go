package bench

import (
	"os"
	"testing"
)

const (
	statText = "42 (a (strange) name) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 5 0 1000 123456 789 18446744073709551615"
	ioText   = "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n"
)

func TestParseUse(t *testing.T) {
	u, err := parseUse(statText, "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n", ioText)
	if err != nil {
		t.Fatal(err)
	}
	if want := (processUse{cpu: 2, rss: 1 << 20, rssPeak: 2 << 20, disk: 4096}); u != want {
		t.Errorf("parseUse = %+v, want %+v", u, want)
	}
	if u, err := parseUse(statText, "", ""); err != nil || u.disk != -1 {
		t.Errorf("without io: %+v, %v, want disk -1", u, err)
	}
	for _, stat := range []string{"", "1 (x) S 1 2 3", "42 (x) S 1 42 42 0 -1 4194304 100 0 0 0 many 50 0"} {
		if _, err := parseUse(stat, "", ""); err == nil {
			t.Errorf("parseUse(%q) gave no error", stat)
		}
	}
}

func FuzzParseUse(f *testing.F) {
	f.Add(statText, "VmRSS:\t1 kB\n", ioText)
	f.Add(")", ":", "write_bytes: -9")
	f.Fuzz(func(t *testing.T, stat, status, io string) {
		if u, err := parseUse(stat, status, io); err == nil && u.cpu < 0 {
			t.Errorf("CPU time %v", u.cpu)
		}
	})
}

func TestMeter(t *testing.T) {
	m, err := newMeter(0)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := m.use(1, 1); u != nil || err != nil {
		t.Errorf("without --pid: %v, %v, want nothing", u, err)
	}
	if m, err = newMeter(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	m.broker.cpu, m.broker.disk = -3, 0 // as if it had used 3 s more
	u, err := m.use(1000, 100)
	if err != nil {
		t.Fatal(err)
	}
	if u.CPU < 3 || u.CPUMessage < 3000 || u.RSS <= 0 || u.DiskByte != nil && *u.DiskByte != float64(*u.Disk)/100 {
		t.Errorf("use %+v, want 3 s of CPU and more, for 1000 messages and 100 bytes", u)
	}
	if u, err := m.use(0, 0); err != nil || u.CPUMessage != 0 || u.DiskByte != nil {
		t.Errorf("nothing was delivered: %+v, %v", u, err)
	}
	if _, err := newMeter(1 << 30); err == nil {
		t.Error("a process that can't be there is measured")
	}
}
