package device

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"fairlead/ca"
)

// Bundle is what a device needs to connect.
type Bundle struct {
	Name string
	Key  []byte   // its private key, PEM
	Cert []byte   // its certificate, with what leads to the CA, PEM
	CA   []byte   // the CA's certificate, PEM
	URLs []string // of the broker, the best first: mqtts://HOST[:PORT] or wss://HOST[:PORT]/PATH
	// Overwrite replaces the key of an earlier bundle, which is then lost.
	Overwrite bool
}

// The files of a bundle beside NAME.key and NAME.crt.
const (
	bundleCA      = "ca.crt"
	bundleConnect = "connect.md"
)

// WriteBundle writes NAME.key (which only the owner may read), NAME.crt, ca.crt and
// connect.md with commands to paste into a directory, which is made if need be. Each
// file is whole or not there, and the key is written first: it can't be had again. If
// there is another key already the error is fs.ErrExist. It returns the paths of the files.
func WriteBundle(dir string, b Bundle) ([]string, error) {
	if err := ca.ValidName(b.Name); err != nil { // so it leads to no other directory
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if strings.EqualFold(b.Name+".crt", bundleCA) {
		return nil, fmt.Errorf("bundle of %s: its certificate would have the name of the CA's: %s", b.Name, bundleCA)
	}
	connect, err := connectPage(b)
	if err != nil {
		return nil, fmt.Errorf("bundle of %s: %w", b.Name, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("bundle of %s: %w", b.Name, err)
	}
	var paths []string
	for _, f := range []struct {
		name    string
		content []byte
		mode    fs.FileMode
		keep    bool // an existing file
	}{
		{b.Name + ".key", b.Key, 0o600, !b.Overwrite},
		{b.Name + ".crt", b.Cert, 0o644, false},
		{bundleCA, b.CA, 0o644, false},
		{bundleConnect, connect, 0o644, false},
	} {
		path := filepath.Join(dir, f.name)
		if err := writeFile(path, f.content, f.mode, f.keep); err != nil {
			return paths, fmt.Errorf("bundle of %s: %w", b.Name, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// writeFile writes a file as a whole: under another name first. With keep it fails if
// there is one.
func writeFile(path string, content []byte, mode fs.FileMode, keep bool) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // readable by the owner only
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(content)
	err = errors.Join(err, temp.Chmod(mode))
	if err == nil {
		err = temp.Sync()
	}
	if err := errors.Join(err, temp.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if keep {
		err = place(temp.Name(), path, content)
	} else {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// place gives a file its name, unless there is another one of that name already.
func place(temp, path string, content []byte) error {
	err := os.Link(temp, path) // fails if there is one, which a rename would not
	if err != nil && !errors.Is(err, fs.ErrExist) {
		err = reserve(temp, path) // a file system without links
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, content) {
		return nil
	}
	return fmt.Errorf("%s: %w, and may be the only copy of a key", path, fs.ErrExist)
}

func reserve(temp, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Rename(temp, path))
}

//go:embed connect.md.tmpl
var connectText string

var connectTemplate = template.Must(template.New(bundleConnect).Parse(connectText))

// page is what connect.md is made of.
type page struct {
	Name       string
	URLs       []string
	Host, Port string // of the first mqtts URL; empty: there is none
	MQTTS      string // the first mqtts URL, with its port
}

func connectPage(b Bundle) ([]byte, error) {
	p := page{Name: b.Name, URLs: b.URLs}
	if len(b.URLs) == 0 {
		return nil, errors.New("no URL of the broker")
	}
	for _, raw := range b.URLs {
		u, err := parseBroker(raw)
		if err != nil {
			return nil, err
		}
		if p.Host == "" && u.Scheme == "mqtts" {
			p.Host, p.Port = u.Hostname(), u.Port()
			if p.Port == "" {
				p.Port = "8883"
			}
			p.MQTTS = "mqtts://" + net.JoinHostPort(p.Host, p.Port)
		}
	}
	var out strings.Builder
	if err := connectTemplate.Execute(&out, p); err != nil {
		return nil, err
	}
	return []byte(out.String()), nil
}

// parseBroker refuses what is no plain URL of a broker: it goes into commands that
// somebody pastes into a shell.
func parseBroker(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "mqtts" && u.Scheme != "wss" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.ContainsFunc(raw, unsafe) {
		return nil, fmt.Errorf("URL %q: expected mqtts://HOST[:PORT] or wss://HOST[:PORT]/PATH", raw)
	}
	return u, nil
}

func unsafe(c rune) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(".-_:/[]", c))
}
