package device

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead/admin"
	"fairlead/cli/clitest"
)

// lamp is a device as the API shows it. Times are those of the machine's zone.
func lamp() admin.Device {
	day := time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)
	return admin.Device{
		Name: "lamp-1", State: "active", Groups: []string{"hall", "lamps"}, Attrs: map[string]string{"site": "berlin", "floor": "2"},
		Certificates: []admin.Certificate{
			{Serial: "5f3a", NotAfter: day.AddDate(20, 0, 0), Fingerprint: "ab01"},
			{Serial: "77", NotAfter: day.AddDate(30, 0, 0), Fingerprint: "cd02", Revoked: &day, Reason: "lost"},
			{Serial: "09", NotAfter: day.AddDate(-1, 0, 0), Fingerprint: "ef03"},
		},
		Password: true, Created: day, Updated: day, Rev: 7,
	}
}

func TestList(t *testing.T) {
	b := clitest.NewBroker(t)
	other := admin.Device{Name: "t1", State: "suspended"}
	b.On("GET /v1/devices?attr.site=berlin&group=lamps&limit=1000&prefix=l&state=active", admin.List[admin.Device]{Items: []admin.Device{lamp(), other}})
	r := clitest.Run(t, Command, "", strings.Fields("list --group lamps --attr site=berlin --prefix l --state active --data "+b.Dir)...)
	r.Want(t, 0, `NAME    STATE      GROUPS      ATTRIBUTES           SHOWS
lamp-1  active     hall,lamps  floor=2,site=berlin  certificate until 2046-11-25, password
t1      suspended  -           -                    -
`, "")
}

// TestListGoesOn reads pages until there are no more, or enough.
func TestListGoesOn(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("GET /v1/devices?limit=1000", admin.List[admin.Device]{Items: []admin.Device{{Name: "a"}, {Name: "b"}}, Next: "b"})
	b.On("GET /v1/devices?after=b&limit=1000", admin.List[admin.Device]{Items: []admin.Device{{Name: "c"}}})
	r := clitest.Run(t, Command, "", "list", "--json", "--data", b.Dir)
	var got []admin.Device
	if err := json.Unmarshal([]byte(r.Out), &got); err != nil || r.Code != 0 || len(got) != 3 || got[2].Name != "c" {
		t.Errorf("exit code %d, %v, %s", r.Code, err, r.Out)
	}
	b.On("GET /v1/devices?limit=2", admin.List[admin.Device]{Items: []admin.Device{{Name: "a"}, {Name: "b"}}, Next: "b"})
	r = clitest.Run(t, Command, "", "list", "--limit", "2", "--data", b.Dir)
	if r.Code != 0 || strings.Count(r.Out, "\n") != 3 || !strings.Contains(r.Err, "--after b goes on") {
		t.Errorf("exit code %d, %q, %q", r.Code, r.Out, r.Err)
	}
	b.On("GET /v1/devices?after=z&limit=1000", admin.List[admin.Device]{})
	clitest.Run(t, Command, "", "list", "--after", "z", "--data", b.Dir).Want(t, 0, "no such device\n", "")
	clitest.Run(t, Command, "", "list", "--json", "--after", "z", "--data", b.Dir).Want(t, 0, "[]\n", "")
}

func TestShow(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("GET /v1/devices/lamp-1", lamp())
	clitest.Run(t, Command, "", "show", "lamp-1", "--data", b.Dir).Want(t, 0, `name        lamp-1
state       active
groups      hall, lamps
attr floor  2
attr site   berlin
password    set
added       2026-11-25 12:00:00
changed     2026-11-25 12:00:00

CERTIFICATE  STATE                     UNTIL       SHA-256
5f3a         good                      2046-11-25  ab01
77           revoked 2026-11-25: lost  2056-11-25  cd02
09           expired                   2025-11-25  ef03
`, "")
	b.Refuse("GET /v1/devices/lamp-9", 404, `device "lamp-9": not in the registry`)
	clitest.Run(t, Command, "", "show", "lamp-9", "--data", b.Dir).Want(t, 1, "", `device "lamp-9": not in the registry`)
}

