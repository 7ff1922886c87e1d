import pytest

from dlrecipes.functional.words import in_markdown, say, visible


@pytest.mark.parametrize("text", ["\x1b[2Jcat", "a\rb", "a\x9b31m", "safe\u202egnp.exe", "a\nb", "\u2028", "\x07"])
def test_nothing_in_the_text_of_strangers_acts(text):
    shown = visible(text)
    assert shown.isprintable()
    assert shown != text


def test_what_can_be_read_stays(capsys):
    for text in ("été", "猫 🐈", "a\\b", "[red]", "100 %"):
        assert visible(text) == text
    say("one\n\ttwo", "three\x1b", error=True)
    assert capsys.readouterr().err == "one\n\ttwo\nthree\\x1b\n"


def test_file_names_that_are_no_text_can_be_printed():
    assert visible(b"caf\xe9".decode(errors="surrogateescape")) == "caf\\xe9"


def test_markdown_of_strangers_is_text():
    assert in_markdown("<img src=x onerror=y>\n# a|b`c`") == "&lt;img src=x onerror=y&gt;\\\\n# a\\|b\\`c\\`"
