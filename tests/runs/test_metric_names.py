import pytest

from dlrecipes.runs.metric_names import format_value, metric_title, panel_of, summarise


def test_a_detection_headline_brings_the_sizes_and_leaves_out_what_there_is_none_of():
    values = {"val/map": 0.4, "val/map_50": 0.6, "val/map_small": -1.0, "val/map_large": 0.5}
    assert summarise(values, "val", ("map",)) == "mAP 0.400  mAP50 0.600  mAP large 0.500"


def test_a_negative_r2_is_a_number_like_any_other():
    assert summarise({"test/r2": -1.5, "val/r2": 0.5}, "test", ("mae", "r2")) == "R² -1.500"


def test_multilabel_map_does_not_pull_in_detection_metrics():
    assert summarise({"val/map": 0.4, "val/f1": 0.5}, "val", ("map", "f1")) == "mAP 0.400  F1, macro 0.500"


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "nan"), (-0.0004, "-4.00e-04"), (999.9996, "1000.000")])
def test_numbers_of_any_size(value, text):
    assert format_value(value) == text


def test_a_metric_of_the_users_own_keeps_its_name_and_is_drawn_with_quality():
    assert metric_title("test/kappa") == "kappa"
    assert panel_of("val/kappa") == "quality"
    assert panel_of("rmse") == "error"
