package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// The types of PEM blocks that are read and written.
const (
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY" // PKCS #8, which all TLS libraries read
	csrBlock  = "CERTIFICATE REQUEST"
	crlBlock  = "X509 CRL"
)

// certsMax is how many certificates a file may have.
const certsMax = 200

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// parseCerts reads one certificate after the other. Blocks of other types are
// passed over; text after the last block must not be there, or a file that was cut
// off would look like a shorter one.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if text = rest; block.Type != certBlock {
			continue
		}
		if len(certs) == certsMax {
			return nil, fmt.Errorf("more than %d certificates", certsMax)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("the block after certificate %d is cut off or damaged", len(certs))
	}
	return certs, nil
}

// parseKey reads one of our own keys.
func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("no private key in PEM")
		}
		if text = rest; block.Type != keyBlock {
			continue
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		key, ok := parsed.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("a %T, not an ECDSA key", parsed)
		}
		return key, nil
	}
}
