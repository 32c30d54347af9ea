import subprocess
import sys

import pytest

from curation.neighbours import cost
from curation.neighbours.join import Spill


def test_counts_at_the_paper_s_size():
    (every_pair,) = cost.exact(1.3e9, 512)
    assert every_pair.flop == pytest.approx(8.7e20, rel=0.01)
    steps = cost.spilled(1.3e9, 512, Spill(num_lists=262_144, spill=4), imbalance=1)
    assert [step.flop for step in steps[1:]] == pytest.approx([3.5e17, 2.6e16], rel=0.02)


@pytest.mark.parametrize("num_vectors", [10**4, 10**6, 10**9])
@pytest.mark.parametrize("spill", [1, 6])
def test_by_default_there_are_as_many_lists_as_cost_least(num_vectors, spill):
    def flop(num_lists):
        steps = cost.spilled(num_vectors, 512, Spill(num_lists=num_lists, spill=spill))
        return sum(step.flop for step in steps)

    chosen = Spill(spill=spill).lists_for(num_vectors)
    assert flop(chosen) <= min(flop(round(0.95 * chosen)), flop(round(1.05 * chosen)))


def test_command():
    command = [sys.executable, "-m", "curation.neighbours.cost", "--num-vectors", "1.3e9", "--spill", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "8.7e+20" in done.stdout
    assert "1.33 TB" in done.stdout
    refused = subprocess.run([*command, "--dim", "0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "give 1 or more" in refused.stderr
