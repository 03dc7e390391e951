"""A recipe: the job of a federation, with a client script that stays as it is."""

from __future__ import annotations

from typing import Any

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor, ExecutionMode
from nvflare.client.config import ExchangeFormat
from nvflare.job_config.api import FedJob
from nvflare.recipe.spec import Recipe

from privfl.adapters.federation import STEP_TIMEOUT
from privfl.adapters.nvflare.controller import SecureController
from privfl.adapters.nvflare.executor import SecureExecutor
from privfl.adapters.nvflare.tasks import TASK


class SecureRecipe(Recipe):  # type: ignore[misc]  # nvflare ships no types that this check reads
    """The job of a federation over secure sums.

    privfl itself is not copied into the job: it is installed at the server and at each client. Rounds, noise, clip norm
    and sum are those of the charter, which sites approve before the job runs.

    Args:
        name: The name of the job.
        min_clients: The number of clients that NVFlare waits for.
        mechanism: The placement of noise that the charter must state; it has no default.
        open_server: "module:function" of the server, see `SecureController`.
        open_site: "module:function" of the site, see `SecureExecutor`.
        train_script: The client script of NVFlare's Client API, which trains in the client's process; None where the
            site's own agent trains.
        train_args: The arguments of the script.
        params_exchange_format: The arrays that the script receives and sends: "numpy", "pytorch" or "raw".
        step_timeout: The seconds that the clients have for one step.
        evaluate: Whether each round is followed by a secure sum of the sites' evaluation metrics.
    """

    def __init__(
        self,
        *,
        name: str,
        min_clients: int,
        mechanism: str,
        open_server: str,
        open_site: str,
        train_script: str | None = None,
        train_args: str = "",
        params_exchange_format: str = ExchangeFormat.NUMPY,
        step_timeout: float = STEP_TIMEOUT,
        evaluate: bool = False,
    ) -> None:
        job = FedJob(name=name, min_clients=min_clients)
        job.set_app_packages(["privfl"])
        job.to_server(SecureController(open_server, mechanism, step_timeout, evaluate))
        self.open_site, self.train_script, self.train_args = open_site, train_script, train_args
        self.params_exchange_format = params_exchange_format
        super().__init__(job)

    def _prepare_client_apps(self) -> None:
        trainer: Any = None
        if self.train_script is not None:
            trainer = ClientAPIExecutor(
                execution_mode=ExecutionMode.IN_PROCESS,
                task_script_path=self.train_script,
                task_script_args=self.train_args,
                params_exchange_format=self.params_exchange_format,
            )
            self._job.to_clients(self.train_script)
        self._job.to_clients(SecureExecutor(self.open_site, trainer), tasks=[TASK])
