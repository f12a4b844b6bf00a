"""The command line: `neuroscope run`."""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Sequence

from neuroscope.errors import NeuroscopeError


def parser() -> argparse.ArgumentParser:
    """The options of every command."""
    top = argparse.ArgumentParser(prog="neuroscope", description="Which neurons does a task use, and are they its own?")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="find every task's neurons, switch them off, compare the tasks, write a report",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    run.add_argument("--model", default="mini", help="mini (bundled), a Hub id, or a local folder")
    run.add_argument("--tasks", default="mini", help="mini, a folder of jsonl tasks, or catalogue names: sst2,mnli")
    run.add_argument("--out", default="report", help="folder for the report, masks, scores and tables")
    run.add_argument("--k", type=float, default=0.10, help="share of all neurons in a task's mask")
    run.add_argument("--method", default="grad-x-act", help="how neurons are scored")
    run.add_argument("--objective", default="loss", help="loss, or log-odds where the model is certain")
    run.add_argument("--unit", default="hidden", help="hidden, output or head")
    run.add_argument("--examples", type=int, default=256, help="discovery examples per task")
    run.add_argument("--test-examples", type=int, default=128, help="test examples per task")
    run.add_argument("--seeds", type=int, default=5, help="random masks per control")
    run.add_argument("--batch-size", type=int, default=128, help="examples per forward pass")
    run.add_argument("--dtype", default="auto", help="of the weights, such as bfloat16")
    run.add_argument("--device", help="such as cuda; by default the processor")
    run.add_argument("--device-map", help="as in transformers, such as auto")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it worked, 2 with the reason on standard error if it could not, 130 if stopped."""
    options = vars(parser().parse_args(arguments))
    options.pop("command")
    try:
        print(_run(**options))
    except NeuroscopeError as error:
        print(f"neuroscope: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("neuroscope: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _run(model: str, tasks: str, dtype: str, device: str | None, device_map: str | None, **options: object) -> str:
    from tqdm.auto import tqdm  # heavy imports wait until the arguments are known to be right

    from neuroscope.models import load
    from neuroscope.pipeline import run

    start = time.perf_counter()
    opened = load(model, dtype=dtype, device=device, device_map=device_map)
    print(opened, file=sys.stderr)
    progress = functools.partial(tqdm, dynamic_ncols=True, leave=False)
    path = run(opened, tasks, progress=progress, **options)  # type: ignore[arg-type]
    print(f"done in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return str(path.resolve())


if __name__ == "__main__":
    sys.exit(main())
