package node

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fairlead/admin"
	"fairlead/auth"
	"fairlead/broker"
	"fairlead/device"
	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/topic"
	"fairlead/policy"
)

// doctor looks at a configuration and at the broker that runs on it.
type doctor struct {
	n      Node
	id     *identity
	doors  *doors
	broker *broker.Broker
	now    time.Time
	found  []admin.Finding
}

// examine says what is insecure or about to end, worst first.
func examine(n Node, id *identity, d *doors, b *broker.Broker) []admin.Finding {
	x := &doctor{n: n, id: id, doors: d, broker: b, now: time.Now()}
	x.listeners()
	x.certificates()
	x.files()
	x.policies()
	x.durability()
	x.registry()
	x.auditLog()
	slices.SortStableFunc(x.found, func(a, b admin.Finding) int { return cmp.Compare(rank(a.Severity), rank(b.Severity)) })
	return x.found
}

func rank(severity string) int {
	return slices.Index([]string{admin.Danger, admin.Warning, admin.Advice}, severity)
}

func (x *doctor) add(severity, what, why, command string) {
	x.found = append(x.found, admin.Finding{Severity: severity, What: what, Why: why, Command: command})
}

func (x *doctor) listeners() {
	c := x.n.Config
	if c.Open {
		x.add(admin.Warning, "everybody on this machine may do everything (open)",
			"Whoever can run a program here, a web page in a browser included, can read and send every message.",
			"fairlead serve (without --open), and fairlead device add NAME")
	}
	for i, lc := range c.Listeners {
		u, err := listen.ParseURL(lc.URL)
		if err != nil {
			continue
		}
		where := x.doors.listeners[i].URL()
		if !u.TLS() && !u.Loopback() {
			if c.Profile == "home" {
				x.add(admin.Warning, where+" has no encryption (profile: home)",
					"Whoever is in this network, a visitor's phone or a hacked lamp included, can read the passwords and every message, and change them.",
					"let devices that know TLS use mqtts://, port 8883")
			} else {
				x.add(admin.Danger, where+" has no encryption",
					"Passwords and messages can be read and changed by anybody on the way.",
					"use mqtts:// or wss:// in listeners, and take plaintext: allowed away")
			}
		}
		if lc.Anonymous {
			x.add(admin.Warning, "clients need not say who they are on "+where,
				"What policies allow to everyone, anybody who reaches the port may do.", "take anonymous: true away, and fairlead user add NAME --password-stdin")
		}
		if lc.ProxyIdentity {
			x.add(admin.Advice, where+" believes the proxy in who a device is",
				"Whoever else reaches this port can be any device.", "let only the proxy reach it, by a firewall or a Unix socket")
		}
		if u.TLS() && lc.TLS.ClientCertificates == "off" {
			x.add(admin.Advice, "devices can't show certificates on "+where, "Only passwords and tokens are left, and those can be copied.", "take client_certificates: off away")
		}
	}
}

func (x *doctor) certificates() {
	for _, e := range append(x.id.ca.Expiries(), x.doors.expiries()...) {
		if e.NotAfter.IsZero() {
			continue
		}
		left := e.NotAfter.Sub(x.now)
		days := int(left.Hours() / 24)
		switch {
		case left <= 0:
			x.add(admin.Danger, e.What+" has ended", "Clients that check it do not connect.", renewal(e.Renews))
		case left < 7*24*time.Hour:
			x.add(admin.Danger, fmt.Sprintf("%s ends in %d days", e.What, days), "Clients that check it do not connect any more then.", renewal(e.Renews))
		case left < 30*24*time.Hour && !e.Renews:
			x.add(admin.Warning, fmt.Sprintf("%s ends in %d days", e.What, days), "Nobody renews it by itself.", renewal(e.Renews))
		}
	}
}

func renewal(renews bool) string {
	if renews {
		return "look into the log for why it was not renewed"
	}
	return "put a new certificate and key into the files: they are taken over while the broker runs"
}

