// Package config reads what an operator wants: an optional YAML file, FAIRLEAD_*
// variables and flags, in that order of rising strength. Begin with [Load].
//
// What it does not know, or can't make sense of, is an error that names the
// place, what was found and what was expected; all errors are reported at once.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"fairlead/listen"
)

// Config is everything that can be configured. The names in the tags are those
// of the YAML file; FAIRLEAD_LIMITS__QUEUE_MESSAGES is limits.queue_messages.
type Config struct {
	// Data is the directory that holds what must survive a restart.
	Data string `yaml:"data"`
	// Durability is when an acknowledged message is safe: fsync, on disk before it is
	// acknowledged; os, with the operating system, so that a loss of power takes the
	// latest ones; memory, not at all once the broker ends.
	Durability string `yaml:"durability"`
	// Open lets anonymous clients do everything. It is refused on any address
	// that others can reach.
	Open bool `yaml:"open"`
	// Profile is a set of other settings: home, for devices in a home network that
	// know no TLS. They connect with a password to a listener on an address that is
	// named, and users may use all topics.
	Profile string `yaml:"profile"`
	// Plaintext is allowed, or empty: mqtt and ws listeners are then on loopback only.
	Plaintext string `yaml:"plaintext"`
	// Names are host names and addresses by which clients reach this broker, beside
	// those of the machine: its own certificate is for them.
	Names []string `yaml:"names"`
	// Listeners are the places where clients connect.
	Listeners []Listener `yaml:"listeners"`
	// ACME gets certificates for public host names.
	ACME ACME `yaml:"acme"`
	Auth Auth `yaml:"auth"`
	// Policies are files with policies, beside those that operators apply.
	Policies []string `yaml:"policies"`
	Admin    Admin    `yaml:"admin"`
	Audit    Audit    `yaml:"audit"`
	Limits   Limits   `yaml:"limits"`
	Log      Log      `yaml:"log"`
	Sys      Sys      `yaml:"sys"`
}

// Listener is one place where clients connect: a URL, or a URL and more.
type Listener struct {
	// URL is mqtt, mqtts, ws, wss or unix, with address and port.
	URL string `yaml:"url"`
	// Name is how logs call the listener; by default its URL.
	Name string `yaml:"name"`
	// TLS is for mqtts and wss.
	TLS TLS `yaml:"tls"`
	// ProxyProtocol demands a PROXY header, version 1 or 2, from a load balancer.
	ProxyProtocol bool `yaml:"proxy_protocol"`
	// Origins are hosts whose web pages may connect by WebSocket, beside the
	// broker's own and this machine's; "*" for any.
	Origins []string `yaml:"origins"`
	// MaxConnections is how many there may be at a time; 0: no limit.
	MaxConnections int `yaml:"max_connections"`
	// Plaintext is allowed, or empty: as the setting of the same name for all.
	Plaintext string `yaml:"plaintext"`
	// Anonymous lets clients in that show no credentials. Policies for everyone are
	// for them as well; there is none at first.
	Anonymous bool `yaml:"anonymous"`
	// ProxyIdentity takes the device's name from the PROXY header: the proxy has
	// verified its certificate. Only the proxy may be able to reach such a listener.
	ProxyIdentity bool `yaml:"proxy_identity"`
}

// Called is the listener's name in logs and audit.
func (l *Listener) Called() string {
	if l.Name != "" {
		return l.Name
	}
	return l.URL
}

// TLS is about the certificates of a listener.
type TLS struct {
	// Cert and Key are PEM files: the certificate with its chain, and its key. Changed
	// files are taken over while the broker runs. By default the broker's own CA makes
	// a certificate.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA is a PEM file with another CA whose certificates identify devices, by
	// their common name, beside the broker's own.
	ClientCA string `yaml:"client_ca"`
	// ClientCRL is a file with that CA's revocation list.
	ClientCRL string `yaml:"client_crl"`
	// ClientCertificates are optional (the default), required or off.
	ClientCertificates string `yaml:"client_certificates"`
	// MinVersion is 1.2 or 1.3.
	MinVersion string `yaml:"min_version"`
}

// ACME is about certificates for public host names (RFC 8555).
type ACME struct {
	// Hosts are the names; none: no ACME.
	Hosts []string `yaml:"hosts"`
	// Email is where the CA writes to if something is wrong.
	Email string `yaml:"email"`
	// Directory is the CA's URL; by default Let's Encrypt's.
	Directory string `yaml:"directory"`
	// HTTP is an address like :80 at which challenges are answered; by default only
	// the listener for mqtts on port 443 answers them, if there is one.
	HTTP string `yaml:"http"`
}

