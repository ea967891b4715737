package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// small are one value of each form.
func small() map[string][]byte {
	return map[string][]byte{
		recordForm.name:   appendRecord(header(allOps()), allOps()),
		sessionForm.name:  AppendSession(nil, sessionSamples()[2].value),
		chunkForm.name:    AppendChunk(nil, mixed()),
		retainedForm.name: AppendRetained(nil, retainedSamples()[1].value),
	}
}

func wantDamage(t *testing.T, err error, format string, args ...any) {
	t.Helper()
	var wrong *Error
	if !errors.As(err, &wrong) || errors.Is(err, ErrNewer) {
		t.Errorf(format+": %v, want an *Error", append(args, err)...)
	}
}

// TestBitFlips: no flipped bit goes unseen, and none looks like a newer version.
func TestBitFlips(t *testing.T) {
	for name, b := range small() {
		for bit := range 8 * len(b) {
			b[bit/8] ^= 1 << (bit % 8)
			wantDamage(t, readAll(b)[name], "%s with bit %d flipped", name, bit)
			b[bit/8] ^= 1 << (bit % 8)
		}
		if err := readAll(b)[name]; err != nil {
			t.Errorf("%s, whole: %v", name, err)
		}
	}
}

// TestCuts: nothing can be cut off at the end, at the beginning, or added.
func TestCuts(t *testing.T) {
	for name, b := range small() {
		for n := range len(b) {
			wantDamage(t, readAll(b[:n])[name], "the first %d bytes of a %s of %d", n, name, len(b))
			wantDamage(t, readAll(b[n+1:])[name], "the last %d bytes of a %s of %d", len(b)-n-1, name, len(b))
		}
		wantDamage(t, readAll(append(b[:len(b):len(b)], 0))[name], "%s with a byte more", name)
	}
}

// TestSealedCuts is TestCuts for who computes the CRC anew.
func TestSealedCuts(t *testing.T) {
	for _, f := range []form{recordForm, sessionForm, chunkForm, retainedForm} {
		b := small()[f.name]
		for n := frameSize; n <= len(b); n++ {
			cut := append([]byte(nil), b[:n]...)
			if n == len(b) {
				cut = append(cut, 0)
			}
			f.seal(cut)
			wantDamage(t, readAll(cut)[f.name], "%d bytes of a %s of %d", n, f.name, len(b))
		}
	}
}

func TestZeros(t *testing.T) {
	for n := range 64 {
		for name, err := range readAll(make([]byte, n)) {
			wantDamage(t, err, "%d zeros as %s", n, name)
		}
	}
}

// sealed is a value of the form with the body, given in hex and quoted text.
func sealed(t *testing.T, f form, body string) []byte {
	t.Helper()
	b := make([]byte, frameSize)
	for field := range strings.FieldsSeq(body) {
		if text, ok := strings.CutPrefix(field, "'"); ok {
			b = append(b, text...)
			continue
		}
		raw, err := hex.DecodeString(field)
		if err != nil {
			t.Fatalf("body %q: %v", body, err)
		}
		b = append(b, raw...)
	}
	f.seal(b)
	return b
}

// recordOf is a record that announces count ops and holds the body.
func recordOf(t *testing.T, count uint32, body string) []byte {
	t.Helper()
	rec := sealed(t, recordForm, body)
	rec = append(append(rec[:frameSize:frameSize], make([]byte, HeaderSize-frameSize)...), rec[frameSize:]...)
	Seal(rec, Header{First: 1, Count: count})
	return rec
}

const most = "ffffffffffffffffff01" // 2^64-1

