"""Every kind of image file becomes RGB, or one sentence that names the file."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from interp_cnn.data.image_files import ImageFiles, skips
from interp_cnn.data.images import SUFFIXES, image_size, read_ids, read_image, read_rgb, square

RED = (200, 30, 60)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tiff", "webp", "ppm", "jpg"])
def test_every_format_gives_rgb_between_zero_and_one(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (7, 5), RED).save(path)
    image = read_image(path)
    assert image.shape == (3, 5, 7) and image.dtype == torch.float32
    assert image[:, 2, 3] * 255 == pytest.approx(torch.tensor(RED, dtype=torch.float32), abs=6)
    assert image_size(path) == (5, 7)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_of_a_half_grey_image_is_half_grey(tmp_path, mode):
    values = np.full((4, 6), 128, dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 128 * 257, dtype=np.uint16))
    elif mode == "I":
        image = Image.fromarray(np.full((4, 6), 128 * 257, dtype=np.int32))
    elif mode == "F":
        image = Image.fromarray(np.full((4, 6), 128 / 255, dtype=np.float32))
    else:
        image = Image.fromarray(values).convert(mode, dither=Image.Dither.NONE)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.tiff")
    image.save(path)
    expected = 255 if mode == "1" else 128  # black and white has no grey
    assert np.abs(read_rgb(path).astype(int) - expected).max() <= 2


def test_sixteen_bits_keep_their_order_instead_of_being_cut_at_white(tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(1, 256)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert read_rgb(tmp_path / "a.png")[0, :, 0].tolist() == list(range(256))


def test_transparent_pixels_are_white_and_half_transparent_ones_half_white(tmp_path):
    pixels = np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 128]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = read_rgb(tmp_path / "a.png")[0].tolist()
    assert seen[:2] == [[255, 255, 255], [255, 0, 0]] and abs(seen[2][0] - 127) <= 1


def test_the_cameras_rotation_is_applied(tmp_path):
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    seen = read_rgb(tmp_path / "a.png")
    assert seen.shape == (8, 4, 3) and image_size(tmp_path / "a.png") == (8, 4)
    assert (seen[:4] == 255).all() and not seen[4:].any()


def test_resizing_is_bilinear_with_antialiasing(tmp_path):
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (8, 8))
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert np.abs(read_rgb(tmp_path / "a.png", (4, 4)).astype(int) - 127).max() < 40  # no aliased stripes
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(stripes).float()[None, None], (4, 4), mode="bilinear", antialias=True
    )
    assert read_image(tmp_path / "a.png", (4, 4))[0] * 255 == pytest.approx(expected[0, 0], abs=1)


def png(width: int, height: int) -> bytes:
    """A PNG file that promises width x height pixels and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(8))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"a.png: the file is empty \(0 bytes\)"),
        (b"hello", r"a.png: not an image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in a known format"),
        (png(30000, 30000), r"a.png: refused before decoding, .*900000000 pixels"),
        (png(8000, 8000), r"a.png: 8000x8000 pixels is more than the limit of 50,000,000"),
        (png(0, 5), r"a.png: (the image has no pixel|not an image)"),
        (png(5, 5), r"a.png: the image is corrupt or truncated"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_rgb(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff", "webp"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"a\.{suffix}"):
        read_rgb(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such image file"):
        read_rgb(tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected an image file"):
        read_rgb(tmp_path)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (7.0, r"read as \[0, 1\]")],
)
def test_float_images_that_are_no_pictures_are_refused(tmp_path, value, sentence):
    values = np.zeros((3, 3), dtype=np.float32)
    values[1, 1] = value
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=sentence):
        read_rgb(tmp_path / "a.tiff")


def test_a_smaller_mask_stays_where_it_was(tmp_path):
    """Nearest neighbour moved every mask by a quarter pixel at half the size."""
    ids = np.zeros((64, 64), dtype=np.uint8)
    row, column = np.mgrid[:64, :64]
    ids[(row - 31.5) ** 2 + (column - 31.5) ** 2 < 400] = 5
    Image.fromarray(ids).save(tmp_path / "a.png")
    inside = np.argwhere(read_ids(tmp_path / "a.png", (32, 32)) == 5)
    assert inside.mean(axis=0) == pytest.approx([15.5, 15.5], abs=0.02)
    assert len(inside) == pytest.approx(np.pi * 100, rel=0.03)


def test_part_numbers_are_never_mixed_by_resizing(tmp_path):
    ids = np.zeros((9, 9), dtype=np.uint8)
    ids[3:, 3:] = 17
    Image.fromarray(ids).save(tmp_path / "a.png")
    assert set(np.unique(read_ids(tmp_path / "a.png", (4, 4)))) == {0, 17}
    assert read_ids(tmp_path / "a.png", (18, 18)).tolist() == ids.repeat(2, 0).repeat(2, 1).tolist()
    Image.new("RGB", (3, 3)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: a mask has one 8-bit channel"):
        read_ids(tmp_path / "b.png")


@pytest.fixture
def three_files(tmp_path):
    for name, grey in (("a.png", 10), ("c.png", 30)):
        Image.new("L", (5, 5), grey).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"broken")
    return [tmp_path / name for name in ("a.png", "b.png", "c.png")]


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_bad_files_are_left_out_only_when_asked(three_files, cache):
    files = ImageFiles(three_files, (4, 4), skip_bad=True, cache=cache)
    assert files.kept == [0, 2] and len(files) == 2 and (files.pixels is None) == (cache == "none")
    assert [files[i].unique().tolist() for i in range(2)] == [[10], [30]]
    assert files.skipped[0].path.endswith("b.png") and "not an image" in files.skipped[0].reason
    with pytest.raises(ValueError, match=r"list\.csv, line 3: .*b\.png"):
        ImageFiles(three_files, (4, 4), where=[f"list.csv, line {n}" for n in (2, 3, 4)], cache=cache)[1]


def test_a_cached_image_is_not_changed_by_its_user(three_files):
    files = ImageFiles(three_files[:1], (4, 4))
    files[0].zero_()
    assert files[0].min() > 0


def test_images_are_kept_in_memory_where_they_fit_and_their_size_is_said(three_files, monkeypatch, caplog):
    paths = [three_files[0], three_files[2]]
    needed = 2 * 4 * 4 * 3
    monkeypatch.setattr("interp_cnn.data.image_files.WORTH_A_WORD", 0)
    with caplog.at_level("INFO"):
        monkeypatch.setattr("interp_cnn.data.image_files.free_memory", lambda: 10 * needed)
        cached = ImageFiles(paths, (4, 4))
        assert "2 images of 4 x 4 pixels: 1 MiB kept in memory" in caplog.text
        monkeypatch.setattr("interp_cnn.data.image_files.free_memory", lambda: 2 * needed)
        files = ImageFiles(paths, (4, 4))
        assert "decoded anew in every epoch" in caplog.text
    assert cached.pixels.shape == (2, 4, 4, 3) and files.pixels is None
    assert all((cached[index] == files[index]).all() for index in range(2))
    assert ImageFiles(paths, (4, 4), cache="memory").pixels is not None
    monkeypatch.setattr("interp_cnn.data.image_files.free_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match=r"data\.cache is memory, but 2 images .* expected none"):
        ImageFiles(paths, (4, 4), cache="memory")
    with pytest.raises(ValueError, match="cache is 'disk'; expected auto, memory or none"):
        ImageFiles(paths, (4, 4), cache="disk")


DAMAGED_EXIF = [
    b"\0\x08\0\x02\x01\x12\0\x03",
    b"",
    b"MM",
    b"II*\0\xff\xff\xff\xff",
    b"MM\0*\0\0\0\x08\xff\xff",
    bytes(40),
]


@pytest.mark.parametrize("damaged", DAMAGED_EXIF, ids=range(len(DAMAGED_EXIF)))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_damaged_metadata_of_a_sound_picture_do_not_matter(tmp_path, suffix, damaged):
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        Image.fromarray(noise).save(path)
        chunk = b"eXIf" + damaged
        content = path.read_bytes()
        checked = struct.pack(">I", len(damaged)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path.write_bytes(content[:33] + checked + content[33:])
    else:
        Image.fromarray(noise).save(path, exif=b"Exif\0\0" + damaged)
    assert read_rgb(path).shape == (9, 7, 3) and image_size(path) == (9, 7)
    if suffix == "png":
        assert (read_rgb(path) == noise).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_ending_that_counts_as_a_picture_is_read(tmp_path, suffix):
    kinds = {".jpe": "JPEG", ".jfif": "JPEG", ".dib": "BMP", ".pnm": "PPM", ".avifs": "AVIF"}
    path = tmp_path / f"a{suffix}"
    Image.new("L" if suffix in (".pgm", ".pbm") else "RGB", (7, 5), 200).save(path, format=kinds.get(suffix))
    assert read_rgb(path).shape == (5, 7, 3)


def test_wrong_options_of_file_sets_are_refused():
    with pytest.raises(ValueError, match="on_error='ignore'"):
        skips("ignore")
    with pytest.raises(ValueError, match="image_size=0"):
        square(0)


@pytest.mark.slow
def test_ten_thousand_damaged_images_are_read_or_refused_in_one_sentence(tmp_path):
    """Real encoders' files with bytes changed, cut and doubled: no other exception, no hang, no crash."""
    rng = np.random.default_rng(0)
    originals = []
    noise = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    for suffix in ("png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"):
        for mode in ("L", "RGB"):
            Image.fromarray(noise).convert(mode).save(tmp_path / f"o.{suffix}")
            originals.append((tmp_path / f"o.{suffix}").read_bytes())
    refused = 0
    path = tmp_path / "damaged"
    for trial in range(10_000):
        data = bytearray(originals[trial % len(originals)])
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(len(data)))
            # headers are short and interesting: damage them half of the time
            place = place % 40 if rng.random() < 0.5 else place
            kind = rng.integers(3)
            if kind == 0:
                data[place] = int(rng.integers(256))
            elif kind == 1 and len(data) > 20:
                del data[place : place + int(rng.integers(1, 30))]
            else:
                data[place:place] = data[place : place + int(rng.integers(1, 30))]
        path.write_bytes(bytes(data))
        try:
            pixels = read_rgb(path, (8, 8))
            assert pixels.shape == (8, 8, 3)
        except ValueError as error:
            refused += 1
            assert "damaged: " in str(error) and "\n" not in str(error)
    assert 2_000 < refused < 10_000
