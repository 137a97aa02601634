"""Makes crates/pipeline/tests/fixtures/pictures: small files of every kind, and what Pillow makes of them.

Beside NAME.FORMAT lies NAME.rgb: width and height as little-endian uint32, then the bytes of Pillow's
`ImageOps.exif_transpose(image).convert("RGB")`. `scaled-*.rgb` are what `Image.resize` makes of `source.rgb`.

Usage: make_picture_fixtures.py ASTRONAUT.png [FOLDER], with scikit-image's picture of Eileen Collins (NASA, public
domain) and pillow 12.3.0 (13 scales in another order) and numpy installed.
"""

import pathlib
import struct
import sys

import numpy
from PIL import Image, ImageOps

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "crates/pipeline/tests/fixtures/pictures"
SIZE = (45, 38)


def write_rgb(path, image):
    """The form that the tests read."""
    image = image.convert("RGB")
    path.write_bytes(struct.pack("<II", *image.size) + image.tobytes())


def exif(orientation):
    """A block that says how the picture is stored."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def files(source):
    """Name, ending, image and how it is saved."""
    alpha = source.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(SIZE))
    yield "colour", "jpg", source, {"quality": 90, "subsampling": 0}
    yield "halved-chroma", "jpg", source, {"quality": 90, "subsampling": 1}
    yield "quartered-chroma", "jpg", source, {"quality": 90, "subsampling": 2}
    yield "progressive", "jpg", source, {"quality": 85, "progressive": True}
    yield "restarts", "jpg", source, {"quality": 85, "restart_marker_rows": 1}
    yield "grey", "jpg", source.convert("L"), {"quality": 90}
    yield "cmyk", "jpg", source.convert("CMYK"), {"quality": 90}
    for orientation in range(1, 9):
        yield f"turned-{orientation}", "jpg", source, {"quality": 90, "subsampling": 0, "exif": exif(orientation)}
    yield "colour-png", "png", source, {}
    yield "alpha-png", "png", alpha, {}
    yield "grey-png", "png", source.convert("L"), {}
    yield "grey-alpha-png", "png", alpha.convert("LA"), {}
    yield "palette-png", "png", source.quantize(16), {}
    yield "transparent-palette-png", "png", source.quantize(16), {"transparency": 3}
    yield "one-bit-png", "png", source.convert("1"), {}
    yield "turned-png", "png", source, {"exif": exif(6)}
    yield "lossy-webp", "webp", source, {"quality": 80}
    yield "lossless-webp", "webp", source, {"lossless": True}
    yield "alpha-webp", "webp", alpha, {"quality": 80, "exact": True}
    yield "turned-webp", "webp", source, {"quality": 80, "exif": exif(8)}
    yield "animated-webp", "webp", source, {"save_all": True, "append_images": [source.rotate(180)], "lossless": True}
    yield "palette-gif", "gif", source.quantize(64), {}
    yield "animated-gif", "gif", source.quantize(64), {"save_all": True, "append_images": [source.rotate(180).quantize(64)]}


def sixteen_bits(folder):
    """A PNG of 16 bits, which Pillow reads as 8 of them but cannot write; made by hand, of one value a row."""
    import zlib
    width, height = 4, 3
    values = [0x0102, 0x80ff, 0xfffe]
    rows = b"".join(b"\0" + struct.pack(">HHH", value, value ^ 0xffff, 0x7f7f) * width for value in values)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    (folder / "deep-png.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    write_rgb(folder / "deep-png.rgb", Image.open(folder / "deep-png.png"))


def main():
    """Writes them all."""
    astronaut = Image.open(sys.argv[1]).convert("RGB")
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    source = astronaut.crop((150, 0, 330, 152)).resize(SIZE, Image.Resampling.LANCZOS)
    for name, ending, image, options in files(source):
        path = folder / f"{name}.{ending}"
        image.save(path, **options)
        write_rgb(folder / f"{name}.rgb", ImageOps.exif_transpose(Image.open(path)))
    sixteen_bits(folder)
    # Noise besides, so that filters with negative lobes reach beyond what a byte holds.
    sharp = numpy.asarray(astronaut.crop((180, 30, 277, 91)), numpy.int16)
    noise = numpy.random.default_rng(5).integers(-60, 60, sharp.shape)
    sharp = Image.fromarray((sharp + noise).clip(0, 255).astype(numpy.uint8))
    write_rgb(folder / "source.rgb", sharp)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
               "lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
    for name, method in filters.items():
        for size in [(40, 23), (131, 17), (60, 61)]:
            write_rgb(folder / f"scaled-{name}-{size[0]}x{size[1]}.rgb", sharp.resize(size, method))


if __name__ == "__main__":
    main()
