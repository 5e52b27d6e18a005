"""One look for all figures: widths, palette, and a figure that shows itself once.

A modality has one colour, marker and dash everywhere; "vision → text" has its colour from vision,
its marker and dash from text. Palette: Okabe & Ito (2008), safe for the colour-blind; no letter is
under 8 pt. Figures live outside pyplot and leave its settings alone.
"""

import io

import matplotlib as mpl
import seaborn as sns
from IPython.core.pylabtools import print_figure
from PIL import Image

COLUMN, PAGE = 3.5, 7.0  # inches: the widths of a column and a page of a two-column paper
LOOKS = {  # colour, marker, dash
    "vision": ("#0072B2", "o", "--"),
    "text": ("#D55E00", "^", "-"),
    "audio": ("#CC79A7", "s", "-."),
}
OTHER = ("#56B4E9", "D", (0, (1, 1)))  # a modality that is not among these
HIT, QUIET = "#009E73", "0.45"
STYLE = {
    **sns.axes_style("ticks", {"axes.spines.top": False, "axes.spines.right": False}),
    **sns.plotting_context("paper", font_scale=0.92),  # 8.1 and 8.8 pt
    **{"legend.frameon": False, "figure.dpi": 96, "figure.labelsize": 8},
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
}
styled = mpl.rc_context(STYLE)


class Figure(mpl.figure.Figure):
    """Shows itself once in a notebook, whatever the backend: pyplot does not know of it."""

    @styled
    def draw(self, renderer) -> None:
        super().draw(renderer)  # makes ticks, which take their style from the settings of now

    def _repr_png_(self) -> bytes:
        """Without the alpha channel, which makes a notebook a sixth larger."""
        picture, small = Image.open(io.BytesIO(print_figure(self))), io.BytesIO()
        picture.convert("RGB").save(small, "PNG", optimize=True)
        return small.getvalue()


def subplots(rows: int, columns: int, width: float, height: float, **options):
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def direction(query: str, gallery: str) -> dict:
    (colour, _, _), (_, marker, dash) = LOOKS.get(query, OTHER), LOOKS.get(gallery, OTHER)
    return {"color": colour, "marker": marker, "ls": dash, "label": f"{query} → {gallery}"}
