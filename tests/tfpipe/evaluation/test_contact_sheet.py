"""Which examples a contact sheet shows; the commands' tests draw one."""

import numpy as np

from tfpipe.data.records import Example
from tfpipe.evaluation.contact_sheet import pick


def _example(track: str, variant: str, *, label: int = 0) -> Example:
    return Example(
        mel=np.zeros((1, 1), np.uint8),
        ref_db=0.0,
        label=label,
        track=track,
        start_s=0.0,
        variant=variant,
        key=f"{track}/{variant}",
    )


def test_the_variants_of_a_label_are_those_of_the_same_window_in_any_order():
    tracks, variants = ["a" * 64, "b" * 64, "c" * 64], ["original", "shift+7"]
    examples = [_example(track, variant, label=label) for track in tracks for variant in variants for label in (0, 1)]
    picked: dict[tuple[int, str], Example] = {}
    reverse: dict[tuple[int, str], Example] = {}
    for example in examples:
        pick(example, picked)
    for example in examples[::-1]:
        pick(example, reverse)
    assert set(picked) == {(label, variant) for label in (0, 1) for variant in variants}
    assert len({example.track for example in picked.values()}) == 1
    assert {place: example.key for place, example in picked.items()} == {
        place: example.key for place, example in reverse.items()
    }
