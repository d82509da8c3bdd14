"""The web application of `tfpipe browse` (Starlette): tracks, examples and sounds of a dataset."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soundfile
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tfpipe.audio.level import limit_peaks
from tfpipe.browse.examples import MOST_EXAMPLES, Examples
from tfpipe.data.manifest import SPLITS, Track
from tfpipe.data.records import Example
from tfpipe.errors import TfpipeError, UsageError
from tfpipe.features.log_mel import dequantise
from tfpipe.local_page.answers import answered
from tfpipe.local_page.files import static_files
from tfpipe.local_page.guard import Guard
from tfpipe.run_report.pictures import spectrogram

_STATIC = Path(__file__).with_name("static")
_NONE: Mapping[type[TfpipeError], tuple[int, str]] = {}
_answered = functools.partial(answered, statuses=_NONE)


def make_app(examples: Examples, *, hosts: frozenset[str]) -> Starlette:
    """Returns the application.

    Args:
        examples: the dataset.
        hosts: see `Guard`.
    """
    pages = _Pages(examples)
    routes = [
        Route("/", pages.page),
        Route("/api/dataset", _answered(pages.dataset)),
        Route("/api/tracks", _answered(pages.tracks)),
        Route("/api/tracks/{key}", _answered(pages.track)),
        Route("/sounds/{kind}/{key:path}", _answered(pages.sound)),
        *static_files(_STATIC),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts)])


class _Pages:
    """The endpoints."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    async def page(self, _: Request) -> Response:
        return FileResponse(_STATIC / "index.html", headers={"Cache-Control": "no-store"})

    async def dataset(self, _: Request) -> Response:
        manifest = self._examples.manifest
        splits = {split: manifest.examples(split) for split in SPLITS}
        facts = {"data": str(self._examples.data), "labels": list(manifest.labels), "splits": splits}
        return JSONResponse(facts)

    async def tracks(self, request: Request) -> Response:
        asked = request.query_params
        first = asked.get("first", "0")
        if not first.isdecimal():
            raise UsageError(f"first={first!r} is not a number; reload the page")

        def found() -> dict[str, Any]:
            names = {name: asked.get(name, "") for name in ("split", "label")}
            matches = self._examples.find(asked.get("text", ""), **names, first=int(first))
            return {"total": matches.total, "tracks": [_row(track) for track in matches.tracks]}

        return JSONResponse(await run_in_threadpool(found))

    async def track(self, request: Request) -> Response:
        key = request.path_params["key"]

        def shown() -> dict[str, Any]:
            examples = self._examples.of_track(key)
            return {
                "is_cut": len(examples) >= MOST_EXAMPLES,
                "examples": [self._shown(one) for one in examples.values()],
            }

        return JSONResponse(await run_in_threadpool(shown))

    async def sound(self, request: Request) -> Response:
        kind, key = request.path_params["kind"], request.path_params["key"].removesuffix(".wav")

        def wav() -> bytes:
            example = self._examples.example(key)
            audio = self._examples.recorded(key) if kind == "recorded" else self._examples.inverted(example)
            if audio is None:
                raise UsageError(f"{self._examples.name(key)}: the recording cannot be read any more")
            rate, buffer = self._examples.manifest.spec.sample_rate, io.BytesIO()
            soundfile.write(buffer, limit_peaks(audio, rate), rate, format="WAV", subtype="PCM_16")
            return buffer.getvalue()

        if kind not in ("recorded", "inverted"):
            raise UsageError(f"there is no sound of the kind {kind!r}; reload the page")
        return Response(await run_in_threadpool(wav), media_type="audio/wav")

    def _shown(self, example: Example) -> dict[str, Any]:
        spec, name = self._examples.manifest.spec, self._examples.name(example.key)
        about = f"spectrogram of {name}, {example.variant}"
        return {
            "key": example.key,
            "name": name,
            "start_s": round(float(example.start_s), 3),
            "variant": example.variant,
            "ref_db": round(float(example.ref_db), 1),
            "picture": spectrogram(dequantise(example.mel), spec, about=about),
        }


def _row(track: Track) -> dict[str, Any]:
    return {
        "key": track.hash[:16],
        "path": track.path,
        "label": track.label,
        "split": track.split,
        "group": track.group,
        "seconds": track.seconds,
        "windows": track.windows,
        "variants": track.variants,
    }
