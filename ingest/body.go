package ingest

import (
	"errors"
	"io"
	"math/bits"
	"net/http"
	"sync"
	"time"
)

// limitBody sets the body's read deadline. Rejected requests need it too, because
// net/http reads the rest of a body before it sends the response.
func limitBody(w http.ResponseWriter) {
	setBodyDeadline(w, time.Now().Add(BodyTimeout))
}

func setBodyDeadline(w http.ResponseWriter, at time.Time) {
	// Some ResponseWriters, such as those of tests, do not support deadlines.
	_ = http.NewResponseController(w).SetReadDeadline(at)
}

// discardBody frees what HTTP/2 has buffered of a rejected request's body. Over
// HTTP/1 at most 4 KiB are buffered, and Close would read the rest of the body.
func discardBody(r *http.Request) {
	if r.ProtoMajor == 2 {
		_ = r.Body.Close()
	}
}

// newUpload returns an upload that is charged nothing yet. The announced length is
// in bytes, or negative if unknown. The caller must call the budget's complete and
// release.
func (h *Handler) newUpload(w http.ResponseWriter, announced int64) *upload {
	u := &upload{w: w, began: time.Now(), length: announced, large: announced > smallBody}
	if announced < 0 {
		u.length = h.cfg.MaxBody
	}
	return u
}

// readBody reads the whole body, within MaxBody and the read deadline. The
// result is valid until u is released.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, u *upload) (body []byte, err error) {
	defer h.begin(r.Context(), stageRead).end(&err)
	body, err = h.fill(u, http.MaxBytesReader(w, r.Body, h.cfg.MaxBody), r.ContentLength)
	if !h.inflight.complete(u) {
		return nil, reject(unavailable, "too_much_in_flight")
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, reject(tooLarge, "body")
	}
	if err != nil {
		return nil, reject(badRequest, "body_cut_short").withDetail("the body did not arrive whole and in time")
	}
	// Past the deadline, net/http would cancel the request while it is stored.
	setBodyDeadline(w, time.Time{})
	return body, nil
}

var errShed = errors.New("shed")

// fill reads length bytes into u's buffer, or up to EOF if length is negative.
// If u is shed, it returns errShed or the error of the interrupted Read.
func (h *Handler) fill(u *upload, from io.Reader, length int64) ([]byte, error) {
	limit := length
	if length < 0 {
		limit = h.cfg.MaxBody + 1 // from fails before that
	}
	u.buffer = getBuffer(firstBuffer)
	for n := int64(0); n < limit; {
		size := int64(len(*u.buffer))
		// If more is expected, filling a small rest of the buffer is not worth a read.
		if n == size || length > size && n > size/2 {
			size = nextBuffer(size, limit)
			if !h.inflight.grow(u, min(size, h.cfg.MaxBody)) {
				return nil, errShed
			}
			smaller := u.buffer
			u.buffer = getBuffer(int(size))
			copy(*u.buffer, *smaller)
			putBuffer(smaller)
		}
		read, err := from.Read((*u.buffer)[n:min(size, limit)])
		u.arrived.Add(int64(read))
		if n == 0 && read > 0 && !h.inflight.grow(u, firstBuffer) {
			return nil, errShed
		}
		n += int64(read)
		switch {
		case err == io.EOF && length < 0:
			return (*u.buffer)[:n], nil
		case err != nil && n < limit:
			return nil, err
		}
	}
	return (*u.buffer)[:limit], nil
}

// firstBuffer is the initial size of a body's buffer, in bytes.
const firstBuffer = 4 << 10

// nextBuffer returns the size of the buffer after one of size bytes: four times as
// much, or less if that suffices for a body of at most limit bytes.
func nextBuffer(size, limit int64) int64 {
	switch next := 4 * size; {
	case next > smallBody:
		return min(next, limit)
	case next/2 >= limit:
		return next / 2
	default:
		return next
	}
}

// buffers pools the buffers of small bodies by size: firstBuffer, twice that, and so
// on up to smallBody.
var buffers [5]sync.Pool

// poolOf returns the pool for buffers of a size, or nil if they are not pooled.
func poolOf(size int) *sync.Pool {
	if size > smallBody {
		return nil
	}
	return &buffers[bits.Len(uint(size-1)/firstBuffer)]
}

func getBuffer(size int) *[]byte {
	if pool := poolOf(size); pool != nil {
		if b, ok := pool.Get().(*[]byte); ok {
			return b
		}
	}
	b := make([]byte, size)
	return &b
}

func putBuffer(b *[]byte) {
	if pool := poolOf(len(*b)); pool != nil {
		pool.Put(b)
	}
}
