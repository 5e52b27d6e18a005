"""The command line: `edge-glass COMMAND ...`, also `python -m edge_lib COMMAND ...`.

Commands import what they need themselves, so that `--help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Callable

Arguments = list[str]


def sweep(arguments: Arguments) -> int:
    """Run every point of a sweep config, each as one notebook.

    The config needs a sweep section. Finished points are kept, so the same command resumes a sweep.
    Writes sweep.csv with one row per point and metric; exits with 1 if a point has no metrics.
    """
    path, overrides = _parse_config(sweep, arguments)
    from edge_lib.config import load_config
    from edge_lib.runs.points import collect, make_points, sweep_folder

    points, config = make_points(path, overrides), load_config(path, overrides)
    if config.sweep.cluster == "slurm":
        from edge_lib.experiments.preparation import run_prepared as run_sweep
    else:  # without what it imports in seconds
        from edge_lib.runs.sweep import run_sweep
    unfinished = run_sweep(points, config.sweep)
    table = sweep_folder(config) / "sweep.csv"
    collect(points).to_csv(table, index=False)
    print(table)
    return 1 if unfinished else 0


def extract(arguments: Arguments) -> int:
    """Encode the tables of a config with its frozen encoders and store the features.

    Stored features are kept, so the same command resumes an extraction. Prints the counts of each
    store; logs are in the logs folder of data.cache_dir. Tasks share the work: one that dies ends
    no other; exits with 1 if all have ended and shards are missing.
    """
    parser = _config_parser(extract)
    parser.add_argument("--tasks", type=int, metavar="N", help="share the work, a process each")
    parser.add_argument(
        "--cluster",
        choices=["local", "slurm"],
        default="local",
        help="where tasks run; with slurm as an array of jobs with features.slurm",
    )
    options = parser.parse_args(arguments)
    from edge_lib.config import load_config
    from edge_lib.runs.allocation import check_nodes
    from edge_lib.sources.download import download_missing

    config = load_config(options.config, options.overrides, "modalities")
    data, spec, launch = config.data, config.feature_spec, config.launch
    if by_launch := options.tasks is None and options.cluster == "local":
        check_nodes(launch.num_nodes, launch.node_rank, launch.endpoint, launch.cluster)
    download_missing(data)
    if by_launch:
        from edge_lib.features.extract import extract_features, launch_logs

        logs, missing = launch_logs(data, spec), []
        stores = extract_features(data, spec, log_dir=logs, **config.extract_launch)
    else:
        from edge_lib.features.extract_tasks import run_tasks

        tasks = 1 if options.tasks is None else options.tasks
        logs = data.cache_dir / "logs"
        stores, missing = run_tasks(data, spec, tasks, options.cluster, logs)
    for store, counts in stores.items():
        print(f"{store}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    for line in missing:
        print(line, file=sys.stderr)
    return 1 if missing else 0


def compare(arguments: Arguments) -> int:
    """Compare frozen encoders and their layers across modalities, before any head is trained.

    Linear CKA and mutual nearest neighbours of n rows (section compare of the config). Writes a
    heatmap and a table for each pair of modalities, and prints the pairs that agree best.
    """
    path, overrides = _parse_config(compare, arguments)
    from edge_lib import plots
    from edge_lib.config import load_config
    from edge_lib.experiments.compare import compare_layers, pair_tables
    from edge_lib.runs import Run
    from edge_lib.sources.download import download_missing

    config = load_config(path, overrides, "modalities")
    download_missing(config.data)
    run = Run.create(config, "compare")
    for name, table in pair_tables(compare_layers(config)):
        run.save_figure(name, *plots.layer_heatmaps(table))
        print(name, table.nlargest(10, "knn").to_string(index=False), sep="\n")
    print(run)
    return 0


def download(arguments: Arguments) -> int:
    """Write a data set into a folder, as Parquet shards or files that a source reads as they are.

    The same command resumes an interrupted download. Paths are relative to the working directory.
    """
    from edge_lib.config.registry import DOWNLOADS
    from edge_lib.sources import download as downloads
    from edge_lib.sources.download.flags import parse_flags
    from edge_lib.sources.download.summary_lines import summary_lines

    parser = argparse.ArgumentParser(
        prog="edge-glass download",
        usage="%(prog)s NAME --out DIR [options]",
        description=download.__doc__,
        epilog="`edge-glass download NAME --help` describes a data set and its options.",
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(DOWNLOADS))
    name = parser.parse_args(arguments[:1]).name
    options = parse_flags(name, downloads.download_class(name), arguments[1:])
    summary = downloads.download(name, **options)
    print("\n".join(summary_lines(summary)))
    return 0


def export(arguments: Arguments) -> int:
    """Write a trained model as ONNX graphs, for onnxruntime and transformers.js.

    Paths are relative to the working directory. The folder also describes the preprocessing.
    """
    parser = argparse.ArgumentParser(prog="edge-glass export", description=export.__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a saved model")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--int8", action="store_true", help="also write graphs in 8 bits")
    options = parser.parse_args(arguments)
    from edge_lib.export.folder import export_model
    from edge_lib.export.loading import load_model, run_captions

    texts = run_captions(options.run) if options.int8 else ()
    export_model(load_model(options.run), options.out, options.int8, texts)
    return 0


def embed(arguments: Arguments) -> int:
    """Embed pictures, sounds and texts with a trained aligner, into a Parquet file.

    A row holds one item: id, split, row, modality, text, path and embeddings of unit length, which
    pandas, datasets, faiss and LanceDB read. Paths are relative to the working directory. Encoded
    features are kept, so that the same command resumes.
    """
    parser = argparse.ArgumentParser(prog="edge-glass embed", description=embed.__doc__)
    parser.add_argument("run", metavar="RUN", help="a run, a saved model, or its name")
    parser.add_argument("source", metavar="SOURCE", help="a folder, a table or a config")
    parser.add_argument("--out", required=True, metavar="FILE", help="Parquet file to write")
    parser.add_argument("--dims", nargs="+", type=int, default=[], help="the largest by default")
    parser.add_argument("--dtype", choices=["float16", "int8"], default="float16")
    parser.add_argument("--splits", nargs="+", default=[], help="all of the source by default")
    parser.add_argument("--overrides", default="", help="of a config")
    parser.add_argument(
        "--num-processes",
        type=int,
        metavar="N",
        help="that encode; those of a config, or one a GPU",
    )
    for name in ("image", "audio", "caption", "id"):
        help_text = "of a table; recognised by its name by default"
        parser.add_argument(f"--{name}-column", metavar="NAME", help=help_text)
    options = vars(parser.parse_args(arguments))
    from edge_lib.experiments.embed import embed_source
    from edge_lib.export.loading import aligner_of, load_model
    from edge_lib.training.device import local_device

    columns = {key: options.pop(key) for key in [*options] if key.endswith("_column")}
    columns = {key: name for key, name in columns.items() if name}
    model = aligner_of(load_model(options.pop("run"))).to(local_device())
    counts = embed_source(model, columns=columns, **options)
    for name, own in counts.items():
        print(f"{name}: " + ", ".join(f"{count:,} {what}" for what, count in own.items()))
    print(options["out"])
    return 0


def serve(arguments: Arguments) -> int:
    """Serve a trained model: a REST API with OpenAI's routes, and a page.

    Paths are relative to the working directory. The API is described at /docs. Answers are greedy
    unless a client gives a temperature.
    """
    from edge_lib.config.flags import add_flags, parse_section
    from edge_lib.config.packages import need_packages
    from edge_lib.serving.settings import ServeSettings

    parser = argparse.ArgumentParser(
        prog="edge-glass serve",
        usage="%(prog)s RUN [options]",
        description=serve.__doc__,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="a run, a saved model, its name, or an export")
    add_flags(parser, ServeSettings)
    options = vars(parser.parse_args(arguments))
    run = options.pop("run")
    if key := os.environ.get("EDGE_GLASS_API_KEY"):
        options.setdefault("api_key", key)
    settings = parse_section("serve", ServeSettings, options)
    need_packages("serve", "serve", ("fastapi", "fastapi_offline", "prometheus_client", "uvicorn"))
    from edge_lib.serving.server import serve as serve_model

    serve_model(run, settings)
    return 0


def runs(arguments: Arguments) -> int:
    """List the runs in a folder: state, config keys that differ, headline metrics.

    Folders that are incomplete, broken or no run are listed as such.
    """
    parser = argparse.ArgumentParser(prog="edge-glass runs", description=runs.__doc__)
    parser.add_argument("folder", nargs="?", help="runs/ by default")
    parser.add_argument("--csv", action="store_true", help="one table, with a column for each key")
    options = parser.parse_args(arguments)
    from edge_lib.runs.comparison import find_runs, format_runs, list_runs

    paths = find_runs(options.folder) if options.folder else find_runs()
    print(list_runs(paths).to_csv(index=False).strip() if options.csv else format_runs(paths))
    return 0


def bench(arguments: Arguments) -> int:
    """Measure this library against named alternatives."""
    from edge_lib.bench import main

    return main(arguments, prog="edge-glass bench") or 0


COMMANDS: dict[str, Callable[[Arguments], int]] = {
    command.__name__: command
    for command in (download, compare, extract, sweep, embed, export, serve, runs, bench)
}


def main(arguments: Arguments | None = None) -> int:
    """Run one command; returns its exit code. An invalid config, and a file without rights, give
    one line and 2; an interrupt one line, and Python ends by its signal, so that a shell's loop
    ends as well.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="edge-glass",
        description="Align vision, audio and text with frozen encoders and small trained heads.",
        epilog="`edge-glass COMMAND --help` describes a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.__doc__.splitlines()[0], add_help=False)
    name = parser.parse_args(arguments[:1]).command
    from edge_lib.config import ConfigError

    try:
        return COMMANDS[name](arguments[1:])
    except ConfigError as error:
        print(error, *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        line = error if error.args else "interrupted"
        sys.excepthook = lambda *_: print(line, file=sys.stderr)  # in place of a traceback
        raise


def _parse_config(command: Callable, arguments: Arguments) -> tuple[str, str]:
    """The config's path and the overrides, for a command that takes these."""
    options = _config_parser(command).parse_args(arguments)
    return options.config, options.overrides


def _config_parser(command: Callable) -> argparse.ArgumentParser:
    prog = f"edge-glass {command.__name__}"
    parser = argparse.ArgumentParser(prog=prog, description=command.__doc__)
    parser.add_argument("config", help="YAML file of the experiment")
    parser.add_argument(
        "--overrides", default="", help='values to change, such as "seed=1 train.lr=3e-4"'
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
