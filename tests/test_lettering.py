"""Names in other scripts are drawn without a warning, and stay distinct."""

import warnings

import numpy as np
import pytest

from interp_cnn.figures.confusion import confusion_matrix
from interp_cnn.figures.lettering import drawable
from interp_cnn.figures.map_sheet import _cut, _font

NAMES = ["猫", "狗", "บิลลี่", "кошка", "γάτα", "قط", "🐈", "कुत्ता", "\U0001f98a fox", "x\u0301", "$a_b$"]


def test_letters_that_the_typeface_lacks_are_numbers():
    assert drawable("fox, café, γάτα, кошка") == "fox, café, γάτα, кошка"
    assert drawable("猫狗 cat") == "<732B 72D7> cat"
    assert len({drawable(name) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_any_script_is_drawn_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = confusion_matrix(np.eye(2), [name, "other"])
        assert np.asarray(picture).std() > 0
    assert _font(12).getlength(_cut(name, _font(12), 60)) <= 60
