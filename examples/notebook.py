"""Repeats the original notebook, cell by cell, with this package: spectrograms, variants, a small VAE, new sound.

Run it as a script, or open it as a notebook in an editor that knows `# %%` cells (VS Code, PyCharm, Spyder, or
Jupyter with jupytext). Each subfolder of the recordings is a label, such as recordings/Piano/*.wav:

    python examples/notebook.py --recordings recordings --out notebook-out

In a notebook, change the two defaults below instead. Figures (PNG) and sounds (WAV) are written to the output folder.
"""

# %% Settings
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import librosa
import numpy as np
from librosa.display import specshow
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

import tfpipe as tp

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--recordings", type=Path, default=Path("recordings"), metavar="DIR", help="folder of recordings")
parser.add_argument("--out", type=Path, default=Path("notebook-out"), metavar="DIR", help="folder for the results")
parser.add_argument("--preset", default="sequence", help="network; `tiny` takes a fifth of the time and blurs more")
parser.add_argument("--epochs", type=int, metavar="N", help="default: the preset's")
parser.add_argument("--prior-steps", type=int, default=300, metavar="N", help="more improve draws; default %(default)s")
# A notebook's own process has other arguments, which are not for this program.
args = parser.parse_args([] if "ipykernel" in sys.modules else None)

# The features: log-mel windows of 5 s, 128 bands from 30 to 8000 Hz.
spec = tp.FeatureSpec()
AUDIO = (".wav", ".flac", ".ogg", ".mp3")


def show(name: str, panels: dict[str, NDArray[np.floating[Any]]]) -> Figure:
    """Draws log-mels `[n_mels, frames]` in [0, 1] side by side, and writes them to NAME.png in the output folder."""
    figure: Figure = plt.figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)
    for axes, (title, mel) in zip(grid.flat, panels.items(), strict=True):
        image = specshow(
            (mel - 1.0) * spec.top_db,  # from [0, 1] to dB under the loudest point
            sr=spec.sample_rate,
            n_fft=spec.n_fft,
            hop_length=spec.hop,
            fmin=spec.fmin,
            fmax=spec.fmax,
            x_axis="time",
            y_axis="mel",
            vmin=-spec.top_db,
            vmax=0.0,
            ax=axes,
        )
        axes.set(title=title, xlabel="time (s)", xticks=range(int(mel.shape[1] * spec.hop / spec.sample_rate) + 1))
        axes.set_ylabel("frequency (Hz)")
        axes.label_outer()
    figure.colorbar(image, ax=grid, format="%+2.0f dB")
    figure.savefig(args.out / f"{name}.png", dpi=100)
    return figure


# %% Load a recording and look at it: the log-mel spectrogram of its first 5 s
files = sorted(path for path in args.recordings.rglob("*") if path.suffix.lower() in AUDIO)
if not files:
    sys.exit(f"{args.recordings}: no recordings ({', '.join(AUDIO)}); give their folder with --recordings")
args.out.mkdir(parents=True, exist_ok=True)
audio, _ = librosa.load(files[0], sr=spec.sample_rate, duration=spec.window_s)
show("spectrogram", {files[0].name: tp.log_mel(audio, spec).mel})

# %% Make a dataset: every window of every recording, with a copy 8 semitones higher and a chord of three copies
data = args.out / "data"
tp.preprocess(args.recordings, data, semitones=(0, 8), chords=("notebook",))
print({name: value for name, value in tp.inspect(data).items() if name in ("labels", "examples")})

# %% The variants of one window, as the model sees them; `tfpipe augment FILE` writes them as sounds
batch = next(tp.make_dataset(data, batch_size=3).as_numpy_iterator())
names = [key.decode().rpartition("/")[2] for key in batch["key"]]
variants = dict(zip(names, batch["mel"][..., 0] / 255.0, strict=True))
show("variants", {name: variants[name] for name in ("original", "shift+8", "chord:notebook")})

# %% Train a small VAE, and a prior from which new windows are drawn
run = tp.train(data, args.out / "run", preset=args.preset, epochs=args.epochs, prior_steps=args.prior_steps)
print(f"{len(run.history)} epochs; best validation loss {run.best['val_loss']:.4g} after epoch {run.best['epoch']}")

# %% A window that the training has not seen, and its reconstruction
exported = tp.export(run, args.out / "models")
vae = tp.load(exported.path)
unseen = next(tp.make_dataset(data, split="validation", batch_size=1).as_numpy_iterator())
original = unseen["mel"][..., 0] / np.float32(255.0)
z = vae.encode(original).z_mean
show("reconstruction", {"original": original[0], "reconstruction": vae.decode(z)[0]})
(args.out / "reconstruction.wav").write_bytes(vae.decode_wav(z, unseen["ref_db"])[0])

# %% New sound, of each label: 5 s that no recording holds
described = vae.describe()
labels = described["labels"] if described["prior"] else [None]  # without a learned prior, there is no choice
show("draws", {f"new: {label or 'any label'}": vae.generate([1], label=label).mel[0] for label in labels})
for label in labels:
    (args.out / f"draw-{label or 'any'}.wav").write_bytes(vae.generate_wav([1], label=label)[0])
print(f"figures and sounds are in {args.out}")
