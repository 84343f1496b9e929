# The gateway as an image of one file: a static binary and nothing else, no shell, no libc.
#
#     docker build -t linksfield-gateway --build-arg REVISION=$(git rev-parse --short=12 HEAD) .
#
# There are no CA certificates in it on purpose: Mozilla's roots are part of the binary, and upstream.ca_file names others.

FROM docker.io/library/rust:1.95-slim-bookworm AS build
# aws-lc-rs, the crypto of rustls, is partly C. Python and LLVM's tools make the profile that the gateway is built with.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends musl-tools python3 \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add "$(uname -m)-unknown-linux-musl" \
    && rustup component add llvm-tools
WORKDIR /src
COPY . .
ARG REVISION=unknown
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    target="$(uname -m)-unknown-linux-musl" \
    && LINKSFIELD_GATEWAY_REVISION="$REVISION" deploy/build "$target" \
    && install -D -t /out "target/$target/release/linksfield-gateway"

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="linksfield-gateway" \
      org.opencontainers.image.description="A caching, signing reverse proxy in front of the Linksfield IoT-SIM platform" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /out/linksfield-gateway /linksfield-gateway
# By number, so that Kubernetes can tell that it is not root.
USER 65532:65532
EXPOSE 6180 6181
# Where server.admin_listen is; a demo has no such file, and is where it is by default.
HEALTHCHECK CMD ["/linksfield-gateway", "healthcheck", "--config", "/etc/linksfield-gateway/gateway.toml"]
ENTRYPOINT ["/linksfield-gateway"]
CMD ["serve", "--config", "/etc/linksfield-gateway/gateway.toml"]
