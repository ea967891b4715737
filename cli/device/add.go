package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fairlead/admin"
	"fairlead/ca"
	"fairlead/cli"
	"fairlead/device"
)

var addCommand = &cli.Command{
	Name: "add", Usage: "NAME", Summary: "add a device, and write its key and certificate",
	About: `Makes a key and a certificate, and writes into DIR:

  NAME.key    the private key, which only the owner of the file may read
  NAME.crt    the certificate
  ca.crt      by which the device knows the broker
  connect.md  commands to paste

The broker does not keep the key: these files are the only copy. With --csr the device
has made its key itself, and only NAME.crt and ca.crt are written.`,
	Examples: []cli.Example{
		{What: "with its files in ./door-1", Line: "fairlead device add door-1 --out door-1"},
		{What: "with more rights than its own topics, by policies for these", Line: "fairlead device add t1 --group sensors --attr site=berlin --out t1"},
		{What: "for a key that never leaves the device", Line: "fairlead device add t2 --csr t2.csr"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &adding{}
		f := cli.NewFlags()
		f.Strings(&c.spec.Groups, "group", "GROUP", "put it into GROUP; may be repeated")
		f.Pairs(&c.spec.Attrs, "attr", "give it an attribute; may be repeated")
		c.bundleFlags(f)
		f.Bool(&c.spec.NoCertificate, "no-certificate", "none: it will show a password, see \"fairlead device password\"")
		f.Bool(&c.spec.Again, "again", "the name was that of a device that is retired now")
		return c.finish(f), c.run
	},
}

// bundling is what commands share that write a certificate.
type bundling struct {
	command
	out, csrFile string
	days         int
	overwrite    bool
}

func (c *bundling) bundleFlags(f *cli.Flags) {
	c.out = "."
	f.String(&c.out, "out", "DIR", "write the files into DIR; default: here")
	f.String(&c.csrFile, "csr", "FILE", "certify the key of this request (PKCS #10, PEM)")
	f.Int(&c.days, "days", "COUNT", 1, 3650, "the certificate is valid for so long; default two years")
	f.Bool(&c.overwrite, "overwrite", "replace a key that is there already")
}

type adding struct {
	bundling
	spec admin.DeviceSpec
}

func (c *adding) run(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	if c.spec.NoCertificate && (c.csrFile != "" || c.days != 0) {
		return cli.Usagef("--no-certificate leaves nothing to do for --csr and --days: expected none of them")
	}
	c.spec.Name, c.spec.Days = name, c.days
	if c.spec.CSR, err = c.prepare(name, !c.spec.NoCertificate); err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	issued, err := broker.AddDevice(ctx, c.spec)
	if err != nil {
		return err
	}
	return c.finished(env, issued, "added")
}

// prepare does what can fail before the broker is asked: afterwards, a key that can't be
// written is lost. It returns the certificate request, if there is one.
func (c *bundling) prepare(name string, files bool) (csr string, err error) {
	if err := ca.ValidName(name); err != nil { // so it leads to no other directory
		return "", &cli.UsageError{What: err.Error()}
	}
	if !files {
		return "", nil
	}
	if c.csrFile != "" {
		text, err := os.ReadFile(c.csrFile)
		if err != nil {
			return "", fmt.Errorf("--csr: %w", err)
		}
		if csr = string(text); !strings.Contains(csr, "CERTIFICATE REQUEST-----") {
			return "", fmt.Errorf("--csr: %s: expected a certificate request in PEM", c.csrFile)
		}
	} else if err := c.keyFree(name); err != nil {
		return "", err
	}
	return csr, writable(c.out)
}

// keyFree demands that there is no key of that name already.
func (c *bundling) keyFree(name string) error {
	path := filepath.Join(c.out, name+".key")
	_, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !c.overwrite:
		return fmt.Errorf("%s is there, and may be the only copy of a key: choose another --out, or --overwrite it", path)
	}
	return nil
}

