"""Names and numbers of predicted images."""

from dlrecipes.cli.predict_detection import image_ids, picture_names


def test_image_ids_are_cocos_where_the_files_are_named_by_them() -> None:
    assert image_ids(["x/000000397133.jpg", "x/000000000139.jpg"]) == [397133, 139]
    assert image_ids(["x/1.jpg", "y/1.jpg"]) == [0, 1]
    assert image_ids(["x/cat.jpg", "x/2.jpg"]) == [0, 1]


def test_pictures_of_one_name_keep_apart() -> None:
    assert picture_names(["in/x/1.jpg", "in/y/1.jpg"]) == ["x_1.jpg.png", "y_1.jpg.png"]
    assert picture_names(["in/1.jpg", "in/1.png"]) == ["1.jpg.png", "1.png.png"]
