package ingest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	svix "github.com/svix/svix-webhooks/go"
)

// MinSecretLen is the shortest key in bytes that is accepted, the shortest
// that Svix gives out.
const MinSecretLen = 24

// CheckSecret returns what is wrong with a signing secret: "whsec_" and the
// base64 of at least [MinSecretLen] bytes. The error does not quote it.
func CheckSecret(secret string) error {
	key, err := decodeSecret(secret)
	switch {
	case secret == "":
		return errors.New("is empty")
	case err != nil:
		return errors.New(`is not "whsec_" and base64; copy it again from the endpoint's page`)
	case len(key) < MinSecretLen:
		return fmt.Errorf("has %d bytes, want at least %d; copy it again from the endpoint's page", len(key), MinSecretLen)
	}
	return nil
}

func decodeSecret(secret string) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
}

// Fingerprint returns a name for a secret that tells nothing of it: the first
// 8 hexadecimal digits of the key's SHA-256. A secret that [CheckSecret]
// refuses has none: "".
func Fingerprint(secret string) string {
	if CheckSecret(secret) != nil {
		return ""
	}
	key, _ := decodeSecret(secret)
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}

// A secret is one signing secret and what it was good for.
type secret struct {
	*svix.Webhook
	fingerprint string
	verified    atomic.Uint64
	last        atomic.Int64 // when it last verified, in Unix milliseconds; 0 is never
}

// A keyring holds the secrets of the moment in the order of the settings. It
// is replaced, never changed: who verifies by an old one may finish.
type keyring []*secret

// newKeyring parses secrets. What old has counted of one of them goes on.
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
		err := CheckSecret(text)
		if err != nil {
			return nil, fmt.Errorf("signing secret %d of %d %w", i+1, len(secrets), err)
		}
		name := Fingerprint(text)
		if s, ok := counted[name]; ok {
			k[i] = s
			delete(counted, name) // a secret that is there twice counts once
			continue
		}
		webhook, err := svix.NewWebhook(text)
		if err != nil {
			return nil, fmt.Errorf("signing secret %d of %d: %w", i+1, len(secrets), err)
		}
		k[i] = &secret{Webhook: webhook, fingerprint: name}
	}
	return k, nil
}

// verify reports whether one of the secrets has signed the body, and notes
// which: the first one that has.
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

// SetSecrets replaces the secrets that are accepted; see [Config.Secrets]. On
// an error, which does not quote them, the old ones stay. No request is
// refused for the change: each is verified by all of the old or all of the new.
func (h *Handler) SetSecrets(secrets []string) error {
	h.changing.Lock()
	defer h.changing.Unlock()
	k, err := newKeyring(secrets, *h.secrets.Load())
	if err == nil {
		h.secrets.Store(&k)
	}
	return err
}

var (
	secretLabels = []string{"position", "fingerprint"}

	verifiedDesc = prometheus.NewDesc("versive_ingress_secret_verified_total",
		"Requests that a signing secret has verified, by its position in the settings and its fingerprint.", secretLabels, nil)
	lastVerifiedDesc = prometheus.NewDesc("versive_ingress_secret_last_verified_timestamp_seconds",
		"When a signing secret last verified a request; 0 is never since the start.", secretLabels, nil)
)

// secretMetrics tells of the secrets of the moment: the series of one that is
// removed end with it.
type secretMetrics struct {
	secrets *atomic.Pointer[keyring]
}

func (m secretMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- verifiedDesc
	to <- lastVerifiedDesc
}

func (m secretMetrics) Collect(to chan<- prometheus.Metric) {
	for i, s := range *m.secrets.Load() {
		position := strconv.Itoa(i + 1)
		to <- prometheus.MustNewConstMetric(verifiedDesc, prometheus.CounterValue,
			float64(s.verified.Load()), position, s.fingerprint)
		to <- prometheus.MustNewConstMetric(lastVerifiedDesc, prometheus.GaugeValue,
			float64(s.last.Load())/1000, position, s.fingerprint)
	}
}
