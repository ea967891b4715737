package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// File is one file of the directory, for a backup.
type File struct {
	Name   string
	Data   []byte
	Secret bool // a key: whoever has it can make certificates
}

// kept are the files that a backup has. The others are made anew.
var kept = []struct {
	name   string
	secret bool
	mode   fs.FileMode
}{
	// In this order: after a crash in between Open says that something is missing.
	{revokedName, false, 0o600},
	{crlName, false, 0o644},
	{issuingKeyName, true, 0o600},
	{rootKeyName, true, 0o600},
	{issuingCertName, false, 0o644},
	{rootCertName, false, 0o644},
}

// Export has what a backup needs to hold, as it is now. root.key is among it only if
// it is in the directory.
func (a *Authority) Export() ([]File, error) {
	a.maintenance.Lock()
	defer a.maintenance.Unlock()
	a.revoked.writing.Lock()
	defer a.revoked.writing.Unlock()
	var files []File
	for _, k := range kept {
		data, err := a.dir.read(k.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("export ca: %w", err)
		}
		files = append(files, File{k.name, data, k.secret})
	}
	return files, nil
}

// Restore writes the files of a backup into a directory, which must be empty or not
// there. Without the secret files [Open] asks for them. A backup is older than what
// was revoked since: that has to be revoked again.
func Restore(path string, files []File) error {
	for _, f := range files {
		if keptAt(f.Name) < 0 {
			return fmt.Errorf("restore ca: %q is not a file of a CA", f.Name)
		}
	}
	d, err := openDir(path, nil)
	if err != nil {
		return fmt.Errorf("restore ca: %w", err)
	}
	defer d.close()
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("restore ca: %w", err)
	}
	for _, e := range entries {
		if e.Name() != lockName {
			return fmt.Errorf("restore ca: %s has files already, %s for one: move them away first", path, e.Name())
		}
	}
	return d.restore(files)
}

func (d *dir) restore(files []File) error {
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int { return keptAt(a.Name) - keptAt(b.Name) })
	for _, f := range files {
		if err := d.write(f.Name, f.Data, kept[keptAt(f.Name)].mode); err != nil {
			return fmt.Errorf("restore ca: %w", err)
		}
	}
	return nil
}

// keptAt is the place of the name among those kept, or -1.
func keptAt(name string) int {
	for i, k := range kept {
		if k.name == name {
			return i
		}
	}
	return -1
}
