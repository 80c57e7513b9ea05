# Builds with the classic builder and with BuildKit alike: no syntax that only one of them knows.
FROM golang:1.26 AS build
WORKDIR /src

# Before the sources, so that a change of the code does not download the modules again.
COPY go.mod go.sum ./
RUN go mod download

ARG VERSION=dev
ARG COMMIT=unknown
COPY . .
# The build cache goes with the step: nothing after it could use it, and it is most of the layer.
RUN CGO_ENABLED=0 GOCACHE=/tmp/go-build \
      go build -trimpath -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${COMMIT}" \
      -o /out/versive-ingress ./cmd/versive-ingress \
 && rm -rf /tmp/go-build \
 && mkdir /out/data

FROM scratch
LABEL org.opencontainers.image.title="versive-ingress" \
      org.opencontainers.image.description="Receives Versive webhooks and stores each event once in NATS JetStream" \
      org.opencontainers.image.licenses="MIT"

# What TLS to a broker is verified against; INGRESS_NATS_CA names another.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# An empty folder that belongs to the user: a new volume takes its owner from here.
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build /out/versive-ingress /versive-ingress

# By number: there is no /etc/passwd, and Kubernetes' runAsNonRoot asks for a number.
USER 65532:65532
# Only the embedded broker writes, and only here: the root file system can be read-only.
ENV INGRESS_DATA_DIR=/data
VOLUME /data
EXPOSE 8080
# A large stream of the embedded broker takes a while to open. The command gives up by itself after 5 s.
HEALTHCHECK --interval=10s --timeout=7s --start-period=60s --retries=3 CMD ["/versive-ingress", "health"]
ENTRYPOINT ["/versive-ingress"]
CMD ["serve"]
