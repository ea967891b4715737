package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead/client"
	"fairlead/mqtt"
)

// fairlead runs a command line of the built binary.
func fairlead(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("fairlead %v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// expect runs a command line and demands its exit code and words that it says.
func expect(t *testing.T, code int, words string, args ...string) (stdout string) {
	t.Helper()
	got, out, errs := fairlead(t, args...)
	if got != code || !strings.Contains(out+errs, words) {
		t.Fatalf("fairlead %s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, words, out, errs)
	}
	return out
}

// start serves with the data below dir until the test ends. Not at all if the tests
// run against another broker.
func start(t *testing.T, dir string) *server {
	t.Helper()
	if binary == "" {
		t.Skip("another broker was asked for")
	}
	s, err := serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

// kill ends the process as the loss of power would, seen from its files.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.done
}

func connect(t *testing.T, s *server, o client.Options) *client.Client {
	t.Helper()
	o.URL = "mqtt://" + s.addr()
	c, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func leave(t *testing.T, c *client.Client) {
	t.Helper()
	if err := c.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

var ledger = client.Options{ClientID: "ledger", SessionExpiry: time.Hour}

// subscribe makes a session that waits for orders.
func subscribe(t *testing.T, s *server) {
	t.Helper()
	c := connect(t, s, ledger)
	if _, err := c.Subscribe(t.Context(), []client.Subscription{{Filter: "orders/#", QoS: mqtt.QoS1}}, nil); err != nil {
		t.Fatal(err)
	}
	leave(t, c)
}

// orders publishes numbered messages until it is told to stop.
type orders struct {
	mu    sync.Mutex
	acked []int // how many of each publisher's messages, from 0 on
	some  chan struct{}
	stop  context.CancelFunc
	ended sync.WaitGroup
}

func publish(t *testing.T, s *server, publishers, enough int) *orders {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	o := &orders{acked: make([]int, publishers), some: make(chan struct{}), stop: stop}
	var once sync.Once
	for p := range publishers {
		c := connect(t, s, client.Options{ClientID: fmt.Sprintf("publisher-%d", p)})
		o.ended.Go(func() { // ends with stop, or with the broker
			for n := 0; ; n++ {
				m := client.Message{Topic: fmt.Sprintf("orders/%d", p), Payload: fmt.Append(nil, n), QoS: mqtt.QoS1}
				if err := c.Publish(ctx, m); err != nil {
					return
				}
				o.mu.Lock()
				o.acked[p]++
				all := 0
				for _, n := range o.acked {
					all += n
				}
				o.mu.Unlock()
				if all >= enough {
					once.Do(func() { close(o.some) })
				}
			}
		})
	}
	return o
}

// soFar is how many have been acknowledged of each publisher's.
func (o *orders) soFar() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]int{}, o.acked...)
}

// wantOrders demands that the waiting session has all those messages, in order.
func wantOrders(t *testing.T, s *server, least []int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := connect(t, s, ledger)
	next := make([]int, len(least))
	missing := func() bool {
		for p := range least {
			if next[p] < least[p] {
				return true
			}
		}
		return false
	}
	for missing() {
		m, err := c.Receive(ctx)
		if err != nil {
			t.Fatalf("got %v of %v, then: %v", next, least, err)
		}
		var p, n int
		if _, err := fmt.Sscanf(m.Topic+" "+string(m.Payload), "orders/%d %d", &p, &n); err != nil {
			t.Fatal(err)
		}
		if n != next[p] {
			t.Fatalf("publisher %d: got message %d, want %d", p, n, next[p])
		}
		next[p]++
	}
	leave(t, c)
}

// TestBackupWhilePublishersRun backs a broker up while messages pour in, and kills it.
// What had been acknowledged when the backup began is in it.
func TestBackupWhilePublishersRun(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	subscribe(t, s)
	retainer := connect(t, s, client.Options{})
	if err := retainer.Publish(t.Context(), client.Message{Topic: "door", Payload: []byte("closed"), QoS: mqtt.QoS1, Retain: true}); err != nil {
		t.Fatal(err)
	}
	leave(t, retainer)
	o := publish(t, s, 4, 2000)
	<-o.some
	data, file := filepath.Join(dir, "data"), filepath.Join(dir, "file.backup")
	acked := o.soFar()
	expect(t, 0, "not encrypted", "backup", "--with-secrets", "--data", data, file)
	after := o.soFar()
	s.kill()
	o.stop()
	o.ended.Wait()
	t.Logf("acknowledged when the backup began %v, when it had ended %v", acked, after)
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file: %v, %v, want mode 0600", info.Mode(), err)
	}
	expect(t, 0, "is good", "restore", "--verify", file)
	expect(t, 1, "is not empty", "restore", file, "--data", data)
	other := filepath.Join(dir, "other")
	expect(t, 0, "restored", "restore", file, "--data", filepath.Join(other, "data"))
	restored := start(t, other)
	wantOrders(t, restored, acked)
	c := connect(t, restored, client.Options{})
	if _, err := c.Subscribe(t.Context(), []client.Subscription{{Filter: "door", QoS: mqtt.QoS1}}, nil); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Receive(t.Context()); err != nil || string(m.Payload) != "closed" || !m.Retain {
		t.Errorf("retained message: %+v, %v", m, err)
	}
	leave(t, c)
	// What goes on where the backup ended is kept like anything else.
	o = publish(t, restored, 1, 100)
	<-o.some
	acked = o.soFar()
	restored.kill()
	o.stop()
	o.ended.Wait()
	wantLast(t, start(t, other), acked[0]-1)
}

// wantLast waits for a message of the first publisher.
func wantLast(t *testing.T, s *server, last int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := connect(t, s, ledger)
	for {
		m, err := c.Receive(ctx)
		if err != nil {
			t.Fatalf("message %d has not come: %v", last, err)
		}
		if m.Topic == "orders/0" && string(m.Payload) == fmt.Sprint(last) {
			leave(t, c)
			return
		}
	}
}

// TestBackupOfAStoppedBroker reads the data directory itself, and encrypts.
func TestBackupOfAStoppedBroker(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	subscribe(t, s)
	o := publish(t, s, 2, 100)
	<-o.some
	s.kill()
	o.stop()
	o.ended.Wait()
	data, file, right, wrong := filepath.Join(dir, "data"), filepath.Join(dir, "file.backup"), filepath.Join(dir, "right"), filepath.Join(dir, "wrong")
	for name, passphrase := range map[string]string{right: "correct horse\n", wrong: "wrong horse\n"} {
		if err := os.WriteFile(name, []byte(passphrase), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := expect(t, 0, "", "backup", "--json", "--data", data, "--passphrase-file", right, file)
	var said struct {
		Keys, Records uint64
		Encrypted     bool
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil || !said.Encrypted || said.Keys == 0 {
		t.Errorf("backup --json: %v\n%s", err, out)
	}
	other := filepath.Join(dir, "other", "data")
	expect(t, 1, "no passphrase was given", "restore", file, "--data", other)
	expect(t, 1, "the passphrase is wrong", "restore", file, "--data", other, "--passphrase-file", wrong)
	expect(t, 1, "the passphrase is wrong", "restore", "--verify", file, "--passphrase-file", wrong)
	if _, err := os.Stat(other); err == nil {
		t.Error("a restore that was refused has made the directory")
	}
	expect(t, 0, "restored", "restore", file, "--data", other, "--passphrase-file", right)
	wantOrders(t, start(t, filepath.Dir(other)), o.soFar())
	expect(t, 1, "holds no data of a broker", "backup", "--data", filepath.Join(dir, "nothing"), file)
	expect(t, 0, "is good", "restore", "--verify", file, "--passphrase-file", right) // as it was
}

// TestDamagedBackup flips a bit in the middle: nothing is restored.
func TestDamagedBackup(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	subscribe(t, s)
	file := filepath.Join(dir, "file.backup")
	expect(t, 0, "", "backup", "--data", filepath.Join(dir, "data"), file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 4
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, 1, "damaged", "restore", "--verify", file)
	other := filepath.Join(dir, "other")
	expect(t, 1, "damaged", "restore", file, "--data", other)
	if _, err := os.Stat(other); err == nil {
		t.Error("a restore of a damaged file has made the directory")
	}
}

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	data := filepath.Join(dir, "data")
	subscribe(t, s)
	o := publish(t, s, 1, 10)
	<-o.some
	o.stop()
	o.ended.Wait()
	out := expect(t, 0, "fsync: what is acknowledged is on disk", "status", "--data", data)
	for _, words := range []string{"biggest queues:", "ledger", "journal", "p99 ≤", "free", "checkpoint"} {
		if !strings.Contains(out, words) {
			t.Errorf("status does not say %q:\n%s", words, out)
		}
	}
	var st struct {
		Queued  struct{ Messages int }
		Trouble []any
		Biggest []struct{ Client string } `json:"biggest_queues"`
	}
	out = expect(t, 0, "", "status", "--json", "--data", data)
	if err := json.Unmarshal([]byte(out), &st); err != nil || st.Queued.Messages < 10 || len(st.Biggest) != 1 || st.Biggest[0].Client != "ledger" {
		t.Errorf("status --json: %v\n%s", err, out)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(data, "admin.sock")); err == nil {
		t.Error("the socket is still there after the end")
	}
	expect(t, 1, "no broker answers", "status", "--data", data)
}

// TestDamagedJournal flips a bit in the middle of the journal of a broker that was
// killed: it does not start before a repair, and each says what to do.
func TestDamagedJournal(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	subscribe(t, s)
	o := publish(t, s, 2, 500)
	<-o.some
	s.kill()
	o.stop()
	o.ended.Wait()
	data := filepath.Join(dir, "data")
	expect(t, 0, "all is well", "store", "check", "--data", data)
	flipInJournal(t, data)
	started, err := serve(dir)
	if started != nil {
		started.kill()
	}
	if err == nil || !strings.Contains(err.Error(), "fairlead store repair --data") || !strings.Contains(err.Error(), "can't be reached") {
		t.Fatalf("serve on a damaged journal: %v", err)
	}
	expect(t, 1, "can't be reached", "store", "check", "--data", data)
	expect(t, 2, "--yes", "store", "repair", "--data", data)
	expect(t, 0, "are lost", "store", "repair", "--data", data, "--yes")
	expect(t, 0, "all is well", "store", "check", "--data", data)
	s = start(t, dir)
	// It is a broker like any other from now on.
	o = publish(t, s, 1, 100)
	<-o.some
	expect(t, 0, "ledger", "status", "--data", data)
	s.kill()
	o.stop()
	o.ended.Wait()
	wantLast(t, start(t, dir), o.soFar()[0]-1)
}

// flipInJournal changes a byte of a record in the middle of what has been written.
func flipInJournal(t *testing.T, data string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(data, "journal", "*.log"))
	if err != nil || len(names) == 0 {
		t.Fatalf("journal: %v, %v", names, err)
	}
	name := names[len(names)-1]
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(b, "\x00"))
	at := bytes.Index(b[used/2:], []byte("orders/")) // between records there is room that nobody reads
	if at < 0 {
		t.Fatalf("%s: no message behind byte %d", name, used/2)
	}
	b[used/2+at] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStatusOfAFullDisk fills the disk below a broker, and makes room again.
func TestStatusOfAFullDisk(t *testing.T) {
	if binary == "" {
		t.Skip("another broker was asked for")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("no file system of its own for this test: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	s := start(t, dir)
	data, fill := filepath.Join(dir, "data"), filepath.Join(dir, "fill")
	subscribe(t, s)
	expect(t, 0, "fsync", "status", "--data", data)
	// It ends when the file system is full.
	if err := os.WriteFile(fill, make([]byte, 64<<20), 0o600); err == nil {
		t.Fatal("the file system is larger than asked for")
	}
	c := connect(t, s, client.Options{})
	var refused *client.ReasonError
	for n := 0; refused == nil; n++ {
		err := c.Publish(t.Context(), client.Message{Topic: "orders/0", Payload: make([]byte, 64<<10), QoS: mqtt.QoS1})
		if err != nil && !errors.As(err, &refused) || n > 1000 {
			t.Fatalf("message %d on a full disk: %v, want a refusal", n, err)
		}
	}
	if refused.Code != mqtt.QuotaExceeded {
		t.Errorf("refused with %v, want 0x97", refused.Code)
	}
	leave(t, c)
	out := expect(t, 3, "TROUBLE  journal: ", "status", "--data", data)
	if !strings.Contains(out, "no space left on device") || !strings.Contains(out, "Service resumes by itself") {
		t.Errorf("status:\n%s", out)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	c = connect(t, s, client.Options{})
	for ctx, cancel := context.WithTimeout(t.Context(), patience); ; {
		err := c.Publish(ctx, client.Message{Topic: "orders/0", Payload: []byte("again"), QoS: mqtt.QoS1})
		if code, _, _ := fairlead(t, "status", "--data", data); err == nil && code == 0 {
			cancel()
			break
		}
		if ctx.Err() != nil {
			cancel()
			t.Fatalf("there is room again, and no service: %v", err)
		}
	}
	leave(t, c)
}
