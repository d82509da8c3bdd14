"""Fixtures of the tests of datasets."""

import pytest
from helpers import web_server


@pytest.fixture(scope="package")
def plain_web(dataset):
    """The dataset on a web server that sends whole files only."""
    with web_server(dataset, ranges=False) as address:
        yield address
