package embedded

import "fmt"

// Usage returns how many bytes the streams take on the disk, and how many they
// may.
func (b *Broker) Usage() (used, limit int64, err error) {
	s, maxStore := b.current()
	info, err := s.Jsz(nil)
	if err != nil {
		return 0, 0, fmt.Errorf("embedded broker: %w", err)
	}
	return int64(info.Store), maxStore, nil
}
