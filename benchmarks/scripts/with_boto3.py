"""What many would write: boto3 to a temporary folder and back, tarfile, hashlib. Arguments: bucket, key, prefix."""

import hashlib
import sys
import tarfile
from pathlib import Path

import boto3


def main() -> None:
    bucket, key, prefix = sys.argv[1:]
    s3 = boto3.client("s3")
    archive = Path(key).name
    s3.download_file(bucket, key, archive)
    with tarfile.open(archive) as tar:
        tar.extractall(filter="data")
    models = sorted(Path().rglob("*.riva"))
    for path, folder in [(Path(archive), "source"), *((model, "models") for model in models)]:
        with path.open("rb") as file:
            print(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path}")
        s3.upload_file(str(path), bucket, f"{prefix}{folder}/{path.name}")


main()
