"""The model folders, as this stack sees them: checked against the contract, with the stack's overrides applied.

Imports no torch, ray or mlflow: the contract is pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from infra.settings import ModelSettings, Settings
from modelport.contract import Bundle, ModelFolder, ModelSpec, check, discover
from modelport.errors import BadInput


@dataclass(frozen=True)
class Model:
    """One model folder in one stack."""

    folder: ModelFolder
    spec: ModelSpec
    """With the stack's overrides."""
    settings: ModelSettings
    version: str | None
    """Digest of the release that it is pinned to; None follows the promotion log."""

    @property
    def name(self) -> str:
        """Name of the model, as in Python."""
        return self.spec.name

    @property
    def dns(self) -> str:
        """Its name where Kubernetes allows no underscore."""
        return dns_name(self.name)

    @property
    def pool(self) -> str:
        """Name of the Triton pool that serves it."""
        return dns_name(self.spec.serve.pool) if self.spec.serve.pool else self.dns

    @cached_property
    def bundle(self) -> Bundle:
        """Its code."""
        return self.folder.bundle()


def dns_name(name: str) -> str:
    """A model's or pool's name as Kubernetes takes it.

    Raises:
        BadInput: it ends with an underscore.
    """
    if name.endswith("_"):
        raise BadInput(
            f"{name!r} ends with an underscore", key="name", remedy="Kubernetes names end with a letter or digit"
        )
    return name.replace("_", "-")


def load_models(root: Path, settings: Settings) -> list[Model]:
    """Every model folder of the project, by name.

    Raises:
        BadInput: a folder breaks the contract (every problem of every folder is listed), an override or a pin names an
            unknown model, or a model names an unknown pool.
    """
    folders = discover(root)
    problems = [str(problem.error()) for folder in folders for problem in check(folder)]
    if problems:
        raise BadInput(
            "model folders break the contract:\n" + "\n".join(problems), remedy="`modelport check` says the same"
        )
    by_name = _unique(folders)
    for key, names in (("models", settings.models), ("versions", settings.versions)):
        for name in names:
            if name not in by_name:
                raise BadInput(
                    f"there is no model {name!r}",
                    key=f"modelport:{key}.{name}",
                    remedy=f"models here: {', '.join(by_name) or 'none'}; remove the key, or correct its spelling",
                )
    models = [_model(folder, settings) for folder in by_name.values()]
    for model in models:
        if model.spec.serve.pool and model.pool not in settings.triton_pools:
            raise BadInput(
                f"is {model.spec.serve.pool!r}, a pool that this stack does not have",
                file=model.folder.path / "model.yaml",
                key="serve.pool",
                remedy=f"pools of the stack: {', '.join(settings.triton_pools) or 'none'} (modelport:triton_pools)",
            )
        if not model.spec.serve.pool and model.dns in settings.triton_pools:
            raise BadInput(
                f"is also the name of model {model.name}, whose own pool is called so",
                key=f"modelport:triton_pools.{model.dns}",
                remedy="give the shared pool another name",
            )
    return models


def _unique(folders: Sequence[ModelFolder]) -> Mapping[str, ModelFolder]:
    by_dns: dict[str, ModelFolder] = {}
    for folder in folders:
        twin = by_dns.setdefault(dns_name(folder.name), folder)
        if twin is not folder:
            raise BadInput(f"two models have one name: {twin.path} and {folder.path}", remedy="rename one of them")
    return {folder.name: folder for folder in folders}


def _model(folder: ModelFolder, settings: Settings) -> Model:
    spec = folder.spec
    own = settings.models.get(spec.name, ModelSettings())
    train, serve = own.train, own.serve
    workers = {
        "count": train.workers,
        "cpus": train.cpus,
        "gpus": train.gpus,
        "memory": train.memory,
        "gpu_memory": train.gpu_memory,
        "accelerator": train.accelerator,
    }
    served = {
        "replicas": serve.replicas,
        "precision": serve.precision,
        "cpus": serve.cpus,
        "gpus": serve.gpus,
        "memory": serve.memory,
        "gpu_memory": serve.gpu_memory,
        "accelerator": serve.accelerator,
    }
    merged = spec.model_copy(
        update={
            "train": spec.train.model_copy(
                update={
                    "workers": spec.train.workers.model_copy(update=_given(workers)),
                    **_given({"schedule": train.schedule}),
                }
            ),
            "serve": spec.serve.model_copy(update=_given(served)),
        }
    )
    return Model(folder, merged, own, settings.versions.get(spec.name))


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}
