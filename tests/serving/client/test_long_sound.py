"""Joining windows that overlap: where the two waves agree best, without a change of level."""

import numpy as np
import pytest

from serving.client.long_sound import join, seed_of

RATE = 22_050
TIME = np.arange(4_000) / RATE
FADE, MOVE = 441, 220


@pytest.mark.parametrize("late", [0, 37, -90, 215])
def test_two_versions_of_a_wave_that_differ_in_phase_are_joined_without_a_trace(late):
    wave = (np.sin(2 * np.pi * 220 * TIME) + 0.3 * np.sin(2 * np.pi * 555 * TIME)).astype(np.float32)
    mixed, lag = join(wave, np.roll(wave, late), place=1_500, fade=FADE, move=MOVE)
    assert lag == late
    np.testing.assert_allclose(mixed, wave[1_500 : 1_500 + FADE], atol=1e-5)


def test_a_join_of_unrelated_sounds_keeps_the_level():
    noise = np.random.default_rng(0).standard_normal((2, 200, 4_000)).astype(np.float32)
    levels = [np.std(join(old, new, place=1_500, fade=FADE, move=MOVE)[0]) for old, new in zip(*noise, strict=True)]
    assert np.mean(levels) == pytest.approx(1.0, abs=0.03)


def test_silence_and_windows_that_share_next_to_nothing_can_be_joined():
    silence = np.zeros(4_000, np.float32)
    mixed, _ = join(silence, silence, place=1_500, fade=FADE, move=MOVE)
    assert not mixed.any()
    mixed, lag = join(silence[:3], silence, place=1, fade=0, move=0)
    assert (len(mixed), lag) == (0, 0)


def test_the_seeds_of_the_windows_are_64_bits_and_all_different():
    seeds = {seed_of(seed, index) for seed in (0, 1, -1, 2**62) for index in range(100)}
    assert len(seeds) == 400
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)
