"""`python -m shim keys import-apim`."""

from __future__ import annotations

from typing import Annotated

import typer

from shim.cli import output
from shim.cli.keys import rendering
from shim.cli.keys.options import DryRun, Json, checked_resource_id
from shim.cli.session import CommandRefused, ExitCode, Session, run, say
from shim.keys.admin.importing import Filters, Import, count


def import_apim(
    context: typer.Context,
    resource_id: Annotated[
        str | None, typer.Option(help="The API Management service. [APIM_RESOURCE_ID]", metavar="ID")
    ] = None,
    product: Annotated[
        list[str] | None, typer.Option(help="Only subscriptions to this product. Repeatable.")
    ] = None,
    api: Annotated[
        list[str] | None, typer.Option(help="Only subscriptions that give access to this API. Repeatable.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Disable imported keys that APIM no longer accepts.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Copy both keys of every active APIM subscription into the vault."""

    async def work(session: Session) -> None:
        settings = session.settings
        filters = Filters(
            tuple(product or ()) or settings.apim_import_products,
            tuple(api or ()) or settings.apim_import_apis,
        )
        await _import(session, filters, prune=prune, dry_run=dry_run, json=json)

    run(context, work, apim_resource_id=checked_resource_id(resource_id))


async def _import(session: Session, filters: Filters, *, prune: bool, dry_run: bool, json: bool) -> None:
    apim = session.open_apim(session.settings)
    if apim is None:
        raise CommandRefused("name the service: set APIM_RESOURCE_ID, or use --resource-id", ExitCode.USAGE)
    with output.progress("Importing") as tick:
        async with apim:
            job = Import(
                apim,
                session.secrets,
                prefix=session.settings.key_secret_prefix,
                filters=filters,
                prune=prune,
                progress=tick,
            )
            changes = await job.plan()
            if not dry_run:
                await job.apply(changes)
    rendering.print_changes(changes, json)
    say(f"{'Would import' if dry_run else 'Imported'} from {apim.name}: {count(changes)}.")
