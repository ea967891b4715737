package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/store"
)

// version is that of the values in the KV. A value of a later one is not read: it could
// mean something else.
const version = 1

// The keys of the KV.
const (
	keyPrefix    = "registry/"
	devicePrefix = keyPrefix + "device/"
	userPrefix   = keyPrefix + "user/"
	groupPrefix  = keyPrefix + "group/"
	tokenPrefix  = keyPrefix + "token/"
)

// record is any value in the KV: one of the fields that point, or Gone. A key is not
// deleted but says for a day that it is gone, so that no watcher can miss that.
type record struct {
	Version int           `json:"v"`
	Gone    bool          `json:"gone,omitempty"`
	Device  *deviceRecord `json:"device,omitempty"`
	User    *userRecord   `json:"user,omitempty"`
	Group   *groupRecord  `json:"group,omitempty"`
	Token   *tokenRecord  `json:"token,omitempty"`
}

type deviceRecord struct {
	State        auth.State        `json:"state"`
	Groups       []string          `json:"groups,omitempty"`
	Attrs        map[string]string `json:"attrs,omitempty"`
	Certificates []Certificate     `json:"certificates,omitempty"`
	Password     string            `json:"password,omitempty"`
	SCRAM        *scramRecord      `json:"scram,omitempty"`
	Created      time.Time         `json:"created"`
	Updated      time.Time         `json:"updated"`
}

type userRecord struct {
	Role     string       `json:"role,omitempty"`
	Groups   []string     `json:"groups,omitempty"`
	Disabled bool         `json:"disabled,omitempty"`
	Password string       `json:"password,omitempty"`
	SCRAM    *scramRecord `json:"scram,omitempty"`
	Created  time.Time    `json:"created"`
	Updated  time.Time    `json:"updated"`
}

type groupRecord struct {
	About   string    `json:"about,omitempty"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

type tokenRecord struct {
	Hash    string    `json:"hash"`
	Device  string    `json:"device,omitempty"`
	User    string    `json:"user,omitempty"`
	About   string    `json:"about,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	Created time.Time `json:"created"`
}

type scramRecord struct {
	Salt       []byte `json:"salt"`
	Iterations int    `json:"iterations"`
	StoredKey  []byte `json:"stored_key"`
	ServerKey  []byte `json:"server_key"`
}

// An entity is what the registry keeps: *Device, *User, *Group or *Token.
type entity interface {
	Check() error
	place() (k Kind, name string)
	revision() store.Rev
	setRevision(store.Rev)
	record() record
}

func (d *Device) place() (Kind, string) { return KindDevice, d.Name }
func (u *User) place() (Kind, string)   { return KindUser, u.Name }
func (g *Group) place() (Kind, string)  { return KindGroup, g.Name }
func (t *Token) place() (Kind, string)  { return KindToken, t.ID }

func (d *Device) revision() store.Rev { return d.Rev }
func (u *User) revision() store.Rev   { return u.Rev }
func (g *Group) revision() store.Rev  { return g.Rev }
func (t *Token) revision() store.Rev  { return t.Rev }

func (d *Device) setRevision(r store.Rev) { d.Rev = r }
func (u *User) setRevision(r store.Rev)   { u.Rev = r }
func (g *Group) setRevision(r store.Rev)  { g.Rev = r }
func (t *Token) setRevision(r store.Rev)  { t.Rev = r }

func (d *Device) record() record {
	return record{Device: &deviceRecord{
		d.State, d.Groups, d.Attrs, d.Certificates, string(d.Password), (*scramRecord)(d.SCRAM), d.Created, d.Updated,
	}}
}

func (u *User) record() record {
	return record{User: &userRecord{
		u.Role, u.Groups, u.Disabled, string(u.Password), (*scramRecord)(u.SCRAM), u.Created, u.Updated,
	}}
}

func (g *Group) record() record { return record{Group: &groupRecord{g.About, g.Created, g.Updated}} }

func (t *Token) record() record {
	return record{Token: &tokenRecord{string(t.Hash), t.Device, t.User, t.About, t.Expires, t.Created}}
}

// key is where an entity is in the KV.
func key(k Kind, name string) string {
	switch k {
	case KindDevice:
		return devicePrefix + name
	case KindUser:
		return userPrefix + name
	case KindGroup:
		return groupPrefix + name
	}
	return tokenPrefix + name
}

