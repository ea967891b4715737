package backup

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// Errors that callers act on.
var (
	ErrNoPassphrase    = errors.New("it is encrypted, and no passphrase was given")
	ErrWrongPassphrase = errors.New("the passphrase is wrong")
)

// ageMagic is how a file of age begins.
const ageMagic = "age-encryption.org/"

// workMax bounds the work that a file may demand before its passphrase is known to be
// right, as a power of two: 22 is 16 times what [Encrypt] asks for, some 15 seconds.
const workMax = 22

// Encrypt returns a writer that encrypts for a passphrase what it is given, in the
// format of age. Close writes the end; it does not close w.
func Encrypt(w io.Writer, passphrase string) (io.WriteCloser, error) {
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	out, err := age.Encrypt(w, to)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return out, nil
}

// Decrypt returns a reader of what was encrypted for a passphrase. What is not
// encrypted is read as it is.
func Decrypt(r io.Reader, passphrase string) (_ io.Reader, encrypted bool, err error) {
	buffered := bufio.NewReaderSize(r, blockBytes)
	begin, err := buffered.Peek(len(ageMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	if string(begin) != ageMagic {
		return buffered, false, nil
	}
	if passphrase == "" {
		return nil, true, ErrNoPassphrase
	}
	by, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, true, fmt.Errorf("decrypt: %w", err)
	}
	by.SetMaxWorkFactor(workMax)
	plain, err := age.Decrypt(buffered, by)
	if wrong := (*age.NoIdentityMatchError)(nil); errors.As(err, &wrong) {
		return nil, true, ErrWrongPassphrase
	}
	if err != nil {
		return nil, true, fmt.Errorf("decrypt: %w", err)
	}
	return plain, true, nil
}
