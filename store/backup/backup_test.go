package backup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"fairlead/store"
	"fairlead/store/backup"
	"fairlead/store/mem"
	"fairlead/store/pebble"
	"fairlead/store/storetest"
)

var head = backup.Head{Made: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), Program: "test", Secrets: backup.SecretsHashed}

// engines are both kinds, empty.
func engines(t *testing.T, f func(t *testing.T, open func() store.Engine)) {
	t.Run("mem", func(t *testing.T) { f(t, func() store.Engine { return mem.New() }) })
	t.Run("pebble", func(t *testing.T) {
		f(t, func() store.Engine {
			e, err := pebble.Open(t.TempDir(), pebble.Options{SegmentBytes: 64 << 10})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			return e
		})
	})
}

func checkpoint(place, number uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, place), number)
}

// fill puts keys and 20 records into e, of which a checkpoint covers 7.
func fill(t *testing.T, e store.Engine, keys int) {
	t.Helper()
	var ops []store.Op
	for i := range keys {
		ops = append(ops, store.Op{Key: fmt.Sprintf("s/%07d", i), Value: bytes.Repeat([]byte{byte(i)}, i%2000)})
	}
	ops = append(ops, store.Op{Key: "q/a\x00\xff", Value: bytes.Repeat([]byte("large"), 200_000)},
		store.Op{Key: "node/ckpt", Value: checkpoint(7, 1007)})
	if err := e.KV().Batch(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if _, err := e.Journal().Append(t.Context(), bytes.Repeat([]byte{byte(i)}, 1+i*5000)); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, e store.Engine) []byte {
	t.Helper()
	from, err := backup.Covered(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return writeAll(t, backup.Source{Engine: e, From: from}, head)
}

func writeAll(t *testing.T, from backup.Source, head backup.Head) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := backup.Write(t.Context(), &b, from, head, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func contents(t *testing.T, e store.Engine) (keys map[string]string, records []string) {
	t.Helper()
	keys = make(map[string]string)
	found, err := e.KV().List(t.Context(), "", "", 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range found {
		keys[k.Key] = string(k.Value)
	}
	first, next, err := e.Journal().Span(t.Context(), e.Journal().Own())
	if err != nil {
		t.Fatal(err)
	}
	for first < next {
		for rec, err := range e.Journal().Tail(t.Context(), e.Journal().Own(), first) {
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, string(rec.Data))
			if rec.Pos == next-1 {
				return keys, records
			}
		}
	}
	return keys, records
}

func TestThereAndBack(t *testing.T) {
	engines(t, func(t *testing.T, open func() store.Engine) {
		e := open()
		fill(t, e, 3000)
		file := write(t, e)
		sum, err := backup.Verify(t.Context(), iotest.HalfReader(bytes.NewReader(file)), nil)
		if err != nil || sum.Keys != 3002 || sum.Records != 13 || sum.Bytes != int64(len(file)) || !sum.Made.Equal(head.Made) || sum.Program != "test" {
			t.Errorf("Verify: %+v, %v", sum, err)
		}
		other := open()
		if sum, err := backup.Restore(t.Context(), bytes.NewReader(file), backup.Target{Engine: other}, nil); err != nil || sum.Records != 13 {
			t.Fatalf("Restore: %+v, %v", sum, err)
		}
		want, wantRecords := contents(t, e)
		want["node/ckpt"] = string(checkpoint(0, 1007))
		got, gotRecords := contents(t, other)
		if len(got) != len(want) {
			t.Errorf("%d keys, want %d", len(got), len(want))
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%q holds %d bytes, want %d", k, len(got[k]), len(v))
			}
		}
		if strings.Join(gotRecords, "|") != strings.Join(wantRecords[7:], "|") {
			t.Errorf("%d records, want the last 13 of %d", len(gotRecords), len(wantRecords))
		}
		if again := write(t, other); !bytes.Equal(again, file) {
			t.Error("a backup of what was restored is another file")
		}
	})
}

func TestEmptyStore(t *testing.T) {
	engines(t, func(t *testing.T, open func() store.Engine) {
		file := write(t, open())
		other := open()
		if sum, err := backup.Restore(t.Context(), bytes.NewReader(file), backup.Target{Engine: other}, nil); err != nil || sum.Keys+sum.Records != 0 {
			t.Errorf("Restore: %+v, %v", sum, err)
		}
		if u, err := backup.Unfinished(t.Context(), other); u || err != nil {
			t.Errorf("Unfinished: %v, %v", u, err)
		}
	})
}

// TestEveryFlippedBit flips each bit of a small file, and takes each end off it.
func TestEveryFlippedBit(t *testing.T) {
	e := mem.New()
	if _, err := e.KV().Put(t.Context(), "s/a", []byte("a session"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Journal().Append(t.Context(), []byte("a record")); err != nil {
		t.Fatal(err)
	}
	file := writeAll(t, backup.Source{Engine: e, Files: some(
		backup.Bytes("audit/anchor", false, []byte("an anchor")), backup.Bytes("ca/root.key", true, []byte("a key")),
	)}, head)
	for i := range len(file) * 8 {
		bad := bytes.Clone(file)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := backup.Verify(t.Context(), bytes.NewReader(bad), nil); err == nil {
			t.Errorf("bit %d of byte %d flipped: Verify finds nothing", i%8, i/8)
		}
	}
	for n := range len(file) {
		if _, err := backup.Verify(t.Context(), bytes.NewReader(file[:n]), nil); err == nil {
			t.Errorf("cut after %d of %d bytes: Verify finds nothing", n, len(file))
		}
	}
	if _, err := backup.Verify(t.Context(), io.MultiReader(bytes.NewReader(file), strings.NewReader("x")), nil); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("with a byte behind it: %v, want ErrDamaged", err)
	}
}

// TestBlocksMissing takes whole blocks out, each of which is sound by itself.
func TestBlocksMissing(t *testing.T) {
	e := mem.New()
	fill(t, e, 1000)
	file := writeAll(t, backup.Source{Engine: e, Files: some(
		backup.Bytes("audit/a", false, make([]byte, 1<<20)), backup.Bytes("ca/root.crt", false, []byte("root")), backup.Bytes("ca/root.key", true, []byte("key")),
	)}, head)
	for at := 20; ; {
		n := 9 + int(binary.BigEndian.Uint32(file[at:]))
		if at+n == len(file) {
			break
		}
		bad := append(bytes.Clone(file[:at]), file[at+n:]...)
		if _, err := backup.Verify(t.Context(), bytes.NewReader(bad), nil); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("without the block at %d: %v, want ErrDamaged", at, err)
		}
		at += n
	}
}

func TestNewerAndOtherFiles(t *testing.T) {
	file := write(t, mem.New())
	newer := bytes.Clone(file)
	newer[19] = 3
	if _, err := backup.Verify(t.Context(), bytes.NewReader(newer), nil); !errors.Is(err, store.ErrNewerFormat) {
		t.Errorf("version 3: %v, want ErrNewerFormat", err)
	}
	if _, err := backup.Verify(t.Context(), strings.NewReader("PK\x03\x04 something else"), nil); err == nil || !strings.Contains(err.Error(), "no backup") {
		t.Errorf("another file: %v", err)
	}
}

// TestHalfARestore breaks a restore off: nothing may be done with what is there.
func TestHalfARestore(t *testing.T) {
	engines(t, func(t *testing.T, open func() store.Engine) {
		e := open()
		fill(t, e, 1000)
		file := write(t, e)
		for name, broken := range map[string]io.Reader{
			"cut":     bytes.NewReader(file[:len(file)-5]),
			"flipped": bytes.NewReader(append(bytes.Clone(file[:len(file)-1]), file[len(file)-1]^1)),
			"disk":    io.MultiReader(bytes.NewReader(file[:len(file)/2]), iotest.ErrReader(syscall.EIO)),
		} {
			other := open()
			if _, err := backup.Restore(t.Context(), broken, backup.Target{Engine: other}, nil); err == nil {
				t.Errorf("%s: Restore returns no error", name)
			}
			if u, err := backup.Unfinished(t.Context(), other); !u || err != nil {
				t.Errorf("%s: Unfinished: %v, %v", name, u, err)
			}
			if _, err := backup.Write(t.Context(), io.Discard, backup.Source{Engine: other, From: 0}, head, nil); !errors.Is(err, backup.ErrUnfinished) {
				t.Errorf("%s: Write: %v, want ErrUnfinished", name, err)
			}
			if _, err := backup.Restore(t.Context(), bytes.NewReader(file), backup.Target{Engine: other}, nil); !errors.Is(err, backup.ErrNotEmpty) {
				t.Errorf("%s: Restore again: %v, want ErrNotEmpty", name, err)
			}
		}
	})
}

func TestRestoreOnlyIntoEmpty(t *testing.T) {
	file := write(t, mem.New())
	full := mem.New()
	if _, err := full.Journal().Append(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), bytes.NewReader(file), backup.Target{Engine: full}, nil); !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("Restore: %v, want ErrNotEmpty", err)
	}
}

