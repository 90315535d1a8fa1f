#!/bin/sh
# Fetches FRR 10 of a newer Debian with all that it needs, for the tests that have it beside a node, and installs nothing into
# the system.
#
#   tools/frr.sh FOLDER
#
# Leaves FOLDER/root, a file system in which FRR's programs run by chroot, and FOLDER/release, its version. A folder that has
# both is left as it is, so only the first run on a machine needs the network: the Makefile names a folder outside of what it
# builds. Where the packages come from is in tools/suite.sh.
set -eu

# Suites tried in this order. A routing table of its own can be told of (`redistribute table-direct`) from version 10 on.
SUITES="trixie sid"
OLDEST_MAJOR=10
PACKAGE=frr
# The account under which it runs, which is the first one's to make in a system.
ACCOUNT=300

name=frr
variable=MILLRACE_FRR
# shellcheck source=tools/suite.sh
. "$(dirname "$0")/suite.sh"

# Whether it is in the folder, and new enough. `release` is written last, but a folder that lost something later has it not.
whole() {
    release=$(cat "$1/release" 2>/dev/null) || return 1
    [ "${release%%.*}" -ge "$OLDEST_MAJOR" ] 2>/dev/null && [ -x "$1/root/usr/lib/frr/zebra" ] && [ -x "$1/root/usr/lib/frr/bgpd" ]
}

begin "$@"
need apt-get dpkg-deb chroot

# Fetches and unpacks what one suite has, the libraries of that Debian too.
fetch() {
    apt-get -c "$private/apt.conf" install -y -qq --no-install-recommends --download-only "$PACKAGE" >>"$log" 2>&1 || return 1
    tree="$folder/tree"
    mkdir -p "$tree/usr/lib" "$tree/usr/lib64" "$tree/usr/bin" "$tree/usr/sbin" || return 1
    # As in every Debian since 12, so that both names lead to one place.
    for part in lib lib64 bin sbin; do
        ln -s "usr/$part" "$tree/$part" || return 1
    done
    for package in "$private"/archives/*.deb; do
        dpkg-deb --extract "$package" "$tree" || return 1
    done
}

# Makes a file system of what was unpacked and puts it in its place; the file `release` comes last and says that all is there.
settle() {
    tree="$folder/tree"
    mkdir -p "$tree/tmp" "$tree/var/tmp/frr" "$tree/var/lib/frr" "$tree/run/frr" || return 1
    printf 'root:x:0:0::/root:/bin/false\nfrr:x:%s:%s::/:/bin/false\n' "$ACCOUNT" "$ACCOUNT" >"$tree/etc/passwd"
    printf 'root:x:0:\nfrr:x:%s:\nfrrvty:x:%s:frr\n' "$ACCOUNT" $((ACCOUNT + 1)) >"$tree/etc/group"
    chmod 1777 "$tree/tmp" "$tree/var/tmp" && chmod 777 "$tree/var/tmp/frr" "$tree/var/lib/frr" "$tree/run/frr" || return 1
    release=$(chroot "$tree" /usr/lib/frr/zebra --version 2>>"$log" | sed -n 's/^zebra version //p')
    if ! [ "${release%%.*}" -ge "$OLDEST_MAJOR" ] 2>/dev/null; then
        echo "E: $suite has FRR ${release:-that does not run}" >>"$log"
        return 1
    fi
    rm -rf "${folder:?}/release" "${folder:?}/root" &&
        mv "$tree" "$folder/root" &&
        sync -f "$folder" &&
        echo "$release" >"$folder/release.draft" &&
        mv "$folder/release.draft" "$folder/release"
}

# shellcheck disable=SC2086  # a list of words
take_from $SUITES ||
    fail "no FRR $OLDEST_MAJOR or newer could be had: tried $PACKAGE in${tried:- no suite, for apt names no Debian mirror for this release} (${why:-apt was not asked}); let apt reach a mirror with one of these suites"
echo "frr: version $release of $suite" >&2
