"""Files as users have them: odd ones that are sound, and hostile ones that are not.

Each kind is a function of the bytes of a sound video and a random generator; it gives the files of
one sample by suffix. `SOUND` must be kept, `HOSTILE` must be dropped with a reason, and of `EITHER`
(random damage) each must be kept or dropped with a reason.
"""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction

import av
import numpy as np
from PIL import Image

Files = Mapping[str, bytes]
Kind = Callable[[bytes, np.random.Generator], Files]
CAPTION = b"a pattern moves"
SIDE = (48, 64)


def video(
    seed: int, *, fmt: str = "mp4", codec: str = "libx264", frames: int = 13, title: str = ""
) -> bytes:
    """A pattern that moves, 12 frames per second; another seed gives other bytes and pictures."""
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 255, (8, 16, 3)).repeat(12, axis=0).repeat(12, axis=1)
    file = io.BytesIO()
    with av.open(file, "w", format=fmt) as container:
        container.metadata["title"] = title
        options = {"preset": "ultrafast", "crf": "18"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=12, options=options)
        stream.height, stream.width, stream.pix_fmt = *SIDE, "yuv420p"
        for n in range(frames):
            pixels = np.roll(blocks, 3 * n, axis=1)[: SIDE[0], : SIDE[1]].astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def picture(form: str, mode: str = "RGB") -> bytes:
    """A ramp."""
    ramp = np.tile(np.linspace(0, 255, 64), (48, 1)).astype(np.uint8)
    image = Image.fromarray(ramp).convert(mode)
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def captioned(suffix: str, data: bytes, text: bytes = CAPTION) -> Files:
    return {suffix: data, "txt": text}


def tail(data: bytes, draw: np.random.Generator) -> bytes:
    """The bytes of an mp4, made its own by a last box that no reader reads."""
    return data + struct.pack(">I4sI", 12, b"free", int(draw.integers(2**32)))


def mirrored(data: bytes) -> bytes:
    """The mp4 with a display matrix that mirrors it left to right."""
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    one = 1 << 16
    matrix = struct.pack(">9i", -one, 0, 0, 0, one, 0, SIDE[1] * one, 0, 1 << 30)
    return data[:at] + matrix + data[at + 36 :]


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def latin_title(data: bytes, draw: np.random.Generator) -> bytes:
    made = video(int(draw.integers(2**31)), title="PLAINPLAIN")
    assert b"PLAINPLAIN" in made
    return made.replace(b"PLAINPLAIN", "café crème".encode("latin-1"))


def flipped(data: bytes, draw: np.random.Generator) -> bytes:
    made = bytearray(data)
    for place in draw.integers(0, len(data), 2 ** int(draw.integers(0, 7))):
        made[place] ^= int(draw.integers(1, 256))
    return bytes(made)


def header_damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """Bytes changed in the part of an mp4 that describes its streams."""
    start = data.index(b"moov")
    made = bytearray(data)
    for place in draw.integers(start, len(data), 4):
        made[place] = int(draw.integers(256))
    return bytes(made)


def unknown_codec(data: bytes, _: np.random.Generator) -> bytes:
    return data.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC")


SOUND: dict[str, Kind] = {
    "title_in_latin1": lambda d, r: captioned("mp4", latin_title(d, r)),
    "mirrored": lambda d, r: captioned("mp4", mirrored(tail(d, r))),
    "upper_case": lambda d, r: {"MP4": tail(d, r), "TXT": CAPTION},
    "marked_caption": lambda d, r: captioned("mp4", tail(d, r), b"\xef\xbb\xbf" + CAPTION),
    "utf16_caption": lambda d, r: captioned("mp4", tail(d, r), CAPTION.decode().encode("utf-16")),
    "marked_json": lambda d, r: {
        "mp4": tail(d, r),
        "json": b"\xef\xbb\xbf" + b'{"caption": "a pattern moves"}',
    },
    "matroska": lambda d, r: captioned("mkv", video(int(r.integers(2**31)), fmt="matroska")),
    "transparent_png": lambda d, r: captioned("png", picture("png", "RGBA")),
    "gray_png": lambda d, r: captioned("png", picture("png", "L")),
}
HOSTILE: dict[str, Kind] = {
    "unknown_codec": lambda d, r: captioned("mp4", unknown_codec(tail(d, r), r)),
    "empty": lambda d, r: captioned("mp4", b""),
    "noise": lambda d, r: captioned("mp4", r.bytes(5000)),
    "web_page": lambda d, r: captioned("mp4", b"<!DOCTYPE html><html><body>404</body></html>"),
    "playlist": lambda d, r: captioned("mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
    "file_list": lambda d, r: captioned("mp4", b"ffconcat version 1.0\nfile '/etc/passwd'\n"),
    "pointer": lambda d, r: captioned("mp4", b"version https://git-lfs.github.com/spec/v1\n"),
    "half": lambda d, r: captioned("mp4", d[: len(d) // 2]),
    "header_alone": lambda d, r: captioned("mp4", d[:64]),
    "caption_in_latin1": lambda d, r: captioned("mp4", tail(d, r), b"caf\xe9"),
    "json_broken": lambda d, r: {"mp4": tail(d, r), "json": b'{"caption": "cut'},
    "json_list": lambda d, r: {"mp4": tail(d, r), "json": b"[1, 2]"},
    "json_deep": lambda d, r: {"mp4": tail(d, r), "json": b"[" * 100_000},
    "huge_png": lambda d, r: captioned("png", png_of(60_000, 60_000)),
    "short_png": lambda d, r: captioned("png", png_of(64, 48)),
    "jpeg_cut": lambda d, r: captioned("jpg", picture("jpeg")[:200]),
    "one_pixel": lambda d, r: captioned("png", png_of(1, 1)),
}
EITHER: dict[str, Kind] = {
    "bytes_flipped": lambda d, r: captioned("mp4", flipped(d, r)),
    "header_damaged": lambda d, r: captioned("mp4", header_damaged(d, r)),
}


def hostile_files(count: int, seed: int = 0) -> dict[str, Files]:
    """`count` samples by name, `KIND_n`, of all kinds in turn."""
    kinds = SOUND | HOSTILE | EITHER
    names = list(kinds)
    made = {}
    for n in range(count):
        draw = np.random.default_rng((seed, n))
        kind = names[n % len(names)]
        made[f"{kind}_{n}"] = kinds[kind](video(10_000 + n), draw)
    return made


def kind_of(name: str) -> str:
    """The kind in the name of a sample."""
    return name.rpartition("/")[2].rpartition("_")[0]
