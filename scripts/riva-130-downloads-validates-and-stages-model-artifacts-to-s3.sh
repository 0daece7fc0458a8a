#!/usr/bin/env bash
# RIVA-130, in the place of the script of that name: `python -m riva_stream stage` in this repository's environment, which
# is made when there is none. `.env` and `state/` are this repository's, wherever the caller stands.
set -euo pipefail

usage() {
    cat <<TEXT
usage: $(basename "$0") [flags]

Stage a model archive from S3 to S3: verify it, unpack it, upload it, and commit it. Settings come from flags, from the
environment, and from .env at this repository's root; state goes to state/ there.

what to do (the last of these counts, then REFERENCE_ONLY and BINTARBALL_REFERENCE, then --full-download)
  --full-download         copy, unpack and verify the archive
  --reference-only        leave the archive where it lies; write metadata that pins it; seconds
  --bintarball-reference  leave archive and container image (RIVA_SERVER_PATH) where they lie; write the one
                          deployment.json that pins both; seconds

how
  --force                 replace another staging, once the new one is verified
  --no-checksum           compute the digests, but do not compare them with the expected SHA-256
  --retention-days=N      recorded with the staging (default: 90)
  --timeout=N             stop after N seconds without progress (default: 300)
  --dry-run               check source, destination and rights, show the plan, write nothing
  --trace                 show what this script does, the seconds of each step, and tracebacks
  --docs                  show the manual
  --help                  show this

Every other flag of \`python -m riva_stream stage\` works too, such as --json, --quiet, --source, --wait.
Exit codes: 0 done, 2 usage, 65 integrity, 66 source missing, 73 destination taken, 75 run it again, 77 access denied,
78 configuration, 130/143 interrupted.
TEXT
}

is_true() {
    case ${1,,} in 1 | true | yes | on) true ;; *) false ;; esac
}

here=$(readlink -f "${BASH_SOURCE[0]}")
root=$(cd "$(dirname "$here")/.." && pwd)
export RIVA_STREAM_ROOT=$root RIVA_STREAM_CALLED_AS=$0

# --- what is asked for; nothing of it needs the environment

words=()
docs=
trace=
if is_true "${TRACE:-}"; then trace=1; fi
for word in "$@"; do
    case $word in
    -h | --help)
        usage
        exit 0
        ;;
    --docs) docs=1 ;;
    --trace) trace=1 ;;
    *) words+=("$word") ;;
    esac
done

# A typing error is told at once, before an environment is made for it: the parser needs no package. Where no Python is
# found for that, the environment says so, or the program itself.
code=0
{
    complaint=$(RIVA_STREAM_PARSE_ONLY=1 PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$root/src \
        "${PYTHON:-python3}" -m riva_stream stage ${words[@]+"${words[@]}"} 2>&1 1>&3) || code=$?
} 3>&1
if [ "$code" = 2 ]; then
    printf '%s\n' "$complaint" >&2
    exit 2
fi

# --- the environment, and on with it

# Neither values nor flags are traced: there may be a password in a URL.
if [ -n "$trace" ]; then
    words+=(--debug)
    set -x
fi
export PATH
. "$root/scripts/environment"
ensure_environment ""
if [ -n "$docs" ]; then
    # -P: a json.py in the folder that the caller stands in is none of ours.
    exec "$python" -P -m riva_stream docs riva-130
fi
{ set +x; } 2>/dev/null
if [ -n "$trace" ]; then
    echo "+ exec $python -P -m riva_stream stage (and ${#words[@]} words)" >&2
fi
exec "$python" -P -m riva_stream stage ${words[@]+"${words[@]}"}
