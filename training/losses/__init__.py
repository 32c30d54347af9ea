"""The terms of the objective: pure functions of scores and targets. None of them communicates."""
