package cli

import (
	"fmt"
	"strings"

	"fairlead/config"
)

// passphraseVariable holds a passphrase for backups.
const passphraseVariable = "FAIRLEAD_PASSPHRASE"

// Data is a flag that names a broker's data directory.
type Data struct{ given string }

// Flags adds --data.
func (d *Data) Flags(f *Flags) {
	f.String(&d.given, "data", "DIR", "the broker's data directory; default as for \"fairlead serve\":\nFAIRLEAD_DATA, FAIRLEAD_CONFIG, or ./fairlead-data")
}

// Dir is the directory that is meant.
func (d *Data) Dir(env *Env) (string, error) {
	if d.given != "" {
		return d.given, nil
	}
	var vars []string
	for _, v := range env.Environ() {
		if name, _, _ := strings.Cut(v, "="); name != passphraseVariable && name != tokenVariable { // no settings of the broker
			vars = append(vars, v)
		}
	}
	c, err := config.Load(config.LoadOptions{File: env.Getenv("FAIRLEAD_CONFIG"), Env: vars})
	if err != nil {
		return "", &UsageError{fmt.Sprintf("which data directory? give --data DIR: %v", err)}
	}
	return c.Data, nil
}

// Passphrase is a flag that names the file with a passphrase.
type Passphrase struct{ file string }

// Flags adds --passphrase-file.
func (p *Passphrase) Flags(f *Flags, what string) {
	f.String(&p.file, "passphrase-file", "FILE", what+" with the passphrase in FILE's first line;\nor in FAIRLEAD_PASSPHRASE")
}

// Get reads the passphrase; empty: none was given.
func (p *Passphrase) Get(env *Env) (string, error) {
	if p.file == "" {
		return env.Getenv(passphraseVariable), nil
	}
	return firstLine("--passphrase-file", p.file)
}
