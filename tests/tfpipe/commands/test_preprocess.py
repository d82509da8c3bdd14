"""The options of `tfpipe preprocess`."""

import argparse

from tfpipe.commands.preprocess import add_corpus_arguments, corpus_settings


def test_the_earlier_name_of_an_option_still_works_but_is_hidden():
    parser = argparse.ArgumentParser()
    add_corpus_arguments(parser)
    for typed in ("--augment-eval", "--held-out-variants"):
        assert corpus_settings(parser.parse_args(["in", typed])) == {"held_out_variants": True}
    assert corpus_settings(parser.parse_args(["in"])) == {}
    assert "--held-out-variants" in parser.format_help()
    assert "--augment-eval" not in parser.format_help()
