"""Speech beside images, and what fusing them brings."""

import textwrap

import numpy as np
import pandas as pd
from scipy.signal import spectrogram

from edge_lib.plots.style import COLUMN, LOOKS, OTHER, PAGE, QUIET, styled, subplots


@styled
def listen_and_look(clips, images, found, captions, found_captions, ranks, rate=16000):
    """A line for each spoken query: its spectrogram, the image it should find, the one it finds.

    clips (n arrays of samples), images and found (n PIL images), and for each the rank (1 = hit) of
    the right one. The table: caption, found_caption, rank, seconds.
    """
    bare = {"subplot_kw": {"xticks": [], "yticks": [], "frame_on": False}}
    options = {"gridspec_kw": {"width_ratios": [2.2, 1, 1]}, **bare}
    figure, grid = subplots(len(clips), 3, PAGE, 1.8 * len(clips), **options)
    for line, (sound, right, wrong) in enumerate(grid):
        _spectrogram(sound, clips[line], rate)
        sound.set_xlabel(textwrap.fill(f"“{captions[line]}”", 62), fontsize=8)
        right.imshow(images[line])
        right.set_title("right, found" if ranks[line] == 1 else f"right, rank {ranks[line]:,}")
        if ranks[line] > 1:
            wrong.imshow(found[line])
            wrong.set_title("found")
            wrong.set_xlabel(textwrap.fill(found_captions[line], 28), fontsize=8)
    table = {"caption": captions, "found_caption": found_captions, "rank": ranks}
    return figure, pd.DataFrame(table).assign(seconds=[len(clip) / rate for clip in clips])


def _spectrogram(axes, clip, rate: int) -> None:
    frequencies, times, power = spectrogram(clip, rate, nperseg=512, noverlap=0)
    decibels = 10 * np.log10(power + 1e-10)
    axes.pcolormesh(times, frequencies / 1000, decibels, vmin=-80, cmap="magma", rasterized=True)
    axes.set(yticks=[0, 4, 8], ylabel="kHz", xticks=range(int(times[-1]) + 1))


@styled
def fusion_bars(recall: pd.DataFrame):
    """Mean R@1 by strategy and inputs; whiskers reach from the worst seed to the best.

    `recall` has columns strategy, inputs ("vision", "vision + audio", ...), seed, recall and rows.
    The table: strategy, inputs, mean, sd, lowest, highest, seeds.
    """
    grouped = recall.groupby(["strategy", "inputs"], sort=False)["recall"]
    table = grouped.agg(mean="mean", sd="std", lowest="min", highest="max", seeds="count")
    table = table.reset_index()
    strategies, inputs = (list(dict.fromkeys(table[name])) for name in ("strategy", "inputs"))
    figure, [[axes]] = subplots(1, 1, PAGE, 3.0)
    width = 0.8 / len(inputs)
    for number, name in enumerate(inputs):
        part = table[table["inputs"] == name]
        x = [
            strategies.index(s) + width * (number - (len(inputs) - 1) / 2) for s in part["strategy"]
        ]
        error = part["mean"] - part["lowest"], part["highest"] - part["mean"]
        error = [side.clip(lower=0) for side in error]  # one seed: nothing, but for rounding
        colour = LOOKS[name][0] if name in LOOKS else "#009E73"
        bars = axes.bar(x, part["mean"], 0.92 * width, yerr=error, color=colour, label=name)
        axes.bar_label(
            bars, [f"{100 * value:.0f}" for value in part["mean"]], padding=3, fontsize=8
        )
    axes.set_xticks(range(len(strategies)), [name.replace("_", " ") for name in strategies])
    axes.set(ylabel="R@1 (share of queries)", ylim=(0, 1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(inputs), title="query")
    sizes = " or ".join(f"{rows:,}" for rows in recall["rows"].unique())
    figure.supxlabel(
        f"gallery of {sizes}; whiskers: lowest to highest of {table['seeds'].max()} seeds"
    )
    return figure, table


@styled
def gate_weights(weights: pd.DataFrame):
    """How the gated fusion divides its trust: a box for each condition and modality.

    `weights` has columns condition, modality, row, weight. The table: condition, modality, mean,
    sd, rows.
    """
    table = weights.groupby(["condition", "modality"], sort=False)["weight"]
    table = table.agg(mean="mean", sd="std", rows="count").reset_index()
    conditions, names = (list(dict.fromkeys(table[c])) for c in ("condition", "modality"))
    figure, [[axes]] = subplots(1, 1, COLUMN, 0.9 + 0.55 * len(conditions))
    for number, name in enumerate(names):
        part = weights[weights["modality"] == name].groupby("condition")["weight"]
        y = [i + 0.36 * (number - (len(names) - 1) / 2) for i in range(len(conditions))]
        boxes = axes.boxplot(
            [part.get_group(condition) for condition in conditions],
            positions=y,
            widths=0.3,
            orientation="horizontal",
            patch_artist=True,
            showfliers=False,
            manage_ticks=False,
            medianprops={"color": "black"},
        )
        for box in boxes["boxes"]:
            box.set_facecolor(LOOKS.get(name, OTHER)[0])
        axes.plot([], [], "s", color=LOOKS.get(name, OTHER)[0], label=name)
    axes.axvline(1 / len(names), color=QUIET, ls=":")
    axes.set_yticks(range(len(conditions)), conditions)
    axes.set_xlabel("weight (mean over columns)")
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(names))
    return figure, table
