#!/bin/sh
# A real Kubernetes API server for tests and the demo: Debian's sources of kube-apiserver, built, and started on its own with
# Debian's etcd, for nobody but this machine.
#
#   tools/api-server.sh build FOLDER            fetch, check and build FOLDER/kube-apiserver, if it is not there: many minutes
#   tools/api-server.sh start FOLDER [ADDRESS]  start it empty at https://ADDRESS:PORT (127.0.0.1), and print its environment
#   tools/api-server.sh again FOLDER            start it with what it knew when it was stopped
#   tools/api-server.sh stop FOLDER             stop it, if it runs; FOLDER/run keeps certificates, objects and logs
#   tools/api-server.sh run FOLDER COMMAND...   start it, run COMMAND in its environment, and stop it; where MILLRACE_TEST_API is
#                                               set, that is the server, and COMMAND is all that is run
#   tools/api-server.sh compact FOLDER          make it forget every version of its objects but the newest
#   tools/api-server.sh token FOLDER NAMESPACE NAME UID SECONDS
#                                               a token of a service account that lasts so long; of an earlier time, if negative
#
# PORT is MILLRACE_API_PORT (16443); etcd has the two behind it, on loopback. The environment is what tests/cluster_api and the
# demo ask for: MILLRACE_TEST_API, MILLRACE_TEST_API_TOKEN (may do everything), MILLRACE_TEST_API_CA, and
# MILLRACE_TEST_API_FOLDER, by which they stop it and start it again. It is in FOLDER/run/env too; FOLDER/run/audit.log has
# every request.
#
# What there is: TLS, tokens, RBAC, service accounts, both families. What there is not: controllers, a scheduler, a kubelet.
# 1.20 serves EndpointSlices only as v1beta1; here v1beta1 is off, and v1 is a CustomResourceDefinition's.
set -eu

# The sources in Debian's pool, which have all of upstream's tree and what it depends on.
ORIG=pool/main/k/kubernetes/kubernetes_1.20.5+really1.20.2.orig.tar.gz
ORIG_SHA256=b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc
VERSION=1.20.2
# Where the sources believe to be.
PACKAGE=k8s.io/kubernetes
# One of what they have with them reaches into Go's maps, as they were before Go 1.18; Debian has a later version of it, and
# without that the server ends at the first object with labels.
REFLECT=github.com/modern-go/reflect2
DEBIAN_GO=/usr/share/gocode/src
# Services' addresses: as the lab and the examples have them.
SERVICE_CIDRS=10.96.0.0/12,fd96::/108
# How often to look whether a server answers, and how long to wait between in seconds.
TRIES=600
PAUSE_S=0.2
# How long a process may take to end by itself, in the same steps.
END_TRIES=100
CERT_DAYS=3650

fail() {
    echo "api-server: $*" >&2
    exit 1
}

usage() {
    sed -n 's/^#   \(tools.*\)/\1/p' "$0" >&2
    exit 2
}

need() {
    for program in "$@"; do
        command -v "$program" >/dev/null || fail "there is no $program (tools/install-deps.sh api)"
    done
}

# The mirrors this machine takes its packages from, and Debian's own.
mirrors() {
    # shellcheck disable=SC2016  # the variables are apt's
    apt-get indextargets --format '$(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "main" && !seen[$2]++ { print $2 }'
    echo http://deb.debian.org/debian/
}

# Fetches the sources by apt's own means, which go by its proxies and check the sum.
fetch() {
    helper=/usr/lib/apt/apt-helper
    [ -x "$helper" ] || fail "there is no $helper: Debian is needed, or $orig put there by hand"
    for mirror in $(mirrors); do
        ! "$helper" download-file "${mirror%/}/$ORIG" "$orig" "SHA256:$ORIG_SHA256" >>"$log" 2>&1 || return 0
    done
    tail -n 5 "$log" >&2
    fail "cannot fetch $ORIG from any mirror of Debian's; put it by hand at $orig"
}

