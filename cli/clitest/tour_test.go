package clitest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/admin"
	"fairlead/cli"
	"fairlead/cli/audit"
	"fairlead/cli/ca"
	"fairlead/cli/client"
	"fairlead/cli/clitest"
	"fairlead/cli/device"
	"fairlead/cli/doctor"
	"fairlead/cli/group"
	"fairlead/cli/policy"
	"fairlead/cli/pub"
	"fairlead/cli/sub"
	"fairlead/cli/token"
	"fairlead/cli/user"
	"fairlead/config"
	"fairlead/node"
)

var root = &cli.Command{Name: "fairlead", Commands: []*cli.Command{
	audit.Command, ca.Command, client.Command, device.Command, doctor.Command, group.Command, policy.Command, pub.Command, sub.Command,
	token.Command, user.Command,
}}

// tour is a running node, and a directory for files.
type tour struct {
	t           *testing.T
	data, files string
	api, mqtts  string
	stop        func()
}

func newTour(t *testing.T) *tour {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl") // the path of a socket has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v := &tour{t: t, data: filepath.Join(dir, "data"), files: t.TempDir(), api: "https://127.0.0.1:" + freePort(t), mqtts: "mqtts://127.0.0.1:" + freePort(t)}
	c, err := config.Load(config.LoadOptions{Flags: []config.Setting{
		{Key: "data", Value: v.data}, {Key: "durability", Value: "memory"}, {Key: "listeners", Value: v.mqtts}, {Key: "admin.listen", Value: v.api},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- node.Run(ctx, node.Node{Config: c, Logger: slog.New(slog.DiscardHandler), Version: "test", Ready: func([]string) { close(ready) }})
	}()
	v.stop = func() {
		if v.stop = func() {}; true {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() { v.stop() })
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	return v
}

// freePort is a port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// run runs a command line on the node's data directory, and checks its exit code and
// something in its output.
func (v *tour) run(code int, want, line string) clitest.Result {
	v.t.Helper()
	return v.runWith("", code, want, line+" --data "+v.data)
}

func (v *tour) runWith(stdin string, code int, want, line string) clitest.Result {
	v.t.Helper()
	r := clitest.Run(v.t, root, stdin, strings.Fields(line)...)
	if r.Code != code || !strings.Contains(r.Out+r.Err, want) {
		v.t.Errorf("fairlead %s: exit code %d, want %d and %q:\n%s%s", line, r.Code, code, want, r.Out, r.Err)
	}
	return r
}

// path is a file in the tour's directory.
func (v *tour) path(name string) string { return filepath.Join(v.files, name) }

func (v *tour) write(name, text string) string {
	v.t.Helper()
	if err := os.WriteFile(v.path(name), []byte(text), 0o600); err != nil {
		v.t.Fatal(err)
	}
	return v.path(name)
}

const sensors = `policies:
  sensors:
    who: {groups: sensors}
    allow:
      - publish: plant/{attr.site}/{device}/#
      - subscribe: plant/#
`

// TestTour is a day of an operator, with a real broker.
func TestTour(t *testing.T) {
	v := newTour(t)
	for _, name := range []string{"t1", "t2"} {
		v.run(0, "with a certificate until", fmt.Sprintf("device add %s --group sensors --attr site=berlin --out %s", name, v.path(name)))
	}
	v.run(1, "already in the registry", "device add t1 --out "+v.path("again"))
	v.run(0, "site=berlin", "device list --group sensors --attr site=berlin")
	v.run(0, "sensors", "group list")
	v.run(1, `not in the registry`, "device show t9")

	// What may it do?
	v.run(0, `policy "built-in devices"`, "policy check t1 publish devices/t1/state")
	v.run(1, "refused to publish", "policy check t1 publish devices/t2/state")
	file := v.write("sensors.yaml", sensors)
	v.run(0, "sensors.yaml:6:20", "policy check t1 subscribe plant/# --with "+file)
	v.run(0, "+ subscribe plant/#", "policy diff "+file)
	v.run(0, "version 1", "policy apply "+file)
	v.run(1, "", "policy apply "+file+" --if-version 0")
	v.run(0, "sensors.yaml:5:18", "policy check t1 publish plant/berlin/t1/x")
	if r := v.run(0, "", "policy show sensors.yaml"); r.Out != sensors {
		t.Errorf("policy show: %q", r.Out)
	}
	v.run(0, "read the data of 1 other device", "policy blast-radius t1")
	v.run(1, "t2", "policy blast-radius --all --above 0")
	v.run(0, "no score is above 100", "policy blast-radius --all --above 100")

	// The operator's messages, and the device's.
	v.run(0, "", "pub -t devices/t1/config -r -q 1 -m hello")
	v.run(0, "devices/t1/config hello", "sub -t devices/t1/config -C 1 -v -W 20")
	tls := fmt.Sprintf(" -L %s --cafile %s/ca.crt --cert %[2]s/t1.crt --key %[2]s/t1.key -i t1", v.mqtts, v.path("t1"))
	v.runWith("", 0, "hello", "sub -t devices/t1/config -C 1 -W 20"+tls)
	v.runWith("", 1, "Not authorized", "pub -t devices/t2/config -q 1 -m x"+tls)
	v.runWith("", 0, "received PUBACK (Mid: 1, RC:", "pub -t plant/berlin/t1/x -q 1 -m x -d"+tls)

	// Out with a thief.
	v.run(0, "t1 is suspended", "device suspend t1 --reason stolen")
	v.runWith("", 1, "", "pub -t devices/t1/state -q 1 -m x"+tls)
	v.run(0, "t1 is active", "device resume t1")
	v.run(0, "1 certificate revoked", "device revoke t1 --all")
	v.run(0, "is renewed", "device renew t1 --overwrite --out "+v.path("t1"))
	v.runWith("", 0, "", "pub -t devices/t1/state -q 1 -m x"+tls)
	v.run(0, "in lamps, with site=paris", "device set t2 --no-group sensors --group lamps --attr site=paris")
	v.run(0, "t2 is retired", "device retire t2")
	v.run(0, "no longer in force", "policy remove sensors.yaml")
	v.run(0, "", "client list")

	// Who looks after it.
	v.runWith("correct horse\n", 0, "anna is added", "user add anna --password-stdin --role viewer --data "+v.data)
	v.run(0, "admin", "user set anna --role admin")
	v.run(0, "fingerprint", "ca show")
	v.run(0, "BEGIN X509 CRL", "ca crl")
	v.run(0, "the log is whole", "audit verify")
	v.run(0, "device.suspend", "audit list --object t1 --kind act")
	v.remote()
	v.stop()
	v.run(0, "the log is whole", "audit verify") // without a broker
	v.run(0, "device.retire", "audit list --action device.")
	v.run(1, "no broker answers", "device list")
	v.run(1, "no broker answers", "doctor")
}

// remote does the same by HTTPS, with a token.
func (v *tour) remote() {
	v.t.Helper()
	secret := v.write("token", v.run(0, "fl_", "token add --user anna --about tour").Out)
	rootFile := v.write("root.crt", v.run(0, "BEGIN CERTIFICATE", "ca root").Out)
	how := fmt.Sprintf(" --server %s --cafile %s --token-file %s", v.api, rootFile, secret)
	v.runWith("", 0, "t1", "device list"+how)
	v.runWith("", 0, "device.suspend", "audit list --object t1"+how)
	text, err := os.ReadFile(secret)
	if err != nil {
		v.t.Fatal(err)
	}
	vars := []string{"FAIRLEAD_TOKEN=" + strings.TrimSpace(string(text))}
	if r := clitest.RunWith(v.t, root, vars, "", "user", "show", "anna", "--server", v.api, "--cafile", rootFile); r.Code != 0 || !strings.Contains(r.Out, "admin") {
		v.t.Errorf("with FAIRLEAD_TOKEN: exit code %d, %s%s", r.Code, r.Out, r.Err)
	}
	v.runWith("", 0, "the log is whole", "audit verify"+how)
	r := v.runWith("", 0, "", "doctor --json"+how)
	var findings []admin.Finding
	if err := json.Unmarshal([]byte(r.Out), &findings); err != nil {
		v.t.Errorf("doctor: %v", err)
	}
	v.runWith("", 1, "not trusted", fmt.Sprintf("device list --server %s --token-file %s", v.api, secret))
	v.runWith("", 1, "", fmt.Sprintf("device list --server %s --cafile %s --token-file %s", v.api, rootFile, v.write("wrong", "fl_x_y\n")))
	v.run(0, "", "user remove anna")
	v.runWith("", 1, "", "device list"+how)
}
