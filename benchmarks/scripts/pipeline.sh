#!/usr/bin/env bash
# One pass in a shell: each byte is read once, and goes through pipes to the digests, the uploads and the unpacking.
# $INFLATE and $DIGEST name the programs; where there is an $AWS, the store copies the archive, and it is not sent.
# Process substitutions write where their command does, so each of them has its output sent away; and the shell does not
# wait for them nor look at their status, so each leaves it in a file.
set -euo pipefail
export S3_ENDPOINT_URL=$AWS_ENDPOINT_URL
s5cmd=("$S5CMD" --log error)
read -ra digest <<<"$DIGEST"

left() { # NAME COMMAND...: runs it and leaves its status in NAME.status
    local status=0
    "${@:2}" || status=$?
    echo "$status" >"$1.status"
}
unpack() { # tar stops at the end of the archive; what pads it must still be read, or the inflater gets a SIGPIPE
    "$TAR" -xO --wildcards '*.riva'
    local status=$?
    cat >/dev/null
    return "$status"
}

if [ -n "${AWS:-}" ]; then
    left archive-upload "$AWS" s3 cp --only-show-errors --no-progress \
        "s3://$BUCKET/$SOURCE" "s3://$BUCKET/${PREFIX}source/$ARCHIVE" >/dev/null &
    split() { "$TEE" >(left archive-digest "${digest[@]}" >archive.sha256); }
else
    split() {
        "$TEE" >(left archive-digest "${digest[@]}" >archive.sha256) \
            >(left archive-upload "${s5cmd[@]}" pipe "s3://$BUCKET/${PREFIX}source/$ARCHIVE" >/dev/null)
    }
fi

"${s5cmd[@]}" cat "s3://$BUCKET/$SOURCE" |
    split |
    "$INFLATE" -dc |
    unpack |
    "$TEE" >(left model-digest "${digest[@]}" >model.sha256) |
    "${s5cmd[@]}" pipe "s3://$BUCKET/${PREFIX}models/${MODEL##*/}" >/dev/null

for step in archive-digest archive-upload model-digest; do
    until [ -s "$step.status" ]; do sleep 0.005; done
    status=$(<"$step.status")
    [ "$status" = 0 ] || { echo "$step ended with $status" >&2 && exit "$status"; }
done
read -r archive _ <archive.sha256
read -r model _ <model.sha256
printf '%s  %s\n' "$archive" "$ARCHIVE" "$model" "${MODEL##*/}"
