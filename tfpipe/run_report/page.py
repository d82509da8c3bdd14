"""Writes the report's HTML. Does not load TensorFlow.

The page holds everything it needs. Its policy forbids all else, so a browser loads nothing from anywhere.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

from tfpipe.evaluation.table import table
from tfpipe.run_report.clips import clip
from tfpipe.run_report.contents import Contents, MappedWindow, Sound
from tfpipe.run_report.curves import curves
from tfpipe.run_report.pictures import DIFFERENCE_DB, difference, scale, spectrogram
from tfpipe.spec import FeatureSpec

_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
# The map's size in units of its SVG, and its empty edge.
_MAP_WIDTH, _MAP_HEIGHT, _EDGE = 800, 480, 16
# Colours for labels; more labels share the last one.
_COLOURS = 8
_MOST_SKIPPED = 200

text = html.escape


def page(contents: Contents, *, title: str) -> str:
    """Returns the whole page.

    Args:
        contents: what to show; a section that has nothing is left out.
        title: such as the name of the run.
    """
    made = [(name, body) for name, write in _SECTIONS.items() if (body := write(contents))]
    links = "".join(f'<li><a href="#{_id(name)}">{name}</a></li>' for name, _ in made)
    sections = "".join(f'<section id="{_id(name)}"><h2>{name}</h2>{body}</section>' for name, body in made)
    data, run = contents.evaluation, contents.settings
    about = f"{data['windows']} {data['split']} windows, preset {run['preset']}, labels {', '.join(contents.labels)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}: tfpipe report</title><style>{_file('page.css')}</style></head><body><main>"
        f'<h1>{text(title)}</h1><p class="soft">{text(about)}</p>'
        f'<p class="verdict">{text(data["verdict"]["text"])}</p><nav aria-label="Sections"><ul>{links}</ul></nav>'
        f"{sections}</main><script>{_file('page.js')}</script></body></html>\n"
    )


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")


def _file(name: str) -> str:
    return resources.files("tfpipe.run_report").joinpath(name).read_text(encoding="utf-8")


def _figure(picture: str, caption: str, sound: str = "", *, heard: str = "") -> str:
    player = (
        f'<audio controls preload="none" src="{sound}" aria-label="{text(heard or caption)}"></audio>' if sound else ""
    )
    return f"<figure><figcaption>{text(caption)}</figcaption>{picture}{player}</figure>"


def _sound(sound: Sound, spec: FeatureSpec, *, of: str = "") -> str:
    """Returns the picture of a sound with its player."""
    about = f"{of}: {sound.title}" if of else sound.title
    picture = spectrogram(sound.mel, spec, about=f"spectrogram, {about}")
    return _figure(picture, sound.title, clip(sound.audio, spec.sample_rate), heard=about)


def _row(parts: Sequence[str]) -> str:
    return f'<div class="row">{"".join(parts)}</div>'


def _levels(spec: FeatureSpec) -> str:
    return scale("magma", f"-{spec.top_db:g} dB", "0 dB, the window's maximum")


def _reconstructions(contents: Contents) -> str:
    if not contents.pairs:
        return ""
    spec = contents.spec
    origin = (
        "The original is the recording itself. "
        if contents.from_recordings
        else "Some recordings cannot be read any more; their originals are made from the stored spectrogram. "
    )
    parts = [
        f"<p>{origin}The reconstruction went through the model and came back. The third picture shows what was added "
        f"(red) or lost (blue).</p>{_levels(spec)}"
        f"{scale('RdBu_r', f'-{DIFFERENCE_DB:g} dB or less', f'+{DIFFERENCE_DB:g} dB or more')}"
    ]
    for pair in contents.pairs:
        changed = difference(pair.original.mel, pair.rebuilt.mel, spec)
        cells = [
            _sound(pair.original, spec, of=pair.name),
            _sound(pair.rebuilt, spec, of=pair.name),
            _figure(changed, f"difference, mean squared error {pair.mse:.5f}"),
        ]
        parts.append(f"<h3>{text(pair.label)}: {text(pair.name)} ({pair.split})</h3>{_row(cells)}")
    return "".join(parts)


def _rows_of_sounds(rows: Mapping[str, Sequence[Sound]], spec: FeatureSpec, intro: str) -> str:
    if not rows:
        return ""
    parts = [f"<p>{intro}</p>{_levels(spec)}"]
    for name, sounds in rows.items():
        parts.append(f"<h3>{text(name)}</h3>{_row([_sound(sound, spec, of=name) for sound in sounds])}")
    return "".join(parts)


def _draws(contents: Contents) -> str:
    intro = "New windows that the model made up. The same seed always gives the same sound."
    return _rows_of_sounds(contents.draws, contents.spec, intro)


def _variants(contents: Contents) -> str:
    intro = (
        "The job makes these variants of each training window. A shift is in semitones; a chord stacks shifted copies. "
        "The sounds are made from the stored spectrograms."
    )
    return _rows_of_sounds(contents.variants, contents.spec, intro)


def _channels(contents: Contents) -> str:
    intro = (
        "Each row moves one channel of the latent in all steps, by twice its usual deviation. These are the channels "
        "that change this window most."
    )
    return _rows_of_sounds(contents.channels, contents.spec, intro)


def _between(contents: Contents) -> str:
    if not contents.between:
        return ""
    cells = [_sound(sound, contents.spec) for sound in contents.between]
    return f"<p>The way from one recording to another one through the latent.</p>{_levels(contents.spec)}{_row(cells)}"


def _curves(contents: Contents) -> str:
    figures = [
        curves(rows, {name: "training", f"val_{name}": "held out"}, x=x, title=title)
        for rows, name, x, title in (
            (contents.history, "mse", "epoch", "Reconstruction error"),
            (contents.history, "loss", "epoch", "Loss of the autoencoder"),
            (contents.history, "kl", "epoch", "KL, nats a window"),
            (contents.prior_history, "loss", "step", "Loss of the prior"),
        )
    ]
    found = [figure for figure in figures if figure]
    return _row(found) if found else ""


def _map(contents: Contents) -> str:
    if not contents.mapped:
        return ""
    points = "".join(_point(window, contents.labels) for window in contents.mapped)
    windows = [
        {"name": f"{window.name}: {contents.labels[window.label]}, {window.split}, error {window.mse:.5f}",
         "sound": clip(window.audio, contents.spec.sample_rate, small=True)}
        for window in contents.mapped
    ]  # fmt: skip
    data = json.dumps(windows, ensure_ascii=True).replace("<", "\\u003c")
    used = sorted({window.label for window in contents.mapped})
    legend = "".join(f'<span class="k{_colour(label)}">{text(contents.labels[label])}</span>' for label in used)
    return (
        "<p>Each point is a window; windows with similar latents lie near each other. Full points were trained on, "
        "rings were held out. Click a point to hear it, or move with the arrow keys and press Enter.</p>"
        f'<figure id="map"><svg viewBox="0 0 {_MAP_WIDTH} {_MAP_HEIGHT}" role="group" '
        f'aria-label="map of {len(windows)} windows">{points}</svg><p class="legend">{legend}</p>'
        '<p id="map-name" aria-live="polite"></p><audio id="map-player" controls preload="none" '
        f'aria-label="the chosen window"></audio></figure><script type="application/json" id="windows">{data}</script>'
    )


def _colour(label: int) -> int:
    return min(label, _COLOURS - 1)


def _point(window: MappedWindow, labels: Sequence[str]) -> str:
    x = _EDGE + window.x * (_MAP_WIDTH - 2 * _EDGE)
    y = _EDGE + (1.0 - window.y) * (_MAP_HEIGHT - 2 * _EDGE)
    held_out = "" if window.split == "train" else " held-out"
    name = f"{window.name}, {labels[window.label]}, {window.split}"
    return (
        f'<circle class="k{_colour(window.label)}{held_out}" cx="{x:.1f}" cy="{y:.1f}" r="8" tabindex="-1" '
        f'role="button" aria-label="{text(name)}"/>'
    )


def _figures(contents: Contents) -> str:
    return f'<pre tabindex="0" aria-label="figures of tfpipe evaluate">{text(table(contents.evaluation))}</pre>'


def _worst(contents: Contents) -> str:
    if not contents.worst:
        return ""
    rows = [(track.path, track.label, track.split, str(track.windows), f"{track.mse:.5f}") for track in contents.worst]
    return _table(("recording", "label", "split", "windows", "mean squared error"), rows, numbers=2)


def _skipped(contents: Contents) -> str:
    if not contents.skipped:
        return "<p>Every file was used.</p>"
    rows = [(row.path, row.code, row.message) for row in contents.skipped[:_MOST_SKIPPED]]
    left = len(contents.skipped) - len(rows)
    more = f"<p>{left} more are in skipped.jsonl of the dataset.</p>" if left else ""
    return _table(("file", "reason", "in words"), rows) + more


def _settings(contents: Contents) -> str:
    settings = [(name, json.dumps(value, ensure_ascii=False)) for name, value in sorted(contents.settings.items())]
    versions = list(contents.versions.items())
    return (
        f"<details><summary>Settings of the run</summary>{_table(('setting', 'value'), settings)}</details>"
        f"<details><summary>Versions</summary>{_table(('package', 'version'), versions)}</details>"
    )


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """Returns a table; the last `numbers` columns are numbers."""
    first = len(names) - numbers

    def cells(kind: str, values: Sequence[str]) -> str:
        classes = ["" if place < first else ' class="number"' for place in range(len(values))]
        return "".join(f"<{kind}{c}>{text(v)}</{kind}>" for c, v in zip(classes, values, strict=True))

    head, body = cells("th", names), "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scrolls"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_SECTIONS: dict[str, Callable[[Contents], str]] = {
    "Reconstructions": _reconstructions,
    "Draws": _draws,
    "Map": _map,
    "From one to another": _between,
    "Latent channels": _channels,
    "Variants": _variants,
    "Training": _curves,
    "Figures": _figures,
    "Worst recordings": _worst,
    "Skipped files": _skipped,
    "Settings": _settings,
}
