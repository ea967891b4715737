// Package cli is what the commands of fairlead share: the shape of a command,
// its flags and its help, exit codes, and the flags that name a broker.
//
// Begin with [Command]. Each command is a package below this one that exports
// its Command; package root lists them.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Exit codes of every command.
const (
	ExitOK      = 0  // done
	ExitFailed  = 1  // refused by the broker, or not possible
	ExitUsage   = 2  // the command line is wrong; nothing was done
	ExitTimeout = 27 // -W or another time limit passed first, as with mosquitto_sub
)

// An Env is the outside of a command: where it reads and writes.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Getenv reads the environment; Environ lists it as KEY=VALUE.
	Getenv  func(string) string
	Environ func() []string
}

// OS is the process's own outside.
func OS() *Env {
	return &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Environ: os.Environ}
}

// Terminal reports whether w is a terminal, where progress may be drawn.
func Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// A Command is one word of the command line and what it does. It either runs or
// has Commands below it.
type Command struct {
	Name    string // one word
	Group   string // heading in the list of commands
	Summary string // one line, lower case, no full stop
	// Usage is what follows the flags: "FILE..."; empty: nothing may.
	Usage string
	// About is the text of the help above the flags.
	About string
	// Examples are pairs of a comment and a command line.
	Examples []Example
	// New returns a command line's own values: the flags that it sets and the
	// function to run once they are set. Flags may be nil.
	New func() (*Flags, Run)
	// Commands are the words below this one.
	Commands []*Command
}

// Run does a command's work. args is what follows the flags. The error decides
// the exit code: see [ExitCode].
type Run func(ctx context.Context, env *Env, args []string) error

// An Example is one line of a help's examples.
type Example struct{ What, Line string }

// A UsageError says that the command line is wrong: exit code 2.
type UsageError struct{ What string }

func (e *UsageError) Error() string { return e.What }

// Usagef returns a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// An ExitError ends the process with a code of its own. Err may be nil: then
// nothing is printed.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode is the exit code that err stands for.
func ExitCode(err error) int {
	var exit *ExitError
	var usage *UsageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &usage):
		return ExitUsage
	}
	return ExitFailed
}

// Main runs the command line args (without the program's name) below root,
// prints what went wrong and returns the exit code.
func Main(ctx context.Context, env *Env, root *Command, args []string) int {
	path, err := root.dispatch(ctx, env, args)
	report(env, path, err)
	return ExitCode(err)
}

// report prints err as one line, with a word on what to do about it.
func report(env *Env, path string, err error) {
	var exit *ExitError
	if err == nil || errors.As(err, &exit) && exit.Err == nil {
		return
	}
	fmt.Fprintf(env.Stderr, "%s: %v\n", path, err)
	var usage *UsageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(env.Stderr, "Run %q for the flags and examples.\n", path+" --help")
	default:
		if advice := advise(err); advice != "" {
			fmt.Fprintln(env.Stderr, advice)
		}
	}
}

// dispatch finds the command that args name and runs it. path is its full name.
func (c *Command) dispatch(ctx context.Context, env *Env, args []string) (path string, err error) {
	path = c.Name
	for len(c.Commands) > 0 {
		if len(args) == 0 {
			return path, c.printHelp(env.Stdout, path)
		}
		word := args[0]
		if word == "--version" && c.find("version") != nil {
			word = "version" // what everybody tries
		}
		switch {
		case word == "help" || word == "--help" || word == "-h":
			if len(args) > 1 && word == "help" {
				args = append(args[1:len(args):len(args)], "--help")
				continue
			}
			return path, c.printHelp(env.Stdout, path)
		case strings.HasPrefix(word, "-"):
			return path, Usagef("flag %s: expected a command first", word)
		}
		next := c.find(word)
		if next == nil {
			return path, Usagef("unknown command %q%s", word, didYouMean(word, c.words()))
		}
		c, args, path = next, args[1:], path+" "+next.Name
	}
	return path, c.run(ctx, env, path, args)
}

func (c *Command) find(word string) *Command {
	for _, next := range c.Commands {
		if next.Name == word {
			return next
		}
	}
	return nil
}

func (c *Command) words() []string {
	words := []string{"help"}
	for _, next := range c.Commands {
		words = append(words, next.Name)
	}
	return words
}

func (c *Command) run(ctx context.Context, env *Env, path string, args []string) error {
	flags, run := c.New()
	if flags == nil {
		flags = NewFlags()
	}
	rest, err := flags.Parse(args)
	if errors.Is(err, errHelp) {
		return c.printHelp(env.Stdout, path)
	}
	if err != nil {
		return err
	}
	if len(rest) > 0 && c.Usage == "" {
		return Usagef("unexpected argument %q: expected flags only", rest[0])
	}
	return run(ctx, env, rest)
}
