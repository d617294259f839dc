# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The process that looks at the data before anything heavy is loaded: `python -m kaito.runtime.tune.check JOB.json`.

What is wrong with the data or the settings is known after seconds, without a GPU; what was found is left in the state
folder for the worker. Exit codes: 0, or `FAILED` with a Failure in the state folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kaito.api.contracts import TuneProgress
from kaito.runtime.failure import Failed
from kaito.runtime.tune.job import FAILED, FAILURE, Job, state_dir, write
from kaito.runtime.tune.options import read_options
from kaito.runtime.tune.origin import note_content
from kaito.runtime.tune.progress import Teller, say
from kaito.runtime.tune.survey import Survey, fingerprint, survey

FOUND = "survey.json"
_SURVEY = TypeAdapter(Survey)


def main(argv: list[str]) -> int:
    """Look at the data of the job; the exit code."""
    job = Job.model_validate_json(Path(argv[1]).read_bytes())
    state = state_dir(Path(job.output_dir))
    try:
        options = read_options(Path(job.training_config), job.method)
        Teller().tell(TuneProgress(phase="Checking"))
        found = survey(Path(job.data_dir), options.dataset)
    except Failed as error:
        write(state / FAILURE, error.failure)
        return FAILED
    report(found)
    found.sample = []
    found.sha256 = fingerprint(found.files)
    note_content(Path(job.output_dir), found.sha256)
    (state / FOUND).write_bytes(_SURVEY.dump_json(found))
    return 0


def report(found: Survey) -> None:
    """Say what the data hold."""
    for name, schema in found.schemas.items():
        say(f"{name}: {schema}")
    say(f"{found.rows} rows in {len(found.files)} files, {found.bad_rows} cannot be used")
    for bad in found.bad:
        say(f"left out: {bad.place}: {bad.why}")


def earlier(job: Job) -> Survey | None:
    """What was found; None when nobody looked."""
    try:
        return _SURVEY.validate_json((state_dir(Path(job.output_dir)) / FOUND).read_bytes())
    except (OSError, ValidationError):
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv))
