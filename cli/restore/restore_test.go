package restore

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fairlead/admin"
	"fairlead/audit"
	"fairlead/auth"
	"fairlead/broker"
	"fairlead/ca"
	"fairlead/cli"
	backupcmd "fairlead/cli/backup"
	"fairlead/cli/clitest"
	"fairlead/device"
	"fairlead/store"
	"fairlead/store/backup"
	"fairlead/store/mem"
	"fairlead/store/pebble"
)

// data is a data directory with all real parts, as a broker has them open.
type data struct {
	dir      string
	engine   *pebble.Engine
	registry *device.Registry
	ca       *ca.Authority
	audit    *audit.Log
}

func openData(t *testing.T, dir string) *data {
	t.Helper()
	d := &data{dir: dir}
	var err error
	if d.engine, err = pebble.Open(dir, pebble.Options{}); err != nil {
		t.Fatal(err)
	}
	if d.registry, err = device.Open(t.Context(), d.engine.KV(), device.Options{}); err != nil {
		t.Fatal(err)
	}
	if d.audit, err = audit.Open(filepath.Join(dir, "audit"), audit.Options{}); err != nil {
		t.Fatal(err)
	}
	if d.ca, err = ca.Open(filepath.Join(dir, "ca"), ca.Options{}); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *data) close(t *testing.T) {
	t.Helper()
	if err := errors.Join(d.registry.Close(), d.ca.Close(), d.audit.Close(), d.engine.Close()); err != nil {
		t.Fatal(err)
	}
}

// fleet is what a broker looks after: a device, one that is revoked, a user.
type fleet struct{ pump, stolen ca.Bundle }

func newFleet(t *testing.T, d *data) (f fleet) {
	t.Helper()
	var err error
	if f.pump, err = d.ca.IssueDevice("pump", ca.DeviceOptions{}); err != nil {
		t.Fatal(err)
	}
	if f.stolen, err = d.ca.IssueDevice("stolen", ca.DeviceOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := d.ca.Revoke(ca.Revocation{Serial: f.stolen.Serial, Cause: ca.KeyCompromise, NotAfter: f.stolen.NotAfter}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.registry.Add(t.Context(), device.Device{Name: "pump", State: auth.Active}, device.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.registry.AddUser(t.Context(), device.User{Name: "anna", Password: audit.Secret(auth.HashPassword("correct horse"))}); err != nil {
		t.Fatal(err)
	}
	if err := d.audit.Act(t.Context(), audit.Entry{Action: "device.add", Object: "pump"}); err != nil {
		t.Fatal(err)
	}
	return f
}

// running is a broker as far as a backup needs one.
type running struct{ admin.Broker }

func (running) Status(int) broker.Status                                   { return broker.Status{Version: "7"} }
func (running) Hold(_ context.Context, f func(from store.Pos) error) error { return f(0) }

// serve answers on admin.sock until the func it returns is called.
func (d *data) serve(t *testing.T) (stop func()) {
	t.Helper()
	s, err := admin.Open(admin.Options{Dir: d.dir, Broker: running{}, Store: d.engine, Registry: d.registry, CA: d.ca, Audit: d.audit})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// show connects with a device's certificate and returns who that is. The device trusts
// the root that it was given with its certificate.
func (d *data) show(t *testing.T, b ca.Bundle) (string, error) {
	t.Helper()
	pair, err := tls.X509KeyPair(b.Chain, b.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b.Root)
	near, far := net.Pipe()
	server := tls.Server(near, d.ca.TLS(ca.TLSOptions{ClientCerts: ca.ClientCertRequired}))
	client := tls.Client(far, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{pair}})
	ended := make(chan error, 1)
	go func() { // ends with the pipe
		_, err := client.Read(make([]byte, 1)) // handshakes first
		ended <- err
	}()
	err = server.HandshakeContext(t.Context())
	if err == nil {
		_, err = server.Write([]byte("x"))
	}
	near.Close()
	if clientErr := <-ended; err == nil && clientErr != nil {
		t.Errorf("the device does not accept the broker: %v", clientErr)
	}
	if err != nil {
		return "", err
	}
	state := server.ConnectionState()
	id, err := d.ca.Identify(&state)
	return id.Device, err
}

// wantFleet demands that devices go on with what they have.
func (d *data) wantFleet(t *testing.T, f fleet) {
	t.Helper()
	if name, err := d.show(t, f.pump); name != "pump" || err != nil {
		t.Errorf("the device is %q, %v", name, err)
	}
	if _, err := d.show(t, f.stolen); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("the device that is revoked: %v", err)
	}
	if _, ok := d.registry.Device("pump"); !ok {
		t.Error("the registry does not know the device")
	}
	r, err := audit.Verify(t.Context(), d.audit.Dir(), audit.VerifyOptions{})
	if err != nil || !r.OK() {
		t.Errorf("the audit log: %+v, %v", r, err)
	}
	p, err := audit.List(t.Context(), d.audit.Dir(), audit.Query{OldestFirst: true})
	if err != nil || len(p.Entries) < 2 {
		t.Fatalf("the audit log: %+v, %v", p, err)
	}
	first, last := p.Entries[0], p.Entries[len(p.Entries)-1]
	if first.Action != "device.add" || last.Action != "backup.restore" || last.Actor.Name == "" || !strings.Contains(string(last.After.(json.RawMessage)), `"program"`) {
		t.Errorf("the audit log begins with %+v and ends with %+v", first, last)
	}
}

// run runs a command line that works.
func run(t *testing.T, c *cli.Command, args ...string) string {
	t.Helper()
	r := clitest.Run(t, c, "", args...)
	if r.Code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", c.Name, strings.Join(args, " "), r.Code, r.Out, r.Err)
	}
	return r.Out
}

func want(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in:\n%s", w, out)
		}
	}
}

