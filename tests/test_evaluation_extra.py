"The modules of `sie.evaluation` without the packages of their extra."

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "missing"),
    [("statistics", "pandas"), ("protocol", "pandas"), ("figures", "matplotlib"), ("analysis", "matplotlib")],
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(module, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import sie.evaluation.{module}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = run.stderr.splitlines()[-1]
    assert f"sie.evaluation.{module} needs {missing}" in last and "pip install 'sie[evaluation]'" in last
