"""The bearer token: where it is read from, and what is compared with it."""

import logging

import pytest

from serving.protocol.token import TOKEN_VARIABLE, Token, read_token
from tfpipe.errors import ServingError, UsageError

TOKEN = "s3cret-._~+/=="


@pytest.fixture
def token_file(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


def value(token):
    assert token is not None
    return token.value


def test_the_token_is_read_without_the_newline(token_file, caplog):
    assert value(read_token(token_file)) == TOKEN
    token_file.write_bytes(f" {TOKEN}\r\n\n".encode())
    assert value(read_token(token_file)) == TOKEN
    assert not caplog.records


def test_a_file_goes_before_the_variable_and_without_both_there_is_no_token(token_file, monkeypatch):
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "other")
    assert value(read_token(None)) == "other"
    assert value(read_token(token_file)) == TOKEN


def test_a_file_that_others_can_read_is_named_in_the_log(token_file, caplog):
    token_file.chmod(0o640)
    with caplog.at_level(logging.WARNING):
        assert value(read_token(token_file)) == TOKEN
    assert "chmod 600" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("text", ["", " \n", "two words", "dåd", "a\nb", "a\0", "x" * 5000])
def test_what_is_no_token_is_refused_in_one_line_that_does_not_show_it(token_file, text):
    token_file.write_text(text)
    with pytest.raises(UsageError) as info:
        read_token(token_file)
    assert str(info.value).startswith(f"{token_file}: ")
    assert "\n" not in str(info.value)
    assert len(text.strip()) < 2 or text.strip() not in str(info.value)


def test_an_empty_variable_is_refused(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    with pytest.raises(UsageError, match=f"{TOKEN_VARIABLE}: holds no token"):
        read_token(None)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ServingError, match="the token cannot be read") as info:
            read_token(path)
        assert str(path) in str(info.value)


def test_only_the_same_token_is_let_in():
    token = Token("abc")
    assert all(map(token.allows, ("Bearer abc", "bearer abc", "BEARER  abc ")))
    assert not any(
        map(token.allows, (None, "", "abc", "Bearer", "Bearer ", "Bearer ab", "Bearer abd", "Basic abc", "é"))
    )
    assert "abc" not in repr(token)
