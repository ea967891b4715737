package ca

import (
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
)

// Serial is a certificate's serial number: lower-case hexadecimal without leading
// zeros. Within one CA it names the certificate.
type Serial string

// serialDigits is the length of the longest serial number: 20 octets
// [RFC 5280 4.1.2.2].
const serialDigits = 40

// SerialOf is the certificate's serial number.
func SerialOf(c *x509.Certificate) Serial { return serialOf(c.SerialNumber) }

func serialOf(n *big.Int) Serial { return Serial(n.Text(16)) }

// ParseSerial reads a serial number in hexadecimal, also with the capital letters
// and colons that OpenSSL prints.
func ParseSerial(s string) (Serial, error) {
	digits := strings.TrimLeft(strings.ToLower(strings.ReplaceAll(s, ":", "")), "0")
	if digits == "" || len(digits) > serialDigits || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", fmt.Errorf("serial number %q: expected up to %d hexadecimal digits, not all zero", s, serialDigits)
	}
	return Serial(digits), nil
}

// number is the serial number as X.509 has it; the Serial must be valid.
func (s Serial) number() *big.Int {
	n, _ := new(big.Int).SetString(string(s), 16)
	return n
}
