#!/bin/sh
# Fetches a recent Debian kernel for the virtual machines of `make demo`, `make test` and `make test-nic`, and installs nothing into the
# system.
#
#   tools/kernel.sh FOLDER
#
# Leaves FOLDER/vmlinuz, FOLDER/release and FOLDER/lib/modules/RELEASE. A folder that has them all is left as it is, so only
# the first run on a machine needs the network: the Makefile names a folder outside of what it builds. Where the packages come
# from is in tools/suite.sh.
set -eu

# Suites tried in this order. AF_XDP in virtio-net's zero-copy mode needs Linux 7.0 or newer.
SUITES="trixie-backports sid"
OLDEST_MAJOR=7
# The package that names the current kernel by what it depends on.
PACKAGE=linux-image-amd64

name=kernel
variable=MILLRACE_KERNEL
# shellcheck source=tools/suite.sh
. "$(dirname "$0")/suite.sh"

# Whether all parts of a kernel that is new enough are in the folder. `release` is written last, but a folder that lost
# something later is no kernel either.
whole() {
    release=$(cat "$1/release" 2>/dev/null) || return 1
    [ "${release%%.*}" -ge "$OLDEST_MAJOR" ] 2>/dev/null && [ -s "$1/vmlinuz" ] && [ -s "$1/lib/modules/$release/modules.dep" ]
}

begin "$@"
need apt-get apt-cache dpkg-deb depmod

# The packages with kernel and modules among all that $PACKAGE depends on: one of them for some kernels, several for others.
parts() {
    apt-cache -c "$private/apt.conf" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
        "$PACKAGE" 2>>"$log" |
        grep -E '^linux-(image|binary|modules|base)-[0-9][^ ]*-amd64$' | sort -u
}

# Fetches and unpacks what one suite has.
fetch() {
    if ! found=$(parts); then
        echo "E: $suite has no kernel's packages among what $PACKAGE depends on" >>"$log"
        return 1
    fi
    (cd "$private/archives" && echo "$found" | xargs apt-get -c "$private/apt.conf" download -qq >>"$log" 2>&1) || return 1
    for package in "$private"/archives/*.deb; do
        dpkg-deb --extract "$package" "$folder/tree" || return 1
    done
    # In /boot, or beside its modules.
    kernel=$(find "$folder/tree" -name 'vmlinuz*' -type f | sort -V | tail -n 1)
    modules=$(find "$folder/tree" -path '*/lib/modules/*/kernel' -prune | sort -V | tail -n 1)
    [ -n "$kernel" ] && [ -n "$modules" ]
}

# Puts what was unpacked in its place; the file `release` comes last and says that all is there.
settle() {
    modules=${modules%/kernel}
    release=${modules##*/}
    if [ "${release%%.*}" -lt "$OLDEST_MAJOR" ]; then
        echo "E: $suite has Linux $release" >>"$log"
        return 1
    fi
    # What says that all is there must not reach the disk before the rest.
    rm -rf "${folder:?}/release" "${folder:?}/lib" &&
        mkdir -p "$folder/lib/modules" &&
        mv "$kernel" "$folder/vmlinuz" &&
        mv "$modules" "$folder/lib/modules/" &&
        depmod -b "$folder" "$release" >>"$log" 2>&1 &&
        sync -f "$folder" &&
        echo "$release" >"$folder/release.draft" &&
        mv "$folder/release.draft" "$folder/release"
}

# shellcheck disable=SC2086  # a list of words
take_from $SUITES ||
    fail "no Linux $OLDEST_MAJOR or newer could be had: tried $PACKAGE in${tried:- no suite, for apt names no Debian mirror for this release} (${why:-apt was not asked}); let apt reach a mirror with one of these suites, or put vmlinuz, release and lib/modules into $folder"
echo "kernel: Linux $release of $suite" >&2
