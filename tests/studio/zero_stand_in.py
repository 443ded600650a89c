"""Stands in for `spaces.GPU`: forks a process, pickles arguments and yields, stops after the next yield.

As `spaces.zero.wrappers.generator_function_wrapper` (0.51) does it, less the GPU and the quota.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from gradio.context import LocalContext

FORK = multiprocessing.get_context("fork")


class Refused(Exception):
    """A stand-in for what the worker itself cannot survive."""


class StandIn:
    """`StandIn()(duration=...)` decorates as `spaces.GPU(duration=...)` does, and remembers what went through.

    Attributes:
        workers: process ids of the workers.
        yielded: the pickled bytes of every yield that arrived.
        durations: what each call asked for.
        callers: the request that each call was made for, which is charged for the GPU.
        made: how many values each ended worker had made, also those that nobody wanted any more.
    """

    def __init__(self, refuse: Exception | None = None):
        self.workers: list[int] = []
        self.yielded: list[bytes] = []
        self.durations: list[int] = []
        self.callers: list[Any] = []
        self.made: list[int] = []
        self.refuse, self.kill_after = refuse, None

    def __call__(self, duration: Callable[..., int]) -> Callable:
        def decorate(task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            def handler(*args: Any) -> Iterator[Any]:
                self.durations.append(duration(*args))
                self.callers.append(LocalContext.request.get(None))
                if self.refuse:
                    raise self.refuse
                yield from self._through(task, args)

            return handler

        return decorate

    def _through(self, task: Callable[..., Iterator[Any]], args: tuple) -> Iterator[Any]:
        results, stop, made = FORK.SimpleQueue(), FORK.Event(), FORK.Value("i", 0)
        process = FORK.Process(target=_work, args=(task, pickle.dumps(args), results, stop, made), daemon=True)
        process.start()
        self.workers.append(process.pid)
        try:
            while (packed := results.get()) is not None:
                self.yielded.append(packed)
                try:
                    yield pickle.loads(packed)
                except GeneratorExit:
                    stop.set()
                    while results.get() is not None:
                        pass
                    raise
                if self.kill_after == len(self.yielded):
                    process.kill()
                    from gradio.exceptions import Error

                    raise Error("GPU task aborted", print_exception=False)
        finally:
            process.join(30)
            self.made.append(made.value)
            results.close()


def _work(task: Callable[..., Iterator[Any]], packed: bytes, results: Any, stop: Any, made: Any) -> None:
    generator = task(*pickle.loads(packed))
    for value in generator:
        made.value += 1
        if stop.is_set():
            generator.close()
            break
        results.put(pickle.dumps(value))
    results.put(None)
    os._exit(0)  # a forked test run must not clean up after its parent
