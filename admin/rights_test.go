package admin

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/ca"
	"fairlead/device"
)

// may says who may use a route, by the words of the package's comment and not by the
// table: a viewer may look, an operator may do everything but what is about users,
// tokens, policies, the CA and backups, an admin may do all.
func may(pattern, role string) bool {
	method, path, _ := strings.Cut(pattern, " ")
	switch noun := strings.Split(path, "/")[2]; {
	case noun == "mqtt":
		return false // over the socket only
	case role == auth.RoleAdmin || method == "GET":
		return true
	case role == auth.RoleViewer:
		return false
	case path == "/v1/policies/check" || path == "/v1/policies/diff":
		return true // they change nothing
	default:
		return noun != "users" && noun != "tokens" && noun != "policies" && noun != "ca" && noun != "backup"
	}
}

// asking is a request to a route, with something in each place of its path.
func asking(t *testing.T, base, pattern string) *http.Request {
	t.Helper()
	method, path, _ := strings.Cut(pattern, " ")
	for _, place := range []string{"{name}", "{id}", "{device}"} {
		path = strings.ReplaceAll(path, place, "absent")
	}
	path = strings.ReplaceAll(path, "{serial}", "1")
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// TestRights asks for each route as everybody there is.
func TestRights(t *testing.T) {
	f := newFixture(t)
	f.device(t, device.Device{Name: "t1"})
	f.user(t, device.User{Name: "late", Role: auth.RoleAdmin})
	expired := f.token(t, device.Token{User: "late", Expires: time.Now().Add(-time.Minute)})
	f.user(t, device.User{Name: "cert-admin", Role: auth.RoleAdmin})
	f.user(t, device.User{Name: "cert-viewer", Role: auth.RoleViewer})
	revoked, revokedBundle := f.certificate(t, "cert-admin")
	if err := f.ca.Authority.Revoke(ca.Revocation{Serial: revokedBundle.Serial}); err != nil {
		t.Fatal(err)
	}
	cert := func(name string) *tls.Certificate { c, _ := f.certificate(t, name); return c }
	other, err := ca.Open(filepath.Join(t.TempDir(), "ca"), ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	b, err := other.IssueDevice("cert-admin", ca.DeviceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	strange, err := tls.X509KeyPair(b.Chain, b.Key)
	if err != nil {
		t.Fatal(err)
	}
	callers := []struct {
		name   string
		token  string
		cert   *tls.Certificate
		role   string
		status int // of each request, if there is no role; 0: the handshake fails
	}{
		{name: "a token that has ended", token: expired, status: 401},
		{name: "a user who is disabled", token: f.user(t, device.User{Name: "off", Role: auth.RoleAdmin, Disabled: true}), status: 401},
		{name: "a user without a role", token: f.user(t, device.User{Name: "plain", Groups: []string{"admin"}}), status: 403},
		{name: "a device", token: f.token(t, device.Token{Device: "t1"}), status: 403},
		{name: "the certificate of a device", cert: cert("t1"), status: 403},
		{name: "the certificate of nobody", cert: cert("nobody"), status: 403},
		{name: "a revoked certificate", cert: revoked},
		{name: "the certificate of another CA", cert: &strange},
		{name: "a viewer", token: f.user(t, device.User{Name: "v", Role: auth.RoleViewer}), role: auth.RoleViewer},
		{name: "an operator", token: f.user(t, device.User{Name: "o", Role: auth.RoleOperator}), role: auth.RoleOperator},
		{name: "an admin", token: f.user(t, device.User{Name: "a", Role: auth.RoleAdmin}), role: auth.RoleAdmin},
		{name: "an admin by certificate", cert: cert("cert-admin"), role: auth.RoleAdmin},
		{name: "a viewer by certificate", cert: cert("cert-viewer"), role: auth.RoleViewer},
		{name: "a stranger", status: 401},
		{name: "no token", token: "Zm9vOmJhcg==", status: 401},
		{name: "a token that nobody made", token: "fl_aaaaaaaaaaaa_BBBBBBBBBBBBBBBBBBBBBBBBBB", status: 401}, // last: its source is slowed
	}
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			client := f.remote(t, c.token, c.cert)
			defer client.http.CloseIdleConnections()
			for pattern := range rights {
				req := asking(t, f.URL(), pattern)
				if c.token != "" {
					req.Header.Set("Authorization", "Bearer "+c.token)
				}
				resp, err := client.http.Do(req)
				if err != nil {
					if c.role != "" || c.status != 0 {
						t.Fatalf("%s: %v", pattern, err)
					}
					continue
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				switch got := resp.StatusCode; {
				case c.role == "" && c.status == 429, c.role == "" && c.status == 401 && c.token != "" && got == 429: // guessing is slowed
				case c.role == "" && got != c.status:
					t.Errorf("%s: %d, want %d", pattern, got, c.status)
				case c.role != "" && may(pattern, c.role) == (got == 401 || got == 403):
					t.Errorf("%s: %d, want that it may: %v", pattern, got, may(pattern, c.role))
				}
			}
		})
	}
	t.Run("the socket", func(t *testing.T) {
		for pattern := range rights {
			resp, err := f.local.http.Do(asking(t, "http://fairlead", pattern))
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if got := resp.StatusCode; got == 401 || got == 403 {
				t.Errorf("%s: %d over the socket", pattern, got)
			}
		}
	})
}

// TestRefusals finds in the audit log what was refused, with who, whence and why.
func TestRefusals(t *testing.T) {
	f := newFixture(t)
	f.device(t, device.Device{Name: "t1"})
	viewer := f.user(t, device.User{Name: "v", Role: auth.RoleViewer})
	device := f.token(t, device.Token{Device: "t1"})
	for _, token := range []string{"", "fl_aaaaaaaaaaaa_BBBBBBBBBBBBBBBBBBBBBBBBBB", device, viewer} {
		if _, err := f.remote(t, token, nil).AddGroup(t.Context(), GroupSpec{Name: "g1"}); err == nil {
			t.Fatalf("token %q may add a group", token)
		}
	}
	want := []struct{ actor, how, action, object, reason string }{
		{"", "", "api.login", "", "neither a token nor a certificate"},
		{"token aaaaaaaaaaaa", "token", "api.login", "", "there is no token"},
		{"t1", "token", "api.login", "", "is no user"},
		{"v", "token", "group.add", "/v1/groups", "the role viewer may not"},
	}
	got := f.refusalsWritten(t)
	if len(got) != len(want) {
		t.Fatalf("%d refusals, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		e := got[i]
		if e.Actor.Name != w.actor || e.Actor.How != w.how || e.Action != w.action || e.Object != w.object || !strings.Contains(e.Reason, w.reason) || !strings.HasPrefix(e.Source, "127.0.0.1") {
			t.Errorf("refusal %+v, want %+v", e, w)
		}
	}
	for _, token := range []string{device, viewer} {
		if _, secret, _ := strings.Cut(strings.TrimPrefix(token, "fl_"), "_"); strings.Contains(fmt.Sprintf("%+v", got), secret) {
			t.Error("a token stands in the audit log")
		}
	}
}

// TestUserCAs shows certificates of CAs that may name users, and of one that may not.
func TestUserCAs(t *testing.T) {
	f := newFixture(t)
	f.user(t, device.User{Name: "ann", Role: auth.RoleAdmin})
	pair, _ := f.certificate(t, "ann")
	for _, c := range []struct {
		cas    []string
		status int
	}{{nil, 403}, {[]string{"makers"}, 403}, {[]string{"makers", ""}, 0}} {
		o := f.options(t.TempDir())
		o.UserCAs = c.cas
		s, _ := open(t, o)
		there := &fixture{Server: s, ca: f.ca}
		_, err := there.remote(t, "", pair).Status(t.Context(), 0)
		if c.status != 0 {
			want(t, fmt.Sprint(c.cas), err, c.status, "only users")
		} else if err != nil {
			t.Errorf("%q: %v", c.cas, err)
		}
	}
}

// TestUnknownRoutes asks for what is not there, before and after one is known.
func TestUnknownRoutes(t *testing.T) {
	f := newFixture(t)
	token := f.user(t, device.User{Name: "a", Role: auth.RoleAdmin})
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404}, {"GET", "/v1", 404}, {"GET", "/v1/devices/t1/keys", 404}, {"GET", "/metrics", 404},
		{"PUT", "/v1/devices", 405}, {"DELETE", "/v1/audit", 405}, {"OPTIONS", "/v1/devices", 405}, {"TRACE", "/v1/status", 405},
		{"GET", "/v1/devices/../users", 307}, {"GET", "//v1//users", 307},
	} {
		for _, known := range []bool{false, true} {
			req, err := http.NewRequestWithContext(t.Context(), c.method, f.URL(), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.URL.Path = c.path
			want := 401
			if known {
				req.Header.Set("Authorization", "Bearer "+token)
				want = c.status
			}
			resp, err := f.remote(t, "", nil).http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s %s, known %v: %d, want %d", c.method, c.path, known, resp.StatusCode, want)
			}
			if want == 405 && resp.Header.Get("Allow") == "" {
				t.Errorf("%s %s: no Allow", c.method, c.path)
			}
		}
	}
}

