"""A program starts again with large memory pages, once, as the same process with the same arguments."""

import os
import platform
import subprocess
import sys

import pytest

from tfpipe.process.huge_pages import with_huge_pages

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="large pages are a setting of glibc")
PROGRAM = """
import os, sys
from pathlib import Path
from tfpipe.process.huge_pages import restart_with_huge_pages
with open(sys.argv[1], "a") as log: log.write("started\\n")
restart_with_huge_pages()
print(os.getpid(), os.environ["GLIBC_TUNABLES"], *sys.argv[1:])
"""


@glibc
@pytest.mark.parametrize(
    ("given", "tunables", "starts"),
    [
        (None, "glibc.malloc.hugetlb=1", 2),
        ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1", 2),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0", 1),
    ],
)
def test_the_program_starts_again_once(tmp_path, given, tunables, starts):
    variables = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if given is not None:
        variables["GLIBC_TUNABLES"] = given
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROGRAM, str(log), "an argument", "--flag"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
    assert printed == f"{process.pid} {tunables} {log} an argument --flag\n"
    assert log.read_text() == starts * "started\n"


@glibc
def test_large_pages_are_used(tmp_path):
    """numpy allocates with malloc; the kernel counts the large pages of the process."""
    with open("/sys/kernel/mm/transparent_hugepage/enabled") as setting:
        if "[never]" in setting.read():
            pytest.skip("this system gives no large pages")
    program = (
        "import numpy as np; kept = np.ones(64 << 20, np.uint8);"
        "print(open('/proc/self/smaps_rollup').read().split('AnonHugePages:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=with_huge_pages({k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) >= 32 << 10  # KiB; half of the array, in case memory is fragmented
