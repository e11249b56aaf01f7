"""The ``longspan`` command. Every file of this folder is a command of the same name; adding a file adds the command.

A command's file holds `app`, a `typer.Typer`; the first line of its docstring, after "``longspan NAME``:", is its help text. Files are
imported when their command runs, never for `longspan --help`, because most of them pull in torch.

Exit codes: 0 done, 2 bad input (one sentence on stderr, no traceback), 130 interrupted; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from typer.core import TyperCommand, TyperGroup

from longspan.errors import BadInput, nearest

FOLDER = Path(__file__).parent
INTERRUPTED = 130
# typer carries its own copy of click; these are the bases of the one exception it exports.
UsageError, ClickException = typer.BadParameter.__mro__[1:3]


def command_files() -> dict[str, Path]:
    """Command name -> file, by name."""
    return {
        path.stem.replace("_", "-"): path
        for path in sorted(FOLDER.glob("*.py"))
        if not path.stem.startswith("_") and path != Path(__file__)
    }


def _help(path: Path) -> str:
    """First docstring line of a command's file, read without importing it."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = docstring.partition("\n")[0]
    said = line.partition("``:")[2].strip() or line
    return said[:1].upper() + said[1:]


class Commands(TyperGroup):
    """A group whose commands are files."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return list(command_files())

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | TyperGroup | None:
        files = command_files()
        if cmd_name not in files:
            return None
        if ctx.meta.get("longspan.listing"):
            return TyperCommand(cmd_name, help=_help(files[cmd_name]))
        module = importlib.import_module(f"longspan.cli.{files[cmd_name].stem}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        command.params = [
            one for one in command.params if one.name not in ("install_completion", "show_completion")
        ]
        for one in command.params:
            if text := getattr(one, "help", None):  # brackets would be taken for markup and vanish
                one.help = text.replace("[", r"\[")  # type: ignore[attr-defined]
        return command

    def format_help(self, ctx: typer.Context, formatter) -> None:
        ctx.meta["longspan.listing"] = True
        super().format_help(ctx, formatter)

    def resolve_command(self, ctx: typer.Context, args: list[str]):
        files = command_files()
        if args and not args[0].startswith("-") and args[0] not in files:
            raise BadInput(f"There is no command {args[0]!r}; {nearest(args[0], files)}")
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("longspan"))
        raise typer.Exit()


@app.callback()
def _longspan(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Run, compare, train and serve long-context language models: any method, any model, any combination."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script; always leaves through SystemExit."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        result = typer.main.get_command(app).main(arguments, prog_name="longspan", standalone_mode=False)
    except BadInput as error:
        return _say(str(error), 2)
    except UsageError as error:
        message = error.format_message().rstrip(".")
        if not message:  # no command given: typer has printed the help
            return 2
        nested = error.ctx is not None and error.ctx.parent is not None
        return _say(f"{message} ({error.ctx.command_path if nested else 'longspan'} --help)", 2)
    except ClickException as error:
        return _say(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    if result == INTERRUPTED:  # typer turns an interrupt inside a command into this code
        return _say("Interrupted; whatever was written so far is valid.", INTERRUPTED)
    return result if isinstance(result, int) else 0


def _say(sentence: str, code: int) -> int:
    print(f"longspan: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
