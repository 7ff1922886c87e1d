import numpy as np
import pytest

from dlrecipes.data.formats.discover_images import read_images
from dlrecipes.errors import UserError


@pytest.fixture
def root(tmp_path, image_writer):
    (tmp_path / "images").mkdir()
    for k in range(6):
        image_writer(tmp_path / "images" / f"{k}.png", (8, 8), k)
    return tmp_path


def _read(root, text, name="labels.csv", **options):
    (root / name).write_text(text, encoding="utf-8")
    return read_images(root, **options)


def _table(header, *columns):
    return header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


ROWS = range(6)


@pytest.mark.parametrize("image", ["{}.png", "{}", "images/{}.png", "images\\{}", "./images/{}.png"])
@pytest.mark.parametrize("column", ["image", "Image Path", "FILENAME", "image_id", "zzz"])
def test_images_are_found_by_column_name_or_content(root, image, column):
    source = _read(root, _table(f"{column},label", [image.format(k) for k in ROWS], "ababab"))
    table = source.splits["all"]
    assert [table.images.name(k).replace("./", "") for k in ROWS] == [str(root / "images" / f"{k}.png") for k in ROWS]
    assert table.targets.tolist() == [0, 1] * 3
    assert source.classes == ("a", "b")
    assert f"images named by column {column!r}" in source.notes
    assert table.images.read(0).shape == (8, 8, 3)


def test_split_and_weight_columns(root):
    splits = ["train", "train", "Training", "valid", "test", ""]
    source = _read(root, _table("image,label,split,weight", ROWS, "abaaab", splits, [1, 2, 0.5, 1, 1, 4]))
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 3, "val": 1, "test": 1, "all": 1}
    assert source.splits["train"].weights.tolist() == [1, 2, 0.5]
    assert source.splits["train"].weights.dtype == np.float32


def test_a_file_for_each_split_and_a_test_without_labels(root):
    (root / "val.csv").write_text(_table("image,label", [4, 5], "ab"))
    (root / "test.csv").write_text("image\n3\n")
    (root / "sample_submission.csv").write_text("image,label\n3,a\n")
    source = _read(root, _table("image,label", range(4), "aabb"), "train.csv")
    assert {k: v.targets.tolist() for k, v in source.splits.items()} == {"train": [0, 0, 1, 1], "val": [0, 1]}
    assert "test.csv has no column 'label': it is left out" in source.notes


def test_tsv_semicolons_and_no_header(root):
    assert len(_read(root, "image\tlabel\n0.png\ta, b\n1.png\tc\n", "labels.tsv").splits["all"]) == 2
    (root / "labels.tsv").unlink()
    assert _read(root, "image;label\n0.png;a\n1.png;c\n").classes == ("a", "c")
    assert _read(root, "0.png,a\n1.png,c\n").splits["all"].targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("header", "columns", "options", "task", "targets", "names"),
    [
        ("image,label", [[3, 3, 7, 10, 7, 3]], {}, "classification", [0, 0, 1, 2, 1, 0], ("3", "7", "10")),
        ("image,age", [[3, 3, 7, 10, 7, 3]], {"kind": "regression"}, "regression", [[3], [3], [7], [10], [7], [3]], ()),
        ("image,score", [[0.5, 1, 2, 3, 4, 5]], {}, "regression", [[0.5], [1], [2], [3], [4], [5]], ()),
        ("image,a,b", [[0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1]], {}, "multilabel", None, ("a", "b")),
        ("image,a,b", [[0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0]], {"kind": "classification"}, "classification",
         [1, 0, 0, 1, 1, 0], ("a", "b")),
        ("image,tags", [["x|y", "", "y", "x", "y; x", "x"]], {}, "multilabel",
         [[1, 1], [0, 0], [0, 1], [1, 0], [1, 1], [1, 0]], ("x", "y")),
        ("image,id,u,v", [ROWS, [0.5] * 6, [1.5] * 6], {}, "regression", [[0.5, 1.5]] * 6, ()),
        ("image,tags", [['"[\'x\', \'y\']"', "[]", '"[""y""]"', "['x']", "['y']", ""]], {}, "multilabel",
         [[1, 1], [0, 0], [0, 1], [1, 0], [0, 1], [0, 0]], ("x", "y")),
        ("image,tags", [['"x, y"', '"x,y"', "y", "x", "", "x"]], {"kind": "multilabel"}, "multilabel",
         [[1, 1], [1, 1], [0, 1], [1, 0], [0, 0], [1, 0]], ("x", "y")),
        ("image,tags", [["x y", "x", "y", "x", "", "y  x"]], {"kind": "multilabel"}, "multilabel",
         [[1, 1], [1, 0], [0, 1], [1, 0], [0, 0], [1, 1]], ("x", "y")),
        ("image,note,y2", [list("pqrstu"), [1, 2] * 3], {"target": "y2"}, "classification", [0, 1] * 3, ("1", "2")),
    ],
)  # fmt: skip
def test_the_target_tells_the_task(root, header, columns, options, task, targets, names):
    source = _read(root, _table(header, [f"{k}.png" for k in ROWS], *columns), **options)
    values = source.splits["all"].targets
    assert source.task == task
    assert values.tolist() == (np.transpose(columns).tolist() if targets is None else targets)
    assert values.dtype == (np.int64 if task == "classification" else np.float32)
    assert source.classes == names
    if task == "regression":
        wanted = options.get("target", [n for n in header.split(",")[1:] if n != "id"])
        assert source.target_names == tuple(wanted)


