"""The command line. It imports nothing heavy until a command needs it."""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.base import interrupts
from zoo.base.environment import for_children, open_standard_streams
from zoo.base.errors import Interrupted, RunFailed, ZooError, close, many, to_type, unknown
from zoo.base.memory import no_collection
from zoo.base.terminal import console, say
from zoo.cli.help import (
    CHECK_HELP,
    COMPARE_HELP,
    COMPLETION_HELP,
    EVAL_HELP,
    EXPORT_HELP,
    GENERATE_HELP,
    HELP,
    IMPORT_HELP,
    INSPECT_HELP,
    LIST_HELP,
    MEASURE_HELP,
    NEW_HELP,
    REPORT_HELP,
    RUNS_HELP,
    SHOW_HELP,
    TRAIN_HELP,
)

HYDRA_FLAGS = {"-m", "--multirun", "--cfg", "-c", "--info", "-i", "--package", "-p", "--resolve", "--hydra-help"}
TAKES_VALUE = {"--cfg", "-c", "--package", "-p"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if all went well, 1 if a run failed, 2 for a mistake, 130 when interrupted."""
    for_children()
    open_standard_streams()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us, to be said in one line
    warnings.showwarning = lambda message, *rest, **more: say(f"warning: {message}", error=True)
    if isinstance(sys.stdout, io.TextIOWrapper):  # half a character, as JSON can hold, is shown as it is
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    before = interrupts.listen()
    if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (of several processes the first speaks)
    try:
        status = _dispatch(words)
    except BaseException as error:
        status = _became_of(error, words[:1])
    finally:
        if argv is not None:  # called by Python, which goes on
            interrupts.give_back(before)
    if interrupts.noted() is not None:
        status = _interrupted()
        if argv is None:
            interrupts.ignore()  # it ends: by this status, and not by another signal meanwhile
    return status


def _interrupted() -> int:
    """Whatever a signal has turned into on its way here."""
    interrupts.say()
    return 128 + (interrupts.noted() or signal.SIGINT)


def _became_of(error: BaseException, command: list[str]) -> int:
    """Say in one line what ended a command, and return its exit status; a mistake of ours keeps its traceback."""
    if interrupts.noted() is not None:
        return _interrupted()
    try:
        raise error
    except RunFailed as error:
        return _say(f"failed: {error}", 1)
    except ZooError as error:
        return _say(f"error: {error}", 2)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if not _is_left_out(error):
            raise
        needs = f"zoo {command[0]} needs a package that is not installed here: {error}"
        return _say(f"error: {needs}; type: pip install -e . (without a network: docs/offline.md)", 2)
    except MemoryError:
        return _say("error: there is not enough memory (ulimit -v says what is granted)", 1)
    except OSError as error:
        return _say(f"error: {error.filename or 'the system'}: {error.strerror or error}", 1)
    except BaseException as error:
        if not isinstance(error, Interrupted):
            raise
        interrupts.say(f"{error}; the same command goes on where this one stopped")
        return 128 + error.signum


def _is_left_out(error: ModuleNotFoundError) -> bool:
    """Whether it was an import of another's package, from within the zoo: one that pyproject.toml asks for."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    inside = trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(Path(__file__).parents[1])
    return inside and str(error.name).partition(".")[0] not in ("zoo", "zoo_plugins", "zoo_conf")


def _say(message: str, status: int) -> int:
    say(message, error=True)
    return status


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        say(HELP, end="")
        return 0
    if words[0] in ("--version", "-V"):
        import zoo

        say(zoo.__version__)
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        if "=" in command:
            raise ZooError(f"'{command}' is an override; say what to do with it: {to_type('zoo', 'train', *words)}")
        if command.startswith("-"):
            raise ZooError(unknown("option", command, ["--help", "--version"]))
        raise ZooError(
            unknown("command", command, [name for name in COMMANDS if not name.startswith("_")], prefix="zoo ")
        )
    function, text = COMMANDS[command]
    if {"-h", "--help"} & set(rest):
        say(text, end="")
        return 0
    return function(rest)


def _split(words: list[str], flags: set[str], takes_value: set[str] = frozenset()) -> tuple[list[str], list[str]]:  # type: ignore[assignment]
    """Flags with their values, and overrides."""
    given_flags: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        name = word.split("=", 1)[0]
        if not word.startswith("-"):
            overrides.append(word)
        elif name not in flags:
            near = close(name, flags)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ZooError(f"there is no option {name}.{hint} Options: {', '.join(sorted(flags | {'--help'}))}")
        else:
            given_flags.append(word)
            if name in takes_value and "=" not in word:
                given_flags.append(next(rest, ""))
    return given_flags, overrides


def _train(words: list[str]) -> int:
    flags, overrides = _split(words, HYDRA_FLAGS, TAKES_VALUE)
    from zoo.runs.sweep import sweep

    sweep(flags, overrides)
    return 0


def _compare(words: list[str]) -> int:
    flags, rest = _split(words, {"--dry-run"})
    from zoo.comparison.compare import carried_out, grouped, in_words, plan_for, sizes_in_words

    watched = not flags and sys.stderr.isatty()
    if watched:  # composing takes a while, and nothing is shown yet
        say("planning", error=True)
    plan = plan_for(rest)
    for line in plan.says:
        say(line, error=not flags)
    if flags:
        sizes, unmet = sizes_in_words(plan)
        for line in [*in_words(plan), *sizes]:
            say(line)
        if plan.comparisons() and not plan.rungs:
            from zoo.comparison.statistics import SIGNIFICANCE
            from zoo.comparison.verdicts import can_find, cannot_rank

            runs = min(len(cell.seeds) for cell in plan.cells)
            say(f"on each task, {can_find(runs, plan.comparisons())}")
            who = {cell.contestant for cell in plan.cells if cell.follows is None}
            level = SIGNIFICANCE / (2 if plan.more_seeds else 1)
            if cannot := cannot_rank(runs + len(plan.more_seeds), len(who), level):
                say(f"on each task, {cannot}")
        grows = plan.extend and any(len(cell.grid) > 1 for cell in plan.cells)
        more = ", and more where a best setting lies at the edge of its grid" if grows else ""
        say(f"{many(plan.total(), 'run')} into {plan.folder}{more}")
        return _say("\n".join(f"error: {each}" for each in unmet), 2) if unmet else 0
    from zoo.comparison.terminal import Board

    if watched:
        say(f"{many(plan.total(), 'run')} into {plan.folder}; starting workers", error=True)

    def show(ledger: Any, execution: Any) -> None:
        if execution.skipped:
            were = "was" if execution.skipped == 1 else "were"
            say(f"{execution.skipped} of {many(execution.total, 'run')} {were} finished before")
        _print_tables(ledger)

    ledger, page, execution = carried_out(plan, Board(console(stderr=True, markup=False)), show)
    say(page)
    if execution.failures:
        return _say("\n".join(f"failed: {reason}" for reason in grouped(execution.failures)), 1)
    return _say_unreadable(ledger)


def _console() -> Any:
    from zoo.cli.list import screen

    return screen(markup=False)


def _print_tables(ledger: Any) -> None:
    from zoo.comparison.answer import answer
    from zoo.comparison.terminal import MOST_SHOWN, and_more, tables

    screen = _console()
    for sentence in answer(ledger):
        screen.print(f"- {sentence}")
    for table in tables(ledger, screen.width):
        screen.print(table)
    if ledger.failures:
        names = [row["id"] for row in ledger.failures[:MOST_SHOWN]]
        names += filter(None, [and_more(len(ledger.failures), "runs", ledger.folder)])
        screen.print(f"{many(len(ledger.failures), 'run')} failed: {', '.join(names)}")
    if ledger.missing:
        screen.print(f"{many(ledger.missing, 'run')} without a result; {ledger.command} makes what is missing")
    sys.stdout.flush()  # whatever becomes of the page


def _say_unreadable(*ledgers: Any) -> int:
    """Name the runs that may not be read, and return the exit status."""
    lost = [row for ledger in ledgers for row in ledger.unreadable]
    if not lost:
        return 0
    return _say("\n".join([f"{many(len(lost), 'run')} cannot be read:", *(row["error"] for row in lost)]), 1)


def _run(word: str) -> str:
    """The folder that a word means: a path, an id as ``zoo runs`` lists it, or a part that one id alone has.

    Raises:
        ZooError: several ids have that part.
    """
    paths = (Path(word), Path("runs", word), Path("runs", "train", word))
    folder = next((path for path in paths if path.exists()), None)
    if folder is None and os.sep not in word:
        from zoo.runs.history import Ambiguous, named

        try:
            folder = named(Path("runs"), word).folder
        except Ambiguous:
            raise
        except ZooError:  # whoever asked says that there is none
            return word
    return str(folder or word)


@no_collection()
def _report(words: list[str]) -> int:
    folders, given = _values(words, {"--to": str})
    folders = list(map(_run, folders))
    from zoo.comparison.export import check_ending
    from zoo.comparison.ledger import is_run, read_ledger, read_runs

    for to in map(Path, given.get("--to", [])):
        check_ending(to)
    single = [is_run(Path(folder)) for folder in folders]
    if folders and all(single):
        return _report_runs(read_runs(list(map(Path, folders))), Path(folders[0]), given)
    if any(single):
        run, folder = folders[single.index(True)], folders[single.index(False)]
        raise ZooError(f"{run} is a single run and {folder} is not; name runs alone, or folders of runs alone")
    if len(folders) not in (1, 2) or (len(folders) == 2 and given):
        raise ZooError(
            "name one folder of runs, such as: zoo report runs/families (with --to figures.csv, .md, .tex, .parquet or "
            ".svg, also as a file), two to set side by side: zoo report runs/a runs/b, or single runs: zoo report "
            "runs/train/<id> runs/train/<id>"
        )
    ledger, *others = (read_ledger(Path(folder)) for folder in folders)
    if others:
        from zoo.comparison.diff import compare

        _console().print(compare(ledger, *others))
        return _say_unreadable(ledger, *others)
    from zoo.comparison.export import write
    from zoo.comparison.page import write_page

    _print_tables(ledger)
    say(write_page(ledger))
    for to in map(Path, given.get("--to", [])):
        write(ledger, to)
        say(to)
    return _say_unreadable(ledger)


def _report_runs(ledger: Any, first: Path, given: dict[str, list[Any]]) -> int:
    """Set single runs beside each other, and write a page with their curves into the folder of the first."""
    from zoo.comparison.diff import what_differs
    from zoo.comparison.export import write
    from zoo.comparison.page import write_page

    _print_tables(ledger)
    for other in ledger.rows[1:]:
        if differs := what_differs(ledger.rows[0], other):
            say(f"{ledger.rows[0]['id']} and {other['id']} differ in {differs}")
    name = "report.html" if len(ledger.rows) == 1 else f"beside-{ledger.rows[1]['id']}.html"
    say(write_page(ledger, first / name))
    for to in map(Path, given.get("--to", [])):
        write(ledger, to)
        say(to)
    return _say_unreadable(ledger)


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _measure(words: list[str]) -> int:
    rest, given = _values(words, {"--lengths": _lengths, "--rounds": int, "--on": str, "--to": str})
    from zoo.cli.measure import MeasureOptions, measure

    names = {"--lengths": "lengths", "--rounds": "rounds", "--on": "accelerator", "--to": "to"}
    settings = {names[name]: values[-1] for name, values in given.items()}
    if "to" in settings:
        settings["to"] = Path(settings["to"])
    contestants = tuple(word for word in rest if " " in word or "=" not in word)
    measure(MeasureOptions(contestants, tuple(word for word in rest if word not in contestants), **settings))
    return 0


def _runs(words: list[str]) -> int:
    flags, rest = _split(words, {"--failed", "--yes"})
    from zoo.cli.runs import runs

    return runs(rest, "--failed" in flags, "--yes" in flags)


def _list(words: list[str]) -> int:
    _, kinds = _split(words, set())
    from zoo.cli.list import show_list

    show_list(kinds)
    return 0


def _show(words: list[str]) -> int:
    _, overrides = _split(words, set())
    from zoo.cli.show import show
    from zoo.config.tree import refuse_repeated

    refuse_repeated(overrides)
    show(overrides)
    return 0


def _new(words: list[str]) -> int:
    flags, rest = _split(words, {"--package"})
    if len(rest) != 2:
        raise ZooError("name a kind and a name, such as: zoo new mixer my_mixer")
    from zoo.cli.new import in_use, make

    kind, name = rest
    paths = make(kind, name, package=bool(flags))
    say("\n".join(map(str, paths)))
    if kind == "comparison":
        say(f"then: {to_type('zoo', 'compare', f'./{paths[0]}', '--dry-run')}")
    elif flags:
        say(f"then: cd {paths[0].parent.parent} && pip install -e . && {to_type('zoo', 'check', f'{kind}={name}')}")
    else:
        say(f"then: {to_type('zoo', 'check', f'./{paths[0]}')}, and ZOO_PLUGINS=./{paths[0]} {in_use(kind, name)}")
    return 0


def _check(words: list[str]) -> int:
    _, rest = _split(words, set())
    from zoo.cli.check import check

    return check(rest)


def _export(words: list[str]) -> int:
    flags, folders = _split(words, {"--packed", "--to", "--hf"}, {"--to", "--hf"})
    if len(folders) != 1:
        raise ZooError(
            f"{_not_one(folders, 'the folder of one finished run')}, such as: zoo export runs/train/<id> --packed"
        )
    layout = to = hf = None
    for word, following in itertools.pairwise([*flags, ""]):
        name, _, value = word.partition("=")
        if name == "--packed":
            layout = value or "planes"
        elif name == "--to":
            to = value or following
        elif name == "--hf":
            hf = value or following
    if hf is not None:
        if hf == "" or hf.startswith("-") or layout or to:
            raise ZooError("--hf needs the name of a folder and goes with no other option, such as --hf my_model")
        from zoo.models.convert import to_huggingface

        say(to_huggingface(Path(_run(folders[0])), Path(hf)))
        return 0
    if to == "" or (to or "").startswith("-"):
        raise ZooError("--to needs the name of a file, such as --to model.safetensors")
    from zoo.models.export import export

    export(Path(_run(folders[0])), layout, Path(to) if to else None)
    return 0


def _not_one(given: list[str], one: str = "one") -> str:
    return f"given {len(given)} ({', '.join(given)}); name one at a time" if given else f"name {one}"


def _options(words: list[str], known: dict[str, type], example: str) -> tuple[str, dict[str, list[Any]]]:
    """The one folder or file that a command is about, and the values of its options, each of its type."""
    rest, values = _values(words, known)
    if len(rest) != 1:
        raise ZooError(f"{_not_one(rest)}, such as: {example}")
    return rest[0], values


def _values(words: list[str], known: Mapping[str, Callable[[str], Any]]) -> tuple[list[str], dict[str, list[Any]]]:
    """What is no option, and the values of the options, each as its reader makes it."""
    flags, rest = _split(words, set(known), set(known))
    values: dict[str, list[Any]] = {}
    given = iter(flags)
    for word in given:
        name, sign, text = word.partition("=")
        text = text if sign else next(given, "")
        try:
            values.setdefault(name, []).append(known[name](text))
        except ValueError as error:
            kinds = {"int": "a whole number", "float": "a number", "_lengths": "whole numbers with commas, 128,512"}
            raise ZooError(f"{name}={text}: expected {kinds.get(known[name].__name__, 'a text')}") from error
    return rest, values


def _generate(words: list[str]) -> int:
    known = {"--prompt": str, "--tokens": int, "--beams": int, "--temperature": float, "--seed": int, "--examples": int}
    run, given = _options(words, known, "zoo generate runs/train/<id> --prompt TEXT")
    bounds = {"--tokens": (1, 100_000), "--beams": (1, 1000), "--temperature": (0, 100), "--examples": (1, 10**6)}
    for name, (least, most) in {**bounds, "--seed": (0, 2**63 - 1)}.items():
        if not least <= given.get(name, [least])[-1] <= most:
            raise ZooError(f"{name}={given[name][-1]}: expected at least {least} and at most {most}")
    from zoo.models.generate import GenerateOptions, run_generate

    settings = {name.removeprefix("--"): values[-1] for name, values in given.items() if name != "--prompt"}
    if settings.get("beams", 1) > 1 and settings.get("temperature"):
        raise ZooError("--beams and --temperature: a beam search does not sample; give one of them")
    run_generate(Path(_run(run)), GenerateOptions(given.get("--prompt", []), **settings))
    return 0


def _eval(words: list[str]) -> int:
    known = {"--tasks": str, "--include": str, "--shots": int, "--limit": int, "--batch": int, "--tokens": int}
    run, given = _options(words, known | {"--on": str, "--to": str}, "zoo eval runs/train/<id> --tasks lambada_openai")
    for name, least in {"--shots": 0, "--limit": 1, "--batch": 1, "--tokens": 1}.items():
        if given.get(name, [least])[-1] < least:
            raise ZooError(f"{name}={given[name][-1]}: expected at least {least}")
    from zoo.cli.evaluate import show
    from zoo.models.evaluate import evaluate

    names = {"--batch": "batch_size", "--on": "accelerator"}
    settings = {names.get(name, name.removeprefix("--")): values[-1] for name, values in given.items()}
    show(evaluate(Path(_run(run)), **{"tasks": "", **settings}))
    return 0


def _inspect(words: list[str]) -> int:
    run, given = _options(words, {"--example": int, "--length": int, "--judged-by": int}, "zoo inspect runs/train/<id>")
    for name in ("--length", "--judged-by"):
        if given.get(name, [1])[-1] < 1:
            raise ZooError(f"{name}={given[name][-1]}: expected at least 1")
    from zoo.models.inspect import inspect
    from zoo.models.inspect_page import InspectOptions

    options = InspectOptions()
    options.examples = tuple(dict.fromkeys(given.get("--example", options.examples)))
    options.length, options.judged_by = given.get("--length", [64])[-1], given.get("--judged-by", [256])[-1]
    inspect(Path(_run(run)), options)
    return 0


def _import(words: list[str]) -> int:
    if words[:1] != ["hf"]:
        raise ZooError(f"expected where it comes from: {to_type('zoo', 'import', 'hf', *(words or ['SOURCE']))}")
    source, given = _options(words[1:], {"--to": str}, "zoo import hf ./gpt2")
    if given.get("--to", ["file"])[-1] in ("", "--to"):
        raise ZooError("--to needs the name of a file, such as --to gpt2.safetensors")
    from zoo.models.convert import import_huggingface

    to = given.get("--to")
    import_huggingface(source, Path(to[-1]) if to else None)
    return 0


def _completion(words: list[str]) -> int:
    from zoo.cli.completion import script

    say(script(words[0] if words else ""))
    return 0


def _launch(words: list[str]) -> int:
    from zoo.runs.engines import serve

    return serve(words)


def _complete(words: list[str]) -> int:
    from zoo.cli.completion import candidates

    say("\n".join(candidates(words[0] if words else "", COMMANDS)))
    return 0


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "compare": (_compare, COMPARE_HELP),
    "train": (_train, TRAIN_HELP),
    "report": (_report, REPORT_HELP),
    "runs": (_runs, RUNS_HELP),
    "generate": (_generate, GENERATE_HELP),
    "eval": (_eval, EVAL_HELP),
    "export": (_export, EXPORT_HELP),
    "inspect": (_inspect, INSPECT_HELP),
    "measure": (_measure, MEASURE_HELP),
    "import": (_import, IMPORT_HELP),
    "list": (_list, LIST_HELP),
    "show": (_show, SHOW_HELP),
    "check": (_check, CHECK_HELP),
    "new": (_new, NEW_HELP),
    "completion": (_completion, COMPLETION_HELP),
    "_complete": (_complete, ""),
    "_launch": (_launch, ""),
}
