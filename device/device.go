// Package device is the registry: the devices, users, groups and tokens that the
// broker knows. Begin with [Open].
//
// The registry is kept in the KV, one key for each of them, so that each change is
// one write that happens as a whole or not at all:
//
//	registry/device/NAME
//	registry/user/NAME
//	registry/group/NAME
//	registry/token/ID
//
// A value is JSON with a version; see record.go. Each change depends on the revision
// of what it changes: who has looked at an old one gets [ErrChanged], and so two
// operators can't overwrite each other unknowingly.
//
// Every node holds all of it in memory, fed by a Watch, and answers from there. A
// [Registry] is an auth.Directory.
//
// # The life of a device
//
// A device is active when it is added. It may be suspended and resumed. Retiring it is
// final: its certificates are revoked, its password is gone, and its name is kept so
// that nobody else can have it. Whoever wants the name for another device says so,
// see [AddOptions]; the revoked certificates stay revoked.
//
// Retire the device here first, then revoke its certificates at the CA: from the first
// step on it is kept out, and both may be done again after a crash.
package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/ca"
	"fairlead/store"
)

// Device is a device of the registry. One that the registry has returned may be
// changed without effect on others, but for what its fields refer to: replace a list,
// a map or keys as a whole.
type Device struct {
	Name         string            `json:"name"`
	State        auth.State        `json:"state"`
	Groups       []string          `json:"groups,omitempty"` // in order, each once
	Attrs        map[string]string `json:"attrs,omitempty"`
	Certificates []Certificate     `json:"certificates,omitempty"`
	Password     audit.Secret      `json:"password,omitempty"` // of auth.HashPassword or auth.HashSecret; empty: none
	SCRAM        *SCRAM            `json:"scram,omitempty"`    // nil: none
	Created      time.Time         `json:"created"`
	Updated      time.Time         `json:"updated"`
	Rev          store.Rev         `json:"rev"` // grows with each change
}

// Certificate is one that the device was given.
type Certificate struct {
	Serial      ca.Serial  `json:"serial"`
	NotAfter    time.Time  `json:"not_after"`
	Fingerprint audit.Hash `json:"fingerprint"`      // SHA-256 of the certificate in DER
	Revoked     time.Time  `json:"revoked,omitzero"` // zero: it isn't
	Reason      string     `json:"reason,omitempty"` // of the revocation
}

// SCRAM are keys that JSON doesn't show. They convert to auth.SCRAMKeys and back.
type SCRAM auth.SCRAMKeys

// MarshalJSON writes "***".
func (SCRAM) MarshalJSON() ([]byte, error) { return json.Marshal(audit.Secret("keys")) }

// User is a person or a tool with a User Name.
type User struct {
	Name     string       `json:"name"`
	Role     string       `json:"role,omitempty"` // auth.RoleViewer, RoleOperator or RoleAdmin; empty: no part in administration
	Groups   []string     `json:"groups,omitempty"`
	Disabled bool         `json:"disabled,omitempty"`
	Password audit.Secret `json:"password,omitempty"` // of auth.HashPassword
	SCRAM    *SCRAM       `json:"scram,omitempty"`
	Created  time.Time    `json:"created"`
	Updated  time.Time    `json:"updated"`
	Rev      store.Rev    `json:"rev"`
}

// Group is a name that policies grant something to. Being in a group makes it: the
// registry writes it when a device or user comes with a new one.
type Group struct {
	Name    string    `json:"name"`
	About   string    `json:"about,omitempty"` // what it is for, in the operator's words
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	Rev     store.Rev `json:"rev"`
}

// Token is a random secret that stands for a user or a device. The secret itself is
// shown once, by AddToken.
type Token struct {
	ID      string       `json:"id"`
	Hash    audit.Secret `json:"hash"`
	Device  string       `json:"device,omitempty"` // whom it stands for: a device,
	User    string       `json:"user,omitempty"`   // or a user
	About   string       `json:"about,omitempty"`
	Expires time.Time    `json:"expires,omitzero"` // zero: never
	Created time.Time    `json:"created"`
	Rev     store.Rev    `json:"rev"`
}

// Limits. What is beyond them is refused with an error that names the limit.
const (
	GroupsMax       = 32      // of one device or user
	AttrsMax        = 32      // of one device
	AttrKeyBytes    = 64      // of the key of an attribute
	AttrBytes       = 256     // of the value of an attribute
	CertificatesMax = 16      // of one device, those not counted that have ended by time
	TextBytes       = 1024    // of About and Reason
	SecretBytes     = 512     // of a hash, and of each key
	GroupCountMax   = 10_000  // groups
	UserCountMax    = 100_000 // users
	TokenCountMax   = 100_000 // tokens
	// DeviceCountMax is how many devices there may be, retired ones included, unless
	// Options say otherwise.
	DeviceCountMax = 1_000_000
)

// Errors that callers act on.
var (
	ErrNotFound = errors.New("not in the registry")
	ErrExists   = errors.New("already in the registry")
	// ErrChanged says that somebody has changed it since it was read: read it again.
	ErrChanged = errors.New("it has changed meanwhile")
	// ErrRetired says that the device is retired, which is final.
	ErrRetired = errors.New("the device is retired")
	// ErrInUse says that the group has members.
	ErrInUse = errors.New("the group has members")
	// ErrLimit says that there are too many.
	ErrLimit = errors.New("the limit is reached")
)

// attrKey is what the key of an attribute may be: policies refer to it as
// {attr.KEY}.
var attrKey = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// Check names what is wrong with a device.
func (d *Device) Check() error {
	if err := ca.ValidName(d.Name); err != nil {
		return err
	}
	errs := []error{checkState(d.State), checkGroups(d.Groups), checkAttrs(d.Attrs), d.checkCertificates(), checkSecrets(d.Password, d.SCRAM)}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("device %s: %w", d.Name, err)
	}
	return nil
}

