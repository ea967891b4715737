package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"fairlead/mqtt"
)

// issuer is a real JWKS server that signs tokens, and its keys change.
type issuer struct {
	*httptest.Server
	t     *testing.T
	asked atomic.Int32

	mu   sync.Mutex
	keys map[string]crypto.Signer
	fail func(http.ResponseWriter) // instead of an answer
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{t: t, keys: map[string]crypto.Signer{}}
	i.Server = httptest.NewTLSServer(i)
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	i.asked.Add(1)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fail != nil {
		i.fail(w)
		return
	}
	w.Write(keySet(i.t, i.keys))
}

func (i *issuer) set(keys map[string]crypto.Signer, fail func(http.ResponseWriter)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys, i.fail = keys, fail
}

// trusting is the TLS configuration of a client of the server.
func trusting(s *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{RootCAs: pool}
}

func keySet(t *testing.T, keys map[string]crypto.Signer) []byte {
	t.Helper()
	list := []any{}
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		list = append(list, publicJWK(id, keys[id].Public()))
	}
	text, err := json.Marshal(map[string]any{"keys": list})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func publicJWK(id string, key crypto.PublicKey) map[string]string {
	b64 := base64.RawURLEncoding.EncodeToString
	j := map[string]string{"kid": id, "use": "sig"}
	switch key := key.(type) {
	case *rsa.PublicKey:
		j["kty"], j["n"], j["e"] = "RSA", b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			panic("a key that was just made has no bytes")
		}
		half := (len(point) - 1) / 2
		j["kty"], j["crv"], j["x"], j["y"] = "EC", key.Curve.Params().Name, b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PublicKey:
		j["kty"], j["crv"], j["x"] = "OKP", "Ed25519", b64(key)
	}
	return j
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// claims are what a good token says, with changes; a nil value takes a claim away.
func (b *bench) claims(change jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{
		"iss": "https://id.example", "aud": "fairlead", "sub": "ann", "exp": b.clock.Now().Add(time.Hour).Unix(),
	}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func sign(t *testing.T, method jwt.SigningMethod, id string, key any, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if id != "" {
		token.Header["kid"] = id
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func jwtOptions(k *Keys) JWTOptions {
	return JWTOptions{Keys: k, Issuer: "https://id.example", Audience: []string{"fairlead"}, Claims: Mapping{
		Device: "device", User: "sub", Groups: "realm_access.roles", Attrs: map[string]string{"site": "site", "level": "level"},
	}}
}

// jwtBench is a bench whose Chain accepts the tokens of an issuer.
func jwtBench(t *testing.T, o KeysOptions, change ...func(*JWTOptions)) (*bench, *Keys) {
	t.Helper()
	clock := newClock()
	o.Now = clock.Now
	keys, err := NewKeys(o)
	if err != nil {
		t.Fatal(err)
	}
	options := jwtOptions(keys)
	for _, f := range change {
		f(&options)
	}
	m, err := NewJWT(options)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, m, cheapPassword())
	b.clock, b.Chain.o.Now = clock, clock.Now
	return b, keys
}

func TestJWT(t *testing.T) {
	is := newIssuer(t)
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	is.set(map[string]crypto.Signer{"ec": ec, "rs": rs, "ed": ed}, nil)
	b, _ := jwtBench(t, KeysOptions{URL: is.URL, TLS: trusting(is.Server)})
	b.reg.device("pump", func(d *Device) { d.Groups = []string{"north"} })
	for _, tt := range []struct {
		method jwt.SigningMethod
		id     string
		key    any
	}{
		{jwt.SigningMethodES384, "ec", ec}, {jwt.SigningMethodRS256, "rs", rs}, {jwt.SigningMethodPS512, "rs", rs},
		{jwt.SigningMethodEdDSA, "ed", ed}, {jwt.SigningMethodES384, "", ec},
	} {
		claims := b.claims(jwt.MapClaims{
			"realm_access": map[string]any{"roles": []string{"staff", "admin"}}, "site": "a", "level": 7,
		})
		id := b.accept(by(faraway, "c", "jwt", sign(t, tt.method, tt.id, tt.key, claims)))
		if id.User != "ann" || id.Method != "jwt" || id.Attrs["site"] != "a" || id.Attrs["level"] != "7" {
			t.Errorf("%s: accepted %+v", tt.method.Alg(), id.Principal)
		}
		if !slices.Equal(id.Groups, []string{"staff"}) {
			t.Errorf("groups = %v: a token must not make anybody an admin", id.Groups)
		}
		if want := b.clock.now.Add(time.Hour + 30*time.Second); !id.Expires.Equal(want) {
			t.Errorf("expires %v, want %v", id.Expires, want)
		}
	}
	device := sign(t, jwt.SigningMethodES384, "ec", ec, b.claims(jwt.MapClaims{"device": "pump", "sub": nil}))
	if id := b.accept(by(faraway, "pump:1", "", device)); id.Device != "pump" || id.User != "" || !slices.Equal(id.Groups, []string{"north"}) {
		t.Errorf("accepted %+v", id.Principal)
	}
	b.refuse(by(faraway, "valve", "", device), mqtt.ClientIdentifierNotValid)
	if n := is.asked.Load(); n != 1 {
		t.Errorf("the keys were read %d times, want once", n)
	}
}

func TestJWTRefusals(t *testing.T) {
	is := newIssuer(t)
	key, stranger := ecKey(t), ecKey(t)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	is.set(map[string]crypto.Signer{"k": key, "r": rs}, nil)
	b, _ := jwtBench(t, KeysOptions{URL: is.URL, TLS: trusting(is.Server)})
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	now := b.clock.now
	es := func(change jwt.MapClaims) string { return sign(t, jwt.SigningMethodES256, "k", key, b.claims(change)) }
	critical := jwt.NewWithClaims(jwt.SigningMethodES256, b.claims(nil))
	critical.Header["kid"], critical.Header["crit"] = "k", []string{"exp"}
	withCrit, err := critical.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	good := es(nil)
	b.accept(by(faraway, "c", "u", good))
	for what, tt := range map[string]struct {
		token string
		want  mqtt.ReasonCode
	}{
		"signed by a stranger":     {sign(t, jwt.SigningMethodES256, "k", stranger, b.claims(nil)), mqtt.BadUserNameOrPassword},
		"unknown key":              {sign(t, jwt.SigningMethodES256, "other", key, b.claims(nil)), mqtt.BadUserNameOrPassword},
		"no algorithm":             {sign(t, jwt.SigningMethodNone, "k", jwt.UnsafeAllowNoneSignatureType, b.claims(nil)), mqtt.BadUserNameOrPassword},
		"public key as secret":     {sign(t, jwt.SigningMethodHS256, "k", public, b.claims(nil)), mqtt.BadUserNameOrPassword},
		"algorithm of another key": {sign(t, jwt.SigningMethodRS256, "k", rs, b.claims(nil)), mqtt.BadUserNameOrPassword},
		"cut off":                  {good[:len(good)-8], mqtt.BadUserNameOrPassword},
		"changed":                  {strings.Replace(good, ".ey", ".eyA", 1), mqtt.BadUserNameOrPassword},
		"critical extension":       {withCrit, mqtt.BadUserNameOrPassword},
		"expired":                  {es(jwt.MapClaims{"exp": now.Add(-31 * time.Second).Unix()}), mqtt.BadUserNameOrPassword},
		"never expires":            {es(jwt.MapClaims{"exp": nil}), mqtt.BadUserNameOrPassword},
		"expires too late":         {es(jwt.MapClaims{"exp": 1e15}), mqtt.BadUserNameOrPassword},
		"not yet":                  {es(jwt.MapClaims{"nbf": now.Add(time.Minute).Unix()}), mqtt.BadUserNameOrPassword},
		"issued in the future":     {es(jwt.MapClaims{"iat": now.Add(time.Minute).Unix()}), mqtt.BadUserNameOrPassword},
		"another audience":         {es(jwt.MapClaims{"aud": "mail"}), mqtt.BadUserNameOrPassword},
		"no audience":              {es(jwt.MapClaims{"aud": nil}), mqtt.BadUserNameOrPassword},
		"another issuer":           {es(jwt.MapClaims{"iss": "https://evil.example"}), mqtt.BadUserNameOrPassword},
		"nobody":                   {es(jwt.MapClaims{"sub": nil}), mqtt.BadUserNameOrPassword},
		"name with a wildcard":     {es(jwt.MapClaims{"sub": "+"}), mqtt.BadUserNameOrPassword},
		"device with a level":      {es(jwt.MapClaims{"device": "a/b"}), mqtt.BadUserNameOrPassword},
		"name is a number":         {es(jwt.MapClaims{"sub": 7}), mqtt.BadUserNameOrPassword},
		"roles are no list":        {es(jwt.MapClaims{"realm_access": map[string]any{"roles": 7}}), mqtt.BadUserNameOrPassword},
		"role is no text":          {es(jwt.MapClaims{"realm_access": map[string]any{"roles": []any{"a", 7}}}), mqtt.BadUserNameOrPassword},
		"attribute is an object":   {es(jwt.MapClaims{"site": map[string]any{}}), mqtt.BadUserNameOrPassword},
		"unregistered device":      {es(jwt.MapClaims{"device": "unknown"}), mqtt.NotAuthorized},
	} {
		t.Run(what, func(t *testing.T) {
			b.t = t
			b.refuse(by(faraway, "c", "u-"+what, tt.token), tt.want)
		})
		b.brake = newBrake()
	}
	b.reg.user("ann", "", func(u *User) { u.Disabled = true })
	b.refuse(by(faraway, "c", "u", good), mqtt.NotAuthorized) // whatever the issuer says
	b.clock.advance(2 * time.Hour)
	b.refuse(by(faraway, "c", "u", good), mqtt.BadUserNameOrPassword)
}

func TestJWTOptionsAreChecked(t *testing.T) {
	keys, err := NewKeys(KeysOptions{File: "keys.json"})
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*JWTOptions){
		"keys":      func(o *JWTOptions) { o.Keys = nil },
		"issuer":    func(o *JWTOptions) { o.Issuer = "" },
		"audience":  func(o *JWTOptions) { o.Audience = nil },
		"claim":     func(o *JWTOptions) { o.Claims = Mapping{} },
		"HS256":     func(o *JWTOptions) { o.Algorithms = []string{"ES256", "HS256"} },
		`algorithm`: func(o *JWTOptions) { o.Algorithms = []string{"none"} },
	} {
		o := jwtOptions(keys)
		change(&o)
		if _, err := NewJWT(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewJWT = %v, want an error about %s", err, want)
		}
	}
	for _, o := range []KeysOptions{
		{}, {File: "a", URL: "https://x"}, {URL: "http://id.example/keys"}, {URL: "ftp://x/"}, {URL: "keys"}, {URL: "https://u:p@x/"},
		{URL: "http://192.0.2.1/"}, {URL: "http://localhost.example/"},
	} {
		if _, err := NewKeys(o); err == nil {
			t.Errorf("NewKeys(%+v) = nil, want an error", o)
		}
	}
}

func TestAlgorithmsArePinned(t *testing.T) {
	is := newIssuer(t)
	key := ecKey(t)
	is.set(map[string]crypto.Signer{"k": key}, nil)
	b, _ := jwtBench(t, KeysOptions{URL: is.URL, TLS: trusting(is.Server)}, func(o *JWTOptions) { o.Algorithms = []string{"RS256"} })
	b.refuse(by(faraway, "c", "u", sign(t, jwt.SigningMethodES256, "k", key, b.claims(nil))), mqtt.BadUserNameOrPassword)
}

func TestUnregisteredDevicesIfTheIssuerIsTrusted(t *testing.T) {
	is := newIssuer(t)
	key := ecKey(t)
	is.set(map[string]crypto.Signer{"k": key}, nil)
	b, _ := jwtBench(t, KeysOptions{URL: is.URL, TLS: trusting(is.Server)}, func(o *JWTOptions) { o.Unregistered = true })
	token := sign(t, jwt.SigningMethodES256, "k", key, b.claims(jwt.MapClaims{"device": "pump", "sub": nil}))
	b.accept(by(faraway, "pump", "", token))
	b.reg.device("pump", func(d *Device) { d.State = Retired })
	b.refuse(by(faraway, "pump", "", token), mqtt.NotAuthorized)
}

func TestSeveralIssuers(t *testing.T) {
	var methods []Method
	var keys []*ecdsa.PrivateKey
	for _, iss := range []string{"https://one.example", "https://two.example"} {
		key, file := ecKey(t), filepath.Join(t.TempDir(), "keys.json")
		if err := os.WriteFile(file, keySet(t, map[string]crypto.Signer{"k": key}), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := NewKeys(KeysOptions{File: file})
		if err != nil {
			t.Fatal(err)
		}
		o := jwtOptions(k)
		o.Issuer = iss
		m, err := NewJWT(o)
		if err != nil {
			t.Fatal(err)
		}
		methods, keys = append(methods, m), append(keys, key)
	}
	b := newBench(t, methods...)
	two := sign(t, jwt.SigningMethodES256, "k", keys[1], b.claims(jwt.MapClaims{"iss": "https://two.example"}))
	b.accept(by(faraway, "c", "u", two))
	crossed := sign(t, jwt.SigningMethodES256, "k", keys[0], b.claims(jwt.MapClaims{"iss": "https://two.example"}))
	b.refuse(by(faraway, "c", "u", crossed), mqtt.BadUserNameOrPassword)

	x := b.Exchange("JWT", bare(faraway, "c"))
	if _, p, v := x.Step([]byte(two)); p == nil || p.User != "ann" {
		t.Errorf("by AUTH: %v, %v", p, v)
	}
	if id := x.(Identified).Identity(); id.Expires.IsZero() {
		t.Error("by AUTH: no end")
	}
	for _, bad := range []string{"", "x", crossed} {
		if _, p, v := b.Exchange("JWT", bare(faraway, "c")).Step([]byte(bad)); p != nil || v.Code != mqtt.BadUserNameOrPassword {
			t.Errorf("by AUTH, %q: %v, %v", bad, p, v)
		}
	}
}

// Keys change: new ones are fetched when they are first seen, but not as often as
// strangers like; and old ones stay while the issuer is down or talks nonsense.
func TestKeyRotation(t *testing.T) {
	is := newIssuer(t)
	old, next := ecKey(t), ecKey(t)
	is.set(map[string]crypto.Signer{"old": old}, nil)
	var failures []string
	b, keys := jwtBench(t, KeysOptions{URL: is.URL, TLS: trusting(is.Server), Failed: func(err error) { failures = append(failures, err.Error()) }})
	with := func(id string, key *ecdsa.PrivateKey) Credentials {
		return by(faraway, "c", "u", sign(t, jwt.SigningMethodES256, id, key, b.claims(nil)))
	}
	b.accept(with("old", old))
	is.set(map[string]crypto.Signer{"next": next}, nil)
	b.accept(with("old", old))
	b.refuse(with("next", next), mqtt.BadUserNameOrPassword) // asked just before
	b.clock.advance(askAgain)
	b.accept(with("next", next))
	b.refuse(with("old", old), mqtt.BadUserNameOrPassword)
	if n := is.asked.Load(); n != 2 {
		t.Errorf("the keys were read %d times, want twice", n)
	}
	for what, fail := range map[string]func(http.ResponseWriter){
		"status 500":       func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"a redirect":       func(w http.ResponseWriter) { w.Header().Set("Location", "/"); w.WriteHeader(http.StatusFound) },
		"no JSON":          func(w http.ResponseWriter) { w.Write([]byte("<html>")) },
		"no keys":          func(w http.ResponseWriter) { w.Write([]byte(`{"keys":[]}`)) },
		"useless keys":     func(w http.ResponseWriter) { w.Write([]byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`)) },
		"too much":         func(w http.ResponseWriter) { w.Write(make([]byte, keySetMax+1)) },
		"a broken answer":  func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"encryption alone": func(w http.ResponseWriter) { w.Write([]byte(`{"keys":[{"kty":"RSA","use":"enc"}]}`)) },
	} {
		is.set(nil, fail)
		if err := keys.Refresh(t.Context()); err == nil {
			t.Errorf("%s: Refresh = nil", what)
		}
		b.accept(with("next", next))
	}
	if len(failures) != 8 {
		t.Errorf("%d failures were told: %q", len(failures), failures)
	}
}

func TestNoKeysSoFar(t *testing.T) {
	is := newIssuer(t)
	key := ecKey(t)
	is.set(nil, func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) })
	b, _ := jwtBench(t, KeysOptions{URL: is.URL, TLS: trusting(is.Server)})
	b.refuse(by(faraway, "c", "u", sign(t, jwt.SigningMethodES256, "k", key, b.claims(nil))), mqtt.ServerUnavailable)

	untrusting, _ := jwtBench(t, KeysOptions{URL: is.URL}) // without the server's authority
	is.set(map[string]crypto.Signer{"k": key}, nil)
	untrusting.refuse(by(faraway, "c", "u", sign(t, jwt.SigningMethodES256, "k", key, b.claims(nil))), mqtt.ServerUnavailable)
}

func TestKeysInAFileAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "keys.json")
		one, two := ecKey(t), ecKey(t)
		write := func(text []byte) {
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(keySet(t, map[string]crypto.Signer{"one": one}))
		failures := 0
		keys, err := NewKeys(KeysOptions{File: file, Failed: func(error) { failures++ }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- keys.Run(ctx) }()
		has := func(id string, want bool) {
			t.Helper()
			synctest.Wait()
			if got := keys.among(id, "ES256") != nil; got != want {
				t.Errorf("key %q is there: %v, want %v", id, got, want)
			}
		}
		has("one", true)
		write(keySet(t, map[string]crypto.Signer{"two": two}))
		time.Sleep(5 * time.Second)
		has("two", true)
		has("one", false)
		write([]byte(`{"keys":[{"kty":`)) // half written
		time.Sleep(5 * time.Second)
		has("two", true)
		if failures != 1 {
			t.Errorf("%d failures were told, want 1", failures)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestParseKeySet(t *testing.T) {
	ec := ecKey(t)
	good := publicJWK("k", ec.Public())
	change := func(field, value string) string {
		j := maps.Clone(good)
		j[field] = value
		text, err := json.Marshal(map[string]any{"keys": []any{j}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if keys, err := parseKeySet([]byte(change("kid", "k"))); err != nil || len(keys) != 1 {
		t.Fatalf("parseKeySet = %v, %v", keys, err)
	}
	short := map[string]crypto.Signer{"k": &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}}}
	for _, text := range []string{
		"", "[]", "{}", `{"keys":{}}`, `{"keys":[7]}`, change("x", good["y"]), change("x", "AAAA"), change("y", "!"), change("crv", "P-224"),
		change("crv", "P-384"), change("kty", "OKP"), change("kty", "oct"), change("use", "enc"), string(keySet(t, short)),
		`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`, `{"keys":[{"kty":"RSA","n":"AQAB","e":""}]}`,
		`{"keys":[{"kty":"RSA","n":"` + strings.Repeat("_", 342) + `","e":"Ag"}]}`, `{"keys":[` + strings.Repeat(`{},`, keysMax) + `{}]}`,
	} {
		if keys, err := parseKeySet([]byte(text)); err == nil {
			t.Errorf("parseKeySet(%.200s) = %v, want an error", text, keys)
		}
	}
	// A key says for which algorithm it is.
	keys, err := NewKeys(KeysOptions{File: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if keys.set, err = parseKeySet([]byte(change("alg", "ES256K"))); err != nil {
		t.Fatal(err)
	}
	if keys.among("k", "ES256") != nil || keys.among("k", "ES256K") != nil {
		t.Error("a key for another algorithm is used")
	}
}

func TestTokensWithoutKeyIDTryFewKeys(t *testing.T) {
	keys, err := NewKeys(KeysOptions{File: "none"})
	if err != nil {
		t.Fatal(err)
	}
	k := ecKey(t).Public()
	for range 2 * triedMax {
		keys.set = append(keys.set, publicKey{key: k})
	}
	if n := len(keys.among("", "ES256")); n != triedMax {
		t.Errorf("%d keys are tried, want %d", n, triedMax)
	}
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"","y":""}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseKeySet(text)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys and %v", len(keys), err)
		}
	})
}

func TestMapping(t *testing.T) {
	claims := map[string]any{
		"https://x.example/groups": []any{"a", "b"}, "realm": map[string]any{"roles": []any{"c"}, "deep": map[string]any{"n": json.Number("1.50")}},
		"sub": "ann", "on": true, "group": "single", "realm.sub": "dotted",
	}
	m := Mapping{User: "realm.sub", Groups: "https://x.example/groups", Attrs: map[string]string{"n": "realm.deep.n", "on": "on", "none": "no.such"}}
	s, err := m.apply(claims)
	if err != nil || s.user != "dotted" || !slices.Equal(s.groups, []string{"a", "b"}) || !maps.Equal(s.attrs, map[string]string{"n": "1.50", "on": "true"}) {
		t.Errorf("apply = %+v, %v", s, err)
	}
	m = Mapping{User: "sub", Groups: "group", Only: []string{"single", "admin"}}
	if s, err = m.apply(claims); err != nil || !slices.Equal(s.groups, []string{"single"}) {
		t.Errorf("apply = %+v, %v", s, err)
	}
	if got := grantable([]string{"admin", "x", "viewer", "operator"}, nil); !slices.Equal(got, []string{"x"}) {
		t.Errorf("grantable = %v", got)
	}
	if got := grantable([]string{"admin", "x"}, []string{"admin"}); !slices.Equal(got, []string{"admin"}) {
		t.Errorf("grantable = %v", got)
	}
	many := make([]any, groupsMax+1)
	for i := range many {
		many[i] = "g"
	}
	for what, claims := range map[string]map[string]any{
		"too many groups": {"sub": "a", "group": many}, "nobody": {"group": "x"}, "empty": {"sub": ""}, "group with a level": {"sub": "a", "group": "x/y"},
	} {
		if s, err := (&Mapping{User: "sub", Groups: "group"}).apply(claims); err == nil {
			t.Errorf("%s: %+v", what, s)
		}
	}
}

func FuzzMapping(f *testing.F) {
	f.Add(`{"sub":"ann","device":"pump","realm_access":{"roles":["a"]},"site":"x","level":7}`)
	f.Add(`{"sub":{"a":[]},"realm_access":{"roles":"admin"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var claims map[string]any
		if json.Unmarshal([]byte(text), &claims) != nil {
			return
		}
		m := jwtOptions(nil).Claims
		s, err := m.apply(claims)
		if err != nil {
			return
		}
		for _, name := range slices.Concat(s.groups, []string{s.device, s.user}) {
			if strings.ContainsAny(name, "/+#\x00") || name == RoleAdmin && slices.Contains(s.groups, name) {
				t.Errorf("%s gives the name %q", text, name)
			}
		}
		if s.device == "" && s.user == "" || strings.Contains(s.device, ":") {
			t.Errorf("%s gives %+v", text, s)
		}
	})
}

func FuzzJWT(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUiLCJleHAiOjFlNDAwfQ.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUifQ.")
	keys, err := NewKeys(KeysOptions{File: "none"})
	if err != nil {
		f.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	keys.set = []publicKey{{key: ed.Public()}}
	m, err := NewJWT(jwtOptions(keys))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if id, _ := newBench(t, m).Identify(by(faraway, "c", "u", token)); id != nil {
			t.Errorf("%q is accepted as %+v", token, id.Principal)
		}
	})
}
