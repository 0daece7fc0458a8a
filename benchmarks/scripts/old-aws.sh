#!/usr/bin/env bash
# The steps of the script that riva_stream replaces, with awscli: down, unpack, hash both, up both. The folder it runs in
# is on a tmpfs, which flatters it: its users have a disk there.
set -euo pipefail
quiet=(--only-show-errors --no-progress)
"$AWS" s3 cp "${quiet[@]}" "s3://$BUCKET/$SOURCE" "$ARCHIVE"
"$TAR" -xzf "$ARCHIVE"
"$SHA256SUM" "$ARCHIVE"
"$SHA256SUM" "$MODEL"
"$AWS" s3 cp "${quiet[@]}" "$ARCHIVE" "s3://$BUCKET/${PREFIX}source/$ARCHIVE"
"$AWS" s3 cp "${quiet[@]}" "$MODEL" "s3://$BUCKET/${PREFIX}models/${MODEL##*/}"
