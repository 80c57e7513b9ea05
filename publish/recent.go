package publish

import "hash/maphash"

// maxRecent is how many ids a generation of recent holds. Two of them cover
// the sender's first resend, 5 seconds after the first attempt, at any rate
// that one stream can take.
const maxRecent = 64 << 10

// recent is a bounded set of ids: the last maxRecent, and up to as many before
// them, however old. It keeps hashes; an id that is taken for another is asked
// for and published alone, which is slower and nothing else. The zero value is
// empty.
type recent struct {
	young, old map[uint64]struct{}
}

var seed = maphash.MakeSeed()

func (r *recent) add(id string) {
	if r.young == nil || len(r.young) >= maxRecent {
		r.young, r.old = make(map[uint64]struct{}), r.young
	}
	r.young[maphash.String(seed, id)] = struct{}{}
}

func (r *recent) has(id string) bool {
	hash := maphash.String(seed, id)
	_, young := r.young[hash]
	_, old := r.old[hash]
	return young || old
}
