package admin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/ca"
	"fairlead/device"
	"fairlead/store/backup"
)

// want holds an error against a status and a part of its detail.
func want(t *testing.T, what string, err error, status int, part string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want %d", what, status)
		return
	}
	if p := problemOf(t, err); p.Status != status || !strings.Contains(p.Detail, part) || p.Title == "" {
		t.Errorf("%s: %+v, want %d with %q", what, p, status, part)
	}
}

// TestDeviceLife leads a device from its bundle to its end.
func TestDeviceLife(t *testing.T) {
	f := newFixture(t)
	c, ctx := f.local, t.Context()
	made, err := c.AddDevice(ctx, DeviceSpec{Name: "t1", Groups: []string{"sensors", "floor", "sensors"}, Attrs: map[string]string{"site": "berlin"}})
	if err != nil {
		t.Fatal(err)
	}
	d := made.Device
	if d.State != "active" || !slices.Equal(d.Groups, []string{"floor", "sensors"}) || d.Attrs["site"] != "berlin" || d.Password || len(d.Certificates) != 1 {
		t.Errorf("added %+v", d)
	}
	usable(t, f, "t1", made.Bundle)
	if made.Bundle.Serial != d.Certificates[0].Serial || !slices.Equal(made.Bundle.URLs, []string{"mqtts://host:8883"}) {
		t.Errorf("bundle %+v of %+v", made.Bundle, d)
	}
	_, err = c.AddDevice(ctx, DeviceSpec{Name: "t1"})
	want(t, "again", err, 409, "already in the registry")

	groups := []string{"floor"}
	if d, err := c.UpdateDevice(ctx, "t1", DevicePatch{Groups: &groups, Rev: d.Rev}); err != nil || !slices.Equal(d.Groups, groups) || d.Attrs["site"] != "berlin" {
		t.Errorf("set: %+v, %v", d, err)
	}
	_, err = c.UpdateDevice(ctx, "t1", DevicePatch{Groups: &groups, Rev: d.Rev})
	want(t, "an old revision", err, 409, "changed meanwhile")

	second, err := c.AddCertificate(ctx, "t1", CertificateSpec{Days: 10})
	if err != nil || len(second.Device.Certificates) != 2 {
		t.Fatalf("a second certificate: %+v, %v", second, err)
	}
	usable(t, f, "t1", second.Bundle)
	if left := time.Until(second.Device.Certificates[1].NotAfter); left > 10*day || left < 9*day {
		t.Errorf("it is valid for %v, want 10 days", left)
	}
	now, err := c.RevokeCertificate(ctx, "t1", strings.ToUpper(made.Bundle.Serial), "lost")
	if err != nil || now.Certificates[0].Revoked == nil || now.Certificates[0].Reason != "lost" || now.Certificates[1].Revoked != nil {
		t.Errorf("revoke: %+v, %v", now, err)
	}
	if _, revoked := f.ca.Revoked(ca.Serial(made.Bundle.Serial)); !revoked {
		t.Error("the CA has not heard of it")
	}
	_, err = c.RevokeCertificate(ctx, "t1", "123", "")
	want(t, "a certificate of somebody else", err, 404, "not in the registry")

	for _, step := range []struct {
		state string
		do    func() (*Device, error)
	}{
		{"suspended", func() (*Device, error) { return c.SuspendDevice(ctx, "t1", Change{Reason: "strange"}) }},
		{"active", func() (*Device, error) { return c.ResumeDevice(ctx, "t1", Change{}) }},
		{"retired", func() (*Device, error) { return c.RetireDevice(ctx, "t1", Change{Reason: "broken"}) }},
		{"retired", func() (*Device, error) { return c.RetireDevice(ctx, "t1", Change{}) }},
	} {
		if d, err := step.do(); err != nil || d.State != step.state {
			t.Errorf("to %s: %+v, %v", step.state, d, err)
		}
	}
	if _, revoked := f.ca.Revoked(ca.Serial(second.Bundle.Serial)); !revoked {
		t.Error("a retired device has a certificate that the CA thinks good")
	}
	_, err = c.AddCertificate(ctx, "t1", CertificateSpec{})
	want(t, "a certificate for a retired device", err, 409, "retired")
	_, err = c.AddDevice(ctx, DeviceSpec{Name: "t1"})
	want(t, "the name of a retired device", err, 409, "again")
	if again, err := c.AddDevice(ctx, DeviceSpec{Name: "t1", Again: true}); err != nil || again.Device.State != "active" || len(again.Device.Certificates) != 3 {
		t.Errorf("again: %+v, %v", again, err)
	}
	var actions []string
	for _, e := range f.entries(t, audit.Query{Object: "t1", Kind: audit.Act}) {
		actions = append(actions, e.Action)
	}
	if got := strings.Join(actions, " "); got != "device.add device.set certificate.issue certificate.revoke device.suspend device.resume device.retire device.retire device.add" {
		t.Errorf("acts in the audit log: %s", got)
	}
}

