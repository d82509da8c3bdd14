"""The sections of a model card about recordings, licences and copies."""

from typing import Any

from serving.export.provenance import Provenance, card_sections, read_provenance, training_table
from tfpipe.files.storage import write_json

NEAREST = {"copies": 0.125, "copies_held_out": 0.02, "draws": 1.5, "held_out": 1.25}


def sources(count: int = 1, **track: Any) -> dict[str, Any]:
    fields = {"label": "Piano", "split": "train", "seconds": 60.0, "sha256": "ab" * 32, **track}
    return {"dataset": "d1", "tracks": [{"path": f"Piano/{i}.wav", **fields} for i in range(count)], "licences": []}


def test_recordings_are_listed_with_the_begin_of_their_checksum():
    card = card_sections(Provenance(sources=sources(licence="CC | BY")))
    assert "1 recordings, 1.0 min, of the dataset `d1`" in card
    assert "| Piano/0.wav | Piano | train | 60.0 s | CC \\| BY | `abababababababab` |" in card
    assert "No licences were given" not in card


def test_a_long_list_and_long_licences_are_cut():
    found = sources(100)
    found["licences"] = [{"file": "LICENCES.md", "sha256": "0", "text": "line\n" * 2000}]
    card = card_sections(Provenance(sources=found))
    assert "all recordings; here are 30." in card
    assert card.count("| Piano/") == 30
    assert "### LICENCES.md" in card
    assert "all of it is in sources.json" in card
    assert len(card) < 20_000


def test_what_is_not_known_is_said():
    card = card_sections(Provenance())
    assert "does not say which recordings" in card
    assert "Not measured" in card
    assert "No licences were given" in card_sections(Provenance(sources=sources()))


def test_copies_are_said_for_the_evaluated_checkpoint_only(tmp_path):
    write_json(tmp_path / "evaluation.json", {"checkpoint": {"step": 7}, "draws": {"nearest_training": NEAREST}})
    assert "12.5% of the draws are near-copies" in card_sections(read_provenance(tmp_path, step=7))
    assert read_provenance(tmp_path, step=8) == Provenance()


def test_figures_of_the_training_are_rows_of_their_own_with_five_digits():
    figures = {"step": 1834, "mse": 0.000768488912363719, "kl": 3590.1}
    metadata = {"preset": "sequence", "init": {"run": "many", "epoch": 7}, "step": 1834, "metrics": figures}
    assert training_table(metadata).splitlines()[2:] == [
        "| preset | sequence |",
        "| init run | many |",
        "| init epoch | 7 |",
        "| step | 1834 |",
        "| mse | 0.00076849 |",
        "| kl | 3590.1 |",
    ]
