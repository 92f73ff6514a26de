# Worker, monitor, guard, drctl: `docker run ... worker --region us-east-1`. The last target, and so the usual one; the
# target `region` is the host of a region in docker-compose.yaml, with Redis and NATS beside the guard.
# PostgreSQL's programs are in it because the worker streams backups and starts restored servers itself.
FROM python:3.11.13-slim-bookworm AS recovery

# Debian has one major version. The others come from the PostgreSQL project's own Debian packages, which Debian's
# postgresql-common sets up. No cluster is created: restored ones live in the worker's data directory.
ARG POSTGRES_MAJORS="15 16 17 18"
RUN set -eu; \
    apt-get update; \
    apt-get install -y --no-install-recommends ca-certificates postgresql-common tini; \
    mkdir -p /etc/postgresql-common; \
    echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf; \
    if [ "$POSTGRES_MAJORS" != "15" ]; then sh /usr/share/postgresql-common/pgdg/apt.*.sh -y; fi; \
    for major in $POSTGRES_MAJORS; do packages="${packages:-} postgresql-$major postgresql-client-$major"; done; \
    apt-get install -y --no-install-recommends $packages; \
    rm -rf /var/lib/apt/lists/*

# Pinned and hashed; a download that differs ends the build.
COPY requirements/production.txt /tmp/production.txt
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r /tmp/production.txt \
    && rm /tmp/production.txt

WORKDIR /opt/recovery-plans
COPY pyproject.toml ./
COPY workflows/ workflows/
COPY activities/ activities/
COPY workers/ workers/
COPY recovery/ recovery/
COPY drctl/ drctl/
RUN printf '#!/bin/sh\nexec python -m drctl "$@"\n' > /usr/local/bin/drctl \
    && chmod 755 /usr/local/bin/drctl \
    && python -m compileall -q . \
    && useradd --uid 10001 --user-group --home-dir /var/lib/recovery --create-home recovery

ENV PYTHONPATH=/opt/recovery-plans \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# PostgreSQL refuses to run as root, and nothing else here needs it.
USER recovery
WORKDIR /var/lib/recovery
EXPOSE 9464
ENTRYPOINT ["tini", "--", "drctl"]
CMD ["--help"]

# The host of a region: guard and worker with the stores that they start, end and restore.
FROM redis:7.4.5-bookworm AS redis
FROM nats:2.15.1-alpine AS nats

FROM recovery AS region
COPY --from=redis /usr/local/bin/redis-server /usr/local/bin/
COPY --from=nats /usr/local/bin/nats-server /usr/local/bin/
COPY --chmod=755 deploy/compose/region.sh /usr/local/bin/
ENTRYPOINT ["tini", "--", "region.sh"]
CMD []

FROM recovery
