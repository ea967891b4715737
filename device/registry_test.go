package device_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/ca"
	"fairlead/device"
	"fairlead/store"
	"fairlead/store/mem"
)

const hash = audit.Secret("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g")

func keys() *device.SCRAM {
	return &device.SCRAM{Salt: []byte("salt"), Iterations: 15000, StoredKey: []byte("stored"), ServerKey: []byte("server")}
}

func open(t testing.TB, kv store.KV) *device.Registry {
	t.Helper()
	r, err := device.Open(context.Background(), kv, device.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func add(t testing.TB, r *device.Registry, d device.Device) device.Device {
	t.Helper()
	return must[device.Device](t)(r.Add(t.Context(), d, device.AddOptions{}))
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func certificate(serial ca.Serial) device.Certificate {
	return device.Certificate{Serial: serial, NotAfter: time.Now().Add(24 * time.Hour).UTC(), Fingerprint: audit.Hash{1, 2, 3}}
}

func TestLifeOfADevice(t *testing.T) {
	r := open(t, mem.New().KV())
	ctx := t.Context()
	step := must[device.Device](t)
	d := add(t, r, device.Device{
		Name: "door-1", Groups: []string{"doors", "berlin", "doors"}, Attrs: map[string]string{"site": "north"},
		Certificates: []device.Certificate{certificate("a1")}, Password: hash, SCRAM: keys(), State: auth.Retired,
	})
	if d.State != auth.Active || !slices.Equal(d.Groups, []string{"berlin", "doors"}) || d.Rev == 0 || d.Created.IsZero() {
		t.Errorf("added: %+v", d)
	}
	got, ok := r.Device("door-1")
	want := auth.Device{Name: "door-1", State: auth.Active, Groups: d.Groups, Attrs: d.Attrs, Secret: auth.Secret{Password: string(hash), SCRAM: (*auth.SCRAMKeys)(keys())}}
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("Device = %+v, want %+v", got, want)
	}
	d = step(r.Suspend(ctx, "door-1", d.Rev))
	if got, _ := r.Device("door-1"); got.State != auth.Suspended || d.State != auth.Suspended {
		t.Errorf("suspended: %+v", got)
	}
	if again := step(r.Suspend(ctx, "door-1", 0)); again.Rev != d.Rev {
		t.Errorf("suspended twice: revision %d, want %d still", again.Rev, d.Rev)
	}
	d = step(r.Resume(ctx, "door-1", 0))
	d = step(r.AddCertificate(ctx, "door-1", d.Rev, certificate("b2")))
	_, err := r.AddCertificate(ctx, "door-1", 0, certificate("b2"))
	wantErr(t, "the same certificate", err, device.ErrExists)
	d = step(r.RevokeCertificate(ctx, "door-1", 0, "b2", "lost"))
	if c := d.Certificates[1]; c.Revoked.IsZero() || c.Reason != "lost" {
		t.Errorf("revoked: %+v", c)
	}
	if again := step(r.RevokeCertificate(ctx, "door-1", 0, "b2", "other")); again.Rev != d.Rev {
		t.Errorf("revoked twice: %+v", again)
	}
	_, err = r.RevokeCertificate(ctx, "door-1", 0, "c3", "")
	wantErr(t, "a certificate it hasn't", err, device.ErrNotFound)
	step(r.SetPassword(ctx, "door-1", 0, "", nil))
	if got, _ := r.Device("door-1"); got.Password != "" || got.SCRAM != nil {
		t.Errorf("password removed: %+v", got)
	}
	step(r.SetPassword(ctx, "door-1", 0, hash, (*auth.SCRAMKeys)(keys())))
	d = step(r.Retire(ctx, "door-1", 0, "scrapped"))
	if d.State != auth.Retired || d.Password != "" || d.SCRAM != nil || d.Certificates[0].Reason != "scrapped" || d.Certificates[1].Reason != "lost" {
		t.Errorf("retired: %+v", d)
	}
	if again := step(r.Retire(ctx, "door-1", 0, "again")); again.Rev != d.Rev {
		t.Errorf("retired twice: %+v", again)
	}
	for what, try := range map[string]func() (device.Device, error){
		"resume":          func() (device.Device, error) { return r.Resume(ctx, "door-1", 0) },
		"suspend":         func() (device.Device, error) { return r.Suspend(ctx, "door-1", 0) },
		"update":          func() (device.Device, error) { return r.Update(ctx, d) },
		"add certificate": func() (device.Device, error) { return r.AddCertificate(ctx, "door-1", 0, certificate("d4")) },
		"set password":    func() (device.Device, error) { return r.SetPassword(ctx, "door-1", 0, hash, nil) },
		"add":             func() (device.Device, error) { return r.Add(ctx, device.Device{Name: "door-1"}, device.AddOptions{}) },
	} {
		_, err := try()
		wantErr(t, what+" what is retired", err, device.ErrRetired)
	}
	d = step(r.Add(ctx, device.Device{Name: "door-1", Certificates: []device.Certificate{certificate("e5")}}, device.AddOptions{Again: true}))
	if d.State != auth.Active || len(d.Certificates) != 3 || !d.Certificates[0].Revoked.IsZero() || d.Certificates[1].Revoked.IsZero() {
		t.Errorf("added again: %+v", d)
	}
	_, err = r.Add(ctx, device.Device{Name: "door-1"}, device.AddOptions{Again: true})
	wantErr(t, "again what is active", err, device.ErrExists)
}

func TestPendingDevice(t *testing.T) {
	r := open(t, mem.New().KV())
	if d := add(t, r, device.Device{Name: "d", State: auth.Pending}); d.State != auth.Pending {
		t.Errorf("state %s", d.State)
	}
	if d := must[device.Device](t)(r.Resume(t.Context(), "d", 0)); d.State != auth.Active {
		t.Errorf("state %s", d.State)
	}
}

// TestTwoOperators: who has looked at an old device changes nothing.
func TestTwoOperators(t *testing.T) {
	r := open(t, mem.New().KV())
	ctx := t.Context()
	seen := add(t, r, device.Device{Name: "d", Attrs: map[string]string{"site": "a"}})
	first, second := seen, seen
	first.Attrs = map[string]string{"site": "b"}
	second.Groups = []string{"g"}
	first = must[device.Device](t)(r.Update(ctx, first))
	for what, try := range map[string]func() (device.Device, error){
		"Update":            func() (device.Device, error) { return r.Update(ctx, second) },
		"Suspend":           func() (device.Device, error) { return r.Suspend(ctx, "d", seen.Rev) },
		"Retire":            func() (device.Device, error) { return r.Retire(ctx, "d", seen.Rev, "") },
		"SetPassword":       func() (device.Device, error) { return r.SetPassword(ctx, "d", seen.Rev, hash, nil) },
		"AddCertificate":    func() (device.Device, error) { return r.AddCertificate(ctx, "d", seen.Rev, certificate("a")) },
		"RevokeCertificate": func() (device.Device, error) { return r.RevokeCertificate(ctx, "d", seen.Rev, "a", "") },
	} {
		_, err := try()
		wantErr(t, what, err, device.ErrChanged)
	}
	if now := must[device.Device](t)(r.Show(ctx, "d")); !reflect.DeepEqual(now, first) {
		t.Errorf("Show = %+v, want %+v", now, first)
	}
	first.State = auth.Suspended
	if _, err := r.Update(ctx, first); err == nil || errors.Is(err, device.ErrChanged) {
		t.Errorf("Update of the state: %v", err)
	}
	first.Rev = 0
	if _, err := r.Update(ctx, first); err == nil {
		t.Error("Update without a revision: no error")
	}

	u := must[device.User](t)(r.AddUser(ctx, device.User{Name: "alice", Password: hash}))
	old := u
	u.Role = auth.RoleViewer
	must[device.User](t)(r.UpdateUser(ctx, u))
	old.Disabled = true
	_, err := r.UpdateUser(ctx, old)
	wantErr(t, "UpdateUser", err, device.ErrChanged)
	wantErr(t, "RemoveUser", r.RemoveUser(ctx, "alice", old.Rev), device.ErrChanged)
	g := must[device.Group](t)(r.AddGroup(ctx, device.Group{Name: "g"}))
	was := g
	g.About = "doors"
	must[device.Group](t)(r.UpdateGroup(ctx, g))
	_, err = r.UpdateGroup(ctx, was)
	wantErr(t, "UpdateGroup", err, device.ErrChanged)
	wantErr(t, "RemoveGroup", r.RemoveGroup(ctx, "g", was.Rev), device.ErrChanged)
}

func TestUsers(t *testing.T) {
	kv := mem.New().KV()
	r := open(t, kv)
	ctx := t.Context()
	u := must[device.User](t)(r.AddUser(ctx, device.User{Name: "alice@example.com", Role: auth.RoleAdmin, Groups: []string{"b", "a"}, Password: hash, SCRAM: keys()}))
	got, ok := r.User("alice@example.com")
	want := auth.User{Name: "alice@example.com", Role: auth.RoleAdmin, Groups: []string{"a", "b"}, Secret: auth.Secret{Password: string(hash), SCRAM: (*auth.SCRAMKeys)(keys())}}
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("User = %+v, want %+v", got, want)
	}
	_, err := r.AddUser(ctx, device.User{Name: "alice@example.com"})
	wantErr(t, "the same user", err, device.ErrExists)
	u.Disabled = true
	must[device.User](t)(r.UpdateUser(ctx, u))
	if got, _ := r.User(u.Name); !got.Disabled {
		t.Errorf("disabled: %+v", got)
	}
	if err := r.RemoveUser(ctx, u.Name, 0); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.User(u.Name); ok {
		t.Error("a removed user is there")
	}
	_, err = r.ShowUser(ctx, u.Name)
	wantErr(t, "ShowUser", err, device.ErrNotFound)
	wantErr(t, "RemoveUser", r.RemoveUser(ctx, u.Name, 0), device.ErrNotFound)
	_, err = r.UpdateUser(ctx, u)
	wantErr(t, "UpdateUser", err, device.ErrNotFound)
	must[device.User](t)(r.AddUser(ctx, device.User{Name: u.Name}))

	// Devices and users share no names.
	add(t, r, device.Device{Name: "d"})
	_, err = r.AddUser(ctx, device.User{Name: "d"})
	wantErr(t, "a user with a device's name", err, device.ErrExists)
	must[device.User](t)(r.AddUser(ctx, device.User{Name: "u"}))
	_, err = r.Add(ctx, device.Device{Name: "u"}, device.AddOptions{})
	wantErr(t, "a device with a user's name", err, device.ErrExists)
	if !reflect.DeepEqual(state(t, r), state(t, open(t, kv))) {
		t.Error("memory and KV differ")
	}
}

func TestGroups(t *testing.T) {
	r := open(t, mem.New().KV())
	ctx := t.Context()
	add(t, r, device.Device{Name: "d", Groups: []string{"g"}})
	must[device.User](t)(r.AddUser(ctx, device.User{Name: "u", Groups: []string{"h"}}))
	must[device.Group](t)(r.AddGroup(ctx, device.Group{Name: "i", About: "empty"}))
	groups, _, err := r.Groups(device.Page{})
	if err != nil || len(groups) != 3 || groups[2].About != "empty" {
		t.Errorf("Groups = %+v, %v", groups, err)
	}
	for _, name := range []string{"g", "h"} {
		wantErr(t, "RemoveGroup "+name, r.RemoveGroup(ctx, name, 0), device.ErrInUse)
	}
	if err := r.RemoveGroup(ctx, "i", groups[2].Rev); err != nil {
		t.Error(err)
	}
	wantErr(t, "RemoveGroup", r.RemoveGroup(ctx, "i", 0), device.ErrNotFound)
	_, err = r.AddGroup(ctx, device.Group{Name: "g"})
	wantErr(t, "AddGroup", err, device.ErrExists)
}

func TestTokens(t *testing.T) {
	r := open(t, mem.New().KV())
	ctx := t.Context()
	_, _, err := r.AddToken(ctx, device.Token{User: "alice"})
	wantErr(t, "a token for nobody", err, device.ErrNotFound)
	must[device.User](t)(r.AddUser(ctx, device.User{Name: "alice"}))
	add(t, r, device.Device{Name: "d"})
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	text, tok, err := r.AddToken(ctx, device.Token{User: "alice", About: "laptop", Expires: expires})
	if err != nil {
		t.Fatal(err)
	}
	got, ok := r.Token(tok.ID)
	if want := (auth.Token{ID: tok.ID, Hash: string(tok.Hash), User: "alice", Expires: expires}); !ok || got != want {
		t.Errorf("Token = %+v, want %+v", got, want)
	}
	if !strings.HasPrefix(string(text), "fl_"+tok.ID+"_") {
		t.Errorf("text %q of the token %s", string(text), tok.ID)
	}
	if _, _, err := r.AddToken(ctx, device.Token{User: "alice", Device: "d"}); err == nil {
		t.Error("a token for two: no error")
	}
	if _, _, err := r.AddToken(ctx, device.Token{Device: "d"}); err != nil {
		t.Error(err)
	}
	if list, _, err := r.Tokens(device.Page{}); err != nil || len(list) != 2 {
		t.Errorf("Tokens = %v, %v", list, err)
	}
	if err := r.RemoveToken(ctx, tok.ID); err != nil {
		t.Error(err)
	}
	if _, ok := r.Token(tok.ID); ok {
		t.Error("a removed token is there")
	}
	for _, id := range []string{tok.ID, "", "../x"} {
		wantErr(t, "RemoveToken", r.RemoveToken(ctx, id), device.ErrNotFound)
	}
}

// state is all that a registry lists.
func state(t testing.TB, r *device.Registry) map[string]any {
	t.Helper()
	all := make(map[string]any)
	page := device.Page{Limit: device.LimitMax}
	devices, next, err := r.Devices(device.Filter{}, page)
	if err != nil || next != "" {
		t.Fatal(next, err)
	}
	for _, d := range devices {
		all["device "+d.Name] = d
	}
	users, _, _ := r.Users(page)
	for _, u := range users {
		all["user "+u.Name] = u
	}
	groups, _, _ := r.Groups(page)
	for _, g := range groups {
		all["group "+g.Name] = g
	}
	tokens, _, _ := r.Tokens(page)
	for _, x := range tokens {
		all["token "+x.ID] = x
	}
	return all
}

func TestNamesAndLimits(t *testing.T) {
	r := open(t, mem.New().KV())
	ctx := t.Context()
	long := strings.Repeat("x", 128)
	many := func(n int) (groups []string, attrs map[string]string) {
		attrs = make(map[string]string)
		for i := range n {
			groups = append(groups, fmt.Sprintf("g%03d", i))
			attrs[fmt.Sprintf("a%03d", i)] = "v"
		}
		return groups, attrs
	}
	groups, attrs := many(device.GroupsMax)
	add(t, r, device.Device{Name: long, Groups: groups, Attrs: attrs})
	add(t, r, device.Device{Name: "9.a_B-", Attrs: map[string]string{"site_2": strings.Repeat("v", device.AttrBytes)}})
	tooManyGroups, tooManyAttrs := many(device.GroupsMax + 1)
	var tooManyCerts []device.Certificate
	for i := range device.CertificatesMax + 1 {
		tooManyCerts = append(tooManyCerts, certificate(ca.Serial(fmt.Sprintf("%x", i+1))))
	}
	bad := []device.Device{
		{Name: ""}, {Name: long + "x"}, {Name: ".x"}, {Name: ".."}, {Name: "-x"}, {Name: "a/b"}, {Name: "a+"}, {Name: "a#"},
		{Name: "a:b"}, {Name: "$a"}, {Name: "a b"}, {Name: "a\x00"}, {Name: "\u00e4"}, {Name: "a@b"},
		{Name: "d", Groups: []string{"a/b"}}, {Name: "d", Groups: []string{""}}, {Name: "d", Groups: tooManyGroups},
		{Name: "d", Attrs: tooManyAttrs}, {Name: "d", Attrs: map[string]string{"Site": "x"}}, {Name: "d", Attrs: map[string]string{"": "x"}},
		{Name: "d", Attrs: map[string]string{"1a": "x"}}, {Name: "d", Attrs: map[string]string{"a": "x\n"}}, {Name: "d", Attrs: map[string]string{"a": "\xff"}},
		{Name: "d", Attrs: map[string]string{"a": strings.Repeat("v", device.AttrBytes+1)}},
		{Name: "d", Attrs: map[string]string{strings.Repeat("a", device.AttrKeyBytes+1): "x"}},
		{Name: "d", Certificates: tooManyCerts}, {Name: "d", Certificates: []device.Certificate{certificate("0A")}},
		{Name: "d", Certificates: []device.Certificate{certificate("a"), certificate("a")}}, {Name: "d", Certificates: []device.Certificate{certificate("xyz")}},
		{Name: "d", Password: "hunter2"}, {Name: "d", Password: audit.Secret("$" + strings.Repeat("x", device.SecretBytes))}, {Name: "d", SCRAM: &device.SCRAM{}},
	}
	for _, d := range bad {
		if _, err := r.Add(ctx, d, device.AddOptions{}); err == nil {
			t.Errorf("Add of %+v: no error", d)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the password: %v", err)
		}
		if _, ok := r.Device(d.Name); ok {
			t.Errorf("%+v is there", d)
		}
	}
	for _, name := range []string{"", "..", "a/b", "nobody"} {
		for what, err := range map[string]error{
			"Show":    second(r.Show(ctx, name)),
			"Suspend": second(r.Suspend(ctx, name, 0)),
			"User":    second(r.ShowUser(ctx, name)),
			"Group":   second(r.ShowGroup(ctx, name)),
			"Remove":  r.RemoveUser(ctx, name, 0),
			"Groups":  r.RemoveGroup(ctx, name, 0),
		} {
			if err == nil {
				t.Errorf("%s %q: no error", what, name)
			}
		}
	}
	for _, u := range []device.User{{Name: "@a"}, {Name: "a/b"}, {Name: "a", Role: "root"}, {Name: "a", Password: "hunter2"}, {Name: "a", Groups: []string{"+"}}} {
		if _, err := r.AddUser(ctx, u); err == nil {
			t.Errorf("AddUser %+v: no error", u)
		}
	}
	for _, g := range []device.Group{{Name: "#"}, {Name: "g", About: strings.Repeat("x", device.TextBytes+1)}} {
		if _, err := r.AddGroup(ctx, g); err == nil {
			t.Errorf("AddGroup %+v: no error", g)
		}
	}
	few := must[*device.Registry](t)(device.Open(ctx, mem.New().KV(), device.Options{DeviceCountMax: 2}))
	defer few.Close()
	add(t, few, device.Device{Name: "a"})
	add(t, few, device.Device{Name: "b"})
	_, err := few.Add(ctx, device.Device{Name: "c"}, device.AddOptions{})
	wantErr(t, "one too many", err, device.ErrLimit)
}

func second[T any](_ T, err error) error { return err }

func TestExpiredCertificatesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, mem.New().KV())
		add(t, r, device.Device{Name: "d"})
		for i := range 3 * device.CertificatesMax {
			d, err := r.AddCertificate(t.Context(), "d", 0, certificate(ca.Serial(fmt.Sprintf("%x", i+1))))
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Certificates) > 4 {
				t.Fatalf("%d certificates, of which each is valid for a day", len(d.Certificates))
			}
			time.Sleep(8 * time.Hour)
		}
	})
}