// usable holds a bundle against what a device needs.
func usable(t *testing.T, f *fixture, name string, b *Bundle) {
	t.Helper()
	if b == nil {
		t.Fatal("no bundle")
	}
	pair, err := tls.X509KeyPair([]byte(b.Cert), []byte(b.Key))
	if err != nil {
		t.Fatal(err)
	}
	leaf, rest := parsed(t, b.Cert)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(b.CA))
	for _, c := range rest {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	id, err := f.ca.Identify(&tls.ConnectionState{PeerCertificates: append([]*x509.Certificate{leaf}, rest...)})
	if err != nil || id.Device != name {
		t.Errorf("the bundle identifies %q, %v, want %q", id.Device, err, name)
	}
	_ = pair
}

func parsed(t *testing.T, text string) (leaf *x509.Certificate, rest []*x509.Certificate) {
	t.Helper()
	var all []*x509.Certificate
	for b, more := pem.Decode([]byte(text)); b != nil; b, more = pem.Decode(more) {
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all[0], all[1:]
}

// TestCSR has a device keep its key.
func TestCSR(t *testing.T) {
	f := newFixture(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	made, err := f.local.AddDevice(t.Context(), DeviceSpec{Name: "t1", CSR: csr})
	if err != nil || made.Bundle.Key != "" {
		t.Fatalf("%+v, %v", made, err)
	}
	if leaf, _ := parsed(t, made.Bundle.Cert); !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the certificate is for another key")
	}
	_, err = f.local.AddDevice(t.Context(), DeviceSpec{Name: "t2", CSR: "no CSR"})
	want(t, "a bad CSR", err, 422, "csr")
	_, err = f.local.Device(t.Context(), "t2")
	want(t, "its device", err, 404, "not in the registry")
}

// TestDeviceList asks with each filter, and part by part.
func TestDeviceList(t *testing.T) {
	f := newFixture(t)
	for i := range 7 {
		d := device.Device{Name: fmt.Sprintf("t%d", i), Attrs: map[string]string{"site": fmt.Sprint("s", i%2)}}
		if i < 3 {
			d.Groups, d.State = []string{"g"}, auth.Pending
		}
		f.device(t, d)
	}
	f.device(t, device.Device{Name: "u1"})
	for _, c := range []struct {
		filter DeviceFilter
		want   string
	}{
		{DeviceFilter{}, "t0 t1 t2 t3 t4 t5 t6 u1"},
		{DeviceFilter{Prefix: "u"}, "u1"},
		{DeviceFilter{Group: "g"}, "t0 t1 t2"},
		{DeviceFilter{State: "active"}, "t3 t4 t5 t6 u1"},
		{DeviceFilter{Attrs: map[string]string{"site": "s1"}}, "t1 t3 t5"},
		{DeviceFilter{Group: "g", State: "pending", Prefix: "t", Attrs: map[string]string{"site": "s0"}}, "t0 t2"},
		{DeviceFilter{Group: "other"}, ""},
	} {
		for _, limit := range []int{0, 1, 3} {
			var names []string
			for d, err := range All(func(after string) (*List[Device], error) {
				return f.local.Devices(t.Context(), c.filter, Page{After: after, Limit: limit})
			}) {
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, d.Name)
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("%+v by %d: %q, want %q", c.filter, limit, got, c.want)
			}
		}
	}
	_, err := f.local.Devices(t.Context(), DeviceFilter{State: "asleep"}, Page{})
	want(t, "an unknown state", err, 422, "state")
	_, err = f.local.Devices(t.Context(), DeviceFilter{}, Page{Limit: LimitMax + 1})
	want(t, "too many", err, 422, "limit")
	_, err = ask[List[Device]](t.Context(), f.local, call{method: "GET", path: "/v1/devices", query: query("gruop", "g")})
	want(t, "an unknown parameter", err, 422, "gruop")
	_, err = ask[List[User]](t.Context(), f.local, call{method: "GET", path: "/v1/users", query: query("prefix", "u")})
	want(t, "an unknown parameter", err, 422, "prefix")
}

