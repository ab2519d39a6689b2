# What the recipes share, to be sourced by them: Debian minbase as the image `base`, and images with
# packages in a layer of their own. Built by `cargo xtask images`, which hashes this file and theirs.
#
# $WORK    private directory for buildah, removed by the caller
# $BASE    directory of the debootstrapped base, made here when missing
# $LAYOUT  OCI layout to write
# $START   program the image runs
# $MIRROR  Debian mirror
set -euo pipefail

buildah() {
    command buildah --root "$WORK/root" --runroot "$WORK/run" --storage-driver overlay "$@"
}

# Debian's defaults for both of these come in packages that are only recommended.
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$WORK/policy.json"
echo 'unqualified-search-registries = []' >"$WORK/registries.conf"
export CONTAINERS_REGISTRIES_CONF="$WORK/registries.conf"

# Commits container $1 as image $2, one layer more than it began with.
commit() {
    buildah commit --quiet --signature-policy "$WORK/policy.json" --rm "$1" "$2" >/dev/null
}

from() {
    buildah from --signature-policy "$WORK/policy.json" --pull-never "$1"
}

if ! [ -d "$BASE" ]; then
    rm -rf "$BASE.partial"
    debootstrap --variant=minbase \
        --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        bookworm "$BASE.partial" "$MIRROR"
    rm -rf "$BASE.partial"/var/cache/apt/*.bin "$BASE.partial"/var/cache/apt/archives/*.deb \
        "$BASE.partial"/var/lib/apt/lists/* "$BASE.partial"/var/log/*.log
    mv "$BASE.partial" "$BASE"
fi

container=$(buildah from scratch)
mounted=$(buildah mount "$container")
tar -C "$BASE" --xattrs --xattrs-include='*' --numeric-owner -cf - . |
    tar -C "$mounted" --xattrs --xattrs-include='*' --numeric-owner -xpf -
buildah umount "$container" >/dev/null
commit "$container" base

# Makes image $2 of image $1 and further packages. 39 MB of package lists would otherwise be pulled with
# every image.
install_packages() {
    local container base=$1 name=$2
    shift 2
    container=$(from "$base")
    buildah run --isolation chroot --env DEBIAN_FRONTEND=noninteractive "$container" -- sh -c '
        set -e
        apt-get -q update
        apt-get -q install --yes --no-install-recommends "$@"
        rm -rf /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/lib/apt/lists/* \
            /var/log/*.log' sh "$@"
    commit "$container" "$name"
}

# Writes image $1 into the layout, under the tag $2.
publish() {
    buildah push --quiet --signature-policy "$WORK/policy.json" "$1" "oci:$LAYOUT:$2"
}