// files looks at who else can read what is secret.
func (x *doctor) files() {
	data := x.n.Config.Data
	if info, err := os.Stat(data); err == nil && info.Mode().Perm()&0o077 != 0 {
		x.add(admin.Warning, fmt.Sprintf("others may look into the data directory (mode %04o)", info.Mode().Perm()),
			"It holds every message that waits, and the key of the certificate authority.", "chmod 700 "+data)
	}
	if _, err := os.Stat(filepath.Join(data, caDir, "root.key")); err == nil && x.n.Config.Profile != "home" {
		x.add(admin.Advice, "the key of the root CA is on this machine",
			"Whoever steals it can make devices that every broker of this root accepts. It is needed every few years only.",
			"move "+filepath.Join(data, caDir, "root.key")+" to a place that is not connected, and keep it safe")
	}
}

// policies looks for what is wider than it should be.
func (x *doctor) policies() {
	if x.n.Config.Open {
		return
	}
	everything, err := topic.ParseFilter("#")
	if err != nil {
		panic("node: " + err.Error())
	}
	for _, p := range []struct {
		who  string
		what policy.Principal
	}{
		{"every device", policy.Principal{Device: "doctor-no-such-device", Client: "doctor-no-such-device", Method: "certificate"}},
		{"every anonymous client", policy.Principal{Client: "doctor-no-such-client", Method: "anonymous"}},
	} {
		r := x.id.policies.Rights(&p.what)
		if r != nil && r.Subscribe(everything, mqtt.QoS0).Allowed() {
			x.add(admin.Danger, p.who+" may read every topic", "One that is stolen reads what all others send.", "fairlead policy show, and name the topics that are needed")
		}
		if r != nil && r.Publish("doctor/no/such/topic", mqtt.QoS0, false, 0).Allowed() {
			x.add(admin.Danger, p.who+" may publish to any topic", "One that is stolen can command all others.", "fairlead policy show, and name the topics that are needed")
		}
	}
}

func (x *doctor) durability() {
	switch x.n.Config.Durability {
	case "memory":
		x.add(admin.Warning, "nothing survives the end of the broker (durability: memory)", "Messages are acknowledged and then kept in memory only.", "--durability fsync")
	case "os":
		x.add(admin.Warning, "a loss of power takes acknowledged messages with it (durability: os)", "They are with the operating system, and not on disk yet.", "--durability fsync")
	}
	if st := x.broker.Status(0); st.Store != nil && st.Store.JournalErr != nil {
		x.add(admin.Danger, "the disk can't be written: "+st.Store.JournalErr.Error(), "QoS 1 and 2 messages are refused until it can.", "fairlead status")
	}
}

func (x *doctor) registry() {
	if bad := x.id.registry.Stats().Unreadable; bad > 0 {
		x.add(admin.Danger, fmt.Sprintf("%d entries of the registry can't be read", bad), "The devices and users that they are about are kept out.", "fairlead store check (with the broker stopped), or restore a backup")
	}
	soon := 0
	for after, more := "", true; more; {
		page, next, err := x.id.registry.Devices(device.Filter{State: auth.Active}, device.Page{After: after, Limit: device.LimitMax})
		for _, d := range page {
			if left := lastsUntil(d.Certificates).Sub(x.now); left > 0 && left < 30*24*time.Hour {
				soon++
			}
		}
		after, more = next, err == nil && next != ""
	}
	if soon > 0 {
		x.add(admin.Warning, fmt.Sprintf("%d device certificates end within 30 days", soon), "The devices can't connect any more then.", "fairlead device list, and fairlead device renew NAME")
	}
}

// lastsUntil is when the last of the certificates ends; zero: there is none.
func lastsUntil(list []device.Certificate) (latest time.Time) {
	for _, c := range list {
		if c.Revoked.IsZero() && c.NotAfter.After(latest) {
			latest = c.NotAfter
		}
	}
	return latest
}

func (x *doctor) auditLog() {
	st := x.id.audit.Stats()
	if st.Err != nil {
		x.add(admin.Danger, "the audit log can't be written: "+st.Err.Error(), "Nothing can be administered until it can.", "make room on the disk")
	}
}
