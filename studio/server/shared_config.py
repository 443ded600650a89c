"""The page's configuration once for all sessions.

Gradio computes the configuration of every component anew for each session, on its event loop: with fifty visitors at
once the loop stood still for twenty seconds. It is the same for everybody until a session changes a component, and then
only that component's part is its own.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from gradio import Blocks

__all__ = ["share_session_config"]


def share_session_config() -> None:
    """Have gradio's sessions share what they have in common; further calls change nothing.

    `SessionState.__init__` computes `config_values`, a dictionary of each component's configuration, which sessions
    change in two ways: they replace an entry, or they set its value in place. Here each session has a copy of the
    dictionary, but not of its entries, and copies an entry before it sets a value in it.
    """
    from copy import copy
    from os import getenv

    from gradio.state_holder import SessionState

    if getattr(SessionState, "_is_shared", False):
        return
    templates: MutableMapping[Blocks, dict[int, dict[str, Any]]] = WeakKeyDictionary()
    original = SessionState.__init__

    def begin(self: Any, blocks: Blocks) -> None:
        if blocks not in templates:
            original(self, blocks)
            templates[blocks] = dict(self.config_values)
            self.config_values = dict(templates[blocks])
            return
        self.blocks_config = copy(blocks.default_config)
        self.config_values = dict(templates[blocks])
        self.state_data, self._state_ttl, self.is_closed = {}, {}, False
        self.STATE_TTL_WHEN_CLOSED = 1 if getenv("GRADIO_IS_E2E_TEST") else 3600

    update = SessionState._update_value_in_config

    def update_own(self: Any, key: int, value: Any) -> None:
        entry = self.config_values.get(key)
        if entry and "props" in entry:
            self.config_values[key] = {**entry, "props": dict(entry["props"])}
        update(self, key, value)

    patched: Any = SessionState
    patched.__init__ = begin
    patched._update_value_in_config = update_own
    patched._is_shared = True
