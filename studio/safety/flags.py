"""The command line of `app.py`: what a person may change, and what is refused."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import TypedDict, cast
from urllib.parse import urlsplit

from pipelines.core.errors import SettingsError, StoreError
from pipelines.models.device_choice import require_attention, require_compiler, require_devices
from pipelines.models.folder_lists import more_model_folders
from studio.results.retention import Housekeeping
from studio.safety.credentials import Credentials, read_pairs
from studio.safety.flag_parser import EVERYWHERE, INSECURE, build_parser
from studio.safety.launch_settings import LaunchSettings
from studio.safety.origin import parse_site
from studio.safety.temp import claim_folder

__all__ = ["parse_flags", "read_flags"]


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
    flags, unknown = build_parser().parse_known_args(list(arguments))
    if unknown:
        raise SettingsError(_describe_unknown(unknown))
    environ = os.environ if environ is None else environ
    devices = () if flags.device is None else require_devices(flags.device)
    if flags.compile:
        require_compiler(devices)
    in_space = environ.get("SYSTEM") == "spaces" and bool(environ.get("SPACE_ID"))
    pairs = [*flags.auth, *(read_pairs(flags.auth_file) if flags.auth_file else [])]
    settings = LaunchSettings(
        host=_choose_host(flags, in_space),
        port=flags.port,
        share=flags.share,
        credentials=Credentials(pairs),
        admins=tuple(flags.admin),
        share_results=flags.share_results,
        root_path=flags.root_path,
        memory_budget=_parse_bytes(flags.memory_budget),
        devices=devices,
        dtype=flags.dtype,
        attention=require_attention(flags.attention),
        compile=flags.compile,
        channels_last=flags.channels_last,
        max_queue=flags.max_queue,
        cached_bytes=_read_megabytes(flags.run_cache),
        longest_run=None if flags.longest_run is None else flags.longest_run * 60,
        housekeeping=_read_housekeeping(flags),
        audit_log=flags.audit_log,
        safety_checker=flags.safety_checker,
        watermark=flags.watermark,
        mcp=flags.mcp,
        browser=flags.browser,
        in_space=in_space,
        allowed_hosts=tuple(flags.allow_host),
        trusted_origins=tuple(origin.rstrip("/") for origin in flags.trust_origin),
        proxies=tuple(flags.trust_proxy),
        more_models=tuple(more_model_folders(flags.more_models)),
        follow_links=flags.follow_links,
        **_parse_folders(flags),
    )
    _check(settings, insecure_allowed=flags.insecure_no_auth_i_know)
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
        claim_folder(settings.temp)
        return settings
    except (SettingsError, StoreError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _describe_unknown(words: Sequence[str]) -> str:
    # Only the names: what follows a mistyped --auth is a password.
    names = [word.partition("=")[0] for word in words if word.startswith("-")]
    return f"Unknown flag {', '.join(names) or '(a stray word)'}. Try --help."


def _choose_host(flags: argparse.Namespace, in_space: bool) -> str:
    if flags.host and flags.listen:
        raise SettingsError("--listen and --host name two addresses. Give one of them.")
    if flags.listen or (in_space and not flags.host):
        return EVERYWHERE
    return flags.host or "127.0.0.1"


def _parse_bytes(gigabytes: float | None) -> int | None:
    if gigabytes is None:
        return None
    if not 0.1 <= gigabytes <= 1e5:
        raise SettingsError(f"--memory-budget {gigabytes:g} is not a size. Give 0.1 to 100000 GB.")
    return int(gigabytes * 1e9)


def _read_megabytes(megabytes: float) -> int:
    if not 0 <= megabytes <= 1e6:
        raise SettingsError(f"--run-cache {megabytes:g} is not a size. Give 0 to 1000000 MB; 0 keeps nothing.")
    return int(megabytes * 2**20)


def _read_housekeeping(flags: argparse.Namespace) -> Housekeeping:
    """What is kept of the results.

    Raises:
        SettingsError: a number is none.
    """
    limits = {"results_quota": (1e-3, 1e6), "keep_days": (0.01, 1e5), "trash_days": (0, 1e5), "trash_size": (0, 1e6)}
    for name, (low, high) in limits.items():
        value = getattr(flags, name)
        if value is not None and not low <= value <= high:
            raise SettingsError(f"--{name.replace('_', '-')} {value:g} is out of range. Give {low:g} to {high:g}.")
    day, gigabyte = 24 * 3600.0, 1e9
    return Housekeeping(
        trash_seconds=flags.trash_days * day,
        trash_bytes=None if flags.trash_size is None else int(flags.trash_size * gigabyte),
        keep_seconds=None if flags.keep_days is None else flags.keep_days * day,
        quota_bytes=None if flags.results_quota is None else int(flags.results_quota * gigabyte),
    )


class _Folders(TypedDict, total=False):
    models: Path
    outputs: Path
    temp: Path


def _parse_folders(flags: argparse.Namespace) -> _Folders:
    flag_values = {
        "models": flags.models_folder,
        "outputs": flags.outputs_folder,
        "temp": flags.temp_folder,
    }
    paths = {name: path.expanduser().resolve() for name, path in flag_values.items() if path}
    for name, path in paths.items():
        if path.exists() and not path.is_dir():
            raise SettingsError(f"--{name}-folder {path} is a file. Name a folder.")
    return cast(_Folders, paths)


def _check(settings: LaunchSettings, insecure_allowed: bool) -> None:
    if settings.port is not None and not 1 <= settings.port <= 65535:
        raise SettingsError(f"--port {settings.port} is out of range. Give 1 to 65535.")
    if not 1 <= settings.max_queue <= 10_000:
        raise SettingsError(f"--max-queue {settings.max_queue} is out of range. Give 1 to 10000.")
    if settings.longest_run is not None and not 1 <= settings.longest_run <= 1e7:
        raise SettingsError(f"--longest-run {settings.longest_run / 60:g} is not a time. Give 0.1 to 100000 minutes.")
    if settings.root_path and not settings.root_path.startswith(("/", "http://", "https://")):
        raise SettingsError(f"--root-path {settings.root_path!r} must begin with / or https://.")
    for origin in settings.trusted_origins:
        if urlsplit(origin).scheme not in ("http", "https") or not parse_site(origin):
            raise SettingsError(f"--trust-origin {origin!r} is not a site. Write https://example.org.")
    for admin in settings.admins:
        if admin not in settings.credentials.users:
            raise SettingsError(f"--admin {admin[:40]!r} is not a login. Name one of --auth or --auth-file.")
    if settings.share_results and not settings.credentials:
        raise SettingsError("--share-results needs people who sign in. Without --auth everybody sees everything.")
    for proxy in settings.proxies:
        _check_network(proxy)
    is_open = settings.is_public and not settings.in_space and not settings.credentials
    if is_open and not insecure_allowed:
        exposure = "--share" if settings.share else f"Listening on {settings.host}"
        raise SettingsError(
            f"{exposure} lets everybody in who can reach this machine. Add --auth USER:PASSWORD or "
            f"--auth-file FILE, or {INSECURE} if that is what you want."
        )


def _check_network(text: str) -> None:
    try:
        ip_network(text)
    except ValueError:
        raise SettingsError(
            f"--trust-proxy {text!r} is not an address or network. Write 10.0.0.1 or 10.0.0.0/8."
        ) from None
