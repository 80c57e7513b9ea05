package config

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"

	"versive-ingress/ingest"
)

// SigningSecrets returns the signing secrets, with their organizations: those of
// INGRESS_SECRETS, and then those that INGRESS_SECRETS_FILE holds now. There is at
// least one, and all are valid.
func (s *Settings) SigningSecrets() ([]string, error) {
	const want = "want the endpoint's signing secret (whsec_…)"
	list := parseSecrets(strings.Join(s.Secrets, ","))
	inVariable := len(list)
	if s.SecretsFile != "" {
		if isPrefixed(NormalizeSecret(s.SecretsFile)) {
			return nil, errors.New("INGRESS_SECRETS_FILE: want the name of a file; a secret belongs in it, or in INGRESS_SECRETS")
		}
		text, err := ReadFile(s.SecretsFile)
		if err != nil {
			return nil, fmt.Errorf("INGRESS_SECRETS_FILE: %w", err)
		}
		list = append(list, parseSecrets(string(text))...)
	}
	switch {
	case len(list) == 0 && s.SecretsFile == "":
		return nil, errors.New("INGRESS_SECRETS is not set: " + want + ", here or in INGRESS_SECRETS_FILE; to try without one: versive-ingress demo")
	case len(list) == 0:
		return nil, fmt.Errorf("INGRESS_SECRETS is not set, and INGRESS_SECRETS_FILE: %s has none: %s, one a line", s.SecretsFile, want)
	}
	secrets := make([]string, len(list))
	for i, secret := range list {
		secrets[i] = secret.text
		if err := ingest.CheckSecret(secret.text, secrets[:i]...); err != nil {
			place := "INGRESS_SECRETS"
			if i >= inVariable {
				place = fmt.Sprintf("INGRESS_SECRETS_FILE: %s, line %d", s.SecretsFile, secret.line)
			}
			return nil, fmt.Errorf("%s: secret %d of %d %w", place, i+1, len(list), err)
		}
	}
	return secrets, nil
}

// NormalizeSecret returns the first secret in a text, which may have been pasted with
// other characters around it, or the text itself if it has none. It does not check the
// secret.
func NormalizeSecret(text string) string {
	for _, secret := range parseSecrets(text) {
		return secret.text
	}
	return text
}

type pastedSecret struct {
	text string
	line int // from 1
}

// parseSecrets returns the secrets in a text, separated by commas and line breaks,
// and by white space if each has its prefix. It removes what people paste with them:
// quotes, the version "v1,", comments, the assignment to INGRESS_SECRETS, and a byte
// order mark. It does not check them.
func parseSecrets(text string) (list []pastedSecret) {
	for i, line := range strings.Split(decodeText(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		line = strings.TrimPrefix(line, "INGRESS_SECRETS=")
		line = strings.ReplaceAll(line, "v1,whsec_", "whsec_")
		for part := range strings.SplitSeq(line, ",") {
			words := strings.Fields(unquote(part))
			for j := range words {
				words[j] = unquote(words[j])
			}
			if slices.ContainsFunc(words, func(word string) bool { return !isPrefixed(word) }) {
				words = []string{unquote(part)} // one secret, which is refused if white space divides it
			}
			for _, word := range words {
				list = append(list, pastedSecret{standardBase64(word), i + 1})
			}
		}
	}
	return list
}

// isPrefixed reports whether a text begins with "whsec_", or with a name and "whsec_".
func isPrefixed(text string) bool {
	_, unnamed := ingest.SplitSecret(text)
	return strings.HasPrefix(unnamed, "whsec_")
}

// decodeText returns a text in UTF-8, without a byte order mark: the shell of
// Windows writes UTF-16.
func decodeText(text string) string {
	var order binary.ByteOrder = binary.LittleEndian
	switch {
	case strings.HasPrefix(text, "\xfe\xff"):
		order = binary.BigEndian
	case !strings.HasPrefix(text, "\xff\xfe"):
		return strings.TrimPrefix(text, "\ufeff")
	}
	var units []uint16
	for i := 2; i+1 < len(text); i += 2 {
		units = append(units, order.Uint16([]byte(text[i:i+2])))
	}
	return string(utf16.Decode(units))
}

func unquote(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("\"'`“”‘’", r) })
}

// standardBase64 returns a secret with the alphabet and the padding of standard
// base64. A text without the prefix is returned as it is, because it may be no secret.
// A secret that was encoded as a whole, as for Kubernetes, is decoded.
func standardBase64(secret string) string {
	if whole, err := base64.StdEncoding.DecodeString(secret); err == nil && isPrefixed(string(whole)) {
		secret = strings.TrimSpace(string(whole))
	}
	if name, unnamed, ok := strings.Cut(secret, ":"); ok {
		return name + ":" + standardBase64(unquote(unnamed))
	}
	text, ok := strings.CutPrefix(secret, "whsec_")
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	// Strict, because a secret that was cut off looks like one without padding.
	key, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || strings.Count(secret, "whsec_") > 1 {
		return secret
	}
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// NewSecret returns a random signing secret.
func NewSecret() string {
	key := make([]byte, 24)
	_, _ = rand.Read(key) // never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}
