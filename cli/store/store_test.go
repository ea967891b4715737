package store

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/cli"
	"fairlead/store/pebble"
)

// TestCheckAndRepair damages a record in the middle of a journal.
func TestCheckAndRepair(t *testing.T) {
	dir := t.TempDir()
	e, err := pebble.Open(dir, pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := e.Journal().Append(t.Context(), bytes.Repeat([]byte("record "), 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	run := func(f func(*command, context.Context, *cli.Env, []string) error, c command) (string, int) {
		var out, errs bytes.Buffer
		c.dir = dir
		err := f(&c, t.Context(), &cli.Env{Stdout: &out, Stderr: &errs}, nil)
		return out.String(), cli.ExitCode(err)
	}
	check, repair := (*command).check, (*command).repair
	if out, code := run(check, command{}); code != cli.ExitOK || !strings.Contains(out, "journal: 5 records") {
		t.Errorf("check of a good store: exit code %d\n%s", code, out)
	}
	damageMiddle(t, dir)
	if _, err := pebble.Open(dir, pebble.Options{}); err == nil || !strings.Contains(err.Error(), "fairlead store repair --data "+dir) {
		t.Errorf("Open of a damaged store: %v, expected the command that helps", err)
	}
	out, code := run(check, command{})
	if code != cli.ExitFailed || !strings.Contains(out, "damaged: journal/") || !strings.Contains(out, "can't be reached") {
		t.Errorf("check of a damaged store: exit code %d\n%s", code, out)
	}
	if out, code := run(check, command{asJSON: true}); code != cli.ExitFailed || !strings.Contains(out, `"damage":"journal/`) {
		t.Errorf("check --json of a damaged store: exit code %d\n%s", code, out)
	}
	if _, code := run(repair, command{}); code != cli.ExitUsage {
		t.Errorf("repair without --yes: exit code %d, want %d", code, cli.ExitUsage)
	}
	if out, code := run(repair, command{yes: true}); code != cli.ExitOK || !strings.Contains(out, "moved aside: ") {
		t.Errorf("repair: exit code %d\n%s", code, out)
	}
	if out, code := run(check, command{}); code != cli.ExitOK {
		t.Errorf("check after repair: exit code %d\n%s", code, out)
	}
	e, err = pebble.Open(dir, pebble.Options{})
	if err != nil {
		t.Fatalf("Open after repair: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// damageMiddle flips a bit in the third of the records.
func damageMiddle(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "journal", "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("journal files: %v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for range 3 {
		next := bytes.Index(b[at:], bytes.Repeat([]byte("record "), 100))
		if next < 0 {
			t.Fatal("no third record in the journal's file")
		}
		at += next + 700
	}
	b[at-350] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
}
