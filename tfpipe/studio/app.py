"""The web application of the studio (Starlette): the page, its actions, uploads, jobs and sounds."""

from __future__ import annotations

import asyncio
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from serving.client.connection import DeadlineExceededError, ServerUnavailableError
from tfpipe.errors import UsageError
from tfpipe.local_page.answers import answered
from tfpipe.local_page.files import static_files
from tfpipe.local_page.guard import Guard
from tfpipe.run_report.pictures import spectrogram
from tfpipe.studio.jobs import Job, Jobs
from tfpipe.studio.shelf import Sound, file_name
from tfpipe.studio.space import REACH
from tfpipe.studio.studio import Studio

_STATIC = Path(__file__).with_name("static")
# Bodies of actions are short.
_MOST_JSON = 64 << 10
# How often the disk is looked at while a recording arrives, in bytes.
_LOOK_BYTES = 16 << 20

_SERVER_GONE = (503, "; the page works again when the server does")
_answered = functools.partial(
    answered, statuses={ServerUnavailableError: _SERVER_GONE, DeadlineExceededError: _SERVER_GONE}
)


def make_app(studio: Studio, *, hosts: frozenset[str]) -> Starlette:
    """Returns the application.

    Args:
        studio: does the work.
        hosts: see `Guard`.
    """
    pages = _Pages(studio)
    routes = [
        Route("/", pages.page),
        Route("/api/model", _answered(pages.model)),
        Route("/api/space", _answered(pages.space)),
        Route("/api/act/{name}", _answered(pages.act), methods=["POST"]),
        Route("/api/files", _answered(pages.upload), methods=["POST"]),
        Route("/api/jobs", _answered(pages.start_job), methods=["POST"]),
        Route("/api/jobs/{key}", _answered(pages.job)),
        Route("/api/jobs/{key}", _answered(pages.cancel_job), methods=["DELETE"]),
        Route("/api/sounds/{key}/keep", _answered(pages.keep), methods=["POST"]),
        Route("/sounds/{key}.wav", _answered(pages.wav)),
        Route("/sounds/{key}.npz", _answered(pages.latent)),
        *static_files(_STATIC),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts)])
    app.state.jobs = pages.jobs
    return app


class _Pages:
    """The endpoints."""

    def __init__(self, studio: Studio) -> None:
        self._studio, self.jobs = studio, Jobs(studio)

    async def page(self, _: Request) -> Response:
        return FileResponse(_STATIC / "index.html", headers={"Cache-Control": "no-store"})

    async def model(self, _: Request) -> Response:
        def facts() -> dict[str, Any]:
            studio = self._studio
            return {
                "target": studio.vae.target,
                "labels": studio.vae.describe()["labels"],
                "has_prior": bool(studio.vae.prior()),
                "window_s": studio.spec.window_s,
                "sample_rate": studio.spec.sample_rate,
                "keep": str(studio.keep_folder),
            }

        return JSONResponse(await run_in_threadpool(facts))

    async def space(self, _: Request) -> Response:
        def known() -> dict[str, Any]:
            found = self._studio.space.find()
            points = [
                {"title": point.title, "label": point.label, "x": x, "y": y}
                for point, (x, y) in zip(found.points, found.places, strict=True)
            ]
            return {"directions": len(found.spread), "reach": REACH, "points": points}

        return JSONResponse(await run_in_threadpool(known))

    async def act(self, request: Request) -> Response:
        asked, name = await _json(request), request.path_params["name"]

        def acted() -> list[dict[str, Any]]:
            return [self._shown(sound) for sound in self._studio.act(name, asked)]

        return JSONResponse({"sounds": await run_in_threadpool(acted)})

    async def upload(self, request: Request) -> Response:
        """Takes the body as a recording; it goes to the disk as it comes."""
        uploads, name = self._studio.uploads, request.query_params.get("name", "recording")
        path, taken, looked = uploads.new_path(name), 0, -_LOOK_BYTES
        try:
            with path.open("wb") as file:
                async for part in request.stream():
                    taken += len(part)
                    if taken - looked >= _LOOK_BYTES:
                        uploads.require_room(taken)
                        looked = taken
                    await run_in_threadpool(file.write, part)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        upload = await run_in_threadpool(uploads.add, name, path)
        return JSONResponse({"file": upload.key, "name": upload.name, "seconds": upload.seconds})

    async def start_job(self, request: Request) -> Response:
        return JSONResponse(self._job(self.jobs.start((await _json(request)).get("file"))))

    async def job(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._job, self.jobs.get(request.path_params["key"])))

    async def cancel_job(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["key"])
        job.cancelled.set()
        return JSONResponse(self._job(job))

    async def keep(self, request: Request) -> Response:
        path = await run_in_threadpool(self._studio.keep, request.path_params["key"])
        return JSONResponse({"path": str(path)})

    async def wav(self, request: Request) -> Response:
        sound = self._studio.shelf.get(request.path_params["key"])
        name = f"{file_name(sound.title)}.wav" if "download" in request.query_params else None
        return FileResponse(sound.path, media_type="audio/wav", filename=name)

    async def latent(self, request: Request) -> Response:
        sound = self._studio.shelf.get(request.path_params["key"])

        def packed() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "latent.npz"
                self._studio.write_latent(sound, path)
                return path.read_bytes()

        data = await run_in_threadpool(packed)
        disposition = f'attachment; filename="{file_name(sound.title).encode("ascii", "replace").decode()}.npz"'
        return Response(data, media_type="application/zip", headers={"Content-Disposition": disposition})

    def _shown(self, sound: Sound) -> dict[str, Any]:
        """Returns a sound as the page gets it. Its place on the map is there once the map is known."""
        place = self._studio.space.place(sound.z) if sound.z is not None else None
        return {
            "key": sound.key,
            "title": sound.title,
            "seconds": sound.seconds,
            "has_latent": sound.z is not None,
            "picture": spectrogram(sound.mel, self._studio.spec, about=f"spectrogram of {sound.title}"),
            "place": place,
            "recipe": sound.recipe,
        }

    def _job(self, job: Job) -> dict[str, Any]:
        return {
            "job": job.key,
            "name": job.upload.name,
            "state": job.state,
            "done": job.done,
            "total": job.total,
            "error": job.error,
            "sound": self._shown(job.sound) if job.sound else None,
        }


async def _json(request: Request) -> dict[str, Any]:
    """Returns the object in a request's body.

    Raises:
        UsageError: it is not a JSON object, or too long.
    """
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > _MOST_JSON:
            raise UsageError("the request is too long; reload the page")
    try:
        asked = await asyncio.to_thread(json.loads, b"".join(parts))
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise UsageError("the request is not a JSON object; reload the page")
    return asked
