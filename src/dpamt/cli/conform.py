"""`dpamt conform`: vector files replayed against the model."""

import argparse
from pathlib import Path

from dpamt.cli.parser import Parser


def main(arguments: list[str]) -> int:
    """Replay and print; 0 when everything agrees, else 1."""
    options = _parser().options(arguments)
    return _conform(options)


def _conform(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_document, write_text
    from dpamt.module.releases import release_named
    from dpamt.report.conform_text import FileResult, conform_json, conform_text
    from dpamt.report.progress import watching
    from dpamt.trace.vector_file import Race, Scenario, read_vector_file
    from dpamt.trace.vectors import RECORDED_RELEASE, replay_all
    from dpamt.verify.races.explored import replay_races

    release = release_named(options.release or RECORDED_RELEASE).name
    # All files are read before any is replayed: a fault in one is reported at once.
    files = [read_vector_file(Path(name)) for name in options.files]
    results = []
    with watching() as shown:
        for file in files:
            name = file.path.name

            def watch(scenario: Scenario, index: int, total: int, name: str = name) -> None:
                if shown is not None:
                    shown(name, "scenario", scenario.id, index, total)

            def watch_race(race: Race, index: int, total: int, name: str = name) -> None:
                if shown is not None:
                    shown(name, "race", race.before.id, index, total)

            replays = replay_all(file, release, watch)
            races = replay_races(file.races, release, watch_race)
            results.append(FileResult(file, replays, races))
    if options.json:
        write_document(json.dumps(conform_json(results, release), indent=2) + "\n")
    else:
        write_text(conform_text(results, release))
    return 0 if all(result.clean for result in results) else 1


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt conform",
        description="Replay SEAMCALL sequences with recorded answers against the model, and show "
        "the first call of each sequence that differs, with both answers and the "
        "model's reason. Two calls at once are explored in every order: each recorded"
        " outcome must be reached. Exit code 1 when anything differs.",
    )
    parser.add_input(
        "files", nargs="+", metavar="FILE.jsonl", help="recorded sequences (docs/vectors.md)"
    )
    parser.add_argument(
        "--release",
        "--module",
        metavar="NAME",
        help="release of the TDX module (1.5.25, the recorded one; dpamt list releases)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/vectors.md)")
    return parser
