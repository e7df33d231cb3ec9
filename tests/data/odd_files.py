"""Odd files as users have them, each with the one right value for every reader, or the reason.

Frames are four coloured corners, so that a turn, a mirror and a wrong colour are all seen.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH, FRAMES, RATE = 96, 128, 10, 10
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
MATRICES = {
    "as_stored": (1, 0, 0, 1),
    "rotated_90": (0, 1, -1, 0),
    "rotated_180": (-1, 0, 0, -1),
    "rotated_270": (0, -1, 1, 0),
    "mirrored_left_right": (-1, 0, 0, 1),
    "mirrored_top_bottom": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed_the_other_way": (0, -1, -1, 0),
}


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A file by its name; `shown` is its first frame, or `reason` a part of why it is refused."""

    name: str
    data: bytes
    shown: np.ndarray | None = None
    frames: int = 1
    reason: str = ""

    @property
    def key(self) -> str:
        """Its key in a shard."""
        return self.name.partition(".")[0]


def corners(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Red, green / blue, white."""
    frame = np.empty((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    frame[:top, :left], frame[:top, left:] = RED, GREEN
    frame[top:, :left], frame[top:, left:] = BLUE, WHITE
    return frame


def drifting(frames: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """A coarse pattern that moves right and down."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (40, 40, 3)).repeat(12, axis=0).repeat(12, axis=1)
    return [
        coarse[3 * n : 3 * n + height, 4 * n : 4 * n + width].astype(np.uint8)
        for n in range(frames)
    ]


def video(
    frames: Sequence[np.ndarray] | None = None,
    *,
    form: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    source: str = "rgb24",
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
    bit_rate: int = 0,
    rate: int = RATE,
    **metadata: str,
) -> bytes:
    """A video of frames, by default of ten times the corners."""
    file = io.BytesIO()
    frames = [corners()] * FRAMES if frames is None else frames
    default = {"crf": "4"} if codec == "libx264" else {}
    with av.open(file, "w", format=form, options=muxing or {}) as container:
        container.metadata.update(metadata)
        stream = container.add_stream(codec, rate=rate, options={**default, **(options or {})})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if bit_rate:
            stream.bit_rate = bit_rate
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), source)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def with_matrix(data: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """An MP4 with another display matrix in its track header (ISO 14496-12, 8.3.2)."""
    changed, at = bytearray(data), data.index(b"tkhd") + 44
    rows = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    changed[at : at + 36] = struct.pack(">9i", *rows)
    return bytes(changed)


def as_matrix_shows(frame: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Each stored pixel at the place to which the matrix takes it."""
    height, width = frame.shape[:2]
    q, p = np.mgrid[:height, :width]
    x, y = a * p + c * q, b * p + d * q
    x, y = x - x.min(), y - y.min()
    shown = np.empty((y.max() + 1, x.max() + 1, 3), np.uint8)
    shown[y, x] = frame
    return shown


def packets(data: bytes) -> list[tuple[int, int]]:
    """(offset, size) of the packets of a video."""
    with av.open(io.BytesIO(data)) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size]


@cache
def damaged_reference() -> tuple[bytes, bytes, int]:
    """A video with B-frames, the same with a damaged P-frame, and the number of its packet.

    The damage is one that the decoder marks only when it returns the frame, after the B-frames.
    """
    options = {"x264-params": "keyint=40:scenecut=0:bframes=3:b-adapt=0:threads=1", "crf": "20"}
    sound = video(drifting(24, 144, 192), options=options)
    places = packets(sound)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        number = int(rng.integers(4, len(places) - 4))
        pos, size = places[number]
        data, place = bytearray(sound), pos + size // 2 + int(rng.integers(0, max(1, size // 3)))
        data[place : place + 3] = rng.bytes(3)
        if (marked := _marked_late(bytes(data))) is not None:
            return sound, bytes(data), marked
    raise AssertionError("no damage of 200 is marked late")


def _marked_late(data: bytes) -> int | None:
    """Number of the packet of the first marked frame, if frames that refer to it came before."""
    before: list[int] = []
    with av.open(io.BytesIO(data)) as container, av.logging.Capture() as said:
        context = container.streams.video[0].codec_context
        context.thread_count, context.copy_opaque = 1, True
        context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        try:
            for number, packet in enumerate(container.demux(video=0)):
                packet.opaque = number
                for frame in packet.decode():
                    if frame.is_corrupt:
                        late = any(earlier > frame.opaque for earlier in before)
                        return frame.opaque if late and not said else None
                    before.append(frame.opaque)
        except av.FFmpegError:
            return None
    return None


@cache
def _vp8() -> bytes:
    options = {"deadline": "realtime", "cpu-used": "8", "g": "12"}
    return video(drifting(30), form="webm", codec="libvpx", options=options)


def damaged_vp8(seed: int) -> bytes:
    """VP8 with some bits flipped behind its first key frame."""
    data = bytearray(_vp8())
    first = sum(packets(bytes(data))[0])
    rng = np.random.default_rng(seed)
    for _ in range(int(2 ** rng.integers(0, 5))):
        data[rng.integers(first, len(data))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def picture(image: Image.Image, form: str, **options: object) -> bytes:
    """An image file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def odd_videos() -> Iterator[Odd]:
    """Videos that are read, and what they show."""
    plain, shown = video(), corners()

    def reads(name: str, data: bytes, image: np.ndarray = shown, frames: int = FRAMES) -> Odd:
        return Odd(name=name, data=data, shown=image, frames=frames)

    yield reads("plain.mp4", plain)
    yield reads("suffix.m4v", plain)
    yield reads("suffix_mov.mov", plain)
    yield reads("upper_case.MP4", plain)
    yield reads("mkv_named.mp4", video(form="matroska"))
    yield reads("mp4_named.mkv", plain)
    yield reads("picture_named.mp4", picture(Image.fromarray(shown), "png"), frames=1)
    for name, matrix in MATRICES.items():
        image = as_matrix_shows(shown, *matrix)
        yield reads(f"matrix_{name}.mp4", with_matrix(plain, *matrix), image)
    latin = "café crème".encode("latin-1")
    for form, codec, suffix in (
        ("avi", "mpeg4", "avi"),
        ("mp4", "libx264", "mp4"),
        ("matroska", "libx264", "mkv"),
    ):
        named = video(form=form, codec=codec, bit_rate=2_000_000, title="PLAINPLAIN")
        yield reads(f"latin1_{suffix}.{suffix}", named.replace(b"PLAINPLAIN", latin))
    constant = {"minrate": "2000000", "maxrate": "2000000", "bufsize": "1000000"}
    for codec in ("mpeg1video", "mpeg2video"):
        stuffed = video(form="mpegts", codec=codec, options=constant, bit_rate=2_000_000, rate=25)
        yield reads(f"constant_rate_{codec}.ts", stuffed)
    filler = {"x264-params": "nal-hrd=cbr:vbv-maxrate=2000:vbv-bufsize=2000:bitrate=2000"}
    yield reads("constant_rate_h264.ts", video(form="mpegts", options=filler, bit_rate=2_000_000))
    for codec, pixels in (("prores_ks", "yuva444p10le"), ("qtrle", "argb"), ("png", "rgba")):
        clear = video(_discs(), form="mov", codec=codec, pixels=pixels, source="rgba")
        yield reads(f"transparent_{codec}.mov", clear, disc_on_white())
    gif = [Image.fromarray(frame).convert("RGBA") for frame in _discs()]
    yield reads(
        "transparent.gif",
        picture(gif[0], "gif", save_all=True, append_images=gif[1:], duration=100, disposal=2),
        disc_on_white(),
    )


def _discs() -> list[np.ndarray]:
    """A red disc that moves a little over nothing; the first is that of `disc_on_white`."""
    return [np.roll(_disc(), n, axis=1) for n in range(FRAMES)]


def _disc() -> np.ndarray:
    """A red disc on transparent black."""
    rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rgba[(y - HEIGHT // 2) ** 2 + (x - WIDTH // 2) ** 2 < 30**2] = (*RED, 255)
    return rgba


def disc_on_white() -> np.ndarray:
    """A red disc on white."""
    disc = _disc()
    return np.where(disc[..., 3:] > 0, disc[..., :3], np.uint8(255))


def refused_videos() -> Iterator[Odd]:
    """Files in the place of videos, and why they are refused."""
    plain = video()
    encrypted = video(
        muxing={
            "encryption_scheme": "cenc-aes-ctr",
            "encryption_key": "00" * 16,
            "encryption_kid": "11" * 16,
        }
    )
    unknown = plain.replace(b"avc1", b"zzzz", 2).replace(b"avcC", b"zzzC")
    for name, data, reason in (
        ("unknown_codec.mp4", unknown, "its codec is not known to FFmpeg (zzzz)"),
        ("encrypted.mp4", encrypted, "is encrypted"),
        ("damaged_reference.mp4", damaged_reference()[1], "is damaged"),
        ("empty.mp4", b"", "is empty"),
        ("truncated.mp4", plain[: len(plain) // 2], "it is truncated"),
        ("truncated_header.mkv", video(form="matroska")[:300], "can be read"),
        ("zeros.mp4", bytes(2000), "begins with zeros only"),
        ("text.mp4", b"no video at all", "is a text"),
        ("page.mp4", b"<!DOCTYPE html><title>403 \xe2\x80\x94</title>", "is a web page"),
        ("pointer.mp4", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("playlist.mp4", b"#EXTM3U\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n", "is a playlist"),
        ("ivf.mp4", video(form="ivf", codec="libvpx"), "is an IVF file"),
        ("stream.mp4", video(form="h264"), "without a container"),
        ("tiny.mp4", video([np.zeros((4, 40, 3), np.uint8)] * 5), "at least 8"),
    ):
        yield Odd(name=name, data=data, reason=reason)


def odd_pictures() -> Iterator[Odd]:
    """Pictures that are read, and what they show."""
    shown = Image.fromarray(corners())
    ramp = np.tile(np.linspace(0, 65535, WIDTH), (HEIGHT, 1)).astype(np.uint16)
    grey = np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2)
    disc = Image.fromarray(_disc())
    white = disc_on_white()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    palette = Image.fromarray(white).quantize(2)
    clear = palette.getpixel((0, 0))
    key = Image.fromarray(_disc()[..., :3])
    for name, data, image in (
        ("ramp_16.png", picture(Image.fromarray(ramp), "png"), grey),
        ("ramp_16.tif", picture(Image.fromarray(ramp), "tiff"), grey),
        ("rgba.png", picture(disc, "png"), white),
        ("rgba.webp", picture(disc, "webp", lossless=True), white),
        ("rgba.tif", picture(disc, "tiff"), white),
        ("grey_alpha.png", picture(disc.convert("LA"), "png"), _grey_on_white(disc)),
        ("palette_alpha.png", picture(palette, "png", transparency=clear), white),
        ("colour_key.png", picture(key, "png", transparency=(0, 0, 0)), white),
        ("cmyk.jpg", picture(shown.convert("CMYK"), "jpeg", quality=95), corners()),
        ("turned.jpg", picture(shown, "jpeg", quality=95, exif=exif), np.rot90(corners(), -1)),
        ("plain.bmp", picture(shown, "bmp"), corners()),
        ("plain_tiff.tiff", picture(shown, "tiff"), corners()),
        ("jpeg_named.png", picture(shown, "jpeg", quality=95), corners()),
        ("two_colours.png", picture(Image.fromarray(white).convert("1"), "png"), None),
    ):
        if image is None:
            image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        yield Odd(name=_stem(name), data=data, shown=image)


def _grey_on_white(disc: Image.Image) -> np.ndarray:
    grey = np.asarray(disc.convert("LA"))
    return np.repeat(np.where(grey[..., 1:] > 0, grey[..., :1], np.uint8(255)), 3, axis=2)


def refused_pictures() -> Iterator[Odd]:
    """Files in the place of pictures, and why they are refused."""
    ramp = np.tile(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, 1))
    whole = (ramp * 2**30).astype(np.int32)
    pages = [Image.fromarray(np.roll(corners(), n, axis=1)) for n in range(3)]
    many = {"save_all": True, "append_images": pages[1:]}
    jpeg = picture(pages[0], "jpeg")
    for name, data, reason in (
        ("floating.tif", picture(Image.fromarray(ramp), "tiff"), "floating-point"),
        ("whole_32.tif", picture(Image.fromarray(whole), "tiff"), "whole numbers of 32 bits"),
        ("moving.webp", picture(pages[0], "webp", **many), "has 3 images"),
        ("moving.png", picture(pages[0], "png", **many), "has 3 images"),
        ("pages.tif", picture(pages[0], "tiff", **many), "has 3 images"),
        ("truncated.jpg", jpeg[: len(jpeg) // 2], "does not decode"),
        ("empty.png", b"", "is empty"),
        ("text.jpg", b"not found", "is a text"),
    ):
        yield Odd(name=_stem(name), data=data, reason=reason)


def _stem(name: str) -> str:
    """The name with its suffix in its stem too: names in a shard differ before the first dot."""
    return f"picture_{name.replace('.', '_')}.{name.partition('.')[2]}"


def odd_files() -> list[Odd]:
    """All of them."""
    kinds = (odd_videos, refused_videos, odd_pictures, refused_pictures)
    return [odd for kind in kinds for odd in kind()]
