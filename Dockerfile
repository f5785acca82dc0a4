# Build: docker build --build-arg BASE=nvidia/cuda:13.0.2-runtime-ubuntu24.04 --tag proponent .
# Run:   docker run --gpus all --volume ./model_store:/models --publish 8500:8500 --publish 8080:8080 proponent
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
HEALTHCHECK CMD ["/opt/proponent/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/readyz')"]
ENTRYPOINT ["/opt/proponent/bin/proponent", "serve", "/models"]
CMD ["--grpc-address", "0.0.0.0:8500", "--http-address", "0.0.0.0:8080"]
