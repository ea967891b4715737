package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"fairlead/admin"
)

func TestTimes(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)
	for s, want := range map[string]time.Time{
		"2h": now.Add(-2 * time.Hour), "7d": now.Add(-7 * 24 * time.Hour), "0d": now,
		"2026-11-24": time.Date(2026, 11, 24, 0, 0, 0, 0, time.Local), "2026-11-24 13:30": time.Date(2026, 11, 24, 13, 30, 0, 0, time.Local),
		"2026-11-24T13:30:05": time.Date(2026, 11, 24, 13, 30, 5, 0, time.Local), "2026-11-24T13:30:05Z": time.Date(2026, 11, 24, 13, 30, 5, 0, time.UTC),
	} {
		if got, err := ParsePast(s, now); err != nil || !got.Equal(want) {
			t.Errorf("ParsePast(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "now", "-2h", "-7d", "7", "106752d", "1h2d", "2026-13-01"} {
		if got, err := ParsePast(s, now); err == nil {
			t.Errorf("ParsePast(%q) = %v, want an error", s, got)
		}
	}
}

func TestChanged(t *testing.T) {
	got := Changed([]string{"b", "a"}, []string{"c", "a"}, []string{"b", "x"})
	if strings.Join(got, " ") != "a c" {
		t.Errorf("got %q, want a c", got)
	}
	if got := Changed([]string{"a"}, nil, []string{"a"}); got == nil || len(got) != 0 {
		t.Errorf("got %#v, want a list without words: as JSON it is no null", got)
	}
}

func TestCiphers(t *testing.T) {
	for list, want := range map[string][]uint16{
		"ECDHE-RSA-AES128-GCM-SHA256":                                      {tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		"ECDHE-ECDSA-CHACHA20-POLY1305:TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": {tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA},
		"ECDHE-ECDSA-AES256-SHA":                                           {tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA},
	} {
		c, err := (&tlsFlags{ciphers: list}).config()
		if err != nil || len(c.CipherSuites) != len(want) || c.CipherSuites[0] != want[0] || c.CipherSuites[len(want)-1] != want[len(want)-1] {
			t.Errorf("--ciphers %s: %v, %v", list, c, err)
		}
	}
	for _, list := range []string{"RC4-MD5", "HIGH", "TLS_AES_128_GCM_SHA256", ":"} {
		if _, err := (&tlsFlags{ciphers: list}).config(); ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), "ECDHE-ECDSA-AES128-GCM-SHA256") {
			t.Errorf("--ciphers %s: %v, want a usage error that names some", list, err)
		}
	}
}

func TestListThatStandsStill(t *testing.T) {
	var out, stderr bytes.Buffer
	env := &Env{Stdout: &out, Stderr: &stderr}
	calls := 0
	l := List[int]{
		Get: func(_ context.Context, p admin.Page) (*admin.List[int], error) {
			calls++
			return &admin.List[int]{Items: []int{1}, Next: "x"}, nil
		},
		Row: func(int) []string { return []string{"one"} },
	}
	if _, err := l.Print(t.Context(), env); err == nil || calls != 2 {
		t.Errorf("%v after %d calls, want an error after 2", err, calls)
	}
	lost := errors.New("lost")
	l.Get = func(context.Context, admin.Page) (*admin.List[int], error) { return nil, lost }
	if _, err := l.Print(t.Context(), env); !errors.Is(err, lost) {
		t.Errorf("%v, want %v", err, lost)
	}
}
