"""Which files are read: suffixes of names, and the first bytes of images and of other kinds."""

VIDEO_SUFFIXES = (
    *("mp4", "m4v", "mov", "mkv", "webm", "avi", "gif", "ts", "m2ts", "mts", "mpg", "mpeg"),
    *("flv", "wmv", "3gp", "ogv"),
)
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "avif", "bmp", "tif", "tiff")

START = 512
"""How many of the first bytes of a file tell its kind."""

# Playlists are not allowed: they could open other files or a connection.
DEMUXERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif"
_CONTAINERS = "mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv, ogv and gif"

_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_AVIF = (b"avif", b"avis")
_BRANDS = {b"heic": "a HEIC image", b"heix": "a HEIC image", b"mif1": "a HEIF image"}
_BRANDS |= {b"M4A ": "an audio file"}
_TEXTS = {
    b"#extm3u": "a playlist (HLS): download the video that it names",
    b"ffconcat": "a list of files: give the videos themselves",
    b"<!doctype html": "a web page, not a video: the download was refused or redirected",
    b"<html": "a web page, not a video: the download was refused or redirected",
    b"<?xml": "an XML text: a manifest or a server's error message instead of the video",
    b"<mpd": "a playlist (DASH): download the video that it names",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file by `git lfs pull`",
    b"{": "a JSON text, not a video: perhaps a server's error message",
}
_OTHERS = {
    b"DKIF": f"an IVF file; read are {_CONTAINERS}: `ffmpeg -i FILE -c copy FILE.mkv` converts it",
    b"YUV4MPEG2": f"raw video (Y4M); read are {_CONTAINERS}: encode it first",
    **{
        b"\0\0\0\1" + first: f"a video stream without a container; read are {_CONTAINERS}"
        for first in (b"\x67", b"\x09", b"\x40", b"\x46")
    },
    b"ID3": "an audio file",
    b"fLaC": "an audio file",
    b"%PDF": "a PDF document",
    b"PK\3\4": "a zip archive: unpack it first",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x06\x0e\x2b\x34": f"an MXF file; read are {_CONTAINERS}: convert it first",
    b".RMF": f"a RealMedia file; read are {_CONTAINERS}: convert it first",
}


def is_image(start: bytes) -> bool:
    """Whether these first bytes are those of an image; the file's name does not matter.

    An image may be animated, but for a gif, which is read as a video.
    """
    return (
        start.startswith(_IMAGES)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in _AVIF)
    )


def is_mp4(start: bytes) -> bool:
    """Whether these first bytes are those of an MP4 or QuickTime file."""
    return start[4:8] in _MP4_BOXES


def foreign(start: bytes) -> str:
    """What a file of another kind is, by its first bytes; '' if it may be a video or image."""
    if len(start) == START and not start.strip(b"\0"):
        return "begins with zeros only: it was not copied or downloaded completely"
    brand = _BRANDS.get(start[8:12], "") if start[4:8] == b"ftyp" else ""
    brand = brand or ("an audio file" if start[:4] + start[8:12] == b"RIFFWAVE" else "")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magics, held in ((_OTHERS, start), (_TEXTS, text)):
        brand = brand or next(
            (name for magic, name in magics.items() if held.startswith(magic)), ""
        )
    if not brand and start and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        brand = "a text, not a video or image"
    return f"is {brand}" if brand else ""
