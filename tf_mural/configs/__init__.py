"""Configs of the stages: `from tf_mural.configs import etcl`.

In a clone, the files of this package are in the folder `configs/` of the repository. A wheel
contains that folder in the place of this file (`package-dir` in pyproject.toml).
"""

import os

_REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
__path__ = [os.path.join(_REPOSITORY, "configs")]
