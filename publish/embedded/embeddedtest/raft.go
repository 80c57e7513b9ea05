package embeddedtest

import (
	"time"
	_ "unsafe" // for go:linkname
)

// Timeouts of nats-server, which has no options for them. Its own tests change them too.
var (
	//go:linkname minElectionTimeout github.com/nats-io/nats-server/v2/server.minElectionTimeout
	minElectionTimeout time.Duration
	//go:linkname maxElectionTimeout github.com/nats-io/nats-server/v2/server.maxElectionTimeout
	maxElectionTimeout time.Duration
	//go:linkname lostQuorumInterval github.com/nats-io/nats-server/v2/server.lostQuorumInterval
	lostQuorumInterval time.Duration
	//go:linkname lostQuorumCheck github.com/nats-io/nats-server/v2/server.lostQuorumCheck
	lostQuorumCheck time.Duration
)

// shortenElections makes clusters in this process notice sooner that they have no leader,
// and elect one. A busy machine may still lose two heartbeats, which are sent each second.
func shortenElections() {
	minElectionTimeout, maxElectionTimeout = 3*time.Second, 6*time.Second // instead of 4 and 9 s
	lostQuorumInterval, lostQuorumCheck = 5*time.Second, time.Second      // instead of 10 s each
}
