package backup

import (
	"encoding/json"
	"fmt"
	"strings"

	"fairlead/store"
)

// Secrets says which secrets a backup holds.
type Secrets string

// There are two kinds of secrets. What the registry keeps of passwords and tokens are
// hashes, and keys of SCRAM: made to be kept, and worth something only to who guesses
// the password. A private key is worth something as it is.
const (
	SecretsNone   Secrets = "none"   // neither
	SecretsHashed Secrets = "hashed" // what is kept of passwords and tokens
	SecretsAll    Secrets = "all"    // private keys as well
)

// ParseSecrets reads "none", "hashed" or "all".
func ParseSecrets(s string) (Secrets, error) {
	switch v := Secrets(s); v {
	case SecretsNone, SecretsHashed, SecretsAll:
		return v, nil
	}
	return "", fmt.Errorf("secrets %q: expected none, hashed or all", s)
}

// Where the KV has secrets: in the registry, as package device writes it, and in the
// number from which SCRAM makes up salts for users that are not there.
const (
	registryVersion = 1
	devicePrefix    = "registry/device/"
	userPrefix      = "registry/user/"
	tokenPrefix     = "registry/token/"
	decoyKey        = "node/decoy"
)

// withoutSecrets is a value without its secrets; false: nothing is left. A token is its
// hash. A device and a user go on without a password.
func withoutSecrets(key string, value []byte) (left []byte, ok bool, err error) {
	switch {
	case key == decoyKey, strings.HasPrefix(key, tokenPrefix):
		return nil, false, nil
	case strings.HasPrefix(key, devicePrefix):
		left, err = withoutPassword("device", value)
	case strings.HasPrefix(key, userPrefix):
		left, err = withoutPassword("user", value)
	default:
		return value, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("leave the secrets of %q out: %w", key, err)
	}
	return left, true, nil
}

// withoutPassword takes the password and the keys of SCRAM out of a value of the
// registry. It knows where they are only in the version it knows.
func withoutPassword(kind string, value []byte) ([]byte, error) {
	var record map[string]json.RawMessage
	if err := json.Unmarshal(value, &record); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	var version int
	if err := json.Unmarshal(record["v"], &version); err != nil || version != registryVersion {
		return nil, fmt.Errorf("version %.20s, expected %d: %w", record["v"], registryVersion, store.ErrNewerFormat)
	}
	if record[kind] == nil { // it is gone
		return value, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(record[kind], &fields); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	delete(fields, "password")
	delete(fields, "scram")
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	record[kind] = body
	return json.Marshal(record)
}
