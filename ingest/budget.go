package ingest

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// smallBody is the size in bytes up to which a body may use the whole budget.
const smallBody = 64 << 10

// pace is the rate in bytes per second by which uploads are compared.
const pace = 1 << 20

// A budget bounds the memory of all bodies that are held.
//
//   - A body is charged for what has arrived, not for what was announced: its
//     buffer doubles as it fills, and the budget is charged for the buffer.
//   - Buffers over 64 KiB may use three quarters of the budget, so that large
//     bodies cannot keep small ones out.
//   - When a buffer does not fit, the slowest upload is shed: the one that lags
//     most behind a sender that sends at the pace since it began. That may be
//     the one that wants to grow. Its memory is free at once, its sender is
//     answered 503.
//   - A body that has arrived whole is not shed.
type budget struct {
	max int64

	mu       sync.Mutex
	used     int64                // by all buffers
	large    int64                // by buffers over smallBody
	arriving map[*upload]struct{} // what can be shed
}

// An upload is a body that is arriving, or has arrived and is not yet stored.
type upload struct {
	w       http.ResponseWriter
	began   time.Time
	arrived atomic.Int64 // bytes
	buffer  *[]byte      // what has arrived; owned by the request's goroutine

	held int64 // bytes; guarded by budget.mu
	shed bool  // guarded by budget.mu
}

func newBudget(max int64) *budget {
	return &budget{max: max, arriving: make(map[*upload]struct{})}
}

// begin returns a new upload, which holds nothing yet. It must be settled and
// released.
func (b *budget) begin(w http.ResponseWriter) *upload {
	u := &upload{w: w, began: time.Now()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.arriving[u] = struct{}{}
	return u
}

// grow charges u for a buffer of size bytes in place of the one that it has. It
// sheds slower uploads to make room, and reports false if u itself is shed.
func (b *budget) grow(u *upload, size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !u.shed {
		large := b.large + size
		if u.held > smallBody {
			large -= u.held
		}
		tooLarge := size > smallBody && large > b.max/4*3
		if !tooLarge && b.used-u.held+size <= b.max {
			b.charge(u, size)
			return true
		}
		b.shedOne(u, tooLarge)
	}
	return false
}

// shedOne sheds the slowest upload, asking or another that holds something; if
// tooLarge, something large. It must be called with mu held.
func (b *budget) shedOne(asking *upload, tooLarge bool) {
	now := time.Now()
	slowest := asking
	for u := range b.arriving {
		if u.held > 0 && (!tooLarge || u.held > smallBody) && u.lag(now) > slowest.lag(now) {
			slowest = u
		}
	}
	b.charge(slowest, 0)
	slowest.shed = true
	delete(b.arriving, slowest)
	setBodyDeadline(slowest.w, time.Unix(1, 0)) // ends its Read
}

// lag returns how far u is behind a sender that sends at the pace.
func (u *upload) lag(now time.Time) time.Duration {
	return now.Sub(u.began) - time.Duration(u.arrived.Load())*time.Second/pace
}

// charge must be called with mu held.
func (b *budget) charge(u *upload, size int64) {
	b.used += size - u.held
	if u.held > smallBody {
		b.large -= u.held
	}
	if size > smallBody {
		b.large += size
	}
	u.held = size
}

// settle ends the time in which u can be shed, and reports false if it was.
func (b *budget) settle(u *upload) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.arriving, u)
	return !u.shed
}

// release returns what u holds, its buffer too.
func (b *budget) release(u *upload) {
	if u.buffer != nil {
		giveBuffer(u.buffer)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.charge(u, 0)
}

func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
