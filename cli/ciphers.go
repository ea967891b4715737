package cli

import (
	"crypto/tls"
	"slices"
	"strings"
)

// choose takes over --ciphers.
func (t *tlsFlags) choose(config *tls.Config) error {
	known := make(map[string]uint16)
	var names []string
	for _, suite := range tls.CipherSuites() {
		if !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
			continue
		}
		name := openSSLName(suite.Name)
		known[name], known[suite.Name] = suite.ID, suite.ID
		names = append(names, name)
	}
	for name := range strings.FieldsFuncSeq(t.ciphers, func(r rune) bool { return r == ':' || r == ',' || r == ' ' }) {
		id, ok := known[name]
		if !ok {
			return Usagef("--ciphers: unknown cipher suite %q: expected some of %s", name, strings.Join(names, ", "))
		}
		config.CipherSuites = append(config.CipherSuites, id)
	}
	if len(config.CipherSuites) == 0 {
		return Usagef("--ciphers: no cipher suite: expected some of %s", strings.Join(names, ", "))
	}
	return nil
}

// openSSLName turns the standard's name of a cipher suite with ECDHE into OpenSSL's:
// TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 is ECDHE-RSA-AES128-GCM-SHA256 there.
func openSSLName(name string) string {
	return strings.NewReplacer("TLS_", "", "_WITH", "", "_CBC", "", "AES_", "AES", "POLY1305_SHA256", "POLY1305", "_", "-").Replace(name)
}
