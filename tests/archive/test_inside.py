"""A look inside each member: its container, and the names and sizes in an inner tar."""

from __future__ import annotations

import gzip
import io
import zipfile

import pytest

from riva_stream.archive import InnerFile, InsideReport
from tests.archive.kit import END, extract, header, member, refusal, tar_of

INNER = {"model_config.yaml": b"name: x\n", "weights/model.onnx": b"w" * 100_000, "empty": b""}


def inside(content: bytes, *, cuts: int | None = None, max_output: int = 1 << 20) -> InsideReport:
    result = extract(tar_of({"x.riva": content, "y.riva": b"other"}), cuts=cuts, max_output=max_output)
    assert result.files["x.riva"] == content
    return result.inside["x.riva"]


@pytest.mark.parametrize("cuts", [1, 100, 513, None])
@pytest.mark.parametrize("max_output", [1000, 1 << 20])
def test_names_and_sizes_in_an_inner_tar(cuts: int | None, max_output: int) -> None:
    report = inside(tar_of(INNER), cuts=cuts, max_output=max_output)
    assert report.container == "tar"
    assert report.files == tuple(InnerFile(name, len(data)) for name, data in INNER.items())
    assert (report.more_files, report.warnings) == (0, ())


def test_gzip_over_tar_gzip_zip_and_what_is_unknown() -> None:
    assert inside(gzip.compress(tar_of(INNER))).container == "gzip over tar"
    assert inside(gzip.compress(b"weights")).container == "gzip"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", "b")
    assert inside(out.getvalue()).container == "zip"
    report = inside(b"float weights and nothing else")
    assert report.container == "unknown"
    assert "member 'x.riva'" in report.warnings[0]


@pytest.mark.parametrize("size", [1, 511, 1024, 300_000])
def test_a_model_of_zeros_is_refused(size: int) -> None:
    assert f"its {size} bytes are all zero" in refusal(tar_of({"x.riva": bytes(size)}))
    assert inside(bytes(size - 1) + b"\1")


def test_an_empty_model_is_refused() -> None:
    assert "'x.riva' is empty (0 bytes); a model must not be" in refusal(header(b"x.riva", 0) + END)
    assert extract(header(b"x.txt", 0) + END, include=["*.txt"]).files == {"x.txt": b""}


def test_a_damaged_inner_tar_is_a_remark_since_the_bytes_are_what_was_packed() -> None:
    whole = tar_of(INNER)
    for content in (whole[:70_000], whole[:512] + b"x" * 5000, member(b"a") + b"\xff" * 600):
        report = inside(content)
        assert report.container == "tar"
        assert "could not be read to its end" in report.warnings[0]
        assert report.files


def test_inner_names_are_bounded() -> None:
    report = inside(tar_of({f"{i}/" + "n" * 300: b"" for i in range(250)}))
    assert len(report.files) == 200
    assert report.more_files == 50
    assert all(len(file.name) <= 200 for file in report.files)


def test_reports_are_in_the_summary() -> None:
    result = extract(tar_of({"x.riva": tar_of(INNER)}))
    (staged,) = result.summary.selected
    assert staged.inside == result.inside["x.riva"]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"<!doctype html><p>403 Forbidden", "HTML"),
        (b'<?xml version="1.0"?><Error><Code>SlowDown</Code></Error>', "SlowDown"),
        (b"\0\5\x16\7" + bytes(200), "AppleDouble"),
        (b"400;chunk-signature=" + b"0" * 64 + b"\r\n" + b"w" * 1024, "aws-chunked"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    ],
)
def test_a_model_that_is_something_else_is_told_as_what_it_looks_like(data: bytes, word: str) -> None:
    result = extract(tar_of({"x.riva": data}))
    assert result.files == {"x.riva": data}
    assert any("'x.riva'" in warning and word in warning for warning in result.summary.warnings)
