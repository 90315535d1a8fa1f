#!/bin/sh
# Fetches a recent Debian kernel for the virtual machine of `make test-nic`, and installs nothing into the system.
#
#   tools/kernel.sh FOLDER
#
# Leaves FOLDER/vmlinuz, FOLDER/release and FOLDER/lib/modules/RELEASE. A folder that has them is left as it is, so only
# the first run needs the network. The packages come from the mirror that this machine's own apt configuration names,
# with its proxy and its keys, but with lists and a cache of their own below FOLDER.
set -eu

# Suites tried in this order. AF_XDP in virtio-net's zero-copy mode needs Linux 7.0 or newer.
SUITES="trixie-backports sid"
OLDEST_MAJOR=7
# The package that names the current kernel by what it depends on.
PACKAGE=linux-image-amd64
KEYS=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
    echo "kernel: $*" >&2
    exit 1
}

[ $# = 1 ] || {
    echo "usage: tools/kernel.sh FOLDER" >&2
    exit 2
}
mkdir -p "$1"
folder=$(cd "$1" && pwd)
exec 9>"$folder/lock"
flock 9
[ ! -e "$folder/release" ] || exit 0

for program in apt-get apt-cache dpkg-deb depmod; do
    command -v "$program" >/dev/null || fail "there is no $program: Debian with kmod is needed (tools/install-deps.sh nic)"
done

tried=
private="$folder/apt"
cleanup() {
    rm -rf "$private" "$folder/tree"
}
trap cleanup EXIT
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
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
END
    apt-get -c "$private/apt.conf" update -qq >"$private/log" 2>&1 && ! grep -q '^[EW]:' "$private/log"
}

# The packages with kernel and modules among all that $PACKAGE depends on: one of them for some kernels, several for others.
parts() {
    apt-cache -c "$private/apt.conf" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
        "$PACKAGE" 2>>"$private/log" |
        grep -E '^linux-(image|binary|modules|base)-[0-9][^ ]*-amd64$' | sort -u
}

# Fetches and unpacks what one suite has.
fetch() {
    found=$(parts) || return 1
    (cd "$private/archives" && echo "$found" | xargs apt-get -c "$private/apt.conf" download -qq >>"$private/log" 2>&1) || return 1
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
        echo "E: $suite has Linux $release" >>"$private/log"
        return 1
    fi
    rm -rf "${folder:?}/lib"
    mkdir -p "$folder/lib/modules"
    mv "$kernel" "$folder/vmlinuz"
    mv "$modules" "$folder/lib/modules/"
    depmod -b "$folder" "$release"
    echo "$release" >"$folder/release.draft"
    mv "$folder/release.draft" "$folder/release"
}

for mirror in $(mirrors); do
    for suite in $SUITES; do
        tried="$tried $suite"
        if renew "$mirror" "$suite" && fetch && settle; then
            echo "kernel: Linux $release of $suite" >&2
            exit 0
        fi
        said=$(grep -h '^E:' "$private/log" 2>/dev/null | tail -n 1) || true
    done
done
fail "no Linux $OLDEST_MAJOR or newer could be had: tried $PACKAGE in${tried:- no suite, for apt names no Debian mirror for this release} (${said:-no word from apt}); let apt reach a mirror with one of these suites, or put vmlinuz, release and lib/modules into $folder"
