"""The command ``camflow``: what Snakemake does not answer. Everything that computes is a Snakemake target."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from camflow.apply.options import add_apply_arguments
from camflow.errors import CamflowError, ConfigError

_ABOUT = "What Snakemake does not answer about your results. Everything that computes is a Snakemake target."
_EPILOG = """\
camflow <command> --help explains a command. Results are made by Snakemake:

  snakemake -n                                               what the configuration would run
  snakemake --cores 2 results/parts/plain/cam/score.val.json one result and all it needs

A path is a recipe: results/DATASET/CLASSIFIER/LOCALIZER/REFINER/SEGMENTER/FILE.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code; a user's error is one sentence, not a traceback."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except CamflowError as error:
        print(f"camflow {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "camflow", description=_ABOUT, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="<command>", title="commands")
    adders = (
        _add_methods,
        _add_reference,
        _add_why,
        _add_plan,
        _add_gc,
        _add_papers,
        _add_show,
        _add_export,
        _add_apply,
        _add_bench,
    )
    for add in adders:
        add(commands)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--configfile", nargs="+", default=[], metavar="YAML", help="overlays, as given to snakemake")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="overrides, as given to snakemake")


def _plan(options: argparse.Namespace):
    from camflow.plan.plan import PROJECT, Plan

    default = Path("config.yaml") if Path("config.yaml").exists() else PROJECT / "config.yaml"
    overrides = {}
    for item in options.config:
        key, found, value = item.partition("=")
        if not key or not found:
            raise ConfigError(f"--config: '{item}' should be KEY=VALUE")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            overrides[key] = value  # as Snakemake does
    return Plan.load([default, *options.configfile], overrides)


def _add_methods(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("methods", help="list the methods, or print one with its parameters")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a method, such as advcam or crf")
    parser.set_defaults(run=_methods)


def _methods(options: argparse.Namespace) -> None:
    from rich.console import Console

    from camflow.methods import describe_method, list_methods

    if options.name is None:
        list_methods(Console())
    else:
        describe_method(options.name, Console())


def _add_reference(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("reference", help="print every key of the configuration as a Markdown page")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="write it there (docs/configuration.md)")
    parser.set_defaults(run=_reference)


def _reference(options: argparse.Namespace) -> None:
    from camflow.plan.reference_page import markdown
    from camflow.presets import presets_of
    from camflow.store import write_text

    text = markdown(presets_of)
    if options.file is None:
        print(text, end="")
    else:
        write_text(options.file, text)
        print(options.file)


def _add_why(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("why", help="why a result would be computed: which part of its keys changed")
    parser.add_argument("path", help="readable path, such as results/parts/plain/cam/score.val.json")
    _add_config(parser)
    parser.set_defaults(run=_why)


def _why(options: argparse.Namespace) -> None:
    from camflow.plan import why
    from camflow.plan.plan import parse_target

    plan = _plan(options)
    readable = (
        os.path.relpath(options.path, plan.results) if os.path.exists(options.path) else os.path.normpath(options.path)
    )
    readable = readable.removeprefix(f"{plan.results}{os.sep}")
    if readable.startswith(("tables/", "papers/")):
        lines = why.explain_table(plan, readable)
    elif readable.startswith("gallery/"):
        lines = why.explain_gallery(plan, readable)
    else:
        lines = why.explain(plan, parse_target(readable))
    for line in lines:
        print(line)


def _add_plan(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("plan", help="what would run, what is cached, and what it will cost")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="as given to snakemake (default: the recipes)")
    parser.add_argument("--cores", type=int, metavar="N", help="cores to run on (default: this machine's)")
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="GPUs to run on, where jobs use them (default 1)"
    )
    parser.add_argument(
        "--records",
        nargs="+",
        default=[],
        metavar="PLACE",
        help="more records: files of --save-records, or folders of benchmarks",
    )
    parser.add_argument(
        "--save-records", type=Path, metavar="FILE", help="write all records into one file to carry elsewhere"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_config(parser)
    parser.set_defaults(run=_costs)


def _costs(options: argparse.Namespace) -> None:
    from rich.console import Console

    from camflow.machine import usable_cores
    from camflow.plan.forecast import forecast, show

    cores = usable_cores() if options.cores is None else options.cores
    more = {"places": options.records, "save": options.save_records}
    report = forecast(_plan(options), options.targets, cores=cores, gpus=options.gpus, **more)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report, Console(width=None if sys.stdout.isatty() else 160))


def _add_gc(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("gc", help="list (and with --delete remove) what the config no longer reaches")
    parser.add_argument("--delete", action="store_true", help="remove what is listed")
    _add_config(parser)
    parser.set_defaults(run=_gc)


def _gc(options: argparse.Namespace) -> None:
    from camflow.plan import gc

    total = 0
    for path in list(gc.unreachable(_plan(options))):
        if not os.path.lexists(path):
            continue  # it was inside something that has just been removed
        size = gc.size(path)
        total += size
        print(f"{size / 2**20:10.1f} MB  {path}")
        if options.delete:
            gc.remove(path)
    print(
        f"{total / 2**20:10.1f} MB  {'removed' if options.delete else 'not reached by this config; --delete removes it'}"
    )


def _add_papers(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("papers", help="list the published tables, their rows and what stands for them here")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="such as table_advcam_1 (default: all)")
    _add_config(parser)
    parser.set_defaults(run=_papers)


def _papers(options: argparse.Namespace) -> None:
    from camflow.plan.papers_list import describe

    for line in describe(_plan(options), options.targets):
        print(line)


def _add_show(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("show", help="print what a store holds, or draw one of its images")
    parser.add_argument("file", type=Path, help="an .h5 file of the results")
    parser.add_argument("--images", type=int, default=10, metavar="N", help="how many images to list (default 10)")
    parser.add_argument("--image", metavar="ID", help="draw this image")
    parser.add_argument("--out", type=Path, metavar="PNG", help="where to draw it (default ID.png)")
    parser.add_argument("--catalog", metavar="H5", help="catalog of the photos, if it is not above the file")
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> None:
    import h5py
    from rich.console import Console

    from camflow.show import describe, picture
    from camflow.store import Store

    if options.file.exists() and not h5py.is_hdf5(options.file):
        raise CamflowError(f"{options.file}: is no store; give an .h5 file of the results")
    store = Store(options.file)
    if options.image is None:
        describe(store, Console(), options.images)
        return
    out = options.out or Path(options.image.replace("/", "_") + ".png")
    picture(store, options.image, out, options.catalog)
    print(out)


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("export", help="write label maps or seed maps as files for other programs")
    parser.add_argument("file", type=Path, help="masks, predictions, predictions_crf or maps of a split, an .h5 file")
    parser.add_argument("folder", type=Path, help="the new folder; an earlier export in it is replaced")
    parser.add_argument(
        "--as",
        dest="form",
        choices=("labels", "npy", "irn", "npz", "png", "png_folder"),
        help="labels: label maps as palette PNGs (the default for masks); seed maps as dictionaries {class: map} of npy (the "
        "default for maps), IRN's dictionaries, npz, or grey PNGs ID_CLASS.png or CLASS/ID.png (docs/interchange.md)",
    )
    parser.add_argument(
        "--classes",
        choices=("index", "label", "name"),
        default="index",
        help="of seed maps, how files call the classes: from 0, from 1, or by name (default index)",
    )
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of seed maps as PNGs (default 8)")
    parser.add_argument(
        "--layout",
        choices=("masks", "voc"),
        default="masks",
        help="masks: masks/ID.png with lists of ids and classes, as trainers read; voc: a submission to PASCAL VOC",
    )
    parser.add_argument("--catalog", metavar="H5", help="catalog of the photos, if it is not above the file")
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from camflow.export import run

    run(options)


def _add_apply(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("apply", help="run a trained recipe on photos of your own")
    add_apply_arguments(parser)
    _add_config(parser)
    parser.set_defaults(run=_apply)


def _apply(options: argparse.Namespace) -> None:
    from camflow.apply.command import run

    run(options, _plan(options))


def _add_bench(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("bench", help="measure speed and memory of the stages on made data")
    parser.add_argument(
        "--images", type=int, default=100, metavar="N", help="dataset size; 10 N is measured too (default 100)"
    )
    parser.add_argument("--size", type=int, default=96, metavar="PX", help="side of its photos in pixels (default 96)")
    parser.add_argument(
        "--photo-size", default="375x500", metavar="HxW", help="photos that the ratios are timed on (default 375x500)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these stages or ratios (docs/benchmarks.md)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    parser.set_defaults(run=_bench)
    scale = parser.add_subparsers(metavar="scale").add_parser(
        "scale", help="run the real workflow on growing datasets (docs/scale.md)"
    )
    scale.add_argument("--images", dest="sizes", type=int, nargs="+", metavar="N", help="numbers of photos")
    scale.add_argument(
        "--size", dest="side", type=int, default=48, metavar="PX", help="side of the photos (default 48)"
    )
    scale.add_argument("--cores", type=int, default=1, metavar="N", help="cores of Snakemake (default 1)")
    scale.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    scale.add_argument("--figure", type=Path, metavar="PNG", help="draw them")
    scale.set_defaults(run=_bench_scale)


def _bench(options: argparse.Namespace) -> None:
    from camflow.bench.run import run

    run(options.images, options.size, photo_size=options.photo_size, only=options.only, json_file=options.json)


def _bench_scale(options: argparse.Namespace) -> None:
    from camflow.bench.scale import SIZES, scale

    scale(
        options.sizes or SIZES,
        options.side,
        cores=options.cores,
        json_file=options.json,
        figure=options.figure,
    )


if __name__ == "__main__":
    sys.exit(main())
