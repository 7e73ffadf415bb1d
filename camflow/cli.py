"""The command ``camflow``: what Snakemake does not answer. Everything that computes is a Snakemake target."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from camflow.apply.options import add_apply_arguments
from camflow.errors import CamflowError, ConfigError


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
    parser = argparse.ArgumentParser("camflow", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    why = commands.add_parser("why", help="why a result would be computed: which part of its keys changed")
    why.add_argument("path", help="readable path, such as results/parts/plain/cam/score.val.json")
    _add_config(why)
    why.set_defaults(run=_why)

    gc = commands.add_parser("gc", help="list (and with --delete remove) what the config no longer reaches")
    gc.add_argument("--delete", action="store_true", help="remove what is listed")
    _add_config(gc)
    gc.set_defaults(run=_gc)

    show = commands.add_parser("show", help="print what a store holds, or draw one of its images")
    show.add_argument("file", type=Path, help="an .h5 file of the results")
    show.add_argument("--images", type=int, default=10, metavar="N", help="how many images to list (default 10)")
    show.add_argument("--image", metavar="ID", help="draw this image")
    show.add_argument("--out", type=Path, metavar="PNG", help="where to draw it (default ID.png)")
    show.add_argument("--catalog", metavar="H5", help="catalog of the photos, if it is not above the file")
    show.set_defaults(run=_show)

    export = commands.add_parser("export", help="write label maps or seed maps as files for other programs")
    export.add_argument("file", type=Path, help="masks, predictions, predictions_crf or maps of a split, an .h5 file")
    export.add_argument("folder", type=Path, help="the new folder; an earlier export in it is replaced")
    export.add_argument(
        "--as",
        dest="form",
        choices=("labels", "npy", "irn", "npz", "png", "png_folder"),
        help="labels: label maps as palette PNGs (the default for masks); seed maps as dictionaries {class: map} of npy (the "
        "default for maps), IRN's dictionaries, npz, or grey PNGs ID_CLASS.png or CLASS/ID.png (docs/interchange.md)",
    )
    export.add_argument(
        "--classes",
        choices=("index", "label", "name"),
        default="index",
        help="of seed maps, how files call the classes: from 0, from 1, or by name (default index)",
    )
    export.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of seed maps as PNGs (default 8)")
    export.add_argument(
        "--layout",
        choices=("masks", "voc"),
        default="masks",
        help="masks: masks/ID.png with lists of ids and classes, as trainers read; voc: a submission to PASCAL VOC",
    )
    export.add_argument("--catalog", metavar="H5", help="catalog of the photos, if it is not above the file")
    export.set_defaults(run=_export)

    apply = commands.add_parser("apply", help="run a trained recipe on photos of your own")
    add_apply_arguments(apply)
    _add_config(apply)
    apply.set_defaults(run=_apply)

    bench = commands.add_parser("bench", help="measure speed and memory of the stages on made data")
    bench.add_argument(
        "--images", type=int, default=100, metavar="N", help="dataset size; 10 N is measured too (default 100)"
    )
    bench.add_argument("--size", type=int, default=96, metavar="PX", help="side of its photos in pixels (default 96)")
    bench.add_argument(
        "--photo-size", default="375x500", metavar="HxW", help="photos that the ratios are timed on (default 375x500)"
    )
    bench.add_argument("--only", nargs="+", metavar="NAME", help="measure these stages or ratios (docs/benchmarks.md)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    bench.set_defaults(run=_bench)
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


def _why(options: argparse.Namespace) -> None:
    from camflow.plan import why
    from camflow.plan.plan import parse_target

    plan = _plan(options)
    readable = (
        os.path.relpath(options.path, plan.results) if os.path.exists(options.path) else os.path.normpath(options.path)
    )
    readable = readable.removeprefix(f"{plan.results}{os.sep}")
    if readable.startswith("tables/"):
        lines = why.explain_table(plan, readable)
    else:
        lines = why.explain(plan, parse_target(readable))
    for line in lines:
        print(line)


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


def _export(options: argparse.Namespace) -> None:
    from camflow.export import run

    run(options)


def _apply(options: argparse.Namespace) -> None:
    from camflow.apply.command import run

    run(options, _plan(options))


def _bench(options: argparse.Namespace) -> None:
    from camflow.bench.run import run

    run(options.images, options.size, photo_size=options.photo_size, only=options.only, json_file=options.json)


if __name__ == "__main__":
    sys.exit(main())
