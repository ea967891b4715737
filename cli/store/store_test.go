package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/cli"
	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/store"
	"fairlead/store/backup"
	"fairlead/store/pebble"
)

// run is one command line below "fairlead store".
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader("y\n"), Stdout: &out, Stderr: &errs,
		Getenv: func(string) string { return "" }, Environ: func() []string { return nil }}
	code = cli.Main(context.Background(), env, Command, args)
	return code, out.String(), errs.String()
}

var payload = bytes.Repeat([]byte("payload "), 100)

// record is a record of one message.
func record(number uint64) []byte {
	rec := journal.AppendOp(journal.Begin(nil), &journal.Op{Kind: journal.Message, Client: "a", Message: &mqtt.Message{Topic: "t", Payload: payload, QoS: mqtt.QoS1}})
	journal.Seal(rec, journal.Header{Epoch: 1, First: number, Count: 1})
	return rec
}

func open(t *testing.T, dir string) *pebble.Engine {
	t.Helper()
	e, err := pebble.Open(dir, pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func put(t *testing.T, e store.Engine, key string, value []byte) {
	t.Helper()
	if _, err := e.KV().Put(t.Context(), key, value, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func shut(t *testing.T, e store.Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func chunkKey(client string, n uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte("q/"+client+"\x00"), n))
}

// fill makes a store that a broker could start on.
func fill(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	e := open(t, dir)
	for n := range uint64(5) {
		if _, err := e.Journal().Append(t.Context(), record(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	m := &mqtt.Message{Topic: "t", Payload: []byte("x"), QoS: mqtt.QoS1}
	put(t, e, "s/a", journal.AppendSession(nil, &journal.Session{Client: "a", Upto: 3, FirstChunk: 4, NextChunk: 6, Spilled: 2}))
	put(t, e, chunkKey("a", 4), journal.AppendChunk(nil, []journal.Delivery{{Message: m, QoS: mqtt.QoS1}}))
	put(t, e, chunkKey("a", 5), journal.AppendChunk(nil, []journal.Delivery{{Message: m, QoS: mqtt.QoS1}}))
	put(t, e, "r/t", journal.AppendRetained(nil, &journal.Retained{Number: 1, Message: m}))
	put(t, e, "node/ckpt", make([]byte, 16))
	shut(t, e)
	return dir
}

func TestCheckOfAGoodStore(t *testing.T) {
	dir := fill(t)
	code, out, _ := run(t, "check", "--data", dir)
	for _, want := range []string{"journal: 5 records (1 to 5)", "5 keys", "1 session, 2 chunks of queues", "1 retained message", "5 ops in 5 records", "all is well"} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %q", want)
		}
	}
	if code != cli.ExitOK {
		t.Errorf("exit code %d, want 0\n%s", code, out)
	}
	if code, out, _ := run(t, "repair", "--data", dir); code != cli.ExitOK || !strings.Contains(out, "all is well") {
		t.Errorf("repair of a good store: exit code %d\n%s", code, out)
	}
}

// TestCheckAndRepair damages a record in the middle of a journal.
func TestCheckAndRepair(t *testing.T) {
	dir := fill(t)
	damageMiddle(t, dir)
	if _, err := pebble.Open(dir, pebble.Options{}); err == nil || !strings.Contains(err.Error(), "fairlead store repair --data "+dir) {
		t.Errorf("Open of a damaged store: %v, expected the command that helps", err)
	}
	code, out, _ := run(t, "check", "--data", dir)
	if code != cli.ExitFailed || !strings.Contains(out, "DAMAGED: journal/") || !strings.Contains(out, "Records 3 to 5 can't be reached, 2 of them stand intact") {
		t.Errorf("check of a damaged store: exit code %d\n%s", code, out)
	}
	code, out, _ = run(t, "check", "--json", "--data", dir)
	var r report
	if err := json.Unmarshal([]byte(out), &r); code != cli.ExitFailed || err != nil || r.Damage == nil || r.Damage.From != 3 || r.Damage.To != 5 {
		t.Errorf("check --json of a damaged store: exit code %d, %v\n%s", code, err, out)
	}
	if code, _, stderr := run(t, "repair", "--data", dir); code != cli.ExitUsage || !strings.Contains(stderr, "--yes") {
		t.Errorf("repair without --yes and a terminal: exit code %d, %s", code, stderr)
	}
	code, out, _ = run(t, "repair", "--data", dir, "--yes")
	if code != cli.ExitOK || !strings.Contains(out, "Records 3 to 5 are lost") || !strings.Contains(out, "moved aside: journal/") {
		t.Errorf("repair: exit code %d\n%s", code, out)
	}
	if code, out, _ := run(t, "check", "--data", dir); code != cli.ExitOK || !strings.Contains(out, "2 records") {
		t.Errorf("check after repair: exit code %d\n%s", code, out)
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
		next := bytes.Index(b[at:], payload)
		if next < 0 {
			t.Fatal("no third record in the journal's file")
		}
		at += next + len(payload)
	}
	b[at-len(payload)/2] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestUnreadableValues holds what the engine takes for sound and no broker can read.
func TestUnreadableValues(t *testing.T) {
	dir := fill(t)
	e := open(t, dir)
	put(t, e, "s/b", []byte("no session"))
	put(t, e, "r/u", nil)
	put(t, e, "s/c", journal.AppendSession(nil, &journal.Session{Client: "other"}))
	put(t, e, "node/restore", nil)
	if err := e.KV().Delete(t.Context(), chunkKey("a", 4), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Journal().Append(t.Context(), []byte("no record")); err != nil {
		t.Fatal(err)
	}
	shut(t, e)
	code, out, _ := run(t, "check", "--data", dir)
	for _, want := range []string{`key "s/b"`, `key "r/u"`, `another client, "other"`, `the queue of client "a": 1 of the 2 chunks`, "record 6", backup.ErrUnfinished.Error()} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %q", want)
		}
	}
	if code != cli.ExitFailed || strings.Contains(out, "all is well") {
		t.Errorf("exit code %d, want 1\n%s", code, out)
	}
	code, out, _ = run(t, "check", "--json", "--data", dir)
	var r report
	if err := json.Unmarshal([]byte(out), &r); code != cli.ExitFailed || err != nil || r.Contents == nil || len(r.Contents.Bad) != 6 {
		t.Errorf("check --json: exit code %d, %v\n%s", code, err, out)
	}
}

func TestNoStore(t *testing.T) {
	for _, word := range []string{"check", "repair"} {
		dir := filepath.Join(t.TempDir(), "nothing")
		if code, _, stderr := run(t, word, "--data", dir, "--json"); code != cli.ExitFailed || stderr == "" {
			t.Errorf("%s of nothing: exit code %d, %q", word, code, stderr)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s of nothing has made a directory", word)
		}
	}
	dir := fill(t)
	e := open(t, dir)
	defer shut(t, e)
	if code, _, stderr := run(t, "check", "--data", dir); code != cli.ExitFailed || !strings.Contains(stderr, "is another process using this directory?") {
		t.Errorf("check of a store in use: exit code %d, %q", code, stderr)
	}
}
