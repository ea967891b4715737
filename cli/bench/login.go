package bench

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"fairlead/cli"
)

// login is the User Name and the Password of one client.
type login struct{ user, password string }

// userVariable stands in --topic for the user name of the client.
const userVariable = "{user}"

// loginsHelp is what --logins is for.
const loginsHelp = `clients log in with these, a line each: NAME PASSWORD. Both of a pair have
the same line, others take turns. Client Identifiers begin with NAME: as those
of devices must, and ` + userVariable + ` in --topic is the NAME`

// readLogins reads the file of --logins.
func readLogins(path string) ([]login, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--logins: %w", err)
	}
	list, err := parseLogins(string(text))
	if err != nil {
		return nil, &cli.UsageError{What: fmt.Sprintf("--logins %s: %v", path, err)}
	}
	return list, nil
}

// parseLogins reads a line for each: a name, blanks, a password. Empty lines and those
// that begin with # say nothing. The error names the line, and never the password.
func parseLogins(text string) (list []login, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, password, _ := strings.Cut(line, " ")
		password = strings.TrimSpace(password)
		switch {
		case password == "":
			return nil, fmt.Errorf("line %d: expected a name, a blank and a password", n)
		case strings.ContainsAny(name, "+#/"):
			return nil, fmt.Errorf("line %d: found the name %q, expected one without + # and /, because topics have it in them", n, name)
		case len(list) == clientsMax:
			return nil, fmt.Errorf("line %d: expected at most %d logins", n, clientsMax)
		}
		list = append(list, login{name, password})
	}
	if len(list) == 0 {
		return nil, errors.New("expected at least one line")
	}
	return list, nil
}

// loginOf is that of the client with the number n; false: all clients have the one of
// the command line.
func (l *load) loginOf(n int) (login, bool) {
	if len(l.logins) == 0 {
		return login{}, false
	}
	if l.shape.subs > 0 {
		n %= l.shape.subs // publisher i has the number subs+i
	}
	return l.logins[n%len(l.logins)], true
}