# The package directories whose types the server describes, as upstream's Makefile.generated_files finds them.
described() {
    find -L cmd pkg plugin vendor/k8s.io -name '*.go' -type f ! -path '*/_examples/*' ! -path '*/testdata/*' \
        ! -path 'vendor/k8s.io/code-generator/*' ! -path 'vendor/k8s.io/sample-apiserver/*' -print0 |
        xargs -0 grep -lZ '^// *+k8s:' | xargs -0 grep -l '+k8s:openapi-gen=' |
        sed "s,/[^/]*$,,; s,^,$PACKAGE/," | LC_ALL=C sort -u | paste -s -d,
}

build() {
    mkdir -p "$folder" || fail "cannot make $folder"
    folder=$(cd "$folder" && pwd)
    exec 9>"$folder/lock"
    flock 9
    [ ! -x "$folder/kube-apiserver" ] || return 0
    need go sha256sum tar
    [ -d "$DEBIAN_GO/$REFLECT" ] || fail "there is no $DEBIAN_GO/$REFLECT (tools/install-deps.sh api)"
    log=$folder/build.log
    : >"$log"
    orig=$folder/kubernetes.orig.tar.gz
    [ -s "$orig" ] || fetch
    echo "$ORIG_SHA256  $orig" | sha256sum --check --quiet >&2 || fail "$orig is not what is wanted; remove it"
    echo "api-server: building kube-apiserver $VERSION in $folder, which takes many minutes" >&2
    sources=$folder/go/src/$PACKAGE
    rm -rf "$folder/go"
    mkdir -p "$sources"
    tar -x -z -f "$orig" -C "$sources" --strip-components=1
    cd "$sources"
    rm -rf "vendor/$REFLECT"
    cp -r "$DEBIAN_GO/$REFLECT" "vendor/$REFLECT"
    # Without modules, as upstream builds it: all that is needed is in vendor/, and nothing is fetched.
    export GOPATH="$folder/go" GOCACHE="$folder/cache" GO111MODULE=off GOFLAGS='' CGO_ENABLED=0
    go build -o "$folder/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen >>"$log" 2>&1 || stopped
    # The one generated file that is not in the tree.
    "$folder/openapi-gen" --logtostderr -i "$(described)" -p "$PACKAGE/pkg/generated/openapi" -O zz_generated.openapi \
        -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$folder/violations" >>"$log" 2>&1 || stopped
    cmp "$folder/violations" api/api-rules/violation_exceptions.list >>"$log" 2>&1 || stopped

    go build -trimpath -ldflags "-s -w" -o "$folder/kube-apiserver.draft" ./cmd/kube-apiserver >>"$log" 2>&1 || stopped
    mv "$folder/kube-apiserver.draft" "$folder/kube-apiserver"
    # Gigabytes that nobody needs again.
    chmod -R u+w "$folder/go" "$folder/cache"
    rm -rf "$folder/go" "$folder/cache" "$folder/openapi-gen" "$folder/violations"
}

stopped() {
    tail -n 20 "$log" >&2
    fail "the build failed; all of it is in $log"
}

# A key and a certificate for it, of the authority below run/: name, subject, extensions.
certificate() {
    printf '%s\n' "$3" >"$run/$1.ext"
    if ! openssl req -newkey rsa:2048 -nodes -keyout "$run/$1.key" -out "$run/$1.csr" -subj "$2" 2>>"$run/openssl.log" ||
        ! openssl x509 -req -in "$run/$1.csr" -CA "$run/ca.crt" -CAkey "$run/ca.key" -CAcreateserial -days "$CERT_DAYS" \
            -extfile "$run/$1.ext" -out "$run/$1.crt" 2>>"$run/openssl.log"; then
        fail "openssl cannot make the certificate $1: $(tail -n 1 "$run/openssl.log")"
    fi
}

# All that a server is known by.
identity() {
    address=$1
    case $address in
        *:*) host="[$address]" ;;
        *) host=$address ;;
    esac
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$run/ca.key" -out "$run/ca.crt" -days "$CERT_DAYS" \
        -subj '/CN=millrace-test' -addext 'keyUsage=critical,keyCertSign,cRLSign' 2>"$run/openssl.log" ||
        fail "openssl cannot make an authority: $(tail -n 1 "$run/openssl.log")"
    certificate server '/CN=kube-apiserver' "subjectAltName=IP:$address,IP:10.96.0.1,DNS:kubernetes.default.svc
