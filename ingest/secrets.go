package ingest

import (
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
)

// MinSecretLen is the length in bytes of the shortest accepted key, which is the
// shortest that Svix issues.
const MinSecretLen = 24

// CheckSecret returns an error unless secret is a signing secret: the standard
// base64 encoding of at least [MinSecretLen] bytes, with or without the prefix
// "whsec_". The error completes a sentence that names the secret; it does not
// quote it.
func CheckSecret(secret string) error {
	_, err := decodeSecret(secret)
	return err
}

func decodeSecret(secret string) (key []byte, err error) {
	key, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	switch {
	case secret == "":
		return nil, errors.New("is empty")
	case strings.HasPrefix(secret, "whpk_"):
		return nil, errors.New("is a public key (whpk_…), of asymmetric signatures; want the endpoint's signing secret (whsec_…)")
	case strings.ContainsFunc(secret, unicode.IsSpace):
		return nil, errors.New("is not in one piece: white space is in it; copy it again from the endpoint's page")
	case err != nil:
		return nil, errors.New(`is not "whsec_" and base64; copy it again from the endpoint's page`)
	case len(key) < MinSecretLen:
		return nil, fmt.Errorf("has %d bytes, want at least %d; copy it again from the endpoint's page", len(key), MinSecretLen)
	}
	return key, nil
}

// Fingerprint returns a public name for a secret: the first 8 hexadecimal digits
// of the key's SHA-256. It returns "" for a secret that [CheckSecret] does not
// accept.
func Fingerprint(secret string) string {
	key, err := decodeSecret(secret)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}

// A secret is a signing secret and its usage.
type secret struct {
	*svix.Webhook
	fingerprint string
	verified    atomic.Uint64
	last        atomic.Int64 // time of the last verification in Unix milliseconds; 0 if none
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
		counted[s.fingerprint] = s
	}
	k := make(keyring, len(secrets))
	for i, text := range secrets {
		if err := CheckSecret(text); err != nil {
			return nil, fmt.Errorf("signing secret %d of %d %w", i+1, len(secrets), err)
		}
		name := Fingerprint(text)
		s := counted[name]
		if delete(counted, name); s == nil { // of two equal secrets, only the first is counted
			webhook, err := svix.NewWebhook(text)
			if err != nil {
				return nil, fmt.Errorf("signing secret %d of %d: %w", i+1, len(secrets), err)
			}
			s = &secret{Webhook: webhook, fingerprint: name}
		}
		k[i] = s
	}
	return k, nil
}

// verify reports whether one of the secrets has signed the body, and counts the
// first that has.
func (k keyring) verify(body []byte, header http.Header, now time.Time) bool {
	for _, s := range k {
		if s.VerifyIgnoringTimestamp(body, header) == nil {
			s.verified.Add(1)
			s.last.Store(now.UnixMilli())
			return true
		}
	}
	return false
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
