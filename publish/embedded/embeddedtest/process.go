package embeddedtest

import (
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Run runs the tests of a package, calls cleanup, and returns the exit code: not 0 if
// goroutines are left. It is for TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(embeddedtest.Run(m)) }
//
// Tests with a broker wait more than they compute. So unless the flag -parallel is
// given, six times as many tests as usual run in parallel. For the same reason, clusters
// in this process elect their leaders sooner than others do.
func Run(m *testing.M, cleanup ...func()) int {
	shortenElections()
	if err := flag.Set("test.parallel", strconv.Itoa(6*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	code := m.Run()
	for _, f := range cleanup {
		f()
	}
	if err := leaked(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// leaked returns an error that lists leaked goroutines. It waits longer than goleak
// does, because they end late on a busy machine.
func leaked() error {
	// nats-server's, which can outlive its shutdown.
	const server = "github.com/nats-io/nats-server/v2/server."
	var ignored []goleak.Option
	for _, function := range []string{
		"init.0.func1",
		"(*msgBlock).flushLoop",
		"(*stream).setupMirrorConsumer.func3",
		"(*stream).trySetupSourceConsumer.func3",
	} {
		ignored = append(ignored, goleak.IgnoreAnyFunction(server+function))
	}
	for deadline := time.Now().Add(Timeout); ; {
		if err := goleak.Find(ignored...); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// portCount is the number of ports that belong to a process, with the one that stands
// for all of them.
const portCount = 1000

// ports listens on the first port of those that belong to this process. They are below
// the ephemeral ones, which the system gives out.
var ports = sync.OnceValue(func() net.Listener {
	for first := 10_000; first < 32_000; first += portCount {
		if listener, err := net.Listen("tcp", address(first)); err == nil {
			return listener
		}
	}
	panic("embeddedtest: too many processes of tests")
})

var lastPort atomic.Int64 // relative to the first

func address(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// FreeAddress returns a loopback address on which nothing listens. Neither the system
// nor another process of tests gives its port out, so it stays free until it is used,
// and while a broker is stopped.
func FreeAddress(t testing.TB) string {
	t.Helper()
	first := ports().Addr().(*net.TCPAddr).Port
	for range portCount {
		free := address(first + 1 + int(lastPort.Add(1)%(portCount-1)))
		if listener, err := net.Listen("tcp", free); err == nil {
			listener.Close()
			return free
		}
	}
	t.Fatal("no free port")
	return ""
}
