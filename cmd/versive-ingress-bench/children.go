package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	svix "github.com/svix/svix-webhooks/go"
)

// The bench runs its references as processes of their own, so that what they
// cost can be told apart: it calls itself with one of these hidden commands.

// plainCommand is the least that a handler of webhooks can do.
func plainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "plain listen", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return serveHTTP(cmd.Context(), args[0], http.HandlerFunc(plain))
		},
	}
}

func plain(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, "reading the body", http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// naiveCommand is the handler that everybody writes first.
func naiveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "naive listen secret nats-url", Hidden: true, Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			js, closeConn, err := connect(args[2])
			if err != nil {
				return err
			}
			defer closeConn()
			webhook, err := svix.NewWebhook(args[1])
			if err != nil {
				return err
			}
			return serveHTTP(cmd.Context(), args[0], naive(webhook, js))
		},
	}
}

// naive verifies and publishes, one message a request. Beside the duplicate
// window of the stream it promises nothing, and it does not look into the body.
func naive(webhook *svix.Webhook, js jetstream.JetStream) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "reading the body", http.StatusBadRequest)
			return
		}
		if err := webhook.Verify(body, r.Header); err != nil {
			http.Error(w, "signature", http.StatusUnauthorized)
			return
		}
		message := &nats.Msg{
			Subject: naiveSubject,
			Header:  nats.Header{jetstream.MsgIDHeader: {r.Header.Get("svix-id")}},
			Data:    body,
		}
		if _, err := js.PublishMsg(r.Context(), message); err != nil {
			http.Error(w, "publishing", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func serveHTTP(ctx context.Context, listen string, handler http.Handler) error {
	s := &http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// brokerCommand is a nats-server as anybody else's: the same code with the
// same settings, and no binary to download.
func brokerCommand() *cobra.Command {
	var always bool
	var cluster, routes string
	cmd := &cobra.Command{
		Use: "broker name listen store-dir", Hidden: true, Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := &server.Options{
				ServerName:             args[0],
				JetStream:              true,
				StoreDir:               args[2],
				SyncAlways:             always, // else every two minutes, its default
				MaxPayload:             maxPayload,
				NoSigs:                 true, // the context ends it
				DisableJetStreamBanner: true,
			}
			var err error
			if o.Host, o.Port, err = splitAddress(args[1]); err != nil {
				return err
			}
			if cluster != "" {
				o.Cluster.Name = "bench"
				if o.Cluster.Host, o.Cluster.Port, err = splitAddress(cluster); err != nil {
					return err
				}
				o.Routes = server.RoutesFromStr(routes)
			}
			s, err := server.NewServer(o)
			if err != nil {
				return err
			}
			s.ConfigureLogger()
			s.Start()
			<-cmd.Context().Done()
			s.Shutdown()
			s.WaitForShutdown()
			return nil
		},
	}
	cmd.Flags().BoolVar(&always, "always", false, "sync_interval: always")
	cmd.Flags().StringVar(&cluster, "cluster", "", "listen address of the cluster")
	cmd.Flags().StringVar(&routes, "routes", "", "addresses of the other servers")
	return cmd
}

// maxPayload is that of deploy/nats: room for a body of 8 MiB.
const maxPayload = 9 << 20

func splitAddress(address string) (host string, port int, err error) {
	host, digits, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(digits)
	return host, port, err
}

// brokerArgs are the arguments of the brokers of a cluster, or of the one.
func brokerArgs(dirs, clients, cluster []string, always bool) [][]string {
	var all [][]string
	for n, dir := range dirs {
		args := []string{"broker", "bench-" + strconv.Itoa(n+1), clients[n], dir}
		if always {
			args = append(args, "--always")
		}
		if len(dirs) > 1 {
			args = append(args, "--cluster", cluster[n], "--routes", "nats://"+strings.Join(cluster, ",nats://"))
		}
		all = append(all, args)
	}
	return all
}
