"""Settings for all tests: hypothesis tries the same examples in every run, so that results are reproducible.

`make test-slow`, or HYPOTHESIS_PROFILE=search, tries new examples.
"""

import os

from hypothesis import settings

# pytest-xdist sets it for its workers; commands would fold their output to it, also in a pipe.
os.environ.pop("COLUMNS", None)

# No deadline: a busy machine must not make a test fail. Speed is measured in bench/.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
