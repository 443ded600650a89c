"""The command line of `app.py`: what a person may change, and what is refused."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from pipelines.core.errors import SettingsError, StoreError
from pipelines.models.catalog import models_folder
from studio.results.files import default_folder
from studio.safety.credentials import Credentials, read_pairs
from studio.safety.limits import Limits
from studio.safety.origin import OriginRule, is_loopback, site_of
from studio.safety.temp import claim, default_temp

__all__ = ["LaunchSettings", "parse_flags", "read_flags"]

_TWICE = "--insecure-no-auth-i-know"
_EVERYWHERE = "0.0.0.0"
_SPACE_FRAMES = "'self' https://huggingface.co https://*.hf.space"
_SPACE_PROXIES = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.1")
_OWN_PROXIES = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class LaunchSettings:
    """How the server is started. Every field follows from the command line.

    Args:
        host: address to listen on.
        port: TCP port; None takes the first free one from 7860.
        share: whether gradio opens a public tunnel.
        credentials: who may sign in; empty lets everybody in.
        root_path: path or whole address under which a proxy shows the page.
        models: folder of the models.
        outputs: folder of the results.
        temp: folder of gradio's temporary files.
        memory_budget: bytes that loaded models may take; None lets the loader decide.
        max_queue: events that may wait.
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
    root_path: str = ""
    models: Path = field(default_factory=models_folder)
    outputs: Path = field(default_factory=default_folder)
    temp: Path = field(default_factory=default_temp)
    memory_budget: int | None = None
    max_queue: int = 64
    mcp: bool = False
    browser: bool = False
    in_space: bool = False
    allowed_hosts: tuple[str, ...] = ()
    trusted_origins: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def is_public(self) -> bool:
        """Whether others than this machine can reach the server."""
        return self.share or self.in_space or not is_loopback(self.host)

    @property
    def frame_ancestors(self) -> str:
        """Who may show the page in a frame: a Space is shown in one."""
        return _SPACE_FRAMES if self.in_space else "'self'"

    @property
    def is_contained(self) -> bool:
        """Whether the page talks to this server only; tunnels and Spaces add scripts of theirs."""
        return not (self.share or self.in_space)

    @property
    def trusted_proxies(self) -> tuple[str, ...]:
        """Whose `X-Forwarded-For` is believed.

        Nobody's by default: the server would take it from any program of this machine, which could then
        give itself a new address for every request and so never meet the rate limit. Behind a proxy
        (`--root-path`, `--trust-proxy`, a Space) everybody would else share the proxy's one address.
        """
        if self.proxies:
            return self.proxies
        if self.in_space:
            return _SPACE_PROXIES
        return _OWN_PROXIES if self.root_path else ()

    def origin_rule(self) -> OriginRule:
        """Who counts as ourselves.

        A name is checked where nobody has to sign in: a rebound name then reaches everything,
        while a session cookie would not follow it. Tunnels and Spaces have names of their own.

        Returns:
            The rule for `OriginGuard`.
        """
        sites = frozenset(filter(None, (site_of(self.root_path),)))
        trusted = frozenset(self.trusted_origins)
        if self.share or self.in_space or self.credentials:
            return OriginRule(None, sites, trusted)
        machine = socket.gethostname().lower()
        names = {self.host.lower(), *(name.lower() for name in self.allowed_hosts)}
        names |= {machine, machine.partition(".")[0], f"{machine.partition('.')[0]}.local"}
        names |= {urlsplit(f"//{site}").hostname or "" for site in sites}
        return OriginRule(frozenset(names), sites, trusted)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message[:1].upper() + message[1:])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="app.py", description="Stepwise: diffusion, step by step.")
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--host", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1)")
    add("--listen", action="store_true", help=f"listen on every address ({_EVERYWHERE})")
    add("--port", type=int, help="TCP port (default: the first free one from 7860)")
    add("--share", action="store_true", help="open a public link through gradio's server")
    add(
        "--auth",
        action="append",
        default=[],
        metavar="USER:PASSWORD",
        help="who may sign in; repeat for more. Other people on this machine can see it",
    )
    add("--auth-file", type=Path, metavar="FILE", help="the same, one a line in a file")
    add(_TWICE, action="store_true", help="let everybody in who can reach the server")
    add("--root-path", default="", metavar="PATH", help="path or address behind a proxy")
    add(
        "--allow-host", action="append", default=[], metavar="NAME", help="another name of this server; repeat for more"
    )
    add(
        "--trust-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="another site whose pages may call this server, like https://example.org",
    )
    add(
        "--trust-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a proxy, or a network like 10.0.0.0/8, that says who asks (X-Forwarded-For); repeat for "
        "more (default: this machine with --root-path, else none)",
    )
    add("--models-folder", type=Path, metavar="FOLDER", help="where models are kept")
    add("--outputs-folder", type=Path, metavar="FOLDER", help="where results are kept")
    add("--temp-folder", type=Path, metavar="FOLDER", help="where temporary files are kept")
    add("--memory-budget", type=float, metavar="GB", help="memory that loaded models may take")
    add("--max-queue", type=int, default=64, help="jobs that may wait (default: 64)")
    add("--mcp", action="store_true", help="offer the public functions to agents (MCP)")
    add("--browser", action=argparse.BooleanOptionalAction, default=False, help="open the page in a browser")
    return parser


