package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"fairlead/store/backup"
)

// BackupFile is the command line of the commands that write or read a backup: FILE, and
// the flags that say of what, how it is encrypted, and how to tell of it.
type BackupFile struct {
	Data       Data
	passphrase Passphrase
	asJSON     bool
}

// Flags adds the flags; what says what is done with the passphrase.
func (b *BackupFile) Flags(f *Flags, what string) {
	b.Data.Flags(f)
	b.passphrase.Flags(f, what)
	f.Bool(&b.asJSON, "json", "say as a JSON object what the backup holds")
}

// Given reads FILE from the arguments, and the passphrase; empty: none was given.
func (b *BackupFile) Given(env *Env, args []string) (name, passphrase string, err error) {
	if name, err = One(args, "FILE"); err != nil {
		return "", "", err
	}
	passphrase, err = b.passphrase.Get(env)
	return name, passphrase, err
}

// Say writes an object if --json was given, and lines otherwise.
func (b *BackupFile) Say(env *Env, object any, lines ...string) error {
	if b.asJSON {
		return json.NewEncoder(env.Stdout).Encode(object)
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(env.Stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// Holds says in one line what a backup of that size holds.
func Holds(s backup.Summary, size int64) string {
	return fmt.Sprintf("%s and %s of the journal, %s, %s, as of %s", Things(s.Keys, "key"),
		Things(s.Records, "record"), Things(s.Files, "file"), Size(size), s.Made.Local().Format(time.DateTime))
}
