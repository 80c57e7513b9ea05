package config

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"versive-ingress/ingest"
)

// SigningSecrets returns the signing secrets: those of INGRESS_SECRETS, and then
// those that INGRESS_SECRETS_FILE holds now. There is at least one, and all are
// valid.
func (s *Settings) SigningSecrets() ([]string, error) {
	secrets, err := s.ListSecrets()
	if err != nil {
		return nil, err
	}
	for i, secret := range secrets {
		if err := ingest.CheckSecret(secret); err != nil {
			return nil, fmt.Errorf("INGRESS_SECRETS and INGRESS_SECRETS_FILE: secret %d of %d %w", i+1, len(secrets), err)
		}
	}
	if len(secrets) == 0 {
		return nil, errors.New("INGRESS_SECRETS is not set: want the endpoint's signing secret (whsec_…), here or in INGRESS_SECRETS_FILE; to try without one: versive-ingress demo")
	}
	return secrets, nil
}

// ListSecrets returns the secrets of SigningSecrets, without checking them.
func (s *Settings) ListSecrets() ([]string, error) {
	var secrets []string
	for _, secret := range s.Secrets {
		secrets = append(secrets, strings.TrimSpace(secret))
	}
	if s.SecretsFile == "" {
		return secrets, nil
	}
	if strings.HasPrefix(s.SecretsFile, "whsec_") {
		return nil, errors.New("INGRESS_SECRETS_FILE: want the name of a file; a secret belongs in it, or in INGRESS_SECRETS")
	}
	text, err := ReadFile(s.SecretsFile)
	if err != nil {
		return nil, fmt.Errorf("INGRESS_SECRETS_FILE: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			secrets = append(secrets, line)
		}
	}
	return secrets, nil
}

// NewSecret returns a random signing secret.
func NewSecret() string {
	key := make([]byte, 24)
	_, _ = rand.Read(key) // never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}