// TestWithdrawn takes away, on connections that stay open, what they were let in for.
func TestWithdrawn(t *testing.T) {
	f := newFixture(t)
	token := f.user(t, device.User{Name: "ann", Role: auth.RoleViewer})
	byToken := f.remote(t, token, nil)
	pair, bundle := f.certificate(t, "ann")
	byCert := f.remote(t, "", pair)
	for _, c := range []*Client{byToken, byCert} {
		if _, err := c.Status(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(token, "fl_"), "_")
	if err := f.local.RemoveToken(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := byToken.Status(t.Context(), 0); problemOf(t, err).Status != 401 {
		t.Errorf("a removed token: %v", err)
	}
	if err := f.ca.Authority.Revoke(ca.Revocation{Serial: bundle.Serial}); err != nil {
		t.Fatal(err)
	}
	if _, err := byCert.Status(t.Context(), 0); problemOf(t, err).Status != 401 {
		t.Errorf("a revoked certificate: %v", err)
	}
	pair, _ = f.certificate(t, "ann")
	byCert = f.remote(t, "", pair)
	role := auth.RoleViewer
	for _, p := range []UserPatch{{Role: new(string)}, {Role: &role, Disabled: new(bool)}} {
		if p.Disabled != nil {
			*p.Disabled = true
		}
		if _, err := f.local.UpdateUser(t.Context(), "ann", p); err != nil {
			t.Fatal(err)
		}
		if _, err := byCert.Status(t.Context(), 0); problemOf(t, err).Status != 403 {
			t.Errorf("after %+v: %v", p, err)
		}
	}
}

// TestBrowsers shows what a page of another site may not make a browser do.
func TestBrowsers(t *testing.T) {
	f := newFixture(t)
	f.user(t, device.User{Name: "ann", Role: auth.RoleAdmin})
	pair, _ := f.certificate(t, "ann")
	for _, c := range []struct {
		name, key, value string
		contentType      string
		status           int
	}{
		{"a cookie", "Cookie", "session=1", "application/json", 400},
		{"another site, by Sec-Fetch-Site", "Sec-Fetch-Site", "cross-site", "application/json", 403},
		{"another site, by Origin", "Origin", "https://evil.example", "application/json", 403},
		{"a form", "X-Nothing", "1", "text/plain", 415},
		{"the same site", "Sec-Fetch-Site", "same-origin", "application/json", 201},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", f.URL()+"/v1/groups", strings.NewReader(`{"name":"g1"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(c.key, c.value)
		req.Header.Set("Content-Type", c.contentType)
		resp, err := f.remote(t, "", pair).http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.name, resp.StatusCode, c.status)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers %v", c.name, resp.Header)
		}
	}
}

// TestSocketActor says who acts over the socket.
func TestSocketActor(t *testing.T) {
	f := newFixture(t)
	if _, err := f.local.AddGroup(t.Context(), GroupSpec{Name: "g1"}); err != nil {
		t.Fatal(err)
	}
	e := f.entries(t, audit.Query{Action: "group.add"})
	if len(e) != 1 || e[0].Actor.Name == "" || e[0].Actor.Name == "unknown" || e[0].Actor.Role != auth.RoleAdmin || e[0].Actor.How != Socket || e[0].Source != Socket {
		t.Errorf("entries %+v", e)
	}
}

// TestGuessing slows who tries tokens.
func TestGuessing(t *testing.T) {
	f := newFixture(t)
	slowed := false
	for i := range 20 {
		c := f.remote(t, fmt.Sprintf("fl_aaaaaaaaaaaa_%026d", i), nil)
		_, err := c.Status(t.Context(), 0)
		if p := problemOf(t, err); p.Status == http.StatusTooManyRequests {
			slowed = true
		} else if p.Status != http.StatusUnauthorized {
			t.Fatalf("guess %d: %+v", i, p)
		}
	}
	if !slowed {
		t.Error("20 guesses, and none is slowed")
	}
}
