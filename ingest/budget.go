package ingest

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// smallBody is the size in bytes up to which a body may use the whole budget.
const smallBody = 64 << 10

// pace is the rate, in bytes per second, by which uploads are compared.
const pace = 1 << 20

// A budget bounds the memory of all bodies that are held.
//
//   - A body is charged for what has arrived, not for what was announced: its
//     buffer grows fourfold as it fills, and the budget is charged for that.
//   - Large bodies, announced or arrived, may use three quarters of the budget,
//     so that they cannot keep small ones out.
//   - When a buffer does not fit, the slowest upload is shed, its sender is
//     answered 503. The slowest is the one that lags most behind a sender at the
//     pace; that may be the one that asks.
//   - A body that has arrived whole is not shed.
type budget struct {
	max int64

	mu       sync.Mutex
	used     int64                // bytes of all buffers
	large    int64                // bytes of the buffers of large bodies
	arriving map[*upload]struct{} // can be shed
}

// An upload is a body that is arriving, or has arrived and is not yet stored.
type upload struct {
	w       http.ResponseWriter
	began   time.Time
	arrived atomic.Int64 // bytes
	buffer  *[]byte      // what has arrived; owned by the request's goroutine

	large bool  // over smallBody; guarded by budget.mu
	held  int64 // bytes of the buffer; guarded by budget.mu
	shed  bool  // guarded by budget.mu
}

func newBudget(max int64) *budget {
	return &budget{max: max, arriving: make(map[*upload]struct{})}
}

// begin returns an upload that holds nothing yet. Its announced length is in
// bytes, or negative. It must be settled and released.
func (b *budget) begin(w http.ResponseWriter, announced int64) *upload {
	u := &upload{w: w, began: time.Now(), large: announced > smallBody}
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
	if size > smallBody && !u.large {
		b.large += u.held
		u.large = true
	}
	for !u.shed {
		largeFull := u.large && b.large-u.held+size > b.max/4*3
		if !largeFull && b.used-u.held+size <= b.max {
			b.charge(u, size)
			return true
		}
		b.shedSlowest(u, largeFull)
	}
	return false
}

// charge must be called with mu held.
func (b *budget) charge(u *upload, size int64) {
	b.used += size - u.held
	if u.large {
		b.large += size - u.held
	}
	u.held = size
}

// shedSlowest sheds the slowest of the upload that asks for room and those that
// hold some: if largeOnly, as large bodies. It must be called with mu held.
func (b *budget) shedSlowest(asking *upload, largeOnly bool) {
	now := time.Now()
	slowest, lag := asking, asking.lag(now)
	for u := range b.arriving {
		if u.held == 0 || largeOnly && !u.large {
			continue
		}
		if l := u.lag(now); l > lag {
			slowest, lag = u, l
		}
	}
	b.charge(slowest, 0)
	slowest.shed = true
	delete(b.arriving, slowest)
	setBodyDeadline(slowest.w, time.Unix(1, 0)) // ends its Read
}

// lag returns how far u is behind a sender at the pace.
func (u *upload) lag(now time.Time) time.Duration {
	return now.Sub(u.began) - time.Duration(u.arrived.Load())*time.Second/pace
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
