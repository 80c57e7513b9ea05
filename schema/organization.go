package schema

// MaxOrganizationLen is the longest name of an organization, in bytes.
const MaxOrganizationLen = 63

// ValidOrganization reports whether an organization can have the name: 1 to
// [MaxOrganizationLen] lower-case ASCII letters, digits and hyphens, of which the
// first and the last are not hyphens, as in a DNS label. Such a name is the same in
// a header, a metric label, a log line and a file name.
func ValidOrganization(name string) bool {
	if name == "" || len(name) > MaxOrganizationLen || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Organization returns the name of the organization in the header of a stored
// message of any kind, or "" if it has none or one that [ValidOrganization] does
// not accept. A dead letter has that of its event, and so has a tombstone in the event
// stream if it has replaced the event.
func Organization(header map[string][]string) string {
	if name := first(header, headerOrganization); ValidOrganization(name) {
		return name
	}
	return ""
}

// WithOrganization adds the name of an organization to the header of a message that
// was just made, and returns the message. A name that is "" adds nothing.
func (m Message) WithOrganization(name string) Message {
	if name != "" {
		m.Header[headerOrganization] = []string{name}
	}
	return m
}
