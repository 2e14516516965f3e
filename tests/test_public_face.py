"""What a user imports from `interp_cnn`: every name is there, importing costs nothing, and calls feel at home."""

import subprocess
import sys

import pytest

import interp_cnn


def test_every_public_name_is_loaded_when_it_is_used():
    for name in interp_cnn.__all__:
        assert getattr(interp_cnn, name) is not None
    assert set(interp_cnn.__all__) <= set(dir(interp_cnn))
    assert interp_cnn.__version__.count(".") >= 1


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="oclusion_map"):
        _ = interp_cnn.oclusion_map


def test_importing_the_package_loads_no_heavy_library():
    heavy = "{'torch', 'numpy', 'hydra', 'pandas', 'matplotlib', 'pytorch_lightning'}"
    code = f"import sys, interp_cnn; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_public_names_can_be_imported_by_name_in_a_fresh_process():
    code = f"from interp_cnn import {', '.join(interp_cnn.__all__)}"
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True)
