"""How the server is started: every field follows from the command line of `app.py`."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.models.folder_lists import models_folder
from studio.results.files import get_default_folder
from studio.results.retention import Housekeeping
from studio.safety.credentials import Credentials
from studio.safety.limits import ClientLimits
from studio.safety.origin import OriginRule, is_loopback, parse_site
from studio.safety.people import People
from studio.safety.protection import Protection
from studio.safety.temp import get_default_temp

__all__ = ["LaunchSettings"]

_SPACE_FRAMES = "'self' https://huggingface.co https://*.hf.space"
_SPACE_PROXIES = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.1")
_PUBLIC_RUN, _OWN_RUN = 30 * 60.0, 12 * 3600.0
_OWN_PROXIES = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class LaunchSettings:
    """Says how the server is started. Every field follows from the command line.

    Args:
        host: address to listen on.
        port: TCP port; None takes the first free one from 7860.
        share: whether gradio opens a public tunnel.
        credentials: who may sign in; empty lets everybody in.
        admins: logins of those who see and change what everybody made.
        share_results: whether everybody who signs in sees everybody's results.
        root_path: path or whole address under which a proxy shows the page.
        models: folder of the models.
        more_models: further folders of models.
        follow_links: whether links that lead out of the models folders are followed.
        outputs: folder of the results.
        temp: folder of gradio's temporary files.
        memory_budget: bytes that loaded models may take; None lets the loader decide.
        devices: where models run, a worker each; none for the best there is.
        dtype: of the weights: auto, fp32, bf16 or fp16.
        attention: a back end of diffusers' attention; "" for the library's choice.
        compile: whether networks are compiled.
        channels_last: whether convolutions are kept in channels last.
        max_queue: events that may wait.
        cached_bytes: of finished runs that are kept for equal requests.
        longest_run: seconds that one job may hold the device; None for half an hour where others can reach the server,
            and for twelve hours where nobody can.
        housekeeping: what is kept of the results.
        audit_log: file of the audit log; None for none.
        safety_checker: whether a safety checker looks at pictures; None where others can reach the server.
        watermark: whether pictures get an invisible watermark; None likewise.
        mcp: whether public events are offered as tools to agents.
        browser: whether a browser is opened.
        in_space: whether this runs in a Hugging Face Space, which is public by design.
        allowed_hosts: further names that the Host header may carry.
        trusted_origins: other sites whose pages may call this server from a browser.
        proxies: addresses or networks of proxies whose word on a client's address is taken.
        limits: the caps.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    credentials: Credentials = field(default_factory=lambda: Credentials(()))
    admins: tuple[str, ...] = ()
    share_results: bool = False
    root_path: str = ""
    models: Path = field(default_factory=models_folder)
    more_models: tuple[Path, ...] = ()
    follow_links: bool = False
    outputs: Path = field(default_factory=get_default_folder)
    temp: Path = field(default_factory=get_default_temp)
    memory_budget: int | None = None
    devices: tuple[str, ...] = ()
    dtype: str = "auto"
    attention: str = ""
    compile: bool = False
    channels_last: bool = False
    max_queue: int = 64
    cached_bytes: int = 64 * 2**20
    longest_run: float | None = None
    housekeeping: Housekeeping = field(default_factory=Housekeeping)
    audit_log: Path | None = None
    safety_checker: bool | None = None
    watermark: bool | None = None
    mcp: bool = False
    browser: bool = False
    in_space: bool = False
    allowed_hosts: tuple[str, ...] = ()
    trusted_origins: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    limits: ClientLimits = field(default_factory=ClientLimits)

    @property
    def is_public(self) -> bool:
        """Say whether others than this machine can reach the server."""
        return self.share or self.in_space or not is_loopback(self.host)

    @property
    def run_seconds(self) -> float:
        """Return the seconds that one job may hold the device."""
        return self.longest_run or (_PUBLIC_RUN if self.is_public else _OWN_RUN)

    @property
    def protection(self) -> Protection:
        """What is done to pictures: by default both where others can reach the server, and nothing where nobody can."""
        checks, marks = (
            self.is_public if choice is None else choice for choice in (self.safety_checker, self.watermark)
        )
        return Protection(checks, marks)

    @property
    def frame_ancestors(self) -> str:
        """Say who may show the page in a frame: a Space is shown in one."""
        return _SPACE_FRAMES if self.in_space else "'self'"

    @property
    def is_contained(self) -> bool:
        """Say whether the page talks to this server only; tunnels and Spaces add scripts of theirs."""
        return not (self.share or self.in_space)

    @property
    def trusted_proxies(self) -> tuple[str, ...]:
        """Return whose `X-Forwarded-For` is believed.

        Nobody's by default: the server would take it from any program of this machine, which could then
        give itself a new address for every request and so never meet the rate limit. Behind a proxy
        (`--root-path`, `--trust-proxy`, a Space) everybody would else share the proxy's one address.
        """
        if self.proxies:
            return self.proxies
        if self.in_space:
            return _SPACE_PROXIES
        return _OWN_PROXIES if self.root_path else ()

    @property
    def people(self) -> People:
        """Say who may see and change what somebody made. A login that is the only one is an admin: nobody else is
        there."""
        if not self.credentials:
            return People()
        users = self.credentials.users
        admins = self.admins or (users if len(users) == 1 else ())
        return People(True, frozenset(admins), self.share_results)

    def build_origin_rule(self) -> OriginRule:
        """Build the rule of who counts as ourselves.

        A name is checked where nobody has to sign in: a rebound name then reaches everything,
        while a session cookie would not follow it. Tunnels and Spaces have names of their own.

        Returns:
            The rule for `OriginGuard`.
        """
        sites = frozenset(filter(None, (parse_site(self.root_path),)))
        trusted = frozenset(self.trusted_origins)
        if self.share or self.in_space or self.credentials:
            return OriginRule(None, sites, trusted)
        machine = socket.gethostname().lower()
        names = {self.host.lower(), *(name.lower() for name in self.allowed_hosts)}
        names |= {machine, machine.partition(".")[0], f"{machine.partition('.')[0]}.local"}
        names |= {urlsplit(f"//{site}").hostname or "" for site in sites}
        return OriginRule(frozenset(names), sites, trusted)
