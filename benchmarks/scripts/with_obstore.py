"""One pass with obstore (object_store in Rust): stream, hash, upload, and tarfile in stream mode for the members.

Arguments: bucket, key, prefix. One thread: tarfile pulls, and what it pulls is hashed and uploaded on its way.
"""

import hashlib
import os
import sys
import tarfile
from typing import IO, cast

import obstore
from obstore.store import S3Store

STEP = 8 << 20


class Pulled:
    """The archive as a file to read from once; every byte that passes is hashed and written to its own object."""

    def __init__(self, store: S3Store, key: str, target: str) -> None:
        self._chunks = iter(obstore.get(store, key).stream(min_chunk_size=STEP))
        self._writer = obstore.open_writer(store, target, buffer_size=2 * STEP)
        self._rest = memoryview(b"")
        self.hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        if not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            data = bytes(chunk)
            self.hash.update(data)
            self._writer.write(data)
            self._rest = memoryview(data)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def close(self) -> None:
        while self.read(STEP):
            pass
        self._writer.close()


def main() -> None:
    bucket, key, prefix = sys.argv[1:]
    store = S3Store(
        bucket,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
    name = key.rpartition("/")[2]
    pulled = Pulled(store, key, f"{prefix}source/{name}")
    with tarfile.open(fileobj=cast("IO[bytes]", pulled), mode="r|gz", bufsize=1 << 20) as tar:
        for info in tar:
            model = info.name.rpartition("/")[2]
            member = tar.extractfile(info) if model.endswith(".riva") else None
            if member is None:
                continue
            digest = hashlib.sha256()
            with obstore.open_writer(store, f"{prefix}models/{model}", buffer_size=2 * STEP) as writer:
                while data := member.read(STEP):
                    digest.update(data)
                    writer.write(data)
            print(f"{digest.hexdigest()}  {model}")
    pulled.close()
    print(f"{pulled.hash.hexdigest()}  {name}")


main()