extendedKeyUsage=serverAuth"
    openssl genrsa -out "$run/accounts.key" 2048 2>>"$run/openssl.log"
    openssl rsa -in "$run/accounts.key" -pubout -out "$run/accounts.pub" 2>>"$run/openssl.log"
    openssl rand -hex 16 >"$run/token"
    echo "$(cat "$run/token"),admin,admin,system:masters" >"$run/tokens.csv"
    echo "$address" >"$run/address"
    echo "$port" >"$run/port"
    cat >"$run/audit.yaml" <<END
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
END
    cat >"$run/env" <<END
export MILLRACE_TEST_API=https://$host:$port
export MILLRACE_TEST_API_TOKEN=$(cat "$run/token")
export MILLRACE_TEST_API_CA=$run/ca.crt
export MILLRACE_TEST_API_FOLDER=$folder
END
}

# Whether a process that was started here still runs, and is not another that has its number now.
runs() {
    pid=$(cat "$run/$1.pid" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$(echo "$1" | cut -c 1-15)" ]
}

# Starts a program in the background, told apart by its name.
launch() {
    name=$1
    shift
    # Its own session: who stops this script's caller with ^C ends it by `stop`, not halfway.
    setsid "$@" >>"$run/$name.log" 2>&1 </dev/null 9>&- &
    echo $! >"$run/$name.pid"
}

# Waits until a server answers: name, then the question.
answers() {
    name=$1
    shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -ge "$TRIES" ] || ! runs "$name"; then
            grep -E '^[EF][0-9]|^panic|^fatal' "$run/$name.log" | tail -n 5 >&2 || true
            fail "$name does not run; what it said is in $run/$name.log"
        fi
        sleep "$PAUSE_S"
    done
}

# A request as the administrator.
ask() {
    curl --silent --show-error --fail-with-body --max-time 10 --cacert "$run/ca.crt" \
        --header "Authorization: Bearer $(cat "$run/token")" "$@"
}

api() {
    # shellcheck disable=SC1091  # written above
    (. "$run/env" && echo "$MILLRACE_TEST_API$1")
}

serve() {
    address=$(cat "$run/address")
    port=$(cat "$run/port")
    etcd=http://127.0.0.1:$((port + 1))
    peer=http://127.0.0.1:$((port + 2))
    launch etcd etcd --name millrace-test --data-dir "$run/etcd" --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "millrace-test=$peer" --unsafe-no-fsync
    answers etcd curl --silent --fail --max-time 5 "$etcd/health"
    launch kube-apiserver "$folder/kube-apiserver" --etcd-servers="$etcd" --bind-address="$address" --advertise-address="$address" \
        --secure-port="$port" --cert-dir="$run" --tls-cert-file="$run/server.crt" --tls-private-key-file="$run/server.key" \
        --token-auth-file="$run/tokens.csv" --anonymous-auth=false --authorization-mode=RBAC --endpoint-reconciler-type=none \
        --service-account-issuer=https://kubernetes.default.svc --service-account-signing-key-file="$run/accounts.key" \
        --service-account-key-file="$run/accounts.pub" --service-cluster-ip-range="$SERVICE_CIDRS" \
        --feature-gates=IPv6DualStack=true,MixedProtocolLBService=true --runtime-config=discovery.k8s.io/v1beta1=false --allow-privileged=true \
        --disable-admission-plugins=ServiceAccount --audit-policy-file="$run/audit.yaml" --audit-log-path="$run/audit.log"
    answers kube-apiserver ask "$(api /readyz)"
}

# EndpointSlices as v1 has them, as far as the server is concerned.
slices() {
    ask --output /dev/null --header 'Content-Type: application/yaml' --data-binary @- \
        "$(api /apis/apiextensions.k8s.io/v1/customresourcedefinitions)" <<'END' || fail "the server does not take the definition of EndpointSlices"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: endpointslices.discovery.k8s.io
  annotations:
    api-approved.kubernetes.io: "unapproved, stands in for the API of a later version"
spec:
  group: discovery.k8s.io
  scope: Namespaced
  names: {plural: endpointslices, singular: endpointslice, kind: EndpointSlice, listKind: EndpointSliceList}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
END
    answers kube-apiserver ask "$(api /apis/discovery.k8s.io/v1/endpointslices)"
}

