"""A key that is about to be stored: the only place that prints a key, to stdout, once."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field

import typer

from shim.cli import output
from shim.cli.session import say
from shim.keys.azure.vault_errors import VaultError
from shim.keys.subscription import digest_of
from shim.keys.vault import SHOWN_DIGITS


@dataclass(frozen=True, slots=True)
class NewKey:
    """`stands_for` is the key that APIM is sent in its place, if that is another."""

    key: str = field(repr=False)
    label: str
    generated: bool
    stands_for: str | None = field(repr=False)
    json: bool

    @property
    def digest(self) -> str:
        return digest_of(self.key)

    def print(self) -> None:
        """Shows a generated key; one that the operator passed in is known already."""
        if self.generated:
            say("The key is on stdout, and nowhere else: pass it on now.")
        self._explain_upstream()
        if self.json:
            shown = {"key": self.key} if self.generated else {}
            output.print_json({**shown, **self._described()})
        elif self.generated:
            typer.echo(self.key)

    def print_dry_run(self) -> None:
        self._explain_upstream()
        if self.json:
            output.print_json(self._described())

    def _described(self) -> dict[str, str]:
        return {"label": self.label, "digest": self.digest[:SHOWN_DIGITS]}

    def _explain_upstream(self) -> None:
        if not self.stands_for:
            say(
                "APIM must know it too: make it the primary or secondary key of an APIM subscription,"
                " or have it stand for such a key with 'add --upstream'."
            )


async def store(new: NewKey, write: Awaitable[None]) -> None:
    """Awaits `write`, and shows the key at once: whatever fails after that, somebody has it. Raises VaultError.

    It is shown as well if the vault may have stored it without saying so, or a key would be good that nobody has.
    """
    try:
        await write
    except VaultError as error:
        if error.maybe_done:
            new.print()
            error.add_note(
                f"The vault may have stored the key {new.digest[:SHOWN_DIGITS]} all the same: keep it until"
                " you have run the command again, and revoke it if it is good and not needed."
            )
        raise
    new.print()