// TestSecretsAreNotShown: what goes into an audit log or an answer has none.
func TestSecretsAreNotShown(t *testing.T) {
	d := device.Device{Name: "d", Password: hash, SCRAM: keys()}
	u := device.User{Name: "u", Password: hash, SCRAM: keys()}
	x := device.Token{ID: "x", Hash: hash}
	text, err := json.Marshal([]any{d, u, x})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "argon2id") || strings.Contains(string(text), "stored") || strings.Count(string(text), "***") != 5 {
		t.Errorf("%s", text)
	}
}

// TestListIsRight holds lists against a naive look at all devices.
func TestListIsRight(t *testing.T) {
	r := open(t, mem.New().KV())
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []device.Device
	for i := range 300 {
		d := device.Device{Name: fmt.Sprintf("%c%d", "abz"[rnd.IntN(3)], i), Attrs: map[string]string{"n": fmt.Sprint(rnd.IntN(3)), "m": fmt.Sprint(rnd.IntN(2))}}
		if rnd.IntN(2) == 0 {
			d.Groups = []string{"g"}
		}
		d = add(t, r, d)
		if rnd.IntN(3) == 0 {
			d = must[device.Device](t)(r.Suspend(t.Context(), d.Name, 0))
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b device.Device) int { return strings.Compare(a.Name, b.Name) })
	for range 300 {
		f := device.Filter{Prefix: []string{"", "a", "b", "b1", "c", "\xff", "\x00"}[rnd.IntN(7)], Group: []string{"", "g", "h"}[rnd.IntN(3)]}
		f.State = []auth.State{"", auth.Active, auth.Suspended}[rnd.IntN(3)]
		if rnd.IntN(2) == 0 {
			f.Attrs = map[string]string{"n": "1"}
		}
		after := []string{"", "a2", "b", "zz", "b1"}[rnd.IntN(5)]
		var want []string
		for _, d := range all {
			in := func(have, ask string) bool { return ask == "" || have == ask }
			if strings.HasPrefix(d.Name, f.Prefix) && d.Name > after && in(strings.Join(d.Groups, ","), f.Group) && in(string(d.State), string(f.State)) && (f.Attrs == nil || d.Attrs["n"] == "1") {
				want = append(want, d.Name)
			}
		}
		var got []string
		p := device.Page{After: after, Limit: 1 + rnd.IntN(50)}
		for {
			list, next, err := r.Devices(f, p)
			if err != nil || len(list) > p.Limit {
				t.Fatal(len(list), err)
			}
			for _, d := range list {
				got = append(got, d.Name)
			}
			if p.After = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("Devices(%+v) behind %q = %q, want %q", f, after, got, want)
		}
	}
	for _, limit := range []int{-1, device.LimitMax + 1} {
		if _, _, err := r.Devices(device.Filter{}, device.Page{Limit: limit}); err == nil {
			t.Errorf("a limit of %d: no error", limit)
		}
	}
}

