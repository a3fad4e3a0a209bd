"""Small model files of the kinds that readers get wrong: each has the surface and the colours that it should, or is refused by name."""
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mesh_cases import write_cases  # noqa: E402
from sie.mesh_files import load_model  # noqa: E402


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("cases")
    write_cases(home)
    return home


def all_cases():
    import tempfile
    with tempfile.TemporaryDirectory() as home:
        return write_cases(Path(home))


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.file)
def test_each_case_is_right(folder, case):
    if case.refused:
        with pytest.raises(ValueError, match=case.refused):
            load_model(folder / case.file)
        return
    mesh = load_model(folder / case.file, detail=.02)
    np.testing.assert_allclose(mesh.area, case.area, rtol=1e-3)
    seen = mesh.visual.face_colors[:, :3].astype(int)
    for name, expected in case.colours.items():
        near = (abs(seen - np.array(name.split(), int)) <= 12).all(1)
        share = mesh.area_faces[near].sum() / mesh.area
        assert abs(share - expected) <= case.within + .02, f"{share:.3f} instead of {expected} of {name}"
