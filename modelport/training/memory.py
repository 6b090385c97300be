"""What was trained, remembered for longer than its checkpoints: they expire, and the RayJob may be tidied away.

One small object a training (`run_key`), under a prefix that does not expire. It is written when the release is
registered, and keeps the same code from being trained on the same data once more.
"""

from pydantic import BaseModel, ConfigDict, ValidationError

from modelport.errors import BadInput
from modelport.objects import NotFound, ObjectStore
from modelport.training.identity import KEY_LENGTH


class _Done(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    run: str


def remember(store: ObjectStore, model: str, run_key: str, run: str) -> None:
    """Write down, as the trainer, that this run of a training came to its end."""
    store.put(_key(model, run_key), _Done(run=run).model_dump_json().encode())


def remembered(store: ObjectStore, model: str, run_key: str) -> str | None:
    """Name of the last run of a training that came to its end; None where none did.

    Raises:
        BadInput: what was written is damaged.
    """
    key = _key(model, run_key)
    try:
        return _Done.model_validate_json(store.get(key)).run
    except NotFound:
        return None
    except ValidationError as error:
        raise BadInput(f"is damaged: {error}", file=f"s3://{store.bucket}/{key}", remedy="remove it") from None


def _key(model: str, run_key: str) -> str:
    return f"trained/{model}/{run_key[:KEY_LENGTH]}.json"