// issued is the answer to "device add".
func issued() admin.Issued {
	return admin.Issued{Device: lamp(), Bundle: &admin.Bundle{
		Key: "the key\n", Cert: "the certificate\n", CA: "the CA\n", Serial: "5f3a", URLs: []string{"mqtts://broker.example:8883"},
	}}
}

func TestAdd(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("POST /v1/devices", issued())
	dir := filepath.Join(t.TempDir(), "deep", "lamp-1")
	add := []string{"add", "lamp-1", "--group", "lamps", "--group", "hall", "--attr", "site=berlin", "--days", "30", "--out", dir, "--data", b.Dir}
	clitest.Run(t, Command, "", add...).Want(t, 0, fmt.Sprintf(`lamp-1 is added, in hall, lamps, with a certificate until 2046-11-25
  %[1]s/lamp-1.key  its private key, the only copy: it belongs onto the device, and nowhere else
  %[1]s/lamp-1.crt  its certificate
  %[1]s/ca.crt      by which the device knows the broker
  %[1]s/connect.md  commands to paste
`, dir), "")
	b.WantAsked(`POST /v1/devices {"name":"lamp-1","groups":["lamps","hall"],"attrs":{"site":"berlin"},"days":30}`)
	for name, want := range map[string]string{"lamp-1.key": "the key\n", "lamp-1.crt": "the certificate\n", "ca.crt": "the CA\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "lamp-1.key")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the key: %v, %v, want mode 0600", info, err)
	}
	// A key that is there may be the only copy: the broker is not even asked.
	clitest.Run(t, Command, "", add...).Want(t, 1, "", "may be the only copy of a key")
	b.WantAsked()
	r := clitest.Run(t, Command, "", append(add, "--overwrite", "--json")...)
	var o outcome
	if err := json.Unmarshal([]byte(r.Out), &o); err != nil || r.Code != 0 || len(o.Files) != 4 || o.Serial != "5f3a" || strings.Contains(r.Out, "the key") {
		t.Errorf("exit code %d, %v, %s%s", r.Code, err, r.Out, r.Err)
	}
}

// TestAddWithoutKey is about devices that make their keys themselves, and those that
// need none.
func TestAddWithoutKey(t *testing.T) {
	b := clitest.NewBroker(t)
	answer := issued()
	answer.Bundle.Key = ""
	b.On("POST /v1/devices", answer)
	dir := t.TempDir()
	csr := filepath.Join(dir, "lamp-1.csr")
	const request = "-----BEGIN CERTIFICATE REQUEST-----\n"
	write(t, csr, request)
	write(t, filepath.Join(dir, "lamp-1.key"), "the device's own")
	r := clitest.Run(t, Command, "", "add", "lamp-1", "--csr", csr, "--out", dir, "--data", b.Dir)
	if r.Code != 0 || strings.Contains(r.Out, "private key") {
		t.Errorf("exit code %d, %s%s", r.Code, r.Out, r.Err)
	}
	b.WantAsked(`POST /v1/devices {"name":"lamp-1","csr":"-----BEGIN CERTIFICATE REQUEST-----\n"}`)
	if got := files(t, dir); !slices.Equal(got, []string{"ca.crt", "lamp-1.crt", "lamp-1.csr", "lamp-1.key"}) {
		t.Errorf("files: %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "lamp-1.key")); err != nil || string(got) != "the device's own" {
		t.Errorf("the key: %q, %v", got, err)
	}

	answer.Bundle = nil
	b.On("POST /v1/devices", answer)
	clitest.Run(t, Command, "", "add", "lamp-1", "--no-certificate", "--out", filepath.Join(dir, "none"), "--data", b.Dir).
		Want(t, 0, "lamp-1 is added, in hall, lamps\n", "")
	if _, err := os.Stat(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory was made for no files")
	}
}

// TestAddWithoutURL writes what there is to write if no listener has TLS.
func TestAddWithoutURL(t *testing.T) {
	b := clitest.NewBroker(t)
	answer := issued()
	answer.Bundle.URLs = nil
	b.On("POST /v1/devices", answer)
	dir := t.TempDir()
	r := clitest.Run(t, Command, "", "add", "lamp-1", "--out", dir, "--data", b.Dir)
	if got := files(t, dir); r.Code != 0 || !slices.Equal(got, []string{"ca.crt", "lamp-1.crt", "lamp-1.key"}) {
		t.Errorf("exit code %d, files %q, %s", r.Code, got, r.Err)
	}
	if info, err := os.Stat(filepath.Join(dir, "lamp-1.key")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the key: %v, %v, want mode 0600", info, err)
	}
}

// TestAddedAndNotWritten says how to go on: the device is there, its key is lost.
func TestAddedAndNotWritten(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("POST /v1/devices", issued())
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "ca.crt"), 0o700); err != nil { // nothing can be renamed to it
		t.Fatal(err)
	}
	clitest.Run(t, Command, "", "add", "lamp-1", "--out", dir, "--data", b.Dir).Want(t, 1, "", "fairlead device renew lamp-1")
}

