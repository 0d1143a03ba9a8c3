"""Takes models from configured to ready and back: load, warm up, open; close, release.

Runs on the engine's thread; the slow parts run on the loader's and the executor's and come back as events.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from batchd.device_scheduler import DeviceScheduler
from batchd.policy import Layout
from batchd_server.device.learned_state import Learned, LearnedState, LearnedWriter
from batchd_server.device.repository import Caller, Entry, Repository
from batchd_server.device.serving import Serving
from batchd_server.device.work import (
    CalibrationRun,
    Example,
    Loaded,
    LoadFailed,
    ReleaseDone,
    ReleaseWork,
    WarmUpDone,
    WarmUpWork,
    Work,
)
from batchd_server.errors import ModelFailed, NotFound, ServingError, Unavailable

log = logging.getLogger(__name__)

Reply = Callable[[Caller, Any, ServingError | None], None]


class ModelLifecycle:
    """Moves the repository's states along."""

    def __init__(
        self,
        repository: Repository,
        controller: DeviceScheduler,
        serving: Serving,
        learned: LearnedState | LearnedWriter,
        *,
        circumstances: Mapping[str, Mapping[str, Any]],
        load: Callable[[str], None],
        submit: Callable[[Work], None],
        reply: Reply,
    ) -> None:
        self._repository = repository
        self._controller = controller
        self._serving = serving
        self._learned = learned
        self._circumstances = circumstances
        self._load = load
        self._submit = submit
        self._reply = reply

    def start(self) -> None:
        """Load every model that is to be loaded at start."""
        for name in self._repository.names():
            if self._repository[name].wanted:
                self._begin(name)

    def load(self, name: str, caller: Caller) -> None:
        """Have a model loaded; the caller is answered when it serves or has failed to.

        Raises:
            NotFound: no such model is configured.
            Unavailable: it is being unloaded.
        """
        entry = self._entry(name)
        entry.wanted = True
        if entry.state == "UNLOADING":
            raise Unavailable(f"model {name!r} is being unloaded", retry_after_s=1.0)
        if entry.state == "READY":
            self._reply(caller, _result(entry), None)
            return
        entry.callers.append(caller)
        if entry.state == "UNAVAILABLE":
            self._begin(name)

    def unload(self, name: str, caller: Caller, now: float) -> None:
        """Stop serving a model; the caller is answered once its memory has been given back.

        Raises:
            NotFound: no such model is configured.
            Unavailable: it is being loaded.
        """
        entry = self._entry(name)
        if entry.state == "LOADING":
            raise Unavailable(f"model {name!r} is being loaded", retry_after_s=1.0)
        entry.wanted = False
        if entry.state == "UNAVAILABLE":
            entry.reason = "unloaded"
            self._reply(caller, _result(entry), None)
            return
        entry.callers.append(caller)
        if entry.state == "READY":
            self._save(name)
            self._repository.move(name, "UNLOADING")
            self._serving.close_model(name, now)
            entry.loaded = None
            self._submit(ReleaseWork(name=name))

    def take(self, event: Loaded | LoadFailed | WarmUpDone | ReleaseDone) -> None:
        """Hear of a stage that is over."""
        match event:
            case Loaded() | LoadFailed():
                self.loaded(event)
            case WarmUpDone():
                self.warmed_up(event)
            case ReleaseDone():
                self.released(event)

    def loaded(self, event: Loaded | LoadFailed) -> None:
        """The loader is done with a model."""
        if isinstance(event, LoadFailed):
            self._give_up(event.name, event.reason)
            return
        entry = self._repository[event.name]
        entry.loaded = event
        if not event.examples:
            log.warning(
                "model %s takes none of the examples tried and is not warmed up; give it `example(size)`", event.name
            )
            self._open(entry, event, (), self._kept(entry))
            return
        self._warm_up(event, self._kept(entry))

    def _warm_up(self, event: Loaded, kept: Learned | None) -> None:
        padded = [event.policy.padded(event.model.shape(item)) for item in event.examples]
        examples = tuple(Example(item, shape) for item, shape in zip(event.examples, padded, strict=True))
        work = WarmUpWork(
            name=event.name,
            model=event.model,
            examples=examples,
            planned=event.planned,
            layouts=event.layouts,
        )
        layout = None if kept is None else _layout(kept, event)
        log.debug("model %s: warm-up begins, its costs are %s", event.name, "unknown" if layout is None else "known")
        self._submit(work if layout is None else replace(work, layouts=(layout,), known=True))

    def warmed_up(self, done: WarmUpDone) -> None:
        """The first forwards of a model have run."""
        name = done.work.name
        if done.failure is not None:
            self._give_up(name, f"its first run failed: {done.failure.message}")
            return
        entry = self._repository[name]
        assert entry.loaded is not None, "a model was warmed up that is not loaded"
        if done.layout is not entry.loaded.policy.layout:
            entry.loaded = replace(entry.loaded, policy=replace(entry.loaded.policy, layout=done.layout))
        if not done.work.known:
            entry.predicted = done.predicted
        self._open(entry, entry.loaded, done.calibration, self._kept(entry), known=done.work.known)

    def released(self, done: ReleaseDone) -> None:
        """An unloaded model's memory has been given back."""
        log.info("model %s is unloaded", done.name)
        self._settle(self._repository.move(done.name, "UNAVAILABLE", "unloaded"), None)

    def save(self) -> None:
        """Save what was learned about every model that serves."""
        for name in self._repository.names():
            if self._repository[name].state == "READY":
                self._save(name)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _entry(self, name: str) -> Entry:
        if name not in self._repository:
            raise NotFound(f"model {name!r} is not configured")
        return self._repository[name]

    def _begin(self, name: str) -> None:
        self._repository.move(name, "LOADING")
        self._load(name)

    def _open(
        self,
        entry: Entry,
        loaded: Loaded,
        calibration: Sequence[CalibrationRun],
        kept: Learned | None,
        *,
        known: bool = False,
    ) -> None:
        if known and kept is not None:
            entry.predicted = kept.predicted
        self._controller.add_model(entry.name, loaded.policy)
        for run in calibration:
            self._controller.calibrate(entry.name, run.batch_size, run.shape, run.seconds)
        for peak in entry.predicted:
            self._controller.foresee(entry.name, peak.batch_size, peak.shape, peak.peak_bytes)
        if kept is not None:
            try:
                self._controller.load_state_dict(entry.name, dict(kept.state))
            except (ValueError, KeyError, TypeError) as error:
                log.warning("what was learned about model %s does not fit and is ignored: %s", entry.name, error)
                if known:
                    self._controller.remove_model(entry.name)
                    self._warm_up(loaded, None)
                    return
        self._serving.open_model(entry.name, loaded.model, loaded.policy.slo_s)
        log.info("model %s is ready, for %s batches", entry.name, loaded.policy.layout)
        self._settle(self._repository.move(entry.name, "READY"), None)
        if not known:
            self._save(entry.name)  # whoever takes over from this process, however soon, need not learn it again

    def _kept(self, entry: Entry) -> Learned | None:
        return self._learned.load(entry.name, self._circumstances[entry.name])

    def _give_up(self, name: str, reason: str) -> None:
        log.error("model %s cannot be served: %s", name, reason)
        entry = self._repository.move(name, "UNAVAILABLE", reason)
        entry.loaded = None
        self._settle(entry, ModelFailed(f"model {name!r} cannot be loaded: {reason}", code="load_failed"))

    def _settle(self, entry: Entry, error: ServingError | None) -> None:
        callers, entry.callers = entry.callers, []
        for caller in callers:
            self._reply(caller, _result(entry), error)

    def _save(self, name: str) -> None:
        if self._learned.enabled:
            entry = self._repository[name]
            assert entry.loaded is not None, "a model is saved that is not loaded"
            learned = Learned(
                state=self._controller.state_dict(name), policy=_limits(entry.loaded), predicted=entry.predicted
            )
            self._learned.save(name, self._circumstances[name], learned)


def _result(entry: Entry) -> dict[str, str]:
    return {"name": entry.name, "state": entry.shown, "reason": entry.failing or entry.reason}


def _limits(loaded: Loaded) -> str:
    """Return what the planned batches depend on beside the model."""
    policy = loaded.policy
    return repr((policy.max_batch_size, policy.max_batch_elements, policy.max_item_elements, policy.ladder))


def _layout(kept: Learned, loaded: Loaded) -> Layout | None:
    """Return the layout that was learned of, if with it everything is known that a warm-up would find out."""
    layout = str(kept.state.get("layout"))
    known = layout in loaded.layouts and kept.policy == _limits(loaded)
    return Layout(layout) if known else None
