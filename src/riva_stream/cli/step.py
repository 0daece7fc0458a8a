"""A report as the next step of the pipeline wants it: which value goes into which file."""

from __future__ import annotations

from pathlib import Path

from riva_stream.handover import LAST_ARTIFACT, iso
from riva_stream.layout import ARTIFACT_JSON, CHECKSUMS, DEPLOYMENT_JSON
from riva_stream.manifest import to_json
from riva_stream.report import StageReport

__all__ = ["artifact_of", "values_of"]


def values_of(report: StageReport, state: Path, folder: Path) -> dict[str, str]:
    """What is known, by the names of :data:`~riva_stream.handover.VALUES`.

    Args:
        report: of a run that has succeeded.
        state: the state directory.
        folder: the run's own folder in it, with the copies of the documents.
    """
    # Without its slash: scripts write "$(cat state/s3_staging_uri)/artifact.json", and to S3 "//" is another key.
    values = {"s3_staging_uri": report.destination.rstrip("/")}
    deployment = report.deployment
    if deployment is not None:
        values |= {
            "container_s3_uri": deployment.bintarball_references.container_image.s3_uri,
            "bintarball_manifest": report.destination + DEPLOYMENT_JSON,
        }
    checksums = folder / CHECKSUMS
    if checksums.is_file():
        values["checksum_file"] = str(checksums.absolute())
    artifact = report.artifact
    if artifact is None:
        if deployment is not None:
            archive = deployment.bintarball_references.model_archive
            values |= {
                "upload_timestamp": iso(deployment.created_at),
                "source_model_s3_uri": archive.s3_uri,
                "source_model_size": str(archive.size_bytes),
            }
        return values
    copy = folder / ARTIFACT_JSON
    values |= {
        "upload_timestamp": iso(artifact.created_at),
        "source_model_s3_uri": artifact.source.uri,
        "source_model_size": str(artifact.source.size_bytes),
        "artifact_metadata": str((copy if copy.is_file() else state / LAST_ARTIFACT).absolute()),
    }
    if artifact.primary_model is not None:
        values["primary_riva_file"] = report.destination + artifact.primary_model.relative_path
    return values


def artifact_of(report: StageReport, folder: Path) -> bytes | None:
    """``artifact.json`` byte for byte as it lies in the bucket, where there is a copy; else as it was read."""
    try:
        return (folder / ARTIFACT_JSON).read_bytes()
    except OSError:
        return None if report.artifact is None else to_json(report.artifact)
