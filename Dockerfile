# The server as an image: built with the Rust image, run on Debian slim as a user without rights.
#
#   docker build --tag zta:local .
#
# Behind a closed network the base images can be replaced by build arguments, and `BINARY=prebuilt` takes
# deploy/compose/prebuilt/zta (built on the same Debian release) instead of compiling here.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim
ARG BINARY=build

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
ENV CARGO_TARGET_DIR=/target
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    cargo build --locked --release -p zta-server --bin zta \
    && install -D /target/release/zta /out/zta

FROM scratch AS prebuilt
COPY deploy/compose/prebuilt/zta /out/zta

FROM ${BINARY} AS binary

FROM ${RUNTIME_IMAGE}
RUN groupadd --gid 10001 zta \
    && useradd --uid 10001 --gid zta --no-create-home --home-dir /var/lib/zta --shell /usr/sbin/nologin zta \
    && install --directory --owner=zta --group=zta --mode=0700 /var/lib/zta
COPY --from=binary --chmod=0555 /out/zta /usr/local/bin/zta
# By number: an orchestrator that demands a non-root user cannot read a name.
USER 10001:10001
WORKDIR /var/lib/zta
ENV ZTA_LISTEN=0.0.0.0:7443 \
    ZTA_DATA_DIR=/var/lib/zta \
    ZTA_LOG_FORMAT=json
VOLUME ["/var/lib/zta"]
EXPOSE 7443
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["zta", "health"]
ENTRYPOINT ["zta"]
CMD ["serve"]
