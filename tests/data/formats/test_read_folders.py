import pytest

from dlrecipes.data.formats.discover_images import holds_images, read_images
from dlrecipes.errors import UserError


@pytest.fixture
def write(tmp_path, image_writer):
    def write(*paths):
        for seed, path in enumerate(paths):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            image_writer(tmp_path / path, (8, 8), seed)
        return tmp_path

    return write


def _rows(source):
    return {
        split: {
            table.images.name(i)[len(source.root) + 1 :]: source.classes[table.targets[i]] for i in range(len(table))
        }
        for split, table in source.splits.items()
    }


def test_classes_without_splits(write):
    root = write("dog/a.png", "cat/b.png", "cat/deep/er/c.JPG", "cat/.hidden.png", ".git/x.png")
    (root / "cat/notes.txt").write_text("no image")
    source = read_images(root)
    assert source.classes == ("cat", "dog")
    assert _rows(source) == {"all": {"cat/b.png": "cat", "cat/deep/er/c.JPG": "cat", "dog/a.png": "dog"}}
    assert source.notes == ("no split is given",)
    assert (source.format, source.task) == ("folders", "classification")


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev"])
def test_split_folders(write, val):
    root = write("train/cat/1.png", "train/dog/2.png", f"{val}/cat/3.png", "test/dog/4.png")
    assert _rows(read_images(root)) == {
        "train": {"train/cat/1.png": "cat", "train/dog/2.png": "dog"},
        "val": {f"{val}/cat/3.png": "cat"},
        "test": {"test/dog/4.png": "dog"},
    }


def test_a_class_may_be_called_train(write):
    source = read_images(write("train/1.png", "plane/2.png"))
    assert source.classes == ("plane", "train")
    assert list(source.splits) == ["all"]


def test_folder_in_a_folder_is_entered_and_train_alone_stays_train(write):
    root = write("archive/pets/cat/1.png", "archive/pets/dog/2.png")
    assert read_images(root).root.endswith("pets")
    root = write("only/train/cat/1.png", "only/train/dog/2.png")
    assert list(read_images(root / "only").splits) == ["train"]


def test_what_is_not_read_is_told(write):
    root = write("train/cat/1.png", "train/dog/2.png", "test/3.png", "extra/cat/4.png")
    (root / "train/bird").mkdir()
    source = read_images(root)
    assert source.notes == (
        "test holds images without class folders: it is left out",
        "extra: not named after a split, left out",
    )
    assert [(f.kind, f.where) for f in source.problems] == [("folder without images (no class)", "bird")]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["cat/1.png", "dog/2.png", "3.png"], r"1 image beside the class folders of .*3\.png; move each"),
        (["train/cat/1.png", "train/2.png"], r"1 image beside .*train, such as 2\.png"),
        (["train/1.png", "val/2.png"], r"images lie in train without class folders; move each into .*train/cat"),
        (["1.png", "2.png"], r"holds 2 images, such as 1\.png, but no labels; move each .*labels\.csv"),
        (["train/Cat/1.png", "val/cat/2.png"], r"train has 'Cat' and val has 'cat'"),
        (["train/cat/1.png", "val/dog/2.png"], r"with none in common"),
    ],
)
def test_broken_layouts_are_one_sentence(write, paths, message):
    root = write(*paths)
    assert holds_images(root)
    with pytest.raises(UserError, match=message):
        read_images(root)


def test_options_of_tables_are_refused(write):
    root = write("cat/1.png", "dog/2.png")
    with pytest.raises(UserError, match=r"have no columns: leave out --data.target"):
        read_images(root, target="label")
    with pytest.raises(UserError, match=r"cannot be read as regression"):
        read_images(root, kind="regression")
    with pytest.raises(UserError, match=r"CIFAR10 has one class an image: leave out --data.target"):
        read_images("torchvision:CIFAR10", target="label")
    with pytest.raises(UserError, match=r"kind must be one of auto, .*got 'classes'"):
        read_images(root, kind="classes")


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"is empty; looked for folders named as classes"):
        read_images(tmp_path / "empty")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no labelled images; looked for .*Parquet"):
        read_images(tmp_path)
    with pytest.raises(UserError, match=r"a\.txt is no table"):
        read_images(tmp_path / "a.txt")
    assert not holds_images(tmp_path)


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo"])
def test_boxes_are_sent_to_the_other_recipe(tiny, layout):
    root = tiny.write(layout)
    with pytest.raises(UserError, match=r"holds boxes of objects, not labels .*: train with recipes/train_detr\.py"):
        read_images(root)


def test_a_link_to_a_folder_around_it_is_not_followed(write):
    root = write("cat/a.png", "cat/deep/b.png", "dog/c.png")
    (root / "cat/around").symlink_to("..")
    (root / "cat/itself").symlink_to(".")
    (root / "cat/deep/up").symlink_to(root / "cat")
    (root / "cat/twice").symlink_to("deep")
    (root / "elsewhere").mkdir()
    source = read_images(root)
    assert _rows(source) == {"all": {"cat/a.png": "cat", "cat/deep/b.png": "cat", "dog/c.png": "dog"}}
    links = [finding.where for finding in source.problems if finding.kind.startswith("link to a folder")]
    assert links == ["cat/around", "cat/itself", "cat/twice", "cat/deep/up"]


def test_a_folder_elsewhere_that_a_class_links_to_is_read(write, tmp_path_factory, image_writer):
    store = tmp_path_factory.mktemp("store")
    image_writer(store / "x.png", (8, 8), 7)
    root = write("cat/a.png", "dog/c.png")
    (root / "dog/more").symlink_to(store)
    assert _rows(read_images(root))["all"]["dog/more/x.png"] == "dog"


def test_hidden_folders_with_images_are_told(write):
    notes = read_images(write("cat/a.png", "dog/b.png", ".mouse/c.png", ".ipynb_checkpoints/d.png")).notes
    assert any(note.startswith("hidden folders are left out, though they hold images: .mouse;") for note in notes)
    assert "checkpoints" not in " ".join(notes)


def test_pictures_of_kinds_that_are_not_read_are_told(write):
    root = write("cat/1.png", "dog/2.png")
    for name in ("cat/IMG_1.HEIC", "dog/3.avif", "dog/._4.heic"):
        (root / name).write_bytes(b"...")
    note = "2 pictures of kinds that are not read (.avif, .heic), such as cat/IMG_1.HEIC: convert to JPEG or PNG"
    assert note in read_images(root).notes
