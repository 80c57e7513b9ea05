package embedded_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish/embedded"
)

func Example() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	broker, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()

	nc, err := nats.Connect("", nats.InProcessServer(broker))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	fmt.Println(nc.Status())
	// Output: CONNECTED
}