// Auth says how clients show who they are.
type Auth struct {
	// Methods are asked in this order: certificate, token, jwt, password, hook, scram.
	// By default all of them, jwt and hook only if they are configured.
	Methods []string `yaml:"methods"`
	JWT     JWT      `yaml:"jwt"`
	Hook    Hook     `yaml:"hook"`
}

// JWT accepts the tokens of an issuer as passwords.
type JWT struct {
	// Keys is a file or a https URL with the issuer's keys (JWKS).
	Keys string `yaml:"keys"`
	// Issuer and Audience must be in a token.
	Issuer   string   `yaml:"issuer"`
	Audience []string `yaml:"audience"`
	// Algorithms that are accepted; by default all with a public key.
	Algorithms []string `yaml:"algorithms"`
	// Leeway is how far the issuer's clock may be from ours.
	Leeway time.Duration `yaml:"leeway"`
	// DeviceClaim, UserClaim and GroupsClaim are the claims that say who it is.
	DeviceClaim string `yaml:"device_claim"`
	UserClaim   string `yaml:"user_claim"`
	GroupsClaim string `yaml:"groups_claim"`
	// AttrClaims are ATTRIBUTE=CLAIM.
	AttrClaims []string `yaml:"attr_claims"`
	// Groups are those that a token may give; by default all but the operators' roles.
	Groups []string `yaml:"groups"`
	// Unregistered accepts devices that the registry does not know.
	Unregistered bool `yaml:"unregistered"`
}

// Hook asks an HTTP server who clients are.
type Hook struct {
	// URL is https, or http on loopback.
	URL string `yaml:"url"`
	// Authorization is the header of that name.
	Authorization string `yaml:"authorization"`
	// CA is a PEM file with the CA of its certificate; by default the system's.
	CA string `yaml:"ca"`
	// Timeout is how long an answer may take; a client is refused then.
	Timeout time.Duration `yaml:"timeout"`
	// AllowFor and DenyFor are how long an answer is remembered.
	AllowFor time.Duration `yaml:"allow_for"`
	DenyFor  time.Duration `yaml:"deny_for"`
	// Groups are those that an answer may give; by default all but the operators' roles.
	Groups []string `yaml:"groups"`
	// Unregistered accepts devices that the registry does not know.
	Unregistered bool `yaml:"unregistered"`
}

// Admin is about administration from other machines.
type Admin struct {
	// Listen is a https URL such as https://127.0.0.1:18083; empty: only the socket in
	// the data directory.
	Listen string `yaml:"listen"`
}

// Audit is about the log of what operators did, and who was refused.
type Audit struct {
	// Bytes is what its files may take; beyond it the oldest is removed.
	Bytes Bytes `yaml:"bytes"`
	// Age is how long they are kept; 0: as long as there is room.
	Age time.Duration `yaml:"age"`
}

