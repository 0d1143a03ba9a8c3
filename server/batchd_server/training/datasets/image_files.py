"""Reads images, as a zip or a folder: the name of the folder that an image lies in is its class.

Columns: `image`, float32 in 0..1, (H, W) where all are grey and (H, W, 3) otherwise; `label`, the name of the class
where all are numbers, and otherwise its place among the sorted names of all classes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from batchd_server.training.datasets.archives import opened_archive, read_entry
from batchd_server.training.datasets.folders import files_below
from batchd_server.training.datasets.formats import Limits
from batchd_server.training.datasets.problems import DatasetError, DatasetTooLargeError
from batchd_server.training.datasets.table import Column, Table

_DECODERS = ("PNG", "JPEG", "WEBP", "BMP")
_GREY = {"1", "L", "LA"}
_COLOUR = {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_SMALL = 1 << 20  # the ratio of an archive is not looked at below this many bytes

Pixels = npt.NDArray[np.float32]


def read_images(path: Path, limits: Limits) -> Table:
    """Return the images of a zip or a folder.

    Raises:
        DatasetError: a file is no image, or lies in no class; more than is allowed would be unpacked; or pillow is not
            installed.
    """
    images: list[Pixels] = []
    classes: list[str] = []
    unpacked = 0
    for name, content in _files(path, limits):
        parts = PurePosixPath(name).parts
        if len(parts) < 2:
            raise DatasetError(f"{name[:100]!r} lies in no folder, and so in no class")
        try:
            image = _decode(content, limits)
        except DatasetError as error:
            raise type(error)(f"{name[:100]!r}: {error}") from None
        unpacked += image.nbytes
        if unpacked > limits.unpacked_bytes:
            raise DatasetTooLargeError(f"the images unpack to more than {limits.unpacked_bytes} bytes")
        images.append(image)
        classes.append(parts[-2])
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in images]
    return Table({"image": Column.of(images), "label": Column.dense(_labels(classes))})


def _labels(classes: list[str]) -> npt.NDArray[np.int64]:
    if all(name.isascii() and name.isdecimal() and len(name) < 10 for name in classes):
        return np.array([int(name) for name in classes], dtype=np.int64)
    places = {name: place for place, name in enumerate(sorted(set(classes)))}
    return np.array([places[name] for name in classes], dtype=np.int64)


def _files(path: Path, limits: Limits) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in files_below(path, limits.files):
            yield file.relative_to(path).as_posix(), file.read_bytes()
        return
    with opened_archive(path, limits) as (archive, entries):
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > max(_SMALL, limits.ratio * path.stat().st_size):
            raise DatasetTooLargeError(f"the archive unpacks to more than {limits.ratio:.0f} times its size")
        for entry in sorted(entries, key=lambda entry: entry.filename):
            parts = PurePosixPath(entry.filename).parts
            if parts[0] == "__MACOSX" or parts[-1].startswith("."):
                continue
            yield entry.filename, read_entry(archive, entry)


def _decode(content: bytes, limits: Limits) -> Pixels:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise DatasetError("images need pillow on the server: pip install 'batchd[datasets]'") from None
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(content), formats=_DECODERS) as image:
            if image.width * image.height > limits.image_pixels:
                raise DatasetTooLargeError(f"{image.width} x {image.height} are more than {limits.image_pixels} pixels")
            if image.mode not in _GREY | _COLOUR:
                raise DatasetError(f"pixels of mode {image.mode} are not read; use 8 bits per channel")
            pixels = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"), dtype=np.float32)
    except bombs as error:
        raise DatasetTooLargeError(f"more than {limits.image_pixels} pixels") from error
    except UnidentifiedImageError:
        raise DatasetError(f"this is no image; read are {', '.join(_DECODERS)}") from None
    except (OSError, SyntaxError, ValueError) as error:  # what pillow raises on damaged files
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"the image is damaged: {error}") from error
    return pixels / np.float32(255)
