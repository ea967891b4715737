package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, yaml string, env []string, flags ...Setting) (*Config, error) {
	t.Helper()
	o := LoadOptions{Env: env, Flags: flags}
	if yaml != "" {
		o.File = filepath.Join(t.TempDir(), "fairlead.yaml")
		if err := os.WriteFile(o.File, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(o)
	if err != nil && o.File != "" {
		err = errorText(strings.ReplaceAll(err.Error(), o.File, "f"))
	}
	return c, err
}

type errorText string

func (e errorText) Error() string { return string(e) }

// TestOrderOfStrength sets one value in each place: a later place wins.
func TestOrderOfStrength(t *testing.T) {
	yaml := "limits:\n  queue_messages: 1\n  subscriptions: 1\n  inflight: 1\n"
	env := []string{"FAIRLEAD_LIMITS__QUEUE_MESSAGES=2", "FAIRLEAD_LIMITS__SUBSCRIPTIONS=2", "OTHER=x",
		"FAIRLEAD_CONFIG=f", "FAIRLEAD_PASSPHRASE=x"} // those two are not settings
	c, err := load(t, yaml, env, Setting{"--set", "limits.queue_messages", "3"})
	if err != nil {
		t.Fatal(err)
	}
	if l := c.Limits; l.QueueMessages != 3 || l.Subscriptions != 2 || l.Inflight != 1 || l.TopicAliasMaximum != 64 {
		t.Errorf("queue_messages %d, subscriptions %d, inflight %d, topic_alias_maximum %d, want 3, 2, 1 and the default 64",
			l.QueueMessages, l.Subscriptions, l.Inflight, l.TopicAliasMaximum)
	}
}

// TestWhoListens has the default listeners, and what allows plaintext beyond this
// machine.
func TestWhoListens(t *testing.T) {
	for _, test := range []struct {
		yaml string
		want int
	}{
		{"# nothing", 4}, {"open: true", 2}, {"plaintext: allowed\nlisteners: [mqtt://0.0.0.0]", 1},
		{"listeners: [{url: mqtt://0.0.0.0, plaintext: allowed}]", 1}, {"profile: home\nlisteners: [mqtt://192.0.2.1]", 1},
	} {
		c, err := load(t, test.yaml, nil)
		if err != nil || len(c.Listeners) != test.want {
			t.Errorf("%s: %v, %v, want %d listeners", test.yaml, c, err, test.want)
		}
	}
}

func TestGoodFile(t *testing.T) {
	c, err := load(t, `
# a comment
data: /var/lib/fairlead
open: true
log: {level: debug, format: json}
listeners:
  - mqtt://127.0.0.1:2883
  - url: ws://localhost:8083
    name: web
    origins: [a.example, "*"]
    max_connections: 7
limits:
  connect_timeout: 1m30s
  packet_bytes: 64KiB
  queue_bytes: 2GB
sys: {interval: 0}
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Data, want.Open, want.Log, want.Sys = "/var/lib/fairlead", true, Log{"debug", "json"}, Sys{}
	want.Listeners = []Listener{{URL: "mqtt://127.0.0.1:2883"},
		{URL: "ws://localhost:8083", Name: "web", Origins: []string{"a.example", "*"}, MaxConnections: 7}}
	want.Limits.ConnectTimeout, want.Limits.PacketBytes, want.Limits.QueueBytes = 90*time.Second, 64<<10, 2e9
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
	if c, err := load(t, "# nothing\n", nil); err != nil || !reflect.DeepEqual(c.Listeners, DefaultListeners()) {
		t.Errorf("an empty file gives %+v, %v, want the default listeners", c.Listeners, err)
	}
}

// TestErrors holds the text of each error: place, key, what was found and what
// was expected.
func TestErrors(t *testing.T) {
	for _, test := range []struct {
		name, yaml string
		env        []string
		flags      []Setting
		want       string
	}{
		{"unknown key", "limit:\n  x: 1\n", nil, nil, `f:1:1: unknown key "limit": expected "limits"?`},
		{"unknown key below", "limits:\n  queue_mesages: 1\n", nil, nil, `f:2:3: unknown key "limits.queue_mesages": expected "limits.queue_messages"?`},
		{"nothing like it", "zzz: 1\n", nil, nil, `f:1:1: unknown key "zzz": expected one of data, durability, open, profile, plaintext, names, listeners, acme, auth, policies, admin, audit, limits, log, sys`},
		{"bad number", "limits:\n  inflight: many\n", nil, nil, `f:2:13: limits.inflight: "many": expected a whole number from 0 to 65535`},
		{"bad bool", "open: maybe\n", nil, nil, `f:1:7: open: "maybe": expected true or false`},
		{"bad duration", "sys: {interval: fast}\n", nil, nil, `f:1:17: sys.interval: "fast": expected a duration like 10s, 5m or 1h30m`},
		{"bad size", "limits: {packet_bytes: 8XB}\n", nil, nil, `f:1:24: limits.packet_bytes: "8XB": expected a size like 65536, 64KiB or 8MB`},
		{"list for a value", "data: [a]\n", nil, nil, `f:1:7: data: expected text, found a list`},
		{"value for a mapping", "limits: 5\n", nil, nil, `f:1:9: limits: expected keys and values, found a value "5"`},
		{"value for a list", "listeners: mqtt://x\n", nil, nil, `f:1:12: listeners: expected a list, found a value "mqtt://x"`},
		{"twice", "data: a\ndata: b\n", nil, nil, `f:2:1: data: stands here twice, first in line 1`},
		{"anchor", "data: &a x\n", nil, nil, `f:1:7: data: anchors and aliases are not used here`},
		{"no YAML", "a: [\n", nil, nil, `f:1: did not find expected node content`},
		{"two documents", "open: true\n---\nopen: false\n", nil, nil, `f:2:1: a second document: expected one`},
		{"no YAML in a second document", "open: true\n---\na: [\n", nil, nil, `f:3: did not find`},
		{"two at once", "open: maybe\nzzz: 1\n", nil, nil, "f:1:7: open: \"maybe\": expected true or false\nf:2:1: unknown key"},
		{"environment", "", []string{"FAIRLEAD_LIMITS__INFLIGHT=x"}, nil, `environment variable FAIRLEAD_LIMITS__INFLIGHT: limits.inflight: "x": expected a whole number from 0 to 65535`},
		{"unknown variable", "", []string{"FAIRLEAD_OPNE=1"}, nil, `environment variable FAIRLEAD_OPNE: unknown key "opne": expected "open"?`},
		{"flag", "", nil, []Setting{{"--set log", "log", "x"}}, `--set log: log is not one value: expected one of level, format`},
		{"below a value", "", nil, []Setting{{"--set data.x", "data.x", "x"}}, `--set data.x: data has nothing below it`},
		{"log level", "log: {level: loud}\n", nil, nil, `f:1:14: log.level: "loud": expected debug, info, warn or error`},
		{"log format", "log: {format: xml}\n", nil, nil, `f:1:15: log.format: "xml": expected text or json`},
		{"open to others", "open: true\nlisteners: [mqtt://0.0.0.0]\n", nil, nil, `f:2:13: open: anonymous clients could do everything from other machines by mqtt://0.0.0.0: expected loopback addresses only, such as 127.0.0.1`},
		{"certificate without key", "listeners: [{url: mqtts://127.0.0.1, tls: {cert: c}}]\n", nil, nil, `f:1:43: listeners[0].tls: expected cert and key, or neither of them`},
		{"plaintext for others", "listeners: [mqtt://192.0.2.1]\n", nil, nil, `f:1:13: listeners[0].url: mqtt://192.0.2.1 would carry passwords and messages over the network for all to read: expected mqtts or wss, or plaintext: allowed`},
		{"plaintext word", "listeners: [{url: mqtt://192.0.2.1, plaintext: yes}]\nplaintext: yes\n", nil, nil, "f:1:48: listeners[0].plaintext: \"yes\": expected allowed, or nothing\nf:2:12: plaintext: \"yes\": expected allowed"},
		{"home everywhere", "profile: home\nlisteners: [mqtt://:1883]\n", nil, nil, `f:2:13: listeners[0].url: mqtt://:1883 is every network of this machine: expected the address of the home network`},
		{"profile", "profile: office\n", nil, nil, `f:1:10: profile: "office": expected home, or nothing`},
		{"client certificates", "listeners: [{url: mqtts://x, tls: {client_certificates: maybe}}]\n", nil, nil, `f:1:57: listeners[0].tls.client_certificates: "maybe": expected optional, required or off`},
		{"CRL alone", "listeners: [{url: mqtts://x, tls: {client_crl: c}}]\n", nil, nil, `f:1:48: listeners[0].tls.client_crl: expected a client_ca beside it`},
		{"proxy identity", "listeners: [{url: mqtts://x, proxy_identity: true}]\n", nil, nil, `f:1:46: listeners[0].proxy_identity: expected proxy_protocol: true beside it`},
		{"anonymous and open", "open: true\nlisteners: [{url: mqtt://127.0.0.1, anonymous: true}]\n", nil, nil, `f:2:48: listeners[0].anonymous: expected nothing, because open lets everybody in`},
		{"auth methods", "auth: {methods: [password, magic, password]}\n", nil, nil, "f:1:28: auth.methods[1]: \"magic\": expected certificate, token, jwt, password, hook, scram\nf:1:35: auth.methods[2]: \"password\" stands there twice"},
		{"jwt without keys", "auth: {methods: [jwt, hook]}\n", nil, nil, "f:1:7: auth.jwt.keys: expected a file or URL with the issuer's keys, because auth.methods has jwt\nf:1:7: auth.hook.url: expected a URL"},
		{"jwt", "auth: {jwt: {keys: k, attr_claims: [a]}}\n", nil, nil, "f:1:13: auth.jwt: expected issuer and audience beside keys\nf:1:37: auth.jwt.attr_claims[0]: \"a\": expected ATTRIBUTE=CLAIM"},
		{"admin", "admin: {listen: http://127.0.0.1:1}\n", nil, nil, `f:1:17: admin.listen: "http://127.0.0.1:1": expected https:// with an address and a port`},
		{"audit", "audit: {bytes: 5, age: -1s}\n", nil, nil, "f:1:16: audit.bytes: 5: expected at least 1MiB\nf:1:24: audit.age: -1s: expected at least 0"},
		{"certificate without TLS", "listeners: [{url: mqtt://127.0.0.1, tls: {cert: c}}]\n", nil, nil, `f:1:42: listeners[0].tls: mqtt://127.0.0.1 has no TLS: expected mqtts or wss`},
		{"listener", "listeners: [http://x]\n", nil, nil, `f:1:13: listeners[0].url: listener "http://x": scheme "http": expected mqtt, mqtts, ws, wss or unix`},
		{"limit", "limits: {receive_maximum: 0, outbox_bytes: 5}\n", nil, nil, "f:1:27: limits.receive_maximum: 0: expected at least 1\nf:1:44: limits.outbox_bytes: 5: expected at least 4096"},
		{"packet", "limits: {packet_bytes: 1GiB}\n", nil, nil, `f:1:24: limits.packet_bytes: 1073741824: expected at most 268435460, the largest packet that MQTT has`},
		{"keep alive", "limits: {keep_alive_max: 20h}\n", nil, nil, `f:1:26: limits.keep_alive_max: 20h0m0s: expected at most 18h12m15s`},
		{"keep alive below a second", "limits: {keep_alive_max: 10ms}\n", nil, nil, `f:1:26: limits.keep_alive_max: 10ms: expected 0, which means no limit, or at least 1s`},
		{"limit by a variable", "limits: {inflight: 3}\n", []string{"FAIRLEAD_LIMITS__INFLIGHT=0"}, nil, `environment variable FAIRLEAD_LIMITS__INFLIGHT: limits.inflight: 0: expected at least 1`},
		{"limit by a flag", "limits: {inflight: 3}\n", nil, []Setting{{"--set limits.inflight", "limits.inflight", "0"}}, `--set limits.inflight: limits.inflight: 0: expected at least 1`},
		{"listeners by a flag", "listeners: [mqtt://127.0.0.1]\n", nil, []Setting{{"--listen", "listeners", "mqtt://127.0.0.1:70000"}}, `--listen: listeners[0].url: listener "mqtt://127.0.0.1:70000": port 70000`},
		{"negative", "listeners: [{url: mqtt://127.0.0.1, max_connections: -1}]\nsys: {interval: -1s}\n", nil, nil, "f:1:54: listeners[0].max_connections: -1: expected at least 0\nf:2:17: sys.interval: -1s: expected at least 0"},
	} {
		_, err := load(t, test.yaml, test.env, test.flags...)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", test.name, err, test.want)
		}
	}
	if _, err := Load(LoadOptions{File: "does-not-exist.yaml"}); err == nil || !strings.Contains(err.Error(), "does-not-exist.yaml") {
		t.Errorf("a missing file: %v", err)
	}
}

// TestEveryKey sets each key by the environment and by a flag.
func TestEveryKey(t *testing.T) {
	values := map[reflect.Type]string{reflect.TypeFor[string](): "x", reflect.TypeFor[bool](): "true", reflect.TypeFor[int](): "7",
		reflect.TypeFor[uint16](): "7", reflect.TypeFor[time.Duration](): "7s", reflect.TypeFor[Bytes](): "7KiB"}
	var walk func(typ reflect.Type, path []string)
	walk = func(typ reflect.Type, path []string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			here := append(path[:len(path):len(path)], f.Tag.Get("yaml"))
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type, here)
				continue
			}
			value := values[f.Type]
			if f.Type.Kind() == reflect.Slice {
				value = "mqtt://a,mqtt://b"
			}
			c := &Config{}
			if err := c.set(here, value); err != nil {
				t.Errorf("%s=%s: %v", strings.Join(here, "."), value, err)
			}
			if reflect.DeepEqual(c, &Config{}) {
				t.Errorf("%s=%s changes nothing", strings.Join(here, "."), value)
			}
			if errs := (&Config{}).loadEnv([]string{"FAIRLEAD_" + strings.ToUpper(strings.Join(here, "__")) + "=" + value}, places{}); len(errs) > 0 {
				t.Errorf("%s by the environment: %v", strings.Join(here, "."), errs)
			}
		}
	}
	walk(reflect.TypeFor[Config](), nil)
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "12": 12, "1_000": 1000, "1KiB": 1024, "2 MiB": 2 << 20, "1kB": 1000, "3GB": 3e9, "5B": 5,
		"-1": -1, "": -1, "KiB": -1, "1.5MB": -1, "9223372036854775807GiB": -1} {
		got, ok := parseBytes(in)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("parseBytes(%q) = %d, %v, want %d", in, got, ok, want)
		}
	}
}

// FuzzYAML wants an error or a configuration from any document, and never a
// panic.
func FuzzYAML(f *testing.F) {
	f.Add("listeners:\n  - url: mqtt://127.0.0.1\n    tls: {cert: a}\nlimits: {inflight: 3}\n")
	f.Add("a: &a [*a]\n")
	f.Add("data: !!int 5\n? [x]\n: y\n")
	f.Fuzz(func(t *testing.T, doc string) {
		at := places{}
		if c := Default(); len(c.loadYAML("f", []byte(doc), at)) == 0 {
			_ = c.validate(at)
		}
	})
}