// TestListOfMany goes beyond what a list looks at in one go.
func TestListOfMany(t *testing.T) {
	e := mem.New()
	fillKV(t, e.KV(), 2500)
	r := open(t, e.KV())
	list, next, err := r.Devices(device.Filter{Prefix: "device-00249"}, device.Page{})
	if err != nil || next != "" || len(list) != 10 {
		t.Errorf("%d devices, next %q, %v", len(list), next, err)
	}
}

func TestLookupsAllocateNothing(t *testing.T) {
	r := open(t, mem.New().KV())
	add(t, r, device.Device{Name: "d", Groups: []string{"g"}, Attrs: map[string]string{"a": "b"}, Password: hash, SCRAM: keys()})
	must[device.User](t)(r.AddUser(t.Context(), device.User{Name: "u", SCRAM: keys()}))
	_, tok, err := r.AddToken(t.Context(), device.Token{User: "u"})
	if err != nil {
		t.Fatal(err)
	}
	n := testing.AllocsPerRun(100, func() {
		_, a := r.Device("d")
		_, b := r.User("u")
		_, c := r.Token(tok.ID)
		_, d := r.Device("nobody")
		if !a || !b || !c || d {
			t.Error("wrong answer")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestWhatIsReturnedIsACopy: callers may replace what they have got.
func TestWhatIsReturnedIsACopy(t *testing.T) {
	r := open(t, mem.New().KV())
	mine := device.Device{Name: "d", Groups: []string{"g"}, Attrs: map[string]string{"a": "b"}, SCRAM: keys(), Certificates: []device.Certificate{certificate("a")}}
	want := add(t, r, mine)
	want.Groups, want.Attrs = slices.Clone(want.Groups), maps.Clone(want.Attrs)
	want.Certificates = slices.Clone(want.Certificates)
	mine.Groups[0], mine.Attrs["a"], mine.SCRAM.Iterations, mine.Certificates[0].Serial = "x", "x", 1, "b"
	want.SCRAM = keys()
	got, _, err := r.Devices(device.Filter{}, device.Page{})
	if err != nil || !reflect.DeepEqual(got[0], want) {
		t.Errorf("%+v, want %+v", got[0], want)
	}
}

// feed collects what Changes yields.
type feed struct {
	mu  sync.Mutex
	got []device.Change
}

func (f *feed) follow(changes iter.Seq[device.Change]) {
	for c := range changes {
		f.mu.Lock()
		f.got = append(f.got, c)
		f.mu.Unlock()
	}
}

func (f *feed) take() []device.Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	got := f.got
	f.got = nil
	return got
}

// TestChanges: two nodes see each other's changes, each once, and no others.
func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := mem.New().KV()
		a, b := open(t, kv), open(t, kv)
		ctx, cancel := context.WithCancel(t.Context())
		var ofA, ofB feed
		var wg sync.WaitGroup
		changesA, changesB := a.Changes(ctx), b.Changes(ctx) // from here on
		want := func(what string, list ...device.Change) {
			t.Helper()
			synctest.Wait()
			for name, f := range map[string]*feed{"the node that did it": &ofA, "the other node": &ofB} {
				if got := f.take(); !slices.Equal(got, list) {
					t.Errorf("%s: %s heard of %v, want %v", what, name, got, list)
				}
			}
			if !reflect.DeepEqual(state(t, a), state(t, b)) {
				t.Errorf("%s: the nodes differ", what)
			}
		}
		dev := func(name string) device.Change { return device.Change{Kind: device.KindDevice, Name: name} }
		add(t, a, device.Device{Name: "d", Groups: []string{"g"}})
		wg.Go(func() { ofA.follow(changesA) })
		wg.Go(func() { ofB.follow(changesB) })
		want("add", device.Change{Kind: device.KindGroup, Name: "g"}, dev("d"))
		d := must[device.Device](t)(a.Suspend(ctx, "d", 0))
		want("suspend", dev("d"))
		if got, _ := b.Device("d"); got.State != auth.Suspended {
			t.Errorf("the other node says %s", got.State)
		}
		d.Groups = nil
		must[device.Device](t)(a.Update(ctx, d))
		want("shrink groups", dev("d"))
		must[device.User](t)(a.AddUser(ctx, device.User{Name: "u"}))
		want("add user", device.Change{Kind: device.KindUser, Name: "u"})
		if err := a.RemoveUser(ctx, "u", 0); err != nil {
			t.Fatal(err)
		}
		want("remove user", device.Change{Kind: device.KindUser, Name: "u"})
		time.Sleep(device.GoneTTL + time.Minute)
		want("the key of the user is deleted")
		must[device.User](t)(a.AddUser(ctx, device.User{Name: "u"}))
		want("the user again", device.Change{Kind: device.KindUser, Name: "u"})
		if err := kv.Delete(ctx, "registry/user/u", store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		want("a key deleted by somebody", device.Change{Kind: device.KindUser, Name: "u"})
		must[store.Rev](t)(kv.Put(ctx, "registry/device/d", []byte("{"), store.PutOptions{}))
		want("a damaged value", dev("d"))
		if _, ok := b.Device("d"); ok || b.Stats().Unreadable != 1 {
			t.Errorf("damaged: the device is there, or not counted: %+v", b.Stats())
		}
		_, err := a.Add(ctx, device.Device{Name: "d"}, device.AddOptions{Again: true})
		wantErr(t, "add over a damaged value", err, store.ErrDamaged)
		cancel()
		wg.Wait()
	})
}

func TestChangesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, mem.New().KV())
		ended := make(chan string, 3)
		ctx, cancel := context.WithCancel(t.Context())
		run := func(name string, changes iter.Seq[device.Change], take bool) {
			go func() {
				for range changes {
					if take {
						break
					}
				}
				ended <- name
			}()
		}
		run("cancelled", r.Changes(ctx), false)
		run("left", r.Changes(t.Context()), true)
		run("closed", r.Changes(t.Context()), false)
		r.Changes(ctx) // not used: goes with its context
		synctest.Wait()
		cancel()
		if got := <-ended; got != "cancelled" {
			t.Errorf("%s ended", got)
		}
		add(t, r, device.Device{Name: "d"})
		if got := <-ended; got != "left" {
			t.Errorf("%s ended", got)
		}
		r.Close()
		if got := <-ended; got != "closed" {
			t.Errorf("%s ended", got)
		}
		for range r.Changes(t.Context()) {
			t.Error("a change after Close")
		}
	})
}

