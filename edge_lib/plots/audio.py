"""Figures of audio: spoken queries beside the images they retrieve."""

import numpy as np
import pandas as pd
from scipy.signal import spectrogram

from edge_lib.plots.style import (
    BARE_AXES,
    PAGE,
    draw_item,
    listed,
    notice,
    styled,
    subplots,
    wrapped,
)

WINDOW = 512  # samples


@styled
def audio_retrieval(clips, images, retrieved, captions, retrieved_captions, ranks, rate=16000):
    """A row for each spoken query: its spectrogram, the right image, and the retrieved one.

    clips: n arrays of samples; images, retrieved: n PIL images, or texts in their place; ranks: of
    the right image, from 1; rate in Hz. The table: caption, retrieved_caption, rank, seconds.
    """
    table = {"caption": captions, "retrieved_caption": retrieved_captions, "rank": ranks}
    table = pd.DataFrame(table).assign(seconds=[len(clip) / rate for clip in clips])
    if table.empty:
        return notice("No spoken query with an image."), table
    alt = f"Spectrograms of {len(clips)} spoken queries beside their right and retrieved images; "
    alt += f"the right image has rank {listed(ranks)}."
    options = {"gridspec_kw": {"width_ratios": [2.2, 1, 1]}, "subplot_kw": BARE_AXES}
    figure, grid = subplots(alt, len(clips), 3, PAGE, 1.8 * len(clips), **options)
    for row, (sound, right, wrong) in enumerate(grid):
        _spectrogram(sound, clips[row], rate)
        sound.set_xlabel(wrapped(f"“{captions[row]}”", 62), fontsize=8)
        draw_item(right, images[row])
        right.set_title("right, retrieved" if ranks[row] == 1 else f"right, rank {ranks[row]:,}")
        if ranks[row] > 1:
            draw_item(wrong, retrieved[row])
            wrong.set_title("retrieved")
            wrong.set_xlabel(wrapped(retrieved_captions[row], 28), fontsize=8)
    return figure, table


def _spectrogram(axes, clip, rate: int) -> None:
    samples = np.pad(clip, (0, max(0, WINDOW - len(clip))))
    frequencies, times, power = spectrogram(samples, rate, nperseg=WINDOW, noverlap=0)
    decibels = 10 * np.log10(power + 1e-10)
    colours = {"vmin": -80, "vmax": max(-79, decibels.max()), "cmap": "magma"}  # silence is -100
    axes.pcolormesh(times, frequencies / 1000, decibels, **colours, rasterized=True)
    seconds = range(0, int(times[-1]) + 1, 1 + int(times[-1]) // 20)
    axes.set(yticks=[0, 4, 8], ylabel="kHz", xticks=seconds)