// parseKey returns false for a key that is none of ours.
func parseKey(key string) (Kind, string, bool) {
	for k, prefix := range map[Kind]string{KindDevice: devicePrefix, KindUser: userPrefix, KindGroup: groupPrefix, KindToken: tokenPrefix} {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			return k, name, true
		}
	}
	return 0, "", false
}

func encode(e entity) ([]byte, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	r := e.record()
	r.Version = version
	b, err := json.Marshal(r)
	if err != nil {
		k, name := e.place()
		return nil, fmt.Errorf("%s %s: %w", k, name, err)
	}
	return b, nil
}

// gone is the value of a key that is to be forgotten.
func gone() []byte { return fmt.Appendf(nil, `{"v":%d,"gone":true}`, version) }

// decode reads a value; nil without an error means that the entity is gone.
func decode(key string, value []byte, rev store.Rev) (entity, error) {
	k, name, ok := parseKey(key)
	if !ok {
		return nil, fmt.Errorf("registry: key %q: expected one that begins with %s, %s, %s or %s", key, devicePrefix, userPrefix, groupPrefix, tokenPrefix)
	}
	r, err := parse(value)
	if err != nil {
		return nil, fmt.Errorf("registry: %s %q: %w", k, name, err)
	}
	if r.Gone {
		return nil, nil
	}
	e, err := r.entity(k, name)
	if err == nil {
		err = e.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("registry: %s %q: %w: %w", k, name, store.ErrDamaged, err)
	}
	e.setRevision(rev)
	return e, nil
}

// parse reads a value of our version, in which an unknown field is a damage.
func parse(value []byte) (record, error) {
	var r record
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	err := dec.Decode(&r)
	if err == nil {
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("more than one JSON value")
		}
	}
	if err == nil && r.Version == version {
		return r, nil
	}
	return record{}, refused(value, err)
}

// refused says why a value is none of ours: a later version may have any other fields.
func refused(value []byte, err error) error {
	var v struct {
		Version int `json:"v"`
	}
	switch other := json.Unmarshal(value, &v); {
	case other == nil && v.Version > version:
		return fmt.Errorf("version %d, expected at most %d: %w", v.Version, version, store.ErrNewerFormat)
	case err == nil:
		return fmt.Errorf("%w: version %d, expected %d", store.ErrDamaged, v.Version, version)
	}
	return fmt.Errorf("%w: %w", store.ErrDamaged, err)
}

// entity makes of a record what its key says that it is.
func (r record) entity(k Kind, name string) (entity, error) {
	switch {
	case k == KindDevice && r.Device != nil:
		d := r.Device
		return &Device{
			Name: name, State: d.State, Groups: d.Groups, Attrs: d.Attrs, Certificates: d.Certificates,
			Password: audit.Secret(d.Password), SCRAM: (*SCRAM)(d.SCRAM), Created: d.Created, Updated: d.Updated,
		}, nil
	case k == KindUser && r.User != nil:
		u := r.User
		return &User{
			Name: name, Role: u.Role, Groups: u.Groups, Disabled: u.Disabled,
			Password: audit.Secret(u.Password), SCRAM: (*SCRAM)(u.SCRAM), Created: u.Created, Updated: u.Updated,
		}, nil
	case k == KindGroup && r.Group != nil:
		return &Group{Name: name, About: r.Group.About, Created: r.Group.Created, Updated: r.Group.Updated}, nil
	case k == KindToken && r.Token != nil:
		t := r.Token
		return &Token{
			ID: name, Hash: audit.Secret(t.Hash), Device: t.Device, User: t.User,
			About: t.About, Expires: t.Expires, Created: t.Created,
		}, nil
	}
	return nil, fmt.Errorf("the value is none of a %s", k)
}

// A pool lets equal strings of many entities share their memory: 100,000 devices have
// few groups and few keys of attributes. Beyond poolMax strings have their own.
type pool map[string]string

const poolMax = 100_000

func (p pool) one(s string) string {
	if t, ok := p[s]; ok {
		return t
	}
	if len(p) < poolMax {
		p[s] = s
	}
	return s
}

func (p pool) device(d *Device) {
	d.State = auth.State(p.one(string(d.State)))
	p.groups(d.Groups)
	if len(d.Attrs) == 0 {
		return
	}
	attrs := make(map[string]string, len(d.Attrs))
	for k, v := range d.Attrs {
		attrs[p.one(k)] = v
	}
	d.Attrs = attrs
}

func (p pool) groups(groups []string) {
	for i, g := range groups {
		groups[i] = p.one(g)
	}
}
