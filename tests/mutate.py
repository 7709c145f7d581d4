"""Damage that knows the structure of a file: the same container around other content, so that what is inside is reached and not only the first check.

`mutated(name, data, rng)` unpacks what it knows (JSON, text, PNG, zip, gzip, safetensors, PLY), changes something inside, and packs it again with
lengths and checksums that fit; else it changes bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
import zlib

from PIL import Image

WORDS = [
    "nan",
    "inf",
    "-1",
    "0",
    "1e300",
    "1e38",
    "-1e-320",
    "99999999999999999999",
    "4294967295",
    "null",
    "[]",
    "true",
    "-nan(ind)",
    "../../x",
    "/",
    "é",
    "\0",
    "",
    " ",
    "#",
    "0x10",
    "1_000",
    "٣",
]
VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63 - 1,
    10**400,
    0.5,
    -1e300,
    1e38,
    1e-320,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../../x",
    "/",
    "a\0b",
    "é" * 300,
    "nan",
    "1e5",
    "<!--<script>",
    "[b]",
    [],
    [[]],
    [0] * 1000,
    {},
    {"a": {}},
    [None] * 3,
]
INTEGERS = [0, 1, 2, 3, 255, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e-45, 1e38, -3e38, 1e300, 0.5]
DEEP = 5000


def mutated(name: str, data: bytes, rng: random.Random) -> bytes:
    """Another content for the file called `name`."""
    if rng.random() < 0.75:
        for kind in _KINDS:
            if kind.fits(name, data):
                try:
                    return kind.change(name, data, rng)
                except (ValueError, KeyError, IndexError, OSError, zipfile.BadZipFile, zlib.error, struct.error, OverflowError):
                    break  # its own container does not open: bytes then
    return changed_bytes(data, rng)


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped; bytes inserted, removed, repeated; a field overwritten by an odd number; the end cut off."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        at = rng.randrange(len(result) + 1)
        kind = rng.randrange(9)
        if kind == 0 and at < len(result):
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del result[at : at + rng.choice([1, 4, 8, 100])]
        elif kind == 2:
            result[at:at] = rng.randbytes(rng.choice([1, 4, 8]))
        elif kind in (3, 4):
            field = _field(rng)
            at -= at % len(field) if rng.random() < 0.7 else 0
            result[at : at + len(field)] = field
        elif kind == 5:  # early fields are counts and sizes
            field = _field(rng)
            at = rng.randrange(min(len(result), 96) + 1)
            result[at : at + len(field)] = field
        elif kind == 6:
            size = rng.choice([4, 16, 64])
            result[at:at] = result[at : at + size]
        elif kind == 7:
            start = rng.randrange(len(result) + 1)
            result[at : at + 8] = result[start : start + 8]
        else:
            del result[at:]
    return bytes(result)


def _field(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        size = rng.choice([1, 2, 4, 8])
        return (rng.choice(INTEGERS) & (2 ** (8 * size) - 1)).to_bytes(size, rng.choice(["little", "little", "big"]))
    return struct.pack(
        rng.choice(["<f", "<d"]), *[min(max(v, -3e38), 3e38) if v == v and abs(v) != float("inf") else v for v in [rng.choice(FLOATS)]]
    )


def changed_tree(value: object, rng: random.Random) -> object:
    """A JSON tree with one node replaced, removed, repeated or moved."""
    places: list[tuple[object, object]] = []

    def collect(node: object) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            collect(node[key])

    collect(value)
    if not places or rng.random() < 0.03:
        return rng.choice(VALUES)
    for _ in range(rng.choice([1, 1, 2])):
        node, key = rng.choice(places)
        kind = rng.randrange(8)
        if (isinstance(node, list) and not 0 <= key < len(node)) or (isinstance(node, dict) and key not in node):
            continue
        if kind < 4:
            node[key] = rng.choice(VALUES)
        elif kind == 4:
            del node[key]
        elif kind == 5 and isinstance(node, list):
            node.insert(key, node[key])
        elif kind == 5:
            node[rng.choice(["x", "", "__proto__", *node])] = node[key]
        elif kind == 6 and isinstance(node[key], (int, float)):
            node[key] = node[key] * rng.choice([-1, 0.5, 1.001, 1e6, 1e-9, 1e30])
        else:
            other = rng.choice(places)
            node[key] = json.loads(json.dumps(other[0][other[1]])) if not _gone(*other) else None
    return value


def _gone(node: object, key: object) -> bool:
    return not 0 <= key < len(node) if isinstance(node, list) else key not in node


def changed_json(name: str, data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.02:
        return rng.choice([b"[" * DEEP, b'{"a":' * DEEP, b"1" * DEEP, data.decode().encode("utf-16"), b"\xef\xbb\xbf" + data, b"\xff" + data])
    if name.endswith(".jsonl"):
        lines = data.splitlines()
        at = rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0:
            lines.insert(rng.randrange(len(lines)), lines[at])
        elif kind == 1:
            del lines[at]
        else:
            lines[at] = json.dumps(changed_tree(json.loads(lines[at]), rng)).encode()
        return b"\n".join(lines) + b"\n" * rng.randrange(2)
    return json.dumps(changed_tree(json.loads(data), rng), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def changed_text(name: str, data: bytes, rng: random.Random) -> bytes:
    lines = data.decode().split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(10)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 2:
        lines.insert(at, rng.choice(["", "# x", " ", "1", "1 2 3 4 5 6 7 8 9 10"]))
    elif kind == 3:
        return "\r\n".join(lines).encode()
    else:
        words = lines[at].split(" ")
        for _ in range(rng.choice([1, 1, 3])):
            i = rng.randrange(len(words))
            if kind == 4:
                words.insert(i, rng.choice(WORDS))
            elif kind == 5 and len(words) > 1:
                del words[i % len(words)]
            else:
                words[i % len(words)] = rng.choice([*WORDS, rng.choice(words)])
        lines[at] = " ".join(words)
    return "\n".join(lines).encode()


def changed_png(name: str, data: bytes, rng: random.Random) -> bytes:
    """Its chunks, with right checksums: the header's sizes, types and filters reach the decoder."""
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    kind = rng.randrange(5)
    chosen = rng.choice(chunks)
    if kind == 0:
        header = bytearray(chunks[0][1])
        i = rng.choice([0, 4, 8, 9, 10, 11, 12])
        if i < 8:
            header[i : i + 4] = rng.choice([0, 1, 3, 2**16, 2**31 - 1, 2**31, 178956970, 60000]).to_bytes(4, "big")
        else:
            header[i] = rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255])
        chunks[0][1] = bytes(header)
    elif kind == 1 and chosen[0] == b"IDAT":
        chosen[1] = zlib.compress(changed_bytes(zlib.decompress(chosen[1]), rng))
    elif kind == 2:
        chosen[1] = changed_bytes(chosen[1], rng)
    elif kind == 3:
        chunks.insert(
            rng.randrange(1, len(chunks)),
            [rng.choice([b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"PLTE", b"acTL", b"zTXt"]), rng.randbytes(rng.choice([0, 2, 30]))],
        )
    else:
        chunks.remove(chosen)
    packed = [len(body).to_bytes(4, "big") + tag + body + zlib.crc32(tag + body).to_bytes(4, "big") for tag, body in chunks]
    return data[:8] + b"".join(packed)


