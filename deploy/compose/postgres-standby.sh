#!/bin/sh
# Clones the primary once and then runs as its streaming standby.
set -eu
volume=/var/lib/postgresql/data
data=$volume/pgdata
passwords=$volume/.pgpass
cloned=$volume/.cloned   # not standby.signal: a promoted standby has none and must never be cloned over

chown postgres:postgres "$volume"
umask 077
printf '%s:5432:*:replicator:%s\n' "$PRIMARY_HOST" "$REPLICATION_PASSWORD" > "$passwords"
chown postgres:postgres "$passwords"

if [ ! -e "$cloned" ]; then
    rm -rf "$data"
    gosu postgres pg_basebackup --pgdata "$data" --write-recovery-conf --wal-method stream --checkpoint fast \
        --dbname "host=$PRIMARY_HOST user=replicator application_name=postgres-b passfile=$passwords"
    gosu postgres touch "$cloned"
fi
exec gosu postgres postgres -D "$data" -c hot_standby=on -c wal_log_hints=on -c "listen_addresses=*"
