#!/bin/sh
# Checks manifests against the schemas of Kubernetes itself: unknown fields, wrong types and missing fields fail.
#
#   tools/validate-manifests.sh FOLDER FILE...
#
# The schemas come with the checker, which is put into FOLDER once; after that nothing is fetched.
set -eu

# The checker's version, which is that of the newest Kubernetes whose schemas it has; and those it is asked about, the oldest
# and the newest that the project is meant for.
CHECKER=kubernetes-validate==1.37.0
VERSIONS="1.30 1.37"

folder=$1
shift
python="$folder/bin/python3"
mark="$folder/$CHECKER"
if [ ! -e "$mark" ]; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    if ! "$python" -m pip install --quiet --disable-pip-version-check "$CHECKER"; then
        echo "validate-manifests: $CHECKER cannot be fetched; without it nothing says whether the manifests are right" >&2
        exit 1
    fi
    touch "$mark"
fi
status=0
for version in $VERSIONS; do
    "$folder/bin/kubernetes-validate" --quiet --strict --kubernetes-version "$version" "$@" || status=1
done
exit "$status"
