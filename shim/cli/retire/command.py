"""`python -m shim retire`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shim.cli.keys.options import checked_resource_id
from shim.cli.retire.facts import Facts, Twin, read_facts
from shim.cli.retire.files import Paths, replacement
from shim.cli.session import CommandRefused, Dependencies, ExitCode, run_work, say

if TYPE_CHECKING:
    from shim.keys.azure.api_management import Apim
    from shim.settings import Settings

_NO_SERVICE = "name the service: set APIM_RESOURCE_ID, or use --resource-id"


def retire(
    context: typer.Context,
    api: Annotated[str, typer.Option(help="The legacy API's id in APIM.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.", file_okay=False)] = Path("retire"),
    resource_id: Annotated[
        str | None, typer.Option(help="The API Management service. [APIM_RESOURCE_ID]", metavar="ID")
    ] = None,
    gateway: Annotated[
        str | None, typer.Option(help="The gateway's URL; with --path, nothing is read from Azure.")
    ] = None,
    path: Annotated[str | None, typer.Option(help="The legacy API's path below the gateway.")] = None,
    backend_url: Annotated[
        str, typer.Option(help="Azure OpenAI's base URL, like https://contoso.openai.azure.com/openai.")
    ] = "",
    key_header: Annotated[str, typer.Option(help="The legacy API's key header, if not read.")] = "api-key",
    subscription: Annotated[
        list[str] | None, typer.Option(help="Id of a subscription that gets a twin, if not read. Repeatable.")
    ] = None,
    internal: Annotated[
        bool, typer.Option("--internal", help="The service is in internal virtual network mode, if not read.")
    ] = False,
    origin: Annotated[list[str] | None, typer.Option(help="Web origin that may call. Repeatable.")] = None,
    new_path: Annotated[str, typer.Option(help="The v1 API's path, if not beside the legacy API's.")] = "",
    front_path: Annotated[str, typer.Option(help="The front API's path, likewise.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace files that were changed by hand.")] = False,
) -> None:
    """Write what can take the shim's place in APIM: Bicep, policies, and a page that says what each costs callers.

    Nothing is deployed, and no key is read.
    """

    paths = Paths(new_path.strip("/"), front_path.strip("/"))

    async def work(settings: Settings, given: Dependencies) -> None:
        backend, origins = _url("--backend-url", backend_url), _origins(origin)
        service = settings.apim_resource_id
        if service is None:
            raise CommandRefused(_NO_SERVICE, ExitCode.USAGE)
        if gateway is None or path is None:
            facts = await _read(given.open_apim(settings), service, api, backend, origins)
        else:
            where = _url("--gateway", gateway), path.strip("/")
            facts = Facts(service, *where, api, key_header, backend, internal, _twins(subscription), origins)
        _write(out, replacement(facts, paths), force=force)
        _advise(facts)

    run_work(context, work, apim_resource_id=checked_resource_id(resource_id))


async def _read(apim: Apim | None, service: str, api: str, backend: str, origins: tuple[str, ...]) -> Facts:
    assert apim is not None  # since the settings name a service
    async with apim:
        return await read_facts(apim, service, api, backend=backend, origins=origins)


def _twins(subscriptions: list[str] | None) -> tuple[Twin, ...]:
    """Of all APIs, since nothing is known of their scope."""
    return tuple(Twin(sid, sid, "apis") for sid in sorted(subscriptions or ()))


def _write(folder: Path, texts: dict[str, str], *, force: bool) -> None:
    changed = [
        name
        for name, text in texts.items()
        if (folder / name).exists() and (folder / name).read_text(encoding="utf-8") != text
    ]
    if changed and not force:
        raise CommandRefused(
            f"{', '.join(changed)} in {folder} would be replaced",
            next_step="Write to another folder with --out, or replace them with --force.",
        )
    for name, text in texts.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        typer.echo(str(target))


def _advise(facts: Facts) -> None:
    if not facts.backend:
        say(
            "v1/main.parameters.json lacks backendUrl: policies of the legacy API choose its backend. Fill it in."
        )
    if not facts.twins:
        say("v1/main.parameters.json names no subscription: add those that are to get a twin.")
    say("Review README.md there first. Nothing has been deployed.")


def _url(option: str, value: str) -> str:
    from shim.settings.reader import Reader

    read = Reader({option: value})
    url = read.url(option, https_only=True)
    if read.problems:
        raise CommandRefused("; ".join(read.problems), ExitCode.USAGE)
    return url


def _origins(texts: list[str] | None) -> tuple[str, ...]:
    from shim.settings.origins import OriginPattern

    try:
        patterns = [OriginPattern.parse(text) for text in texts or ()]
    except ValueError as error:
        raise CommandRefused(f"--origin: {error}", ExitCode.USAGE) from None
    if any("*" in pattern.text and not pattern.is_any for pattern in patterns):
        raise CommandRefused(
            "--origin: APIM's cors policy takes exact origins, or * alone (learn.microsoft.com/azure/api-management"
            "/cors-policy)",
            ExitCode.USAGE,
        )
    return tuple(pattern.text for pattern in patterns)
