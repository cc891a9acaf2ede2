"""Merging in a process of its own, so that its memory and CPU stay apart from the server's.

    python -m rayotel.lake.merge.process

Standard input has one job as JSON, and standard output gets the number of rows. The process touches
only files of its directory. If the process or its server dies, the lake stays as it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from rayotel.errors import LakeError
from rayotel.lake.merge.by_signal import merge

# below these a merge costs less than the start of a process: of the files, and of what is in them
IN_PROCESS_BYTES = 2 << 20
IN_PROCESS_UNPACKED_BYTES = 32 << 20
POLITENESS = 10
_EXIT_DAMAGED, _EXIT_FAILED, _EXIT_TOO_LARGE = 3, 4, 5
# A merge holds one run or one row group: hostile parts were measured below 512 MB, but for a series
# whose own points are larger than a row group. Nothing can take more than this: addresses are
# limited, of which libraries reserve more than they use.
MAX_ADDRESS_BYTES = 2 << 30
# ended by itself; aborted or killed by whoever could not give it memory
_OUT_OF_MEMORY = (_EXIT_TOO_LARGE, -signal.SIGABRT, -signal.SIGKILL, -signal.SIGSEGV)


class MergeTooLarge(LakeError):
    """A merge needs more memory than its process may take. Its parts stay as they are."""


def is_small(paths: Sequence[Path]) -> bool:
    """Whether a merge of these parts is cheap enough for the server's own process."""
    if sum(path.stat().st_size for path in paths) > IN_PROCESS_BYTES:
        return False
    unpacked = 0
    for path in paths:
        metadata = pq.read_metadata(path)
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        # in memory each cell has a code, however well the file packs them
        unpacked += sum(group.total_byte_size for group in groups)
        unpacked += 4 * metadata.num_rows * metadata.num_columns
    return unpacked <= IN_PROCESS_UNPACKED_BYTES


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
    if done.returncode in _OUT_OF_MEMORY:
        raise MergeTooLarge(
            f"merging {len(inputs)} parts of '{stream}' takes more memory than a merge may",
            hint="the parts stay as they are and are read as before; other hours go on",
        )
    if done.returncode == _EXIT_DAMAGED:
        raise ValueError(words)
    if done.returncode:
        raise OSError(errno.EIO, f"the process that merges ended with {done.returncode}: {words}")
    return int(done.stdout)


def _end_first() -> None:
    """Where memory runs out, the kernel ends a merge and not the server."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> int:
    """Do the job that standard input describes, after everything that is more urgent."""
    os.nice(POLITENESS)
    _end_first()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    job = json.load(sys.stdin)
    inputs, against = ([Path(path) for path in job[kind]] for kind in ("inputs", "against"))
    try:
        rows = merge(inputs, Path(job["output"]), job["stream"], Path(job["spill"]), against)
    except MemoryError as error:  # Arrow's is one too
        print(error, file=sys.stderr)
        return _EXIT_TOO_LARGE
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(error, file=sys.stderr)
        return _EXIT_DAMAGED if is_damage(error) else _EXIT_FAILED
    print(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
