// Package restore is the command "fairlead restore": it makes a data directory of a
// backup, or checks one. Begin with [Command].
package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"fairlead/cli"
	"fairlead/store/backup"
	"fairlead/store/pebble"
)

// Command is "fairlead restore".
var Command = &cli.Command{
	Name: "restore", Group: "Broker", Usage: "FILE", Summary: "make a data directory of a backup, or check one",
	About: `The data directory must be empty, or not exist yet. First the whole file is read
and its checksums are compared; then it is restored. A restore that is broken off
leaves nothing behind that a broker would start on.

What happened after the backup is lost: see docs/backup.md for what clients notice.

Devices keep the certificates they have if the keys of the certificate authority are
in FILE. If they are not, they have to be put into DIR/ca before a broker starts.

Exit code: 0 done, or with --verify the file is good; 1 the file is damaged, or it
could not be restored; 2 wrong command line.`,
	Examples: []cli.Example{
		{What: "into an empty directory, and start on it", Line: "fairlead restore --passphrase-file /etc/fairlead/passphrase /backup/fairlead.backup --data ./restored && fairlead serve --data ./restored"},
		{What: "check a backup", Line: "fairlead restore --verify /backup/fairlead.backup"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.flags(), c.run
	},
}

// command is the flags' values.
type command struct {
	cli.BackupFile
	verify bool
}

func (c *command) flags() *cli.Flags {
	f := cli.NewFlags()
	c.Flags(f, "decrypt")
	f.Bool(&c.verify, "verify", "read FILE and compare its checksums; restore nothing")
	return f
}

func (c *command) run(ctx context.Context, env *cli.Env, args []string) error {
	name, passphrase, err := c.Given(env, args)
	if err != nil {
		return err
	}
	dir, err := c.target(env)
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := &reading{f: f, passphrase: passphrase, meter: cli.NewMeter(env)}
	defer r.meter.Clear()
	sum, err := r.read("checking", func(from io.Reader, p backup.Progress) (backup.Summary, error) {
		return backup.Verify(ctx, from, p)
	})
	if err == nil && !c.verify {
		sum, err = r.read("restoring", func(from io.Reader, p backup.Progress) (backup.Summary, error) {
			return into(ctx, dir, name, from, p)
		})
	}
	if ctx.Err() != nil {
		return cli.TimedOut(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.meter.Clear()
	return c.say(env, result{File: name, Data: dir, Summary: sum, Encrypted: r.encrypted})
}

// target is the directory to restore into; empty with --verify.
func (c *command) target(env *cli.Env) (string, error) {
	if c.verify {
		return "", nil
	}
	dir, err := c.Data.Dir(env)
	if err != nil {
		return "", err
	}
	held, err := contents(dir)
	if err != nil {
		return "", err
	}
	if len(held) > 0 {
		return "", fmt.Errorf("%s is not empty, it holds %s: restore into a directory of its own", dir, held[0])
	}
	return dir, nil
}

// contents lists what is in dir, but for what a file system puts at its root.
func contents(dir string) (names []string, err error) {
	found, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, f := range found {
		if f.Name() != "lost+found" {
			names = append(names, f.Name())
		}
	}
	return names, err
}

// into restores the file name into the empty directory dir, and leaves it empty after an
// error.
func into(ctx context.Context, dir, name string, from io.Reader, progress backup.Progress) (sum backup.Summary, err error) {
	_, there := os.Stat(dir)
	e, err := pebble.Open(dir, pebble.Options{})
	if err != nil {
		return sum, err
	}
	beside := &files{dir: dir, name: name}
	sum, err = backup.Restore(ctx, from, backup.Target{
		Engine: e, Create: beside.create, Commit: func(s backup.Summary) error { return beside.commit(ctx, s) },
	}, progress)
	err = errors.Join(err, e.Close())
	if err == nil || errors.Is(err, backup.ErrNotEmpty) { // somebody else's, after all
		return sum, err
	}
	names, cleaning := contents(dir)
	for _, name := range names {
		cleaning = errors.Join(cleaning, os.RemoveAll(filepath.Join(dir, name)))
	}
	if errors.Is(there, fs.ErrNotExist) {
		cleaning = errors.Join(cleaning, os.Remove(dir))
	}
	return sum, errors.Join(err, cleaning)
}

// reading is a backup that is read more than once.
type reading struct {
	f          *os.File
	passphrase string
	meter      *cli.Meter
	encrypted  bool
}

// read lets f read the file from its beginning.
func (r *reading) read(doing string, f func(io.Reader, backup.Progress) (backup.Summary, error)) (sum backup.Summary, err error) {
	if _, err := r.f.Seek(0, io.SeekStart); err != nil {
		return sum, err
	}
	info, err := r.f.Stat()
	if err != nil {
		return sum, err
	}
	from, encrypted, err := backup.Decrypt(r.f, r.passphrase)
	if err != nil {
		return sum, err
	}
	r.encrypted = encrypted
	return f(from, func(s backup.Summary) {
		r.meter.Show(func() string {
			return fmt.Sprintf("%s %3d %% of %s", doing, min(100, s.Bytes*100/max(1, info.Size())), cli.Size(info.Size()))
		})
	})
}

// result is what was found, for scripts.
type result struct {
	File string `json:"file"`
	Data string `json:"data,omitempty"` // empty: nothing was restored
	backup.Summary
	Encrypted bool `json:"encrypted"`
}

func (c *command) say(env *cli.Env, r result) error {
	did := "restored " + r.Data + " from " + r.File
	if c.verify {
		did = r.File + " is good"
	}
	line := fmt.Sprintf("%s: %s, written by fairlead %s", did, cli.Holds(r.Summary, r.Bytes), cli.Printable(r.Program))
	return c.Say(env, r, append([]string{line}, identityLines(r.Summary, r.Data)...)...)
}
