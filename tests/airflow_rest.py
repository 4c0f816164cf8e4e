"""What tests, the bench and the demo ask of a running Airflow through its REST API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

FINISHED = frozenset({"success", "failed"})


class AirflowError(Exception):
    """Airflow does not do what was asked; carries the end of the log that says why."""


class AirflowREST:
    """One account at one Airflow; waits are polls with a deadline."""

    url: str
    user: str
    password: str
    _client: httpx.Client | None = None

    def check_alive(self) -> None:
        """Called while something is waited for; raises :class:`AirflowError` when waiting is in vain."""

    def close(self) -> None:
        """Close the HTTP client."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _token(self) -> str:
        answer = httpx.post(
            f"{self.url}/auth/token", json={"username": self.user, "password": self.password}, timeout=30
        )
        answer.raise_for_status()
        token: str = answer.json()["access_token"]
        return token

    @property
    def client(self) -> httpx.Client:
        """An HTTP client that is logged in, for ``/api/v2/…`` and what plugins add."""
        if self._client is None:
            self._client = httpx.Client(
                base_url=self.url, headers={"Authorization": f"Bearer {self._token()}"}, timeout=60
            )
        return self._client

    def api(self, method: str, path: str, **arguments: Any) -> Any:
        """One call of the REST API (``path`` without ``/api/v2``); its JSON.

        :raises AirflowError: any answer but 2xx; carries its text
        """
        answer = self.client.request(method, f"/api/v2{path}", **arguments)
        if answer.is_error:
            raise AirflowError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def wait(self, what: str, probe: Callable[[], Any], *, timeout: float, every: float = 0.3) -> Any:
        """Call ``probe`` until it answers something true, and return that.

        :raises AirflowError: it did not in time, or a component of it ended by itself
        """
        deadline = time.monotonic() + timeout
        while True:
            self.check_alive()
            if found := probe():
                return found
            if time.monotonic() > deadline:
                raise AirflowError(f"{what}: not within {timeout:.0f} s")
            time.sleep(every)

    def health(self) -> dict[str, str]:
        """Airflow's word on each of its parts; empty while the API server does not answer."""
        try:
            answer = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=10)
        except httpx.HTTPError:
            return {}
        if answer.is_error:
            return {}
        return {name: str(part.get("status")) for name, part in answer.json().items()}

    def wait_healthy(self, *, timeout: float = 240) -> None:
        """Until the data base, the scheduler, the triggerer and the DAG processor are called healthy."""
        wanted = {"metadatabase", "scheduler", "triggerer", "dag_processor"}

        def healthy() -> bool:
            health = self.health()
            return all(health.get(name) == "healthy" for name in wanted)

        self.wait("Airflow is healthy", healthy, timeout=timeout)

    def import_errors(self) -> list[dict[str, Any]]:
        """Airflow's import errors: ``filename`` and ``stack_trace`` among other things."""
        errors: list[dict[str, Any]] = self.api("GET", "/importErrors")["import_errors"]
        return errors

    def wait_for_dag(self, dag_id: str, *, timeout: float = 180) -> None:
        """Until that DAG is parsed and can be triggered.

        :raises AirflowError: not in time; carries the import errors
        """
        try:
            self.wait(
                f"DAG {dag_id} is there",
                lambda: self.client.get(f"/api/v2/dags/{dag_id}/details").is_success,
                timeout=timeout,
            )
        except AirflowError as error:
            traces = "\n".join(str(e.get("stack_trace")) for e in self.import_errors())
            raise AirflowError(f"{error}\n{traces}") from error

    def trigger(
        self, dag_id: str, conf: Mapping[str, Any] | None = None, *, run_id: str | None = None, **fields: Any
    ) -> str:
        """Start a run and return its id.

        :param fields: further fields of the request (``run_after``, ``note``)
        """
        body: dict[str, Any] = {"logical_date": None, "conf": dict(conf or {}), **fields}
        if run_id is not None:
            body["dag_run_id"] = run_id
        started: str = self.api("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"]
        return started

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run as the REST API shows it."""
        found: dict[str, Any] = self.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return found

    def wait_run(self, dag_id: str, run_id: str, *, timeout: float = 240) -> str:
        """Until that run ended; its state, ``success`` or ``failed``."""

        def ended() -> str | None:
            state: str = self.run(dag_id, run_id)["state"]
            return state if state in FINISHED else None

        state: str = self.wait(f"run {run_id} of {dag_id} ends", ended, timeout=timeout)
        return state

    def wait_success(self, dag_id: str, run_id: str, *, timeout: float = 240) -> None:
        """Until that run succeeded.

        :raises AirflowError: it failed, or did not end in time; carries what its failed tasks logged last
        """
        if self.wait_run(dag_id, run_id, timeout=timeout) != "success":
            raise AirflowError(f"run {run_id} of {dag_id} failed: {self.failures(dag_id, run_id)}")

    def failures(self, dag_id: str, run_id: str) -> str:
        """All task states of a run, then the end of each failed task's log."""
        told = [str(self.task_states(dag_id, run_id))]
        for ti in self.task_instances(dag_id, run_id):
            if ti["state"] == "failed":
                where = {"attempt": max(1, ti["try_number"]), "map_index": ti["map_index"]}
                try:
                    log = self.log(dag_id, run_id, ti["task_id"], **where)[-3000:]
                except AirflowError as error:
                    log = f"no log: {error}"
                told.append(f"{ti['task_id']}: {log}")
        return "\n".join(told)

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """All task instances of a run, as the REST API shows them."""
        found: list[dict[str, Any]] = self.api(
            "GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 1000}
        )["task_instances"]
        return found

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """State by task id (``id[3]`` for a mapped one)."""
        return {
            ti["task_id"] if ti["map_index"] < 0 else f"{ti['task_id']}[{ti['map_index']}]": ti["state"]
            for ti in self.task_instances(dag_id, run_id)
        }

    def log(self, dag_id: str, run_id: str, task_id: str, *, attempt: int = 1, map_index: int = -1) -> str:
        """A task's log as the UI shows it, one line per entry."""
        answer = self.api(
            "GET",
            f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}",
            params={"map_index": map_index, "full_content": "true"},
            headers={"Accept": "application/json"},
        )
        lines = [entry if isinstance(entry, str) else str(entry.get("event")) for entry in answer["content"]]
        return "\n".join(lines)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """A task's XCom, decoded."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.api("GET", path, params={"deserialize": "false"})["value"]