// Limits are what clients may make the broker hold.
type Limits struct {
	// Connections is how many there may be at a time, over all listeners; 0: no
	// limit. Beyond it a connection is closed at once.
	Connections int `yaml:"connections"`
	// Sessions is how many there may be, with and without a connection; beyond it
	// new clients are refused with 0x97.
	Sessions int `yaml:"sessions"`
	// ConnectRate is how many connections a second a listener takes; beyond it
	// they wait. 0: no limit.
	ConnectRate int `yaml:"connect_rate"`
	// ConnectTimeout is how long a client has from its connection to its CONNECT.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// PacketBytes is the Maximum Packet Size; a longer packet ends the connection.
	PacketBytes Bytes `yaml:"packet_bytes"`
	// ReceiveMaximum is how many QoS 1 and 2 messages a client may have under way.
	ReceiveMaximum uint16 `yaml:"receive_maximum"`
	// TopicAliasMaximum is how many Topic Aliases a client may use.
	TopicAliasMaximum uint16 `yaml:"topic_alias_maximum"`
	// KeepAliveMax is the longest Keep Alive of a 5.0 client; 0: no limit.
	KeepAliveMax time.Duration `yaml:"keep_alive_max"`
	// SessionExpiryMax is how long a session outlives its connection; 0: no limit.
	SessionExpiryMax time.Duration `yaml:"session_expiry_max"`
	// WillDelayMax is the longest Will Delay Interval; 0: no limit.
	WillDelayMax time.Duration `yaml:"will_delay_max"`
	// Inflight is how many QoS 1 and 2 messages are under way to a 3.1 or 3.1.1
	// client, which can't say it itself.
	Inflight uint16 `yaml:"inflight"`
	// Subscriptions of one session; beyond it SUBACK says 0x97.
	Subscriptions int `yaml:"subscriptions"`
	// TopicLevels of a topic; beyond it the topic is invalid. 0: no limit.
	TopicLevels int `yaml:"topic_levels"`
	// QueueMessages and QueueBytes are what may wait for one session. QueueFull says
	// what happens beyond it.
	QueueMessages int   `yaml:"queue_messages"`
	QueueBytes    Bytes `yaml:"queue_bytes"`
	// QueueFull is refuse or drop_oldest. Refuse: a publisher is told 0x97, or loses
	// its connection if its version has no word for that; a session that would end
	// with its connection is ended. Drop_oldest: the message that has waited longest
	// is dropped, and counted.
	QueueFull string `yaml:"queue_full"`
	// QueueAge is how long a message may wait for a client; after that it is as if it
	// had expired. 0: as long as the session.
	QueueAge time.Duration `yaml:"queue_age"`
	// QueuedBytesTotal is what may wait in all sessions together, and
	// QueuedBytesMemory how much of that in memory; what is longer waits on disk.
	QueuedBytesTotal  Bytes `yaml:"queued_bytes_total"`
	QueuedBytesMemory Bytes `yaml:"queued_bytes_memory"`
	// OutboxBytes may be encoded and unsent for a client; beyond it QoS 0 is
	// dropped, and nothing more is read from that client.
	OutboxBytes Bytes `yaml:"outbox_bytes"`
	// RetainedMessages and RetainedBytes bound the retained messages; beyond it a
	// publisher is told 0x97.
	RetainedMessages int   `yaml:"retained_messages"`
	RetainedBytes    Bytes `yaml:"retained_bytes"`
}

// Log says what is logged, to standard error.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `yaml:"level"`
	// Format is text or json.
	Format string `yaml:"format"`
}

// Sys is about the $SYS topics.
type Sys struct {
	// Interval is how often they are published; 0: never.
	Interval time.Duration `yaml:"interval"`
}

// Bytes is a size. It is written as a number, or with KiB, MiB, GiB, kB, MB, GB.
type Bytes int64

// Default is the configuration of an operator who says nothing.
func Default() *Config {
	return &Config{
		Data: "./fairlead-data", Durability: "fsync",
		Audit: Audit{Bytes: 1 << 30},
		Log:   Log{Level: "info", Format: "text"},
		Sys:   Sys{Interval: 10 * time.Second},
		Limits: Limits{
			Sessions: 1_000_000, ConnectTimeout: 10 * time.Second, PacketBytes: 8 << 20, ReceiveMaximum: 1024, TopicAliasMaximum: 64,
			Inflight: 1000, Subscriptions: 100_000, QueueMessages: 1_000_000, QueueBytes: 1 << 30, QueueFull: "refuse",
			QueuedBytesTotal: 16 << 30, QueuedBytesMemory: 1 << 30, OutboxBytes: 1 << 20, RetainedMessages: 1_000_000, RetainedBytes: 1 << 30,
		},
	}
}

// DefaultListeners are where clients connect if no listener is named: other machines
// with TLS, this one without.
func DefaultListeners() []Listener {
	return append([]Listener{{URL: "mqtts://:8883"}, {URL: "wss://:8084/mqtt"}}, LoopbackListeners()...)
}

// LoopbackListeners are those of the default ones that other machines can't reach.
func LoopbackListeners() []Listener {
	return []Listener{{URL: "mqtt://127.0.0.1:1883"}, {URL: "ws://127.0.0.1:8083/mqtt"}}
}