def parse_flags(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> LaunchSettings:
    """Reads the command line.

    Args:
        arguments: without the name of the program.
        environ: where a Space is recognized; default: that of this process.

    Returns:
        The settings.

    Raises:
        SettingsError: one sentence on what is wrong. It shows no password.
        SystemExit: after `--help`.
    """
    flags, unknown = _parser().parse_known_args(list(arguments))
    if unknown:
        raise SettingsError(_unknown(unknown))
    environ = os.environ if environ is None else environ
    in_space = environ.get("SYSTEM") == "spaces" and bool(environ.get("SPACE_ID"))
    pairs = [*flags.auth, *(read_pairs(flags.auth_file) if flags.auth_file else [])]
    settings = LaunchSettings(
        host=_host(flags, in_space),
        port=flags.port,
        share=flags.share,
        credentials=Credentials(pairs),
        root_path=flags.root_path,
        memory_budget=_bytes(flags.memory_budget),
        max_queue=flags.max_queue,
        mcp=flags.mcp,
        browser=flags.browser,
        in_space=in_space,
        allowed_hosts=tuple(flags.allow_host),
        trusted_origins=tuple(origin.rstrip("/") for origin in flags.trust_origin),
        proxies=tuple(flags.trust_proxy),
        **_folders(flags),
    )
    _check(settings, told_twice=flags.insecure_no_auth_i_know)
    return settings


def read_flags(arguments: Sequence[str] | None = None) -> LaunchSettings:
    """Reads the command line of this program and makes its temporary folder, or ends it.

    Args:
        arguments: without the name of the program; default: those of this process.

    Returns:
        The settings.

    Raises:
        SystemExit: 2 after one sentence on what is wrong, 0 after `--help`.
    """
    try:
        settings = parse_flags(sys.argv[1:] if arguments is None else arguments)
        claim(settings.temp)
        return settings
    except (SettingsError, StoreError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _unknown(words: Sequence[str]) -> str:
    # Only the names: what follows a mistyped --auth is a password.
    names = [word.partition("=")[0] for word in words if word.startswith("-")]
    return f"Unknown flag {', '.join(names) or '(a stray word)'}. Try --help."


def _host(flags: argparse.Namespace, in_space: bool) -> str:
    if flags.host and flags.listen:
        raise SettingsError("--listen and --host name two addresses. Give one of them.")
    if flags.listen or (in_space and not flags.host):
        return _EVERYWHERE
    return flags.host or "127.0.0.1"


def _bytes(gigabytes: float | None) -> int | None:
    if gigabytes is None:
        return None
    if not 0.1 <= gigabytes <= 1e5:
        raise SettingsError(f"--memory-budget {gigabytes:g} is no size. Give 0.1 to 100000 GB.")
    return int(gigabytes * 1e9)


def _folders(flags: argparse.Namespace) -> dict[str, Path]:
    given = {
        "models": flags.models_folder,
        "outputs": flags.outputs_folder,
        "temp": flags.temp_folder,
    }
    named = {name: path.expanduser().resolve() for name, path in given.items() if path}
    for name, path in named.items():
        if path.exists() and not path.is_dir():
            raise SettingsError(f"--{name}-folder {path} is a file. Name a folder.")
    return named


def _check(settings: LaunchSettings, told_twice: bool) -> None:
    if settings.port is not None and not 1 <= settings.port <= 65535:
        raise SettingsError(f"--port {settings.port} is out of range. Give 1 to 65535.")
    if not 1 <= settings.max_queue <= 10_000:
        raise SettingsError(f"--max-queue {settings.max_queue} is out of range. Give 1 to 10000.")
    if settings.root_path and not settings.root_path.startswith(("/", "http://", "https://")):
        raise SettingsError(f"--root-path {settings.root_path!r} must begin with / or https://.")
    for origin in settings.trusted_origins:
        if urlsplit(origin).scheme not in ("http", "https") or not site_of(origin):
            raise SettingsError(f"--trust-origin {origin!r} is no site. Write https://example.org.")
    for proxy in settings.proxies:
        _check_network(proxy)
    is_open = settings.is_public and not settings.in_space and not settings.credentials
    if is_open and not told_twice:
        door = "--share" if settings.share else f"Listening on {settings.host}"
        raise SettingsError(
            f"{door} lets everybody in who can reach this machine. Add --auth USER:PASSWORD or "
            f"--auth-file FILE, or {_TWICE} if that is what you want."
        )


def _check_network(text: str) -> None:
    try:
        ip_network(text)
    except ValueError:
        raise SettingsError(f"--trust-proxy {text!r} is no address or network. Write 10.0.0.1 or 10.0.0.0/8.") from None
