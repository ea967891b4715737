package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fairlead/cli"
	"fairlead/store/backup"
	"fairlead/store/pebble"
)

// fromDir writes a backup of a data directory on which no broker works.
func fromDir(ctx context.Context, dir string, w io.Writer, secrets backup.Secrets, progress backup.Progress) (sum backup.Summary, err error) {
	if err := hasData(dir); err != nil {
		return sum, err
	}
	e, err := pebble.Open(dir, pebble.Options{}) // it has the directory to itself from here on
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	covered, err := backup.Covered(ctx, e)
	if err != nil {
		return sum, err
	}
	source := backup.Source{Engine: e, From: covered, Files: func() ([]backup.File, error) { return files(dir) }}
	return backup.Write(ctx, w, source, backup.Head{Made: time.Now(), Program: cli.Version(), Secrets: secrets}, progress)
}

// hasData demands that dir holds data already: to open it would begin some.
func hasData(dir string) error {
	_, err := os.Stat(filepath.Join(dir, "FORMAT"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s holds no data of a broker: %w", dir, fs.ErrNotExist)
	}
	return err
}

// files are those beside the store.
func files(dir string) ([]backup.File, error) {
	list, err := backup.AuditLog(filepath.Join(dir, "audit"))
	if err != nil {
		return nil, err
	}
	authority, err := caFiles(dir)
	return append(list, authority...), err
}

// caNames are the files that ca.Export has, in their order. The CA is not opened: that
// would begin one where there is none, renew what is old, and refuse a directory that is
// damaged, of which a backup may be all there is.
var caNames = []string{"crl.pem", "issuing.crt", "issuing.key", "revoked", "root.crt", "root.key"}

// caFileMax is the size of the largest file of a CA in bytes, as package ca has it.
const caFileMax = 64 << 20

func caFiles(dir string) (list []backup.File, err error) {
	for _, name := range caNames {
		name = backup.CA + name
		content, err := readFile(filepath.Join(dir, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, backup.Bytes(name, strings.HasSuffix(name, ".key"), content))
	}
	return list, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, caFileMax+1))
	if err == nil && len(content) > caFileMax {
		err = fmt.Errorf("%s: more than %d bytes", name, caFileMax)
	}
	return content, err
}
