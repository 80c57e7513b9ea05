package ingest

import (
	"math"

	"golang.org/x/time/rate"
)

// LogEverything turns off log sampling. Call it before the first request.
func (h *Handler) LogEverything() { h.sampler.limit = math.MaxInt }

// RejectImmediately turns off the tarpit.
func (h *Handler) RejectImmediately() { h.tarpit.limiter.SetLimit(rate.Inf) }