func TestRenew(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("POST /v1/devices/lamp-1/certificates", issued())
	dir := t.TempDir()
	r := clitest.Run(t, Command, "", "renew", "lamp-1", "--out", dir, "--days", "9", "--data", b.Dir)
	if r.Code != 0 || !strings.HasPrefix(r.Out, "lamp-1 is renewed") || len(files(t, dir)) != 4 {
		t.Errorf("exit code %d, %s%s", r.Code, r.Out, r.Err)
	}
	b.WantAsked(`POST /v1/devices/lamp-1/certificates {"days":9}`)
}

func TestStates(t *testing.T) {
	b := clitest.NewBroker(t)
	for verb, state := range map[string]string{"suspend": "suspended", "resume": "active", "retire": "retired"} {
		d := lamp()
		d.State = state
		b.On("POST /v1/devices/lamp-1/"+verb, d)
		clitest.Run(t, Command, "", verb, "lamp-1", "--reason", "why not", "--data", b.Dir).
			Want(t, 0, "lamp-1 is "+state+", in hall, lamps, with floor=2,site=berlin\n", "")
		b.WantAsked("POST /v1/devices/lamp-1/" + verb + ` {"reason":"why not"}`)
	}
}

func TestSet(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("GET /v1/devices/lamp-1", lamp())
	b.On("PATCH /v1/devices/lamp-1", lamp())
	clitest.Run(t, Command, "", strings.Fields("set lamp-1 --group spare --no-group hall --attr site=paris --no-attr floor --json --data "+b.Dir)...)
	b.WantAsked("GET /v1/devices/lamp-1", `PATCH /v1/devices/lamp-1 {"groups":["lamps","spare"],"attrs":{"site":"paris"},"rev":7}`)
	// Nothing is said of attributes that are not to be changed.
	clitest.Run(t, Command, "", strings.Fields("set lamp-1 --no-group hall --no-group lamps --data "+b.Dir)...)
	b.WantAsked("GET /v1/devices/lamp-1", `PATCH /v1/devices/lamp-1 {"groups":[],"rev":7}`)
	b.Refuse("PATCH /v1/devices/lamp-1", 409, "device \"lamp-1\": it has changed meanwhile")
	clitest.Run(t, Command, "", strings.Fields("set lamp-1 --attr a=b --data "+b.Dir)...).Want(t, 1, "", "changed meanwhile")
}

