#!/bin/sh
# Makes a database, asks it something and stops it.
set -e
initdb --auth=trust --no-sync >/dev/null
options="-c listen_addresses= -c unix_socket_directories=/tmp"
pg_ctl --silent --wait --log=/tmp/log --options="$options" start
tables=$(psql --host=/tmp --dbname=postgres --no-align --tuples-only \
    --command="select count(*) > 0 from pg_class")
pg_ctl --silent --wait stop
echo "bolide-e2e: $tables, $(postgres --version)"
