package access

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"fairlead/auth"
	"fairlead/mqtt"
	"fairlead/policy"
	"fairlead/store"
	"fairlead/store/mem"
	"fairlead/store/storetest"
)

type registry map[string]auth.Device

func (r registry) Device(name string) (auth.Device, bool) { d, ok := r[name]; return d, ok }

// allow is a document that lets users publish to a topic.
func allow(name, topic string) []byte {
	return fmt.Appendf(nil, "policies:\n  %s:\n    who: every user\n    allow:\n      - publish: %s\n", name, topic)
}

func open(t *testing.T, kv store.KV, o Options) *Policies {
	t.Helper()
	p, err := Open(t.Context(), kv, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func may(p *Policies, topic string) bool {
	return p.Rights(&policy.Principal{User: "anna"}).Publish(topic, mqtt.QoS0, false, 0).Allowed()
}

// TestApply puts documents in force, changes and removes them: what decides is what the
// documents say, and so it is for the next who opens them.
func TestApply(t *testing.T) {
	kv := mem.New().KV()
	changes := 0
	p := open(t, kv, Options{Changed: func() { changes++ }})
	if may(p, "a") {
		t.Error("a user may publish without a document that says so")
	}
	d, err := p.Apply(t.Context(), "plant", allow("one", "a"), "anna", 0)
	if err != nil || d.Version != 1 || d.By != "anna" {
		t.Fatalf("Apply = %+v, %v", d, err)
	}
	if _, err := p.Apply(t.Context(), "plant", allow("one", "b"), "anna", 0); !errors.Is(err, ErrChanged) {
		t.Errorf("Apply of a document that is there = %v, want %v", err, ErrChanged)
	}
	if !may(p, "a") || may(p, "b") {
		t.Error("the document that was applied is not the one in force")
	}
	if _, err := p.Apply(t.Context(), "plant", allow("one", "b"), "anna", 1); err != nil {
		t.Fatal(err)
	}
	again := open(t, kv, Options{})
	for _, q := range []*Policies{p, again} {
		if may(q, "a") || !may(q, "b") {
			t.Error("the second version is not in force")
		}
	}
	if err := p.Remove(t.Context(), "plant", AnyVersion); err != nil {
		t.Fatal(err)
	}
	if may(p, "b") {
		t.Error("a document that was removed still decides")
	}
	if err := p.Remove(t.Context(), "plant", AnyVersion); !errors.Is(err, ErrNotFound) {
		t.Errorf("Remove twice = %v, want %v", err, ErrNotFound)
	}
	if changes != 3 {
		t.Errorf("%d changes were told, want 3", changes)
	}
}

// TestBadDocuments leaves the policies in force as they are.
func TestBadDocuments(t *testing.T) {
	p := open(t, mem.New().KV(), Options{})
	if _, err := p.Apply(t.Context(), "plant", allow("one", "a"), "", 0); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		document string
		text     []byte
		want     string
	}{
		"no rule":           {"x", allow("two", "a/#/b"), "x:5:18: topic filter"},
		"the same policy":   {"x", allow("one", "b"), `"one"`},
		"a name with slash": {"../x", allow("two", "b"), "expected letters"},
		"too long":          {"x", []byte(strings.Repeat("#", TextMax+1)), "expected at most"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.Apply(t.Context(), test.document, test.text, "", AnyVersion)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Apply = %v, want %s", err, test.want)
			}
			if _, err := p.Check(test.document, test.text); err == nil {
				t.Error("Check has nothing against it")
			}
			if !may(p, "a") || may(p, "b") {
				t.Error("other policies are in force")
			}
		})
	}
}

// TestFailingStore applies nothing that is not durable.
func TestFailingStore(t *testing.T) {
	f := storetest.NewFaulty(mem.New())
	p := open(t, f.KV(), Options{})
	f.FailKV(storetest.All, errors.New("no disk"))
	if _, err := p.Apply(t.Context(), "plant", allow("one", "a"), "", 0); err == nil || may(p, "a") {
		t.Errorf("Apply on a disk that fails = %v, and it decides: %v", err, may(p, "a"))
	}
	f.FailKV(0, nil)
	if _, err := p.Apply(t.Context(), "plant", allow("one", "a"), "", 0); err != nil || !may(p, "a") {
		t.Errorf("Apply afterwards = %v", err)
	}
}

// TestFiles reads documents of the configuration, which can't be removed, and refuses
// to open with one that is wrong.
func TestFiles(t *testing.T) {
	good, bad := filepath.Join(t.TempDir(), "good.yaml"), filepath.Join(t.TempDir(), "bad.yaml")
	for name, text := range map[string][]byte{good: allow("one", "a"), bad: allow("two", "a/#/b")} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := open(t, mem.New().KV(), Options{Files: []string{good}})
	if !may(p, "a") {
		t.Error("the file does not decide")
	}
	if err := p.Remove(t.Context(), good, AnyVersion); !errors.Is(err, ErrFile) {
		t.Errorf("Remove of a file = %v, want %v", err, ErrFile)
	}
	if d := p.Documents(); len(d) != 1 || d[0].Name != good || d[0].Version != 0 {
		t.Errorf("Documents = %+v", d)
	}
	_, err := Open(t.Context(), mem.New().KV(), Options{Files: []string{good, bad, "missing.yaml"}})
	if err == nil || !strings.Contains(err.Error(), bad+":5:18") || !strings.Contains(err.Error(), "missing.yaml") {
		t.Errorf("Open = %v, want the places of what is wrong", err)
	}
}

// TestFollow has two nodes on one KV: what one applies the other enforces.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mem.New()
		defer e.Close()
		told := make(chan struct{}, 10)
		one := open(t, e.KV(), Options{})
		two := open(t, e.KV(), Options{Changed: func() { told <- struct{}{} }})
		synctest.Wait()
		if _, err := one.Apply(t.Context(), "plant", allow("one", "a"), "", 0); err != nil {
			t.Fatal(err)
		}
		<-told
		if !may(two, "a") {
			t.Error("the other node does not know")
		}
		if err := one.Remove(t.Context(), "plant", AnyVersion); err != nil {
			t.Fatal(err)
		}
		<-told
		if may(two, "a") {
			t.Error("the other node does not know that it is gone")
		}
		one.Close()
		two.Close()
	})
}

// TestAdmission answers what the broker asks.
func TestAdmission(t *testing.T) {
	p := open(t, mem.New().KV(), Options{Registry: registry{"pump": {}}})
	for id, want := range map[mqtt.ClientID]bool{"pump": true, "pump:2": true, "pumps": false, "": false} {
		if got := p.Reserved(id); got != want {
			t.Errorf("Reserved(%q) = %v, want %v", id, got, want)
		}
	}
	if p.Rights(&policy.Principal{Method: policy.MethodOpen}) != nil {
		t.Error("who comes by an open listener is asked for rights")
	}
}
