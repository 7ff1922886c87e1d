"""Names of strangers in tables and sentences about data."""

import numpy as np
from PIL import Image

from dlrecipes.data.audit.check import check_data

ESCAPES = "\x1b[2J[/red]cat"


def _picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_folders_and_files_named_by_strangers_are_only_text(tmp_path, capsys):
    for k in range(3):
        _picture(tmp_path / "data" / ESCAPES / f"a{k}.png", k)
        _picture(tmp_path / "data" / "dog\nNo problems found." / f"\x1b]0;x\x07{k}.png", 10 + k)
    (tmp_path / "data" / ESCAPES / "b.png").write_bytes((tmp_path / "data" / ESCAPES / "a0.png").read_bytes())
    assert check_data(tmp_path / "data", json_file=tmp_path / "report.json") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\\x1b[2J[/red]cat" in out
    assert "dog\\nNo problems found." in out
    assert "\\\\x1b" not in out  # not escaped twice


def test_splits_named_by_strangers_are_no_markup(tmp_path, capsys):
    lines = ["image,label,split"]
    for k in range(6):
        _picture(tmp_path / f"{k}.png", k)
        lines.append(f"{k}.png,{'ab'[k % 2]},{'train' if k < 4 else '[/red]'}")
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    assert check_data(tmp_path / "data.csv") == 0
    assert "[/red]" in capsys.readouterr().out


def test_files_whose_names_are_no_text_are_read_and_named(tmp_path, capsys):
    strange = b"caf\xe9".decode(errors="surrogateescape")
    for k in range(4):
        _picture(tmp_path / strange / "data" / "ab"[k % 2] / f"{strange}{k}.png", k)
    copy = tmp_path / strange / "data" / "a" / f"{strange}9.png"
    copy.write_bytes((copy.parent / f"{strange}0.png").read_bytes())
    assert check_data(tmp_path / strange / "data", json_file=tmp_path / "report.json") == 0
    assert "caf\\xe99.png" in capsys.readouterr().out