// TestNames tries names that lead elsewhere.
func TestNames(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"..", ".", "../../etc/passwd", "a/b", "a\\b", "a b", "-a", ".a", "#", "+", "a:b", "a\x00b", "é", strings.Repeat("a", 129), "%2e%2e", "$SYS"} {
		_, err := f.local.AddDevice(t.Context(), DeviceSpec{Name: name})
		want(t, "add "+name, err, 422, "")
		_, err = f.local.Device(t.Context(), name)
		want(t, "show "+name, err, 422, "")
		_, err = f.local.RetireDevice(t.Context(), name, Change{})
		want(t, "retire "+name, err, 422, "")
		_, err = f.local.AddUser(t.Context(), UserSpec{Name: name})
		want(t, "add user "+name, err, 422, "")
		_, err = f.local.User(t.Context(), name)
		want(t, "show user "+name, err, 422, "")
		_, err = f.local.AddGroup(t.Context(), GroupSpec{Name: name})
		want(t, "add group "+name, err, 422, "")
		_, err = f.local.ApplyPolicy(t.Context(), name, []byte("policies: {}"), AnyVersion)
		want(t, "apply "+name, err, 422, "")
		_, err = f.local.BlastRadius(t.Context(), name)
		want(t, "blast radius of "+name, err, 422, "")
	}
	if s := f.registry.Stats(); s.Devices+s.Users+s.Groups != 0 {
		t.Errorf("the registry has %+v", s)
	}
	if e := f.entries(t, audit.Query{Kind: audit.Act}); len(e) != 0 {
		t.Errorf("the audit log has %+v", e)
	}
}

// TestRoleGroups keeps devices and users out of groups that are roles.
func TestRoleGroups(t *testing.T) {
	f := newFixture(t)
	f.device(t, device.Device{Name: "t1"})
	if _, err := f.local.AddUser(t.Context(), UserSpec{Name: "ann", Role: "viewer"}); err != nil {
		t.Fatal(err)
	}
	groups := []string{"admin"}
	_, err := f.local.AddDevice(t.Context(), DeviceSpec{Name: "t2", Groups: groups})
	want(t, "a device", err, 422, "is a role")
	_, err = f.local.UpdateDevice(t.Context(), "t1", DevicePatch{Groups: &groups})
	want(t, "a device's change", err, 422, "is a role")
	_, err = f.local.AddUser(t.Context(), UserSpec{Name: "bob", Groups: groups})
	want(t, "a user", err, 422, "is a role")
	_, err = f.local.UpdateUser(t.Context(), "ann", UserPatch{Groups: &groups})
	want(t, "a user's change", err, 422, "is a role")
	_, err = f.local.AddGroup(t.Context(), GroupSpec{Name: "operator"})
	want(t, "the group", err, 422, "is a role")
}

