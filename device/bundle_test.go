package device_test

import (
	"bytes"
	"errors"
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/device"
)

func bundle() device.Bundle {
	return device.Bundle{
		Name: "door-1", Key: []byte("the key\n"), Cert: []byte("the certificate\n"), CA: []byte("the CA\n"),
		URLs: []string{"wss://broker.example:8084/mqtt", "mqtts://broker.example"},
	}
}

func TestBundle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for", "it")
	paths, err := device.WriteBundle(dir, bundle())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]struct {
		mode    fs.FileMode
		content string
	}{
		"door-1.key": {0o600, "the key\n"}, "door-1.crt": {0o644, "the certificate\n"}, "ca.crt": {0o644, "the CA\n"}, "connect.md": {0o644, ""},
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want) || len(paths) != len(want) {
		t.Errorf("files %v, paths %v, %v", entries, paths, err)
	}
	for name, w := range want {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		content, _ := os.ReadFile(filepath.Join(dir, name))
		if info.Mode().Perm() != w.mode || w.content != "" && string(content) != w.content {
			t.Errorf("%s has mode %v and content %q, want %v and %q", name, info.Mode(), content, w.mode, w.content)
		}
	}
	page, _ := os.ReadFile(filepath.Join(dir, "connect.md"))
	for _, line := range []string{
		"mosquitto_sub -h broker.example -p 8883 --cafile ca.crt --cert door-1.crt --key door-1.key -i door-1:sub -t 'devices/door-1/#'",
		"mosquitto_pub -h broker.example -p 8883 --cafile ca.crt --cert door-1.crt --key door-1.key -i door-1 -t devices/door-1/state -m hello -q 1",
		"fairlead pub -h broker.example -p 8883 --tls --cafile ca.crt --cert door-1.crt --key door-1.key -i door-1 -t devices/door-1/state -m hello -q 1",
		`const client = mqtt.connect("mqtts://broker.example:8883", {`,
		`o := mqtt.NewClientOptions().AddBroker("mqtts://broker.example:8883").SetClientID("door-1")`,
	} {
		if !strings.Contains(string(page), line+"\n") {
			t.Errorf("connect.md lacks the line %s", line)
		}
	}
	_, code, _ := strings.Cut(string(page), "```go\n")
	code, _, _ = strings.Cut(code, "```")
	if formatted, err := format.Source([]byte(code)); err != nil || string(formatted) != code {
		t.Errorf("the Go program is not in gofmt's form: %v\n%s", err, code)
	}
}

func TestBundleKeepsKeys(t *testing.T) {
	dir := t.TempDir()
	b := bundle()
	if _, err := device.WriteBundle(dir, b); err != nil {
		t.Fatal(err)
	}
	if _, err := device.WriteBundle(dir, b); err != nil {
		t.Errorf("the same bundle again: %v", err)
	}
	b.Key, b.Cert = []byte("another key\n"), []byte("another certificate\n")
	if _, err := device.WriteBundle(dir, b); !errors.Is(err, fs.ErrExist) {
		t.Errorf("another key: %v", err)
	}
	for name, want := range map[string]string{"door-1.key": "the key\n", "door-1.crt": "the certificate\n"} {
		if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
			t.Errorf("%s is now %q", name, got)
		}
	}
	b.Overwrite = true
	if _, err := device.WriteBundle(dir, b); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "door-1.key")); string(got) != "another key\n" {
		t.Errorf("overwritten: %q", got)
	}
	if info, err := os.Stat(filepath.Join(dir, "door-1.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("overwritten: %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestReserve is the way of a file system without links.
func TestReserve(t *testing.T) {
	dir := t.TempDir()
	temp, path := filepath.Join(dir, "temp"), filepath.Join(dir, "key")
	for n, want := range []error{nil, fs.ErrExist} {
		if err := os.WriteFile(temp, []byte{byte(n)}, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := device.Reserve(temp, path); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, []byte{0}) {
		t.Errorf("content %v", got)
	}
}

func TestBundlesThatAreNotWritten(t *testing.T) {
	for _, change := range []func(*device.Bundle){
		func(b *device.Bundle) { b.Name = "../door-1" },
		func(b *device.Bundle) { b.Name = "a/b" },
		func(b *device.Bundle) { b.Name = "" },
		func(b *device.Bundle) { b.Name = ".." },
		func(b *device.Bundle) { b.Name = "ca" },
		func(b *device.Bundle) { b.Name = "CA" },
		func(b *device.Bundle) { b.URLs = nil },
		func(b *device.Bundle) { b.URLs = []string{"mqtt://broker.example"} },
		func(b *device.Bundle) { b.URLs = []string{"mqtts://"} },
		func(b *device.Bundle) { b.URLs = []string{"mqtts://user:pw@broker.example"} },
		func(b *device.Bundle) { b.URLs = []string{"mqtts://broker.example/$(reboot)"} },
		func(b *device.Bundle) { b.URLs = []string{"mqtts://a';reboot;'"} },
		func(b *device.Bundle) { b.URLs = []string{"mqtts://a\n"} },
	} {
		dir := t.TempDir()
		b := bundle()
		change(&b)
		if _, err := device.WriteBundle(dir, b); err == nil {
			t.Errorf("%+v: no error", b)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Errorf("%+v: wrote %v", b, entries)
		}
	}
}
