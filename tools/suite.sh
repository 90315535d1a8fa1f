# shellcheck shell=sh
# What fetches packages of another Debian suite without installing them; read in by the scripts beside it, with `.`.
#
# The packages come from the mirror that this machine's own apt configuration names, with its proxy and its keys, but with lists
# and a cache of their own below $folder/apt, which is gone afterwards. The caller sets
# $name, by which it is known in what is said, and $variable, the environment variable by which the Makefile takes another folder.
# shellcheck disable=SC2034,SC2154  # what the caller has set, and what it goes on with

KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
# How often to try each suite, and the pause after the first time in seconds; the one after the second is twice as long. Each
# time apt itself asks a mirror that does not answer so often again.
TRIES=3
PAUSE_S=5
APT_RETRIES=3

fail() {
    echo "$name: $*" >&2
    exit 1
}

# Takes the folder that is the script's one argument, and goes on only if `whole`, which is the caller's, does not find in it what
# is wanted: one process at a time, of which nothing else stays behind.
begin() {
    [ $# = 1 ] || {
        echo "usage: tools/$name.sh FOLDER" >&2
        exit 2
    }
    ! whole "$1" || exit 0
    mkdir -p "$1" || fail "cannot make the folder $1; $variable names another for make"
    folder=$(cd "$1" && pwd)
    exec 9>"$folder/lock"
    flock 9
    ! whole "$folder" || exit 0
    private="$folder/apt"
    log="$folder/log"
    trap 'cleanup; rm -f "$log"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

cleanup() {
    rm -rf "$private" "$folder/tree"
}

# Fails unless all these programs are there.
need() {
    for program in "$@"; do
        command -v "$program" >/dev/null || fail "there is no $program: Debian is needed (tools/install-deps.sh)"
    done
}

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

# Has `fetch` and `settle`, which are the caller's, take what they want from the first of these suites that has it.
take_from() {
    tried=
    : >"$log"
    for mirror in $(mirrors); do
        for suite in "$@"; do
            tried="$tried $suite"
            ! persist || return 0
            why="$(said)"
        done
    done
    cat "$log" >&2
    return 1
}
