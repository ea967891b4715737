package device_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/auth"
	"fairlead/device"
	"fairlead/store"
	"fairlead/store/mem"
	"fairlead/store/storetest"
)

// weak is a KV one of whose calls fails: it does nothing, or does it and says that it
// did not.
type weak struct {
	store.KV
	calls int // until that one; negative: it is over
	does  bool
}

var errWeak = fmt.Errorf("weak: %w", syscall.EIO)

func (w *weak) fails() bool {
	w.calls--
	return w.calls == -1
}

func (w *weak) Get(ctx context.Context, key string) (store.Entry, error) {
	if w.fails() {
		return store.Entry{}, errWeak
	}
	return w.KV.Get(ctx, key)
}

func (w *weak) Put(ctx context.Context, key string, value []byte, o store.PutOptions) (store.Rev, error) {
	fails := w.fails()
	if fails && !w.does {
		return 0, errWeak
	}
	rev, err := w.KV.Put(ctx, key, value, o)
	if fails {
		return 0, errWeak
	}
	return rev, err
}

// TestEveryCallFails lets each call of the KV fail in each operation. What is there
// afterwards is what was, or what was to be; and trying again gets there.
func TestEveryCallFails(t *testing.T) {
	ctx := t.Context()
	done := func(_ any, err error) error { return err }
	for name, op := range map[string]struct {
		do   func(r *device.Registry) error
		name string // what it is about
	}{
		"add": {func(r *device.Registry) error {
			return done(r.Add(ctx, device.Device{Name: "new", Groups: []string{"g", "h"}, Password: hash}, device.AddOptions{}))
		}, "device new"},
		"again": {func(r *device.Registry) error {
			return done(r.Add(ctx, device.Device{Name: "old"}, device.AddOptions{Again: true}))
		}, "device old"},
		"suspend":  {func(r *device.Registry) error { return done(r.Suspend(ctx, "d", 0)) }, "device d"},
		"retire":   {func(r *device.Registry) error { return done(r.Retire(ctx, "d", 0, "x")) }, "device d"},
		"password": {func(r *device.Registry) error { return done(r.SetPassword(ctx, "d", 0, hash, nil)) }, "device d"},
		"user": {func(r *device.Registry) error {
			return done(r.AddUser(ctx, device.User{Name: "u", Groups: []string{"g"}}))
		}, "user u"},
		"remove user":  {func(r *device.Registry) error { return r.RemoveUser(ctx, "v", 0) }, "user v"},
		"remove group": {func(r *device.Registry) error { return r.RemoveGroup(ctx, "empty", 0) }, "group empty"},
	} {
		for _, does := range []bool{false, true} {
			calls := 0
			for failed := true; failed; calls++ {
				failed = failAt(t, fmt.Sprintf("%s, call %d, done %v", name, calls, does), op.do, op.name, calls, does)
			}
			if calls < 3 {
				t.Errorf("%s: only %d calls failed", name, calls-1)
			}
		}
	}
}

func failAt(t *testing.T, what string, do func(*device.Registry) error, about string, call int, does bool) (failed bool) {
	t.Helper()
	e := mem.New()
	w := &weak{KV: e.KV(), calls: -1}
	r, err := device.Open(t.Context(), w, device.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	add(t, r, device.Device{Name: "d", Certificates: []device.Certificate{certificate("a")}})
	add(t, r, device.Device{Name: "old"})
	must[device.Device](t)(r.Retire(t.Context(), "old", 0, ""))
	must[device.User](t)(r.AddUser(t.Context(), device.User{Name: "v"}))
	must[device.Group](t)(r.AddGroup(t.Context(), device.Group{Name: "empty"}))
	before := shape(state(t, r)[about])

	w.calls, w.does = call, does
	err = do(r)
	failed = err != nil
	if failed && !errors.Is(err, syscall.EIO) {
		t.Fatalf("%s: %v", what, err)
	}
	w.calls = -1
	kept := open(t, e.KV())
	now := shape(state(t, kept)[about])
	err = do(r)
	if err != nil && !errors.Is(err, device.ErrExists) && !errors.Is(err, device.ErrNotFound) {
		t.Fatalf("%s: a second try: %v", what, err)
	}
	after := shape(state(t, open(t, e.KV()))[about])
	if now != before && now != after {
		t.Errorf("%s: half done: %s\nbefore: %s\nafter:  %s", what, now, before, after)
	}
	if before == after {
		t.Errorf("%s: nothing was done", what)
	}
	return failed
}

// shape is what matters of an entity.
func shape(x any) string {
	switch x := x.(type) {
	case device.Device:
		revoked := 0
		for _, c := range x.Certificates {
			if !c.Revoked.IsZero() {
				revoked++
			}
		}
		return fmt.Sprintf("%s %s %v password %d, %d of %d certificates revoked", x.Name, x.State, x.Groups, len(string(x.Password)), revoked, len(x.Certificates))
	case device.User:
		return fmt.Sprintf("%s %v", x.Name, x.Groups)
	case device.Group:
		return x.Name
	}
	return "nothing"
}

func TestOpenFails(t *testing.T) {
	f := storetest.NewFaulty(mem.New())
	f.FailKV(1, syscall.EIO)
	if _, err := device.Open(t.Context(), f.KV(), device.Options{}); !errors.Is(err, syscall.EIO) {
		t.Errorf("Open on a KV that fails: %v", err)
	}
}

// tired is a KV whose Watch ends when told to.
type tired struct {
	store.KV
	end chan struct{}
}

func (k *tired) Watch(ctx context.Context, prefix string, from store.Rev) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-k.end:
				cancel()
			case <-ctx.Done():
			}
		}()
		for c, err := range k.KV.Watch(ctx, prefix, from) {
			if !yield(c, err) {
				return
			}
		}
	}
}

