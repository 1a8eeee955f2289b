"""What holds for all tests: hypothesis tries the same examples each time, so that a run means the same everywhere.

New examples are looked for with `make test-slow`, or HYPOTHESIS_PROFILE=search.
"""

import os

from hypothesis import settings

# No deadline: the machines are shared, and speed is measured in bench/.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
