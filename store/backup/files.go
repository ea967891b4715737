package backup

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The directories of which files are backed up, as the beginnings of their names.
const (
	CA    = "ca/"    // what package ca exports
	Audit = "audit/" // what [AuditLog] lists
)

// File is a file of the data directory that is not the store's.
type File struct {
	// Name is below the data directory, with slashes: "ca/root.crt". It is a valid path
	// of io/fs, of at most 255 characters of ASCII that can be printed, without blanks.
	Name string
	// Secret says that whoever has it can pass for somebody else: a private key.
	Secret bool
	// Open opens its content. It is not called if the file is left out.
	Open func() (io.ReadCloser, error)
}

// Bytes is a file with that content.
func Bytes(name string, secret bool, content []byte) File {
	return File{name, secret, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
}

// The files of an audit log, as package audit names them.
const (
	anchorName  = "anchor"
	auditPrefix = "audit-"
	auditSuffix = ".jsonl"
	// anchorMax is the size of the largest anchor in bytes; it has about 100.
	anchorMax = 4 << 10
	// entryMax is the length of the longest entry in bytes.
	entryMax = 1 << 20
)

// AuditLog lists the files of the audit log in a directory, as they are now: what is
// added to them meanwhile is left out, as is an entry that is half written. The anchor is
// read first, so that the log has the entry that it names. Without the directory there is
// no file.
func AuditLog(dir string) ([]File, error) {
	anchor, err := readAnchor(filepath.Join(dir, anchorName))
	if err != nil {
		return nil, err
	}
	found, err := os.ReadDir(dir) // by name, which for the log is the order of its entries
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var files []File
	if anchor != nil {
		files = append(files, Bytes(Audit+anchorName, false, anchor))
	}
	for _, f := range found {
		name := f.Name()
		if !strings.HasPrefix(name, auditPrefix) || !strings.HasSuffix(name, auditSuffix) {
			continue
		}
		size, err := wholeLines(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was the oldest, and a limit has removed it just now
		}
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: Audit + name, Open: func() (io.ReadCloser, error) { return openPart(filepath.Join(dir, name), size) }})
	}
	return files, nil
}

// readAnchor returns nil if there is none.
func readAnchor(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, anchorMax))
}

// wholeLines is how many bytes a file has up to its last line break. Where there is none
// within the length of an entry from its end, the file is damaged, and backed up as it
// is.
func wholeLines(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	from := max(0, info.Size()-entryMax)
	tail, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil {
		return 0, err
	}
	switch end := bytes.LastIndexByte(tail, '\n'); {
	case end >= 0:
		return from + int64(end) + 1, nil
	case from > 0:
		return info.Size(), nil
	}
	return 0, nil
}

// part is the beginning of a file.
type part struct {
	io.Reader
	io.Closer
}

func openPart(name string, size int64) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("a limit of the audit log has removed it meanwhile, so try again: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return part{io.LimitReader(f, size), f}, nil
}

// files writes the files, or that they are left out.
func (b *writer) files(ctx context.Context, list func() ([]File, error)) error {
	if list == nil {
		return nil
	}
	files, err := list()
	if err != nil {
		return err
	}
	before := ""
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := checkName(f.Name, before); err != nil {
			return err
		}
		if err := b.file(ctx, f); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		before = f.Name
	}
	return nil
}

// checkName says what is wrong with the name of a file after another.
func checkName(name, before string) error {
	switch {
	case !fs.ValidPath(name) || name == "." || len(name) > nameMax || strings.ContainsFunc(name, odd):
		return fmt.Errorf("a file %.300q: expected a path below the data directory, of at most %d printable characters", name, nameMax)
	case name <= before:
		return fmt.Errorf("a file %q after %q: expected the order of the names", name, before)
	}
	return nil
}

// odd reports whether a character has no place in a name: some system, or a terminal,
// could take it for something else.
func odd(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }

func (b *writer) file(ctx context.Context, f File) error {
	if f.Secret && b.sum.Secrets != SecretsAll {
		b.sum.LeftOut = append(b.sum.LeftOut, f.Name)
		return b.piece(piece{f.Name, flagSecret | flagLeftOut, nil})
	}
	b.sum.file(f.Name, f.Secret)
	from, err := f.Open()
	if err != nil {
		return err
	}
	defer from.Close()
	content := bufio.NewReader(&interruptible{ctx, from})
	buf := make([]byte, blockBytes)
	for {
		n, err := io.ReadFull(content, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		p := piece{name: f.Name, content: buf[:n]}
		if f.Secret {
			p.flags |= flagSecret
		}
		switch _, err := content.Peek(1); {
		case err == nil:
			p.flags |= flagMore
		case !errors.Is(err, io.EOF):
			return err
		}
		if err := b.piece(p); err != nil || p.flags&flagMore == 0 {
			return err
		}
	}
}

// piece is what a block has of a file.
type piece struct {
	name    string
	flags   byte
	content []byte
}

func (b *writer) piece(p piece) error {
	body := append(binary.AppendUvarint(nil, uint64(len(p.name))), p.name...)
	body = append(body, p.flags)
	return b.put(kindFile, append(body, p.content...))
}

func (r *reader) readPiece(body []byte) (p piece, err error) {
	name, rest, err := r.part(body)
	if err != nil {
		return p, err
	}
	if len(rest) == 0 {
		return p, r.damaged("a file %.300q without flags", name)
	}
	p = piece{string(name), rest[0], rest[1:]}
	switch {
	case p.flags&^flagsKnown != 0:
		err = r.damaged("a file %.300q with flags %#x, expected at most %#x", name, p.flags, flagsKnown)
	case p.flags&flagLeftOut != 0 && (p.flags != flagLeftOut|flagSecret || len(p.content) > 0):
		err = r.damaged("a file %.300q that is left out and is not secret, or has content", name)
	}
	return p, err
}

// fileBlock reads a piece of a file.
func (r *reader) fileBlock(body []byte) error {
	p, err := r.readPiece(body)
	if err != nil {
		return err
	}
	if r.out == nil {
		if err := r.create(p); err != nil || p.flags&flagLeftOut != 0 {
			return err
		}
	} else if p.name != r.file.name || p.flags|flagMore != r.file.flags {
		return r.damaged("the file %.300q within %q", p.name, r.file.name)
	}
	if _, err := r.out.Write(p.content); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	if p.flags&flagMore != 0 {
		return nil
	}
	out := r.out
	r.out = nil
	if err := out.Close(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// create begins a file with its first piece, or takes note that it is left out.
func (r *reader) create(p piece) error {
	if err := checkName(p.name, r.file.name); err != nil {
		return r.damaged("%v", err)
	}
	r.file = piece{name: p.name, flags: p.flags | flagMore}
	secret := p.flags&flagSecret != 0
	if secret && len(r.sum.LeftOut)+len(r.sum.SecretFiles) >= secretFilesMax {
		return r.damaged("more than %d files that are secret", secretFilesMax)
	}
	if p.flags&flagLeftOut != 0 {
		r.sum.LeftOut = append(r.sum.LeftOut, p.name)
		return nil
	}
	r.sum.file(p.name, secret)
	if r.visitor.create == nil {
		r.out = nobody{io.Discard}
		return nil
	}
	var err error
	if r.out, err = r.visitor.create(p.name, secret); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// abandon closes a file that has not been completed.
func (r *reader) abandon() error {
	if r.out == nil {
		return nil
	}
	return r.out.Close()
}

// nobody takes a file that nobody wants.
type nobody struct{ io.Writer }

func (nobody) Close() error { return nil }
