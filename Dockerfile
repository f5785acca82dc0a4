# Build: docker build --build-arg BASE=nvidia/cuda:13.0.2-runtime-ubuntu24.04 --tag proponent .
# Run:   docker run --gpus all --volume ./model_store:/models --env PROPONENT_INSECURE=true --publish 127.0.0.1:8500:8500 --publish 127.0.0.1:8080:8080 proponent
# It listens on all of the container's addresses, so it asks for TLS and tokens (PROPONENT_TLS_CERTIFICATE,
# PROPONENT_TLS_KEY, PROPONENT_TOKENS_FILE), or for the above where only this machine can reach it.
ARG BASE=nvidia/cuda:13.0.2-runtime-ubuntu24.04

FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY serve serve
COPY handlers handlers
RUN python3 -m venv /opt/proponent && /opt/proponent/bin/pip install --no-cache-dir .

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 proponent
COPY --from=build /opt/proponent /opt/proponent
USER 10001
VOLUME /models
EXPOSE 8500 8080
HEALTHCHECK CMD ["/opt/proponent/bin/python", "-c", "import os, ssl, urllib.request as r; r.urlopen('http' + 's' * ('PROPONENT_TLS_CERTIFICATE' in os.environ) + '://127.0.0.1:8080/readyz', context=ssl._create_unverified_context())"]
ENTRYPOINT ["/opt/proponent/bin/proponent", "serve", "/models"]
CMD ["--grpc-address", "0.0.0.0:8500", "--http-address", "0.0.0.0:8080"]
