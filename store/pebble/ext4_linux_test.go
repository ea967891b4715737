package pebble

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"fairlead/store"
)

// ext4 mounts a new file system of that many MiB, from a file. It skips where the
// machine doesn't allow that.
type ext4 struct {
	t           *testing.T
	image, loop string
	dir         string
}

func newExt4(t *testing.T, mib int64) *ext4 {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	for _, tool := range []string{"mkfs.ext4", "losetup", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s on this machine", tool)
		}
	}
	base := t.TempDir()
	x := &ext4{t: t, image: filepath.Join(base, "image"), dir: filepath.Join(base, "mount")}
	if err := errors.Join(os.WriteFile(x.image, nil, 0o600), os.Truncate(x.image, mib<<20), os.Mkdir(x.dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", x.image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v: %s", err, out)
	}
	out, err := exec.Command("losetup", "--find", "--show", x.image).CombinedOutput()
	if err != nil {
		t.Skipf("no loop devices on this machine: losetup: %v: %s", err, out)
	}
	x.loop = strings.TrimSpace(string(out))
	t.Cleanup(func() { x.run("losetup", "--detach", x.loop) })
	if out, err := exec.Command("mount", "-t", "ext4", x.loop, x.dir).CombinedOutput(); err != nil {
		t.Skipf("mounting isn't allowed on this machine: %v: %s", err, out)
	}
	t.Cleanup(x.umount)
	return x
}

func (x *ext4) run(name string, args ...string) {
	x.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		x.t.Errorf("%s %q: %v: %s", name, args, err, out)
	}
}

func (x *ext4) umount() { x.run("umount", x.dir) }

// cutPower ends all writing to the disk, without writing the file system's own log.
func (x *ext4) cutPower() {
	x.t.Helper()
	const shutdown, noLogFlush = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
	f, err := os.Open(x.dir)
	if err != nil {
		x.t.Fatal(err)
	}
	defer f.Close()
	flags := uint32(noLogFlush)
	if _, _, no := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); no != 0 {
		x.t.Skipf("the kernel can't shut an ext4 down: %v", no)
	}
}

// remount is the start after the power came back: the file system replays its log.
func (x *ext4) remount() {
	x.umount()
	x.run("mount", "-t", "ext4", x.loop, x.dir)
}

// TestPowerCutOnExt4 cuts a real file system off while an engine works on it. The
// engine must outlive that, too.
//
// What returned before the cut must be there after it. What returns while the ioctl
// works proves nothing: in 5 of 80 cuts a bare loop of write and fdatasync was told
// of success by a kernel that had just dropped the file system's log, and never for
// anything from before the ioctl.
func TestPowerCutOnExt4(t *testing.T) {
	x := newExt4(t, 256)
	dir := filepath.Join(x.dir, "data")
	w := newEngineWork()
	cuts := 6
	if testing.Short() {
		cuts = 1
	}
	round := 0
	for cut := range cuts {
		e := x.open(dir, w)
		var wg sync.WaitGroup
		var failed error
		reached := make(chan struct{})
		until := round + 50
		wg.Go(func() {
			for failed == nil {
				round++
				if failed = w.round(e, round); round%20 == 0 && failed == nil {
					failed = e.Journal().Trim(t.Context(), Own, store.Pos(w.appends-5))
				}
				if round == until {
					close(reached)
				}
			}
		})
		<-reached
		<-time.After(time.Duration(cut*713) * time.Microsecond) // anywhere in a round
		before := w.snapshot()
		x.cutPower()
		wg.Wait()
		t.Logf("cut %d: %d records and %d batches had returned; then: %v", cut, before.appends, before.batches, failed)
		e.Close() // it may have something to say, or not
		x.remount()
		w = before
	}
	x.open(dir, w).Close()
}

// open opens what a cut has left, and looks at it.
func (x *ext4) open(dir string, w *engineWork) *Engine {
	x.t.Helper()
	e, err := Open(dir, Options{SegmentBytes: 1 << 20})
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { e.Close() }) // before the file system is unmounted
	if err := w.verifyKilled(e); err != nil {
		x.t.Fatal(err)
	}
	return e
}

// hog writes files until no more than left bytes are free.
func (x *ext4) hog(name string, left int64) string {
	x.t.Helper()
	f, err := os.Create(filepath.Join(x.dir, name))
	if err != nil {
		x.t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 64<<10); err == nil; {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(x.dir, &fs); err != nil {
			x.t.Fatal(err)
		}
		if left > 0 && int64(fs.Bavail)*fs.Bsize <= left {
			break
		}
		_, err = f.Write(b)
	}
	return f.Name()
}

// TestFullExt4 fills a real file system: first somebody else leaves little room,
// then the engine stops at its reserve, then somebody else takes that as well, down
// to the last block.
func TestFullExt4(t *testing.T) {
	x := newExt4(t, 192)
	e, err := Open(filepath.Join(x.dir, "data"), Options{SegmentBytes: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	w := newEngineWork()
	i := 0
	fill := func(rounds int) (err error) {
		for ; err == nil && rounds > 0; rounds-- {
			i++
			err = w.round(e, i)
		}
		return err
	}
	if err := fill(20); err != nil {
		t.Fatal(err)
	}
	first := x.hog("first", 12<<20)
	if err := fill(1000); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("on a full disk: %v, expected ENOSPC", err)
	}
	t.Logf("%d records until the reserve", w.appends)
	if err := e.kv.healthy(); err != nil {
		t.Fatalf("the KV met a full disk in spite of the reserve: %v", err)
	}
	second := x.hog("second", 0)
	if err := fill(3); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("without a free block: %v, expected ENOSPC", err)
	}
	if err := w.verify(e); err != nil {
		t.Fatalf("without a free block: %v", err)
	}
	if err := errors.Join(os.Remove(first), os.Remove(second)); err != nil {
		t.Fatal(err)
	}
	for tries := 0; fill(1) != nil; tries++ {
		if tries > 300 {
			t.Fatalf("when there is room again: %v", fill(1))
		}
		<-time.After(10 * time.Millisecond)
	}
	if err := w.verify(e); err != nil {
		t.Fatal(err)
	}
	if err := e.Stats().Err; err != nil {
		t.Fatalf("Stats().Err when there is room again: %v", err)
	}
}