// validate checks what can't be seen in one value alone. Its error names every
// wrong field, and the place where it was set.
func (c *Config) validate(at places) error {
	var errs []error
	wrong := func(key, format string, args ...any) {
		err := fmt.Errorf(format, args...)
		if place := at.of(key); place != "" {
			err = fmt.Errorf("%s: %w", place, err)
		}
		errs = append(errs, err)
	}
	for i, l := range c.Listeners {
		key := fmt.Sprintf("listeners[%d]", i)
		u, err := listen.ParseURL(l.URL)
		if err != nil {
			wrong(key+".url", "%s.url: %w", key, err)
			continue
		}
		if u.TLS() && (l.TLS.Cert == "") != (l.TLS.Key == "") {
			wrong(key+".tls", "%s.tls: expected cert and key, or neither of them", key)
		}
		if !u.TLS() && l.TLS != (TLS{}) {
			wrong(key+".tls", "%s.tls: %s has no TLS: expected mqtts or wss", key, l.URL)
		}
		c.checkPlaintext(wrong, key, &l, u)
		switch l.TLS.ClientCertificates {
		case "", "optional", "required", "off":
		default:
			wrong(key+".tls.client_certificates", "%s.tls.client_certificates: %q: expected optional, required or off", key, l.TLS.ClientCertificates)
		}
		if l.TLS.ClientCRL != "" && l.TLS.ClientCA == "" {
			wrong(key+".tls.client_crl", "%s.tls.client_crl: expected a client_ca beside it", key)
		}
		if l.ProxyIdentity && !l.ProxyProtocol {
			wrong(key+".proxy_identity", "%s.proxy_identity: expected proxy_protocol: true beside it", key)
		}
		if l.Anonymous && c.Open {
			wrong(key+".anonymous", "%s.anonymous: expected nothing, because open lets everybody in", key)
		}
		if c.Open && !u.Loopback() {
			wrong(key+".url", "open: anonymous clients could do everything from other machines by %s: expected loopback addresses only, such as 127.0.0.1", l.URL)
		}
		if l.MaxConnections < 0 {
			wrong(key+".max_connections", "%s.max_connections: %d: expected at least 0", key, l.MaxConnections)
		}
		switch l.TLS.MinVersion {
		case "", "1.2", "1.3":
		default:
			wrong(key+".tls.min_version", "%s.tls.min_version: %q: expected 1.2 or 1.3", key, l.TLS.MinVersion)
		}
	}
	if _, err := c.Log.level(); err != nil {
		wrong("log.level", "log.level: %w", err)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		wrong("log.format", "log.format: %q: expected text or json", c.Log.Format)
	}
	switch c.Durability {
	case "fsync", "os", "memory":
	default:
		wrong("durability", "durability: %q: expected fsync, os or memory", c.Durability)
	}
	if c.Sys.Interval < 0 {
		wrong("sys.interval", "sys.interval: %v: expected at least 0", c.Sys.Interval)
	}
	if c.Profile != "" && c.Profile != "home" {
		wrong("profile", "profile: %q: expected home, or nothing", c.Profile)
	}
	if c.Plaintext != "" && c.Plaintext != "allowed" {
		wrong("plaintext", "plaintext: %q: expected allowed, or nothing", c.Plaintext)
	}
	c.Auth.validate(func(key, format string, args ...any) { wrong("auth."+key, "auth."+key+": "+format, args...) })
	if a := c.Admin.Listen; a != "" {
		if u, err := url.Parse(a); err != nil || u.Scheme != "https" || u.Port() == "" {
			wrong("admin.listen", "admin.listen: %q: expected https:// with an address and a port, such as https://127.0.0.1:18083", a)
		}
	}
	if c.Audit.Bytes < 1<<20 {
		wrong("audit.bytes", "audit.bytes: %d: expected at least 1MiB", c.Audit.Bytes)
	}
	if c.Audit.Age < 0 {
		wrong("audit.age", "audit.age: %v: expected at least 0", c.Audit.Age)
	}
	c.Limits.validate(func(key, format string, args ...any) {
		wrong("limits."+key, "limits."+key+": "+format, args...)
	})
	return errors.Join(errs...)
}

// checkPlaintext refuses a listener without TLS that other machines can reach, unless
// somebody has said that it is meant so.
func (c *Config) checkPlaintext(wrong func(key, format string, args ...any), key string, l *Listener, u listen.URL) {
	if l.Plaintext != "" && l.Plaintext != "allowed" {
		wrong(key+".plaintext", "%s.plaintext: %q: expected allowed, or nothing", key, l.Plaintext)
		return
	}
	if c.Open || u.TLS() || u.Loopback() || l.Plaintext != "" || c.Plaintext != "" {
		return
	}
	if c.Profile == "home" {
		if !u.Named() {
			wrong(key+".url", "%s.url: %s is every network of this machine: expected the address of the home network, such as mqtt://192.168.1.10:1883", key, l.URL)
		}
		return
	}
	wrong(key+".url", "%s.url: %s would carry passwords and messages over the network for all to read: expected mqtts or wss, or plaintext: allowed", key, l.URL)
}

