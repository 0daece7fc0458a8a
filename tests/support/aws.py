"""What riva-131 needs of the ``aws`` command line, in a few lines of boto3.

The real one pins a version of botocore that is not the one which aiobotocore takes, and so cannot be in one environment
with this package. Run as a file; it finds the store by the variables that the real one reads::

    aws.py s3 sync s3://BUCKET/PREFIX/ FOLDER
    aws.py s3 cp s3://BUCKET/KEY FILE
    aws.py s3api head-object --bucket BUCKET --key KEY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import boto3


def sync(client: Any, source: str, folder: str) -> None:
    """Download all that lies below *source*."""
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            key = entry["Key"]
            if key.endswith("/"):  # a folder, as some stores list them
                continue
            target = Path(folder, key.removeprefix(prefix))
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, key, str(target))


def cp(client: Any, source: str, target: str) -> None:
    """Download one object."""
    bucket, _, key = source.removeprefix("s3://").partition("/")
    client.download_file(bucket, key, target)


def head(client: Any, bucket: str, key: str) -> None:
    """Print what a HEAD of one object tells."""
    answer = client.head_object(Bucket=bucket, Key=key)
    sys.stdout.write(json.dumps({name: answer[name] for name in ("ETag", "ContentLength")}) + "\n")


def main(argv: list[str]) -> None:
    """Run the command."""
    client = boto3.client("s3")
    match argv:
        case ["s3", "sync", source, folder]:
            sync(client, source, folder)
        case ["s3", "cp", source, target]:
            cp(client, source, target)
        case ["s3api", "head-object", "--bucket", bucket, "--key", key]:
            head(client, bucket, key)
        case _:
            sys.exit(f"not known here: aws {' '.join(argv)}")


if __name__ == "__main__":
    main(sys.argv[1:])