prepare() {
    need etcd curl openssl setsid
    [ -x "$folder/kube-apiserver" ] || fail "there is no $folder/kube-apiserver; tools/api-server.sh build $folder makes it"
    ! runs kube-apiserver || fail "it runs already; tools/api-server.sh stop $folder stops it"
    ! runs etcd || fail "its etcd runs already; tools/api-server.sh stop $folder stops it"
}

end() {
    runs "$1" || return 0
    pid=$(cat "$run/$1.pid")
    kill "$pid"
    tries=0
    while runs "$1"; do
        tries=$((tries + 1))
        [ "$tries" -ne "$END_TRIES" ] || kill -KILL "$pid"
        sleep "$PAUSE_S"
    done
    rm -f "$run/$1.pid"
}

stop() {
    end kube-apiserver
    end etcd
}

compact() {
    etcd=http://127.0.0.1:$(($(cat "$run/port") + 1))
    # etcd has bytes in base64; \0 is the first key of all.
    now=$(curl --silent --fail --data '{"key": "AA=="}' "$etcd/v3/kv/range" | sed -n 's/.*"revision":"\([0-9]*\)".*/\1/p')
    [ -n "$now" ] || fail "etcd does not say its revision"
    curl --silent --fail --output /dev/null --data "{\"revision\": $now, \"physical\": true}" "$etcd/v3/kv/compaction" ||
        fail "etcd does not forget what was before revision $now"
}

base64url() {
    openssl base64 -A | tr '+/' '-_' | tr -d '='
}

# A JSON web token as TokenRequest gives them, but for its time.
token() {
    now=$(date +%s)
    head=$(printf '{"alg":"RS256","kid":""}' | base64url)
    claims=$(printf '{"aud":["https://kubernetes.default.svc"],"iss":"https://kubernetes.default.svc","iat":%s,"nbf":%s,"exp":%s,"sub":"system:serviceaccount:%s:%s","kubernetes.io":{"namespace":"%s","serviceaccount":{"name":"%s","uid":"%s"}}}' \
        $((now - 86400)) $((now - 86400)) $((now + $4)) "$1" "$2" "$1" "$2" "$3" | base64url)
    signature=$(printf '%s.%s' "$head" "$claims" | openssl dgst -sha256 -sign "$run/accounts.key" -binary | base64url)
    echo "$head.$claims.$signature"
}

start() {
    prepare
    port=${MILLRACE_API_PORT:-16443}
    rm -rf "$run"
    mkdir -p "$run"
    identity "${1:-127.0.0.1}"
    serve
    slices
}

[ $# -ge 2 ] || usage
command=$1
folder=$2
shift 2
case $command in
    build)
        build
        exit
        ;;
    run)
        [ $# -ge 1 ] || usage
        [ -z "${MILLRACE_TEST_API:-}" ] || exec "$@"
        ;;
    start | again | stop | compact | token) ;;
    *) usage ;;
esac
folder=$(cd "$folder" 2>/dev/null && pwd) || fail "there is no folder $folder"
run=$folder/run
umask 077
case $command in
    start)
        # A server that is not whole is not left running.
        trap stop EXIT
        start "$@"
        trap - EXIT
        cat "$run/env"
        ;;
    run)
        # Whatever ends this ends the server.
        trap stop EXIT
        trap 'exit 129' HUP
        trap 'exit 130' INT
        trap 'exit 143' TERM
        start
        # shellcheck disable=SC1091  # written above
        . "$run/env"
        umask 022
        "$@"
        ;;
    again)
        prepare
        [ -s "$run/env" ] || fail "it was never started"
        trap stop EXIT
        serve
        trap - EXIT
        ;;
    stop) stop ;;
    compact) compact ;;
    token)
        [ $# = 4 ] || usage
        token "$@"
        ;;
esac
