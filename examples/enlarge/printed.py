"""PURE: a picture as lines of a job's log, and back.

A job's log is the one way home that every Ray cluster has. Ray may write lines of its own in between; they are no
base64 of full length or fail the checksum, so a picture comes back whole or not at all.
"""

import base64
import hashlib
import re
from collections.abc import Iterator

LINE_BYTES = 6000  # 8,000 characters of base64, so that one write is one line of the log

_PICTURE = re.compile(r"^-----BEGIN PNG ([0-9a-f]{64})-----$(.*?)^-----END PNG-----$", re.MULTILINE | re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


def lines(png: bytes) -> Iterator[str]:
    """The picture between two markers, the first of which carries its SHA-256."""
    yield f"-----BEGIN PNG {hashlib.sha256(png).hexdigest()}-----"
    for start in range(0, len(png), LINE_BYTES):
        yield base64.b64encode(png[start : start + LINE_BYTES]).decode()
    yield "-----END PNG-----"


def read(log: str) -> bytes:
    """The last picture in a log; raises ValueError when there is none or a part of it is missing."""
    found = _PICTURE.findall(log)
    if not found:
        raise ValueError("the log holds no picture: run the job with --print-png and let it finish")
    checksum, body = found[-1]
    png = b"".join(base64.b64decode(line) for line in body.split("\n") if _BASE64.fullmatch(line))
    if hashlib.sha256(png).hexdigest() != checksum:
        raise ValueError("the picture in the log is damaged: a part of it is missing")
    return png
