"""What riva-131 needs of the ``aws`` command line.

The real one pins a version of botocore that is not the one which aiobotocore takes, and so cannot be in one environment
with this package. Requests are signed and sent without a client of boto3, which takes half a second of CPU to be made. Run as a
file; it finds the store by the variables that the real one reads::

    aws.py s3 sync s3://BUCKET/PREFIX/ FOLDER
    aws.py s3 cp s3://BUCKET/KEY FILE
    aws.py s3api head-object --bucket BUCKET --key KEY
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener
from xml.etree import ElementTree as ET

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_OPENER = build_opener(ProxyHandler({}))


def ask(method: str, bucket: str, key: str = "", **query: str) -> HTTPResponse:
    """Send a signed request; urllib raises what is answered with an error."""
    url = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket}/{quote(key)}"
    if query:
        url += "?" + urlencode(query, quote_via=quote)
    request = AWSRequest(method, url)
    keys = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    S3SigV4Auth(keys, "s3", os.environ["AWS_REGION"]).add_auth(request)
    answer: HTTPResponse = _OPENER.open(Request(url, headers=dict(request.headers), method=method))
    return answer


def keys_below(bucket: str, prefix: str) -> Iterator[str]:
    """All keys that begin with *prefix*."""
    query = {"list-type": "2", "prefix": prefix}
    while True:
        with ask("GET", bucket, **query) as answer:
            page = ET.parse(answer).getroot()
        yield from (entry.text or "" for entry in page.iter(f"{_NAMESPACE}Key"))
        if not (token := page.findtext(f"{_NAMESPACE}NextContinuationToken")):
            return
        query["continuation-token"] = token


def sync(source: str, folder: str) -> None:
    """Download all that lies below *source*."""
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    for key in keys_below(bucket, prefix):
        if not key.endswith("/"):  # a folder, as some stores list them
            target = Path(folder, key.removeprefix(prefix))
            target.parent.mkdir(parents=True, exist_ok=True)
            cp(f"s3://{bucket}/{key}", str(target))


def cp(source: str, target: str) -> None:
    """Download one object."""
    bucket, _, key = source.removeprefix("s3://").partition("/")
    with ask("GET", bucket, key) as answer, Path(target).open("wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)


def head(bucket: str, key: str) -> None:
    """Print what a HEAD of one object tells."""
    with ask("HEAD", bucket, key) as answer:
        told = {"ETag": answer.headers["ETag"], "ContentLength": int(answer.headers["Content-Length"])}
    sys.stdout.write(json.dumps(told) + "\n")


def main(argv: list[str]) -> None:
    """Run the command."""
    match argv:
        case ["s3", "sync", source, folder]:
            sync(source, folder)
        case ["s3", "cp", source, target]:
            cp(source, target)
        case ["s3api", "head-object", "--bucket", bucket, "--key", key]:
            head(bucket, key)
        case _:
            sys.exit(f"not known here: aws {' '.join(argv)}")


if __name__ == "__main__":
    main(sys.argv[1:])
