"""`python -m shim`: what operators type."""

import typer

from shim.cli.doctor.command import doctor
from shim.cli.keys import command as keys
from shim.cli.retire.command import retire
from shim.cli.usage.command import usage

app = typer.Typer(
    name="shim",
    help="Operates the shim.",
    no_args_is_help=True,
    # Its tracebacks would show local variables, and with them keys.
    pretty_exceptions_enable=False,
)
app.command()(doctor)
app.command()(retire)
app.command()(usage)
app.add_typer(keys.app, name="keys")


@app.callback()
def main() -> None:
    """Operates the shim."""


if __name__ == "__main__":
    app(prog_name="shim")
