// Package backup is the command "fairlead backup": it writes what a broker keeps into
// one file, while the broker runs. Begin with [Command].
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"fairlead/admin"
	"fairlead/cli"
	"fairlead/store/backup"
	"fairlead/store/pebble"
)

// Command is "fairlead backup".
var Command = &cli.Command{
	Name: "backup", Group: "Broker", Usage: "FILE", Summary: "write everything that a broker keeps into one file",
	About: `The broker may run, and goes on serving: what it had acknowledged when the backup
began is in the file. Without a running broker its data directory is read. FILE is
replaced once the new one is complete and on disk, so it is always a whole backup.

FILE holds the payloads of all messages that wait or are retained, and later keys.
Only its owner may read it (mode 0600). With a passphrase it is encrypted, in the
format of age (https://age-encryption.org); without one it is not.

While a backup is written no checkpoint is: the journal grows. A reader that takes
nothing for 30 seconds is therefore left alone.

"fairlead restore --verify FILE" reads it again and checks it.

Exit code: 0 done, 1 failed, and FILE is as it was, 2 wrong command line.`,
	Examples: []cli.Example{
		{What: "of the broker in ./fairlead-data", Line: "fairlead backup /backup/fairlead.backup"},
		{What: "encrypted", Line: "fairlead backup --data /var/lib/fairlead --passphrase-file /etc/fairlead/passphrase /backup/fairlead.backup"},
		{What: "look whether it is good", Line: "fairlead restore --verify /backup/fairlead.backup"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.flags(), c.run
	},
}

// command is the flags' values.
type command struct {
	data       cli.Data
	passphrase cli.Passphrase
	asJSON     bool
}

func (c *command) flags() *cli.Flags {
	f := cli.NewFlags()
	c.data.Flags(f)
	c.passphrase.Flags(f, "encrypt")
	f.Bool(&c.asJSON, "json", "say as a JSON object what was written")
	return f
}

func (c *command) run(ctx context.Context, env *cli.Env, args []string) error {
	if len(args) != 1 {
		return cli.Usagef("expected one FILE, got %d arguments", len(args))
	}
	if info, err := os.Stat(args[0]); err == nil && !info.Mode().IsRegular() {
		return cli.Usagef("%s is there and is no file", args[0])
	}
	dir, err := c.data.Dir(env)
	if err != nil {
		return err
	}
	passphrase, err := c.passphrase.Get(env)
	if err != nil {
		return err
	}
	out, err := create(args[0], passphrase)
	if err != nil {
		return err
	}
	defer out.discard()
	meter := cli.NewMeter(env)
	sum, err := from(ctx, dir, out, func(s backup.Summary) {
		meter.Show(func() string {
			return fmt.Sprintf("%s, %s, %s", cli.Things(s.Keys, "key"), cli.Things(s.Records, "record"), cli.Size(s.Bytes))
		})
	})
	meter.Clear()
	if ctx.Err() != nil {
		return cli.TimedOut(ctx)
	}
	if err != nil {
		return err
	}
	size, err := out.keep()
	if err != nil {
		return err
	}
	return c.say(env, args[0], sum, size, passphrase != "")
}

// from writes a backup of dir to w: through the broker that runs there, or of the
// directory itself if none does. What the broker sends is verified on its way.
func from(ctx context.Context, dir string, w io.Writer, progress backup.Progress) (sum backup.Summary, err error) {
	broker, err := admin.Dial(ctx, dir)
	if errors.Is(err, admin.ErrUnreachable) {
		return fromDir(ctx, dir, w, progress)
	}
	if err != nil {
		return sum, err
	}
	err = broker.Backup(ctx, func(r io.Reader) (err error) {
		sum, err = backup.Verify(ctx, io.TeeReader(r, w), progress)
		return err
	})
	return sum, err
}

func fromDir(ctx context.Context, dir string, w io.Writer, progress backup.Progress) (sum backup.Summary, err error) {
	if err := hasData(dir); err != nil {
		return sum, err
	}
	e, err := pebble.Open(dir, pebble.Options{})
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	covered, err := backup.Covered(ctx, e)
	if err != nil {
		return sum, err
	}
	return backup.Write(ctx, w, e, covered, backup.Head{Made: time.Now(), Program: cli.Version()}, progress)
}

// hasData demands that dir holds data already: to open it would begin some.
func hasData(dir string) error {
	_, err := os.Stat(filepath.Join(dir, "FORMAT"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s holds no data of a broker: %w", dir, fs.ErrNotExist)
	}
	return err
}

// written is what a backup holds, for scripts.
type written struct {
	File string `json:"file"`
	backup.Summary
	FileBytes int64 `json:"file_bytes"`
	Encrypted bool  `json:"encrypted"`
}

func (c *command) say(env *cli.Env, name string, sum backup.Summary, size int64, encrypted bool) error {
	if c.asJSON {
		return json.NewEncoder(env.Stdout).Encode(written{name, sum, size, encrypted})
	}
	how := "encrypted"
	if !encrypted {
		how = "not encrypted: it holds payloads, keep it as safe as the broker"
	}
	_, err := fmt.Fprintf(env.Stdout, "%s: %s and %s of the journal, %s, as of %s; %s\n", name, cli.Things(sum.Keys, "key"),
		cli.Things(sum.Records, "record"), cli.Size(size), sum.Made.Local().Format(time.DateTime), how)
	return err
}

// file is a file on its way to its name. It has another one until keep.
type file struct {
	name  string
	f     *os.File
	crypt io.WriteCloser // nil: plain
	kept  bool
}

// create makes the file, with mode 0600.
func create(name, passphrase string) (*file, error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return nil, err
	}
	o := &file{name: name, f: f}
	if passphrase != "" {
		if o.crypt, err = backup.Encrypt(f, passphrase); err != nil {
			o.discard()
			return nil, err
		}
	}
	return o, nil
}

func (o *file) Write(b []byte) (int, error) {
	if o.crypt != nil {
		return o.crypt.Write(b)
	}
	return o.f.Write(b)
}

// keep makes the file durable and gives it its name.
func (o *file) keep() (size int64, err error) {
	if o.crypt != nil {
		if err := o.crypt.Close(); err != nil {
			return 0, err
		}
	}
	if err := o.f.Sync(); err != nil {
		return 0, err
	}
	info, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	if err := o.f.Close(); err != nil {
		return 0, err
	}
	if err := os.Rename(o.f.Name(), o.name); err != nil {
		return 0, err
	}
	o.kept = true
	d, err := os.Open(filepath.Dir(o.name))
	if err != nil {
		return 0, err
	}
	return info.Size(), errors.Join(d.Sync(), d.Close())
}

// discard removes what was not kept.
func (o *file) discard() {
	if !o.kept {
		_ = o.f.Close() // its content does not matter any more
		_ = os.Remove(o.f.Name())
	}
}
