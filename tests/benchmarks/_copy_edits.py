"""Edits beyond those of ``copy_detection``, each a function of a picture, other pictures and a generator.

Written apart from the training's own (``training.copies.augment``), with Pillow and not OpenCV, so that a descriptor is
not scored on the very code that it was trained with.
"""

import io
import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Others = Sequence[Image.Image]  # pictures that are no reference: backgrounds, neighbours in a collage
Edit = Callable[[Image.Image, Others, np.random.Generator], Image.Image]
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
WORDS = ("when", "you", "see", "it", "again", "but", "with", "more", "text", "NEWS", "2 hours ago", "share", "100 %")


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator that names decide, so that one more edit or picture changes no other."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def rotate(degrees: float) -> Edit:
    """Turned within a canvas that holds all of it, on a plain colour."""

    def edit(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
        return image.rotate(degrees, BICUBIC, expand=True, fillcolor=_colour(rng))

    return edit


def perspective(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """Each corner moved inwards by up to a fifth of the side."""
    width, height = image.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    towards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    moved = corners + towards * rng.uniform(0, 0.2, (4, 2)) * (width, height)
    rows = []
    for (x, y), (u, v) in zip(moved, corners, strict=True):  # Pillow maps places of the result to those of the source
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    matrix = np.linalg.solve(np.array(rows), corners.ravel())
    return image.transform(image.size, Image.Transform.PERSPECTIVE, matrix.tolist(), BICUBIC, fillcolor=_colour(rng))


def frame(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """A plain border of 5 to 20 % of the short side, and within it often a line."""
    width = round(min(image.size) * rng.uniform(0.05, 0.2))
    if rng.random() < 0.5:
        image = ImageOps.expand(image, max(1, width // 8), _colour(rng))
    return ImageOps.expand(image, width, _colour(rng))


def letterbox(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """Black bars on two sides, or a blurred copy of itself behind it, to a square or 9:16."""
    width, height = image.size
    side = max(image.size)
    size = (side, side) if rng.random() < 0.5 else (width, round(width * 16 / 9))
    size = (max(size[0], width), max(size[1], height))
    page = Image.new("RGB", size)
    if rng.random() < 0.5:
        page = ImageOps.fit(image, size).filter(ImageFilter.GaussianBlur(side / 20))
    page.paste(image, ((size[0] - width) // 2, (size[1] - height) // 2))
    return page


def crop(area: float) -> Edit:
    """A part with this share of the area, anywhere, of about the picture's shape."""

    def edit(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
        stretch = math.exp(rng.uniform(-0.2, 0.2))
        width = min(image.width, round(image.width * math.sqrt(area) * stretch))
        height = min(image.height, round(image.height * math.sqrt(area) / stretch))
        left, top = (int(rng.integers(room + 1)) for room in (image.width - width, image.height - height))
        return image.crop((left, top, left + width, top + height))

    return edit


def negative(image: Image.Image, _others: Others, _rng: np.random.Generator) -> Image.Image:
    """Colours turned round."""
    return ImageOps.invert(image)


def vflip(image: Image.Image, _others: Others, _rng: np.random.Generator) -> Image.Image:
    """Upside down."""
    return ImageOps.flip(image)


def grey(image: Image.Image, _others: Others, _rng: np.random.Generator) -> Image.Image:
    """Without colour."""
    return ImageOps.grayscale(image).convert("RGB")


def posterise(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """Two bits a channel, or in two tints between a dark and a light one."""
    if rng.random() < 0.5:
        return ImageOps.posterize(image, 2)
    dark, light = rng.integers(0, 80, 3), rng.integers(170, 256, 3)
    return ImageOps.colorize(ImageOps.grayscale(image), tuple(dark.tolist()), tuple(light.tolist()))


def hue(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """All hues turned by a quarter to three quarters of the circle."""
    tint, saturation, value = image.convert("HSV").split()
    turn = int(rng.integers(64, 192))
    tint = tint.point([(v + turn) % 256 for v in range(256)])
    return Image.merge("HSV", (tint, saturation, value)).convert("RGB")


def noise(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """Gaussian noise of 40 of 255, and one pixel in fifty black or white."""
    pixels = np.asarray(image, np.float32) + rng.normal(0, 40, (image.height, image.width, 3))
    specks = rng.random((image.height, image.width))
    pixels[specks < 0.01], pixels[specks > 0.99] = 0, 255
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def blur(image: Image.Image, _others: Others, _rng: np.random.Generator) -> Image.Image:
    """A Gaussian of 2.5 % of the short side: only large shapes are left."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) * 0.025))


def thumbnail(image: Image.Image, _others: Others, _rng: np.random.Generator) -> Image.Image:
    """48 pixels on the short side, JPEG of quality 30."""
    scale = 48 / min(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), BILINEAR)
    return _jpeg(small, 30)


def squash(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """One side 1.6 to 2 times as long in proportion."""
    factor = rng.uniform(1.6, 2)
    return image.resize(
        (round(image.width * factor), image.height)
        if rng.random() < 0.5
        else (image.width, round(image.height * factor)),
        BILINEAR,
    )


def overlay(share: float) -> Edit:
    """On this share of another picture's area, with its own shape."""

    def edit(image: Image.Image, others: Others, rng: np.random.Generator) -> Image.Image:
        page = _other(others, rng).resize((400, 400 if rng.random() < 0.5 else 300), BILINEAR)
        scale = math.sqrt(share * page.width * page.height / (image.width * image.height))
        scale = min(scale, page.width / image.width, page.height / image.height)
        small = image.resize((round(image.width * scale), round(image.height * scale)), BILINEAR)
        left, top = (int(rng.integers(room + 1)) for room in (page.width - small.width, page.height - small.height))
        page.paste(small, (left, top))
        return page

    return edit


def blend(image: Image.Image, others: Others, rng: np.random.Generator) -> Image.Image:
    """Another picture shines through, by 35 to 50 %."""
    return Image.blend(image, _other(others, rng).resize(image.size, BILINEAR), rng.uniform(0.35, 0.5))


def collage(columns: int, rows: int) -> Edit:
    """One tile of a grid whose others are other pictures."""

    def edit(image: Image.Image, others: Others, rng: np.random.Generator) -> Image.Image:
        page = Image.new("RGB", (columns * 200, rows * 200), _colour(rng))
        gap, place = int(rng.integers(0, 8)), int(rng.integers(columns * rows))
        for i in range(columns * rows):
            tile = ImageOps.fit(image if i == place else _other(others, rng), (200 - gap, 200 - gap), BILINEAR)
            page.paste(tile, (i % columns * 200, i // columns * 200))
        return page

    return edit


def meme(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """Bars of a third of the height in all, above and below, with large words; or the words on the picture."""
    bar = round(image.height * 0.17)
    if rng.random() < 0.5:
        page = Image.new("RGB", (image.width, image.height + 2 * bar), _black_or_white(rng))
        page.paste(image, (0, bar))
    else:
        page = image.copy()
    for middle in (bar // 2, page.height - bar // 2):
        _write(page, (page.width // 2, middle), bar * 0.6, rng, anchor="mm", outlined=True)
    return page


def text(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """Four lines of words across the picture."""
    page = image.copy()
    for line in range(4):
        y = round(page.height * (line + 0.5) / 4)
        _write(page, (page.width // 2, y), page.height * rng.uniform(0.08, 0.18), rng, anchor="mm")
    return page


def watermark(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """The same words all over it, half transparent."""
    layer = Image.new("L", image.size)
    draw, font = ImageDraw.Draw(layer), ImageFont.load_default(max(12, image.width / 12))
    words = _words(rng, 2)
    for y in range(0, image.height, max(20, image.height // 6)):
        for x in range(-(y % 60), image.width, max(40, round(draw.textlength(words, font) * 1.3))):
            draw.text((x, y), words, 120, font)
    return Image.composite(Image.new("RGB", image.size, "white"), image, layer.rotate(20))


def stickers(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """Five filled shapes, a quarter of the picture hidden at most."""
    page = image.copy()
    draw, side = ImageDraw.Draw(page), min(image.size)
    for _ in range(5):
        radius = side * rng.uniform(0.06, 0.13)
        x, y = rng.uniform(0, image.width), rng.uniform(0, image.height)
        shape = draw.ellipse if rng.random() < 0.6 else draw.rectangle
        shape((x - radius, y - radius, x + radius, y + radius), fill=_colour(rng), outline="black")
        if rng.random() < 0.5:  # a face
            for eye in (-0.4, 0.4):
                draw.ellipse(
                    (x + eye * radius - 2, y - 0.3 * radius - 2, x + eye * radius + 2, y - 0.3 * radius + 2), "black"
                )
            draw.arc((x - radius / 2, y - radius / 2, x + radius / 2, y + radius / 2), 20, 160, "black", 2)
    return page


def screenshot(image: Image.Image, _others: Others, rng: np.random.Generator) -> Image.Image:
    """A telephone's screen: a status bar, a name, the picture over the whole width, lines of text below."""
    dark = rng.random() < 0.5
    width = 360
    small = image.resize((width, round(image.height * width / image.width)), BILINEAR)
    head, foot = int(rng.integers(60, 120)), int(rng.integers(60, 220))
    page = Image.new("RGB", (width, head + small.height + foot), "#111111" if dark else "#fafafa")
    page.paste(small, (0, head))
    draw, ink = ImageDraw.Draw(page), "#eeeeee" if dark else "#222222"
    draw.text((12, 6), "9:41", ink, ImageFont.load_default(13))
    draw.rectangle((width - 40, 8, width - 16, 18), outline=ink)
    draw.ellipse((12, head - 40, 42, head - 10), fill=_colour(rng))
    draw.text((52, head - 34), _words(rng, 2), ink, ImageFont.load_default(14))
    for y in range(head + small.height + 12, page.height - 14, 22):
        draw.text((12, y), _words(rng, int(rng.integers(3, 8))), ink, ImageFont.load_default(13))
    return page


def several(image: Image.Image, others: Others, rng: np.random.Generator) -> Image.Image:
    """What goes round: half of it, mirrored, brighter or darker, with text, small, JPEG of quality 25."""
    page = crop(0.5)(image, others, rng)
    if rng.random() < 0.5:
        page = ImageOps.mirror(page)
    page = ImageEnhance.Brightness(page).enhance(rng.uniform(0.6, 1.4))
    page = meme(page, others, rng)
    scale = 160 / min(page.size)
    return _jpeg(page.resize((round(page.width * scale), round(page.height * scale)), BILINEAR), 25)


EDITS: dict[str, Edit] = {
    "rotate15": rotate(-15),
    "rotate45": rotate(45),
    "rotate90": rotate(90),
    "rotate180": rotate(180),
    "perspective": perspective,
    "frame": frame,
    "letterbox": letterbox,
    "crop30": crop(0.3),
    "crop20": crop(0.2),
    "crop10": crop(0.1),
    "negative": negative,
    "vflip": vflip,
    "grey": grey,
    "posterise": posterise,
    "hue": hue,
    "noise": noise,
    "blur": blur,
    "thumbnail": thumbnail,
    "squash": squash,
    "overlay50": overlay(0.5),
    "overlay25": overlay(0.25),
    "blend": blend,
    "collage2": collage(2, 1),
    "collage4": collage(2, 2),
    "meme": meme,
    "text": text,
    "watermark": watermark,
    "stickers": stickers,
    "screenshot": screenshot,
    "several": several,
}


def edited(name: str, image: Image.Image, others: Others, rng: np.random.Generator) -> bytes:
    """JPEG of quality 85 of the picture under the edit ``name``."""
    file = io.BytesIO()
    EDITS[name](image.convert("RGB"), others, rng).save(file, "JPEG", quality=85)
    return file.getvalue()


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _other(others: Others, rng: np.random.Generator) -> Image.Image:
    return others[int(rng.integers(len(others)))]


def _write(
    page: Image.Image,
    place: tuple[int, int],
    size: float,
    rng: np.random.Generator,
    anchor: str,
    outlined: bool = False,
) -> None:
    font = ImageFont.load_default(max(10.0, size))
    colour = "white" if outlined else _colour(rng)
    ImageDraw.Draw(page).text(
        place, _words(rng, 3), colour, font, anchor, stroke_width=2 if outlined else 0, stroke_fill="black"
    )


def _words(rng: np.random.Generator, num: int) -> str:
    return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=num))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return (red, green, blue) if rng.random() < 0.5 else _black_or_white(rng)


def _black_or_white(rng: np.random.Generator) -> tuple[int, int, int]:
    return (0, 0, 0) if rng.random() < 0.5 else (255, 255, 255)
