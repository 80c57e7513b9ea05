package ingest

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// smallBody is the size in bytes up to which a body may use the whole budget.
const smallBody = 64 << 10

// referenceRate is the upload rate, in bytes per second, against which uploads
// are compared.
const referenceRate = 1 << 20

// A budget bounds the memory that bodies take, from their first byte until they
// are stored or rejected.
//
//   - A body is charged for what has arrived, not for its announced length: its
//     buffer grows fourfold as it fills, and the budget is charged for the buffer.
//   - Large bodies, whether announced or found to be large, may use three
//     quarters of the budget, so that they cannot keep small ones out.
//   - When a buffer does not fit, the slowest upload is shed and answered 503.
//     The slowest is the one that lags most behind an upload at the reference
//     rate; that may be the one whose buffer does not fit.
//   - A large body that does not lag has its whole length reserved. One that
//     begins and finds too little left is shed then, not when most of it has
//     arrived.
//   - A body that has arrived whole is never shed.
//
// An upload is new, arriving (from the first grow), then complete or shed, and at
// last released. Its request's goroutine takes it through these states and owns
// its buffer; only shedding is done by whichever request needs room, which
// interrupts the upload's Read. mu guards the sums and the states; nothing waits
// while it is held.
type budget struct {
	max int64 // bytes

	mu       sync.Mutex
	used     int64                // bytes of all buffers; guarded by mu
	large    int64                // bytes of the buffers of large bodies; guarded by mu
	arriving map[*upload]struct{} // charged, and can be shed; guarded by mu
}

// An upload is a body that is arriving, or has arrived and is not yet stored.
type upload struct {
	w       http.ResponseWriter
	began   time.Time
	length  int64        // bytes; MaxBody if it is not announced
	arrived atomic.Int64 // bytes
	buffer  *[]byte      // owned by the request's goroutine

	large   bool  // larger than smallBody; guarded by budget.mu
	charged int64 // bytes; guarded by budget.mu
	shed    bool  // guarded by budget.mu
}

// newUpload returns an upload that is charged nothing yet. The announced length is
// in bytes, or negative if unknown. The caller must call the budget's complete and
// release.
func newUpload(w http.ResponseWriter, announced, maxBody int64) *upload {
	u := &upload{w: w, began: time.Now(), length: announced, large: announced > smallBody}
	if announced < 0 {
		u.length = maxBody
	}
	return u
}

func newBudget(max int64) *budget {
	return &budget{max: max, arriving: make(map[*upload]struct{})}
}

// grow charges u for a buffer of size bytes instead of its current one. It sheds
// the slowest uploads to make room, and reports false if u itself is shed.
func (b *budget) grow(u *upload, size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	turnsLarge := size > smallBody && !u.large
	if (turnsLarge || u.large && u.charged == 0) && b.reserved()+u.length > b.max/4*3 {
		b.drop(u)
	}
	if turnsLarge {
		b.large += u.charged
		u.large = true
	}
	for !u.shed {
		largeFull := u.large && b.large-u.charged+size > b.max/4*3
		if !largeFull && b.used-u.charged+size <= b.max {
			b.charge(u, size)
			b.arriving[u] = struct{}{}
			return true
		}
		b.drop(b.slowest(u, largeFull))
	}
	return false
}

// reserved returns the bytes of large bodies that have arrived, or arrive and do
// not lag. It must be called with mu held.
func (b *budget) reserved() int64 {
	now, total := time.Now(), b.large
	for u := range b.arriving {
		if u.large {
			total -= u.charged
			if u.lag(now) <= 0 {
				total += u.length
			}
		}
	}
	return total
}

// charge must be called with mu held.
func (b *budget) charge(u *upload, size int64) {
	b.used += size - u.charged
	if u.large {
		b.large += size - u.charged
	}
	u.charged = size
}

// slowest returns the slowest among asking and the arriving uploads; with
// largeOnly, among the large ones. It must be called with mu held.
func (b *budget) slowest(asking *upload, largeOnly bool) *upload {
	now := time.Now()
	slowest, lag := asking, asking.lag(now)
	for u := range b.arriving {
		if largeOnly && !u.large {
			continue
		}
		if l := u.lag(now); l > lag {
			slowest, lag = u, l
		}
	}
	return slowest
}

// drop sheds u. It must be called with mu held.
func (b *budget) drop(u *upload) {
	b.charge(u, 0)
	u.shed = true
	delete(b.arriving, u)
	setBodyDeadline(u.w, time.Unix(1, 0)) // interrupts its Read
}

// lag returns how far u lags behind an upload at the reference rate.
func (u *upload) lag(now time.Time) time.Duration {
	return now.Sub(u.began) - time.Duration(u.arrived.Load())*time.Second/referenceRate
}

// complete ends u's arrival, after which u cannot be shed. It reports false if u
// was shed before.
func (b *budget) complete(u *upload) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.arriving, u)
	return !u.shed
}

// release returns u's charge to the budget and its buffer to the pool.
func (b *budget) release(u *upload) {
	if u.buffer != nil {
		putBuffer(u.buffer)
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