def test_many_integers_are_classes_and_the_note_says_how_to_change_that(root):
    rows = [f"{k % 6}.png,{k}" for k in range(150)]
    source = _read(root, "image,count\n" + "\n".join(rows))
    assert source.task == "classification"
    assert any("150 classes" in n and "--data.kind regression" in n for n in source.notes)


def test_few_images_of_many_integers_are_asked_about_and_labels_that_seem_to_be_several(root):
    def notes(column, values):
        rows = "".join(f"{k % 6}.png,{value}\n" for k, value in enumerate(values))
        return " ".join(_read(root, f"image,{column}\n{rows}").notes)

    assert "give --data.kind regression" in notes("age", range(20, 40))
    assert "regression" not in notes("digit", list(range(10)) * 3)
    assert "give --data.kind multilabel" in notes("tags", ["cat", "dog", "cat dog", "bird", "bird dog", "bird cat"])
    assert "give --data.kind multilabel" in notes("tags", ["cat", "dog", '"cat,dog"'])
    assert "multilabel" not in notes("breed", ["red cat", "red dog", "grey wolf"])


@pytest.mark.parametrize(
    ("labels", "task", "names"),
    [
        (["0_10", "10_20", "20_30"], "classification", ("0_10", "10_20", "20_30")),
        (["1_0", "10", "2"], "classification", ("10", "1_0", "2")),  # Python's int reads 10 twice
        (["1_0.5", "2.5", "3.5"], "classification", ("1_0.5", "2.5", "3.5")),
        (["01", "1", "2"], "classification", ("01", "1", "2")),
        (["01", "02", "+3"], "classification", ("1", "2", "3")),
    ],
)
def test_what_is_written_in_two_ways_stays_two(root, labels, task, names):
    source = _read(root, _table("image,label", [f"{k}.png" for k in ROWS], labels * 2))
    assert (source.task, source.classes) == (task, names)


def test_numbers_may_be_written_in_two_ways(root):
    rows = "0.png,01,1\n1.png,1,01\n2.png,2,2\n"
    source = _read(root, f"image,age,weight\n{rows}", kind="regression")
    assert source.splits["all"].targets.tolist() == [[1], [1], [2]]
    assert source.splits["all"].weights.tolist() == [1, 1, 2]


def test_a_few_whole_numbers_are_asked_about(root):
    """pandas writes labels as 1.0 once one of them was missing."""

    def notes(values, **options):
        return " ".join(_read(root, "image,label\n" + "".join(f"0.png,{v}\n" for v in values), **options).notes)

    asked = "read as numbers: regression; if these are classes, give --data.kind classification"
    assert asked in notes(["0.0", "1.0", "2.0"] * 3)
    assert "if these are classes" not in notes(["0.0", "1.5", "2.0"] * 3)
    assert "if these are classes" not in notes([f"{k}.0" for k in range(20, 40)])
    assert "if these are classes" not in notes(["0.0", "1.0"] * 3, kind="regression")


