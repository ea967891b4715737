package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"fairlead/audit"
	"fairlead/ca"
	"fairlead/cli"
	"fairlead/store"
	"fairlead/store/backup"
)

// caMax bounds in bytes what a backup may have of a CA, which is held in memory. A
// hundred thousand revocations have some 10 MB.
const caMax = 256 << 20

// files makes the files of a data directory that are not the store's.
type files struct {
	dir   string
	name  string // of the backup
	ca    []ca.File
	caLen int
}

// create makes one of them.
func (f *files) create(name string, secret bool) (io.WriteCloser, error) {
	if base, ok := strings.CutPrefix(name, backup.CA); ok {
		return &caFile{f, ca.File{Name: base, Secret: secret}}, nil
	}
	base, ok := strings.CutPrefix(name, backup.Audit)
	if !ok || strings.Contains(base, "/") || secret {
		return nil, fmt.Errorf("this version does not know what the file is for: %w", store.ErrNewerFormat)
	}
	dir := f.auditDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(filepath.Join(dir, base), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return durable{out}, nil
}

func (f *files) auditDir() string { return filepath.Join(f.dir, "audit") }

// durable is a file that is on disk once it is closed.
type durable struct{ *os.File }

func (d durable) Close() error { return errors.Join(d.Sync(), d.File.Close()) }

// caFile is a file of a CA: package ca writes them all at once.
type caFile struct {
	to   *files
	file ca.File
}

func (c *caFile) Write(b []byte) (int, error) {
	if c.to.caLen += len(b); c.to.caLen > caMax {
		return 0, fmt.Errorf("the files of the CA have more than %s", cli.Size(caMax))
	}
	c.file.Data = append(c.file.Data, b...)
	return len(b), nil
}

func (c *caFile) Close() error {
	c.to.ca = append(c.to.ca, c.file)
	return nil
}

// commit makes the CA, and has the audit log know where it comes from.
func (f *files) commit(ctx context.Context, sum backup.Summary) error {
	if len(f.ca) > 0 {
		if err := ca.Restore(filepath.Join(f.dir, strings.TrimSuffix(backup.CA, "/")), f.ca); err != nil {
			return err
		}
	}
	log, err := audit.Open(f.auditDir(), audit.Options{TotalBytes: -1}) // limits are the broker's matter
	if err != nil {
		return err
	}
	return errors.Join(log.Act(ctx, f.entry(sum)), log.Close(), syncDir(f.auditDir()), syncDir(f.dir))
}

// entry is that of the restore.
func (f *files) entry(sum backup.Summary) audit.Entry {
	e := audit.Entry{
		Actor: audit.Actor{How: "fairlead restore"}, Source: "data directory", Action: "backup.restore", Object: f.name,
		After: map[string]any{"made": sum.Made, "program": sum.Program, "keys": sum.Keys, "records": sum.Records, "files": sum.Files, "left_out": sum.LeftOut},
	}
	if u, err := user.Current(); err == nil {
		e.Actor.Name = u.Username
	}
	return e
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
