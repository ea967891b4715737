package backup

import (
	"strings"

	"fairlead/cli"
	"fairlead/store/backup"
)

// choice is which secrets the command line asks for.
type choice struct{ with, without bool }

func (c *choice) flags(f *cli.Flags) {
	f.Bool(&c.with, "with-secrets", "include the keys of the CA though there is no passphrase:\nwhoever reads FILE can pass for any device")
	f.Bool(&c.without, "without-secrets", "leave out the keys of the CA, and all passwords and\ntokens, also with a passphrase")
}

// secrets is what is in a backup. What is encrypted may hold all; what is not holds no
// private key unless it is asked to.
func (c *choice) secrets(encrypted bool) (backup.Secrets, error) {
	switch {
	case c.with && c.without:
		return "", cli.Usagef("--with-secrets and --without-secrets: expected one of them")
	case c.without:
		return backup.SecretsNone, nil
	case c.with || encrypted:
		return backup.SecretsAll, nil
	}
	return backup.SecretsHashed, nil
}

// secretLines say which secrets are in a backup, and what that means.
func secretLines(s backup.Summary, encrypted bool) (lines []string) {
	in, out := strings.Join(s.SecretFiles, ", "), strings.Join(s.LeftOut, ", ")
	switch {
	case !s.CA:
		lines = append(lines, "certificate authority: there is none")
	case in != "" && encrypted:
		lines = append(lines, "keys of the CA: in it, encrypted ("+in+")")
	case in != "":
		lines = append(lines, "keys of the CA: in it, and not encrypted ("+in+"): whoever reads the file can pass for any device")
	case out == "":
		lines = append(lines, "keys of the CA: there are none in its directory")
	case s.Secrets == backup.SecretsNone:
		lines = append(lines, "keys of the CA: left out, as you say ("+out+")")
	default:
		lines = append(lines, "keys of the CA: left out ("+out+"); give a passphrase")
	}
	if out != "" {
		lines = append(lines, "  Keep them elsewhere: without them each device needs a new certificate after a restore.")
	}
	switch {
	case s.Secrets == backup.SecretsNone:
		lines = append(lines, "passwords and tokens: left out, as you say; after a restore each has to be set anew")
	case !encrypted:
		lines = append(lines, "passwords and tokens: in it, as hashes")
	}
	return lines
}