def test_y_beside_x_is_a_coordinate(root):
    images = [f"{k}.png" for k in ROWS]
    both = _read(root, _table("image,x,y", images, [0.5] * 6, [1.5] * 6))
    assert (both.task, both.target_names) == ("regression", ("x", "y"))
    assert _read(root, _table("image,x,y,label", images, [0.5] * 6, [1.5] * 6, "ababab")).classes == ("a", "b")
    assert _read(root, _table("image,z,Y", images, [0.5] * 6, "ababab")).classes == ("a", "b")
    with pytest.raises(UserError, match=r"any of the columns 'x', 'y'; choose with --data\.target"):
        _read(root, _table("image,x,y", images, ROWS, ROWS))


def test_decimal_commas_of_spreadsheets(root):
    source = _read(root, "image;size;weight\n0.png;1,5;0,5\n1.png;-2;1\n")
    assert source.task == "regression"
    assert source.splits["all"].targets.tolist() == [[1.5], [-2.0]]
    assert source.splits["all"].weights.tolist() == [0.5, 1.0]
    assert _read(root, "image;size\n0.png;1,5\n1.png;a,b\n").classes == ("1,5", "a,b")


@pytest.mark.parametrize(("encoding", "separator"), [("utf-8-sig", ";"), ("utf-16", "\t"), ("utf-16", ";")])
def test_tables_of_spreadsheets_in_other_countries(root, encoding, separator):
    rows = [
        "image@Größe",
        *(f"{r}@{v}" for r, v in zip(ROWS, ["1.000,5", "1.234", "2,5", "3", "4,25", "5,5"], strict=True)),
    ]
    (root / "labels.csv").write_bytes("\r\n".join(rows).replace("@", separator).encode(encoding))
    source = read_images(root / "labels.csv")
    assert (source.task, source.target_names) == ("regression", ("Größe",))
    assert sorted(source.splits["all"].targets[:, 0].tolist()) == [2.5, 3.0, 4.25, 5.5, 1000.5, 1234.0]


def test_what_is_not_used_is_named(root):
    source = _read(root, "id,image,label,is_valid,note\n7,0.png,a,1,x\n8,1.png,b,0,y\n")
    assert "not used: columns 'is_valid', 'note'" in source.notes
    assert source.root == str(root / "labels.csv")


def test_one_hot_columns_are_pointed_out(root):
    source = _read(root, _table("image,a,b", [f"{k}.png" for k in ROWS], [0, 1] * 3, [1, 0] * 3))
    assert any("--data.kind classification" in n for n in source.notes)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("image,label\n0,a\n1,\n", {}, r"labels\.csv, line 3: the column 'label' is empty"),
        ("image,label\n0,a\n,b\n", {}, r"labels\.csv, line 3: no image name"),
        (
            "image,label\nhttps://a.b/0.png,a\n",
            {"image_column": "image"},
            r"line 2: https://a.b/0.png is an address; d",
        ),
        ("image,y\n0,1.5\n" + "1,2.5\n" * 11 + "2,n/a\n", {}, r"line 14: 'n/a' in the column 'y' is no number as"),
        ("image,label\n", {}, r"labels\.csv: no rows under the header; export it again"),
        ("image,label\n0,a\n1,b,c\n", {}, r"line 3: 3 entries, but its first line names 2 columns"),
        ("image,note,colour\n0,a,b\n1,c,d\n", {}, r"could be any of the columns 'note', 'colour'; choose .*target"),
        ("image\n0\n1\n", {}, r"no column with labels beside its images; add one named 'label'"),
        ("image,label\n0,a\n1,b\n", {"target": "breed"}, r"no column 'breed' for the target, only 'label'"),
        ("image,label\n0,a\n1,b\n", {"image_column": "pic"}, r"no column 'pic', only image, label"),
        ("image,label\n0,a\n1,b\n", {"kind": "regression"}, r"'label' holds no numbers but 'a'"),
        ("image,label\n0,0.5\n1,b1\n", {"kind": "regression"}, r"'label' holds no numbers"),
        ("image,label\n0,0.5\n1,1.5\n", {"kind": "classification"}, r"holds numbers with decimals"),
        ("image,a,b\n0,1,1\n1,0,1\n", {"kind": "classification"}, r"line 2: .*must hold a single 1"),
        ("image,a,b\n0,1,3\n1,0,1\n", {"kind": "multilabel", "target": ["a", "b"]}, r"'b' holds more than 0 and 1"),
        ("image,label,weight\n0,a,1\n1,b,x\n", {}, r"line 3: the weight 'x' is not a number"),
        ("image,label,weight\n0,a,1\n1,b,\n", {}, r"line 3: the column 'weight' is empty"),
        ("image,label,split\n0,Cat,train\n1,cat,val\n", {}, r"train has 'Cat' and val has 'cat'"),
    ],
)
def test_broken_tables_are_one_sentence(root, text, options, message):
    with pytest.raises(UserError, match=message):
        _read(root, text, **options)


