#!/bin/sh
# Fetches a recent Debian kernel for the virtual machines of `make demo`, `make test` and `make test-nic`, and installs nothing into the
# system.
#
#   tools/kernel.sh FOLDER
#
# Leaves FOLDER/vmlinuz, FOLDER/release and FOLDER/lib/modules/RELEASE. A folder that has them all is left as it is, so only
# the first run on a machine needs the network: the Makefile names a folder outside of what it builds. The packages come from
# the mirror that this machine's own apt configuration names, with its proxy and its keys, but with lists and a cache of their
# own below FOLDER.
set -eu

# Suites tried in this order. AF_XDP in virtio-net's zero-copy mode needs Linux 7.0 or newer.
SUITES="trixie-backports sid"
OLDEST_MAJOR=7
# The package that names the current kernel by what it depends on.
PACKAGE=linux-image-amd64
KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
# How often to try each suite, and the pause after the first time in seconds; the one after the second is twice as long. Each
# time apt itself asks a mirror that does not answer so often again.
TRIES=3
PAUSE_S=5
APT_RETRIES=3

fail() {
    echo "kernel: $*" >&2
    exit 1
}

[ $# = 1 ] || {
    echo "usage: tools/kernel.sh FOLDER" >&2
    exit 2
}

# Whether all parts of a kernel that is new enough are in the folder. `release` is written last, but a folder that lost
# something later is no kernel either.
whole() {
    release=$(cat "$1/release" 2>/dev/null) || return 1
    [ "${release%%.*}" -ge "$OLDEST_MAJOR" ] 2>/dev/null && [ -s "$1/vmlinuz" ] && [ -s "$1/lib/modules/$release/modules.dep" ]
}

! whole "$1" || exit 0
mkdir -p "$1" || fail "cannot make the folder $1; MILLRACE_KERNEL names another"
folder=$(cd "$1" && pwd)
exec 9>"$folder/lock"
flock 9
! whole "$folder" || exit 0

for program in apt-get apt-cache dpkg-deb depmod; do
    command -v "$program" >/dev/null || fail "there is no $program: Debian with kmod is needed (tools/install-deps.sh nic)"
done

tried=
private="$folder/apt"
log="$folder/log"
cleanup() {
    rm -rf "$private" "$folder/tree"
}
trap 'cleanup; rm -f "$log"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# The mirrors this machine takes its own release's packages from.
mirrors() {
    # shellcheck disable=SC1091  # Debian's own
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016  # the variables are apt's
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v codename="$codename" '$1 == codename && $2 == "main" && !seen[$3]++ { print $3 }'
}

# Points apt at one suite of one mirror, and fetches its list.
renew() {
    cleanup
    mkdir -p "$private/lists/partial" "$private/archives/partial"
    keys=
    [ ! -e "$KEYS" ] || keys="signed-by=$KEYS"
    echo "deb [arch=amd64 $keys] $1 $2 main" >"$private/sources.list"
    # Read after the system's own configuration, whose hooks are for the system's lists.
    cat >"$private/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "amd64";
APT::Sandbox::User "";
Dir::Etc::sourcelist "$private/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::State::status "/dev/null";
Dir::State::lists "$private/lists";
Dir::Cache "$private";
Dir::Cache::archives "$private/archives";
Acquire::Languages "none";
Acquire::Retries "$APT_RETRIES";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
END
    # A mirror that cannot be reached is a mere warning to apt unless it is told so.
    apt-get -c "$private/apt.conf" update -qq --error-on=any >>"$log" 2>&1
}

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

# Tries one suite of one mirror until it is had, or for a while: networks and mirrors have faults that pass.
persist() {
    try=1
    while :; do
        echo "== $suite of $mirror, try $try" >>"$log"
        ! { renew "$mirror" "$suite" && fetch && settle; } || return 0
        [ "$try" -lt "$TRIES" ] || return 1
        sleep $((PAUSE_S * try))
        try=$((try + 1))
    done
}

# What went wrong last: of what apt said in the last try the first error or warning, for those after it only follow from it.
said() {
    last=$(awk '/^== / { text = ""; next } { text = text $0 "\n" } END { printf "%s", text }' "$log")
    echo "$last" | grep -m 1 '^[EW]:' || echo "$last" | tail -n 1 | grep . || echo 'no word from apt'
}

: >"$log"
for mirror in $(mirrors); do
    for suite in $SUITES; do
        tried="$tried $suite"
        if persist; then
            echo "kernel: Linux $release of $suite" >&2
            exit 0
        fi
        why="$(said)"
    done
done
cat "$log" >&2
fail "no Linux $OLDEST_MAJOR or newer could be had: tried $PACKAGE in${tried:- no suite, for apt names no Debian mirror for this release} (${why:-apt was not asked}); let apt reach a mirror with one of these suites, or put vmlinuz, release and lib/modules into $folder"
