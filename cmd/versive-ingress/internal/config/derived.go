package config

import (
	"cmp"
	"fmt"
	"net"
	"time"

	"versive-ingress/publish"
	"versive-ingress/schema"
)

const (
	// SenderTimeout is how long the sender waits for an answer; networkShare of it
	// is left for the network.
	SenderTimeout = 15 * time.Second
	networkShare  = time.Second

	// DefaultMaxBody is the usual INGRESS_MAX_BODY in bytes.
	DefaultMaxBody = 8 << 20
	// maxMaxBody keeps a message below JetStream's largest record of 32 MiB.
	maxMaxBody = 31 << 20

	// HeaderRoom is how many bytes are left for a message's headers beside its
	// data: JetStream accepts no more.
	HeaderRoom = 64 << 10
)

// BodyLimit returns the largest body in bytes that the settings ask for.
func (s *Settings) BodyLimit() int64 { return int64(cmp.Or(s.MaxBody, DefaultMaxBody)) }

// MaxPayload returns how large a message in bytes the broker must accept for the
// event of the largest body.
func (s *Settings) MaxPayload() int64 { return s.BodyLimit() + schema.MaxGrowth + HeaderRoom }

// BodyRoom returns the largest body whose event fits a message of a size, both
// in bytes. It may be negative.
func BodyRoom(size int64) int64 { return size - schema.MaxGrowth - HeaderRoom }

// Local returns the address, as host:port, by which this machine reaches a
// listener: loopback for a listener on all interfaces. It returns an error if
// listen is not host:port.
func Local(listen string) (address string, err error) {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), err
}

// WebhookURL returns the URL by which this machine reaches the webhook listener.
func (s *Settings) WebhookURL() string {
	scheme := "http"
	if s.TLSCert != "" {
		scheme = "https"
	}
	address, _ := Local(s.Listen)
	return scheme + "://" + address + s.Path
}

// AdminURL returns the URL by which this machine reaches the admin listener. The
// settings need not be checked.
func (s *Settings) AdminURL() (string, error) {
	address, err := Local(s.AdminListen)
	if err != nil {
		return "", fmt.Errorf("INGRESS_ADMIN_LISTEN: %w", err)
	}
	return "http://" + address, nil
}

// Streams returns how the ingress wants its streams to be.
func (s *Settings) Streams() publish.Config {
	return publish.Config{Stream: s.Stream, Subject: s.Subject, Replicas: s.Replicas, MaxBytes: int64(s.StreamMaxBytes), MaxAge: s.MaxAge, DedupeWindow: s.DedupeWindow, Forwarded: s.ForwardURL != ""}
}

// HubStreams returns how the ingress wants the streams of the hub to be. They have the
// names and subjects of its own; their age is the hub's to decide.
func (s *Settings) HubStreams() publish.Config {
	return publish.Config{Stream: s.Stream, Subject: s.Subject, Replicas: s.ForwardReplicas, MaxBytes: int64(s.StreamMaxBytes), DedupeWindow: s.DedupeWindow, Hub: true}
}
