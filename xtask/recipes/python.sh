#!/bin/bash
# The image of the end-to-end tests: Debian minbase, python3 in a layer of its own, and a layer of
# everything a file system can hold.
. "$(dirname "$0")/base.sh"

install_packages base python python3

container=$(from python)
mounted=$(buildah mount "$container")
app="$mounted/opt/bolide"
mkdir -p "$app/deep/er/est" "$app/sticky" "$app/empty"
install -m 0755 "$START" "$app/start.py"
printf 'linked' >"$app/hard-1"
ln "$app/hard-1" "$app/hard-2"
ln "$app/hard-1" "$app/deep/hard-3"
ln -s ../start.py "$app/deep/relative"
ln -s /opt/bolide/start.py "$app/absolute"
ln -s nowhere "$app/dangling"
mkfifo -m 0640 "$app/fifo"
mknod -m 0620 "$app/null" c 1 3
mknod -m 0600 "$app/loop" b 7 9
head -c 9000000 "$mounted/usr/bin/python3.11" >"$app/many-chunks"
cat "$mounted/usr/bin/python3.11" >>"$app/many-chunks"
: >"$app/zero-bytes"
printf 'name' >"$app/name with spaces and ünïcode"
printf 'name' >"$app/$(printf 'n%.0s' $(seq 255))"
cp "$mounted/bin/true" "$app/capable"
setcap cap_net_raw,cap_net_bind_service+ep "$app/capable"
setfattr -n user.origin -v recipe "$app/hard-1"
setfattr -n user.empty "$app/empty"
cp "$mounted/bin/true" "$app/setuid"
chown 1234:5678 "$app/setuid" "$app/sticky"
chmod 6755 "$app/setuid"
chmod 1777 "$app/sticky"
chown -h 4321:8765 "$app/dangling"
touch -d '1970-01-01T00:00:00Z' "$app/zero-bytes"
touch -d '2038-01-19T03:14:09Z' "$app/hard-1"
# Deleted below, replaced below, and a directory that hides what lay under it.
rm "$mounted/usr/share/doc/python3/copyright" "$mounted/etc/issue"
rm -r "$mounted/usr/share/doc/base-files"
mkdir "$mounted/usr/share/doc/base-files"
printf 'replaced' >"$mounted/usr/share/doc/base-files/only"
printf 'changed\n' >"$mounted/etc/issue.net"
buildah umount "$container" >/dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --env PYTHONDONTWRITEBYTECODE=1 --entrypoint '["/usr/bin/python3", "/opt/bolide/start.py"]' \
    "$container"
commit "$container" application

publish application python
