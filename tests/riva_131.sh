#!/usr/bin/env bash
# Plays riva-131, the next step of the pipeline: finds, downloads and checks a model. It is given a state directory and an
# empty folder to work in, knows the bucket from the former alone, and uses standard tools: aws, jq, sha256sum, tar.
# Leaves models/*.riva and, where a container image was named, image.tar.gz. Whatever is not as it should be ends it.
#
#   PYTHON=... riva_131.sh STATE_DIR FOLDER
set -euo pipefail
state=$1
cd "$2"

fail() {
    echo "riva-131: $1" >&2
    exit 1
}
value() { cat "$state/$1"; }
digest() { sha256sum <"$1" | cut -d ' ' -f 1; }
same() { [ "$2" = "$3" ] || fail "$1: '$2' is not '$3'"; }
# The last line of a marker is the digest of the document that it vouches for.
vouched() { same "$2" "$(tail -n 1 "staged/$2")" "SHA-256 of $1: $(digest "staged/$1")"; }
# $1 (s3_uri, size_bytes, etag as JSON) is still the object that was pinned; downloaded as $2.
pinned() {
    local uri seen
    uri=$(jq -r .s3_uri <<<"$1")
    seen=$(aws s3api head-object --bucket "$(cut -d / -f 3 <<<"$uri")" --key "$(cut -d / -f 4- <<<"$uri")")
    same "ETag of $uri" "$(jq -r .ETag <<<"$seen" | tr -d '"')" "$(jq -r .etag <<<"$1")"
    aws s3 cp "$uri" "$2"
    same "size of $uri" "$(stat -c %s "$2")" "$(jq -r .size_bytes <<<"$1")"
}

# --- did the step before this one succeed, and what did it leave?

grep -qx status=success "$state/130.status" || fail "riva-130 has not succeeded"
same "run id" "$(jq -r .run_id "$state/130.json")" "$(sed -n 's/^run_id=//p' "$state/130.status")"
vars=$("$PYTHON" -m riva_stream next --state-dir "$state")
eval "$vars"
for name in s3_staging_uri upload_timestamp source_model_s3_uri source_model_size checksum_file artifact_metadata \
    container_s3_uri bintarball_manifest primary_riva_file; do
    variable=${name^^}
    same "$name" "${!variable}" "$(value "$name" 2>/dev/null || true)"
done

aws s3 sync "$(value s3_staging_uri)/" staged/
mkdir models

# --- the staging

if [ "$STAGING_MODE" != bintarball_reference ]; then
    vouched artifact.json staging_complete.txt
    cmp "$(value artifact_metadata)" staged/artifact.json
    cmp "$state/last_artifact_metadata.json" staged/artifact.json
    artifact=$(cat staged/artifact.json)
    same name "$(jq -r .model.name <<<"$artifact")" "$RIVA_ASR_MODEL_NAME"
    same source "$(jq -r .source.uri <<<"$artifact")" "$(value source_model_s3_uri)"
    same "run id" "$(jq -r .build_info.run_id <<<"$artifact")" "$STAGING_RUN_ID"
fi
case $STAGING_MODE in
full)
    (cd staged && sha256sum --strict -c "$(value checksum_file)")
    cmp "$(value checksum_file)" staged/checksums.sha256
    diff <(cut -c 67- staged/checksums.sha256 | sort) <(cd staged && find source models -type f | sort)
    (cd staged && jq -r '.models[] | "\(.sha256)  \(.relative_path)"' artifact.json | sha256sum --strict -c)
    primary=$(jq -r .primary_model.relative_path <<<"$artifact")
    same "primary model" "$(value primary_riva_file)" "$(value s3_staging_uri)/$primary"
    archive=staged/source/$(jq -r .source.filename <<<"$artifact")
    same "digest of the archive" "$(digest "$archive")" "$(jq -r .source.sha256 <<<"$artifact")"
    cp staged/models/* models/
    ;;
reference_only)
    archive=archive.tar.gz
    pinned "$(jq '.source + {s3_uri: .source.uri}' <<<"$artifact")" "$archive"
    ;;
bintarball_reference)
    archive=archive.tar.gz
    aws s3 cp "$(value source_model_s3_uri)" "$archive"
    ;;
*) fail "no such mode: $STAGING_MODE" ;;
esac
same "size of the source" "$(stat -c %s "$archive")" "$(value source_model_size)"

# --- what is to be deployed

if [ -n "$BINTARBALL_MANIFEST" ]; then
    vouched deployment.json deployment_ready.txt
    deployment=$(cat staged/deployment.json)
    same manifest "$(value bintarball_manifest)" "$(value s3_staging_uri)/deployment.json"
    jq -e .deployment.ready_for_deployment <<<"$deployment" >/dev/null
    same type "$(jq -r .deployment_type <<<"$deployment")" "$STAGING_MODE"
    same name "$(jq -r .model.name <<<"$deployment")" "$RIVA_ASR_MODEL_NAME"
    same version "$(jq -r .model.version <<<"$deployment")" "$MODEL_VERSION"
    same environment "$(jq -r .deployment.environment <<<"$deployment")" "$ENV"
    same bucket "$(jq -r .deployment.s3_bucket <<<"$deployment")" "$NVIDIA_DRIVERS_S3_BUCKET"
    if [ -e staged/artifact.json ]; then
        same artifact "$(jq -r .deployment.artifact_sha256 <<<"$deployment")" "$(digest staged/artifact.json)"
    fi
    pinned "$(jq .bintarball_references.model_archive <<<"$deployment")" deployed.tar.gz
    cmp deployed.tar.gz "$archive"
    image=$(jq .bintarball_references.container_image <<<"$deployment")
    same "container image" "$(value container_s3_uri)" "$(jq -r .s3_uri <<<"$image")"
    pinned "$image" image.tar.gz
fi
if [ "$STAGING_MODE" != full ]; then
    tar -xzf "$archive" --transform 's,.*/,,' --wildcards --directory models '*.riva'
fi