// TestJournalTrimmedTooFar backs up from a place whose records are gone.
func TestJournalTrimmedTooFar(t *testing.T) {
	e := mem.New()
	fill(t, e, 1)
	j := e.Journal()
	if err := j.Trim(t.Context(), j.Own(), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Write(t.Context(), io.Discard, backup.Source{Engine: e, From: 7}, head, nil); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Write: %v, want ErrDamaged", err)
	}
}

func TestTroubleWhileWriting(t *testing.T) {
	f := storetest.NewFaulty(mem.New())
	fill(t, f, 100)
	if _, err := backup.Write(t.Context(), failing{}, backup.Source{Engine: f, From: 7}, head, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the file's disk is full: %v, want ENOSPC", err)
	}
	f.FailKV(storetest.All, syscall.EIO)
	if _, err := backup.Write(t.Context(), io.Discard, backup.Source{Engine: f, From: 7}, head, nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("the KV fails: %v, want EIO", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := backup.Verify(ctx, bytes.NewReader(write(t, mem.New())), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify after its end: %v, want context.Canceled", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestEncryption(t *testing.T) {
	e := mem.New()
	fill(t, e, 10)
	plain := write(t, e)
	var sealed bytes.Buffer
	w, err := backup.Encrypt(&sealed, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed.Bytes(), []byte("large")) {
		t.Error("the encrypted file shows a value")
	}
	verify := func(file []byte, passphrase string) (backup.Summary, bool, error) {
		r, encrypted, err := backup.Decrypt(bytes.NewReader(file), passphrase)
		if err != nil {
			return backup.Summary{}, encrypted, err
		}
		sum, err := backup.Verify(t.Context(), r, nil)
		return sum, encrypted, err
	}
	if sum, encrypted, err := verify(sealed.Bytes(), "correct horse"); err != nil || !encrypted || sum.Records != 13 {
		t.Errorf("right passphrase: %+v, %v, %v", sum, encrypted, err)
	}
	if _, _, err := verify(sealed.Bytes(), "wrong horse"); !errors.Is(err, backup.ErrWrongPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, _, err := verify(sealed.Bytes(), ""); !errors.Is(err, backup.ErrNoPassphrase) {
		t.Errorf("no passphrase: %v", err)
	}
	if _, encrypted, err := verify(plain, "any"); err != nil || encrypted {
		t.Errorf("plain file, with a passphrase: %v, %v", encrypted, err)
	}
	for _, at := range []int{40, sealed.Len() / 2, sealed.Len() - 1} {
		bad := bytes.Clone(sealed.Bytes())
		bad[at] ^= 1
		if _, _, err := verify(bad, "correct horse"); err == nil {
			t.Errorf("byte %d changed: nothing is found", at)
		}
	}
	if _, _, err := verify(sealed.Bytes()[:sealed.Len()-10], "correct horse"); err == nil {
		t.Error("cut: nothing is found")
	}
}
