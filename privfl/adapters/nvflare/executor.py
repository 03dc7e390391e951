"""The client's half in an NVFlare job: an executor that answers frames through a site, around one that trains."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLMetaKey, ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent

from privfl.adapters.federation import FRAME, LAYOUT, MODEL, InAppSite, no_training, opened
from privfl.adapters.layout import NamedLayout
from privfl.adapters.nvflare.tasks import EVALUATES, TASK, named_function
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate, Train
from privfl.wire import ClientId

log = logging.getLogger(__name__)

OpenSite = Callable[[str, Train], InAppSite]
"""(name of this client, train) -> its site. It is called for each task."""

_IN_PROCESS: Final = "in_process"


class SecureExecutor(Executor):  # type: ignore[misc]  # nvflare ships no types that this check reads
    """The only executor of a client whose arrays and counts must not leave it.

    It answers the frames of a `SecureController`, and nothing else. The executor that trains is an argument, not a
    component that tasks reach: it gets the model, and returns full arrays or a difference and metrics, to the site.

    NVFlare exports a job by reading an attribute for each argument, so each argument is an attribute of its name.

    Args:
        open_site: "module:function" of a function (name of this client, train) -> its site, such as
            `lambda name, train: Site(home, train)`, or a relay to the site's own agent.
        trainer: The executor that trains, for example of a client script; None in front of an agent, which trains.
    """

    def __init__(self, open_site: str, trainer: Executor | None) -> None:
        super().__init__()
        self.open_site, self.trainer = open_site, trainer

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Refuse to start where metrics of the trainer would leave the client outside the sum.

        Args:
            event_type: NVFlare's event.
            fl_ctx: NVFlare's context.
        """
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.START_RUN:
            try:
                named_function(self.open_site, "open_site")
                self._check_leaks(fl_ctx)
            except ConfigError as error:
                self.system_panic(str(error), fl_ctx)

    def _check_leaks(self, fl_ctx: Any) -> None:
        components = fl_ctx.get_engine().get_all_components().values()
        if any(isinstance(component, ConvertToFedEvent) for component in components):
            raise ConfigError(
                "a ConvertToFedEvent of this job would send the trainer's logged metrics to the server in the clear: "
                "remove it, and experiment tracking with it"
            )
        if getattr(self.trainer, "execution_mode", _IN_PROCESS) != _IN_PROCESS:
            raise ConfigError(
                "a trainer in a process of its own sends its logged metrics to the server in the clear: set "
                "execution_mode = 'in_process', or let the site's agent train"
            )

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: Any, abort_signal: Any) -> Shareable:
        """Answer one task.

        Args:
            task_name: The name of the task.
            shareable: The frame, and in step 0 the model.
            fl_ctx: NVFlare's context.
            abort_signal: NVFlare's signal, for the trainer.

        Returns:
            The site's answer, or one fixed error: an error may depend on data, so it does not leave the client.
        """
        try:
            if task_name != TASK:
                raise ConfigError(f"the task {task_name!r} would bring a reply in the clear: use SecureController")
            frame, model = shareable.get(FRAME), shareable.get(MODEL, b"")
            if type(frame) is not bytes or type(model) is not bytes:
                raise ConfigError("frame and model are bytes: the server must send through SecureController")
            train = self._training(shareable, fl_ctx, abort_signal) if model else no_training
            with opened(named_function(self.open_site, "open_site")(fl_ctx.get_identity_name(), train)) as site:
                reply = make_reply(ReturnCode.OK)
                reply[FRAME] = site.answer(frame, model)
                return reply
        except Exception:
            log.exception("a task was refused")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)

    def _training(self, task: Shareable, fl_ctx: Any, abort_signal: Any) -> Train:
        """The trainer as a training of a flat model."""

        def train(model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
            if self.trainer is None:
                raise ConfigError("this client has no trainer: open_site must return a relay to an agent that trains")
            layout, evaluates = NamedLayout.from_text(str(task.get(LAYOUT))), task.get(EVALUATES) is True
            if layout.size != len(model):
                raise ConfigError(f"the layout has {layout.size} entries, and the model {len(model)}")
            asked = FLModelUtils.to_shareable(
                FLModel(params=layout.split(model), params_type=ParamsType.FULL, current_round=round)
            )
            name = AppConstants.TASK_VALIDATION if evaluates else AppConstants.TASK_TRAIN
            reply = self.trainer.execute(name, asked, fl_ctx, abort_signal)
            if reply.get_return_code(ReturnCode.OK) != ReturnCode.OK:
                raise ConfigError(f"the trainer returned {reply.get_return_code()}: its log states the reason")
            return _update(FLModelUtils.from_shareable(reply), layout, model, evaluates=evaluates)

        return train


def _update(result: FLModel, layout: NamedLayout, model: Vector, *, evaluates: bool) -> ClientUpdate:
    """The update that a trainer's result states; one without a number of steps weighs 1, as in NVFlare."""
    metrics = {name: float(value) for name, value in (result.metrics or {}).items()}
    examples = (result.meta or {}).get(FLMetaKey.NUM_STEPS_CURRENT_ROUND, 1)
    if evaluates:
        return ClientUpdate(np.zeros(1), examples, metrics)
    if result.params is None:
        raise ConfigError("the trainer returned no arrays")
    delta = layout.flatten(result.params).astype(np.float64)
    return ClientUpdate(delta if result.params_type == ParamsType.DIFF else delta - model, examples, metrics)
