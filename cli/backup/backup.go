// Package backup is the command "fairlead backup": it writes what a broker keeps into
// one file, while the broker runs. Begin with [Command].
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"fairlead/admin"
	"fairlead/cli"
	"fairlead/store/backup"
)

// Command is "fairlead backup".
var Command = &cli.Command{
	Name: "backup", Group: "Broker", Usage: "FILE", Summary: "write everything that a broker keeps into one file",
	About: `The broker may run, and goes on serving: what it had acknowledged when the backup
began is in the file. Without a running broker its data directory is read. FILE is
replaced once the new one is complete and on disk, so it is always a whole backup.

FILE holds the payloads of all messages that wait or are retained, devices, users,
policies, the audit log and the certificate authority. Only its owner may read it
(mode 0600). With a passphrase it is encrypted, in the format of age
(https://age-encryption.org), and holds all secrets. Without one it is not encrypted:
then the keys of the CA are left out, and each device needs a new certificate after a
restore, unless they are kept elsewhere. What is kept of passwords and tokens are
hashes: these are in FILE.

While a backup is written no checkpoint is: the journal grows. A reader that takes
nothing for 30 seconds is therefore left alone.

"fairlead restore --verify FILE" reads it again and checks it.

Exit code: 0 done, 1 failed, and FILE is as it was, 2 wrong command line.`,
	Examples: []cli.Example{
		{What: "of the broker in ./fairlead-data, without the keys of its CA", Line: "fairlead backup /backup/fairlead.backup"},
		{What: "all of it, encrypted", Line: "fairlead backup --data /var/lib/fairlead --passphrase-file /etc/fairlead/passphrase /backup/fairlead.backup"},
		{What: "look whether it is good", Line: "fairlead restore --verify /backup/fairlead.backup"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.flags(), c.run
	},
}

// command is the flags' values.
type command struct {
	cli.BackupFile
	choice choice
}

func (c *command) flags() *cli.Flags {
	f := cli.NewFlags()
	c.Flags(f, "encrypt")
	c.choice.flags(f)
	return f
}

func (c *command) run(ctx context.Context, env *cli.Env, args []string) error {
	name, passphrase, err := c.Given(env, args)
	if err != nil {
		return err
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return cli.Usagef("%s is there and is no file", name)
	}
	dir, err := c.Data.Dir(env)
	if err != nil {
		return err
	}
	secrets, err := c.choice.secrets(passphrase != "")
	if err != nil {
		return err
	}
	out, err := create(name, passphrase)
	if err != nil {
		return err
	}
	defer out.discard()
	sum, err := from(ctx, env, dir, out, secrets)
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
	return c.say(env, written{name, sum, size, passphrase != ""})
}

// from writes a backup of dir to w: through the broker that runs there, or of the
// directory itself if none does. What the broker sends is verified on its way.
func from(ctx context.Context, env *cli.Env, dir string, w io.Writer, secrets backup.Secrets) (sum backup.Summary, err error) {
	meter := cli.NewMeter(env)
	defer meter.Clear()
	progress := func(s backup.Summary) {
		meter.Show(func() string {
			return fmt.Sprintf("%s, %s, %s, %s", cli.Things(s.Keys, "key"), cli.Things(s.Records, "record"), cli.Things(s.Files, "file"), cli.Size(s.Bytes))
		})
	}
	broker, err := admin.Dial(ctx, dir)
	if errors.Is(err, admin.ErrUnreachable) {
		return fromDir(ctx, dir, w, secrets, progress)
	}
	if err != nil {
		return sum, err
	}
	err = broker.Backup(ctx, secrets, func(r io.Reader) (err error) {
		sum, err = backup.Verify(ctx, io.TeeReader(r, w), progress)
		return err
	})
	if err == nil && sum.Secrets != secrets {
		err = fmt.Errorf("the broker has written a backup with secrets %q, expected %q: it is of another version", sum.Secrets, secrets)
	}
	return sum, err
}

// written is what a backup holds, for scripts.
type written struct {
	File string `json:"file"`
	backup.Summary
	FileBytes int64 `json:"file_bytes"`
	Encrypted bool  `json:"encrypted"`
}

func (c *command) say(env *cli.Env, w written) error {
	how := "encrypted"
	if !w.Encrypted {
		how = "not encrypted: it holds payloads, keep it as safe as the broker"
	}
	lines := []string{fmt.Sprintf("%s: %s; %s", w.File, cli.Holds(w.Summary, w.FileBytes), how)}
	return c.Say(env, w, append(lines, secretLines(w.Summary, w.Encrypted)...)...)
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
