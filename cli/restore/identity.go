package restore

import (
	"fmt"
	"slices"
	"strings"

	"fairlead/store/backup"
)

// issuingKey is the one file without which a CA can't issue anything.
const issuingKey = backup.CA + "issuing.key"

// identityLines say what the backup means for devices and users, and what is to be done
// about it. dir is the directory that has been restored; empty: none has.
func identityLines(s backup.Summary, dir string) (lines []string) {
	if dir == "" {
		dir = "the data directory"
	}
	switch {
	case !s.CA:
		lines = append(lines, "certificate authority: not in it",
			fmt.Sprintf("  Put the ca directory of that broker into %s before one starts there. Without it the broker begins a new CA, and each device needs a new certificate.", dir))
	case !slices.Contains(s.SecretFiles, issuingKey):
		lines = append(lines, "keys of the CA: not in it"+missing(s.LeftOut),
			fmt.Sprintf("  Put them into %s/ca, with mode 0600, before a broker starts there: it does not start without them.", dir),
			fmt.Sprintf("  If they are lost, move %s/ca away: the broker begins a new CA, and each device needs a new certificate.", dir))
	default:
		lines = append(lines, "certificate authority: in it with its keys; devices go on with the certificates they have",
			"  What was revoked after the backup is not: revoke it again.")
	}
	if s.Secrets == backup.SecretsNone {
		lines = append(lines, "passwords and tokens: not in it; each has to be set anew")
	}
	return lines
}

func missing(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}