// TestUsers leads users, groups and tokens through their lives.
func TestUsers(t *testing.T) {
	f := newFixture(t)
	c, ctx := f.local, t.Context()
	u, err := c.AddUser(ctx, UserSpec{Name: "ann@home", Role: "operator", Groups: []string{"night"}, Password: "correct horse"})
	if err != nil || u.Role != "operator" || !u.Password || u.Disabled || !slices.Equal(u.Groups, []string{"night"}) {
		t.Fatalf("%+v, %v", u, err)
	}
	_, err = c.AddUser(ctx, UserSpec{Name: "ann@home"})
	want(t, "twice", err, 409, "already")
	_, err = c.AddUser(ctx, UserSpec{Name: "bob", Password: "short"})
	want(t, "a short password", err, 422, "password")
	if strings.Contains(fmt.Sprint(err), "short") {
		t.Errorf("the answer shows the password: %v", err)
	}
	_, err = c.AddUser(ctx, UserSpec{Name: "bob", Role: "root"})
	want(t, "a role", err, 422, "role")
	short := "seven77"
	_, err = c.UpdateUser(ctx, "ann@home", UserPatch{Password: &short})
	want(t, "a short password", err, 422, "at least 8")
	role, none, off := "viewer", "", true
	if u, err := c.UpdateUser(ctx, "ann@home", UserPatch{Role: &role, Password: &none, Disabled: &off, Groups: new([]string), Rev: u.Rev}); err != nil || u.Role != role || u.Password || !u.Disabled || len(u.Groups) != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	_, err = c.UpdateUser(ctx, "ann@home", UserPatch{Rev: u.Rev})
	want(t, "an old revision", err, 409, "changed")

	g, err := c.AddGroup(ctx, GroupSpec{Name: "day", About: "the day shift"})
	if err != nil || g.About != "the day shift" {
		t.Fatalf("%+v, %v", g, err)
	}
	if l, err := c.Groups(ctx, Page{}); err != nil || len(l.Items) != 2 || l.Items[0].Name != "day" || l.Items[1].Name != "night" {
		t.Errorf("groups %+v, %v", l, err)
	}
	if _, err := c.AddDevice(ctx, DeviceSpec{Name: "t1", Groups: []string{"day"}, NoCertificate: true}); err != nil {
		t.Fatal(err)
	}
	want(t, "a group in use", c.RemoveGroup(ctx, "day", 0), 409, "members")
	if err := c.RemoveGroup(ctx, "night", 0); err != nil {
		t.Error(err)
	}

	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	tok, err := c.AddToken(ctx, TokenSpec{User: "ann@home", About: "laptop", Expires: &until})
	if err != nil || !strings.HasPrefix(tok.Text, "fl_"+tok.Token.ID+"_") || tok.Token.Expires == nil || !tok.Token.Expires.Equal(until) {
		t.Fatalf("%+v, %v", tok, err)
	}
	_, err = c.AddToken(ctx, TokenSpec{User: "nobody"})
	want(t, "a token for nobody", err, 404, "nobody")
	_, err = c.AddToken(ctx, TokenSpec{User: "ann@home", Device: "t1"})
	want(t, "a token for two", err, 422, "either")
	if l, err := c.Tokens(ctx, Page{}); err != nil || len(l.Items) != 1 || l.Items[0].About != "laptop" {
		t.Errorf("tokens %+v, %v", l, err)
	}
	if err := c.RemoveToken(ctx, tok.Token.ID); err != nil {
		t.Error(err)
	}
	want(t, "no such token", c.RemoveToken(ctx, tok.Token.ID), 404, "")
	want(t, "an old revision", c.RemoveUser(ctx, "ann@home", u.Rev), 409, "changed")
	if err := c.RemoveUser(ctx, "ann@home", 0); err != nil {
		t.Error(err)
	}
	if l, err := c.Users(ctx, Page{}); err != nil || len(l.Items) != 0 || l.Items == nil {
		t.Errorf("users %+v, %v", l, err)
	}
}

