package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseLogins(t *testing.T) {
	got, err := parseLogins("# who may come\n\n d1   secret 1 \r\nd2 x\n")
	if want := []login{{"d1", "secret 1"}, {"d2", "x"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("parseLogins = %q, %v, want %q", got, err, want)
	}
	for text, want := range map[string]string{
		"":                      "at least one line",
		"# nobody\n":            "at least one line",
		"d1 x\nd2\n":            "line 2: expected a name",
		"d1 x\n\na/b hush\n":    "line 3: found the name \"a/b\"",
		"# \n+ hush-hush":       "line 2: found the name \"+\"",
		"d1 x\nd2 y\na#b hush ": "line 3: found",
	} {
		if got, err := parseLogins(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("parseLogins(%q) = %q, %v, want an error with %q", text, got, err, want)
		}
	}
}

func FuzzParseLogins(f *testing.F) {
	f.Add("d1 secret\n# x\n")
	f.Add("d1\x00 \xff\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseLogins(text)
		if (err == nil) != (len(list) > 0) {
			t.Fatalf("%d logins, %v", len(list), err)
		}
		for _, l := range list {
			if l.user == "" || l.password == "" || strings.ContainsAny(l.user, "+#/\n") || strings.Contains(l.password, "\n") {
				t.Fatalf("login %q", l)
			}
		}
	})
}

// TestLoginOf: both of a pair are the same device, so that both may use its topics.
func TestLoginOf(t *testing.T) {
	three := []login{{"a", "1"}, {"b", "2"}, {"c", "3"}}
	l := &load{settings: &settings{name: "pairs", shape: shape{pubs: 4, subs: 4}, topic: "devices/{user}/bench", logins: three}, runID: 7}
	for i, want := range []string{"a", "b", "c", "a"} {
		for _, n := range []int{i, l.shape.subs + i} {
			c := l.connect(n, false)
			if c.User != want || !c.HasPassword || !strings.HasPrefix(string(c.ClientID), want+":b00000007-") {
				t.Errorf("client %d is %s, %q, want %s", n, c.User, c.ClientID, want)
			}
		}
		if got := l.topicOf(i); !strings.HasPrefix(got, "devices/"+want+"/bench/") {
			t.Errorf("topic of pair %d is %s, want one of %s", i, got, want)
		}
	}
	l.settings = &settings{name: "connect", shape: shape{pubs: 4}, logins: three}
	if got := l.connect(3, false).User; got != "a" {
		t.Errorf("client 3 is %s, want a", got)
	}
	l.settings = &settings{name: "connect", shape: shape{pubs: 4}}
	if c := l.connect(3, false); c.HasUser || c.HasPassword {
		t.Errorf("client 3 shows %q, want nothing", c.User)
	}
}

// TestLogins runs two scenarios from the command line.
func TestLogins(t *testing.T) {
	port, file := serve(t), filepath.Join(t.TempDir(), "logins")
	if err := os.WriteFile(file, []byte("d1 x\nd2 y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"pairs --pubs 3 --subs 3 -n 30 -q 1 -t devices/{user}/b", "connect --clients 3 --duration 100ms"} {
		out, err := bench(t, append(strings.Fields(args), "--json", "-p", port, "--logins", file)...)
		if err != nil {
			t.Fatal(err)
		}
		var r result
		if err := json.Unmarshal([]byte(out), &r); err != nil || r.Connected == 0 || r.Received != r.Accepted || r.Broken > 0 {
			t.Errorf("%s printed %s, %v", args, out, err)
		}
	}
}
