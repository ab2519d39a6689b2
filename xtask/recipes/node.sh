#!/bin/bash
# Debian minbase, Node.js, and a program that serves itself one request.
. "$(dirname "$0")/base.sh"

install_packages base node nodejs
container=$(from node)
mounted=$(buildah mount "$container")
install -m 0755 -D "$START" "$mounted/opt/bolide/start.js"
buildah umount "$container" >/dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --entrypoint '["/usr/bin/node", "/opt/bolide/start.js"]' "$container"
commit "$container" application
publish application node