func checkState(s auth.State) error {
	switch s {
	case auth.Pending, auth.Active, auth.Suspended, auth.Retired:
		return nil
	}
	return fmt.Errorf("state %q: expected pending, active, suspended or retired", s)
}

func checkGroups(groups []string) error {
	if len(groups) > GroupsMax {
		return fmt.Errorf("%d groups, expected at most %d", len(groups), GroupsMax)
	}
	for i, g := range groups {
		if err := checkGroup(g); err != nil {
			return err
		}
		if i > 0 && groups[i-1] >= g {
			return fmt.Errorf("groups %q: expected them in order, each once", groups)
		}
	}
	return nil
}

// checkGroup holds the name of a group to the rule for those of devices.
func checkGroup(name string) error {
	if err := ca.ValidName(name); err != nil {
		return fmt.Errorf("group: %s", strings.TrimPrefix(err.Error(), "device "))
	}
	return nil
}

func checkAttrs(attrs map[string]string) error {
	if len(attrs) > AttrsMax {
		return fmt.Errorf("%d attributes, expected at most %d", len(attrs), AttrsMax)
	}
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		if len(key) > AttrKeyBytes || !attrKey.MatchString(key) {
			return fmt.Errorf("attribute %.80q: expected a lower-case letter, then up to %d lower-case letters, digits and _", key, AttrKeyBytes-1)
		}
		if err := checkText(attrs[key], AttrBytes); err != nil {
			return fmt.Errorf("attribute %s: %w", key, err)
		}
	}
	return nil
}

// checkText refuses what a log or a terminal can't show.
func checkText(s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("%d bytes, expected at most %d", len(s), most)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("%q: expected text without control characters", s)
	}
	return nil
}

func (d *Device) checkCertificates() error {
	if len(d.Certificates) > CertificatesMax {
		return fmt.Errorf("%d certificates, expected at most %d: wait until one has ended", len(d.Certificates), CertificatesMax)
	}
	seen := make(map[ca.Serial]bool)
	for _, c := range d.Certificates {
		if s, err := ca.ParseSerial(string(c.Serial)); err != nil {
			return err
		} else if s != c.Serial {
			return fmt.Errorf("serial number %q: expected %q", c.Serial, s)
		}
		if seen[c.Serial] {
			return fmt.Errorf("serial number %s: there twice", c.Serial)
		}
		seen[c.Serial] = true
		if err := checkText(c.Reason, TextBytes); err != nil {
			return fmt.Errorf("certificate %s: reason: %w", c.Serial, err)
		}
	}
	return nil
}

func checkSecrets(password audit.Secret, k *SCRAM) error {
	if err := checkText(string(password), SecretBytes); err != nil {
		return errors.New("password: expected a hash of auth.HashPassword") // the text is no help
	}
	if password != "" && password[0] != '$' {
		return errors.New("password: expected a hash of auth.HashPassword, not the password")
	}
	if k == nil {
		return nil
	}
	for _, key := range [][]byte{k.Salt, k.StoredKey, k.ServerKey} {
		if len(key) == 0 || len(key) > SecretBytes {
			return fmt.Errorf("SCRAM keys: a key of %d bytes, expected 1 to %d", len(key), SecretBytes)
		}
	}
	if k.Iterations < 1 {
		return fmt.Errorf("SCRAM keys: %d iterations, expected at least 1", k.Iterations)
	}
	return nil
}

// Check names what is wrong with a user. Beside what the name of a device may have, a
// user's has @, since many are e-mail addresses.
func (u *User) Check() error {
	if err := checkUserName(u.Name); err != nil {
		return err
	}
	errs := []error{checkGroups(u.Groups), checkSecrets(u.Password, u.SCRAM)}
	switch u.Role {
	case "", auth.RoleViewer, auth.RoleOperator, auth.RoleAdmin:
	default:
		errs = append(errs, fmt.Errorf("role %q: expected viewer, operator, admin or none", u.Role))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("user %s: %w", u.Name, err)
	}
	return nil
}

func checkUserName(name string) error {
	// A first @ would be one too many for what is else a device's name.
	if err := ca.ValidName(strings.ReplaceAll(name, "@", ".")); err != nil {
		return fmt.Errorf("user name %.160q: expected 1 to %d letters, digits and . _ - @, the first a letter or digit", name, ca.NameMax)
	}
	return nil
}

// Check names what is wrong with a group.
func (g *Group) Check() error {
	if err := checkGroup(g.Name); err != nil {
		return err
	}
	if err := checkText(g.About, TextBytes); err != nil {
		return fmt.Errorf("group %s: about: %w", g.Name, err)
	}
	return nil
}

// Check names what is wrong with a token.
func (t *Token) Check() error {
	if err := ca.ValidName(t.ID); err != nil {
		return fmt.Errorf("token id: %s", strings.TrimPrefix(err.Error(), "device name: "))
	}
	errs := []error{checkText(t.About, TextBytes), checkSecrets(t.Hash, nil)}
	if t.Hash == "" {
		errs = append(errs, errors.New("no hash"))
	}
	switch {
	case (t.Device == "") == (t.User == ""):
		errs = append(errs, errors.New("expected the name of a device or of a user"))
	case t.Device != "":
		errs = append(errs, ca.ValidName(t.Device))
	default:
		errs = append(errs, checkUserName(t.User))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("token %s: %w", t.ID, err)
	}
	return nil
}

// sorted returns the groups in order, each once, in memory of their own.
func sorted(groups []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(groups)))
}
