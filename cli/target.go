package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"fairlead/admin"
)

// tokenVariable holds the token of an operator.
const tokenVariable = "FAIRLEAD_TOKEN"

// Target is the flags that name the broker to administer: by its data directory on this
// machine, or by the address of its HTTP API. Add them with [Target.Flags], and then
// [Target.Dial] asks that broker.
type Target struct {
	Data
	server, tokenFile, caFile, cert, key string
}

// Flags adds the flags to f, under a heading of their own. They come last.
func (t *Target) Flags(f *Flags) {
	f.Group("Broker")
	t.Data.Flags(f)
	f.String(&t.server, "server", "URL", "instead of --data: the address of its API, https://HOST:PORT")
	f.String(&t.tokenFile, "token-file", "FILE", "with --server: who we are is the token in FILE's first line;\nor in FAIRLEAD_TOKEN")
	f.String(&t.cert, "cert", "FILE", "with --server: who we are is this certificate (PEM)")
	f.String(&t.key, "key", "FILE", "the certificate's private key (PEM)")
	f.String(&t.caFile, "cafile", "FILE", "with --server: trust the CA certificates in FILE (PEM);\ndefault: the system's")
}

// Remote reports whether the broker is named by the address of its API.
func (t *Target) Remote() bool { return t.server != "" }

// Dial returns a client of the broker's API.
func (t *Target) Dial(ctx context.Context, env *Env) (*admin.Client, error) {
	if t.server == "" {
		if t.tokenFile != "" || t.cert != "" || t.key != "" || t.caFile != "" {
			return nil, Usagef("--token-file, --cert, --key and --cafile are for a broker elsewhere: give --server URL too")
		}
		dir, err := t.Dir(env)
		if err != nil {
			return nil, err
		}
		return admin.Connect(ctx, admin.Target{Dir: dir})
	}
	if t.given != "" {
		return nil, Usagef("--data and --server both name a broker: expected one of them")
	}
	token, err := t.token(env)
	if err != nil {
		return nil, err
	}
	config, err := t.config()
	if err != nil {
		return nil, err
	}
	if token == "" && len(config.Certificates) == 0 {
		return nil, Usagef("--server: who are you? give --token-file FILE, or --cert FILE and --key FILE; FAIRLEAD_TOKEN holds a token too")
	}
	return admin.Connect(ctx, admin.Target{Server: t.server, Token: token, TLS: config})
}

// token reads the operator's token; empty: none was given.
func (t *Target) token(env *Env) (string, error) {
	if t.tokenFile != "" {
		return firstLine("--token-file", t.tokenFile)
	}
	if t.cert != "" {
		return "", nil // a certificate that was asked for is stronger than a variable
	}
	return env.Getenv(tokenVariable), nil
}

func (t *Target) config() (*tls.Config, error) {
	flags := tlsFlags{cert: t.cert, key: t.key, caFile: t.caFile}
	return flags.config()
}

// secretBytesMax bounds what is read for a secret: a wrong file is no reason to read a disk.
const secretBytesMax = 64 << 10

// firstLine is the first line of a file that a flag names. It is a secret, and not
// empty.
func firstLine(flag, name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	line, err := SecretLine(f)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	return line, nil
}

// SecretLine reads the first line of r: a password, a passphrase or a token.
func SecretLine(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, secretBytesMax))
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", errors.New("its first line is empty")
	}
	return line, nil
}
