#!/bin/sh
# The host of one region, in one container: PostgreSQL, Redis and NATS, their guard, and the region's worker.
#
# A guard starts, stops and kills the stores beside it, and a worker restores into their data directory: they share
# processes and files, as on a machine. So the container is that machine. Losing it (docker compose kill region-a) is
# losing the region: nothing of it runs on. Whoever ends or freezes single processes in it sees guard and companion act.
#
#   region.sh            runs all of it until SIGTERM, which ends the primaries in order
#   region.sh healthy    exits with 0 once PostgreSQL answers and the guard holds its lease
#
# At rest no store here is a primary, whatever starts it; only the guard makes one. But for the very first start: at
# home (HOME_REGION) a new PostgreSQL runs as a primary, which the guard finds and claims for the group.
set -eu
umask 077

: "${REGION:?}" "${HOME_REGION:?}"
base=${REGION_FOLDER:-/var/lib/recovery}
listen=${REGION_LISTEN:-0.0.0.0}   # address of this host's stores
here=${REGION_ADDRESS:-127.0.0.1}  # where this host reaches them
home=${HOME_ADDRESS:-$HOME_REGION} # where the others reach those of the home region
bin=${POSTGRES_BIN:-/usr/lib/postgresql/16/bin}
metrics=${GUARD_METRICS_PORT:-9188}
data=$base/postgres
slot=standby_$(printf %s "$REGION" | tr -c 'a-z0-9' _)

say() { printf 'region.sh: %s\n' "$*" >&2; }

sql() { PGPASSWORD=$POSTGRES_PASSWORD "$bin/psql" -X -q -v ON_ERROR_STOP=1 -h "$here" -U postgres "$@"; }

healthy() {
    "$bin/pg_isready" -q -h "$here" -t 3
    python - "http://$here:$metrics/metrics" <<'PY'
import re, sys, urllib.request
text = urllib.request.urlopen(sys.argv[1], timeout=4).read().decode()
left = [float(value) for value in re.findall(r"^dr_guard_lease_seconds_left\S* (\S+)", text, re.MULTILINE)]
sys.exit(0 if left and min(left) > 0 else 1)
PY
}

# -- PostgreSQL: made once; from then on the guard's own ---------------------------------------------------------------

settings() {
    printf "listen_addresses = '%s'\n" "$listen"
    # "on" for both: any region can be the primary, and pg_rewind needs the hints.
    printf 'wal_level = replica\nhot_standby = on\nwal_log_hints = on\nmax_wal_senders = 10\n'
    printf "max_replication_slots = 10\nwal_keep_size = 1GB\nwal_receiver_timeout = 10s\nunix_socket_directories = ''\n"
}

make_primary() {
    rm -rf "$data.new"
    printf %s "$POSTGRES_PASSWORD" > "$base/.pwfile"
    "$bin/initdb" --no-instructions --data-checksums --encoding UTF8 --locale C --auth scram-sha-256 \
        --username postgres --pwfile "$base/.pwfile" --pgdata "$data.new" > /dev/null
    rm "$base/.pwfile"
    settings >> "$data.new/postgresql.conf"
    printf 'host all all all scram-sha-256\nhost replication all all scram-sha-256\n' >> "$data.new/pg_hba.conf"
    mv "$data.new" "$data"
}

make_standby() {
    printf '*:*:*:replicator:%s\n' "$REPLICATION_PASSWORD" > "$data.passfile"
    until rm -rf "$data.new" && PGPASSFILE=$data.passfile "$bin/pg_basebackup" --pgdata "$data.new" --wal-method stream \
        --checkpoint fast --write-recovery-conf --slot "$slot" --no-password \
        --dbname "host=$home user=replicator application_name=$slot passfile=$data.passfile"; do
        say "no copy of $home yet; it is tried again"
        sleep 2
    done
    printf "listen_addresses = '%s'\n" "$listen" >> "$data.new/postgresql.conf"
    mv "$data.new" "$data"
}

# Process numbers begin anew with a container: what a killed server left must not name somebody else's.
forget_dead_server() {
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/cwd" 2> /dev/null || :)" != "$data" ] || return 0
    done
    rm -f "$data/postmaster.pid"
}

# A directory that a guard has seen has one of the two, also while it is a primary.
was_guarded() { [ -e "$data/standby.signal" ] || [ -e "$data/recovery-plans.primary.json" ]; }

first_primary() {
    "$bin/pg_ctl" start -s -w -D "$data" -l "$data/recovery-plans.log"
    sql -d postgres <<'SQL'
\getenv backup_password BACKUP_PASSWORD
\getenv replication_password REPLICATION_PASSWORD
SELECT 'CREATE ROLE recovery_backup LOGIN REPLICATION' WHERE to_regrole('recovery_backup') IS NULL \gexec
SELECT 'CREATE ROLE replicator LOGIN REPLICATION' WHERE to_regrole('replicator') IS NULL \gexec
ALTER ROLE recovery_backup PASSWORD :'backup_password';
ALTER ROLE replicator PASSWORD :'replication_password';
GRANT pg_read_all_data, pg_monitor, pg_checkpoint TO recovery_backup;
GRANT CREATE ON DATABASE postgres TO recovery_backup; -- one row in a schema of its own at each backup
GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text),
    pg_read_binary_file(text, bigint, bigint, boolean) TO replicator; -- what pg_rewind asks of its source
