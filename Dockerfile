# Two stages: the first has the sources and builds, the second gets only what was installed.
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /src
# .dockerignore lists what may enter: the sources, never .env or data.
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/rayotel \
    && wheel="$(ls /wheels/rayotel-*.whl)" \
    && pip --python /opt/rayotel/bin/python install --no-cache-dir "${wheel}[s3]"

FROM ${BASE}
LABEL org.opencontainers.image.title="rayotel" \
      org.opencontainers.image.description="Keeps the history of Ray clusters: OTLP in, open Parquet on your own storage, answers in SQL" \
      org.opencontainers.image.licenses="Apache-2.0"

# A fixed number, so that volumes keep their owner from one image to the next and
# Kubernetes can check runAsNonRoot. DuckDB wants a home directory that it may write to.
RUN groupadd --gid 10001 rayotel \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin rayotel \
    && install --directory --owner=rayotel --group=rayotel --mode=0750 /var/lib/rayotel

COPY --from=build /opt/rayotel /opt/rayotel
ENV PATH=/opt/rayotel/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAYOTEL_DATA_DIR=/var/lib/rayotel

USER 10001:10001
WORKDIR /var/lib/rayotel
# What was acknowledged but is not in the storage yet lives here: keep it on a volume.
VOLUME ["/var/lib/rayotel"]
EXPOSE 8000

# No proxy: Docker can set HTTP_PROXY in every container, and this address is the container's own.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=6 CMD ["python", "-c", \
    "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('RAYOTEL_PORT', '8000') + '/api/v1/readiness', timeout=4)"]

# Beyond loopback the server wants RAYOTEL_USERNAME and RAYOTEL_PASSWORD, and says so.
ENTRYPOINT ["rayotel"]
CMD ["serve", "--host", "0.0.0.0"]
