package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A block is a fenced block of README.md. Its info string says what the tour
// does with it:
//
//	sh tour             runs in the foreground and must succeed
//	sh tour name=a,b    runs in the background, once for each name
//	text tour           is all that the block before it printed
//	text tour of=a,b    are the next lines that those in the background print
//	js tour file=F      is the file F
type block struct {
	line  int
	lang  string
	tour  bool
	attrs map[string]string
	text  string
}

var fence = regexp.MustCompile("(?m)^```(\\w+)(.*)\n((?s:.*?))^```$")

func parseBlocks(page string) []block {
	var found []block
	for _, m := range fence.FindAllStringSubmatchIndex(page, -1) {
		b := block{line: 1 + strings.Count(page[:m[0]], "\n"), lang: page[m[2]:m[3]], text: page[m[6]:m[7]], attrs: make(map[string]string)}
		for _, word := range strings.Fields(page[m[4]:m[5]]) {
			key, value, _ := strings.Cut(word, "=")
			b.tour = b.tour || key == "tour"
			b.attrs[key] = value
		}
		found = append(found, b)
	}
	return found
}

// outsideTheTour are the commands of README.md that the tour does not run: this
// test is part of the one, and the tour runs the other's recipe.
var outsideTheTour = []string{"make run", "make test"}

