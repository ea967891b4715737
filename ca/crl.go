package ca

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"sync"
	"time"
)

// crl is the latest revocation list.
type crl struct {
	mu      sync.Mutex // guards what follows
	der     []byte
	number  *big.Int // of this or, at first, of the last list that was written
	version uint64   // of the revocations in it
	issuing *issuer
	due     time.Time // when it has to be signed anew
	written bool      // it is in crl.pem
}

// CRL is the revocation list in DER, signed by the issuing CA, with all that has
// been revoked by now. It is valid for CRLValidity, and at least for half of it.
func (a *Authority) CRL() ([]byte, error) {
	a.crl.mu.Lock()
	defer a.crl.mu.Unlock()
	return a.crlLocked()
}

// CRLPEM is the revocation list in PEM.
func (a *Authority) CRLPEM() ([]byte, error) {
	der, err := a.CRL()
	return crlPEM(der), err
}

func crlPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: crlBlock, Bytes: der})
}

func (a *Authority) crlLocked() ([]byte, error) {
	c, now, issuing := &a.crl, a.o.Now(), a.issuing.Load()
	version := a.revoked.at()
	if c.der != nil && c.version == version && c.issuing == issuing && now.Before(c.due) {
		return c.der, nil
	}
	if err := checkClock(now, issuing.cert); err != nil {
		return nil, err
	}
	number := nextCRLNumber(c.number, now)
	template := &x509.RevocationList{
		Number:                    number,
		ThisUpdate:                now,
		NextUpdate:                now.Add(CRLValidity),
		RevokedCertificateEntries: a.revokedEntries(now),
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, issuing.cert, issuing.key)
	if err != nil {
		return nil, err
	}
	c.der, c.number, c.version, c.issuing = der, number, version, issuing
	c.due, c.written = now.Add(CRLValidity/2), false
	return der, nil
}

// nextCRLNumber is larger than the last one and than any in a backup of the
// directory that is not from the future [RFC 5280 5.2.3].
func nextCRLNumber(last *big.Int, now time.Time) *big.Int {
	next := new(big.Int).Add(last, big.NewInt(1))
	if clock := big.NewInt(now.Unix()); clock.Cmp(next) > 0 {
		return clock
	}
	return next
}

func (a *Authority) revokedEntries(now time.Time) []x509.RevocationListEntry {
	var entries []x509.RevocationListEntry
	for _, r := range a.revoked.all() {
		if !r.over(now) {
			entries = append(entries, x509.RevocationListEntry{
				SerialNumber:   r.Serial.number(),
				RevocationTime: r.At,
				ReasonCode:     int(r.Cause),
			})
		}
	}
	return entries
}

// publishCRL writes crl.pem if the list has changed.
func (a *Authority) publishCRL() (string, error) {
	a.crl.mu.Lock()
	defer a.crl.mu.Unlock()
	der, err := a.crlLocked()
	if err != nil || a.crl.written {
		return "", err
	}
	if err := a.dir.write(crlName, crlPEM(der), 0o644); err != nil {
		return "", err
	}
	a.crl.written = true
	return "", nil
}

// lastCRLNumber is that of the list on disk, or 0.
func (a *Authority) lastCRLNumber() *big.Int {
	text, err := a.dir.read(crlName)
	if err != nil {
		return new(big.Int)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return new(big.Int)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil || list.Number == nil {
		return new(big.Int)
	}
	return list.Number
}