// writable demands that files can be written into a directory, and makes it.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".fairlead-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// outcome is what was done, for scripts.
type outcome struct {
	Device admin.Device `json:"device"`
	Serial string       `json:"serial,omitempty"` // of the new certificate
	Files  []string     `json:"files"`
}

// finished writes the files and says what was done.
func (c *bundling) finished(env *cli.Env, issued *admin.Issued, done string) error {
	o := outcome{Device: issued.Device, Files: []string{}}
	if b := issued.Bundle; b != nil {
		files, err := c.write(issued.Device.Name, b)
		if err != nil {
			return fmt.Errorf("%s is %s, but its files could not all be written: %w\nTo have others: fairlead device renew %[1]s --out DIR", o.Device.Name, done, err)
		}
		o.Files, o.Serial = files, b.Serial
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, o)
	}
	return o.print(env, done)
}

func (o *outcome) print(env *cli.Env, done string) error {
	fmt.Fprintf(env.Stdout, "%s is %s", o.Device.Name, done)
	if len(o.Device.Groups) > 0 {
		fmt.Fprintf(env.Stdout, ", in %s", strings.Join(o.Device.Groups, ", "))
	}
	for _, c := range o.Device.Certificates {
		if c.Serial == o.Serial {
			fmt.Fprintf(env.Stdout, ", with a certificate until %s", c.NotAfter.Local().Format(time.DateOnly))
		}
	}
	fmt.Fprintln(env.Stdout)
	t := &cli.Table{}
	for _, path := range o.Files {
		what := "by which the device knows the broker"
		switch filepath.Ext(path) {
		case ".key":
			what = "its private key, the only copy: it belongs onto the device, and nowhere else"
		case ".md":
			what = "commands to paste"
		case ".crt":
			if filepath.Base(path) == o.Device.Name+".crt" {
				what = "its certificate"
			}
		}
		t.Row(path, what)
	}
	return t.Print(env.Stdout, "  ")
}

// write writes what the device needs: all of it, or without the key if the device has
// that, or without connect.md if the broker has no address to connect to by TLS.
func (c *bundling) write(name string, b *admin.Bundle) ([]string, error) {
	if b.Key != "" && len(b.URLs) > 0 {
		return device.WriteBundle(c.out, device.Bundle{
			Name: name, Key: []byte(b.Key), Cert: []byte(b.Cert), CA: []byte(b.CA), URLs: b.URLs, Overwrite: c.overwrite,
		})
	}
	var paths []string
	for _, f := range []struct {
		name, content string
		mode          fs.FileMode
	}{{name + ".key", b.Key, 0o600}, {name + ".crt", b.Cert, 0o644}, {"ca.crt", b.CA, 0o644}} {
		if f.content == "" {
			continue
		}
		path := filepath.Join(c.out, f.name)
		if err := replaceFile(path, f.content, f.mode); err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// replaceFile writes a file as a whole: under another name first.
func replaceFile(path, content string, mode fs.FileMode) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // readable by the owner only
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString(content)
	if err = errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.Rename(temp.Name(), path)
}

var renewCommand = &cli.Command{
	Name: "renew", Usage: "NAME", Summary: "give a device a further key and certificate",
	About: `The files are those of "fairlead device add". Certificates that the device has already stay
valid, so that it can be told of the new one in its own time; "fairlead device revoke"
ends them.`,
	Examples: []cli.Example{
		{What: "before the old one ends", Line: "fairlead device renew door-1 --out door-1 --overwrite"},
		{What: "for the key that the device has", Line: "fairlead device renew t2 --csr t2.csr"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &bundling{}
		f := cli.NewFlags()
		c.bundleFlags(f)
		return c.finish(f), c.renew
	},
}

func (c *bundling) renew(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	csr, err := c.prepare(name, true)
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	issued, err := broker.AddCertificate(ctx, name, admin.CertificateSpec{CSR: csr, Days: c.days})
	if err != nil {
		return err
	}
	return c.finished(env, issued, "renewed")
}