def changed_zip(name: str, data: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    # What lies flat in the archive of a torch file has a fixed order; the pickle comes first and says everything.
    at = rng.choice([at, next((i for i, (info, _) in enumerate(members) if info.filename.endswith((".pkl", ".json"))), at)])
    info, body = members[at]
    kind = rng.randrange(8)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = (zipfile.ZipInfo(rng.choice(["x", "../x", "/x", "", info.filename.upper()])), body)
    elif kind == 2:
        members[at] = (info, rng.choice([b"", b"\0" * 1_000_000, members[rng.randrange(len(members))][1]]))
    else:
        members[at] = (info, mutated(info.filename, body, rng))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]) if kind == 2 else zipfile.ZIP_STORED) as archive:
        for info, body in members:
            archive.writestr(info.filename or "x", body)
    return buffer.getvalue()


def changed_webp(name: str, data: bytes, rng: random.Random) -> bytes:
    """Pixels, without loss: numbers of a SOG."""
    with Image.open(io.BytesIO(data)) as picture:
        mode, size, pixels = picture.mode, picture.size, picture.tobytes()
    changed = changed_bytes(pixels, rng)[: len(pixels)].ljust(len(pixels), b"\xff")
    if rng.random() < 0.1:
        size = (size[0] * size[1], 1)
    buffer = io.BytesIO()
    Image.frombytes(mode, size, changed).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def changed_gzip(name: str, data: bytes, rng: random.Random) -> bytes:
    return gzip.compress(changed_bytes(gzip.decompress(data), rng), 1)