// TestSlowListener: equal changes are one, and too many are "everything", once.
func TestSlowListener(t *testing.T) {
	r := open(t, mem.New().KV())
	changes := r.Changes(t.Context())
	next, stop := iter.Pull(changes)
	defer stop()
	for range 3 {
		r.Publish(device.Change{Kind: device.KindDevice, Name: "d"})
	}
	r.Publish(device.Change{Kind: device.KindUser, Name: "d"})
	for _, want := range []device.Kind{device.KindDevice, device.KindUser} {
		if c, _ := next(); c.Kind != want || c.Name != "d" {
			t.Errorf("%v, want %v d", c, want)
		}
	}
	for i := range device.ChangesMax + 10 {
		r.Publish(device.Change{Kind: device.KindDevice, Name: fmt.Sprint(i)})
	}
	if c, _ := next(); c != (device.Change{Kind: device.KindAll}) {
		t.Errorf("far behind: %v", c)
	}
	r.Publish(device.Change{Kind: device.KindDevice, Name: "later"})
	if c, _ := next(); c.Name != "later" {
		t.Errorf("afterwards: %v", c)
	}
}

func TestConcurrentUse(t *testing.T) {
	kv := mem.New().KV()
	a, b := open(t, kv), open(t, kv)
	var wg sync.WaitGroup
	for i := range 8 {
		r := []*device.Registry{a, b}[i%2]
		wg.Go(func() {
			for n := range 40 {
				name := fmt.Sprintf("d%d", n%5)
				_, err := r.Add(t.Context(), device.Device{Name: name, Groups: []string{"g"}}, device.AddOptions{})
				if err != nil && !errors.Is(err, device.ErrExists) {
					t.Error(err)
				}
				_, err = r.AddCertificate(t.Context(), name, 0, certificate(ca.Serial(fmt.Sprintf("%x", 1+i*1000+n))))
				if err != nil && !errors.Is(err, device.ErrChanged) && !strings.Contains(err.Error(), "certificates, expected at most") {
					t.Error(err)
				}
				r.Device(name)
				r.User(name)
				r.Stats()
				if _, _, err := r.Devices(device.Filter{Group: "g"}, device.Page{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c := open(t, kv)
	if !reflect.DeepEqual(state(t, a)["group g"], state(t, c)["group g"]) || a.Stats().Devices != 5 {
		t.Errorf("a has %+v, a new one %+v", state(t, a), state(t, c))
	}
}