// TestDevicesGoOn backs a broker up with all secrets while it runs, and once it is
// stopped. Each time a device connects to what is restored with the certificate it had.
func TestDevicesGoOn(t *testing.T) {
	base := t.TempDir()
	d := openData(t, filepath.Join(base, "data"))
	f := newFleet(t, d)
	passphrase := filepath.Join(base, "passphrase")
	if err := os.WriteFile(passphrase, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	encrypted, plain := filepath.Join(base, "encrypted"), filepath.Join(base, "plain")

	stop := d.serve(t)
	want(t, run(t, backupcmd.Command, "--data", d.dir, "--passphrase-file", passphrase, encrypted),
		"keys of the CA: in it, encrypted (ca/issuing.key, ca/root.key)\n")
	stop()
	d.close(t)
	want(t, run(t, backupcmd.Command, "--data", d.dir, "--with-secrets", plain),
		"keys of the CA: in it, and not encrypted (ca/issuing.key, ca/root.key): whoever reads the file can pass for any device\n")
	for name, file := range map[string]string{"running": encrypted, "stopped": plain} {
		to := filepath.Join(base, name)
		want(t, run(t, Command, "--data", to, "--passphrase-file", passphrase, file), "certificate authority: in it with its keys", "revoke it again")
		restored := openData(t, to)
		restored.wantFleet(t, f)
		if u, _ := restored.registry.User("anna"); u.Password == "" {
			t.Errorf("%s: the password is not there", name)
		}
		restored.close(t)
		// A second one would take the CA away from its devices.
		clitest.Run(t, Command, "", "--data", to, file).Want(t, 1, "", "is not empty")
	}
	for name := range map[string]bool{encrypted: true, plain: false} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("PRIVATE KEY")) != (name == plain) {
			t.Errorf("%s: the keys are readable in it, or not", filepath.Base(name))
		}
	}
}

// TestWithoutKeys restores a backup without the keys of the CA: it does not start, but
// once they are put back.
func TestWithoutKeys(t *testing.T) {
	base := t.TempDir()
	d := openData(t, filepath.Join(base, "data"))
	f := newFleet(t, d)
	stop := d.serve(t)
	file := filepath.Join(base, "file")
	want(t, run(t, backupcmd.Command, "--data", d.dir, file), "keys of the CA: left out (ca/issuing.key, ca/root.key); give a passphrase\n", "each device needs a new certificate", "passwords and tokens: in it, as hashes\n")
	stop()
	d.close(t)
	if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, []byte("PRIVATE KEY")) {
		t.Errorf("the file has a private key, or can't be read: %v", err)
	}
	to := filepath.Join(base, "restored")
	want(t, run(t, Command, "--data", to, file), "keys of the CA: not in it (ca/issuing.key, ca/root.key)\n", "Put them into "+to+"/ca", "move "+to+"/ca away")
	if _, err := ca.Open(filepath.Join(to, "ca"), ca.Options{}); err == nil || !strings.Contains(err.Error(), "issuing.key is missing: put it back") {
		t.Fatalf("the CA opens without its keys: %v", err)
	}
	for _, name := range []string{"issuing.key", "root.key"} {
		if err := os.Rename(filepath.Join(d.dir, "ca", name), filepath.Join(to, "ca", name)); err != nil {
			t.Fatal(err)
		}
	}
	restored := openData(t, to)
	restored.wantFleet(t, f)
	restored.close(t)
}

