# Builds with the classic builder and with BuildKit alike: no syntax that only one of them knows.
FROM golang:1.26 AS build
WORKDIR /src

# Before the sources are copied, so that a change of the code does not download the modules again.
COPY go.mod go.sum ./
RUN go mod download

ARG VERSION=dev
ARG COMMIT=unknown
COPY . .
# The build cache is removed in the same step: no later step can use it, and it is most of the layer.
RUN CGO_ENABLED=0 GOCACHE=/tmp/go-build \
      go build -trimpath -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${COMMIT}" \
      -o /out/versive-ingress ./cmd/versive-ingress \
 && rm -rf /tmp/go-build \
 && mkdir /out/data

FROM scratch
LABEL org.opencontainers.image.title="versive-ingress" \
      org.opencontainers.image.description="Receives Versive webhooks and stores each event once in NATS JetStream" \
      org.opencontainers.image.licenses="MIT"

# Verifies the TLS certificate of a broker, unless INGRESS_NATS_CA is set.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# An empty directory that belongs to the user: a new volume gets its owner from it.
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build /out/versive-ingress /versive-ingress
# For docker exec CONTAINER versive-ingress COMMAND.
ENV PATH=/

# By number, because there is no /etc/passwd, and runAsNonRoot of Kubernetes requires a number.
USER 65532:65532
# Only the embedded broker writes, and only here: the root file system can be read-only.
ENV INGRESS_DATA_DIR=/data
VOLUME /data
EXPOSE 8080
# Checks whether the ingress runs, and not whether the broker is there: a new container would wait for it as well. The
# command gives up after 5 s.
HEALTHCHECK --interval=10s --timeout=7s --start-period=60s --retries=3 CMD ["/versive-ingress", "health", "--live"]
ENTRYPOINT ["/versive-ingress"]
CMD ["serve"]
