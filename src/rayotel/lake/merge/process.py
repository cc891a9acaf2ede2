"""Merging in a process of its own, so that its memory and CPU stay apart from the server's.

    python -m rayotel.lake.merge.process

Standard input has one job as JSON, and standard output gets the number of rows. The process touches
only files of its directory. If the process or its server dies, the lake stays as it was.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rayotel.lake.merge.by_signal import merge

# below this a merge costs less than the start of a process
IN_PROCESS_BYTES = 2 * 1024 * 1024
POLITENESS = 10
_EXIT_DAMAGED, _EXIT_FAILED = 3, 4


def is_damage(error: Exception) -> bool:
    """Whether a merge failed by its inputs' fault: Arrow's own OSErrors have no number."""
    return not isinstance(error, OSError) or error.errno is None


def merge_apart(
    inputs: Sequence[Path],
    output: Path,
    stream: str,
    spill: Path,
    against: Sequence[Path] = (),
) -> int:
    """Like `by_signal.merge`. Raises ValueError for damaged parts, OSError for everything else."""
    job = {
        "inputs": [str(path) for path in inputs],
        "output": str(output),
        "stream": stream,
        "against": [str(path) for path in against],
    }
    done = subprocess.run(
        # -P: the working directory is no place to import from
        [sys.executable, "-P", "-m", "rayotel.lake.merge.process"],
        input=json.dumps({**job, "spill": str(spill)}),
        capture_output=True,
        text=True,
        check=False,
    )
    words = done.stderr.strip().rpartition("\n")[2][:500]
    if done.returncode == _EXIT_DAMAGED:
        raise ValueError(words)
    if done.returncode:
        raise OSError(errno.EIO, f"the process that merges ended with {done.returncode}: {words}")
    return int(done.stdout)


def main() -> int:
    """Do the job that standard input describes, after everything that is more urgent."""
    os.nice(POLITENESS)
    job = json.load(sys.stdin)
    inputs, against = ([Path(path) for path in job[kind]] for kind in ("inputs", "against"))
    try:
        rows = merge(inputs, Path(job["output"]), job["stream"], Path(job["spill"]), against)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(error, file=sys.stderr)
        return _EXIT_DAMAGED if is_damage(error) else _EXIT_FAILED
    print(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
