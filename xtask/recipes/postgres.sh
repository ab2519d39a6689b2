#!/bin/bash
# Debian minbase, PostgreSQL, and a program that makes a database and asks it something.
. "$(dirname "$0")/base.sh"

install_packages base postgres postgresql
container=$(from postgres)
mounted=$(buildah mount "$container")
install -m 0755 -D "$START" "$mounted/opt/bolide/start.sh"
buildah umount "$container" >/dev/null
buildah config --user postgres --env PGDATA=/var/lib/postgresql/data \
    --env PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --entrypoint '["/opt/bolide/start.sh"]' "$container"
commit "$container" application
publish application postgres
