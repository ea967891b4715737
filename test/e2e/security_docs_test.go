package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"fairlead/config"
)

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSecurityConfigurations reads every configuration of docs/identity.md, and demands
// that each setting of identity is told there.
func TestSecurityConfigurations(t *testing.T) {
	text := page(t, "docs/identity.md")
	read := 0
	for _, b := range parseBlocks(text) {
		if b.lang != "yaml" {
			continue
		}
		file := filepath.Join(t.TempDir(), "fairlead.yaml")
		if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(config.LoadOptions{File: file}); err != nil {
			t.Errorf("docs/identity.md:%d: %v", b.line, err)
		}
		read++
	}
	if read == 0 {
		t.Error("docs/identity.md has no configuration")
	}
	keys := []string{"profile", "plaintext", "open", "names", "policies"}
	for prefix, section := range map[string]any{
		"listeners[]": config.Listener{}, "listeners[].tls": config.TLS{}, "acme": config.ACME{}, "auth": config.Auth{},
		"auth.jwt": config.JWT{}, "auth.hook": config.Hook{}, "admin": config.Admin{}, "audit": config.Audit{},
	} {
		of := reflect.TypeOf(section)
		for i := range of.NumField() {
			if f := of.Field(i); f.Type.Kind() != reflect.Struct {
				keys = append(keys, prefix+"."+f.Tag.Get("yaml"))
			}
		}
	}
	for _, key := range keys {
		if !strings.Contains(text, "`"+key+"`") {
			t.Errorf("docs/identity.md does not tell of %s", key)
		}
	}
}

// TestSecurityPromises demands that each test that docs/security.md names is there, and
// that it names each of these.
func TestSecurityPromises(t *testing.T) {
	text := page(t, "docs/security.md")
	tests := map[string]bool{}
	found := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range found.FindAllStringSubmatch(string(source), -1) {
			tests[m[1]] = tests[m[1]] || strings.Contains(path, "e2e")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, name := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(text, -1) {
		if _, ok := tests[name]; !ok {
			t.Errorf("docs/security.md names %s, which is not there", name)
		}
		named[name] = true
	}
	for name, here := range tests {
		ofThePage := name == "TestSecurityPromises" || name == "TestSecurityConfigurations" || name == "TestSecurityAnonymous"
		if here && strings.HasPrefix(name, "TestSecurity") && !named[name] && !ofThePage {
			t.Errorf("docs/security.md does not name %s", name)
		}
	}
}

// TestSecurityHome starts the example for homes, on an address of this machine that
// others can reach, and has Mosquitto's clients log in as Home Assistant would.
func TestSecurityHome(t *testing.T) {
	if binary == "" {
		t.Skip("another broker was asked for")
	}
	address := outside(t)
	plain, secure, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	ws, _, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &castle{t: t, dir: dir, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "fairlead.yaml"),
		plain: address + ":" + plain, tls: "127.0.0.1:" + secure, wss: "127.0.0.1:" + ws}
	example := page(t, "examples/home/fairlead.yaml")
	text := strings.NewReplacer("192.168.1.10:1883", c.plain, "mqtts://:8883", "mqtts://:"+secure, "wss://:8084", "wss://:"+ws, "./fairlead-data", c.data).Replace(example)
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.serve()
	c.user("homeassistant", "correct horse")
	pump := c.device("pump")
	login := append(at(c.plain), "-u", "homeassistant", "-P", "correct horse", "-q", "1")
	out := waiting(t, dir, "Subscribed", append([]string{"mosquitto_sub", "-d", "-v", "-t", "#"}, login...)...)
	must(t, "", dir, "", "mosquitto_pub", append([]string{"-t", "zigbee2mqtt/lamp/set", "-m", "on"}, login...)...)
	wantLine(t, out, "zigbee2mqtt/lamp/set on")
	thief := c.as(pump, "pump")
	if err := publishTo(t, thief, "zigbee2mqtt/lamp/set", "off"); err == nil {
		t.Error("a device with a certificate uses the topics of users")
	}
	if said, err := shell(t, dir, "", "mosquitto_pub", append(at(c.plain), "-t", "x", "-m", "y", "-V", "5", "-q", "1")...); err == nil {
		t.Errorf("nobody asked for a password:\n%s", said)
	}
	if _, said, _ := c.try("", "doctor"); !strings.Contains(said, "has no encryption (profile: home)") {
		t.Errorf("doctor does not say what the profile gives up:\n%s", said)
	}
	c.kill()
	everywhere := strings.Replace(text, c.plain, "0.0.0.0:"+plain, 1)
	if err := os.WriteFile(c.config, []byte(everywhere), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := shell(t, dir, "", binary, "serve", "--config", c.config)
	if err == nil || !strings.Contains(said, "expected the address of the home network") {
		t.Errorf("on every network: %v\n%s", err, said)
	}
}

// outside is an address of this machine that is not loopback.
func outside(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return fmt.Sprint(n.IP)
		}
	}
	t.Skip("this machine has no network")
	return ""
}
