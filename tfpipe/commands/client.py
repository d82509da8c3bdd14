"""`tfpipe client`: audio files through a served model, and audio, spectrograms and latents back.

PNGs show the first eight spectrograms.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.errors import AudioError, TfpipeError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from serving.client.client import Client, Encoded
    from tfpipe.process.progress import Progress

HELP = "encode, decode, reconstruct, generate and interpolate through a running server"

# The median level of 36 five-second windows of pianos and voices was 8.7 dB (90 % between 6 and 12).
_REF_DB = 9.0
_OVERLAP_S = 0.5
_MAX_PANELS = 8
# Windows that are asked for, and held, at a time.
_ROWS = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-commands and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    encode = _action(actions, "encode", "audio files to latents (npz)")
    encode.add_argument("files", nargs="+", type=Path, metavar="FILE")
    encode.add_argument("--out", type=Path, required=True, metavar="X.npz")

    decode = _action(actions, "decode", "latents of `encode` to wav, npz and PNG")
    decode.add_argument("latents", type=Path, metavar="X.npz")
    decode.add_argument("--out", type=Path, required=True, metavar="DIR")

    reconstruct = _action(actions, "reconstruct", "an audio file through encoder and decoder, to wav and PNG")
    reconstruct.add_argument("file", type=Path, metavar="FILE")
    reconstruct.add_argument("--out", type=Path, required=True, metavar="DIR")
    _overlap(reconstruct)

    generate = _action(actions, "generate", "new windows from seeds, to wav and PNG")
    generate.add_argument("--seeds", type=_whole_numbers, required=True, metavar="1,2,3")
    generate.add_argument("--temperature", type=float, default=1.0, help="spread of the draw (default 1.0)")
    generate.add_argument(
        "--ref_db", type=float, default=_REF_DB, help=f"level of the loudest point in dB (default {_REF_DB:g}, typical)"
    )
    generate.add_argument("--out", type=Path, required=True, metavar="DIR")

    interpolate = _action(actions, "interpolate", "a walk from one recording to another, to one wav and PNG")
    interpolate.add_argument("first", type=Path, metavar="A", help="audio file; its loudest window is taken")
    interpolate.add_argument("last", type=Path, metavar="B", help="audio file; its loudest window is taken")
    interpolate.add_argument("--steps", type=int, default=5, help="windows, both ends included (default 5)")
    interpolate.add_argument("--out", type=Path, required=True, metavar="DIR")
    _overlap(interpolate)

    _action(actions, "status", "versions that the server knows")


def run(args: argparse.Namespace) -> int:
    """Runs one action against the server."""
    from serving.client.client import Client, ClientTls

    if (args.tls_cert or args.tls_key) and not args.tls_ca:
        raise UsageError("--tls-cert and --tls-key need --tls-ca, the authority that signs the server's certificate")
    tls = ClientTls(args.tls_ca, args.tls_cert, args.tls_key) if args.tls_ca else None
    wanted = {"model": args.model_name, "version": args.version, "timeout_s": args.timeout_s, "tls": tls}
    with Client(args.server, **wanted, on_wait=_say) as client:
        result = _ACTIONS[args.action](client, args)
    if args.json:
        print(json.dumps(result))
    return 0


def _encode(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from tfpipe.evaluation.latents import Latents, write_latents
    from tfpipe.process.progress import Progress

    columns: dict[str, list[Any]] = {name: [] for name in ("z_mean", "z_log_var", "ref_db", "start_s", "path")}
    skipped = []
    with Progress("encode", unit="window") as bar:
        for path in args.files:
            batches = []
            try:
                # Kept once all are there, so that a file that breaks off leaves no part behind.
                for starts, encoded in client.encode_file(path):
                    batches.append((encoded.z_mean, encoded.z_log_var, encoded.ref_db, starts))
                    bar.update(len(starts))
            except AudioError as error:
                bar.message(f"skipped: {error}")
                skipped.append({"path": str(path), "reason": error.code})
                continue
            for values in batches:
                for column, value in zip(columns.values(), (*values, np.full(len(values[0]), str(path))), strict=True):
                    column.append(value)
    if not columns["path"]:
        raise TfpipeError(f"none of {len(args.files)} files could be encoded; the lines above say why")
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    model = client.describe()
    write_latents(args.out, Latents(**arrays, fingerprint=model["fingerprint"], checkpoint=model["metadata"]))
    _say(f"{len(arrays['path'])} windows of {len(args.files) - len(skipped)} files in {args.out}")
    return {"out": str(args.out), "windows": len(arrays["path"]), "skipped": skipped}


def _decode(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    from tfpipe.audio.wav import write_wav
    from tfpipe.evaluation.latents import read_latents
    from tfpipe.process.progress import Progress

    latents, served = read_latents(args.latents), client.describe()
    # Latents of another model would decode to noise. A file that does not name its model is accepted.
    if differing := latents.differences(fingerprint=served["fingerprint"], checkpoint=served["metadata"]):
        raise UsageError(
            f"{args.latents}: made by another model ({'; '.join(differing)}); "
            f"encode the recordings with {client.target}"
        )
    z, ref_db, spec = latents.z_mean, latents.ref_db, client.spec()
    panels: list[tuple[str, Any]] = []

    def decoded(bar: Progress) -> Iterator[NDArray[Any]]:
        for at in range(0, len(z), _ROWS):
            rows = slice(at, at + _ROWS)
            mel = client.decode(z[rows])
            for index, audio in enumerate(client.decode_audio(z[rows], ref_db[rows]), start=at):
                write_wav(args.out / f"{index:05d}.wav", audio, spec.sample_rate)
            panels.extend((f"window {index}", window) for index, window in enumerate(mel, start=at))
            del panels[_MAX_PANELS:]
            bar.update(len(mel))
            yield mel

    with Progress("decode", total=len(z), unit="window") as bar:
        _save_mels(args.out / "mel.npz", decoded(bar), shape=(len(z), *spec.mel_shape), ref_db=ref_db)
    _plot(args.out / "mel.png", panels, client)
    return _done(args.out, windows=len(z))


def _reconstruct(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from serving.client.windows import overlap_samples, stitch
    from tfpipe.audio.reader import probe
    from tfpipe.audio.wav import write_long_wav
    from tfpipe.model.measure import squared_error
    from tfpipe.process.progress import Progress

    spec = client.spec()
    panels: list[tuple[str, Any]] = []
    errors: list[float] = []
    length = round(probe(args.file).seconds * spec.sample_rate)
    overlap = overlap_samples(spec, args.overlap_s)
    windows = 1 + max(0, math.ceil((length - spec.samples) / (spec.samples - overlap)))

    def rebuilt(bar: Progress) -> Iterator[tuple[int, NDArray[Any]]]:
        for starts, encoded, mels, audio in client.rebuild_file(args.file, overlap_s=args.overlap_s):
            errors.extend(squared_error(mels, encoded.mel).tolist())
            for start, original, copy in zip(starts, encoded.mel, mels, strict=True):
                panels.extend([(f"original, {start:g} s", original), (f"reconstruction, {start:g} s", copy)])
            del panels[_MAX_PANELS:]
            bar.update(len(starts))
            yield from ((round(start * spec.sample_rate), window) for start, window in zip(starts, audio, strict=True))

    target = args.out / f"{args.file.stem}-reconstruction.wav"
    with Progress("reconstruct", total=windows, unit="window") as bar:
        pieces = _first(length, stitch(rebuilt(bar), overlap=overlap))
        write_long_wav(target, pieces, spec.sample_rate)
    _plot(target.with_suffix(".png"), panels, client, columns=2)
    return _done(args.out, windows=len(errors), mse=float(np.mean(errors)))


def _first(count: int, pieces: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Yields the first `count` samples of `pieces`: a recording shorter than a window was padded."""
    for piece in pieces:
        yield piece[:count]
        count -= min(count, len(piece))


