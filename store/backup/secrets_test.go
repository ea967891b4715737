package backup_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/device"
	"fairlead/store"
	"fairlead/store/backup"
	"fairlead/store/mem"
)

func registry(t *testing.T, e store.Engine) *device.Registry {
	t.Helper()
	r, err := device.Open(t.Context(), e.KV(), device.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestWithoutSecrets backs a registry up in both ways. Without secrets no password and no
// token is in the file, and all else is.
func TestWithoutSecrets(t *testing.T) {
	e := mem.New()
	r := registry(t, e)
	secrets := fillRegistry(t, e, r)
	for _, test := range []struct {
		secrets backup.Secrets
		want    bool
	}{{backup.SecretsHashed, true}, {backup.SecretsNone, false}} {
		file := writeAll(t, backup.Source{Engine: e}, headWith(test.secrets))
		for what, secret := range secrets {
			if bytes.Contains(file, []byte(secret)) != test.want {
				t.Errorf("%s: %s is in the file: %v, want %v", test.secrets, what, !test.want, test.want)
			}
		}
		other := mem.New()
		if _, err := backup.Restore(t.Context(), bytes.NewReader(file), backup.Target{Engine: other}, nil); err != nil {
			t.Fatal(err)
		}
		wantRegistry(t, registry(t, other), test.want)
	}
}

// fillRegistry makes one of each kind, and returns what is secret of them as the KV has it.
func fillRegistry(t *testing.T, e store.Engine, r *device.Registry) map[string]string {
	t.Helper()
	hash := auth.HashPassword("correct horse")
	scram := &device.SCRAM{Salt: []byte("0123456789abcdef"), Iterations: 4096, StoredKey: bytes.Repeat([]byte{1}, 32), ServerKey: bytes.Repeat([]byte{2}, 32)}
	_, err := r.AddGroup(t.Context(), device.Group{Name: "pumps"})
	if err == nil {
		_, err = r.AddUser(t.Context(), device.User{Name: "anna", Role: auth.RoleAdmin, Groups: []string{"pumps"}, Password: audit.Secret(hash), SCRAM: scram})
	}
	if err == nil {
		_, err = r.Add(t.Context(), device.Device{Name: "pump-1", State: auth.Active, Groups: []string{"pumps"}, Attrs: map[string]string{"site": "north"}, Password: audit.Secret(hash), SCRAM: scram}, device.AddOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.AddToken(t.Context(), device.Token{User: "anna", About: "a token of anna's"}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.KV().Put(t.Context(), "node/decoy", []byte("the secret of made up salts"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"a password": string(hash), "a key of SCRAM": "AQEBAQEBAQEBAQEB", "a token": "a token of anna's", "the decoy": "the secret of made up salts",
	}
}

func wantRegistry(t *testing.T, r *device.Registry, secrets bool) {
	t.Helper()
	d, _ := r.Device("pump-1")
	if d.State != auth.Active || d.Attrs["site"] != "north" || !slices.Equal(d.Groups, []string{"pumps"}) {
		t.Errorf("the device: %+v", d)
	}
	u, _ := r.User("anna")
	if u.Role != auth.RoleAdmin || !slices.Equal(u.Groups, []string{"pumps"}) {
		t.Errorf("the user: %+v", u)
	}
	if (u.Password != "") != secrets || (u.SCRAM != nil) != secrets || (d.Password != "") != secrets || (d.SCRAM != nil) != secrets {
		t.Errorf("passwords are there: user %v, %v, device %v, %v, want %v", u.Password != "", u.SCRAM != nil, d.Password != "", d.SCRAM != nil, secrets)
	}
}

// TestSecretFieldsOfTheRegistry fails when the registry gets another secret: then
// withoutPassword has to leave that out as well.
func TestSecretFieldsOfTheRegistry(t *testing.T) {
	for _, kind := range []reflect.Type{reflect.TypeFor[device.Device](), reflect.TypeFor[device.User](), reflect.TypeFor[device.Group]()} {
		var found []string
		for i := range kind.NumField() {
			switch f := kind.Field(i); f.Type {
			case reflect.TypeFor[audit.Secret](), reflect.TypeFor[*device.SCRAM]():
				found = append(found, f.Name)
			}
		}
		want := []string{"Password", "SCRAM"}
		if kind == reflect.TypeFor[device.Group]() {
			want = nil
		}
		if !slices.Equal(found, want) {
			t.Errorf("%s has the secrets %q, want %q", kind, found, want)
		}
	}
}

// TestSecretsThatAreNotKnown demands that nothing is written of a registry in which the
// secrets can't be found.
func TestSecretsThatAreNotKnown(t *testing.T) {
	for value, want := range map[string]error{
		`{"v":2,"user":{"key":"x"}}`:      store.ErrNewerFormat,
		`{"user":{"password":"x"}}`:       store.ErrNewerFormat,
		`{"v":1,"user":{"password":"x"}`:  store.ErrDamaged,
		`{"v":1,"user":"the password"}`:   store.ErrDamaged,
		`[{"v":1,"user":{"password":1}}]`: store.ErrDamaged,
	} {
		e := mem.New()
		if _, err := e.KV().Put(t.Context(), "registry/user/anna", []byte(value), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := backup.Write(t.Context(), io.Discard, backup.Source{Engine: e}, headWith(backup.SecretsNone), nil)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), `"registry/user/anna"`) {
			t.Errorf("%s: %v, want %v", value, err, want)
		}
	}
	e := mem.New()
	gone := `{"v":1,"gone":true}`
	if _, err := e.KV().Put(t.Context(), "registry/device/pump-1", []byte(gone), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if file := writeAll(t, backup.Source{Engine: e}, headWith(backup.SecretsNone)); !bytes.Contains(file, []byte(gone)) {
		t.Error("a device that is gone is not in the file")
	}
}
