package config

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// An Endpoint is a broker to which the ingress is a client, by the settings that name
// it and authenticate the two to each other.
type Endpoint struct {
	Name                            string // broker or hub, for messages
	Prefix                          string // of the names of the settings, such as INGRESS_NATS_
	URL, Creds, NKey, CA, Cert, Key string
	Embedded                        string // the address of the embedded broker, where URL is empty
}

// Address returns where the broker can be reached.
func (e Endpoint) Address() string { return cmp.Or(e.URL, e.Embedded) }

// Broker returns the settings of the ingress's own broker. The URL is empty if that is
// embedded.
func (s *Settings) Broker() Endpoint {
	return Endpoint{"broker", "INGRESS_NATS_", s.NATSURL, s.NATSCreds, s.NATSNKey, s.NATSCA, s.NATSCert, s.NATSKey, ""}
}

// Hub returns the settings of the broker to which events are forwarded. The URL is
// empty if they are not.
func (s *Settings) Hub() Endpoint {
	return Endpoint{"hub", "INGRESS_FORWARD_", s.ForwardURL, s.ForwardCreds, s.ForwardNKey, s.ForwardCA, s.ForwardCert, s.ForwardKey, ""}
}

type namedFile struct{ name, file string }

// files returns the settings that name a file, and the files. One that is
// not set is "".
func (e Endpoint) files() []namedFile {
	return []namedFile{{e.Prefix + "CREDS", e.Creds}, {e.Prefix + "NKEY", e.NKey}, {e.Prefix + "CA", e.CA}, {e.Prefix + "CERT", e.Cert}, {e.Prefix + "KEY", e.Key}}
}

// Files returns the files that are set.
func (e Endpoint) Files() (list []string) {
	for _, f := range e.files() {
		if f.file != "" {
			list = append(list, f.file)
		}
	}
	return list
}

// check refuses addresses that a NATS client cannot dial, and a half or a second
// identity.
func (e Endpoint) check() error {
	for i, address := range strings.Split(e.URL, ",") {
		if e.URL != "" && !isBrokerURL(strings.TrimSpace(address)) { // not quoted: it may hold a password
			return fmt.Errorf("%sURL: address %d is not a URL such as nats://host:4222", e.Prefix, i+1)
		}
	}
	switch {
	case (e.Cert == "") != (e.Key == ""):
		return fmt.Errorf("%[1]sCERT and %[1]sKEY: set both, or neither", e.Prefix)
	case e.Creds != "" && e.NKey != "":
		return fmt.Errorf("%[1]sCREDS and %[1]sNKEY: set one of them; a connection has one identity", e.Prefix)
	}
	return nil
}

// checkHub refuses settings of the hub without its address, and forwarding from a
// broker that is not embedded.
func (s *Settings) checkHub() error {
	hub := s.Hub()
	if err := hub.check(); err != nil {
		return err
	}
	for _, f := range hub.files() {
		if hub.URL == "" && f.file != "" {
			return conflict(f.name, f.file, "requires INGRESS_FORWARD_URL")
		}
	}
	switch {
	case hub.URL != "" && s.NATSURL != "":
		return errors.New("INGRESS_FORWARD_URL: events are forwarded from the embedded broker, but INGRESS_NATS_URL names an external one; unset one of them")
	case s.ForwardReplicas < 1 || s.ForwardReplicas > 5:
		return wrong("INGRESS_FORWARD_REPLICAS", s.ForwardReplicas, "1 to 5")
	}
	return nil
}
