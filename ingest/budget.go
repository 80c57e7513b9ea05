package ingest

import "sync"

// smallBody is the size in bytes up to which a body may use the whole budget.
const smallBody = 64 << 10

// A budget bounds the bytes of all bodies held at once. Larger bodies may use
// three quarters of it, so that they cannot keep small ones out.
type budget struct {
	max int64

	mu    sync.Mutex
	used  int64 // by all bodies; guarded by mu
	large int64 // by bodies over smallBody; guarded by mu
}

func newBudget(max int64) *budget { return &budget{max: max} }

// take reserves n bytes, or reports that there is no room for them now.
func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.max || n > smallBody && b.large+n > b.max/4*3 {
		return false
	}
	b.add(n)
	return true
}

// give returns n bytes that take has reserved.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(-n)
}

// add must be called with mu held.
func (b *budget) add(n int64) {
	b.used += n
	if n > smallBody || n < -smallBody {
		b.large += n
	}
}

func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
