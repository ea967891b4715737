package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/cli"
	"fairlead/cli/root"
	"fairlead/store"
	"fairlead/store/pebble"
)

// runWith is run with variables of the environment.
func runWith(t *testing.T, vars []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &err,
		Getenv: func(name string) string {
			for _, v := range vars {
				if value, ok := strings.CutPrefix(v, name+"="); ok {
					return value
				}
			}
			return ""
		},
		Environ: func() []string { return vars }}
	code = cli.Main(context.Background(), env, root.Command, args)
	return code, out.String(), err.String()
}

// TestLocalCommandLines are those of the commands that work on a data directory.
func TestLocalCommandLines(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("something else, which is no backup\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"status --top -1", 2, "whole number from 0"},
		{"status extra", 2, "expected flags only"},
		{"status --data " + dir, 1, "no broker answers on " + dir},
		{"backup", 2, "expected one FILE"},
		{"backup a b", 2, "expected one FILE"},
		{"backup " + dir, 2, "is no file"},
		{"backup --data " + dir + " " + dir + "/new", 1, "holds no data of a broker"},
		{"backup --data " + dir + " " + dir + "/no/such/place", 1, "no such file"},
		{"backup --passphrase-file " + empty + " x", 1, "its first line is empty"},
		{"restore", 2, "expected one FILE"},
		{"restore --verify " + dir + "/none", 1, "no such file"},
		{"restore --verify " + file, 1, "it is no backup of fairlead"},
		{"restore --data " + dir + " " + file, 1, "is not empty"},
		{"restore --data " + dir + "/new " + file, 1, "it is no backup of fairlead"},
		{"store check --data " + dir, 1, "no FORMAT there"},
	} {
		code, _, stderr := run(t, strings.Fields(test.args)...)
		if code != test.code || !strings.Contains(stderr, test.want) {
			t.Errorf("fairlead %s: exit code %d, want %d; stderr %q, want %q", test.args, code, test.code, stderr, test.want)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v, want the two files", left, err)
	}
}

// TestThereAndBack backs up and restores without a broker, with a passphrase from the
// environment and the data directory from there too.
func TestThereAndBack(t *testing.T) {
	dir := t.TempDir()
	data, file := filepath.Join(dir, "data"), filepath.Join(dir, "file")
	e, err := pebble.Open(data, pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.KV().Put(t.Context(), "r/t", []byte("a retained message"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	vars := []string{"FAIRLEAD_DATA=" + data, "FAIRLEAD_PASSPHRASE=correct horse"}
	if code, out, stderr := runWith(t, vars, "backup", file); code != 0 || !strings.Contains(out, "1 key and 0 records") || !strings.Contains(out, "; encrypted\n") {
		t.Fatalf("backup: exit code %d, %q, %q", code, out, stderr)
	}
	if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, []byte("retained message")) {
		t.Errorf("the file shows what it holds, %v", err)
	}
	other := filepath.Join(dir, "deep", "other")
	if code, _, stderr := run(t, "restore", file, "--data", other); code != 1 || !strings.Contains(stderr, "--passphrase-file FILE") {
		t.Errorf("restore without a passphrase: exit code %d, %q", code, stderr)
	}
	vars[0] = "FAIRLEAD_DATA=" + other
	if code, out, stderr := runWith(t, vars, "restore", file); code != 0 || !strings.HasPrefix(out, "restored "+other) {
		t.Fatalf("restore: exit code %d, %q, %q", code, out, stderr)
	}
	if e, err = pebble.Open(other, pebble.Options{}); err != nil {
		t.Fatal(err)
	}
	if got, err := e.KV().Get(t.Context(), "r/t"); err != nil || string(got.Value) != "a retained message" {
		t.Errorf("restored: %q, %v", got.Value, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNumbersForPeople(t *testing.T) {
	for got, want := range map[string]string{
		cli.Size(0): "0 B", cli.Size(1023): "1023 B", cli.Size(1024): "1.0 KiB", cli.Size(int64(1<<20) - 1): "1.0 MiB",
		cli.Size(uint64(5_900_000)): "5.6 MiB", cli.Size(int64(1) << 62): "4.0 EiB",
		cli.Count(0): "0", cli.Count(999): "999", cli.Count(1000): "1,000", cli.Count(uint64(1234567)): "1,234,567", cli.Count(-5): "-5",
		cli.Things(1, "key"): "1 key", cli.Things(2000, "key"): "2,000 keys",
		cli.Span(512 * time.Microsecond): "512 µs", cli.Span(1500 * time.Microsecond): "1.5 ms", cli.Span(999900 * time.Microsecond): "1 s",
		cli.Span(-time.Second): "0 µs", cli.Span(12345 * time.Millisecond): "12.3 s", cli.Span(61 * time.Second): "1m 1s",
		cli.Span(3*time.Hour + 12*time.Minute): "3h 12m", cli.Span(50 * time.Hour): "2d 2h",
		cli.Printable("sensor-7"): "sensor-7", cli.Printable("a\x1b[2J"): `"a\x1b[2J"`, cli.Printable(""): `""`,
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
