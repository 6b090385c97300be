"""A new model folder of a standard task: written whole, checked, and ready to train on the sample that comes with it.

The text of the files lies in `templates/`, one folder a task and one for what all have.
"""

from modelport.scaffold.create import create
from modelport.scaffold.rendering import SAMPLE_EPOCHS

__all__ = ["SAMPLE_EPOCHS", "create"]
