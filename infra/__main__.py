"""`pulumi up`; what it makes is in `program`."""

import gc

# The SDKs are classes by the ten thousand, and what is registered lives until the program ends: looking for garbage
# took two fifths of a preview's processor time, and found next to none.
gc.set_threshold(100_000, 50, 100)

from infra.program import run  # noqa: E402 - importing is the half of it

run()
