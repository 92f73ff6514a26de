#!/bin/sh
# Runs once, in an empty primary: users for backups and for standbys. \getenv keeps passwords out of argument lists.
set -eu
psql --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "$POSTGRES_DB" --quiet <<'SQL'
\getenv backup_password BACKUP_PASSWORD
\getenv replication_password REPLICATION_PASSWORD
CREATE ROLE recovery_backup LOGIN REPLICATION PASSWORD :'backup_password';
GRANT pg_read_all_data, pg_read_all_settings, pg_monitor TO recovery_backup;
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replication_password';
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, placed_at timestamptz NOT NULL DEFAULT now());
SQL
echo "host replication recovery_backup,replicator all scram-sha-256" >> "$PGDATA/pg_hba.conf"
