#!/bin/sh
# Installs the Debian packages that building, running and testing Millrace needs, and does nothing if all are there.
#
#   tools/install-deps.sh [build|demo|test|nic|api|bench|bench-full|lint|all]
#
# The Rust toolchain is not among them: it is the one thing to bring along.
set -eu

# Compilers, and what the AF_XDP library, libpcap and the fuzzers are built with.
BUILD="clang llvm m4 libelf-dev zlib1g-dev pkg-config make gcc g++ libc6-dev libpcap-dev"
# What the lab of network namespaces drives, and the traffic in it.
LAB="iproute2 iperf3 tcpdump ethtool nftables iputils-ping procps jq util-linux curl"
# The tests log in to a node through its uplink while the switch starts, runs and dies.
SSH="openssh-server openssh-client"
# The routing daemons that the tests have beside a node.
ROUTING="bird2 frr"
# The reference plugins that the tests have beside the CNI plugin, and what kills it at any step.
CNI="containernetworking-plugins strace"
# The ingresses of the examples, which the tests run in pods.
INGRESS="nginx haproxy"
# What asks the resolver for names.
NAMES="bind9-dnsutils"
# The virtual machine with a NIC of its own, or as a guest of a node's: what emulates it, and what its file system is packed from.
NIC="qemu-system-x86 busybox-static kmod xz-utils zstd binutils"
# What makes certificates for tests.
TLS="openssl"
# What a real API server is built with, and keeps its objects in; only `make test-api` and `make demo-cluster` need it.
API="golang-go golang-github-modern-go-reflect2-dev etcd-server"
# What `make bench-full` measures beside, and nothing else needs: DPDK's own programs, which are in its package for developers, and Open vSwitch.
BESIDE="dpdk-dev openvswitch-switch"
LINT="shellcheck python3-venv"

# How long to wait for another program that installs packages, in seconds.
LOCK_TIMEOUT_S=300
# How often to try to renew the package lists, and the pause between, in seconds.
UPDATE_TRIES=10
UPDATE_PAUSE_S=6

fail() {
    echo "install-deps: $*" >&2
    exit 1
}

case "${1:-all}" in
    build) wanted="$BUILD" ;;
    demo) wanted="$BUILD $LAB $NIC" ;;
    bench) wanted="$BUILD $LAB" ;;
    bench-full) wanted="$BUILD $LAB $BESIDE" ;;
    test) wanted="$BUILD $LAB $SSH $ROUTING $CNI $INGRESS $NAMES $TLS $NIC" ;;
    nic) wanted="$BUILD $LAB $NIC" ;;
    api) wanted="$BUILD $LAB $TLS $API" ;;
    lint) wanted="$BUILD $LINT" ;;
    all) wanted="$BUILD $LAB $SSH $ROUTING $CNI $INGRESS $NAMES $TLS $NIC $LINT" ;;
    *)
        echo "usage: tools/install-deps.sh [build|demo|test|nic|api|bench|bench-full|lint|all]" >&2
        exit 2
        ;;
esac

command -v dpkg-query >/dev/null || fail "this is not Debian (no dpkg-query); install by hand what stands for: $wanted"

# Prints the packages among its arguments that are not installed.
missing() {
    for package in "$@"; do
        # shellcheck disable=SC2016  # the variable is dpkg-query's
        status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || printf '%s ' "$package"
    done
}

# shellcheck disable=SC2086  # a list of words
needed=$(missing $wanted)
[ -n "$needed" ] || exit 0

command -v apt-get >/dev/null || fail "there is no apt-get; install by hand: $needed"
[ "$(id -u)" = 0 ] || fail "must run as root to install: $needed"
echo "install-deps: installing $needed" >&2

# A program must not start to listen on this machine because a test needs it: installed services stay down. Only what
# this script puts in place is taken away again.
POLICY=/usr/sbin/policy-rc.d
policy_is_ours=no
restore() {
    [ "$policy_is_ours" = no ] || rm -f "$POLICY"
}
trap restore EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
if [ ! -e "$POLICY" ]; then
    policy_is_ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
fi

export DEBIAN_FRONTEND=noninteractive
tries=0
until apt-get update -qq; do
    tries=$((tries + 1))
    [ "$tries" -lt "$UPDATE_TRIES" ] || fail "cannot renew the package lists (apt-get update)"
    sleep "$UPDATE_PAUSE_S"
done
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends -o "DPkg::Lock::Timeout=$LOCK_TIMEOUT_S" $needed >&2 ||
    fail "cannot install: $needed"

# Nor are they to start with the next boot.
disable() {
    if command -v systemctl >/dev/null; then
        systemctl disable "$@" >/dev/null 2>&1 || true
    fi
}
case " $needed " in
    *" openssh-server "*) disable ssh.service ssh.socket ;;
esac
case " $needed " in
    *" bird2 "* | *" frr "*) disable bird.service frr.service ;;
esac
case " $needed " in
    *" nginx "* | *" haproxy "*) disable nginx.service haproxy.service ;;
esac
case " $needed " in
    *" etcd-server "*) disable etcd.service ;;
esac
case " $needed " in
    *" openvswitch-switch "*) disable openvswitch-switch.service ovs-record-hostname.service uuidd.socket ;;
esac

# shellcheck disable=SC2086  # a list of words
still=$(missing $wanted)
[ -z "$still" ] || fail "still not installed: $still"
