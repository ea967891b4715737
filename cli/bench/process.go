package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticks are those of /proc/PID/stat a second: Linux tells them to programs as
// 100, whatever the kernel's own clock.
const ticks = 100

// processUse is what a process has used since it began.
type processUse struct {
	cpu     float64 // seconds, user and system
	rss     int64   // bytes now
	rssPeak int64
	disk    int64 // bytes that it had written to block devices; -1: not for us to see
}

// useOf asks the kernel. Only Linux says.
func useOf(pid int) (processUse, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return processUse{}, fmt.Errorf("--pid %d: %w", pid, err)
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return processUse{}, fmt.Errorf("--pid %d: %w", pid, err)
	}
	io, _ := os.ReadFile(dir + "io") // another user's process: its owner's alone
	return parseUse(string(stat), string(status), string(io))
}

// parseUse reads /proc/PID/stat, status and io. io may be empty.
func parseUse(stat, status, io string) (u processUse, err error) {
	// The second field is the command's name in parentheses, with spaces and all.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return u, fmt.Errorf("%d fields behind the name in /proc/PID/stat, expected at least 13", len(fields))
	}
	for _, ticked := range fields[11:13] { // utime, stime
		n, err := strconv.ParseUint(ticked, 10, 64)
		if err != nil {
			return u, fmt.Errorf("CPU time in /proc/PID/stat: %w", err)
		}
		u.cpu += float64(n) / ticks
	}
	u.rss = kib(status, "VmRSS")
	u.rssPeak = kib(status, "VmHWM")
	u.disk = -1
	if written, err := strconv.ParseInt(value(io, "write_bytes"), 10, 64); err == nil {
		u.disk = written
	}
	return u, nil
}

// kib is the value of a line "name: 123 kB", in bytes; 0 if there is none.
func kib(text, name string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(value(text, name), " kB"), 10, 64)
	return n << 10
}

// value is what stands behind "name:" at the beginning of a line.
func value(text, name string) string {
	for line := range bytes.Lines([]byte(text)) {
		if rest, ok := strings.CutPrefix(string(line), name+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// meter measures what the broker and the bench use from its beginning on. Its zero
// value, without --pid, measures nothing.
type meter struct {
	pid           int
	broker, bench processUse // at the beginning
}

func newMeter(pid int) (meter, error) {
	if pid == 0 {
		return meter{}, nil
	}
	m := meter{pid: pid}
	var err error
	if m.broker, err = useOf(pid); err != nil {
		return m, err
	}
	m.bench, err = useOf(os.Getpid())
	return m, err
}

// cpu is the broker's CPU time since the beginning, in seconds.
func (m meter) cpu() (float64, error) {
	if m.pid == 0 {
		return 0, nil
	}
	now, err := useOf(m.pid)
	return now.cpu - m.broker.cpu, err
}

// use is what has been used since the beginning, for so many messages delivered
// and so many bytes of payload accepted; nil without --pid.
func (m meter) use(messages, payload uint64) (*brokerUse, error) {
	if m.pid == 0 {
		return nil, nil
	}
	broker, err := useOf(m.pid)
	if err != nil {
		return nil, fmt.Errorf("the broker has ended: %w", err)
	}
	bench, err := useOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	u := &brokerUse{CPU: broker.cpu - m.broker.cpu, RSS: broker.rss, RSSPeak: broker.rssPeak, BenchCPU: bench.cpu - m.bench.cpu}
	u.CPUMessage = perMessage(u.CPU, messages)
	if m.broker.disk >= 0 && broker.disk >= 0 {
		written := broker.disk - m.broker.disk
		u.Disk = &written
		if payload > 0 {
			ratio := float64(written) / float64(payload)
			u.DiskByte = &ratio
		}
	}
	return u, nil
}

// perMessage is in microseconds.
func perMessage(seconds float64, messages uint64) float64 {
	if messages == 0 {
		return 0
	}
	return seconds * 1e6 / float64(messages)
}
