"""Hypothesis strategies for variants."""

from hypothesis import strategies as st

from beam_jobs.variants import Variant


def thousandths(low, high):
    return st.integers(round(low * 1000), round(high * 1000)).map(lambda value: value / 1000)


VARIANTS = st.builds(
    Variant,
    notes=st.lists(
        st.tuples(thousandths(-48, 48), thousandths(-40, 40)), min_size=1, max_size=4, unique_by=lambda note: note[0]
    ).map(tuple),
    stretch=thousandths(0.25, 4),
    noise_db=st.none() | thousandths(-20, 100),
    gain_db=thousandths(-40, 0),
)