// TestInterruptedWatch: what happened meanwhile is seen afterwards.
func TestInterruptedWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := mem.New().KV()
		end := make(chan struct{})
		r := open(t, &tired{kv, end})
		other := open(t, kv)
		add(t, other, device.Device{Name: "d"})
		must[device.User](t)(other.AddUser(t.Context(), device.User{Name: "u"}))
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var heard feed
		changes := r.Changes(ctx)
		go heard.follow(changes)
		for n := range 3 {
			end <- struct{}{}
			synctest.Wait() // the watch has ended, and waits before the next
			must[device.Device](t)([]func(context.Context, string, store.Rev) (device.Device, error){other.Suspend, other.Resume}[n%2](t.Context(), "d", 0))
			if n == 1 {
				if err := other.RemoveUser(t.Context(), "u", 0); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			if got := heard.take(); len(got) != 0 {
				t.Errorf("heard %v while interrupted", got)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if want := 1 + n%2; len(heard.take()) != want {
				t.Errorf("interruption %d: want %d changes", n, want)
			}
			if !reflect.DeepEqual(state(t, r), state(t, other)) {
				t.Errorf("interruption %d: they differ", n)
			}
		}
		if s := r.Stats(); s.Interruptions != 3 || s.Err == nil {
			t.Errorf("%+v", s)
		}
	})
}

// TestChangeDuringOpen: a change between the reading of two pages is not missed.
func TestChangeDuringOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := mem.New().KV()
		fillKV(t, kv, 1500)
		other := open(t, kv)
		busy := &busy{KV: kv, then: func() {
			must[device.Device](t)(other.Suspend(t.Context(), "device-000001", 0))
			must[device.Device](t)(other.Suspend(t.Context(), "device-001499", 0))
			add(t, other, device.Device{Name: "a-new-one"})
		}}
		r := open(t, busy)
		synctest.Wait()
		for _, name := range []string{"device-000001", "device-001499", "a-new-one"} {
			got, ok := r.Device(name)
			want, _ := other.Device(name)
			if !ok || got.State != want.State {
				t.Errorf("%s is %s, want %s", name, got.State, want.State)
			}
		}
	})
}

// busy changes something once a first page has been read.
type busy struct {
	store.KV
	then func()
}

func (k *busy) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	list, err := k.KV.List(ctx, prefix, after, limit)
	if then := k.then; then != nil {
		k.then = nil
		then()
	}
	return list, err
}

// TestFormat holds what is written to what other versions read.
func TestFormat(t *testing.T) {
	kv := mem.New().KV()
	for key, value := range map[string]string{
		"registry/device/d": `{"v":1,"device":{"state":"suspended","groups":["g"],"attrs":{"site":"a"},"certificates":[{"serial":"a1","not_after":"2027-01-02T03:04:05Z","fingerprint":"0100000000000000000000000000000000000000000000000000000000000000","revoked":"2026-01-02T03:04:05Z","reason":"lost"}],"password":"$x","scram":{"salt":"c2FsdA==","iterations":15000,"stored_key":"c3RvcmVk","server_key":"c2VydmVy"},"created":"2026-01-02T03:04:05Z","updated":"2026-01-02T03:04:06Z"}}`,
		"registry/user/u":   `{"v":1,"user":{"role":"admin","groups":["g"],"disabled":true,"password":"$x","created":"2026-01-02T03:04:05Z","updated":"2026-01-02T03:04:06Z"}}`,
		"registry/group/g":  `{"v":1,"group":{"about":"doors","created":"2026-01-02T03:04:05Z","updated":"2026-01-02T03:04:06Z"}}`,
		"registry/token/x":  `{"v":1,"token":{"hash":"$x","user":"u","about":"laptop","expires":"2027-01-02T03:04:05Z","created":"2026-01-02T03:04:05Z"}}`,
		"registry/user/w":   `{"v":1,"gone":true}`,
	} {
		e, err := device.Decode(key, []byte(value), 7)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if e == nil {
			continue
		}
		if again, err := device.Encode(e); err != nil || string(again) != value {
			t.Errorf("%s: written as\n%s, %v, want\n%s", key, again, err, value)
		}
		must[store.Rev](t)(kv.Put(t.Context(), key, []byte(value), store.PutOptions{}))
	}
	r := open(t, kv)
	if s := r.Stats(); s != (device.Stats{Devices: 1, Users: 1, Groups: 1, Tokens: 1}) {
		t.Errorf("%+v", s)
	}
	d := must[device.Device](t)(r.Show(t.Context(), "d"))
	if d.State != auth.Suspended || d.SCRAM.Iterations != 15000 || d.Certificates[0].Serial != "a1" || d.Attrs["site"] != "a" {
		t.Errorf("%+v", d)
	}
}

