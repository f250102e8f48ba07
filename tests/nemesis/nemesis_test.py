"""Sixty faults, most of ranks, twelve of agents, of the coordinator and of what is between them, drains among them, under at least 300 requests: nothing
lost, nothing twice, nothing different. Times are printed; what fails is only a wrong answer, a loss of the group without a
fault, or something left behind."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "e2e"))

import nemesis  # noqa: E402

FAULTS = {"one": 36, "two": 24}
REQUESTS = 150  # at least, in each


@pytest.mark.parametrize("mode", list(FAULTS))
def test_faults_change_no_answer(mode):
    found = nemesis.campaign(nemesis.parse(["--mode", mode, "--faults", str(FAULTS[mode]), "--requests", str(REQUESTS)]))
    print("figure:", nemesis.summary(mode, found))
    assert not found.wrong
    assert len(found.rows) == FAULTS[mode] and found.requests >= REQUESTS
    assert all(row["live"] >= nemesis.LIVE and row["keyed"] >= nemesis.KEYED for row in found.rows)
    kinds = {row["kind"] for row in found.rows}
    assert {"coordinator_kill", "agent_kill"} <= kinds
    assert ({"drain", "partition_to_agent", "partition_to_coordinator", "connections_cut"} <= kinds) == (mode == "two")


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-s", "-p", "no:cacheprovider"]))