SELECT 'CREATE DATABASE shop' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'shop') \gexec
SQL
    for other in $OTHER_REGIONS; do
        name=standby_$(printf %s "$other" | tr -c 'a-z0-9' _)
        sql -d postgres -v name="$name" > /dev/null <<'SQL'
SELECT pg_create_physical_replication_slot(:'name', true)
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = :'name');
SQL
    done
    sql -d shop -c 'CREATE TABLE IF NOT EXISTS orders
        (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, placed_at timestamptz NOT NULL DEFAULT now())'
}

# -- Redis and NATS: at rest by their configuration --------------------------------------------------------------------

redis_configuration() {
    # A replica of nowhere keeps its data and refuses writes. The password is in a file: a process list shows arguments.
    printf 'bind %s\nport 6379\ndir "%s"\nreplicaof 127.0.0.1 1\nappendonly yes\n' "$listen" "$base/redis"
    printf 'requirepass "%s"\nmasterauth "%s"\nrepl-timeout 10\nrepl-ping-replica-period 2\n' \
        "$REDIS_PASSWORD" "$REDIS_PASSWORD"
}

nats_configuration() {
    cat <<CONF
server_name: $REGION
listen: "$listen:4222"
ping_interval: 2s
ping_max: 2
jetstream { store_dir: "$base/nats", domain: $REGION, max_file_store: 10GB }
authorization {
  include "nats-fence.conf"
  users: [
    { user: shop, password: "$NATS_APP_PASSWORD" }
    { user: recovery-probe, password: "$NATS_PASSWORD" }
    { user: recovery, password: "$NATS_PASSWORD", permissions: { publish: ">", subscribe: ">" } }
    { user: leaf, password: "$NATS_LEAF_PASSWORD"
      permissions: { publish: ["\$JS.>", "\$JSC.>"], subscribe: ["\$JS.>", "\$JSC.>"] } }
  ]
}
leafnodes {
  listen: "$listen:7422"
  reconnect: 1s
CONF
    [ "$REGION" = "$HOME_REGION" ] || printf '  remotes: [ { url: "nats://leaf:%s@%s:7422" } ]\n' "$NATS_LEAF_PASSWORD" "$home"
    printf '}\n'
}

prepare_stores() {
    mkdir -p "$base/redis" "$base/nats" "$base/guard/$REGION"
    redis_configuration > "$base/redis.conf"
    nats_configuration > "$base/nats.conf"
    fence=$base/guard/$REGION/nats-shop.conf
    [ -e "$fence" ] || printf 'default_permissions: { publish: { deny: ">" } }\n' > "$fence"
    ln -sfn "$fence" "$base/nats-fence.conf"
}

make_streams() {
    python - "$here" <<'PY'
import asyncio, os, sys
import nats

async def main() -> None:
    client = await nats.connect(f"nats://{sys.argv[1]}:4222", user="recovery", password=os.environ["NATS_PASSWORD"])
    for name in ("events", "commands", "audit"):
        await client.jetstream().add_stream(name=name, subjects=[f"shop.{name}.>"])
    await client.close()

asyncio.run(main())
PY
}

# -- Running it all ----------------------------------------------------------------------------------------------------

# Runs a command again whenever it ends, as a service manager would. For the background: SIGTERM ends both.
again() {
    child=
    trap 'kill -TERM "$child" 2> /dev/null; wait "$child"; exit 0' TERM
    while :; do
        "$@" &
        child=$!
        wait "$child" || say "$1 $2 ended with $?, and is started again"
        sleep 1 &
        child=$!
        wait "$child"
    done
}

stop() {
    trap '' TERM INT
    say "ending $REGION in order"
    kill -TERM "$guard" 2> /dev/null && wait "$guard" || :   # it demotes, and gives the lease back
    kill -TERM $others 2> /dev/null && wait $others || :
    "$bin/pg_ctl" stop -s -m fast -D "$data" 2> /dev/null || :
    exit 0
}

if [ "${1:-}" = healthy ]; then
    healthy
    exit
fi

mkdir -p "$base"
forget_dead_server
prepare_stores
guard= others=
trap stop TERM INT
again redis-server "$base/redis.conf" &
others=$!
again nats-server -c "$base/nats.conf" &
others="$others $!"
if [ ! -e "$data" ]; then
    if [ "$REGION" = "$HOME_REGION" ]; then make_primary; else make_standby; fi
fi
if [ "$REGION" = "$HOME_REGION" ] && ! was_guarded; then
    until make_streams; do sleep 1; done
    "$bin/pg_isready" -q -h "$here" || first_primary
fi
again drctl guard --region "$REGION" --metrics-port "$metrics" &
guard=$!
if [ "${REGION_WORKER:-yes}" = yes ]; then
    again drctl worker --region "$REGION" --no-control &
    others="$others $!"
fi
wait
