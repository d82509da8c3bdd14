"""How many connections the HTTP server takes; `test_room.py` has its slow clients."""

import resource

import pytest

from serving.server.rest import http_server


@pytest.mark.parametrize(
    ("files", "connections"), [(1024, 256), (20_000, 1000), (3, 1), (resource.RLIM_INFINITY, 1000)]
)
def test_connections_leave_files_for_models(monkeypatch, files, connections):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert http_server.max_connections() == connections


def test_a_server_may_open_as_many_files_as_the_system_allows(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    http_server.allow_more_files()
    assert asked == [(4096, 4096)]
