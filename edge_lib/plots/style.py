"""Shared style of all figures: widths, palette, and a figure class with alt text for notebooks.

A modality has the same colour, marker and dash in every figure; the line "vision → text" takes its
colour from vision, its marker and dash from text. The palette is Okabe & Ito's (2008), safe for
colour-blind readers; no text is under 8 pt. Figures do not use pyplot or change its settings.
"""

import io
import textwrap
from collections.abc import Iterable
from itertools import cycle, islice

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.transforms import Bbox
from PIL import Image

COLUMN, PAGE = 3.5, 7.0  # inches: the widths of a column and a page of a two-column paper
MODALITY_STYLES = {  # colour, marker, dash
    "vision": ("#0072B2", "o", "--"),
    "text": ("#D55E00", "^", "-"),
    "audio": ("#CC79A7", "s", "-."),
}
OTHER_MODALITY = ("#56B4E9", "D", (0, (1, 1)))
VARIANT_STYLES = (  # distinct markers and dashes, so that lines are distinct without colour too
    ("#0072B2", "o", "-"),
    ("#D55E00", "^", "--"),
    ("#009E73", "s", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", (0, (4, 1, 1, 1))),
    ("#56B4E9", "P", (0, (1, 1))),
    ("0.35", "X", "-"),
)
HIT_COLOUR, GREY = "#009E73", "0.45"
STYLE = {
    **sns.axes_style("ticks", {"axes.spines.top": False, "axes.spines.right": False}),
    **sns.plotting_context("paper", font_scale=0.92),  # 8.1 and 8.8 pt
    # inline pixels per inch: a PAGE is 896 pixels wide, about the text column of a notebook
    **{"legend.frameon": False, "figure.dpi": 128, "figure.labelsize": 8},
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "text.parse_math": False,  # a caption with two $ is no formula
}
BARE_AXES = {"xticks": [], "yticks": [], "frame_on": False}  # around images
SEED_SPREAD = {"mean": "mean", "sd": "std", "lowest": "min", "highest": "max", "seeds": "count"}
styled = mpl.rc_context(STYLE)


class Figure(mpl.figure.Figure):
    """A figure with alt text. A notebook shows it once, at full width and twice the pixel density.

    alt: one sentence on what the figure shows. It is the output's plain text, and the `alt` of its
    image/png metadata, which nbconvert's classic template uses (JupyterLab 4 ignores it).
    """

    alt = ""

    @styled
    def draw(self, renderer) -> None:
        super().draw(renderer)  # creates ticks, which take their style from the current settings

    def _ipython_display_(self) -> None:
        """Unlike the `_repr_*_` methods, this has priority over the formatters of the backend."""
        picture, data = Image.open(io.BytesIO(self._png())), io.BytesIO()
        # a palette of 256 colours makes the notebook three times smaller
        picture.convert("RGB").quantize(256).save(data, "PNG", optimize=True)
        bundle = {"image/png": data.getvalue(), "text/plain": self.alt}
        metadata = {"image/png": {"alt": self.alt, "width": picture.width // 2}}
        display(bundle, metadata=metadata, raw=True)

    def _png(self) -> bytes:
        """Twice the pixel density; blank margins are cropped above and below, not at the sides."""
        self.draw_without_rendering()
        drawn, data = self.get_tightbbox().padded(0, 0.05), io.BytesIO()
        full_width = Bbox([[0, drawn.y0], [self.get_figwidth(), drawn.y1]])
        self.savefig(data, dpi=2 * self.dpi, bbox_inches=Bbox.union([drawn, full_width]))
        return data.getvalue()


def subplots(
    alt: str, rows: int, columns: int, width: float, height: float, **options
) -> tuple[Figure, np.ndarray]:
    """A figure with alt text and its axes (rows, columns); width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.alt = alt
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def notice(text: str) -> Figure:
    """A figure that has nothing to show but a sentence, which says why."""
    figure, [[axes]] = subplots(text, 1, 1, PAGE, 0.6, subplot_kw=BARE_AXES)
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    return figure


def draw_item(axes, item: Image.Image | str) -> None:
    """An image, or a text in its place."""
    if isinstance(item, str):
        middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, wrapped(item, 14, 6), fontsize=8, **middle)
    else:
        axes.imshow(item)


def modality_style(name: str) -> tuple:
    """(colour, marker, dash)"""
    return MODALITY_STYLES.get(name, OTHER_MODALITY)


def direction_style(query: str, gallery: str) -> dict:
    """Line settings of a retrieval direction."""
    (colour, _, _), (_, marker, dash) = modality_style(query), modality_style(gallery)
    return {"color": colour, "marker": marker, "ls": dash, "label": f"{query} → {gallery}"}


def variant_styles(names: Iterable[str]) -> Iterable[tuple[str, tuple]]:
    """(name, (colour, marker, dash)) of each variant; styles repeat after seven."""
    return zip(names, cycle(VARIANT_STYLES), strict=False)


def whiskers(centre: pd.Series, low: pd.Series, high: pd.Series) -> list[pd.Series]:
    """Error bars from low to high, as matplotlib takes them.

    Clipped at 0: rounding can put the mean of a single seed just outside its own range.
    """
    return [(centre - low).clip(lower=0), (high - centre).clip(lower=0)]


class LogFormatter(mpl.ticker.LogFormatter):
    """Plain numbers on a logarithmic axis; matplotlib's own are formulas, which are off."""

    def __call__(self, x, pos=None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def plain_logs(axes) -> None:
    """Plain numbers on each logarithmic axis."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(LogFormatter())
            axis.set_minor_formatter(LogFormatter())


def wrapped(text: str, width: int, lines: int = 8) -> str:
    """A text of the data in lines of `width`, without characters that cannot be drawn. Its own
    lines stay; of each and of their number, `lines` are kept.
    """
    parts = ("".join(c if c.isprintable() else " " for c in x) for x in str(text).splitlines())
    options = {"max_lines": lines, "placeholder": " …"}
    filled = filter(
        None, (textwrap.fill(part[: width * lines * 2], width, **options) for part in parts)
    )
    return "\n".join(islice(filled, lines))


def listed(values: Iterable) -> str:
    """Values for an alt text: "16, 64 and 384"."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last
