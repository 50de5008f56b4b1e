"""A font whose letters are all the same box, and a browser that has no other font.

Pictures of pages are compared between machines.  Fonts differ from machine to machine: another
distribution, another release, another anti-aliasing, and every line breaks elsewhere.  So the
browser of these tests is started with a fontconfig file that knows one font, which is made here:
every character is a box 0.6 em wide.  What is left of a page is its layout, its sizes and its
colours, which is what the pictures are there to keep.
"""

from pathlib import Path
from typing import Final

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

NAME: Final = "Blocks"
_EM: Final = 1000
_WIDTH: Final = 600
_ASCENT, _DESCENT = 800, 200
_BLANK: Final = {0x20, 0xA0, 0x2009, 0x202F}
_CHARACTERS: Final = range(0x20, 0x3000)


def write_font(file: Path, bold: bool) -> None:
    """One face of it, as TrueType; the boxes of the bold one are higher, not wider."""
    builder = FontBuilder(_EM, isTTF=True)
    builder.updateHead(macStyle=int(bold))
    builder.setupGlyphOrder([".notdef", "blank", "box"])
    builder.setupCharacterMap({c: "blank" if c in _BLANK else "box" for c in _CHARACTERS})
    empty = TTGlyphPen(None).glyph()
    box = _box(700 if bold else 550)
    builder.setupGlyf({".notdef": empty, "blank": empty, "box": box})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "blank", "box"), (_WIDTH, 0)))
    builder.setupHorizontalHeader(ascent=_ASCENT, descent=-_DESCENT)
    style = "Bold" if bold else "Regular"
    builder.setupNameTable({"familyName": NAME, "styleName": style})
    builder.setupOS2(
        sTypoAscender=_ASCENT,
        sTypoDescender=-_DESCENT,
        usWinAscent=_ASCENT,
        usWinDescent=_DESCENT,
        usWeightClass=700 if bold else 400,
        fsSelection=0x20 if bold else 0x40,
    )
    builder.setupPost(isFixedPitch=1)
    builder.save(file)


def _box(height: int) -> object:
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for corner in ((50, height), (_WIDTH - 50, height), (_WIDTH - 50, 0)):
        pen.lineTo(corner)
    pen.closePath()
    return pen.glyph()


def only_font(folder: Path) -> dict[str, str]:
    """Make the font in a folder; environment variables for a browser that sees no other."""
    fonts = folder / "fonts"
    fonts.mkdir()
    for bold in (False, True):
        write_font(fonts / f"blocks-{bold}.ttf", bold)
    configuration = folder / "fonts.conf"
    configuration.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        f"<dir>{fonts}</dir><cachedir>{folder / 'cache'}</cachedir></fontconfig>",
        encoding="utf-8",
    )
    return {"FONTCONFIG_FILE": str(configuration)}