// TestInvalidOps reads records with one op that no writer writes.
func TestInvalidOps(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       string
	}{
		{"kind 0", "00", "byte 34: unknown kind 0: expected 1 to 12"},
		{"unknown kind", "0d", "byte 34: unknown kind 13: expected 1 to 12"},
		{"nothing", "", "byte 34: kind: found the end"},
		{"client cut off", "03 02 'c", "byte 35: end: Client Identifier of 2 bytes: found 1"},
		{"client of 2^64-1 bytes", "03" + most, "byte 35: end: Client Identifier of 18446744073709551615 bytes: found 0"},
		{"number too long", "03 8000", "byte 35: end: Client Identifier: a number that takes more bytes than it needs"},
		{"number of 65 bits", "03 ffffffffffffffffff02", "byte 35: end: Client Identifier: a number of more than 64 bits"},
		{"number without end", "03 80", "byte 35: end: Client Identifier: found the end within a number"},
		{"a byte more", "03 01 'c 00", "byte 37: 1 bytes too many: expected the end"},
		{"connect flags", "01 00 08 00", "byte 36: connect: flags 0x08: expected bits of 0x07 only"},
		{"expiry", "01 00 00 8080808010", "byte 37: connect: Session Expiry Interval 4294967296: expected 0 to 4294967295"},
		{"will flags", "01 00 02 00 02", "byte 38: connect: flags of the Will 0x02: expected bits of 0x01 only"},
		{"off flags", "02 00 08", "byte 36: off: flags 0x08: expected bits of 0x07 only"},
		{"subscription QoS 3", "04 00 03 01 't", "byte 36: subscribe: QoS 3: expected 0 to 2"},
		{"Retain Handling 3", "04 00 30 01 't", "byte 36: subscribe: Retain Handling 3: expected 0 to 2"},
		{"reserved option", "04 00 80 01 't", "byte 36: subscribe: Subscription Options 0x80: expected bits of 0x7f only"},
		{"Subscription Identifier 0", "04 00 40 01 't 00", "byte 39: subscribe: Subscription Identifier 0: expected 1 to 268435455"},
		{"Topic Filter", "05 00 02 't#", `byte 36: unsubscribe: Topic Filter: topic filter "t#": '#' at byte 1`},
		{"Packet Identifier 65536", "06 00 808004", "byte 36: message: Packet Identifier 65536: expected 0 to 65535"},
		{"QoS 3", "06 00 00 0b 01 't 00", "byte 37: message: QoS 3: expected 0 to 2"},
		{"no topic", "06 00 00 00 00", "byte 38: message: the Topic Name of the message before: expected one before"},
		{"empty topic", "06 00 00 08 00 00", "byte 38: message: topic name is empty: expected at least one character"},
		{"wildcard", "06 00 00 08 01 '+ 00", `byte 38: message: topic name "+": wildcard '+' at byte 0: wildcards belong in topic filters only`},
		{"not UTF-8", "06 00 00 08 01 ff 00", `byte 38: message: topic name "\xff" is not valid UTF-8 at byte 0`},
		{"no properties", "06 00 00 88 01 't 00 00", "byte 41: message: no Properties, where some were announced"},
		{"property of the broker", "06 00 00 88 01 't 03 230001 00", "byte 41: message: property 0x23: expected one that is forwarded, and all of its bytes"},
		{"property cut off", "06 00 00 88 01 't 07 0101 030003 'ab 00", "byte 43: message: property 0x03: expected one that is forwarded, and all of its bytes"},
		{"user property cut off", "06 00 00 88 01 't 04 260001 'a 00", "byte 41: message: property 0x26: expected one that is forwarded, and all of its bytes"},
		{"release 0", "07 00 00", "byte 36: release: Packet Identifier 0: expected 1 to 65535"},
		{"receive 65536", "09 00 808004", "byte 36: receive: Packet Identifier 65536: expected 1 to 65535"},
		{"send flags", "08 00 02 01 00 00", "byte 36: send: flags 0x02: expected bits of 0x01 only"},
		{"return without delivery", "0c 00 00 01 00 00", "byte 34: return: return without a delivery: expected one"},
		{"not shared", "08 00 00 01 00 01 't", `byte 39: send: Topic Filter of the Shared Subscription "t": expected one that begins with $share/`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := readRecord(recordOf(t, 1, c.body)); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

// TestInvalidRecords: the header must agree with what follows it.
func TestInvalidRecords(t *testing.T) {
	const one = "03 01 'c"
	for name, c := range map[string]struct {
		rec  []byte
		want string
	}{
		"an op too few":  {recordOf(t, 2, one), "byte 37: kind: found the end"},
		"an op too many": {recordOf(t, 1, one+" "+one), "byte 37: 3 bytes too many: expected the end"},
		"2^32-1 ops":     {recordOf(t, 1<<32-1, one), "byte 37: kind: found the end"},
		"short header":   {sealed(t, recordForm, "0000"), "byte 8: record: found 8 bytes: expected at least 34"},
		"version 0":      {sealed(t, form{"", 'J', 0}, "00"), "byte 5: record: version 0: expected 1 to 2"},
		"a chunk":        {AppendChunk(nil, nil), "byte 4: record: found the letter 'Q': expected 'J'"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := readRecord(c.rec); err == nil || err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
	for _, first := range []uint64{0, 1<<64 - 1} {
		rec := recordOf(t, 1, one)
		binary.BigEndian.PutUint64(rec[22:], first)
		recordForm.seal(rec)
		_, _, err := readRecord(rec)
		wantDamage(t, err, "a record with first number %d", first)
	}
}

// TestErrorStays: an Ops that met an error gives it again.
func TestErrorStays(t *testing.T) {
	_, ops, err := Open(recordOf(t, 2, "03 01 'c 00"))
	if err != nil {
		t.Fatal(err)
	}
	var op Op
	if ok, err := ops.Next(&op); !ok || err != nil || op.Kind != End {
		t.Errorf("first op: %v, %v, %v", op, ok, err)
	}
	_, first := ops.Next(&op)
	ok, second := ops.Next(&op)
	if ok || first == nil || first != second || op.Kind != 0 {
		t.Errorf("%v, %v, %v: expected the same error twice, and no op", ok, first, second)
	}
}

// TestClaims: what a value claims to hold takes no memory before it has been seen.
func TestClaims(t *testing.T) {
	const size = 1 << 20
	count := "808040" // 2^20
	for name, c := range map[string]struct {
		form form
		body string
	}{
		"deliveries":    {chunkForm, count},
		"identifiers":   {chunkForm, "01 20" + count},
		"subscriptions": {sessionForm, "00 00 00 00 808010"},
		"taken":         {sessionForm, "00 00 00 00 00" + count},
		"under way":     {sessionForm, "00 00 00 00 00 00 00 808020"},
		"client":        {sessionForm, "00" + count},
	} {
		b := append(sealed(t, c.form, c.body), bytes.Repeat([]byte{0xFF}, size)...)
		c.form.seal(b)
		before := allocated()
		wantDamage(t, readAll(b)[c.form.name], "a claim of many %s", name)
		if took := allocated() - before; took > 12*size {
			t.Errorf("%s: %d bytes allocated for %d bytes of input", name, took, len(b))
		}
	}
}

func TestInvalidValues(t *testing.T) {
	for _, c := range []struct {
		name string
		form form
		body string
		want string
	}{
		{"more deliveries than bytes", chunkForm, "05 08", "byte 6: 5 deliveries: expected no more than 1 bytes can hold"},
		{"2^64-1 deliveries", chunkForm, most, "byte 6: 18446744073709551615 deliveries: expected no more than 0 bytes can hold"},
		{"reserved flag", chunkForm, "01 80", "byte 7: flags of a delivery 0x80: expected bits of 0x7f only"},
		{"QoS 3", chunkForm, "01 03", "byte 7: QoS 3: expected 0 to 2"},
		{"nothing before", chunkForm, "01 08", "byte 8: the message of the delivery before: expected one before"},
		{"number 0", chunkForm, "01 10 00 08 01 't 00", "byte 8: number 0 of a message: expected numbers from 1"},
		{"number and message before", chunkForm, "02 10 02 08 01 't 00 18 02", "byte 14: a number for the message of the delivery before: expected none"},
		{"identifiers", chunkForm, "01 20 02 01", "byte 8: 2 Subscription Identifiers: expected no more than 1 bytes can hold"},
		{"identifier 0", chunkForm, "01 20 01 00", "byte 9: Subscription Identifier 0: expected 1 to 268435455"},
		{"end", chunkForm, "00 00", "byte 7: 1 bytes too many: expected the end"},
		{"retained without topic", retainedForm, "00 00 00", "byte 8: the Topic Name of the message before: expected one before"},
		{"session flags", sessionForm, "10", "byte 6: flags 0x10: expected bits of 0x0f only"},
		{"subscriptions", sessionForm, "00 00 00 00 02 00 00 00 00 00", "byte 10: 2 subscriptions: expected no more than 5 bytes can hold"},
		{"taken 0", sessionForm, "00 00 00 00 00 01 00", "byte 12: Packet Identifier 0: expected 1 to 65535"},
		{"under way", sessionForm, "00 00 00 00 00 00 00 01 02 00", "byte 14: flags of a message under way 0x02: expected bits of 0x01 only"},
		{"2^64-1 under way", sessionForm, "00 00 00 00 00 00 00" + most, "byte 13: 18446744073709551615 messages under way: expected no more than 0 bytes can hold"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := readAll(sealed(t, c.form, c.body))[c.form.name]; err == nil || err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}