// TestWithoutSecrets leaves passwords out as well.
func TestWithoutSecrets(t *testing.T) {
	base := t.TempDir()
	d := openData(t, filepath.Join(base, "data"))
	newFleet(t, d)
	d.close(t)
	file, to := filepath.Join(base, "file"), filepath.Join(base, "restored")
	want(t, run(t, backupcmd.Command, "--data", d.dir, "--without-secrets", file), "keys of the CA: left out, as you say", "passwords and tokens: left out, as you say")
	var r result
	if err := json.Unmarshal([]byte(run(t, Command, "--verify", "--json", file)), &r); err != nil || r.Secrets != backup.SecretsNone || !r.CA || r.Data != "" || !slices.Equal(r.LeftOut, []string{"ca/issuing.key", "ca/root.key"}) {
		t.Errorf("--verify --json: %+v, %v", r, err)
	}
	want(t, run(t, Command, "--data", to, file), "passwords and tokens: not in it")
	e, err := pebble.Open(to, pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	users, err := device.Open(t.Context(), e.KV(), device.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	if u, ok := users.User("anna"); !ok || u.Password != "" {
		t.Errorf("anna is there: %v, with a password: %v", ok, u.Password != "")
	}
}

// TestOldVersion restores a file from before there was a CA.
func TestOldVersion(t *testing.T) {
	to, file := filepath.Join(t.TempDir(), "restored"), filepath.FromSlash("../../store/backup/testdata/v1.backup")
	want(t, run(t, Command, "--verify", file), "is good: 3 keys and 1 record of the journal", "certificate authority: not in it")
	want(t, run(t, Command, "--data", to, file), "Put the ca directory of that broker into "+to+" before one starts there")
	if _, err := os.Stat(filepath.Join(to, "ca")); err == nil {
		t.Error("a CA was begun")
	}
	if r, err := audit.Verify(t.Context(), filepath.Join(to, "audit"), audit.VerifyOptions{}); err != nil || !r.OK() || r.Last != 1 {
		t.Errorf("the audit log: %+v, %v, want the restore", r, err)
	}
}

// TestNothingIsLeft restores files that are damaged, or not known: nothing remains.
func TestNothingIsLeft(t *testing.T) {
	good := write(t, backup.Bytes("audit/anchor", false, nil), backup.Bytes("ca/root.crt", false, []byte("x")))
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, test := range map[string]struct {
		file []byte
		want string
	}{
		"flipped":          {flipped, "damaged"},
		"cut":              {good[:len(good)-1], "damaged"},
		"other directory":  {write(t, backup.Bytes("other/file", false, nil)), "other/file: this version does not know what the file is for"},
		"below the log":    {write(t, backup.Bytes("audit/a/b", false, nil)), "does not know"},
		"secret in a log":  {write(t, backup.Bytes("audit/a", true, nil)), "does not know"},
		"no file of a CA":  {write(t, backup.Bytes("ca/other", false, nil)), "is not a file of a CA"},
		"below the CA":     {write(t, backup.Bytes("ca/root.crt/x", false, nil)), "is not a file of a CA"},
		"beside the store": {write(t, backup.Bytes("FORMAT", false, nil)), "does not know"},
	} {
		file, to := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "restored")
		if err := os.WriteFile(file, test.file, 0o600); err != nil {
			t.Fatal(err)
		}
		clitest.Run(t, Command, "", "--data", to, file).Want(t, 1, "", test.want)
		if _, err := os.Stat(to); err == nil {
			t.Errorf("%s: the directory is there", name)
		}
	}
}

// write makes a backup of an empty store with those files.
func write(t *testing.T, files ...backup.File) []byte {
	t.Helper()
	var b bytes.Buffer
	source := backup.Source{Engine: mem.New(), Files: func() ([]backup.File, error) { return files, nil }}
	if _, err := backup.Write(t.Context(), &b, source, backup.Head{Secrets: backup.SecretsAll}, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestOnlyACA refuses a directory in which there is nothing but a CA.
func TestOnlyACA(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, write(t), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := ca.Open(filepath.Join(dir, "ca"), ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	before := list(t, filepath.Join(dir, "ca"))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	clitest.Run(t, Command, "", "--data", dir, file).Want(t, 1, "", "is not empty, it holds ca")
	if after := list(t, filepath.Join(dir, "ca")); !maps.Equal(before, after) {
		t.Errorf("the CA is %v, was %v", after, before)
	}
}

// list has the files of a directory with their sizes.
func list(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int64)
	for _, f := range found {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		sizes[f.Name()] = info.Size()
	}
	return sizes
}

// TestTooLargeCA gives it more than is held in memory.
func TestTooLargeCA(t *testing.T) {
	f := &files{dir: t.TempDir(), caLen: caMax - 1}
	out, err := f.create("ca/revoked", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, "xy"); err == nil || !strings.Contains(err.Error(), "have more than 256.0 MiB") {
		t.Errorf("Write: %v", err)
	}
}