// TestPasswords lets a device in by what was set, as authentication would.
func TestPasswords(t *testing.T) {
	f := newFixture(t)
	f.device(t, device.Device{Name: "t1"})
	p, err := f.local.SetDevicePassword(t.Context(), "t1", PasswordSpec{Generate: true})
	if err != nil || len(p.Password) < 26 {
		t.Fatalf("%+v, %v", p, err)
	}
	d, _ := f.registry.Device("t1")
	if !strings.HasPrefix(d.Password, "$sha256$") || d.SCRAM == nil {
		t.Errorf("kept: %q, %v", d.Password, d.SCRAM)
	}
	if p, err := f.local.SetDevicePassword(t.Context(), "t1", PasswordSpec{Password: "correct horse"}); err != nil || p.Password != "" {
		t.Errorf("%+v, %v: a password that was chosen is not echoed", p, err)
	}
	d, _ = f.registry.Device("t1")
	if !strings.HasPrefix(d.Password, "$argon2id$") {
		t.Errorf("kept: %q", d.Password)
	}
	for _, spec := range []PasswordSpec{{}, {Password: "correct horse", Generate: true}, {Password: "1234567"}} {
		_, err := f.local.SetDevicePassword(t.Context(), "t1", spec)
		want(t, fmt.Sprintf("%+v", spec), err, 422, "")
	}
	if err := f.local.RemoveDevicePassword(t.Context(), "t1"); err != nil {
		t.Fatal(err)
	}
	if d, _ = f.registry.Device("t1"); d.Password != "" || d.SCRAM != nil {
		t.Error("the password is still there")
	}
}

// TestAuditFirst shows that nothing is done that the audit log can't have.
func TestAuditFirst(t *testing.T) {
	f := newFixture(t)
	f.device(t, device.Device{Name: "t1"})
	if err := f.audit.Close(); err != nil {
		t.Fatal(err)
	}
	before := f.registry.Stats()
	_, err := f.local.AddDevice(t.Context(), DeviceSpec{Name: "t2"})
	want(t, "add", err, 503, "audit log")
	_, err = f.local.SuspendDevice(t.Context(), "t1", Change{})
	want(t, "suspend", err, 503, "audit log")
	want(t, "backup", f.local.Backup(t.Context(), backup.SecretsHashed, nil), 503, "audit log")
	if d, _ := f.registry.Device("t1"); f.registry.Stats() != before || d.State != auth.Active {
		t.Error("it was done all the same")
	}
}

