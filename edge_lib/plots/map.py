"""A map of embeddings to touch: picture, caption and sound on hover, rows on selection."""

import base64
import html
import io
from pathlib import Path

import ipywidgets
import pandas as pd
import soundfile

from edge_lib.data.audio import RATE
from edge_lib.data.table import Table
from edge_lib.plots.style import modality_style
from edge_lib.runs.progress import in_open_notebook

SIDE, SECONDS = 112, 30  # the most of a picture, in pixels, and of a clip that the browser gets
MOST_SHOWN = 24  # of the selected points
BLANK = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def explore_map(points: pd.DataFrame, table: Table, csv: Path) -> ipywidgets.VBox | None:
    """The widgets of an `EmbeddingMap`. None headless, where `plots.embedding_map` is its picture:
    the executed notebook would hold the code and the state of widgets that nobody can use.
    """
    if not in_open_notebook():
        return None
    explorer = EmbeddingMap(points, table, csv)
    return ipywidgets.VBox([explorer.hue, explorer.view, explorer.player, explorer.strip])


class EmbeddingMap:
    """A jupyter-scatter of points. Hovering one shows its picture and caption, and below the map a
    player of its sound; a lasso lists the selected points as a strip and writes them to a file.

    points: columns x, y, modality, row, id, caption, group and, optionally, label. table: holds the
    pictures and clips of `row`, decoded when they are shown. csv: the file of selected points.
    """

    def __init__(self, points: pd.DataFrame, table: Table, csv: Path):
        import jscatter  # takes a second

        self.points, self.table, self.csv = points.reset_index(drop=True), table, csv
        self.has = {name: table.has(name) for name in ("image", "audio")}
        data = self.points.assign(picture=BLANK)
        self.scatter = jscatter.Scatter("x", "y", data=data, height=520, axes=False, legend=True)
        shown = [name for name in ("modality", "label", "id", "caption") if name in data]
        self.scatter.tooltip(True, properties=shown, size="small")
        preview = {"preview_type": "image", "preview_image_height": SIDE}
        self.scatter.tooltip(preview="picture", **preview)
        hues = [name for name in ("modality", "label", "group") if name in data]
        self.hue = ipywidgets.Dropdown(options=hues, description="colour")
        self.player = ipywidgets.HTML()
        self.strip = ipywidgets.HTML("Select points with the lasso to list them here.")
        self.colour(self.hue.value)
        self.hue.observe(lambda change: self.colour(change.new), "value")
        widget = self.scatter.widget
        widget.observe(lambda change: self.hover(change.new), "hovering")
        widget.observe(lambda _: self.select(self.scatter.selection()), "selection")
        self.view = self.scatter.show()

    def colour(self, column: str) -> None:
        """Colour the points by a column; modalities as in every figure."""
        # sorted, as jupyter-scatter numbers them: its legend takes the order of this dict
        names = sorted(self.points["modality"].unique())
        styles = {name: modality_style(name)[0] for name in names}
        self.scatter.color(by=column, map=styles if column == "modality" else "auto")

    def hover(self, number: int | None) -> None:
        """Give the tooltip a point's picture, which the browser asks for a moment later, and the
        player its clip.
        """
        if number is None:
            return
        data = self.scatter.widget.data
        data.loc[data.index[number], "picture"] = self._picture(number)
        clip = self._item("audio", number)
        self.player.value = "" if clip is None else audio_player(clip)

    def select(self, numbers) -> None:
        """Write the points to the file; show the first ones."""
        chosen = self.points.iloc[list(numbers)]
        chosen.to_csv(self.csv, index=False)
        count = f"Selected: {len(chosen):,} points, all of them in {self.csv.name}"
        figures = [self._figure(number) for number in chosen.index[:MOST_SHOWN]]
        self.strip.value = (
            f"<p>{count}</p><div style='display:flex;flex-wrap:wrap'>{''.join(figures)}</div>"
        )

    def _item(self, column: str, number: int):
        """The decoded image or clip of a point's row, or None."""
        row, modality = int(self.points["row"][number]), {"image": "vision"}.get(column, column)
        return self.table.decode(modality, [row])[0] if self.has[column][row] else None

    def _picture(self, number: int) -> str:
        image = self._item("image", number)
        return BLANK if image is None else picture_uri(image)

    def _figure(self, number: int) -> str:
        point = self.points.iloc[number]
        text = html.escape(str(point["caption"] or point["id"])[:200])
        image = f"<img src='{self._picture(number)}' style='max-width:{SIDE}px' alt=''>"
        style = f"width:{SIDE}px;margin:4px;font-size:11px;line-height:1.3"
        return f"<figure style='{style}'>{image}<figcaption>{text}</figcaption></figure>"


def picture_uri(image) -> str:
    """A thumbnail of a PIL image as a data URI, which needs no server."""
    thumbnail, data = image.copy(), io.BytesIO()
    thumbnail.thumbnail((SIDE, SIDE))
    thumbnail.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def audio_player(clip) -> str:
    """An HTML player of the start of a clip (n,) at 16 kHz."""
    data = io.BytesIO()
    soundfile.write(data, clip[: SECONDS * RATE], RATE, format="WAV")
    uri = "data:audio/wav;base64," + base64.b64encode(data.getvalue()).decode()
    return f"<audio controls autoplay src='{uri}'></audio>"
