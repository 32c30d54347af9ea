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


def test_by_default_finding_lists_and_joining_them_cost_about_the_same():
    _, lists, pairs = cost.spilled(1e9, 512, Spill(spill=6), imbalance=1)
    assert lists.flop == pytest.approx(pairs.flop, rel=0.01)


def test_command():
    command = [sys.executable, "-m", "curation.neighbours.cost", "--num-vectors", "1.3e9", "--spill", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "8.7e+20" in done.stdout
    assert "1.33 TB" in done.stdout
    refused = subprocess.run([*command, "--dim", "0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "give 1 or more" in refused.stderr