// AuthMethods are those that auth.methods may name.
var AuthMethods = []string{"certificate", "token", "jwt", "password", "hook", "scram"}

func (a *Auth) validate(wrong func(key, format string, args ...any)) {
	for i, m := range a.Methods {
		if !slices.Contains(AuthMethods, m) {
			wrong(fmt.Sprintf("methods[%d]", i), "%q: expected %s", m, strings.Join(AuthMethods, ", "))
		} else if slices.Contains(a.Methods[:i], m) {
			wrong(fmt.Sprintf("methods[%d]", i), "%q stands there twice", m)
		}
	}
	if slices.Contains(a.Methods, "jwt") && a.JWT.Keys == "" {
		wrong("jwt.keys", "expected a file or URL with the issuer's keys, because auth.methods has jwt")
	}
	if slices.Contains(a.Methods, "hook") && a.Hook.URL == "" {
		wrong("hook.url", "expected a URL, because auth.methods has hook")
	}
	if a.JWT.Keys != "" && (a.JWT.Issuer == "" || len(a.JWT.Audience) == 0) {
		wrong("jwt", "expected issuer and audience beside keys")
	}
	for i, pair := range a.JWT.AttrClaims {
		if attr, claim, ok := strings.Cut(pair, "="); !ok || attr == "" || claim == "" {
			wrong(fmt.Sprintf("jwt.attr_claims[%d]", i), "%q: expected ATTRIBUTE=CLAIM", pair)
		}
	}
}

func (l *Limits) validate(wrong func(key, format string, args ...any)) {
	for _, n := range []struct {
		key   string
		value int64
		least int64
	}{
		{"connections", int64(l.Connections), 0}, {"connect_rate", int64(l.ConnectRate), 0},
		{"sessions", int64(l.Sessions), 0}, {"packet_bytes", int64(l.PacketBytes), 64},
		{"receive_maximum", int64(l.ReceiveMaximum), 1}, {"inflight", int64(l.Inflight), 1},
		{"subscriptions", int64(l.Subscriptions), 1},
		{"topic_levels", int64(l.TopicLevels), 0}, {"queue_messages", int64(l.QueueMessages), 1},
		{"queue_bytes", int64(l.QueueBytes), 1}, {"queued_bytes_total", int64(l.QueuedBytesTotal), 1},
		{"queued_bytes_memory", int64(l.QueuedBytesMemory), 1},
		{"outbox_bytes", int64(l.OutboxBytes), 4096}, {"retained_messages", int64(l.RetainedMessages), 0},
		{"retained_bytes", int64(l.RetainedBytes), 0},
	} {
		if n.value < n.least {
			wrong(n.key, "%d: expected at least %d", n.value, n.least)
		}
	}
	for _, span := range []struct {
		key   string
		value time.Duration
	}{{"keep_alive_max", l.KeepAliveMax}, {"session_expiry_max", l.SessionExpiryMax}, {"will_delay_max", l.WillDelayMax}} {
		if d := span.value; d < 0 || d > 0 && d < time.Second {
			wrong(span.key, "%v: expected 0, which means no limit, or at least 1s, because MQTT counts seconds", d)
		}
	}
	if l.QueueFull != "refuse" && l.QueueFull != "drop_oldest" {
		wrong("queue_full", "%q: expected refuse or drop_oldest", l.QueueFull)
	}
	if l.QueueAge < 0 {
		wrong("queue_age", "%v: expected at least 0", l.QueueAge)
	}
	if l.ConnectTimeout <= 0 {
		wrong("connect_timeout", "%v: expected more than 0", l.ConnectTimeout)
	}
	if l.PacketBytes > 268_435_460 {
		wrong("packet_bytes", "%d: expected at most 268435460, the largest packet that MQTT has", l.PacketBytes)
	}
	if l.KeepAliveMax > math.MaxUint16*time.Second {
		wrong("keep_alive_max", "%v: expected at most 18h12m15s, the longest Keep Alive that MQTT has", l.KeepAliveMax)
	}
}

func (l *Log) level() (slog.Level, error) {
	switch l.Level {
	case "debug", "info", "warn", "error":
		var level slog.Level
		return level, level.UnmarshalText([]byte(l.Level))
	}
	return 0, fmt.Errorf("%q: expected debug, info, warn or error", l.Level)
}

// Logger returns a logger as the configuration wants it.
func (l *Log) Logger(w *os.File) (*slog.Logger, error) {
	level, err := l.level()
	if err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return slog.New(slog.NewTextHandler(w, o)), nil
}