def _generate(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from tfpipe.audio.wav import write_wav

    if not -100.0 <= args.ref_db <= 30.0:
        raise UsageError(f"--ref_db {args.ref_db:g} is no level; use -100 to 30 dB (recordings lie about {_REF_DB:g})")
    if not 0.0 <= args.temperature <= 10.0:
        raise UsageError(f"--temperature {args.temperature:g} cannot work; use 0 to 10")
    made = client.generate(args.seeds, args.temperature)
    audio = client.decode_audio(made.z, np.full(len(args.seeds), args.ref_db))
    for seed, window in zip(args.seeds, audio, strict=True):
        write_wav(args.out / f"seed-{seed}.wav", window, client.spec().sample_rate)
    _plot(args.out / "generated.png", [(f"seed {s}", mel) for s, mel in zip(args.seeds, made.mel, strict=True)], client)
    return _done(args.out, windows=len(args.seeds))


def _interpolate(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from serving.client.windows import overlap_samples, stitch
    from tfpipe.audio.wav import write_long_wav

    ends = [_loudest(client, path) for path in (args.first, args.last)]
    walk = client.interpolate(ends[0].z_mean[0], ends[1].z_mean[0], steps=args.steps)
    ref_db = np.linspace(ends[0].ref_db[0], ends[1].ref_db[0], args.steps)
    spec = client.spec()
    overlap = overlap_samples(spec, args.overlap_s)
    starts = range(0, args.steps * (spec.samples - overlap), spec.samples - overlap)
    pieces = stitch(zip(starts, client.decode_audio(walk.z, ref_db), strict=True), overlap=overlap)
    write_long_wav(args.out / "interpolation.wav", pieces, spec.sample_rate)
    titles = [f"step {index} of {args.steps}" for index in range(1, args.steps + 1)]
    _plot(args.out / "interpolation.png", list(zip(titles, walk.mel, strict=True)), client)
    return _done(args.out, windows=args.steps)


def _status(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    versions = [{"version": v.version, "state": v.state, "error": v.error} for v in client.status()]
    for known in versions:
        _say(f"version {known['version']}: {known['state']} {known['error']}".rstrip())
    return {"model": args.model_name, "versions": versions}


_ACTIONS = {
    "encode": _encode,
    "decode": _decode,
    "reconstruct": _reconstruct,
    "generate": _generate,
    "interpolate": _interpolate,
    "status": _status,
}


def _loudest(client: Client, path: Path) -> Encoded:
    """Returns the encoding `[1, ...]` of a file's loudest window."""
    best: Encoded | None = None
    for _, encoded in client.encode_file(path):
        at = int(encoded.ref_db.argmax())
        if best is None or encoded.ref_db[at] > best.ref_db[0]:
            best = type(encoded)(*(array[at : at + 1] for array in encoded))
    if best is None:
        raise UsageError(f"{path}: holds no window")
    return best


def _plot(path: Path, panels: list[tuple[str, Any]], client: Client, *, columns: int | None = None) -> None:
    from tfpipe.evaluation.plots import spectrograms

    spectrograms(path, panels[:_MAX_PANELS], client.spec(), columns=columns)


def _save_mels(
    path: Path, mels: Iterable[NDArray[Any]], *, shape: tuple[int, ...], ref_db: NDArray[np.floating]
) -> None:
    """Writes npz of `mel`, whose rows come bit by bit, and `ref_db`; through a temporary name."""
    import zipfile

    import numpy as np

    from tfpipe.files.storage import atomic_write

    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with atomic_write(path) as out, zipfile.ZipFile(out, "w") as packed:
        with packed.open("mel.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for rows in mels:
                file.write(rows.astype("<f4").tobytes())
        with packed.open("ref_db.npy", "w") as file:
            np.lib.format.write_array(file, np.asarray(ref_db))


def _done(out: Path, **facts: Any) -> dict[str, Any]:
    _say(", ".join([f"wrote {out}", *(f"{name} {value:.4g}" for name, value in facts.items())]))
    return {"out": str(out), **facts}


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="gRPC address of the server")
    parser.add_argument("--model_name", default="vae", help="the model's name on the server (default vae)")
    parser.add_argument("--version", type=int, metavar="N", help="a fixed version (default: the newest)")
    parser.add_argument(
        "--timeout_s", type=float, default=60.0, metavar="S", help="deadline of a request (default 60 s)"
    )
    parser.add_argument("--tls-ca", type=Path, metavar="PEM", help="authority of the server's certificate: use TLS")
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="the client's certificate, where the server asks")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return parser


def _overlap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overlap_s",
        type=float,
        default=_OVERLAP_S,
        metavar="S",
        help=f"cross-fade between windows in s (default {_OVERLAP_S:g})",
    )


def _whole_numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,2,3") from None
    if any(not -(2**63) <= number < 2**63 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} has a seed of more than 64 bits; use -2^63 to 2^63 - 1")
    return numbers