// TestReadme pastes the tour of README.md into a shell.
func TestReadme(t *testing.T) {
	if binary == "" {
		return // the tour starts a broker of its own; another one was asked for
	}
	page, err := os.ReadFile(filepath.Join(repository, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := parseBlocks(string(page))
	if len(blocks) == 0 {
		t.Fatal("README.md has no fenced blocks")
	}
	tour := newTour(t)
	for _, b := range blocks {
		if b.tour {
			tour.step(b)
			continue
		}
		for command := range strings.Lines(b.text) {
			bare, _, _ := strings.Cut(command, "#")
			if !slices.Contains(outsideTheTour, strings.TrimSpace(bare)) {
				t.Errorf("README.md:%d: nothing runs %q: mark its block as part of the tour", b.line, strings.TrimSpace(command))
			}
		}
	}
}

// A tour is a directory that looks like the repository after `make build`, and
// the terminals that the reader has open.
type tour struct {
	t         *testing.T
	dir       string
	env       []string
	replace   *strings.Replacer
	terminals map[string]*terminal
	last      string // what the latest foreground block printed
	addrs     []string
}

// newTour makes the directory. The commands in it are the real ones, told of
// free ports, so that whatever runs on the default ones is left alone.
func newTour(t *testing.T) *tour {
	t.Helper()
	tlsPort, wssPort, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	real, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	modules, err := filepath.Abs(filepath.Join(repository, "test", "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	mosquittoSub, err := exec.LookPath("mosquitto_sub")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	scripts := map[string]string{
		"bin/fairlead": fmt.Sprintf(`#!/bin/sh
command=$1; shift
case $command in
serve) exec %[1]s serve --listen mqtts://127.0.0.1:%[2]s --listen wss://127.0.0.1:%[3]s/mqtt "$@" ;;
sub) set -- -d "$@" ;;
esac
case " $* " in
*" --cafile "*) set -- -p %[2]s "$@" ;; # else through admin.sock
esac
exec %[1]s "$command" "$@"
`, real, tlsPort, wssPort),
		"path/mosquitto_sub": fmt.Sprintf("#!/bin/sh\nexec %s -p %s \"$@\"\n", mosquittoSub, tlsPort),
	}
	for name, text := range scripts {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return &tour{
		t: t, dir: dir,
		env:       append(os.Environ(), "PATH="+filepath.Join(dir, "path")+":"+os.Getenv("PATH")),
		replace:   strings.NewReplacer("make run", recipe(t, "run"), "127.0.0.1:8084", "127.0.0.1:"+wssPort),
		terminals: make(map[string]*terminal),
		addrs:     []string{"127.0.0.1:" + tlsPort, "127.0.0.1:" + wssPort},
	}
}

// recipe is what a target of the Makefile runs once its prerequisites are made.
func recipe(t *testing.T, target string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + target + `:.*\n\t(.+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("the Makefile has no target %s of one line", target)
	}
	return string(m[1])
}

func (r *tour) step(b block) {
	r.t.Helper()
	names := strings.FieldsFunc(b.attrs["name"], func(c rune) bool { return c == ',' })
	switch {
	case b.lang == "sh" && len(names) > 0:
		for _, name := range names {
			r.open(b, name)
		}
	case b.lang == "sh":
		r.foreground(b)
	case b.attrs["file"] != "":
		if err := os.WriteFile(filepath.Join(r.dir, b.attrs["file"]), []byte(r.replace.Replace(b.text)), 0o644); err != nil {
			r.t.Fatal(err)
		}
	case b.attrs["of"] != "":
		r.expect(b, strings.Split(b.attrs["of"], ","))
	case r.last != b.text:
		r.t.Fatalf("README.md:%d: printed %q, the tour says %q", b.line, r.last, b.text)
	}
}

func (r *tour) command(b block) *exec.Cmd {
	cmd := exec.Command("bash", "-eu", "-o", "pipefail", "-c", r.replace.Replace(b.text))
	cmd.Dir, cmd.Env = r.dir, r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to end it with all it started
	return cmd
}

// foreground runs a block to its end.
func (r *tour) foreground(b block) {
	r.t.Helper()
	cmd := r.command(b)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		r.t.Fatalf("README.md:%d: %v\n%s%s%s", b.line, err, b.text, &stdout, &stderr)
	}
	r.last = stdout.String()
}

// open starts a block in a terminal of its own and returns once it is ready:
// the broker takes connections, a subscriber is subscribed.
func (r *tour) open(b block, name string) {
	r.t.Helper()
	term := &terminal{stdout: &lines{changed: make(chan struct{})}, stderr: &lines{changed: make(chan struct{})}}
	cmd := r.command(b)
	cmd.Stdout, cmd.Stderr = term.stdout, term.stderr
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan struct{})
	var ended error
	go func() {
		ended = cmd.Wait()
		close(done)
	}()
	r.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // fails only if all have ended
		<-done
	})
	r.terminals[name] = term
	if strings.Contains(b.text, "make run") {
		for _, addr := range r.addrs {
			s := &server{done: done, err: ended, log: os.DevNull}
			if err := s.awaitListener(addr); err != nil {
				r.t.Fatalf("README.md:%d: %v\n%s", b.line, err, term.stderr)
			}
		}
		r.awaitSocket(b)
		return
	}
	if !term.stderr.await(subscribed) {
		r.t.Fatalf("README.md:%d: %s does not say that it is subscribed:\n%s%s", b.line, name, term.stdout, term.stderr)
	}
}

// awaitSocket returns once the broker's admin.sock, which opens last, takes connections.
func (r *tour) awaitSocket(b block) {
	r.t.Helper()
	late := time.After(patience)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		conn, err := net.Dial("unix", filepath.Join(r.dir, "fairlead-data", "admin.sock"))
		if err == nil {
			_ = conn.Close() // it has served its purpose
			return
		}
		select {
		case <-again.C:
		case <-late:
			r.t.Fatalf("README.md:%d: %v", b.line, err)
		}
	}
}

// subscribed is in what `fairlead sub -d` says once its SUBACK has come.
func subscribed(all []string) bool {
	return slices.ContainsFunc(all, func(s string) bool { return strings.Contains(s, "received SUBACK") })
}

// expect waits until the terminals have printed the block's lines: one of them
// in this order, several in any.
func (r *tour) expect(b block, names []string) {
	r.t.Helper()
	want := strings.Split(strings.TrimSuffix(b.text, "\n"), "\n")
	if len(names) == 1 {
		term := r.terminals[names[0]]
		if !term.stdout.await(func(all []string) bool { return contains(all, want) }) {
			r.t.Fatalf("README.md:%d: %s printed\n%sthe tour says\n%s", b.line, names[0], term.stdout, b.text)
		}
		return
	}
	deadline := time.After(patience)
	for {
		var got []string
		changed := make([]<-chan struct{}, 2)
		for i, name := range names[:2] {
			all, next := r.terminals[name].stdout.now()
			got = append(got, all...)
			changed[i] = next
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-changed[0]:
		case <-changed[1]:
		case <-deadline:
			r.t.Fatalf("README.md:%d: %s printed together %q, the tour says %q", b.line, names, got, want)
		}
	}
}

// contains reports whether part appears in all, line after line.
func contains(all, part []string) bool {
	for i := range all {
		if i+len(part) <= len(all) && slices.Equal(all[i:i+len(part)], part) {
			return true
		}
	}
	return false
}

// A terminal is what a command in the background has printed.
type terminal struct{ stdout, stderr *lines }

// lines collects whole lines, and tells who waits for them.
type lines struct {
	mu      sync.Mutex // guards all below
	all     []string
	partial []byte
	changed chan struct{} // closed and replaced at each write
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		line, rest, ok := bytes.Cut(l.partial, []byte("\n"))
		if !ok {
			break
		}
		l.all, l.partial = append(l.all, string(line)), rest
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

// now returns the lines so far, and a channel that closes when there are more.
func (l *lines) now() ([]string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all), l.changed
}

// await returns true once ok holds for the lines, false after all patience.
func (l *lines) await(ok func([]string) bool) bool {
	deadline := time.After(patience)
	for {
		all, changed := l.now()
		if ok(all) {
			return true
		}
		select {
		case <-changed:
		case <-deadline:
			return false
		}
	}
}

func (l *lines) String() string {
	all, _ := l.now()
	return strings.Join(append(all, ""), "\n")
}

func TestParseBlocks(t *testing.T) {
	got := parseBlocks("a\n```sh tour name=x,y\none\ntwo\n```\nb\n```text\nthree\n```\n")
	if len(got) != 2 || got[0].line != 2 || !got[0].tour || got[0].attrs["name"] != "x,y" || got[0].text != "one\ntwo\n" {
		t.Fatalf("parseBlocks = %+v", got)
	}
	if got[1].tour || got[1].lang != "text" || got[1].text != "three\n" {
		t.Errorf("second block %+v", got[1])
	}
}