def changed_safetensors(name: str, data: bytes, rng: random.Random) -> bytes:
    """The header (types, shapes, places, metadata and the JSON texts in it), or the numbers."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    if rng.random() < 0.3:
        return data[: 8 + size] + changed_bytes(body, rng)
    texts = header.get("__metadata__", {})
    inner = [key for key, text in texts.items() if text.startswith("{")]
    if inner and rng.random() < 0.6:
        key = rng.choice(inner)
        texts[key] = json.dumps(changed_tree(json.loads(texts[key]), rng))
    else:
        tensors = {key: value for key, value in header.items() if key != "__metadata__"}
        tensors = changed_tree(tensors, rng)
        header = {"__metadata__": texts, **tensors} if isinstance(tensors, dict) else tensors
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return len(packed).to_bytes(8, "little") + packed + body


def changed_ply(name: str, data: bytes, rng: random.Random) -> bytes:
    end = data.index(b"end_header\n") + len(b"end_header\n")
    header, body = data[:end], data[end:]
    kind = rng.randrange(4)
    if kind == 0:
        return header + changed_bytes(body, rng)
    if kind == 1:  # a number of the vertices, whole
        body = bytearray(body)
        for _ in range(rng.choice([1, 3])):
            at = rng.randrange(max(1, len(body) // 4)) * 4
            body[at : at + 4] = struct.pack("<f", rng.choice([v for v in FLOATS if v != 1e300]))
        return header + bytes(body)
    words = [
        "float",
        "double",
        "uchar",
        "int",
        "short",
        "list uchar int",
        "element",
        "property",
        "binary_big_endian",
        "ascii",
        "1000000",
        "-1",
        "0",
        "x",
        str(2**63),
        "end_header",
        "comment",
    ]
    lines = header.decode("latin-1").split("\n")
    at = rng.randrange(len(lines))
    if kind == 2:
        parts = lines[at].split(" ")
        parts[rng.randrange(len(parts))] = rng.choice(words)
        lines[at] = " ".join(parts)
    elif rng.random() < 0.5:
        lines.insert(at, rng.choice(lines))
    else:
        del lines[at]
    return "\n".join(lines).encode("latin-1") + body


class _Kind:
    def __init__(self, fits, change) -> None:
        self.fits, self.change = fits, change


_KINDS = (
    _Kind(lambda name, data: name.endswith((".json", ".jsonl", ".geojson")), changed_json),
    _Kind(lambda name, data: name.endswith((".txt", ".md")), changed_text),
    _Kind(lambda name, data: data.startswith(b"\x89PNG"), changed_png),
    _Kind(lambda name, data: data.startswith(b"PK"), changed_zip),
    _Kind(lambda name, data: data.startswith(b"\x1f\x8b"), changed_gzip),
    _Kind(lambda name, data: name.endswith(".webp"), changed_webp),
    _Kind(lambda name, data: name.endswith(".safetensors"), changed_safetensors),
    _Kind(lambda name, data: data.startswith(b"ply"), changed_ply),
)
