#!/usr/bin/env bash
# The same steps with s5cmd in place of awscli.
set -euo pipefail
export S3_ENDPOINT_URL=$AWS_ENDPOINT_URL
s5cmd=("$S5CMD" --log error)
"${s5cmd[@]}" cp "s3://$BUCKET/$SOURCE" "$ARCHIVE"
"$TAR" -xzf "$ARCHIVE"
"$SHA256SUM" "$ARCHIVE"
"$SHA256SUM" "$MODEL"
"${s5cmd[@]}" cp "$ARCHIVE" "s3://$BUCKET/${PREFIX}source/$ARCHIVE"
"${s5cmd[@]}" cp "$MODEL" "s3://$BUCKET/${PREFIX}models/${MODEL##*/}"
