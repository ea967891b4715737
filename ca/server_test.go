package ca

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

func (f *fixture) serverNames() string {
	leaf := f.server.Load().Leaf
	return fmt.Sprint(leaf.DNSNames, leaf.IPAddresses)
}

func TestServerNames(t *testing.T) {
	for _, test := range []struct {
		name, host string
		addrs      []string
		options    []string
		want       string
	}{
		{"short host name", "Kiosk", []string{"192.0.2.7/24"}, nil, "[localhost kiosk kiosk.local] [127.0.0.1 ::1 192.0.2.7]"},
		{"full host name", "kiosk.example.org.", nil, nil, "[localhost kiosk.example.org] [127.0.0.1 ::1]"},
		{"host name that is no DNS name", "my_host", nil, nil, "[localhost] [127.0.0.1 ::1]"},
		{"addresses without a meaning elsewhere", "k", []string{"fe80::1/64", "ff02::1/16", "0.0.0.0/0"}, nil, "[localhost k k.local] [127.0.0.1 ::1]"},
		{"addresses twice and in any order", "k", []string{"192.0.2.9/24", "127.0.0.1/8", "192.0.2.7/24", "192.0.2.9/24"}, nil, "[localhost k k.local] [127.0.0.1 ::1 192.0.2.7 192.0.2.9]"},
		{"names of the operator", "k", nil, []string{"Broker.Example.org", "*.example.net", "203.0.113.5", "::ffff:203.0.113.6"}, "[broker.example.org *.example.net localhost k k.local] [203.0.113.5 203.0.113.6 127.0.0.1 ::1]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.host, f.addrs, f.o.Names = test.host, test.addrs, test.options
			f.open()
			if got := f.serverNames(); got != test.want {
				t.Errorf("names %s, want %s", got, test.want)
			}
		})
	}
}

func TestBadServerNames(t *testing.T) {
	for _, name := range []string{"", "a b", "-a.example", "a..b", "*", "a.*.b", "fe80::1%eth0", strings.Repeat("a", 64), "mqtts://host"} {
		f := newFixture(t)
		f.o.Names = []string{name}
		wantError(t, f.tryOpen(), "server name", "expected a DNS name or an address")
	}
}

func TestManyServerNames(t *testing.T) {
	f := newFixture(t)
	f.o.Names = []string{"broker.example.org"}
	for i := range 3 * namesMax {
		f.addrs = append(f.addrs, fmt.Sprintf("10.0.%d.%d/16", i/250, 1+i%250))
	}
	f.open()
	if got := len(f.server.Load().Leaf.IPAddresses); got != namesMax {
		t.Errorf("%d addresses, want %d", got, namesMax)
	}
	before := f.server.Load()
	f.Maintain()
	if f.server.Load() != before {
		t.Error("a certificate that can't have all addresses is made again and again")
	}
}

func TestServerRenewal(t *testing.T) {
	f := opened(t)
	before := f.server.Load()
	f.set(share(before.Leaf, 2, 3).Add(-1))
	f.Maintain()
	if f.server.Load() != before {
		t.Fatal("renewed before two thirds of its time")
	}
	f.reported()
	f.sleep(1)
	f.Maintain()
	after := f.server.Load()
	if after == before || !after.Leaf.NotAfter.Equal(f.o.Now().Add(ServerValidity)) {
		t.Fatal("not renewed at two thirds of its time")
	}
	if got := f.reported(); !strings.HasPrefix(got, "server certificate: made for localhost, kiosk, kiosk.local, 127.0.0.1, ::1, 192.0.2.7, 2001:db8::7, until 2027-") {
		t.Errorf("reported %q", got)
	}
	f.reopen()
	if !f.server.Load().Leaf.Equal(after.Leaf) {
		t.Error("the renewed certificate was not kept")
	}
}

func TestServerFollowsTheHost(t *testing.T) {
	f := opened(t)
	before := f.server.Load()
	f.addrs = nil // an interface goes down
	f.Maintain()
	if f.server.Load() != before {
		t.Error("made anew because an address went away")
	}
	f.addrs = []string{"192.0.2.7/24", "198.51.100.3/24"}
	f.Maintain()
	if got := f.serverNames(); !strings.Contains(got, "198.51.100.3") {
		t.Errorf("names %s, want the new address", got)
	}
	f.host = "renamed"
	f.Maintain()
	if got := f.serverNames(); !strings.Contains(got, "renamed.local") {
		t.Errorf("names %s, want the new host name", got)
	}
}

// TestRenewalKeepsConnections renews while a connection is open.
func TestRenewalKeepsConnections(t *testing.T) {
	f := opened(t)
	config := f.TLS(TLSOptions{})
	ours, theirs := sockets(t)
	defer ours.Close()
	defer theirs.Close()
	server, client := tls.Server(ours, config), tls.Client(theirs, f.client(Bundle{}))
	go func() {
		io.Copy(server, server)
		server.Close()
	}()
	echo := func() {
		t.Helper()
		b := make([]byte, 4)
		if _, err := client.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, b); err != nil || string(b) != "ping" {
			t.Fatalf("read %q, %v", b, err)
		}
	}
	echo()
	f.sleep(ServerValidity * 2 / 3)
	f.Maintain()
	echo()
	newest := f.server.Load().Leaf.NotAfter
	probe := f.client(Bundle{})
	probe.VerifyConnection = func(s tls.ConnectionState) error {
		if !s.PeerCertificates[0].NotAfter.Equal(newest) {
			return errors.New("the old certificate")
		}
		return nil
	}
	f.handshake(config, probe).want("")
}

func TestServerProblems(t *testing.T) {
	f := opened(t)
	before := f.server.Load()
	f.reported()
	f.dir.fault = func(string) error { return errors.New("disk full") }
	f.sleep(ServerValidity * 2 / 3)
	f.Maintain()
	f.Maintain()
	if got := f.reported(); strings.Count(got, "server certificate: ") != 1 || !strings.Contains(got, "disk full") {
		t.Errorf("reported %q, want the problem once", got)
	}
	if f.server.Load() != before {
		t.Error("a certificate that is not on disk is in force")
	}
	f.dir.fault = func(string) error { return nil }
	f.Maintain()
	if f.server.Load() == before {
		t.Error("not renewed after the problem was gone")
	}
}

func TestNoAddresses(t *testing.T) {
	f := newFixture(t)
	f.o.Addresses = func() ([]net.Addr, error) { return nil, errors.New("no netlink") }
	wantError(t, f.tryOpen(), "this host's addresses: no netlink")
	f.o.Addresses = f.addresses
	f.o.Hostname = func() (string, error) { return "", errors.New("no name") }
	wantError(t, f.tryOpen(), "this host's name: no name")
}

// TestDefaults opens a CA with this host's own clock, name and addresses.
func TestDefaults(t *testing.T) {
	a, err := Open(t.TempDir()+"/ca", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	c, err := a.GetCertificate(nil)
	if err != nil || !slices.Contains(c.Leaf.DNSNames, "localhost") {
		t.Errorf("GetCertificate() = %v, %v", c, err)
	}
}
