"""Constructs models and loads their weights, on a thread of its own, so that others are served meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

import torch

from batchd_server.config.policies import layouts_to_try, model_policy
from batchd_server.config.settings import Settings
from batchd_server.device.black_box import BlackBox
from batchd_server.device.failures import describe
from batchd_server.device.memory.ledger import tensors_in
from batchd_server.device.training.promotion import PromotedWeights
from batchd_server.device.warmup import example_items, planned_batches
from batchd_server.device.work import Loaded, LoadFailed
from batchd_server.device.worker_thread import WorkerThread
from batchd_server.models.loading import ModelLoadError, construct
from batchd_server.models.protocol import Model
from batchd_server.models.trainable import Trainable

log = logging.getLogger(__name__)


class Loader(WorkerThread[str]):
    """Loads one model after another. `deliver` is called on the loader's thread."""

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        deliver: Callable[[Loaded | LoadFailed], None],
        hold: Callable[[Iterable[torch.Tensor]], None],
        promoted: PromotedWeights | None = None,
        black_box: BlackBox | None = None,
    ) -> None:
        super().__init__("loader")
        self._black_box = black_box or BlackBox()
        self._settings = settings
        self._device = device
        self._hold = hold
        self._promoted = promoted
        self._deliver = deliver

    def _main(self) -> None:
        while (name := self._inbox.get()) is not None:
            self._run(name)

    def _run(self, name: str) -> None:
        log.info("loading model %s", name)
        try:
            with self._black_box.beside(f"loading model {name}"):
                result: Loaded | LoadFailed = self._load(name)
        except ModelLoadError as error:
            result = LoadFailed(name, str(error))
        except BaseException as error:  # user code: whatever it raises is the reason, sys.exit included
            log.warning("model %s cannot be loaded", name, exc_info=error)
            result = LoadFailed(name, describe(error))
        self._deliver(result)

    def _load(self, name: str) -> Loaded:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        settings = self._settings.models[name]
        model = construct(settings)
        policy = model_policy(settings.batching, self._settings.defaults.batching, type(model))
        with torch.no_grad():
            model.load(self._device)
            self._promote(name, model)
        self._hold(weights_of(model))
        return Loaded(
            name=name,
            model=model,
            policy=policy,
            examples=example_items(model),
            resident_bytes=resident_bytes(model),
            planned=planned_batches(model, policy),
            layouts=layouts_to_try(settings.batching, self._settings.defaults.batching, type(model)),
        )

    def _promote(self, name: str, model: Model) -> None:
        """Serve with the weights that the model was last promoted to, if it was."""
        if self._promoted is None or not isinstance(model, Trainable):
            return
        try:
            weights = self._promoted.serving(name)
            if weights is not None:
                model.adopt(weights)
        except Exception as error:  # noqa: BLE001 - its own weights are better than none
            log.error("model %s serves with its own weights, not with those promoted: %s", name, describe(error))


def resident_bytes(model: Model) -> int | None:
    """Return the bytes of the distinct tensors that a model's attributes hold; None where none are found."""
    sizes: dict[int, int] = {}
    for tensor in weights_of(model):
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values()) if sizes else None


def weights_of(model: Model) -> Iterator[torch.Tensor]:
    """Yield the tensors that a model's attributes hold."""
    for value in vars(model).values() if hasattr(model, "__dict__") else ():
        yield from _weights(value)


def _weights(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.nn.Module):
        yield from value.parameters()
        yield from value.buffers()
    else:
        yield from tensors_in(value)
