package ingest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/schema"
)

// MinSecretLen is the length in bytes of the shortest accepted key, which is the
// shortest that Svix issues.
const MinSecretLen = 24

// CheckSecret returns an error unless secret is a signing secret: the standard
// base64 encoding of at least [MinSecretLen] bytes, with or without the prefix
// "whsec_", and before it the name of an organization and a colon if it has one; see
// [schema.ValidOrganization]. It also returns an error if one of the earlier secrets
// has the same key and another organization. The error completes a sentence that
// names the secret; it does not quote it.
func CheckSecret(secret string, earlier ...string) error {
	organization, key, err := decodeSecret(secret)
	if err != nil {
		return err
	}
	for i, other := range earlier {
		name, otherKey, err := decodeSecret(other)
		if err == nil && name != organization && bytes.Equal(key, otherKey) {
			return fmt.Errorf("is the same as secret %d, which has another organization; an organization is known by its secret, so each needs a secret of its own", i+1)
		}
	}
	return nil
}

// SplitSecret returns the organization that a signing secret names, or "", and the
// secret without it. It does not check them.
func SplitSecret(secret string) (organization, unnamed string) {
	if organization, unnamed, ok := strings.Cut(secret, ":"); ok {
		return organization, unnamed
	}
	return "", secret
}

func decodeSecret(secret string) (organization string, key []byte, err error) {
	organization, unnamed := SplitSecret(secret)
	if strings.Contains(secret, ":") && !schema.ValidOrganization(organization) {
		return "", nil, fmt.Errorf("has an invalid name before its colon; want an organization's, of 1 to %d lower-case letters, digits and hyphens, as in acme:whsec_…", schema.MaxOrganizationLen)
	}
	secret = unnamed
	key, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	switch {
	case secret == "":
		return "", nil, errors.New("is empty")
	case strings.HasPrefix(secret, "whpk_"):
		return "", nil, errors.New("is a public key (whpk_…), of asymmetric signatures; want the endpoint's signing secret (whsec_…)")
	case strings.ContainsFunc(secret, unicode.IsSpace):
		return "", nil, errors.New("is not in one piece: white space is in it; copy it again from the endpoint's page")
	case err != nil:
		return "", nil, errors.New(`is not "whsec_" and base64; copy it again from the endpoint's page`)
	case len(key) < MinSecretLen:
		return "", nil, fmt.Errorf("has %d bytes, want at least %d; copy it again from the endpoint's page", len(key), MinSecretLen)
	}
	return organization, key, nil
}

// Fingerprint returns a public name for a secret: the first 8 hexadecimal digits
// of the key's SHA-256, and before them the organization and a colon if the secret
// has one. It returns "" for a secret that [CheckSecret] does not accept.
func Fingerprint(secret string) string {
	organization, key, err := decodeSecret(secret)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(key)
	unnamed := hex.EncodeToString(sum[:4])
	if organization != "" {
		return organization + ":" + unnamed
	}
	return unnamed
}

// A secret is a signing secret and its usage.
type secret struct {
	*svix.Webhook
	organization string // "" if it has none
	fingerprint  string // without the organization
	verified     atomic.Uint64
	last         atomic.Int64 // time of the last verification in Unix milliseconds; 0 if none
}

// A keyring holds the current secrets in their configured order. It is immutable:
// SetSecrets replaces it, and a verification in progress keeps the old one.
type keyring []*secret

// newKeyring parses secrets. A secret that is also in old keeps its counts.
func newKeyring(secrets []string, old keyring) (keyring, error) {
	if len(secrets) == 0 {
		return nil, errors.New("no signing secret")
	}
	counted := make(map[string]*secret, len(old))
	for _, s := range old {
		counted[s.organization+":"+s.fingerprint] = s
	}
	k := make(keyring, len(secrets))
	for i, text := range secrets {
		if err := CheckSecret(text, secrets[:i]...); err != nil {
			return nil, fmt.Errorf("signing secret %d of %d %w", i+1, len(secrets), err)
		}
		organization, unnamed := SplitSecret(text)
		fingerprint := Fingerprint(unnamed)
		name := organization + ":" + fingerprint
		s := counted[name]
		if delete(counted, name); s == nil { // of two equal secrets, only the first is counted
			webhook, err := svix.NewWebhook(unnamed)
			if err != nil {
				return nil, fmt.Errorf("signing secret %d of %d: %w", i+1, len(secrets), err)
			}
			s = &secret{Webhook: webhook, organization: organization, fingerprint: fingerprint}
		}
		k[i] = s
	}
	return k, nil
}

// verify returns the first of the secrets that has signed the body, and counts it.
// It returns nil if none has.
func (k keyring) verify(body []byte, header http.Header, now time.Time) *secret {
	for _, s := range k {
		if s.VerifyIgnoringTimestamp(body, header) == nil {
			s.verified.Add(1)
			s.last.Store(now.UnixMilli())
			return s
		}
	}
	return nil
}

// SetSecrets replaces the accepted secrets; see [Config.Secrets]. If it returns an
// error, which does not quote them, the old ones stay in effect. It is safe for
// concurrent use: each request is verified against either all old or all new
// secrets.
func (h *Handler) SetSecrets(secrets []string) error {
	h.secretsMu.Lock()
	defer h.secretsMu.Unlock()
	k, err := newKeyring(secrets, *h.secrets.Load())
	if err == nil {
		h.secrets.Store(&k)
	}
	return err
}
