package auth

import (
	"crypto/sha256"
	"time"

	"fairlead/policy"
)

// Directory is the registry of devices and users as authentication needs it. It
// is asked for each CONNECT, by many goroutines at once, so it answers from
// memory. What it returns must not be changed afterwards by either side.
type Directory interface {
	// Device finds a device by its name, whatever its state.
	Device(name string) (Device, bool)
	// User finds a user by its name, disabled ones included.
	User(name string) (User, bool)
	// Token finds a token by its id, the part between "fl_" and the second "_".
	Token(id string) (Token, bool)
}

// Secret is what the registry keeps of a password: nothing that could be used to
// log in elsewhere. Empty fields mean that this way in is closed.
type Secret struct {
	Password string // of HashPassword or HashSecret
	SCRAM    *SCRAMKeys
}

// Device is a device of the registry.
type Device struct {
	Name   string
	State  State
	Groups []string
	Attrs  map[string]string
	Secret // for devices that have no certificate
}

// State is where a device is in its life. Only an active one may connect.
type State string

// The states of a device.
const (
	Pending   State = "pending"   // known, and not yet allowed in
	Active    State = "active"    // allowed in
	Suspended State = "suspended" // kept out for now
	Retired   State = "retired"   // kept out for good
)

// User is a person or a tool.
type User struct {
	Name     string
	Groups   []string
	Role     string // viewer, operator or admin; empty: no part in administration
	Disabled bool
	Secret
}

// The roles of operators. They are groups too: a user with a role is in the group
// of that name, and nobody gets into one by the word of a token or a hook unless
// its [Mapping] names the group.
const (
	RoleViewer   = policy.RoleViewer
	RoleOperator = policy.RoleOperator
	RoleAdmin    = policy.RoleAdmin
)

// Token is a random secret that stands for a user or a device.
type Token struct {
	ID      string
	Hash    string    // of NewToken
	Device  string    // whom it stands for: a device,
	User    string    // or a user
	Expires time.Time // zero: never
}

// fingerprint identifies a stored secret, to see whether it has been changed.
func (s Secret) fingerprint() [sha256.Size]byte {
	h := sha256.New()
	writeParts(h, []byte(s.Password))
	if k := s.SCRAM; k != nil {
		writeParts(h, k.Salt, k.StoredKey, k.ServerKey)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