func TestRevoke(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("GET /v1/devices/lamp-1", lamp())
	for _, serial := range []string{"5f3a", "9"} {
		b.On("DELETE /v1/devices/lamp-1/certificates/"+serial, lamp())
	}
	clitest.Run(t, Command, "", "revoke", "lamp-1", "5F:3A", "--reason", "stolen", "--data", b.Dir).Want(t, 0, "lamp-1: 1 certificate revoked\n", "")
	b.WantAsked("GET /v1/devices/lamp-1", "DELETE /v1/devices/lamp-1/certificates/5f3a?reason=stolen")
	d := lamp()
	d.Certificates[2].Serial = "9"
	b.On("GET /v1/devices/lamp-1", d)
	clitest.Run(t, Command, "", "revoke", "lamp-1", "--all", "--data", b.Dir).Want(t, 0, "lamp-1: 2 certificates revoked\n", "")
	b.WantAsked("GET /v1/devices/lamp-1", "DELETE /v1/devices/lamp-1/certificates/5f3a", "DELETE /v1/devices/lamp-1/certificates/9")
}

func TestPassword(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("PUT /v1/devices/lamp-1/password", admin.Password{})
	b.On("DELETE /v1/devices/lamp-1/password", struct{}{})
	clitest.Run(t, Command, "correct horse\r\nmore\n", "password", "lamp-1", "--password-stdin", "--data", b.Dir).Want(t, 0, "lamp-1 has a new password\n", "")
	b.WantAsked(`PUT /v1/devices/lamp-1/password {"password":"correct horse"}`)
	clitest.Run(t, Command, "", "password", "lamp-1", "--remove", "--data", b.Dir).Want(t, 0, "lamp-1 has no password any more\n", "")
	clitest.Run(t, Command, "\n", "password", "lamp-1", "--password-stdin", "--data", b.Dir).Want(t, 1, "", "first line is empty")
	b.On("PUT /v1/devices/lamp-1/password", admin.Password{Password: "made for you"})
	b.Asked()
	clitest.Run(t, Command, "", "password", "lamp-1", "--generate", "--data", b.Dir).Want(t, 0, "made for you\n", "")
	b.WantAsked(`PUT /v1/devices/lamp-1/password {"generate":true}`)
}

func TestWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	csr := filepath.Join(dir, "none.csr")
	write(t, csr, "no request")
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"add", 2, "expected one NAME"},
		{"add a b", 2, "expected one NAME"},
		{"add ../x", 2, "name"},
		{"add x --attr y", 2, "expected KEY=VALUE"},
		{"add x --attr y=1 --attr y=2", 2, "given twice"},
		{"add x --days 0", 2, "whole number from 1 to 3650"},
		{"add x --no-certificate --csr " + csr, 2, "expected none of them"},
		{"add x --csr " + csr, 1, "expected a certificate request in PEM"},
		{"add x --csr " + dir + "/nothing", 1, "no such file"},
		{"list --state gone", 2, "expected pending, active, suspended or retired"},
		{"list extra", 2, "expected flags only"},
		{"set x", 2, "nothing to change"},
		{"revoke x", 2, "which certificates?"},
		{"revoke", 2, "expected a NAME"},
		{"revoke x 5f --all", 2, "which certificates?"},
		{"revoke x nothex", 2, "serial"},
		{"password x", 2, "expected one of --generate"},
		{"password x --generate --remove", 2, "expected one of --generate"},
		{"show x --data " + dir, 1, "no broker answers"},
		{"show x --data " + dir + " --server https://a", 2, "expected one of them"},
		{"show x --server https://127.0.0.1:1", 2, "who are you?"},
		{"show x --token-file " + csr, 2, "give --server URL too"},
		{"add x --out " + csr + "/deep", 1, "not a directory"},
	} {
		r := clitest.Run(t, Command, "", strings.Fields(test.args)...)
		if r.Code != test.code || !strings.Contains(r.Err, test.want) {
			t.Errorf("device %s: exit code %d, want %d; stderr %q, want %q", test.args, r.Code, test.code, r.Err, test.want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// files are the names in a directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
