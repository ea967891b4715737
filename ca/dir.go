package ca

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The files of the directory.
const (
	rootKeyName     = "root.key"
	rootCertName    = "root.crt"
	issuingKeyName  = "issuing.key"
	issuingCertName = "issuing.crt"
	serverName      = "server.pem"
	revokedName     = "revoked"
	crlName         = "crl.pem"
	lockName        = "lock"
)

// unfinished ends the name of a file that is being written. A crash leaves one; it
// was never in force.
const unfinished = ".new"

// fileMax is the size in bytes of the largest file that is read. A revocation list
// with a hundred thousand entries has 4 MB.
const fileMax = 64 << 20

// dir is the directory. Each file in it but the log of revocations is written as a
// whole or not at all.
type dir struct {
	path  string
	lock  *os.File
	fault func(step string) error
}

// openDir makes the directory if need be, locks it, and removes what a crash has
// left unfinished.
func openDir(path string, fault func(string) error) (*dir, error) {
	if fault == nil {
		fault = func(string) error { return nil }
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	d := &dir{path: path, fault: fault}
	err := syncDir(filepath.Dir(path)) // a new directory has to survive as well
	if err != nil {
		return nil, err
	}
	if d.lock, err = lockFile(d.file(lockName)); err != nil {
		return nil, err
	}
	if err := d.sweep(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: another process uses this CA; ask it, or stop it first", filepath.Dir(name))
	}
	return nil, fmt.Errorf("lock %s: %w", name, err)
}

func (d *dir) close() error { return d.lock.Close() }

func (d *dir) file(name string) string { return filepath.Join(d.path, name) }

// has reports whether the file is there; one that can't be looked at is.
func (d *dir) has(name string) bool {
	_, err := os.Lstat(d.file(name))
	return !errors.Is(err, fs.ErrNotExist)
}

func (d *dir) sweep() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinished) {
			err = errors.Join(err, os.Remove(d.file(e.Name())))
		}
	}
	return err
}

// checkModes refuses a directory that everybody can change and keys that everybody
// can read. What only a group can do is a warning: volumes of containers are mounted
// so.
func (d *dir) checkModes(warn func(error)) error {
	info, err := os.Stat(d.path)
	if err != nil {
		return err
	}
	if info.Mode()&0o002 != 0 {
		return fmt.Errorf("mode %04o: everybody can change what is in it; run chmod 0700 %s", info.Mode().Perm(), d.path)
	}
	if info.Mode()&0o020 != 0 {
		warn(fmt.Errorf("%s: mode %04o: its group can change what is in it; chmod 0700 if that is not meant", d.path, info.Mode().Perm()))
	}
	for _, name := range []string{rootKeyName, issuingKeyName, serverName, revokedName} {
		if err := checkSecret(d.file(name), warn); err != nil {
			return err
		}
	}
	return nil
}

// checkSecret is about a file with a key. One that is not there is in order.
func checkSecret(name string, warn func(error)) error {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	if mode&0o006 != 0 {
		return fmt.Errorf("%s: mode %04o: everybody on this host can read or change it; run chmod 0600 %s, and think of it as stolen if others work here", filepath.Base(name), mode, name)
	}
	if mode&0o060 != 0 {
		warn(fmt.Errorf("%s: mode %04o: its group can read or change it; chmod 0600 if that is not meant", name, mode))
	}
	return nil
}

func (d *dir) read(name string) ([]byte, error) { return readFile(d.file(name)) }

// readFile reads a file of at most fileMax bytes.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, fileMax+1))
	if err != nil {
		return nil, err
	}
	if len(data) > fileMax {
		return nil, fmt.Errorf("%s: more than %d bytes", name, fileMax)
	}
	return data, nil
}

// write puts a file in force. When it returns nil the file is on disk; with an
// error, and after a crash, it is there as a whole or as it was before.
func (d *dir) write(name string, data []byte, mode fs.FileMode) error {
	temp := d.file(name + unfinished)
	if err := d.writeTemp(temp, name, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := d.step("rename", name); err != nil {
		return err
	}
	if err := os.Rename(temp, d.file(name)); err != nil {
		return err
	}
	return d.sync(name)
}

func (d *dir) writeTemp(temp, name string, data []byte, mode fs.FileMode) error {
	if err := d.step("create", name); err != nil {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := d.step("write", name); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// sync makes the names in the directory durable.
func (d *dir) sync(name string) error {
	if err := d.step("sync", name); err != nil {
		return err
	}
	return syncDir(d.path)
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// step is where a test cuts the power.
func (d *dir) step(what, name string) error { return d.fault(what + " " + name) }