@pytest.mark.parametrize("cell", ["2024-01-0{}", "0{}.12.2024", "2024/1/{} 13:05", "2024-03-0{}T08:00:00Z"])
def test_dates_are_no_classes_unless_it_is_said(root, cell):
    """Beside a label they are not used; alone they were 28 classes without a word."""
    text = _table("image,taken", ROWS, [cell.format(k % 3 + 1) for k in ROWS])
    with pytest.raises(UserError, match=r"labels\.csv: the column 'taken' holds dates, such as .*1.*--data\.target"):
        _read(root, text)
    assert len(_read(root, text, kind="classification").classes) == 3
    assert _read(root, "image,taken,label\n0,2024-01-01,a\n1,2024-01-02,b\n").classes == ("a", "b")
    assert len(_read(root, _table("image,label", ROWS, ["1-2-2024x", "b", "c"] * 2)).classes) == 3


@pytest.mark.parametrize("nan", ["nan", "NaN", " NAN"])
def test_a_missing_label_as_pandas_writes_it_is_no_class(root, nan):
    text = _table("image,label", ROWS, ["a", nan, "b", "b", nan, "a"])
    with pytest.raises(UserError, match=rf"line 3: '{nan.strip()}' .*for a missing label \(1 more like it\)"):
        _read(root, text)
    assert len(_read(root, text, kind="classification").classes) == 3
    assert _read(root, _table("image,label", ROWS, ["none", "NA", "nana"] * 2)).classes == ("NA", "nana", "none")


def test_a_table_that_is_no_text_and_two_that_could_be_meant(root):
    (root / "labels.csv").write_bytes(b"image,label\n0,\xff\xfe\n")
    with pytest.raises(
        UserError, match=r"no text in UTF-8 or UTF-16 \(byte 0x..\); save it as UTF-8, in Excel as 'CSV U"
    ):
        read_images(root / "labels.csv")
    (root / "a.csv").write_text("image,label\n0,a\n")
    (root / "b.csv").write_text("image,label\n0,a\n")
    (root / "labels.csv").write_text("")
    with pytest.raises(UserError, match=r"labels\.csv is empty; export it again"):
        read_images(root / "labels.csv")
    (root / "labels.csv").unlink()
    with pytest.raises(UserError, match=r"a\.csv, b\.csv all list images; give one file"):
        read_images(root)
    assert len(read_images(root / "b.csv").splits["all"]) == 1


def test_an_image_that_does_not_exist_keeps_its_name_for_the_audit(root):
    table = _read(root, "image,label\n0,a\nnone.png,b\n").splits["all"]
    assert table.images.name(1) == str(root / "none.png")
    assert table.images.stamp(1) == (-1, -1)


@pytest.mark.parametrize("place", ["https://x.y/0.png", "s3://bucket/0.png", "file:///data/0.png"])
def test_addresses_are_told_from_files(root, place):
    with pytest.raises(UserError, match=r"line 2: .* is an address; download the images"):
        _read(root, f"image,label\n{place},a\n1,b\n")


def test_codes_of_one_length_keep_their_zeros(root):
    source = _read(root, _table("image,label", ROWS, ["001", "102"] * 3))
    assert (source.task, source.classes) == ("classification", ("001", "102"))