func TestValuesThatCannotBeRead(t *testing.T) {
	newer := mem.New().KV()
	must[store.Rev](t)(newer.Put(t.Context(), "registry/device/d", []byte(`{"v":2,"device":7}`), store.PutOptions{}))
	_, err := device.Open(t.Context(), newer, device.Options{})
	wantErr(t, "a newer version", err, store.ErrNewerFormat)

	kv := mem.New().KV()
	bad := map[string]string{
		"registry/device/a":  `{"v":1,"device":{"state":"happy"}}`,
		"registry/device/b":  `{"v":1,"user":{}}`,
		"registry/device/c":  `{"v":1,"device":{"state":"active","more":1}}`,
		"registry/device/d":  `{"v":0}`,
		"registry/device/e":  `{"v":1,"gone":true} {}`,
		"registry/device/f":  "",
		"registry/user/a/b":  `{"v":1,"user":{}}`,
		"registry/token/x":   `{"v":1,"token":{"hash":"","user":"u"}}`,
		"registry/group/../": `{"v":1,"group":{}}`,
	}
	for key, value := range bad {
		must[store.Rev](t)(kv.Put(t.Context(), key, []byte(value), store.PutOptions{}))
	}
	must[store.Rev](t)(kv.Put(t.Context(), "registry/later/x", []byte("anything"), store.PutOptions{}))
	r := open(t, kv)
	add(t, r, device.Device{Name: "good"})
	if s := r.Stats(); s.Unreadable != len(bad) || s.Devices != 1 || s.Users+s.Groups+s.Tokens != 0 {
		t.Errorf("%+v, want %d unreadable", s, len(bad))
	}
	if _, ok := r.Device("a"); ok {
		t.Error("a damaged device is there")
	}
	for _, err := range []error{second(r.Show(t.Context(), "a")), second(r.Suspend(t.Context(), "a", 0)), second(r.Add(t.Context(), device.Device{Name: "a"}, device.AddOptions{}))} {
		wantErr(t, "a damaged device", err, store.ErrDamaged)
	}
}

// FuzzDecode reads any value under any key. What is accepted is valid, and written and
// read again it is the same.
func FuzzDecode(f *testing.F) {
	for _, value := range []string{
		`{"v":1,"device":{"state":"active","groups":["a","b"],"attrs":{"site":"x"},"certificates":[{"serial":"a1","not_after":"2027-01-02T03:04:05Z","fingerprint":"0100000000000000000000000000000000000000000000000000000000000000"}],"password":"$x","scram":{"salt":"YQ==","iterations":1,"stored_key":"YQ==","server_key":"YQ=="},"created":"2026-01-02T03:04:05Z","updated":"2026-01-02T03:04:06Z"}}`,
		`{"v":1,"user":{"role":"admin"}}`, `{"v":1,"group":{"about":"x"}}`, `{"v":1,"token":{"hash":"$","device":"d"}}`, `{"v":2}`, `{"v":1,"gone":true}`,
	} {
		for _, kind := range []string{"device", "user", "group", "token"} {
			f.Add("registry/"+kind+"/n", []byte(value))
		}
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		e, err := device.Decode(key, value, 1)
		if err != nil || e == nil {
			return
		}
		if err := e.Check(); err != nil {
			t.Fatalf("accepted what is wrong: %v", err)
		}
		written, err := device.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := device.Decode(key, written, 1)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if twice, err := device.Encode(again); err != nil || string(twice) != string(written) {
			t.Errorf("written as %s and then as %s, %v", written, twice, err)
		}
	})
}
