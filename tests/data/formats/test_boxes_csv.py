import pytest

from dlrecipes.data.formats.discover import holds_detection, read_detection
from dlrecipes.errors import UserError


def test_file_per_split(tiny):
    source = read_detection(tiny.write_csv())
    assert source.format == "csv"
    tiny.check(source, category_ids=(1, 2, 3))


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("image,x1,y1,x2,y2,label", ","),
        ("filename,xmin,ymin,xmax,ymax,class", ";"),
        ("Image_Path,X_Min,Y_Min,X_Max,Y_Max,Class_Name", "\t"),
        ("", ","),
    ],
)
@pytest.mark.parametrize("name", ["boxes.csv", "annotations.csv"])
def test_headers_and_separators(tiny, header, separator, name):
    tiny.write_images(tiny.root / "images", tiny.items)
    tiny.write_text(name, "\ufeff" + tiny.csv_text(tiny.items, header, separator))
    source = read_detection(tiny.root)
    tiny.check(source, ["all"])
    assert "no split is given" in source.notes
    tiny.check(read_detection(tiny.root / name), ["all"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_decimal_commas_and_the_text_of_excel(tiny, encoding):
    tiny.write_csv()
    file = next(tiny.root.rglob("*.csv"))
    rows = [line.split(",") for line in file.read_text().splitlines()]
    text = "\r\n".join(
        ";".join(cell.replace(".", ",") if k in range(1, 5) else cell for k, cell in enumerate(r)) for r in rows
    )
    file.write_bytes(text.encode(encoding))
    tiny.check(read_detection(tiny.root))
    file.write_bytes(text.replace("cat", "K\xe4tzchen").encode("latin-1"))
    with pytest.raises(UserError, match=r"is no text in UTF-8 or UTF-16 \(byte 0xe4\); save it as"):
        read_detection(tiny.root)


def test_roboflow_folders_with_image_sizes(tiny):
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        tiny.write_images(tiny.root / folder, tiny.of(split))
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for item in tiny.of(split):
            for b, n in zip(item.boxes, item.names, strict=True):
                lines.append(",".join(map(str, (f"{item.stem}.png", *item.size, n, *b))))
        tiny.write_text(f"{folder}/_annotations.csv", "\n".join(lines))
    tiny.items = [i for i in tiny.items if i.boxes]  # this layout cannot say that an image is empty
    tiny.check(read_detection(tiny.root))


def test_split_column_decides(tiny):
    tiny.write_images(tiny.root, tiny.items)
    names = {"train": "training", "val": "valid", "test": "test"}
    rows = [
        f"{i.stem}.png,{names[i.split]},{','.join(map(str, b))},{n}"
        for i in tiny.items
        for b, n in zip(i.boxes, i.names, strict=True)
    ]
    empty = f"{tiny.items[2].stem}.png,train,,,,,"
    tiny.write_text("all.csv", "\n".join(["path,split,x1,y1,x2,y2,label", *rows, empty]))
    tiny.check(read_detection(tiny.root))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("im 0.png,1,2,3,x,cat", "a.csv, line 3: 'x' is not a number"),
        ("im 0.png,1,2,3,,cat", "a.csv, line 3: '' is not a number"),
        (",1,2,3,4,cat", "a.csv, line 3: no image name"),
        ("im 0.png,1,2,3,4,", "a.csv, line 3: a box without a label"),
    ],
)
def test_broken_row_is_named(tiny, row, message):
    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("a.csv", f"image,x1,y1,x2,y2,label\nim 1.png,1,2,30,40,dog\n{row}\n")
    with pytest.raises(UserError, match=message):
        read_detection(tiny.root)


def test_csv_without_boxes_is_refused_and_not_found_in_a_folder(tiny):
    tiny.write_text("train.csv", "name,price\na,3\n")
    with pytest.raises(UserError, match=r"train.csv: no columns image, x1, y1, x2, y2, label"):
        read_detection(tiny.root / "train.csv")
    with pytest.raises(UserError, match="holds no known annotation format"):
        read_detection(tiny.root)


def test_header_alone_is_refused(tiny):
    tiny.write_text("train.csv", "image,x1,y1,x2,y2,label\n")
    with pytest.raises(UserError, match=r"train.csv: no rows"):
        read_detection(tiny.root)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "image,x,y,w,h,label",
            "the columns x, y, w, h look like boxes by their size, where corners are due; name the",
        ),
        (
            "filename,width,height,xmin,ymin,class",
            "the columns xmin, ymin, width, height look like boxes by their size",
        ),
        ("image_id,width,height,bbox,source", "the column 'bbox' holds whole boxes; name the columns image, x1, y1"),
        ("uri,xmin,ymin,xmax,ymax,kind", "it has the corners of boxes but no column image and label; name the columns"),
        ("image,xmin,ymin,xmax,ymax", "it has the corners of boxes but no column label; name the columns"),
    ],
)
def test_boxes_in_other_columns_are_refused_by_name(tiny, header, message):
    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("boxes.csv", f"{header}\n" + "1," * header.count(",") + "1\n")
    for path in (tiny.root, tiny.root / "boxes.csv"):
        assert holds_detection(path)  # so that check-data does not take it for labels of whole images
        with pytest.raises(UserError, match=f"boxes.csv: {message}"):
            read_detection(path)


@pytest.mark.parametrize("header", ["image,label", "image,x,y,label", "image,width,height,label", "image,price"])
def test_labels_of_whole_images_are_no_boxes(tiny, header):
    tiny.write_images(tiny.root, tiny.items)
    tiny.write_text("labels.csv", f"{header}\n")
    assert not holds_detection(tiny.root)
