package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startPatience = 20 * time.Second
	stopPatience  = 8 * time.Second
)

// A process is a broker that this program has started. It ends no other.
type process struct {
	*os.Process
	log  string        // file with its output
	done chan struct{} // closed when it has ended
}

// launch begins the broker in l.dir. Its output goes to l.dir/log.
func (b broker) launch(l layout) (*process, error) {
	if b.files != nil {
		if err := writeFiles(l.dir, b.files(l)); err != nil {
			return nil, err
		}
	}
	out, err := os.OpenFile(filepath.Join(l.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the process has its own by then
	// As many open files as may be: one per connection. exec keeps the process id.
	cmd := exec.Command("sh", append([]string{"-c", `ulimit -n 200000 2>/dev/null || ulimit -n "$(ulimit -Hn)"; exec "$@"`, "sh"}, b.command(l)...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.dir, out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd.Process, out.Name(), make(chan struct{})}
	go func() { // ends with the process
		_ = cmd.Wait() // it is ended by a signal
		close(p.done)
	}()
	return p, nil
}

// start launches the broker and returns once it takes connections.
func (b broker) start(ctx context.Context, l layout) (*process, error) {
	p, err := b.launch(l)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for _, port := range []string{l.port, l.tlsPort} {
		if err := p.await(ctx, port); err != nil {
			p.end()
			return nil, fmt.Errorf("%s: %w: %s", b.name, err, p.said())
		}
	}
	return p, nil
}

// saidMax is how much of a broker's output an error quotes.
const saidMax = 1000

// said is the end of what the process has printed.
func (p *process) said() string {
	text, _ := os.ReadFile(p.log) // there may be nothing to quote
	return strings.ToValidUTF8(string(text[max(0, len(text)-saidMax):]), "")
}

// await returns once the loopback port takes a connection.
func (p *process) await(ctx context.Context, port string) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		nc, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			return nc.Close()
		}
		select {
		case <-again.C:
		case <-p.done:
			return fmt.Errorf("ended before port %s took connections", port)
		case <-ctx.Done():
			return fmt.Errorf("port %s takes no connections: %w", port, err)
		}
	}
}

// end asks the process to end, and ends it.
func (p *process) end() {
	_ = p.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-p.done:
	case <-time.After(stopPatience):
		p.kill()
	}
}

// kill ends the process as kill -9 does, and waits for that.
func (p *process) kill() {
	_ = p.Process.Kill() // fails only if it has ended
	<-p.done
}

// memory is the process's resident memory, now and at most, in bytes.
func (p *process) memory() (now, peak int64, err error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid) + "/status")
	if err != nil {
		return 0, 0, fmt.Errorf("memory of the broker: %w", err)
	}
	return kibOf(string(text), "VmRSS"), kibOf(string(text), "VmHWM"), nil
}

// kibOf is the value of a line "name: 123 kB", in bytes; 0 if there is none.
func kibOf(text, name string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// cpu is the processor time that the process has used so far, in seconds.
func (p *process) cpu() (float64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("CPU time of the broker: %w", err)
	}
	return cpuOf(string(stat))
}

// cpuOf reads /proc/PID/stat, whose second field is a name in parentheses that may hold
// anything.
func cpuOf(stat string) (seconds float64, err error) {
	const perSecond = 100 // ticks: proc(5), what Linux tells programs
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("%d fields behind the name in /proc/PID/stat, expected at least 13", len(fields))
	}
	for _, ticks := range fields[11:13] { // utime, stime
		n, err := strconv.ParseUint(ticks, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("CPU time in /proc/PID/stat: %w", err)
		}
		seconds += float64(n) / perSecond
	}
	return seconds, nil
}

// forgetPeak makes the kernel begin anew with the most memory that the process has
// had.
func (p *process) forgetPeak() error {
	const peak = "5" // proc(5), /proc/PID/clear_refs
	return os.WriteFile("/proc/"+strconv.Itoa(p.Pid)+"/clear_refs", []byte(peak), 0)
}

// diskUse is the space that the files below dir take, in bytes.
func diskUse(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			n += s.Blocks * 512 // stat(2): whatever the file system's own blocks
		}
		return nil
	})
	return n, err
}

// ignoreGone: a running broker removes files.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// fileSystem says what kind of file system dir is on.
func fileSystem(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "unknown"
	}
	// statfs(2)
	names := map[int64]string{0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs",
		0x794C7630: "overlayfs", tmpfs: "tmpfs, where an fsync does nothing"}
	if name, ok := names[int64(s.Type)]; ok {
		return name
	}
	return fmt.Sprintf("file system %#x", s.Type)
}

const tmpfs = 0x01021994

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// output runs a command and returns what it has printed.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func writeFiles(dir string, files map[string]string) error {
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
