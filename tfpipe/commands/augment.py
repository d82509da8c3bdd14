"""`tfpipe augment`: pitch-shifts one file and stacks a chord of it, as the notebook does (In [7] to [9])."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tfpipe.cli.examples import add_examples
from tfpipe.errors import TfpipeError
from tfpipe.spec import FeatureSpec

HELP = "pitch-shift one file and stack a chord of it: wav files, and their spectrograms in one picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("file", metavar="FILE", help="audio file")
    parser.add_argument(
        "--semitones",
        type=float,
        default=8.0,
        metavar="N",
        help="pitch shift, in semitones (default %(default)g, as in the notebook)",
    )
    parser.add_argument(
        "--chord",
        default="major",
        metavar="NAME",
        help="chord: major, minor, notebook (0,3,5), ... (default %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="use at most this much of the file, in s (default %(default)g)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the wav files and the PNG")
    parser.add_argument("--json", action="store_true", help="print the paths as one JSON object")
    add_examples(parser, "tfpipe augment song.wav --semitones 4 --chord minor --out shifted")


def run(args: argparse.Namespace) -> int:
    """Writes NAME-shift+8.wav, NAME-chord-major.wav and NAME.png.

    Raises:
        TfpipeError: the file cannot be used, or nothing can be written.
    """
    from beam_jobs.engines import stack_audio
    from beam_jobs.variants import Variant
    from beam_jobs.vocoder import Vocoder
    from tfpipe.audio.reader import TrackReader
    from tfpipe.audio.wav import write_wav
    from tfpipe.evaluation.plots import spectrograms
    from tfpipe.features.log_mel import is_silent, log_mel

    spec = FeatureSpec()
    shifted, stacked = Variant.shift(args.semitones), Variant.chord(args.chord)
    rate = spec.sample_rate
    with TrackReader(args.file) as reader:
        count = round(min(reader.info.seconds, args.seconds) * rate)
        if count < spec.n_fft:
            shortest = spec.n_fft / rate
            raise TfpipeError(f"{args.file}: {count / rate:.3g} s is too short; give at least {shortest:.2g} s")
        original = reader.read(0, count, rate=rate)
    if is_silent(original, spec):
        raise TfpipeError(f"{args.file}: is silent (under {spec.silence_dbfs:g} dBFS); choose a file with sound")
    vocoder = Vocoder(original, rate)
    sounds = {
        variant.name: stack_audio([vocoder.copy(semitones=step) for step in variant.semitones], variant.weights)
        for variant in (shifted, stacked)
    }
    folder, stem = Path(args.out), Path(args.file).stem
    paths = {name: folder / f"{stem}-{name.replace(':', '-')}.wav" for name in sounds}
    for name, audio in sounds.items():
        write_wav(paths[name], audio, rate)
    panels = [(name, log_mel(audio, spec).mel) for name, audio in {"original": original, **sounds}.items()]
    spectrograms(folder / f"{stem}.png", panels, spec)
    written = [*map(str, paths.values()), str(folder / f"{stem}.png")]
    print(json.dumps({"files": written}) if args.json else "\n".join(written))
    return 0
