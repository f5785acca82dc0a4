# One file for processors and for CUDA:
#   docker build --tag proponent:cuda .
#   docker build --build-arg TORCH_INDEX=URL --tag proponent:cpu .
# URL is PyTorch's package index for processors (its installation page names it); the image then holds no CUDA wheel.
# How to run it: deploy/README.md.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/proponent/bin:$PATH
WORKDIR /src
RUN python -m venv /opt/proponent
COPY pyproject.toml README.md LICENSE ./
# FAISS keeps the rows and computes nothing, so that its build for processors does for both; torch scans.
# hadolint ignore=DL3013
RUN sed --in-place --expression '/"faiss-gpu/d' --expression 's/"faiss-cpu\(.*\);.*"/"faiss-cpu\1"/' pyproject.toml \
 && pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch torchvision
COPY serve serve
COPY handlers handlers
# hadolint ignore=DL3013
RUN pip install '.[otel]' \
 && if [ -n "${TORCH_INDEX}" ] && pip list | grep --ignore-case --extended-regexp '^(nvidia-|cuda-|triton)'; then \
      echo 'a CUDA wheel came along: is TORCH_INDEX the index for processors?' >&2; exit 1; \
    fi

FROM ${BASE}
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin proponent
COPY --from=build /opt/proponent /opt/proponent
ENV PATH=/opt/proponent/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
VOLUME /models
EXPOSE 8500 8080
# Speaks TLS where PROPONENT_TLS_CERTIFICATE names the server's certificate, as it must in front of others.
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s CMD ["proponent", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["proponent"]
CMD ["serve", "/models", "--grpc-address", "0.0.0.0:8500", "--http-address", "0.0.0.0:8080"]
