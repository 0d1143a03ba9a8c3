# batchd in a container: CPU or CUDA, depending on the torch wheel that pip finds.
#   docker build -t batchd .
#   docker build -t batchd --build-arg PIP_EXTRA_ARGS="--index-url <index of CPU wheels>" .
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
ARG PIP_EXTRA_ARGS=""
ARG EXTRAS="server,text"
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/batchd && /opt/batchd/bin/pip install pip==26.3
WORKDIR /src
COPY constraints.txt ./
# First and in a layer of its own: it is by far the largest, and changes with constraints.txt only.
RUN /opt/batchd/bin/pip install ${PIP_EXTRA_ARGS} -c constraints.txt setuptools "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY batching batching
COPY server server
COPY clients clients
RUN /opt/batchd/bin/pip install -c constraints.txt --no-build-isolation ".[${EXTRAS}]"

FROM python:${PYTHON_VERSION}-slim
RUN useradd --uid 10001 --create-home --home-dir /var/lib/batchd batchd
COPY --from=build /opt/batchd /opt/batchd
# Inside a container the loopback address would reach nobody; which addresses are published is the host's choice. The
# daemon starts only with keys, or with BATCHD_SERVER__INSECURE=true: docs/security.md.
ENV PATH=/opt/batchd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BATCHD_SERVER__HOST=0.0.0.0 \
    BATCHD_SERVER__PORT=8080 \
    BATCHD_STATE__DIRECTORY=/var/lib/batchd
USER batchd
WORKDIR /var/lib/batchd
VOLUME /var/lib/batchd
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['BATCHD_SERVER__PORT']}/v2/health/ready\", timeout=4)"]
ENTRYPOINT ["batchd"]
CMD ["serve"]
