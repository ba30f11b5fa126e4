"""Configs of the stages: `from tf_mural.configs import etcl`.

In a clone, this file adds the folder `configs/` of the repository to the package. In a wheel, the
folder `configs/` is the package and replaces this file (`package-dir` in pyproject.toml).
"""

import os

_REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
__path__ = [os.path.join(_REPOSITORY, "configs")]
