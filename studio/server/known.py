"""What a page of gradio's has, for `KnownGuard`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from studio.safety.known import Known

if TYPE_CHECKING:
    from gradio import Blocks

__all__ = ["list_known"]


def list_known(demo: Blocks) -> Known:
    """List what a page has, once it is built; its events and sessions as they are when somebody asks."""
    parameters: dict[str, Mapping[str, bool]] = {}

    def parameters_of(name: str) -> Mapping[str, bool]:
        if not parameters:
            for endpoint, about in demo.get_api_info(all_endpoints=True)["named_endpoints"].items():
                endpoint_parameters = about["parameters"]
                parameters[endpoint.strip("/")] = {
                    one["parameter_name"]: not one["parameter_has_default"]
                    for one in endpoint_parameters
                    if one["parameter_name"]
                }
        return parameters.get(name, {})

    def has_session(session: str) -> bool:
        return session in demo._queue.pending_messages_per_session

    def has_event(event: str) -> bool:
        # not `event_ids_to_events`: gradio empties that a little after the answer has been read
        return has_session(event) or any(event in waiting for waiting in demo._queue.pending_event_ids_session.values())

    names = {str(fn.api_name) for fn in demo.fns.values() if fn.api_name}
    return Known(names, parameters_of, demo.fns.keys(), demo.blocks.keys(), has_event, has_session)