// TestFailedAct has the CA's disk fail in the middle of an act: the registry keeps the
// device out all the same, the audit log says that it failed, and it can be done again.
func TestFailedAct(t *testing.T) {
	f := newFixture(t)
	made, err := f.local.AddDevice(t.Context(), DeviceSpec{Name: "t1"})
	if err != nil {
		t.Fatal(err)
	}
	f.ca.fail = errors.New("disk full")
	_, err = f.local.RetireDevice(t.Context(), "t1", Change{Reason: "stolen"})
	want(t, "retire", err, 500, "disk full")
	if d, _ := f.registry.Device("t1"); d.State != auth.Retired {
		t.Errorf("the device is %s", d.State)
	}
	e := f.entries(t, audit.Query{Action: "device.retire"})
	if len(e) != 2 || e[0].Reason != "stolen" || e[0].After == nil || !strings.Contains(e[1].Reason, "failed: ") || e[1].Object != "t1" || e[1].After != nil {
		t.Errorf("entries %+v", e)
	}
	f.ca.fail = nil
	if _, err = f.local.RetireDevice(t.Context(), "t1", Change{Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	if _, revoked := f.ca.Revoked(ca.Serial(made.Bundle.Serial)); !revoked {
		t.Error("the certificate is not revoked")
	}
}

// TestNoSecrets looks for secrets wherever they might have gone: the audit log, the log,
// and all that can be read afterwards.
func TestNoSecrets(t *testing.T) {
	f := newFixture(t)
	c, ctx := f.local, t.Context()
	const chosen = "a-password-nobody-may-see"
	made := must(c.AddDevice(ctx, DeviceSpec{Name: "t1"}))(t)
	generated := must(c.SetDevicePassword(ctx, "t1", PasswordSpec{Generate: true}))(t)
	must(c.SetDevicePassword(ctx, "t1", PasswordSpec{Password: chosen}))(t)
	must(c.AddUser(ctx, UserSpec{Name: "ann", Role: "admin", Password: chosen}))(t)
	again := chosen + "-2"
	must(c.UpdateUser(ctx, "ann", UserPatch{Password: &again}))(t)
	tok := must(c.AddToken(ctx, TokenSpec{User: "ann"}))(t)
	must(f.remote(t, tok.Text, nil).Users(ctx, Page{}))(t)
	c.SetDevicePassword(ctx, "t1", PasswordSpec{Password: chosen + "\x00"}) // refused, and not echoed
	block, _ := pem.Decode([]byte(made.Bundle.Key))
	key := strings.Split(string(pem.EncodeToMemory(block)), "\n")[1]
	d, _ := f.registry.Device("t1")
	u, _ := f.registry.User("ann")
	_, secret, _ := strings.Cut(strings.TrimPrefix(tok.Text, "fl_"), "_")
	held, _ := f.registry.Token(tok.Token.ID)
	secrets := []string{key, generated.Password, chosen, secret, d.Password, u.Password, held.Hash}

	var seen strings.Builder
	seen.WriteString(f.log.String())
	enc := json.NewEncoder(&seen)
	for _, v := range []any{
		must(c.Devices(ctx, DeviceFilter{}, Page{}))(t), must(c.Device(ctx, "t1"))(t), must(c.Users(ctx, Page{}))(t), must(c.User(ctx, "ann"))(t),
		must(c.Tokens(ctx, Page{}))(t), must(c.Audit(ctx, AuditQuery{}, Page{}))(t), must(c.CA(ctx))(t), must(c.Status(ctx, 1))(t),
	} {
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	f.audit.Close()
	files, err := filepath.Glob(filepath.Join(f.audit.Dir(), "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the audit log's files: %v, %v", files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		seen.Write(text)
	}
	if !strings.Contains(seen.String(), "device.password") {
		t.Fatal("the audit log is not among what was looked at")
	}
	for i, s := range secrets {
		if s == "" || strings.Contains(seen.String(), s) {
			t.Errorf("secret %d is shown, or there is none", i)
		}
	}
}

// TestWithoutParts asks a broker that has none of the parts.
func TestWithoutParts(t *testing.T) {
	_, c := open(t, Options{Broker: new(stub)})
	for pattern := range rights {
		method, path, _ := strings.Cut(pattern, " ")
		if slices.Contains([]string{"/v1/status", "/v1/openapi.json", "/v1/mqtt", "/v1/clients"}, path) {
			continue
		}
		var body any
		switch {
		case strings.Contains(path, "policies/{name}") || strings.HasSuffix(path, "diff"):
			body = []byte("policies: {}")
		case strings.HasSuffix(path, "check"):
			body = Question{Device: "t1", Action: "connect"}
		case strings.HasSuffix(path, "password"):
			body = PasswordSpec{Generate: true}
		case method == "POST" && path == "/v1/tokens":
			body = TokenSpec{User: "ann"}
		case method == "POST" && strings.Count(path, "/") == 2:
			body = map[string]string{"name": "a"}
		case method == "PATCH":
			body = struct{}{}
		}
		if method == "GET" || method == "DELETE" || path == "/v1/backup" {
			body = nil
		}
		path = strings.NewReplacer("{name}", "a", "{id}", "a", "{device}", "a", "{serial}", "1").Replace(path)
		_, err := c.do(t.Context(), call{method: method, path: path, body: body})
		want(t, pattern, err, 409, "")
	}
}

// TestOptions names what can't work.
func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Broker: new(stub), Listen: "127.0.0.1:0"}, {Broker: new(stub), Listen: "127.0.0.1:0", TLS: new(tls.Config)}} {
		o.Dir = t.TempDir()
		if s, err := Open(o); err == nil {
			s.Close()
			t.Errorf("%+v is accepted", o)
		}
		if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
			t.Errorf("it leaves %v, %v", left, err)
		}
	}
}

// TestTypes keeps secrets out of what lists and shows answer with, by their types.
func TestTypes(t *testing.T) {
	for _, v := range []any{Device{}, User{}, Token{}, Group{}, Policy{}, CAInfo{}, ClientInfo{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(v)) {
			if n := strings.ToLower(field.Name); strings.Contains(n, "hash") || strings.Contains(n, "key") || n == "password" && field.Type.Kind() != reflect.Bool {
				t.Errorf("%T has %s", v, field.Name)
			}
		}
	}
}
